//! Real faults under a running instance: full, cut, shut down and lying file systems, limits, filters of system calls.
//!
//! | fault | by | may cost |
//! |---|---|---|
//! | no room, short writes | a small tmpfs, a small ext4 | nothing |
//! | a limit on file sizes | `RLIMIT_FSIZE`, in a process of its own | nothing |
//! | reads that fail | an ext4 whose image is cut, `strace`, a filter by offset | what lies there |
//! | everything fails | an ext4 that is shut down | what lies on the device |
//! | writes and punches that fail | `strace`, a filter by offset | nothing |
//! | writes and reads that lie | `strace` | what lies there |
//! | bits that flip, a file cut by others | this process, behind the back of the instance | what lies there |
//!
//! What must hold is in `support/oracle.rs`. Each fault strikes an instance that works, and each instance works afterwards.

#![cfg(all(target_os = "linux", not(loom), not(miri)))]

#[path = "support/fault_bed.rs"]
mod fault_bed;
#[path = "support/oracle.rs"]
mod oracle;
mod support;

use fault_bed::{MIB, Mounted, child, fail_at_offsets, has, run_child};
use oracle::{Cost, Oracle};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::{Random, skip};
use zspool::swap::AreaStats;
use zspool::swap::{DeviceOptions, SwapFile};
use zspool::zswap::Zswap;

/// A pool that holds a part of the pages only, with the rest in a swapfile.
fn instance(path: &Path, size: u64, direct: bool) -> Zswap {
    Zswap::builder()
        .pool_limit(MIB)
        .address_space(64 << 20)
        .slots_in_use(1 << 16)
        .swapfile(path, size)
        .direct(direct)
        .build()
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The same by plain system calls, which can be made to fail: with a time-out io_uring would do what they do.
fn plain_instance(path: &Path) -> Zswap {
    let swapfile = SwapFile::options().path(path).size(16 * MIB).timeout(None);
    let builder = Zswap::builder().pool_limit(MIB).address_space(64 << 20).slots_in_use(1 << 16);
    builder.swap(DeviceOptions::swapfile(swapfile)).build().unwrap_or_else(|error| panic!("{error}"))
}

const SLOTS: u64 = 1200;
/// Half as many in debug builds: these tests were the longest of the short ladder.
const STEPS: usize = if cfg!(debug_assertions) { 1500 } else { 3000 };

/// A client in two threads of a new instance, which has been filled and has worked for a while.
fn at_work(title: &str, path: &Path, size: u64, direct: bool) -> Oracle {
    let mut oracle = Oracle::new(title, instance(path, size, direct), 2, SLOTS, 1);
    oracle.fill();
    oracle.churn(STEPS);
    oracle.verify(Cost::Nothing);
    assert!(oracle.zswap.stats().physical_pages > SLOTS / 4, "{title}: {:?}", oracle.zswap.stats());
    oracle
}

fn area(oracle: &Oracle) -> AreaStats {
    oracle.zswap.stats().area.expect("there is a device")
}

/// The fault is over: everything works, and everything is given back. A device that failed too often is told so.
fn works_again(mut oracle: Oracle) {
    oracle.zswap.devices().iter().for_each(|row| oracle.zswap.reinstate(row.number).expect("it is on"));
    oracle.settle();
    let before = oracle.tally();
    oracle.churn(STEPS);
    let after = oracle.verify(Cost::Nothing);
    let refused = after.refused - before.refused;
    assert!(refused * 10 < after.stored - before.stored, "{}: {refused} stores were refused", oracle.title);
    let title = oracle.title.clone();
    println!("{title}: {:?}", oracle.finish());
}

/// Strike, look what it cost, heal, go on.
fn ordeal(mut oracle: Oracle, cost: Cost, strike: impl FnOnce(&mut Oracle), heal: impl FnOnce(&Oracle)) {
    let before = area(&oracle);
    strike(&mut oracle);
    let lost = oracle.verify(cost).lost;
    oracle.churn(STEPS);
    oracle.verify(cost);
    let after = area(&oracle);
    let seen = (after.io_errors - before.io_errors) + (after.corrupt - before.corrupt);
    assert!(seen > 0, "{}: no fault was met", oracle.title);
    println!("{}: {seen} faults met, {lost} pages lost", oracle.title);
    heal(&oracle);
    works_again(oracle);
}

/// Both ways of doing I/O.
const WAYS: [(bool, &str); 2] = [(true, "direct"), (false, "buffered")];

#[test]
fn a_tmpfs_without_room_costs_nothing() {
    let mounted = match Mounted::tmpfs(8 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip("a_tmpfs_without_room_costs_nothing", &why),
    };
    let path = mounted.path().join("swap");
    for (direct, how) in WAYS {
        mounted.resize(8 * MIB);
        let oracle = at_work(&format!("tmpfs, {how}"), &path, 16 * MIB, direct);
        // No smaller than what it holds: that would be refused.
        let fill = |oracle: &mut Oracle| {
            oracle.thin_out();
            mounted.resize(blocks_of(&path) + 64 * 1024);
            oracle.fill();
        };
        ordeal(oracle, Cost::Nothing, fill, |_| mounted.resize(32 * MIB));
    }
}

/// Bytes of storage behind a file.
fn blocks_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).expect("the swapfile is there").blocks() * 512
}

