//! What the fuzz targets found, and their seeds, replayed without libFuzzer.
//!
//! 1. Every finding is a list of operations with a name, written out below.
//! 2. Every seed of `fuzz/seeds` runs, and together they come upon all that the targets are for: if an operation no longer
//!    gets anywhere, this fails before a campaign runs for hours for nothing.

#[path = "../fuzz/src/lib.rs"]
#[allow(missing_docs, dead_code, unreachable_pub)]
mod zspool_fuzz;

use arbitrary::{Arbitrary, Unstructured};
use std::path::Path;
#[cfg(all(feature = "guest", target_os = "linux"))]
use zspool_fuzz::guest_ops;
use zspool_fuzz::list::List;
use zspool_fuzz::meddler::{How, Meanwhile};
use zspool_fuzz::page::PageOf;
use zspool_fuzz::{Reached, pool_ops, reclaim_ops, swap_table_ops, swapfile_bytes, zswap_ops};

/// Run every seed of a target, as libFuzzer would.
fn replay<R: for<'a> Arbitrary<'a>>(target: &str, run: impl Fn(R) -> Reached) -> Reached {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut reached = Reached::new();
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{} cannot be read: {error}", dir.display()));
    for entry in entries {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        // Too short for one: libFuzzer passes over it too.
        if let Ok(list) = R::arbitrary_take_rest(Unstructured::new(&seed)) {
            reached.merge(&run(list));
        }
    }
    reached
}

fn assert_reached(reached: &Reached, all: &[&str]) {
    let missing: Vec<_> = all.iter().filter(|what| reached.get(what) == 0).collect();
    assert!(missing.is_empty(), "the seeds no longer come upon {missing:?}:\n{reached}");
}

#[test]
fn seeds_of_the_pool_reach_what_they_are_for() {
    let reached = replay("pool_ops", pool_ops::run);
    assert_reached(
        &reached,
        &[
            "address space used up",
            "all nodes full",
            "arena limits hit",
            "commits failed",
            "compactions out of budget",
            "drafts dropped or cancelled",
            "frames too busy for compaction",
            "frames won by compaction",
            "memcg limits hit",
            "memcgs taken offline with objects",
            "objects freed under guards",
            "objects left outside of a mask",
            "objects moved by compaction",
            "objects moved off nodes",
            "objects spilled to another node",
            "slots returned by the last guard",
            "stale names refused",
        ],
    );
}

#[test]
fn seeds_of_zswap_reach_what_they_are_for() {
    let reached = replay("zswap_ops", zswap_ops::run);
    assert_reached(
        &reached,
        &[
            "batches the device failed",
            "corrupt blocks found",
            "frames won by compaction",
            "memcgs taken offline with entries",
            "objects moved by compaction",
            "operations done during a request",
            "pages of a repeated word in an object",
            "pages on the device at the end",
            "pages written back or through",
            "pages written through",
            "reads the device failed",
            "shrinks in vain",
            "shrinks that wrote",
            "slots freed or replaced during their write",
            "stores refused for a memcg's limit",
            "stores refused for the pool limit",
            "stores refused for want of memory",
        ],
    );
}

#[test]
fn seeds_of_swapfiles_reach_what_they_are_for() {
    let reached = replay("swapfile_bytes", swapfile_bytes::run);
    assert_reached(
        &reached,
        &[
            "changed objects refused",
            "damaged headers refused",
            "devices full",
            "files of other versions or sizes refused",
            "files refused",
            "files taken",
            "forged lengths refused",
            "forged objects read",
            "objects freed",
            "objects read back",
            "objects written",
            "old blocks told",
            "old images brought back",
            "reads for another slot or generation refused",
        ],
    );
}

#[test]
fn seeds_of_the_swap_table_reach_what_they_are_for() {
    let reached = replay("swap_table_ops", swap_table_ops::run);
    assert_reached(
        &reached,
        &[
            "batches a device failed",
            "devices beside others",
            "devices reinstated",
            "devices taken off",
            "devices that hang",
            "objects moved by cleaning",
            "objects moved by swapoff",
            "objects moved by swapoff to other devices",
            "objects moved to another tier",
            "operations done during a request",
            "pages on devices at the end",
            "pages written back or through",
            "pages written through",
            "reads that may be tried again",
            "requests that were answered late",
            "requests to a tier that were met",
            "retired devices",
            "segments cleaned",
            "slots freed or replaced during their write",
            "slots of the instance's choice",
            "slots with more references than a word holds",
            "stores refused for a memcg's limit",
            "stores refused for the pool limit",
            "swapoffs cancelled",
            "swapoffs that a fault stopped",
            "swapoffs without room",
            "tiers in use beside others",
        ],
    );
}

