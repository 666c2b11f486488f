//! Pages go to the next tier: by request, above a high mark, and when the tier above does not take them.

mod support;

use std::sync::Arc;
use support::*;
use zspool::memcg::{Cancel, Counter, Memcg};
use zspool::swap::{DeviceOptions, FaultyDevice, Geometry, MemoryDevice, Plan, State};
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Builder, Shrunk, Zswap};

const N0: NodeId = NodeId(0);
const MIB: usize = 1 << 20;

fn base() -> Builder {
    let geometry = Geometry { batch_pages: 16, ..Geometry::default() };
    let builder = Zswap::builder().slots_in_use(1 << 14).address_space(128 << 20).pool_limit(64 << 20);
    builder.device_geometry(geometry).worker(false)
}

fn memory(bytes: usize) -> DeviceOptions {
    DeviceOptions::device(MemoryDevice::new(bytes, 4096))
}

fn page(number: u64) -> Page {
    compressible(number, 200 + number as usize * 37 % 1800)
}

fn fill(zswap: &Zswap, memcg: &Memcg, pages: u64) -> SlotRange {
    let slots = zswap.reserve(pages).unwrap();
    slots.iter().for_each(|slot| _ = zswap.store(slot, memcg, N0, &page(slot.0)).unwrap());
    slots
}

fn write_back_all(zswap: &Zswap, memcg: &Memcg) {
    while matches!(zswap.shrink_memcg(memcg, 64), Shrunk::Written(_)) {}
}

fn check(zswap: &Zswap, slots: SlotRange) {
    let mut back = Page::zeroed();
    for slot in slots.iter() {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(slot.0)[..], "{slot:?}");
    }
    zswap.assert_valid();
}

fn live(zswap: &Zswap, number: u8) -> u64 {
    zswap.device(number).unwrap().stats().live_bytes
}

#[test]
fn so_many_bytes_of_a_memcg_go_down_a_tier_and_no_others() {
    let zswap = base().build().unwrap();
    let fast = zswap.swapon(memory(8 * MIB).tier("fast", 10)).unwrap();
    let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let [a, b] = ["a", "b"].map(|name| zswap.root().mkdir(name).unwrap());
    let (of_a, of_b) = (fill(&zswap, &a, 500), fill(&zswap, &b, 500));
    write_back_all(&zswap, &a);
    write_back_all(&zswap, &b);
    assert_eq!(live(&zswap, slow), 0, "the fast tier is first");
    let (charged, all) = ([&a, &b].map(|memcg| memcg.current(Counter::Swap)), live(&zswap, fast));
    for bytes in [1, 10_000, 100_000] {
        let before = zswap.device(slow).unwrap().stats();
        let demoted = zswap.demote(&a, "slow", bytes, &Cancel::new()).unwrap();
        assert!(demoted.is_met && demoted.bytes >= bytes && demoted.bytes < bytes + 2100, "{demoted:?}");
        let after = zswap.device(slow).unwrap().stats();
        assert_eq!(after.objects - before.objects, demoted.objects);
    }
    assert_eq!(live(&zswap, fast) + live(&zswap, slow), all);
    // All that is its own, and then nothing.
    a.write_file("memory.reclaim", "100M to=slow").expect_err("there are not so many bytes");
    assert_eq!(live(&zswap, slow), charged[0]);
    let demoted = zswap.demote(&a, "slow", 1, &Cancel::new()).unwrap();
    assert_eq!((demoted.bytes, demoted.is_met), (0, false));
    assert_eq!([&a, &b].map(|memcg| memcg.current(Counter::Swap)), charged, "charged once, wherever it lies");
    // A memcg above both.
    zswap.root().write_file("memory.reclaim", "50K to=slow").unwrap();
    assert!(live(&zswap, slow) > charged[0] + 50_000);
    check(&zswap, of_a);
    check(&zswap, of_b);
    let unknown = zswap.demote(&a, "tape", 1, &Cancel::new()).unwrap_err().to_string();
    assert!(unknown.contains("tape") && unknown.contains("fast, slow"), "{unknown}");
    let cancel = Cancel::new();
    cancel.cancel();
    let demoted = zswap.demote(&b, "slow", 1 << 20, &cancel).unwrap();
    assert_eq!((demoted.bytes, demoted.cancelled), (0, true));
}

#[test]
fn the_fastest_tier_is_filled_from_the_pool_and_a_named_source_goes_straight_to_any() {
    let zswap = base().build().unwrap();
    let fast = zswap.swapon(memory(8 * MIB).tier("fast", 10)).unwrap();
    let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = fill(&zswap, &vm, 600);
    let payload = || vm.stat().unwrap().bytes.payload;
    let before = payload();
    vm.write_file("memory.reclaim", "100K to=fast").unwrap();
    assert!(before - payload() >= 100 << 10);
    assert!(live(&zswap, fast) > 100 << 10 && live(&zswap, slow) == 0);
    let (before, on_fast) = (payload(), live(&zswap, fast));
    vm.write_file("memory.reclaim", "100K source=zswap to=slow").unwrap();
    assert!(before - payload() >= 100 << 10);
    assert_eq!(live(&zswap, fast), on_fast);
    assert!(live(&zswap, slow) > 100 << 10);
    check(&zswap, slots);
}

