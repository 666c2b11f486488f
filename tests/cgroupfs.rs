//! The mounted tree, as a shell sees it.
#![cfg(feature = "fuse")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use zspool::cgroupfs::{self, Mounted};
use zspool::memcg::{FileInfo, Memcg, Tree, TreeConfig};

/// A mounted tree; the directory goes after it.
struct Live {
    tree: Tree,
    mounted: Mounted,
    folder: TempDir,
}

impl Live {
    /// None where FUSE is missing; that was said then.
    fn new(test: &str) -> Option<Self> {
        Self::of(test, Tree::new(TreeConfig::default()))
    }

    fn of(test: &str, tree: Tree) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        match cgroupfs::mount(&tree, folder.path()) {
            Ok(mounted) => Some(Live { tree, mounted, folder }),
            Err(error @ (cgroupfs::Error::NoFuse { .. } | cgroupfs::Error::Forbidden | cgroupfs::Error::NoHelper)) => {
                support::skip(test, &error.to_string());
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, script: &str) -> Said {
        shell(self.folder.path(), script)
    }

    fn memcg(&self, path: &str) -> Memcg {
        self.tree.by_path(path).unwrap()
    }
}

/// What a script came to.
#[derive(Debug, PartialEq)]
struct Said {
    good: bool,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn assert_out(&self, out: &str) {
        assert_eq!((self.good, self.out.as_str(), self.err.as_str()), (true, out, ""));
    }

    #[track_caller]
    fn assert_err(&self, err: &str) {
        assert!(!self.good && self.err.contains(err), "{self:?} should say {err:?}");
    }
}

fn shell(folder: &Path, script: &str) -> Said {
    let output = Command::new("bash").args(["-c", script]).current_dir(folder).env("LC_ALL", "C").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Said { good: output.status.success(), out, err }
}

#[test]
fn directories_are_memcgs_and_files_their_settings() {
    let Some(live) = Live::new("directories_are_memcgs_and_files_their_settings") else { return };
    live.shell("mkdir tenant tenant/vm0 && echo 10M > tenant/memory.zswap.max && cat tenant/memory.zswap.max tenant/vm0/memory.zswap.max")
        .assert_out("10485760\nmax\n");
    assert_eq!(live.memcg("tenant").zswap_max(), 10 << 20);
    live.memcg("tenant").mkdir("vm1").unwrap();
    live.shell("ls -d tenant/*/ && find . -type d | sort")
        .assert_out("tenant/vm0/\ntenant/vm1/\n.\n./tenant\n./tenant/vm0\n./tenant/vm1\n");
    let mut names: Vec<_> = Memcg::files().map(str::to_owned).collect();
    names.extend(["vm0", "vm1"].map(str::to_owned));
    names.sort();
    live.shell("ls -1 tenant").assert_out(&(names.join("\n") + "\n"));
    live.shell("printf max >> tenant/memory.zswap.max; cat tenant/memory.zswap.max").assert_out("max\n");
    live.shell("rmdir tenant/vm0 && ls -d tenant/*/").assert_out("tenant/vm1/\n");
    assert!(live.tree.by_path("tenant/vm0").is_none());
    live.tree.assert_valid();
}

#[test]
fn what_cgroup2_refuses_is_refused_with_its_number() {
    let Some(live) = Live::new("what_cgroup2_refuses_is_refused_with_its_number") else { return };
    live.shell("mkdir vm vm/sub").assert_out("");
    for (script, says) in [
        ("echo 1 > vm/nofile", "Permission denied"),
        ("touch vm/nofile", "Permission denied"),
        ("rm vm/memory.stat", "Operation not permitted"),
        ("mv vm/memory.stat vm/x", "Operation not permitted"),
        ("mv vm/sub vm/x", "Operation not permitted"),
        ("ln vm/memory.stat vm/y", "Operation not permitted"),
        ("ln -s a vm/y", "Operation not permitted"),
        ("mkfifo vm/y", "Operation not permitted"),
        ("chmod 600 vm/memory.stat", "Operation not permitted"),
        ("mkdir vm", "File exists"),
        ("mkdir vm/memory.stat", "File exists"),
        ("mkdir 'vm/a\nb'", "Invalid argument"),
        ("mkdir $'vm/\\xff'", "Invalid argument"),
        ("mkdir vm/$(printf '%0256d')", "File name too long"),
        ("mkdir nowhere/vm", "No such file or directory"),
        ("rmdir vm", "Device or resource busy"),
        ("rmdir nowhere", "No such file or directory"),
        ("rmdir vm/memory.stat", "Not a directory"),
        ("cat nowhere/memory.stat", "No such file or directory"),
        ("cat vm/memory.nothing", "No such file or directory"),
        ("echo many > vm/memory.zswap.max", "Invalid argument"),
        ("echo > vm/memory.zswap.max", "Invalid argument"),
        ("printf '1\\xff' > vm/memory.zswap.max", "Invalid argument"),
        ("printf '1\\x00' > vm/memory.zswap.max", "Invalid argument"),
        (
            "printf '%5000d' 1 | dd bs=5000 iflag=fullblock of=vm/memory.zswap.max conv=notrunc",
            "Argument list too long",
        ),
    ] {
        let said = live.shell(script);
        assert!(!said.good && said.err.contains(says), "{script}: {said:?}");
    }
    live.shell("cat vm/memory.zswap.max && touch vm/memory.stat && ls -d vm/*/").assert_out("max\nvm/sub/\n");
    live.tree.assert_valid();
}

#[test]
fn every_file_of_the_table_is_there_with_its_mode_and_reads_as_the_library_does() {
    let Some(live) = Live::new("every_file_of_the_table_is_there_with_its_mode_and_reads_as_the_library_does") else {
        return;
    };
    let vm = live.tree.root().mkdir("vm").unwrap();
    let me = fs::metadata("/proc/self").unwrap().uid();
    let root = me == 0;
    for FileInfo { name, readable, takes, .. } in Memcg::file_table() {
        let path = live.path("vm").join(name);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.uid(), metadata.is_file()), (0, me, true), "{name}");
        let mode = (if readable { 0o444 } else { 0 }) + (if takes.is_some() { 0o200 } else { 0 });
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
        // Root may open everything, and is told when it reads or writes; as cgroup2 has it.
        let refused = if root { libc::EINVAL } else { libc::EACCES };
        match fs::read_to_string(&path) {
            Ok(text) => assert_eq!(text, vm.read_file(name).unwrap(), "{name}"),
            Err(error) => assert_eq!((readable, error.raw_os_error()), (false, Some(refused)), "{name}"),
        }
        if takes.is_none() {
            assert_eq!(fs::write(&path, "1").unwrap_err().raw_os_error(), Some(refused), "{name}");
        }
    }
    live.shell("stat -c '%a %F' vm vm/memory.stat vm/memory.max vm/memory.reclaim")
        .assert_out("755 directory\n444 regular empty file\n644 regular empty file\n200 regular empty file\n");
}