#[test]
fn seeds_of_reclaim_reach_what_they_are_for() {
    let reached = replay("reclaim_ops", reclaim_ops::run);
    assert_reached(
        &reached,
        &[
            "bytes written by the worker",
            "bytes written on request",
            "bytes written under pressure",
            "charges that stay above memory.high",
            "charges without room",
            "corrupt blocks found",
            "files of removed memcgs refused",
            "limits set and met",
            "memcgs removed during a request",
            "memcgs removed with entries",
            "names refused",
            "objects left outside of a mask",
            "operations done during a request",
            "pages faulted in",
            "pages on the device at the end",
            "pages swapped out by hand",
            "pages swapped out on request",
            "peaks begun anew",
            "requests cancelled before",
            "requests cancelled midway",
            "requests met",
            "requests not met",
            "requests of several sources met",
            "requests refused",
            "requests that took all there was",
            "requests with an age met",
            "rmdirs refused",
            "runs of the worker that did all there was",
            "shrinks that wrote",
            "stores refused for a memcg's limit",
            "stores refused for full nodes",
            "stores refused for the pool limit",
            "stores refused for want of swap",
            "texts refused",
        ],
    );
}

#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn seeds_of_guest_memory_reach_what_they_are_for() {
    let reached = replay("guest_ops", guest_ops::run);
    if reached.get("userfaultfd not permitted") > 0 {
        return eprintln!("skipped: userfaultfd is not permitted here");
    }
    assert_reached(
        &reached,
        &[
            "bytes won by a VM's eviction",
            "bytes won by a memcg's eviction",
            "devices taken off",
            "dirty pages told",
            "discards",
            "discards that a pin stopped",
            "dropped",
            "evictions refused",
            "faults of absent pages",
            "faults of compressed pages",
            "faults of pages on devices",
            "faults of protected pages",
            "faults of same-filled pages",
            "faults of staged pages",
            "faults of vanished pages",
            "limits set",
            "made resident",
            "objects moved by swapoff",
            "pages evicted by calls",
            "pages left by a prefetch",
            "pages on devices at the end",
            "pages prefetched",
            "pages put away without the codec",
            "pages refused by the store",
            "pages replayed",
            "pages that came along",
            "pages that stayed",
            "pages thrown away behind its back",
            "pins refused",
            "requests met",
            "swapoffs without room",
            "unregistered",
            "ways out that the kernel or options exclude",
        ],
    );
}

// === findings ===

/// Objects that were moved to a frame which was emptied later used up the moves that compaction allowed itself (one for each
/// object), so it ended with a frame still to win.
#[test]
fn compaction_goes_on_until_no_frame_can_be_won() {
    use pool_ops::{Budget, Classes, Op, Run};
    let ops = vec![
        Op::Burst { len: 46153, n: 158, memcg: 158, node: 116 },
        Op::Thin { step: 10 },
        Op::Compact { budget: Budget::All },
    ];
    pool_ops::run(Run {
        handles: true,
        accounting: false,
        original_is_payload: false,
        classes: Classes::Kernel8,
        nodes: 101,
        capacities: [32, 32, 10],
        space: 73,
        warm: 180,
        ops: List(ops),
    });
}

// === scenarios that the fuzzer seldom comes upon ===

fn instance(pool_frames: u8, ops: Vec<zswap_ops::Op>) -> zswap_ops::Run {
    zswap_ops::Run { pool_frames, device: 4, nodes: 0, capacity: 0, new_is_referenced: false, ops: List(ops) }
}

fn mixed(seed: u8) -> PageOf {
    PageOf::Mixed { random: 1900, seed }
}

/// The page is read from the device, and meanwhile another is stored in its slot: that one stays.
#[test]
fn a_slot_replaced_while_it_is_taken_is_left_alone() {
    use zswap_ops::Op;
    let reached = zswap_ops::run(instance(
        0, // every page goes straight to the device
        vec![
            Op::Store { slot: 1, memcg: 0, node: 0, page: mixed(3) },
            Op::Meanwhile {
                ops: [Some(Meanwhile::Store { slot: 1, memcg: 0, page: mixed(5) }), None, None],
                late: true,
            },
            Op::Take { slot: 1, install: true },
            Op::Load { slot: 1 },
            Op::Check,
        ],
    ));
    assert_eq!(reached.get("slots that changed while they were taken"), 1);
}

