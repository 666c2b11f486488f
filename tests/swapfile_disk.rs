//! Areas on swapfiles: what a full or damaged disk does to them, what stays in the page cache, and what calls the allocator.
#![cfg(all(target_os = "linux", not(loom), not(miri)))]

#[path = "support/mod.rs"]
mod aloud;
#[path = "support/swapfile.rs"]
mod support;

use aloud::skip;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use support::*;
use zspool::swap::{Device, Error, Flaw, SWAPFILE_HEADER_BYTES, SwapFile};

// --- an allocator that counts, for the load and free paths

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system's allocator; the counter is a constant thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn is_tmpfs(path: &Path) -> bool {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: an all-zero `statfs` is a value of it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in NUL, and `stat` is ours to write.
    assert_eq!(unsafe { libc::statfs(path.as_ptr(), &mut stat) }, 0);
    stat.f_type == libc::TMPFS_MAGIC
}

/// The same test with direct and with buffered I/O.
fn both_ways(test: impl Fn(SwapFile, &Path)) {
    for direct in [true, false] {
        let (_folder, path) = folder();
        let swapfile = SwapFile::options().path(&path).size(4 * MIB).direct(direct).open().unwrap();
        assert!(direct || !swapfile.is_direct());
        let expected = if swapfile.is_direct() { ", direct I/O" } else { "buffered I/O" };
        assert!(swapfile.describe().contains(expected), "{}", swapfile.describe());
        test(swapfile, &path);
    }
}

#[test]
fn a_full_swapfile_reads_back_whole_and_its_holes_give_storage_back() {
    both_ways(|swapfile, path| {
        let area = area_on(swapfile);
        let mut slots = 0;
        let (live, error) = fill(&area, &mut slots);
        assert!(matches!(error, Error::Full { .. }), "{error}");
        for &(slot, place) in &live {
            check(&area, place, slot, LEN).unwrap();
        }
        let full = fs::metadata(path).unwrap().blocks() * 512;
        assert!(full >= area.stats().used_bytes, "{full} bytes of storage");
        let (kept, freed) = live.split_at(live.len() / 4);
        for &(_, place) in freed {
            area.free(place);
        }
        assert!(area.maintain() > 2 * MIB);
        if area.stats().unpunched_bytes == 0 {
            let thin = fs::metadata(path).unwrap();
            assert!(thin.blocks() * 512 < full / 2, "{} of {full} bytes of storage", thin.blocks() * 512);
            assert_eq!(thin.len(), 4 * MIB);
        } else {
            let why = format!("in part: the file system of {} has no holes", path.display());
            skip("a_full_swapfile_reads_back_whole_and_its_holes_give_storage_back", &why);
        }
        for &(slot, place) in kept {
            check(&area, place, slot, LEN).unwrap();
        }
        let (again, _) = fill(&area, &mut slots);
        for &(slot, place) in kept.iter().chain(&again) {
            check(&area, place, slot, LEN).unwrap();
            area.free(place);
        }
        assert_eq!(area.stats().used_bytes, 0);
        area.assert_valid();
    });
}

#[test]
fn every_byte_of_a_block_that_changes_in_the_file_is_seen() {
    let (_folder, path) = folder();
    let area = area_on(open(&path, MIB).unwrap());
    let mut batch = area.begin(4).unwrap();
    let before = push(&mut batch, 1, 50).unwrap();
    let place = push(&mut batch, 2, 300).unwrap();
    batch.write().unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let start = SWAPFILE_HEADER_BYTES + place.offset_bytes();
    for at in start..start + place.len_bytes() as u64 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at).unwrap();
        match check(&area, place, 2, 300) {
            Err(Error::Corrupt { slot: 2, flaw: Flaw::Seal, .. }) => {}
            other => panic!("byte {}: {other:?}", at - start),
        }
        file.write_all_at(&byte, at).unwrap();
    }
    check(&area, place, 2, 300).unwrap();
    check(&area, before, 1, 50).unwrap();
}