#[test]
fn a_read_in_pieces_is_of_one_text_and_a_new_read_of_a_new_one() {
    let Some(live) = Live::new("a_read_in_pieces_is_of_one_text_and_a_new_read_of_a_new_one") else { return };
    let vm = live.tree.root().mkdir("vm").unwrap();
    let mut file = File::options().read(true).write(true).open(live.path("vm/memory.zswap.max")).unwrap();
    vm.set_zswap_max(123_456).unwrap();
    let mut piece = [0; 3];
    file.read_exact(&mut piece).unwrap();
    vm.set_zswap_max(999).unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!((&piece, rest.as_str()), (b"123", "456\n"));
    file.rewind().unwrap();
    rest.clear();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "999\n");
    // A write is a whole one, wherever the file stands.
    assert_eq!(file.write(b"7K").unwrap(), 2);
    assert_eq!(vm.zswap_max(), 7 << 10);
    file.rewind().unwrap();
    rest.clear();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "7168\n");
}

#[test]
fn each_open_file_has_a_peak_of_its_own() {
    let Some(live) = Live::new("each_open_file_has_a_peak_of_its_own") else { return };
    let vm = live.tree.root().mkdir("vm").unwrap();
    let open = || File::options().read(true).write(true).open(live.path("vm/memory.peak")).unwrap();
    let read = |mut file: &File| {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    let [one, two] = [open(), open()];
    drop(vm.charge_resident(9000).unwrap());
    (&one).write_all(b"reset\n").unwrap();
    drop(vm.charge_resident(5000).unwrap());
    assert_eq!([read(&one), read(&two), read(&open())], ["5000\n", "9000\n", "9000\n"]);
}

#[test]
fn what_is_open_of_a_removed_memcg_says_that_it_is_gone() {
    let Some(live) = Live::new("what_is_open_of_a_removed_memcg_says_that_it_is_gone") else { return };
    // As cgroup2: the file is no device any more, the directory is empty, a new one of the name is another one.
    let said = live.shell(
        "mkdir vm; exec 3<vm/memory.stat 4>vm/memory.zswap.max; cd vm; rmdir ../vm; \
         cat <&3; echo 1M >&4; ls; mkdir x; cat memory.stat; mkdir ../vm; cat <&3; cat ../vm/memory.zswap.max; stat -Lc %h /dev/fd/3",
    );
    let errors: Vec<_> = said.err.lines().map(|line| line.rsplit(": ").next().unwrap()).collect();
    let (gone, nowhere) = ("No such device", "No such file or directory");
    assert_eq!(errors, [gone, gone, nowhere, nowhere, gone], "{said:?}");
    assert_eq!(said.out, "max\n0\n");
    // Removed behind the file system's back.
    let mut file = File::open(live.path("vm/memory.stat")).unwrap();
    live.memcg("vm").offline().unwrap();
    assert_eq!(file.read(&mut [0; 10]).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    live.shell("ls vm").assert_err(nowhere);
}

#[test]
fn a_directory_with_many_children_is_listed_whole() {
    let Some(live) = Live::new("a_directory_with_many_children_is_listed_whole") else { return };
    let many = 3000;
    for number in 0..many {
        live.tree.root().mkdir(&format!("memcg-with-a-name-of-some-length-{number}")).unwrap();
    }
    live.shell("ls -d */ | sort -u | wc -l").assert_out(&format!("{many}\n"));
    let names = fs::read_dir(live.folder.path()).unwrap().count();
    assert_eq!(names, many + Memcg::files().count());
}

#[test]
fn unmounting_takes_open_files_and_working_directories_along() {
    let Some(Live { tree, mounted, folder }) = Live::new("unmounting_takes_open_files_and_working_directories_along")
    else {
        return;
    };
    let vm = tree.root().mkdir("vm").unwrap();
    let at = mounted.path().to_owned();
    let mut file = File::open(at.join("vm/memory.stat")).unwrap();
    let mut sitting = Command::new("sleep").arg("60").current_dir(at.join("vm")).spawn().unwrap();
    assert!(file.read(&mut [0; 10]).is_ok());
    mounted.unmount().unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "the directory is what it was before");
    let error = file.read(&mut [0; 10]).unwrap_err();
    // The last one where only a helper may unmount.
    let expected = [libc::ENOTCONN, libc::ECONNABORTED, libc::ENODEV];
    assert!(expected.contains(&error.raw_os_error().unwrap()), "{error}");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap().matches(at.to_str().unwrap()).count(), 0);
    // Nothing keeps the tree: this is the last handle but ours.
    drop(vm);
    let again = cgroupfs::mount(&tree, folder.path()).unwrap();
    assert!(at.join("vm/memory.stat").exists());
    drop(again);
    assert!(!at.join("vm").exists());
    sitting.kill().unwrap();
    sitting.wait().unwrap();
}

