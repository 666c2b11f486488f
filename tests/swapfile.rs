//! Swapfiles on a real file system: what is made and left behind, what is refused, and what is left alone. What a full or damaged disk
//! does to an area: `swapfile_disk.rs`.
#![cfg(all(target_os = "linux", not(loom), not(miri)))]

#[path = "support/swapfile.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use support::*;
use xxhash_rust::xxh3::xxh3_64;
use zspool::swap::{Device, Error, SWAPFILE_HEADER_BYTES, SwapFile};

const LEAST: u64 = 4096 + 2 * (256 << 10);

/// The error, whose message must be a sentence (without a full stop: it may be quoted) that names the file.
fn refusal(path: &Path) -> Error {
    let error = open(path, MIB).expect_err("it is refused");
    let message = error.to_string();
    let folder = path.parent().unwrap().display().to_string();
    assert!(message.contains(&folder) && !message.ends_with('.') && message.contains(": "), "{message}");
    error
}

/// A file that must not be touched: its bytes, mode and times before and after.
struct Untouched {
    path: PathBuf,
    bytes: Vec<u8>,
    meta: (u32, u64, i64, i64, u64),
}

fn meta_of(path: &Path) -> (u32, u64, i64, i64, u64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mode(), meta.len(), meta.mtime(), meta.ctime_nsec(), meta.ino())
}

impl Untouched {
    fn note(path: &Path) -> Self {
        Untouched { path: path.to_owned(), bytes: fs::read(path).unwrap(), meta: meta_of(path) }
    }
    fn check(&self) {
        assert_eq!(fs::read(&self.path).unwrap(), self.bytes);
        assert_eq!(meta_of(&self.path), self.meta);
    }
}

/// A swapfile of ours that nobody uses.
fn left_behind(path: &Path) {
    drop(SwapFile::options().path(path).size(MIB).keep(true).open().unwrap());
}

/// The same with bytes of its header changed, and the checksum made right again if so wanted.
fn forged(path: &Path, at: usize, bytes: &[u8], checksum: bool) -> Untouched {
    left_behind(path);
    let mut header = fs::read(path).unwrap();
    assert_eq!(header.len(), 4096);
    header[at..at + bytes.len()].copy_from_slice(bytes);
    if checksum {
        let sum = xxh3_64(&header[..4088]);
        header[4088..].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(path, header).unwrap();
    Untouched::note(path)
}

// --- what is made, taken over, and left behind

#[test]
fn a_new_file_is_private_sparse_and_removed_at_the_end() {
    let (_folder, path) = folder();
    let swapfile = open(&path, 64 * MIB).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.len()), (0o600, 64 * MIB));
    assert!(meta.blocks() * 512 < MIB, "{} blocks", meta.blocks());
    assert_eq!(swapfile.len_bytes(), 64 * MIB - SWAPFILE_HEADER_BYTES);
    assert!(swapfile.describe().contains("67108864 bytes"), "{}", swapfile.describe());
    drop(swapfile);
    assert!(!path.exists());
}

#[test]
fn an_empty_file_is_taken_and_stays_as_one_of_ours() {
    let (_folder, path) = folder();
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    drop(open(&path, MIB).unwrap());
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.len()), (0o600, SWAPFILE_HEADER_BYTES));
    drop(open(&path, 2 * MIB).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), SWAPFILE_HEADER_BYTES);
}

#[test]
fn a_kept_file_stays_cut_down_to_its_header() {
    let (_folder, path) = folder();
    let area = area_on(SwapFile::options().path(&path).size(MIB).keep(true).open().unwrap());
    fill(&area, &mut 0);
    drop(area);
    assert_eq!(fs::metadata(&path).unwrap().len(), SWAPFILE_HEADER_BYTES);
}

#[test]
fn a_file_of_a_killed_process_is_taken_over_and_emptied() {
    let (_folder, path) = folder();
    assert!(!run_child("child_dies_with_a_full_swapfile", &path));
    let old = fs::metadata(&path).unwrap();
    assert!(old.len() == 4 * MIB && old.blocks() * 512 > 3 * MIB);
    let swapfile = open(&path, MIB).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.len() == MIB && meta.blocks() * 512 <= 64 << 10, "{} blocks", meta.blocks());
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[4096..].iter().all(|&b| b == 0), "nothing of the earlier owner is left");
    drop(swapfile);
}

#[test]
fn child_dies_with_a_full_swapfile() {
    let Some(path) = child_path() else { return };
    let area = area_on(open(&path, 4 * MIB).unwrap());
    assert!(matches!(fill(&area, &mut 0), (_, Error::Full { .. })));
    std::process::abort();
}

#[test]
fn a_file_that_took_our_place_is_not_removed() {
    let (_folder, path) = folder();
    let swapfile = open(&path, MIB).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"somebody else's").unwrap();
    drop(swapfile);
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
}

#[test]
fn a_relative_path_names_the_same_file_later() {
    let (folder, path) = folder();
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    let relative: PathBuf = std::iter::repeat_n("..", depth).collect::<PathBuf>().join(path.strip_prefix("/").unwrap());
    let swapfile = open(&relative, MIB).unwrap();
    assert!(swapfile.path().unwrap().is_absolute() && path.exists());
    drop(swapfile);
    assert!(!path.exists());
    drop(folder);
}

