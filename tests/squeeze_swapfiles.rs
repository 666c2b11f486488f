//! `zspool squeeze` over swapfiles that are bad, become bad, or are on a disk that is full: nothing of anybody else's is written,
//! no page is lost, and what is said says what to do.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;
mod support;

use program::*;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{any_page, compressible, skip};
use tempfile::TempDir;
use zspool::swap::SwapFile;

/// A folder with an image of pages that all go to the pool.
fn folder_with_image(pages: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "x", (0..pages).map(|k| compressible(k, 1200)));
    (folder, image)
}

/// The command line for an image, with a pool of 256 KiB and what does not fit on `swapfile`.
fn small_pool<'a>(image: &'a Path, swapfile: &'a Path, swap_size: &'a str) -> Vec<&'a str> {
    let [image, swapfile] = [image, swapfile].map(|path| path.to_str().unwrap());
    vec!["--json", "-", "--image", image, "--pool-limit", "256K", "--swapfile", swapfile, "--swap-size", swap_size]
}

#[test]
fn what_is_no_file_of_ours_is_refused_and_left_alone() {
    let (folder, image) = folder_with_image(100);
    let path = |name: &str| folder.path().join(name);
    let refused = |swapfile: &Path, size: &str, parts: &[&str]| {
        squeeze(&small_pool(&image, swapfile, size)).assert_refused(parts);
    };

    refused(folder.path(), "16M", &[folder.path().to_str().unwrap(), "is a directory", "give the path of a file"]);
    refused(&path("small"), "100K", &["of 102400 bytes is too small", "it needs 528384"]);
    refused(&path("huge"), "2000T", &["is too large", "at most"]);
    assert!(!path("small").exists() && !path("huge").exists());
    refused(&path("no/folder/swap"), "16M", &["/no/folder does not exist", "make it first"]);
    refused(Path::new("/dev/null"), "16M", &["/dev/null is a character device"]);

    let old = b"an only copy of a thesis\n".repeat(1000);
    fs::write(path("thesis"), &old).unwrap();
    symlink(path("thesis"), path("link")).unwrap();
    let before = fs::metadata(path("thesis")).unwrap();
    refused(
        &path("thesis"),
        "16M",
        &["holds 25000 bytes that are no swapfile of zspool", "was left alone", "another path"],
    );
    refused(&path("link"), "16M", &["is a symbolic link"]);
    let after = fs::metadata(path("thesis")).unwrap();
    assert_eq!(fs::read(path("thesis")).unwrap(), old);
    let facts = |meta: &fs::Metadata| (meta.mode(), meta.mtime_nsec(), meta.ctime_nsec(), meta.size());
    assert_eq!(facts(&before), facts(&after), "not even its mode or times");
}

#[test]
fn one_in_use_by_another_process_is_refused_until_it_is_free() {
    let (folder, image) = folder_with_image(300);
    let path = folder.path().join("swap");
    let arguments = small_pool(&image, &path, "16M");
    let user = SwapFile::options().path(&path).size(1 << 20).keep(true).open().unwrap();
    squeeze(&arguments).assert_refused(&["is in use by another process", "stop its user"]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20, "its user's file is as it was");
    drop(user);
    // Now it is an earlier one of ours, which is used and stays.
    let report = squeeze(&arguments).assert_code(0).report();
    assert!(sum(&report, "written_back_pages") > 100 && path.exists());
    assert!(fs::metadata(&path).unwrap().blocks() <= 16, "what it held is given back");
}

#[test]
fn a_full_swapfile_leaves_pages_where_they_were() {
    let (folder, image) = folder_with_image(4000);
    let swapfile = folder.path().join("swap");
    let ended = squeeze(&small_pool(&image, &swapfile, "600K"));
    let report = ended.assert_code(0).report();
    let refused = sum(&report, "refused_pages");
    assert_eq!(sum(&report, "stored_pages") + refused, 4000);
    assert!((400..3900).contains(&refused) && sum(&report, "mismatched_pages") == 0, "{refused}");
    ended.assert_said(&["x: ", "pages were not stored", "the swap devices are full: add one, or raise the limit"]);
}

/// A file system that is unmounted at the end.
struct Mounted(TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "cannot unmount");
    }
}