#[test]
fn tiers_that_a_memcg_may_not_use_get_nothing_of_it() {
    let zswap = base().build().unwrap();
    let fast = zswap.swapon(memory(8 * MIB).tier("fast", 10)).unwrap();
    let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let [a, b] = ["a", "b"].map(|name| zswap.root().mkdir(name).unwrap());
    let (of_a, of_b) = (fill(&zswap, &a, 300), fill(&zswap, &b, 300));
    write_back_all(&zswap, &a);
    write_back_all(&zswap, &b);
    let of_b_bytes = b.current(Counter::Swap);
    a.write_file("memory.swap.tiers.max", "slow 0").unwrap();
    // Of the root's subtree, only what may go there does.
    let demoted = zswap.demote(&zswap.root(), "slow", u64::MAX, &Cancel::new()).unwrap();
    assert_eq!((demoted.objects, live(&zswap, slow)), (300, of_b_bytes), "{demoted:?}");
    // Nor does swapoff bring it there: what is left goes to the pool.
    let report = zswap.swapoff(fast, &Cancel::new(), |_| ()).unwrap();
    assert_eq!((report.to_pool, report.to_devices), (300, 0));
    check(&zswap, of_a);
    check(&zswap, of_b);
}

#[test]
fn above_its_high_mark_a_device_gives_what_is_oldest_to_the_next_tier() {
    for worker in [false, true] {
        let zswap = base().worker(worker).build().unwrap();
        let fast = zswap.swapon(memory(MIB).tier("fast", 10).water_marks(40, 60)).unwrap();
        let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
        let slots = fill(&zswap, &zswap.root(), 560);
        let _ = zswap.shrink_memcg(&zswap.root(), 300);
        zswap.quiesce();
        assert_eq!(live(&zswap, slow), 0, "below the mark nothing happens: {}", live(&zswap, fast));
        write_back_all(&zswap, &zswap.root());
        assert!(live(&zswap, fast) > MIB as u64 * 6 / 10);
        zswap.quiesce();
        let (on_fast, on_slow) = (live(&zswap, fast), live(&zswap, slow));
        assert!(on_fast <= MIB as u64 * 4 / 10 && on_fast > MIB as u64 * 3 / 10, "{on_fast}");
        assert!(on_slow > MIB as u64 / 5, "{on_slow}");
        check(&zswap, slots);
    }
}

#[test]
fn entries_that_one_tier_does_not_take_go_to_the_next_in_the_same_call() {
    // Full; no space; failing for good.
    for (bytes, errno) in [(4 * 65536, 0), (4 * MIB, libc::ENOSPC), (4 * MIB, libc::EIO)] {
        let plan = if errno == 0 { Plan::none() } else { Plan::none().down_from(1, errno) };
        let fast = Arc::new(FaultyDevice::new(MemoryDevice::new(bytes, 4096), plan));
        let zswap = base().build().unwrap();
        let number = zswap.swapon(DeviceOptions::device(fast).tier("fast", 10)).unwrap();
        let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
        let slots = fill(&zswap, &zswap.root(), 1000);
        for _ in 0..1000 / 64 {
            assert!(matches!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::Written(_)));
        }
        write_back_all(&zswap, &zswap.root());
        let stats = zswap.stats();
        assert_eq!(stats.physical_pages, 1000, "{errno}");
        let on_slow = zswap.device(slow).unwrap().stats();
        assert_eq!(on_slow.objects == 1000, errno != 0, "{errno}: {on_slow:?}");
        assert!(on_slow.objects > 500, "{errno}: {on_slow:?}");
        if errno == libc::EIO {
            assert_eq!(zswap.device(number).unwrap().state(), State::Retired);
            assert!(stats.failed_writes < 20, "{}", stats.failed_writes);
        }
        check(&zswap, slots);
    }
}