#[test]
fn a_tree_that_somebody_else_unmounted_is_left_alone() {
    let Some(Live { tree, mounted, folder }) = Live::new("a_tree_that_somebody_else_unmounted_is_left_alone") else {
        return;
    };
    let at = mounted.path().to_owned();
    let unmount = "umount . 2>/dev/null || fusermount3 -u .";
    assert!(shell(Path::new("/"), &unmount.replace('.', at.to_str().unwrap())).good);
    // What is there now is not ours to unmount.
    let other = cgroupfs::mount(&tree, folder.path()).unwrap();
    mounted.unmount().unwrap();
    assert!(at.join("memory.stat").exists());
    // And `join` ends when it is done.
    let joined = std::thread::spawn(move || other.join());
    assert!(shell(Path::new("/"), &unmount.replace('.', at.to_str().unwrap())).good);
    joined.join().unwrap().unwrap();
}

#[test]
fn a_bad_mount_point_is_refused_with_a_sentence_that_says_what_to_do() {
    let Some(live) = Live::new("a_bad_mount_point_is_refused_with_a_sentence_that_says_what_to_do") else { return };
    live.shell("mkdir vm").assert_out("");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "x").unwrap();
    std::os::unix::fs::symlink(live.folder.path(), at("link")).unwrap();
    for (path, says) in [
        (at("nowhere"), "make it with mkdir"),
        (at("file"), "is no directory"),
        (folder.path().to_owned(), "is not empty, and what is in it would be hidden"),
        (live.path("vm"), "lies in a tree that is mounted at"),
        (live.folder.path().to_owned(), "lies in a tree that is mounted at"),
        (at("link/vm"), "lies in a tree that is mounted at"),
    ] {
        let error = cgroupfs::mount(&live.tree, &path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(path.to_str().unwrap()), "{error}");
    }
    // A link to a good place is a good place.
    fs::create_dir(at("empty")).unwrap();
    std::os::unix::fs::symlink(at("empty"), at("good")).unwrap();
    let mounted = cgroupfs::mount(&live.tree, &at("good")).unwrap();
    assert_eq!(mounted.path(), at("empty").canonicalize().unwrap());
    assert!(at("empty/vm/memory.stat").exists());
}