/// Of eight entries on their way to the device one is freed, one stored again, and one changes its number of references.
#[test]
fn flights_are_cancelled_before_and_after_the_write() {
    use zswap_ops::Op;
    for late in [false, true] {
        let mut ops: Vec<_> =
            (0..8).map(|slot| Op::Store { slot, memcg: 0, node: 0, page: mixed(slot * 2 + 1) }).collect();
        let meanwhile = [
            Some(Meanwhile::Free { slot: 2 }),
            Some(Meanwhile::Store { slot: 3, memcg: 0, page: mixed(99) }),
            Some(Meanwhile::Dup { slot: 4 }),
        ];
        ops.extend([
            Op::Meanwhile { ops: meanwhile, late },
            Op::Shrink { memcg: 0, nr: 64 },
            Op::Check,
            Op::LoadMany { first: 0, n: 8 },
        ]);
        let reached = zswap_ops::run(instance(60, ops));
        assert_eq!(reached.get("slots freed or replaced during their write"), 2, "{reached}");
        assert_eq!(reached.get("pages written back or through"), 6);
    }
}

/// A slot is freed while its page is read, and the read fails: then there is nothing that failed.
#[test]
fn a_failed_read_of_a_slot_freed_meanwhile_is_no_failure() {
    use zswap_ops::Op;
    let reached = zswap_ops::run(instance(
        0, // every page goes straight to the device
        vec![
            Op::Store { slot: 1, memcg: 0, node: 0, page: mixed(3) },
            Op::FailAt { k: 0, how: How::Eio },
            Op::Meanwhile { ops: [Some(Meanwhile::Free { slot: 1 }), None, None], late: false },
            Op::Load { slot: 1 }, // the model wants to hear that nothing is stored
            Op::Check,
        ],
    ));
    assert_eq!((reached.get("operations done during a request"), reached.get("reads the device failed")), (1, 0));
}

/// A memcg whose `memory.swap.max` admits no place kept its turn for a whole batch of entries, each refused like the first: 3072
/// walks, and as many events, for one store.
#[test]
fn a_store_refused_for_want_of_swap_does_not_try_every_entry_many_times() {
    use zspool::memcg::{Counter, MemcgEvent};
    use zspool::units::{NodeId, Slot};
    let instance = zspool_fuzz::instance::Instance::new(zspool_fuzz::instance::builder(200, 0, 0), 1 << 20);
    let vm = instance.zswap.root().mkdir("vm").unwrap();
    vm.set_zswap_max(60_000).unwrap();
    vm.set_max(Counter::Swap, 0).unwrap();
    let store = |k: u8| {
        let slot: Slot = instance.slot(k);
        instance.zswap.store(slot, &vm, NodeId(0), &mixed(k | 1).build())
    };
    let refused = (0..96).find(|&k| store(k).is_err()).expect("more than there is room for");
    let before = vm.events(MemcgEvent::SwapMax);
    assert!(store(refused).is_err());
    let tries = vm.events(MemcgEvent::SwapMax) - before;
    assert!((1..=80).contains(&tries), "{tries} entries were refused a place for one store");
}

/// A page that goes straight to a device has its cluster made before it is written. The write failed, so the cluster held nothing, and
/// was on no list of those that are taken back.
#[test]
fn a_cluster_made_for_a_write_that_failed_is_taken_back() {
    use swap_table_ops::{Disk, Op, Run};
    let none = Disk { segments: 0, tier: 0, retire_after: 0, most: 0 };
    let page = PageOf::Mixed { random: 3000, seed: 1 };
    let ops = vec![
        Op::Limit { memcg: 1, bytes: Some(0) },
        Op::FailAt { device: 0, k: 0, how: How::Eio },
        Op::Store { slot: 70, memcg: 1, page },
        Op::Check,
    ];
    let disk = Disk { segments: 4, ..none };
    let run =
        Run { pool_frames: 64, devices: [disk, none], new_is_referenced: false, encryption: true, ops: List(ops) };
    let reached = swap_table_ops::run(run);
    assert_eq!(reached.get("batches a device failed"), 1, "{reached}");
}