#[test]
fn a_device_that_wants_whole_pages_gets_them() {
    let zswap = base().build().unwrap();
    let fast = zswap.swapon(memory(8 * MIB).tier("fast", 10)).unwrap();
    let whole = zswap.swapon(memory(8 * MIB).tier("whole", 0).whole_pages(true)).unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = fill(&zswap, &vm, 200);
    write_back_all(&zswap, &vm);
    let packed = vm.current(Counter::Swap);
    let demoted = zswap.demote(&vm, "whole", u64::MAX, &Cancel::new()).unwrap();
    assert_eq!(demoted.objects, 200);
    let stats = zswap.device(whole).unwrap().stats();
    assert!(stats.live_bytes >= 200 * PAGE_SIZE as u64 && packed < stats.live_bytes / 2, "{packed} {stats:?}");
    assert_eq!((vm.current(Counter::Swap), live(&zswap, fast)), (stats.live_bytes, 0), "what it takes is charged");
    check(&zswap, slots);
    // Straight from the pool, repeated words too; a limit that does not admit a whole page keeps it where it is.
    let mut pattern = page_of(Kind::LargePattern, 3);
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &vm, N0, &pattern).unwrap();
    vm.write_file("memory.reclaim", "1 source=zswap to=whole").unwrap();
    assert_eq!(live(&zswap, whole), 201 * stats.live_bytes / 200);
    let mut back = Page::zeroed();
    zswap.load(slot, &mut back).unwrap();
    assert!(back[..] == pattern[..]);
    vm.set_max(Counter::Swap, vm.current(Counter::Swap)).unwrap();
    pattern[9] ^= 1;
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &vm, N0, &pattern).unwrap();
    vm.write_file("memory.reclaim", "1 source=zswap to=whole").expect_err("memory.swap.max is reached");
    assert!(zswap.try_load(slot, &mut back).is_ok());
    zswap.assert_valid();
    // From whole pages back to packed ones: what is moved stays as it is.
    let report = zswap.swapoff(whole, &Cancel::new(), |_| ()).unwrap();
    assert_eq!(report.to_pool, 201);
    check(&zswap, slots);
    zswap.load(slot, &mut back).unwrap();
    assert!(back[..] == pattern[..]);
    slots.iter().for_each(|slot| assert!(zswap.free(slot)));
    zswap.assert_valid();
}

#[test]
fn a_page_that_its_limit_never_admits_is_written_whole_where_that_is_asked_for() {
    let zswap = base().build().unwrap();
    let number = zswap.swapon(memory(MIB).whole_pages(true)).unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    zswap.set_zswap_max(&vm, 0).unwrap();
    vm.set_max(Counter::Swap, 3 * 65 * 64).unwrap();
    let slots = fill(&zswap, &vm, 3);
    assert_eq!((live(&zswap, number), vm.current(Counter::Swap)), (3 * 65 * 64, 3 * 65 * 64));
    check(&zswap, slots);
    // Where the limit has room for it as it was compressed only, it is refused.
    vm.set_max(Counter::Swap, 3 * 65 * 64 + 4000).unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &vm, N0, &page(1)).unwrap_err();
    assert_eq!(vm.current(Counter::Swap), 3 * 65 * 64);
    slots.iter().for_each(|slot| assert!(zswap.free(slot)));
    assert_eq!(vm.current(Counter::Swap), 0);
    zswap.assert_valid();
}

#[test]
fn what_lies_behind_segments_of_others_goes_down_too() {
    let zswap = base().build().unwrap();
    zswap.swapon(memory(MIB).tier("fast", 10)).unwrap();
    let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let [a, b] = ["a", "b"].map(|name| zswap.root().mkdir(name).unwrap());
    // Six segments of a, then six of b, of sixteen.
    let of_a = fill(&zswap, &a, 300);
    write_back_all(&zswap, &a);
    let of_b = fill(&zswap, &b, 300);
    write_back_all(&zswap, &b);
    let demoted = zswap.demote(&b, "slow", u64::MAX, &Cancel::new()).unwrap();
    assert_eq!((demoted.objects, zswap.device(slow).unwrap().stats().objects), (300, 300), "{demoted:?}");
    check(&zswap, of_a);
    check(&zswap, of_b);
}

#[test]
fn a_device_is_brought_down_to_its_low_mark_and_no_further() {
    // Payloads of 8 bytes in blocks of 64.
    let zswap = base().build().unwrap();
    let fast = zswap.swapon(memory(256 << 10).tier("fast", 10).water_marks(40, 60)).unwrap();
    let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let slots = zswap.reserve(2900).unwrap();
    for slot in slots.iter() {
        let mut page = Page::zeroed();
        let word = (slot.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63 | 1;
        page.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&word.to_ne_bytes()));
        zswap.store(slot, &zswap.root(), N0, &page).unwrap();
    }
    write_back_all(&zswap, &zswap.root());
    let size = zswap.device(fast).unwrap().stats().size_bytes;
    assert!(live(&zswap, fast) > size / 100 * 60 && live(&zswap, slow) == 0, "{}", live(&zswap, fast));
    zswap.quiesce();
    let left = live(&zswap, fast);
    assert!(left <= size / 100 * 40 && left >= size / 100 * 39, "{left} of {size}");
    zswap.assert_valid();
}