// --- what is refused

#[test]
fn options_that_lack_or_exceed_something_are_refused() {
    let (_folder, path) = folder();
    let options = SwapFile::options;
    assert!(matches!(options().size(MIB).open(), Err(Error::Incomplete { missing: "path" })));
    assert!(matches!(options().path(&path).open(), Err(Error::Incomplete { missing: "size" })));
    for size in [0, 1, 4096, LEAST - 1] {
        assert!(matches!(open(&path, size), Err(Error::TooSmall { least: LEAST, .. })));
    }
    for size in [(1 << 40) + 4097, u64::MAX] {
        assert!(matches!(open(&path, size), Err(Error::TooLarge { .. })));
    }
    assert!(!path.exists());
    assert_eq!(open(&path, LEAST).unwrap().len_bytes(), 512 << 10);
    assert_eq!(open(&path, LEAST + 4095).unwrap().len_bytes(), 512 << 10);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let (folder, path) = folder();
    let directory = folder.path().join("directory");
    fs::create_dir(&directory).unwrap();
    assert!(matches!(refusal(&directory), Error::NotRegular { what: "a directory", .. }));

    let pipe = folder.path().join("pipe");
    let c_path = std::ffi::CString::new(pipe.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path ends in NUL.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    assert!(matches!(refusal(&pipe), Error::NotRegular { what: "a pipe", .. }));
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());

    assert!(matches!(open(Path::new("/dev/full"), MIB), Err(Error::NotRegular { what: "a character device", .. })));
    drop(path);
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let (folder, path) = folder();
    let target = folder.path().join("target");
    for there in [false, true] {
        if there {
            fs::write(&target, b"").unwrap();
        }
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(refusal(&path), Error::Symlink { .. }));
        assert_eq!(target.exists(), there);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::metadata(&target).unwrap().len(), 0);
}

#[test]
fn somebody_elses_file_is_refused_and_left_as_it_was() {
    let (_folder, path) = folder();
    let mut nearly = vec![0; 4096];
    nearly[..7].copy_from_slice(b"\x8fzspool");
    for bytes in [b"x".to_vec(), b"a letter to a friend\n".to_vec(), vec![0; 4096], vec![0xff; 1 << 20], nearly] {
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = Untouched::note(&path);
        match refusal(&path) {
            Error::Foreign { bytes: len, .. } => assert_eq!(len, bytes.len() as u64),
            other => panic!("{other}"),
        }
        file.check();
    }
}

#[test]
fn headers_of_other_versions_or_sizes_and_damaged_ones_are_refused() {
    let (_folder, path) = folder();
    let file = forged(&path, 8, &1u32.to_le_bytes(), true);
    assert!(matches!(refusal(&path), Error::Version { found: 1, known: 2, .. }));
    file.check();
    fs::remove_file(&path).unwrap();

    let file = forged(&path, 12, &16384u32.to_le_bytes(), true);
    assert!(matches!(refusal(&path), Error::Units { found_page: 16384, found_block: 64, page: 4096, block: 64, .. }));
    file.check();
    fs::remove_file(&path).unwrap();

    for (at, checksum) in [(24, false), (100, true), (20, true), (4090, false)] {
        let file = forged(&path, at, &[0xaa, 0x55], checksum);
        assert!(matches!(refusal(&path), Error::DamagedHeader { .. }), "byte {at}");
        file.check();
        fs::remove_file(&path).unwrap();
    }

    // Cut short within the header.
    left_behind(&path);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let file = Untouched::note(&path);
    assert!(matches!(refusal(&path), Error::DamagedHeader { .. }));
    file.check();

    // A size that cannot be is no reason to refuse: it is never used.
    fs::remove_file(&path).unwrap();
    forged(&path, 24, &[0xff; 8], true);
    assert_eq!(open(&path, MIB).unwrap().len_bytes(), MIB - 4096);
}

#[test]
fn a_missing_folder_is_named() {
    let (folder, path) = folder();
    let missing = folder.path().join("missing");
    assert!(matches!(refusal(&missing.join("swap")), Error::MissingFolder { folder } if folder == missing));
    fs::write(&path, b"no folder").unwrap();
    assert!(matches!(refusal(&path.join("swap")), Error::MissingFolder { folder } if folder == path));
    // A folder that is there and takes no files says as much as one that is missing.
    if cfg!(target_os = "linux") {
        let error = refusal(Path::new("/proc/zspool-swap"));
        assert!(matches!(error, Error::File { .. }) && !error.to_string().contains("does not exist"), "{error}");
    }
}

#[test]
fn a_file_or_folder_without_permission_is_refused() {
    let (folder, path) = folder();
    // Whoever is not root needs to pass the folder to be refused at the file.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let file = Untouched::note(&path);
    let beside = folder.path().join("beside");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if is_root() {
                // SAFETY: it changes who this thread is to the file system; the thread ends below.
                unsafe { libc::setfsuid(65534) };
            } else {
                fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
            }
            assert!(matches!(refusal(&path), Error::Permission { doing: "to open", .. }));
            assert!(matches!(refusal(&beside), Error::Permission { doing: "to create", .. }));
        });
    });
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    file.check();
    assert!(!beside.exists());
}

