//! A process that has the kernel lock whatever it maps: what is only reserved is not filled, and goes back as elsewhere. In a process of its own.
#![cfg(all(target_os = "linux", not(loom)))]

mod support;

use support::*;
use zspool::memcg::Counter;
use zspool::units::{NodeId, Page};
use zspool::zram::Zram;
use zspool::zswap::Zswap;

fn kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn reservations_are_not_filled_and_devices_can_be_reset_in_a_process_that_locks_its_memory() {
    // SAFETY: locks what this process maps from now on.
    if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
        let test = "reservations_are_not_filled_and_devices_can_be_reset_in_a_process_that_locks_its_memory";
        return skip(test, &std::io::Error::last_os_error().to_string());
    }
    let before = kib("VmRSS:");
    let zswap = Zswap::builder().address_space(256 << 20).slots_in_use(1 << 16).pool_limit(16 << 20).build().unwrap();
    let mut zram = Zram::builder().disksize(256 << 20).build().unwrap();
    assert!(kib("VmRSS:") - before < 64 << 10, "{} KiB more in memory", kib("VmRSS:") - before);
    let slots = zswap.reserve(1000).unwrap();
    for (k, slot) in slots.iter().enumerate() {
        zswap.store(slot, &zswap.root(), NodeId(0), &compressible(k as u64, 900)).unwrap();
        zram.store(k as u64, &compressible(k as u64, 900)).unwrap();
    }
    slots.iter().for_each(|slot| _ = zswap.free(slot));
    zswap.quiesce();
    assert_eq!((zswap.stats().backed_bytes, zswap.root().current(Counter::Zswap)), (0, 0));
    // And where all there is is locked by now, with blocks that need no object among it.
    zram.store(2000, &Page::zeroed()).unwrap();
    // SAFETY: locks what this process has mapped.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) } == 0 {
        zram.reset();
        let mut page = compressible(1, 900);
        for block in [0, 999, 2000] {
            zram.load(block, &mut page).unwrap();
            assert!(page[..] == Page::zeroed()[..], "block {block}");
        }
        assert_eq!((zram.mm_stat().orig_data_size, zram.mm_stat().same_pages), (0, 0));
        zram.assert_valid();
    }
}