/// Pages on a device that fails are errors that name them, and there again when it heals; pins above a limit are overshoot.
#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn guest_pages_are_lost_with_their_device_and_pinned_past_a_limit() {
    use guest_ops::{Op, Patch, Run, Serving};
    let serving = Serving { service: 1, around: 0, kept: 0, dirty: 0 };
    let patch = Patch { kind: 0, vm: 0, pages: 40, used: 0 };
    let lose = vec![
        Op::WriteMany { place: 0, first: 0, n: 31, random: 2000 },
        Op::Evict { place: 0, first: 0, n: 63 },
        Op::Shrink { memcg: 1, n: 255 },
        Op::Shrink { memcg: 1, n: 255 },
        Op::FailAt { device: 0, k: 0, how: How::Down },
        Op::ReadMany { place: 0, first: 0, n: 15 },
        Op::Heal { device: 0 },
        Op::Check,
    ];
    let pin = vec![
        Op::WriteMany { place: 0, first: 0, n: 31, random: 2000 },
        Op::Pin { place: 0, first: 0, n: 7 },
        Op::Limit { memcg: 1, file: 0, pages: Some(4) },
        Op::Limit { memcg: 1, file: 0, pages: Some(8) },
        Op::ReadMany { place: 0, first: 0, n: 63 },
        Op::Check,
    ];
    let run = |ops| {
        let places = [patch, Patch { vm: 1, ..patch }];
        let vms = [serving, serving];
        guest_ops::run(Run { pool_frames: 128, device: 15, staged_ahead: 0, vms, places, ops: List(ops) })
    };
    let (lost, pinned) = (run(lose), run(pin));
    if lost.get("userfaultfd not permitted") > 0 {
        return eprintln!("skipped: userfaultfd is not permitted here");
    }
    assert_reached(&lost, &["pages lost"]);
    assert_reached(&pinned, &["limits below pins refused", "overshoots"]);
}

/// A page of which little is won stays where it is with no device to take it, and says so; one that shrinks goes.
#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn a_page_that_would_win_nothing_stays_and_is_counted() {
    use guest_ops::{Op, Patch, Run, Serving};
    for kind in 0..4 {
        let serving = Serving { service: 1, around: 0, kept: 0, dirty: 0 };
        let patch = Patch { kind, vm: 0, pages: 40, used: 0 };
        let random = |seed, random| Op::Write { place: 0, at: seed, page: PageOf::Mixed { random, seed } };
        let ops = vec![
            random(0, 3794), // 4096 for its object, whatever its codec
            random(1, 2000),
            Op::Evict { place: 0, first: 0, n: 63 },
            Op::Check,
        ];
        let places = [patch, Patch { vm: 1, ..patch }];
        let vms = [serving, serving];
        let run = Run { pool_frames: 128, device: 0, staged_ahead: 0, vms, places, ops: List(ops) };
        let reached = guest_ops::run(run);
        if reached.get("userfaultfd not permitted") > 0 {
            return eprintln!("skipped: userfaultfd is not permitted here");
        }
        assert_reached(&reached, &["pages that stayed", "pages evicted by calls"]);
    }
}

/// A page that came in with a copy kept is write-protected. Pinned for a device, it stayed so, and a system call that was to fill it failed
/// with EFAULT; with nobody who serves, the embedder's own write ended the process.
#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn a_pinned_page_can_be_written_by_who_cannot_be_served() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use zspool::guest::memory::Memory;
    use zspool::guest::{Engine, Error, Service, VmOptions};
    let zswap = zspool::zswap::Zswap::builder().pool_limit(1 << 20).build().unwrap();
    let engine = Engine::builder(zswap).evictor(false).build().unwrap();
    let vm = match engine.vm(&engine.root().mkdir("vm").unwrap(), VmOptions::new().kept_bytes(1 << 20)) {
        Ok(vm) => vm,
        Err(error @ Error::Userfaultfd(_)) => return eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, wherever there is room.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    let word = start.cast::<u64>();
    // SAFETY: mapped until the end of the process.
    let region = unsafe { vm.register(Memory::anonymous(start.cast(), 4096)) }.unwrap();
    // Not a repeated word: no copy is kept of such a page. SAFETY: mapped, and served.
    unsafe { word.write_volatile(7) };
    assert_eq!(region.evict(0..4096).pages, 1);
    let pin = region.pin(0..4096).unwrap();
    assert_eq!((vm.stats().pinned, vm.stats().kept), (4096, 0));
    let (from, mut to) = std::io::pipe().unwrap();
    to.write_all(&9u64.to_ne_bytes()).unwrap();
    // SAFETY: 8 bytes into a mapped page.
    let read = unsafe { libc::read(from.as_raw_fd(), start, 8) };
    assert_eq!(read, 8, "{}", std::io::Error::last_os_error());
    drop(pin);
    assert_eq!(region.evict(0..4096).pages, 1);
    // SAFETY: mapped, and served.
    assert_eq!(unsafe { word.read_volatile() }, 9, "what the system call wrote");
    region.assert_valid();
    let none = VmOptions::new().kept_bytes(1 << 20).service(Service::None);
    assert!(matches!(engine.vm(&engine.root(), none), Err(Error::Options { .. })));
}