#[test]
fn an_ext4_without_room_costs_nothing() {
    let mounted = match Mounted::ext4(24 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip("an_ext4_without_room_costs_nothing", &why),
    };
    let (path, filler) = (mounted.path().join("swap"), mounted.path().join("filler"));
    for (direct, how) in WAYS {
        let oracle = at_work(&format!("full ext4, {how}"), &path, 16 * MIB, direct);
        let fill = |oracle: &mut Oracle| {
            oracle.thin_out();
            let file = File::create(&filler).expect("a file");
            let zeroes = vec![1; 64 * 1024];
            (0..).find(|k| file.write_at(&zeroes, k * 65536).is_err());
            oracle.fill();
        };
        ordeal(oracle, Cost::Nothing, fill, |_| std::fs::remove_file(&filler).expect("it is ours"));
    }
}

#[test]
fn an_ext4_that_is_shut_down_costs_what_lies_on_it() {
    let mounted = match Mounted::ext4(24 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip("an_ext4_that_is_shut_down_costs_what_lies_on_it", &why),
    };
    let path = mounted.path().join("swap");
    for (direct, how) in WAYS {
        let mut oracle = at_work(&format!("ext4 shut down, {how}"), &path, 16 * MIB, direct);
        let (on_device, before) = (oracle.zswap.stats().physical_pages, area(&oracle).io_errors);
        mounted.shut_down();
        oracle.churn(STEPS);
        // What went to it before is lost at most, and what is in the pool is read.
        oracle.verify(Cost::OnDevice(on_device));
        let tally = oracle.tally();
        assert!(area(&oracle).io_errors > before && tally.failed_loads > 0, "{how}: {tally:?}");
        println!("{}: {tally:?}", oracle.title);
        oracle.settle();
        oracle.finish();
        mounted.remount();
        works_again(at_work(&format!("ext4 mounted again, {how}"), &path, 16 * MIB, direct));
    }
}

#[test]
fn an_ext4_whose_disk_is_cut_costs_what_lay_behind_the_cut() {
    let mounted = match Mounted::ext4(24 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip("an_ext4_whose_disk_is_cut_costs_what_lay_behind_the_cut", &why),
    };
    let path = mounted.path().join("swap");
    let oracle = at_work("cut disk", &path, 16 * MIB, true);
    let on_device = oracle.zswap.stats().physical_pages;
    // Half of what is written lies behind. A write there makes the disk whole again.
    let cut = blocks_of(&path) / 2 + 2 * MIB;
    ordeal(oracle, Cost::OnDevice(on_device), |_| mounted.image().cut(cut), |_| {});
}

#[test]
fn a_limit_on_file_sizes_costs_nothing() {
    let Some(how) = child() else {
        WAYS.iter().for_each(|(_, how)| print!("{}", run_child("a_limit_on_file_sizes_costs_nothing", how, &[])));
        return;
    };
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let folder = tempfile::tempdir().unwrap();
    let oracle = at_work(&format!("file size limit, {how}"), &folder.path().join("swap"), 16 * MIB, how == "direct");
    let limit = |bytes: u64| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the limit is ours to read.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
    };
    // In the middle of a page.
    ordeal(oracle, Cost::Nothing, |_| limit(MIB + 1808), |_| limit(libc::RLIM_INFINITY));
}

#[test]
fn bits_that_flip_in_the_file_cost_a_page_each_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    for (direct, how) in WAYS {
        let oracle = at_work(&format!("flipped bits, {how}"), &path, 16 * MIB, direct);
        const FLIPS: u64 = 400;
        let flip = |_: &mut Oracle| {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let (mut random, written) = (Random::new(7), blocks_of(&path));
            for _ in 0..FLIPS {
                let (at, mut byte) = (4096 + random.below(written), [0]);
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << random.below(8)], at).unwrap();
            }
        };
        ordeal(oracle, Cost::OnDevice(FLIPS), flip, |_| {});
    }
}

#[test]
fn a_file_cut_by_somebody_else_costs_what_lay_behind_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    for (direct, how) in WAYS {
        let oracle = at_work(&format!("cut file, {how}"), &path, 16 * MIB, direct);
        let on_device = oracle.zswap.stats().physical_pages;
        let file = File::options().write(true).open(&path).unwrap();
        let cut = blocks_of(&path) / 2 + 1808;
        ordeal(oracle, Cost::OnDevice(on_device), |_| file.set_len(cut).unwrap(), |_| {});
    }
}