#[test]
fn what_may_go_nowhere_is_not_read_again_and_again_and_keeps_nobody() {
    let zswap = base().build().unwrap();
    let fast = zswap.swapon(memory(MIB).tier("fast", 10).water_marks(40, 60)).unwrap();
    let middle = zswap.swapon(memory(128 << 10).tier("middle", 5)).unwrap();
    let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| zswap.root().mkdir(name).unwrap());
    let forbid = |memcg: &Memcg, tiers: &[&str]| {
        tiers.iter().for_each(|tier| memcg.write_file("memory.swap.tiers.max", &format!("{tier} 0")).unwrap());
    };
    forbid(&c, &["fast", "slow"]);
    let of_c = fill(&zswap, &c, 150);
    write_back_all(&zswap, &c);
    assert!(zswap.device(middle).unwrap().stats().segments.free <= 1, "the middle one is full");
    // The oldest pages may only go there.
    forbid(&a, &["slow"]);
    let of_a = fill(&zswap, &a, 150);
    write_back_all(&zswap, &a);
    let of_b = fill(&zswap, &b, 550);
    write_back_all(&zswap, &b);
    let all = zswap.device(fast).unwrap().stats().objects;
    assert!(live(&zswap, fast) > MIB as u64 / 100 * 60 && live(&zswap, slow) < MIB as u64 / 10);
    zswap.quiesce();
    assert!(live(&zswap, fast) <= MIB as u64 / 100 * 40, "{}", live(&zswap, fast));
    assert!(zswap.device(fast).unwrap().stats().objects < all);
    // And now nothing of what is there may go.
    forbid(&b, &["slow", "middle"]);
    let more = fill(&zswap, &b, 300);
    write_back_all(&zswap, &b);
    let before = zswap.device(fast).unwrap().stats();
    assert!(before.live_bytes > MIB as u64 / 100 * 60);
    (0..3).for_each(|_| zswap.quiesce());
    let read = zswap.device(fast).unwrap().stats().read_bytes - before.read_bytes;
    assert!(read <= 256 << 10, "{read} bytes were read: only the oldest segments have pages of a");
    for slots in [of_a, of_b, of_c, more] {
        check(&zswap, slots);
    }
}

#[test]
fn a_page_that_is_on_its_way_is_not_lost_with_the_place_it_left() {
    use zspool::swap::Fault;
    let faulty = || Arc::new(FaultyDevice::new(MemoryDevice::new(8 * MIB, 4096), Plan::none()));
    let (from, to) = (faulty(), faulty());
    let zswap = base().build().unwrap();
    zswap.swapon(DeviceOptions::device(Arc::clone(&from)).tier("fast", 10)).unwrap();
    zswap.swapon(DeviceOptions::device(Arc::clone(&to)).tier("slow", 0)).unwrap();
    let slots = fill(&zswap, &zswap.root(), 20);
    write_back_all(&zswap, &zswap.root());
    to.replan(Plan::none().at(1, Fault::Hang));
    std::thread::scope(|scope| {
        let demoted = scope.spawn(|| zswap.demote(&zswap.root(), "slow", u64::MAX, &Cancel::new()).unwrap());
        while to.hanging() == 0 {
            std::thread::yield_now();
        }
        // They were read, and are being written; where they were read from breaks.
        from.replan(Plan::none().down_from(1, libc::EIO));
        let mut loads: Vec<_> = Vec::new();
        for slot in slots.iter().take(3) {
            let zswap = &zswap;
            loads.push(scope.spawn(move || {
                let mut back = Page::zeroed();
                zswap.load(slot, &mut back).map(|()| back[..] == page(slot.0)[..])
            }));
        }
        while from.operations() < 3 {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(to.release(), 1);
        assert_eq!(demoted.join().unwrap().objects, 20);
        loads.into_iter().for_each(|load| assert!(load.join().unwrap().unwrap()));
    });
    assert_eq!(zswap.stats().lost_pages, 0);
    check(&zswap, slots);
}

#[test]
fn a_device_with_tails_too_short_for_a_whole_page_is_cleaned() {
    let zswap = base().build().unwrap();
    let number = zswap.swapon(memory(512 << 10).whole_pages(true)).unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    // Fourteen take 15 of the 16 pages of a segment; the eighth segment is kept for cleaning.
    let slots = fill(&zswap, &vm, 7 * 14);
    (0..7).for_each(|_| assert!(matches!(zswap.shrink_memcg(&vm, 14), Shrunk::Written(_))));
    assert_eq!(zswap.device(number).unwrap().stats().objects, 7 * 14);
    slots.iter().step_by(2).for_each(|slot| assert!(zswap.free(slot)));
    let more = fill(&zswap, &vm, 30);
    assert!(matches!(zswap.shrink_memcg(&vm, 14), Shrunk::Written(_)), "{:?}", zswap.device(number).unwrap().stats());
    check(&zswap, more);
}