/// Pages of a file that were lost and thrown away kept their mark: they read as SIGBUS, and for the embedder, after `unregister`, too.
#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn a_lost_page_that_was_thrown_away_can_be_touched_after_unregistering() {
    use guest_ops::{Op, Patch, Run, Serving};
    for kind in 0..4 {
        let serving = Serving { service: 1, around: 0, kept: 0, dirty: 0 };
        let patch = Patch { kind, vm: 0, pages: 34, used: 20 };
        let ops = vec![
            Op::Evict { place: 0, first: 0, n: 63 },
            Op::Shrink { memcg: 1, n: 255 },
            Op::FailAt { device: 0, k: 0, how: How::Down },
            Op::Prefetch { place: 0, first: 0, n: 10 },
            Op::Discard { place: 0, first: 0, n: 5 },
            Op::Unregister { place: 0 }, // throws the others away, one after the other, and reads all
        ];
        let places = [patch, Patch { vm: 1, ..patch }];
        let vms = [serving, serving];
        let run = Run { pool_frames: 122, device: 15, staged_ahead: 0, vms, places, ops: List(ops) };
        let reached = guest_ops::run(run);
        if reached.get("userfaultfd not permitted") > 0 {
            return eprintln!("skipped: userfaultfd is not permitted here");
        }
        assert_reached(&reached, &["pages lost", "unregistered"]);
    }
}

/// Lists about pages that vanish where they are staged, in each way to stage in place: a place of so many pages, whose copies may be kept.
#[cfg(all(feature = "guest", target_os = "linux"))]
fn vanish_where_staged(kept: u8, pages: u8, ops: impl Fn() -> Vec<guest_ops::Op>) {
    use guest_ops::{Patch, Run, Serving};
    for kind in 1..4 {
        let serving = Serving { service: 1, around: 0, kept, dirty: 0 };
        let patch = Patch { kind, vm: 0, pages, used: pages };
        let (vms, places) = ([serving, serving], [patch, Patch { vm: 1, ..patch }]);
        let reached =
            guest_ops::run(Run { pool_frames: 122, device: 0, staged_ahead: 64, vms, places, ops: List(ops()) });
        if reached.get("userfaultfd not permitted") > 0 {
            return eprintln!("skipped: userfaultfd is not permitted here");
        }
        assert_reached(&reached, &["pages thrown away behind its back"]);
    }
}

/// Pages that were thrown away where they were staged came back when they were to be compressed: reading them faulted. They stayed in memory then.
#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn a_page_that_vanished_where_it_is_staged_does_not_stay() {
    use guest_ops::Op;
    vanish_where_staged(0, 100, || {
        vec![
            Op::Limit { memcg: 1, file: 0, pages: Some(120) },
            Op::EvictBytes { vm: 0, pages: 20 },
            Op::Vanish { place: 0, first: 0, n: 63, of_file: true },
            Op::Evict { place: 0, first: 0, n: 63 },
            Op::Check,
        ]
    });
}

/// The same of pages that have equal copies in their slots: those came back.
#[cfg(all(feature = "guest", target_os = "linux"))]
#[test]
fn a_page_that_vanished_where_it_is_staged_does_not_come_back_from_its_copy() {
    use guest_ops::Op;
    vanish_where_staged(255, 60, || {
        vec![
            Op::EvictAll { vm: 0 },
            Op::ReadMany { place: 0, first: 0, n: 63 },
            Op::Limit { memcg: 1, file: 0, pages: Some(120) },
            Op::EvictBytes { vm: 0, pages: 5 },
            Op::Vanish { place: 0, first: 0, n: 63, of_file: true },
            Op::EvictAll { vm: 0 },
            Op::Check,
            Op::ReadMany { place: 0, first: 0, n: 63 },
        ]
    });
}