#[test]
fn calls_that_a_filter_refuses_by_offset_cost_what_can_only_be_read_there() {
    let trials = [
        (libc::SYS_pwrite64, libc::EIO, Cost::Nothing),
        (libc::SYS_pwrite64, libc::ENOSPC, Cost::Nothing),
        (libc::SYS_pread64, libc::EIO, Cost::OnDevice(u64::MAX)),
    ];
    for (call, errno, cost) in trials {
        // The filter is there as long as its thread.
        let ordeal = move || {
            let folder = tempfile::tempdir().unwrap();
            let title = format!("call {call} refused by offset with {errno}");
            let zswap = plain_instance(&folder.path().join("swap"));
            let mut oracle = Oracle::new(title, zswap, 1, 2 * SLOTS, 3);
            oracle.fill();
            oracle.churn(STEPS);
            oracle.verify(Cost::Nothing);
            // A part of what is in use, and of what comes next.
            let from = (blocks_of(&folder.path().join("swap")) as u32) / 4;
            if let Err(error) = fail_at_offsets(call, from, 4 * from, errno) {
                skip("calls_that_a_filter_refuses_by_offset_cost_what_can_only_be_read_there", &error.to_string());
                return None;
            }
            oracle.churn(STEPS);
            let tally = oracle.verify(cost);
            assert!(area(&oracle).io_errors > 0, "no fault was met");
            println!("{}: {} errors, {tally:?}", oracle.title, area(&oracle).io_errors);
            if call == libc::SYS_pread64 {
                assert!(tally.lost + tally.failed_loads > 0);
            }
            Some((folder, oracle))
        };
        if let Some((_folder, oracle)) = std::thread::spawn(ordeal).join().unwrap() {
            works_again(oracle); // here, where there is no filter
        }
    }
}

// === system calls that strace makes fail ===

/// Faults: what `strace` injects, and what it may cost.
const INJECTED: [(&str, &str, Cost); 10] = [
    ("writes that fail", "pwrite64:error=EIO:when=12+5", Cost::Nothing),
    ("writes without room", "pwrite64:error=ENOSPC:when=12+3", Cost::Nothing),
    ("writes past a quota", "pwrite64:error=EDQUOT:when=12+2", Cost::Nothing),
    ("writes interrupted", "pwrite64:error=EINTR:when=2+2", Cost::Nothing),
    ("writes that do nothing", "pwrite64:retval=0:when=12+4", Cost::Nothing),
    ("writes that claim a page", "pwrite64:retval=4096:when=12+4", Cost::OnDevice(u64::MAX)),
    ("reads that fail", "pread64:error=EIO:when=30+40", Cost::OnDevice(u64::MAX)),
    ("reads interrupted", "pread64:error=EINTR:when=30+2", Cost::Nothing),
    ("reads that claim a page", "pread64:retval=4096:when=30+40", Cost::OnDevice(u64::MAX)),
    ("punches that fail", "fallocate:error=EIO:when=1+1", Cost::Nothing),
];

#[test]
fn calls_that_strace_makes_fail_cost_what_can_only_be_read_there() {
    const NAME: &str = "calls_that_strace_makes_fail_cost_what_can_only_be_read_there";
    if let Some(which) = child() {
        return under_strace(INJECTED[which.parse::<usize>().unwrap()]);
    }
    if !has("strace") {
        return skip(NAME, "there is no strace: install it");
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut total = 0;
    for (which, (title, inject, _)) in INJECTED.iter().enumerate() {
        let (call, _) = inject.split_once(':').unwrap();
        let (trace, inject) = (format!("trace={call}"), format!("inject={inject}"));
        let arguments = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
        print!("{}", run_child(NAME, &which.to_string(), &arguments));
        let injected = std::fs::read_to_string(&log).unwrap().matches("(INJECTED)").count();
        println!("{title}: {injected} calls made to fail");
        assert!(injected > 0, "{title}: no fault was met");
        total += injected;
    }
    println!("{total} calls made to fail in all");
}

/// In the child: every so many calls of a thread go wrong, from the beginning to the end.
fn under_strace((title, _, cost): (&str, &str, Cost)) {
    let folder = tempfile::tempdir().unwrap();
    let zswap = plain_instance(&folder.path().join("swap"));
    let mut oracle = Oracle::new(title, zswap, 2, SLOTS, 5);
    oracle.fill();
    oracle.churn(STEPS);
    let tally = oracle.verify(cost);
    println!("{title}: {tally:?}, {:?}", area(&oracle));
    oracle.settle();
    oracle.finish();
}
