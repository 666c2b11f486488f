//! The whole over a real swapfile: what lies in it, what happens when it is full, damaged or shared.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use support::*;
use zspool::units::{NodeId, Page};
use zspool::zswap::{Builder, Error, Shrunk, Zswap};

const N0: NodeId = NodeId(0);

fn base() -> Builder {
    Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 16).address_space(256 << 20).worker(false)
}

fn write_back_all(zswap: &Zswap) {
    while zswap.shrink_memcg(&zswap.root(), 64) != Shrunk::NothingToScan {}
}

#[test]
fn pages_go_to_a_private_file_come_back_and_leave_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let zswap = base().swapfile(&path, 16 << 20).build().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let slots = zswap.reserve(2000).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &zswap.root(), N0, &any_page(slot.0)).unwrap();
    }
    write_back_all(&zswap);
    zswap.assert_valid();
    let full = fs::metadata(&path).unwrap().blocks();
    let mut page = Page::zeroed();
    for slot in slots.iter() {
        zswap.load(slot, &mut page).unwrap();
        assert!(page[..] == any_page(slot.0)[..]);
    }
    slots.iter().for_each(|slot| assert!(zswap.free(slot)));
    zswap.quiesce();
    zswap.assert_valid();
    assert_eq!(zswap.stats().area.unwrap().used_bytes, 0);
    let empty = fs::metadata(&path).unwrap().blocks();
    assert!(full > 1000 && empty < full / 10, "blocks of 512 bytes: {full} full, {empty} empty");
}

#[test]
fn a_second_instance_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let first = base().swapfile(&path, 4 << 20).build().unwrap();
    let error = base().swapfile(&path, 4 << 20).build().unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    drop(first);
    base().swapfile(&path, 4 << 20).build().expect("free again");
}

#[test]
fn a_flipped_byte_costs_that_page_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let zswap = base().swapfile(&path, 8 << 20).build().unwrap();
    let slots = zswap.reserve(300).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &zswap.root(), N0, &compressible(slot.0, 1000)).unwrap();
    }
    write_back_all(&zswap);
    // Somebody changes a byte in the middle of what was written.
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let at = 64 << 10;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    file.sync_all().unwrap();

    let mut page = Page::zeroed();
    let mut lost = Vec::new();
    for slot in slots.iter() {
        match zswap.load(slot, &mut page) {
            Ok(()) => assert!(page[..] == compressible(slot.0, 1000)[..], "wrong data for {slot:?}"),
            Err(error @ Error::Lost { .. }) => {
                assert!(error.to_string().contains(&format!("{}", slot.0)), "{error}");
                lost.push(slot);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(zswap.load(lost[0], &mut page).is_err(), "the error stays");
    zswap.store(lost[0], &zswap.root(), N0, &compressible(5, 1000)).expect("a new page may take its slot");
    zswap.load(lost[0], &mut page).unwrap();
    slots.iter().for_each(|slot| assert!(zswap.free(slot)));
    zswap.assert_valid();
}

#[test]
fn a_full_file_system_keeps_pages_in_the_pool() {
    // A file size limit gives EFBIG where a full disk gives ENOSPC: the same path, and needs no privileges. In a process of
    // its own, for the limit holds for all its threads.
    const CHILD: &str = "ZSPOOL_TEST_FULL_FILE_SYSTEM";
    if std::env::var_os(CHILD).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_full_file_system_keeps_pages_in_the_pool", "--nocapture"])
            .env(CHILD, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let zswap = base().pool_limit(2 << 20).swapfile(folder.path().join("swap"), 8 << 20).build().unwrap();
    // SAFETY: sets a limit and a signal's disposition of this process, which runs this test alone.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
    let slots = zswap.reserve(4000).unwrap();
    let mut stored = Vec::new();
    let mut refused = 0;
    for slot in slots.iter() {
        match zswap.store(slot, &zswap.root(), N0, &compressible(slot.0, 1500)) {
            Ok(_) => stored.push(slot),
            Err(error @ Error::PoolFull { .. }) => {
                assert!(error.to_string().contains("swap device"), "{error}");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
        if refused == 10 {
            break;
        }
    }
    assert!(refused == 10 && stored.len() > 1000, "{} stored", stored.len());
    let mut page = Page::zeroed();
    for &slot in &stored {
        zswap.load(slot, &mut page).unwrap();
        assert!(page[..] == compressible(slot.0, 1500)[..]);
    }
    zswap.assert_valid();
    // With room again, the run goes on.
    let none = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &none) }, 0);
    let next = slots.get(stored.len() as u64 + 10).unwrap();
    zswap.store(next, &zswap.root(), N0, &compressible(next.0, 1500)).expect("there is room again");
}