#[test]
fn a_file_in_use_is_refused_to_this_process_and_to_others() {
    let (_folder, path) = folder();
    let area = area_on(open(&path, MIB).unwrap());
    let mut batch = area.begin(4).unwrap();
    let place = push(&mut batch, 1, LEN).unwrap();
    batch.write().unwrap();
    let file = Untouched::note(&path);
    assert!(matches!(refusal(&path), Error::Locked { .. }));
    assert!(run_child("child_finds_the_swapfile_locked", &path));
    file.check();
    check(&area, place, 1, LEN).unwrap();
    drop(area);
    drop(open(&path, MIB).unwrap());
}

#[test]
fn child_finds_the_swapfile_locked() {
    let Some(path) = child_path() else { return };
    assert!(matches!(refusal(&path), Error::Locked { .. }));
}

#[test]
fn users_who_come_and_go_never_share_a_file() {
    let (_folder, path) = folder();
    let users = std::sync::atomic::AtomicU32::new(0);
    let opened = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100_000 {
                    if opened.load(std::sync::atomic::Ordering::SeqCst) >= 400 {
                        break;
                    }
                    match open(&path, LEAST) {
                        Ok(swapfile) => {
                            use std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(users.fetch_add(1, SeqCst), 0, "two users of one file");
                            assert_eq!(fs::metadata(&path).unwrap().len(), LEAST);
                            users.fetch_sub(1, SeqCst);
                            opened.fetch_add(1, SeqCst);
                            // Whoever has opened it by now may lock it once we are gone, and must see that it has no
                            // name.
                            fs::remove_file(&path).expect("the path names our file");
                            drop(swapfile);
                        }
                        Err(Error::Locked { .. } | Error::Unstable { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert!(opened.into_inner() >= 400);
}

#[test]
fn a_forks_copy_leaves_the_file_to_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let file = SwapFile::options().path(&path).size(1 << 20).open().unwrap();
    // SAFETY: the child drops a file and ends; it takes no lock that another thread of the parent could have held.
    match unsafe { libc::fork() } {
        0 => {
            drop(file);
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for our own child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child ended well");
        }
    }
    assert!(path.exists(), "the parent's file is still there");
    drop(file);
    assert!(!path.exists(), "the parent removes what it made");
}

// --- files without a name

/// Names in a folder.
fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_without_a_name_is_a_device_that_nobody_sees_and_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for direct in [true, false] {
        let swapfile = SwapFile::options().unnamed(folder.path()).size(4 * MIB).direct(direct).open().unwrap();
        assert_eq!((swapfile.path(), names_in(folder.path())), (None, vec![]));
        let described = swapfile.describe();
        assert!(described.contains("without a name in") && described.contains(folder.path().to_str().unwrap()));
        let area = area_on(swapfile);
        let (live, error) = fill(&area, &mut 0);
        assert!(matches!(error, Error::Full { .. }), "{error}");
        live.iter().for_each(|&(slot, place)| check(&area, place, slot, LEN).unwrap());
        drop(area);
        assert_eq!(names_in(folder.path()), Vec::<String>::new());
    }
    // However its process ends.
    assert!(!run_child("child_dies_with_a_file_without_a_name", folder.path()));
    assert_eq!(names_in(folder.path()), Vec::<String>::new());
}

#[test]
fn child_dies_with_a_file_without_a_name() {
    let Some(folder) = child_path() else { return };
    let area = area_on(SwapFile::options().unnamed(&folder).size(4 * MIB).open().unwrap());
    assert!(fill(&area, &mut 0).0.len() > 100);
    // SAFETY: ends this process, at once.
    unsafe { libc::raise(libc::SIGKILL) };
}

#[test]
fn a_folder_that_takes_no_file_without_a_name_is_refused_with_the_way_out() {
    let unnamed = |folder: &Path| SwapFile::options().unnamed(folder).size(MIB).open();
    // The kernel's own file systems have none.
    match unnamed(Path::new("/proc")) {
        Err(error @ Error::NoUnnamed { .. }) => {
            let message = error.to_string();
            assert!(
                message.contains("/proc") && message.contains("`path(..)`") && !message.ends_with('.'),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    for missing in [folder.path().join("none"), file] {
        match unnamed(&missing) {
            Err(Error::MissingFolder { folder }) => assert_eq!(folder, missing),
            other => panic!("{other:?}"),
        }
    }
    let both = SwapFile::options().path("/tmp/swap").unnamed("/tmp").size(MIB).open().unwrap_err();
    assert!(matches!(both, Error::TwoNames { .. }) && both.to_string().contains("unnamed(..)"), "{both}");
    assert!(matches!(SwapFile::options().unnamed("/tmp").open(), Err(Error::Incomplete { missing: "size" })));
    assert!(matches!(SwapFile::options().unnamed("/tmp").size(LEAST - 1).open(), Err(Error::TooSmall { .. })));
}