#[test]
fn enospc_on_a_tiny_file_system() {
    let mount = tempfile::tempdir().unwrap();
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(mount.path()).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return skip("enospc_on_a_tiny_file_system", &format!("cannot mount a file system: {}", why.trim()));
        }
        Err(error) => return skip("enospc_on_a_tiny_file_system", &format!("cannot run mount: {error}")),
    }
    let mount = Mounted(mount);
    let (_folder, image) = folder_with_image(2000);
    let ended = squeeze(&small_pool(&image, &mount.0.path().join("swap"), "64M"));
    let report = ended.assert_code(0).report();
    let (stored, refused) = (sum(&report, "stored_pages"), sum(&report, "refused_pages"));
    assert_eq!((stored + refused, sum(&report, "mismatched_pages")), (2000, 0));
    assert!(stored > 500 && refused > 500, "{stored} stored, {refused} refused");
    ended.assert_said(&["x: ", "pages were not stored", "writes to the swap device fail", "on its file system"]);
    assert_eq!(fs::read_dir(mount.0.path()).unwrap().count(), 0);
}

/// Bytes a file of the child may have.
fn limit_file_size(pid: i32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` outlives the call; the old limit is not asked for.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_file_size_limit_is_a_refusal_at_first_and_a_full_disk_later() {
    let (folder, image) = folder_with_image(3000);
    let swapfile = folder.path().join("swap");
    let arguments = small_pool(&image, &swapfile, "64M");
    // From the start: the file cannot be made, which is said, and nothing is left of it.
    let limited = |command: &mut Command| {
        let limit = || {
            // SIGXFSZ as a shell's child has it. The report needs room for itself.
            limit_file_size(0, 1 << 20);
            Ok(())
        };
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe { command.pre_exec(limit) };
    };
    let ended = Running::start_with(&arguments, limited).finish();
    ended.assert_refused(&["refused to set the size of", "File too large"]);
    assert!(!swapfile.exists());

    // In mid run: what is written stays good, what cannot be written stays in the pool, what has no room there is refused.
    let (ended, report) = until_in_time(|| {
        let mut running = Running::start(&arguments);
        running.at_first_write(&swapfile, |running| limit_file_size(running.pid() as i32, 1 << 20));
        let ended = running.finish();
        let report = ended.assert_code(0).report();
        (sum(&report, "refused_pages") > 0).then_some((ended, report))
    });
    assert_eq!(sum(&report, "stored_pages") + sum(&report, "refused_pages"), 3000);
    assert!(sum(&report, "written_back_pages") > 0 && sum(&report, "mismatched_pages") == 0, "{report}");
    ended.assert_said(&[
        "x: ",
        "pages were not stored",
        "writes to the swap device fail",
        "stored pages came back identical",
    ]);
    assert!(!swapfile.exists());
}

#[test]
fn a_block_that_somebody_damages_costs_its_page_and_no_other() {
    let (folder, image) = folder_with_image(3000);
    let swapfile = folder.path().join("swap");
    let arguments = small_pool(&image, &swapfile, "64M");
    let flip = |_: &Running| {
        let file = File::options().read(true).write(true).open(&swapfile).unwrap();
        let mut byte = [0];
        // What the page cache has of the page may be from before the write ended, and would be written with the byte.
        // SAFETY: a system call without pointers on a file that is open.
        assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
        // In the payload of the first object behind the header.
        file.read_exact_at(&mut byte, 4096 + 200).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], 4096 + 200).unwrap();
        file.sync_all().unwrap();
    };
    let (ended, report) = until_in_time(|| {
        let mut running = Running::start(&arguments);
        running.at_first_write(&swapfile, flip);
        let ended = running.finish();
        let report: serde_json::Value = serde_json::from_str(&ended.out).ok()?;
        (sum(&report, "mismatched_pages") > 0).then_some((ended, report))
    });
    ended.assert_code(1);
    assert_eq!((sum(&report, "stored_pages"), sum(&report, "mismatched_pages")), (3000, 1));
    assert_eq!(sum(&report, "unreadable_pages"), 1);
    let failures = report["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{failures:?}");
    let page = failures[0]["page"].as_u64().unwrap();
    ended.assert_said(&[
        &format!("FAILED: page {page} of x did not come back: the page of slot {page} is lost"),
        "returned other bytes than were written",
        "1 of 3000 stored pages did not come back as they were.",
    ]);
}

#[test]
fn a_mixed_population_comes_back_from_a_reused_swapfile() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "x", (0..800).map(any_page));
    let swapfile = folder.path().join("swap");
    File::create(&swapfile).unwrap(); // an empty file may be used, and stays
    for _ in 0..2 {
        let report = squeeze(&small_pool(&image, &swapfile, "16M")).assert_code(0).report();
        assert_eq!((sum(&report, "stored_pages"), sum(&report, "mismatched_pages")), (800, 0));
        let meta = fs::metadata(&swapfile).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (4096, 0o600), "cut down to its header");
    }
}