#[test]
fn a_file_cut_down_by_others_is_an_error_for_its_slots_and_is_told() {
    both_ways(|swapfile, path| {
        let area = area_on(swapfile);
        let (live, _) = fill(&area, &mut 0);
        assert!(!area.describe().contains("cut down"));
        let cut = |bytes| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
        cut(2 * MIB);
        let (slot, place) = live[live.len() - 1];
        match check(&area, place, slot, LEN) {
            Err(error @ Error::Io { done: 0, .. }) => {
                let message = error.to_string();
                assert!(message.contains("the file ends before") && message.contains("cut it down"), "{message}");
                let Error::Io { source, .. } = error else { unreachable!() };
                assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
            }
            other => panic!("{other:?}"),
        }
        check(&area, live[0].1, live[0].0, LEN).unwrap();

        // Writes go on, and make it longer again: what was cut off is not there, and is no page of zeroes.
        for &(_, place) in &live[live.len() - 256..] {
            area.free(place);
        }
        let (again, _) = fill(&area, &mut 10_000);
        assert!(!again.is_empty());
        again.iter().for_each(|&(slot, place)| check(&area, place, slot, LEN).unwrap());
        assert!(area.describe().contains(&format!("cut down to {} bytes", 2 * MIB)), "{}", area.describe());
        let lost = &live[live.len() - 300];
        assert!(matches!(check(&area, lost.1, lost.0, LEN), Err(Error::Corrupt { .. })));
        check(&area, live[0].1, live[0].0, LEN).unwrap();

        // Without its header the next user would take it for somebody else's.
        cut(0);
        assert!(area.maintain() == 0 || !area.describe().is_empty());
        for &(_, place) in &again {
            area.free(place);
        }
        let (_, _) = fill(&area, &mut 20_000);
        assert!(area.describe().contains("cut down to 0 bytes"), "{}", area.describe());
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).unwrap();
        drop(open(&copy, MIB).unwrap());
    });
}

#[test]
fn a_disk_that_is_full_is_an_error_and_room_on_it_is_used_again() {
    if !is_root() {
        return skip(
            "a_disk_that_is_full_is_an_error_and_room_on_it_is_used_again",
            "mounting a small tmpfs needs root",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(folder.path()).output();
    if !mount.as_ref().is_ok_and(|output| output.status.success()) {
        let why = format!("mount says {mount:?}");
        return skip("a_disk_that_is_full_is_an_error_and_room_on_it_is_used_again", &why);
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let _unmount = Unmount(folder.path());
    for direct in [true, false] {
        let path = folder.path().join("swap");
        let area = area_on(SwapFile::options().path(&path).size(8 * MIB).direct(direct).open().unwrap());
        let mut slots = 0;
        let (live, error) = fill(&area, &mut slots);
        match error {
            Error::Io { source, .. } => assert_eq!(source.raw_os_error(), Some(libc::ENOSPC)),
            other => panic!("{other}"),
        }
        assert!(live.len() > 100, "{} objects", live.len());
        let stats = area.stats();
        assert_eq!((stats.objects, stats.io_errors, stats.bad_bytes), (live.len() as u64, 1, 0));
        assert!(stats.used_bytes <= MIB);
        area.assert_valid();
        for &(slot, place) in &live {
            check(&area, place, slot, LEN).unwrap();
        }
        // Freed pages give the disk room, and it is used.
        for &(_, place) in &live[..live.len() / 2] {
            area.free(place);
        }
        area.maintain();
        let (again, _) = fill(&area, &mut slots);
        assert!(!again.is_empty());
        for &(slot, place) in live[live.len() / 2..].iter().chain(&again) {
            check(&area, place, slot, LEN).unwrap();
        }
        area.assert_valid();
    }
}

#[test]
fn a_limit_on_file_size_is_an_error_and_nothing_else() {
    let (_folder, path) = folder();
    assert!(run_child("child_meets_its_file_size_limit", &path));
}

fn limit_file_size(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is ours to read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
}

#[test]
fn child_meets_its_file_size_limit() {
    let Some(path) = child_path() else { return };
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // In the middle of the third batch: at a page with direct I/O, at an odd byte without.
    for (direct, odd) in [(true, 0), (false, 1808)] {
        let area = area_on(SwapFile::options().path(&path).size(4 * MIB).direct(direct).open().unwrap());
        limit_file_size(SWAPFILE_HEADER_BYTES + (512 << 10) + 8192 + odd);
        let mut slots = 0;
        let (live, error) = fill(&area, &mut slots);
        match error {
            Error::Io { source, done, .. } => {
                assert_eq!((source.raw_os_error(), done as u64), (Some(libc::EFBIG), 8192 + odd));
            }
            other => panic!("{other}"),
        }
        let stats = area.stats();
        assert_eq!((stats.used_bytes, stats.io_errors, stats.bad_bytes), (512 << 10, 1, 0));
        for &(slot, place) in &live {
            check(&area, place, slot, LEN).unwrap();
        }
        limit_file_size(libc::RLIM_INFINITY);
        let (more, error) = fill(&area, &mut slots);
        assert!(!more.is_empty() && matches!(error, Error::Full { .. }), "{error}");
        area.assert_valid();
    }
}

/// Bytes of a file that are in the page cache.
fn cached_bytes(file: &fs::File) -> u64 {
    // SAFETY: the file keeps its length while it is mapped, and the bytes are not looked at.
    let map = unsafe { memmap2::Mmap::map(file) }.unwrap();
    let mut resident = vec![0u8; map.len() / 4096];
    // SAFETY: the vector has a byte for each page of the mapping.
    assert_eq!(unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), resident.as_mut_ptr()) }, 0);
    resident.iter().filter(|&&r| r & 1 == 1).count() as u64 * 4096
}

#[test]
fn a_swapfile_has_at_most_a_mib_in_the_page_cache_however_much_is_written_and_read() {
    let (folder, path) = folder();
    if is_tmpfs(folder.path()) {
        let why = format!("{} is a tmpfs, whose pages are the cache", folder.path().display());
        return skip("a_swapfile_has_at_most_a_mib_in_the_page_cache_however_much_is_written_and_read", &why);
    }
    for direct in [false, true] {
        let options = SwapFile::options().path(&path).size(66 * MIB).direct(direct);
        let area = area_on(options.open().unwrap());
        let file = fs::File::open(&path).unwrap();
        let (mut live, mut most, mut random) = (Vec::new(), 0, 1u64);
        while area.stats().written_bytes < 64 * MIB {
            let mut batch = area.begin(64).unwrap();
            while let Some(place) = push(&mut batch, live.len() as u64, LEN) {
                live.push((live.len() as u64, place));
            }
            batch.write().unwrap();
            // Between the writes, reads of pages from anywhere.
            for _ in 0..8 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (slot, place) = live[(random >> 33) as usize % live.len()];
                check(&area, place, slot, LEN).unwrap();
            }
            most = most.max(cached_bytes(&file));
        }
        for &(slot, place) in live.iter().step_by(7) {
            check(&area, place, slot, LEN).unwrap();
        }
        most = most.max(cached_bytes(&file));
        assert!(most <= MIB, "{most} bytes are cached, direct: {direct}");
    }
}

#[test]
fn reading_and_freeing_never_call_the_allocator() {
    both_ways(|swapfile, _| {
        let area = area_on(swapfile);
        let (live, _) = fill(&area, &mut 0);
        let expected = payload(live[7].0, LEN);
        let before = CALLS.get();
        for _ in 0..10 {
            assert!(area.read(live[7].1, live[7].0, |object| object.bytes == expected).unwrap());
        }
        assert!(matches!(area.read(live[7].1, 0, |_| ()), Err(Error::Corrupt { .. })));
        for &(_, place) in &live {
            area.free(place);
        }
        assert_eq!(CALLS.get() - before, 0);
        area.assert_valid();
    });
}
