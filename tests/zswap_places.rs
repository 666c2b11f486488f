//! Places on devices are charged to their owners as swap, to the byte, at every level.

mod support;

use support::*;
use zspool::memcg::{Counter, Memcg, MemcgEvent};
use zspool::swap::{Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Builder, Error, Installed, Shrunk, Stored, Taken, Unwritable, Zswap};

const N0: NodeId = NodeId(0);

fn base() -> Builder {
    Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 13).address_space(64 << 20).worker(false)
}

fn device() -> MemoryDevice {
    MemoryDevice::new(8 << 20, 4096)
}

fn fill(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, range: std::ops::Range<u64>) {
    for k in range {
        zswap.store(slots.get(k).unwrap(), memcg, N0, &compressible(k, 300 + k as usize % 900)).unwrap();
    }
}

fn swap(memcg: &Memcg) -> u64 {
    memcg.current(Counter::Swap)
}

fn on_device(zswap: &Zswap) -> u64 {
    zswap.stats().area.unwrap().live_bytes
}

#[test]
fn what_lies_on_the_device_is_charged_and_what_leaves_it_is_not() {
    let zswap = base().device(device()).build().unwrap();
    let parent = zswap.root().mkdir("parent").unwrap();
    let vm = parent.mkdir("vm").unwrap();
    let slots = zswap.reserve(100).unwrap();
    fill(&zswap, &vm, slots, 0..100);
    assert_eq!((swap(&vm), swap(&parent)), (0, 0), "what lies in the pool takes no place");
    let memory = vm.current(Counter::Memory);
    assert!(matches!(zswap.shrink_memcg(&vm, 100), Shrunk::Written(_)));
    let full = swap(&vm);
    assert_eq!((full, swap(&parent), swap(&zswap.root())), (on_device(&zswap), full, full));
    assert!(full > 100 * 300 && memory > 0 && vm.current(Counter::Memory) == 0);
    zswap.assert_valid();

    // Freed, put by its last reference, taken, stored over, stored over with what needs no memory.
    let slot = |k| slots.get(k).unwrap();
    assert!(zswap.free(slot(0)));
    zswap.dup(slot(1)).unwrap();
    let two = swap(&vm);
    assert!(two < full && two == on_device(&zswap));
    zswap.put(slot(1)).unwrap();
    assert_eq!(swap(&vm), two, "the second reference keeps it");
    zswap.put(slot(1)).unwrap();
    assert!(swap(&vm) < two);
    let before = swap(&vm);
    assert_eq!(zswap.take_with(slot(2), |_| Installed::No).unwrap(), Taken::Kept);
    assert_eq!(swap(&vm), before);
    assert_eq!(zswap.take_with(slot(2), |_| Installed::Yes).unwrap(), Taken::Freed);
    fill(&zswap, &parent, slots, 3..4);
    zswap.store(slot(4), &vm, N0, &Page::zeroed()).unwrap();
    assert_eq!((swap(&vm), zswap.stats().physical_pages), (on_device(&zswap), 95));
    zswap.assert_valid();
    // A load keeps it.
    zswap.load(slot(50), &mut Page::zeroed()).unwrap();
    assert_eq!(swap(&vm), on_device(&zswap));
    slots.iter().for_each(|slot| assert!(zswap.free(slot) || slot.0 - slots.base().0 < 3));
    assert_eq!((swap(&vm), swap(&parent), on_device(&zswap)), (0, 0, 0));
    zswap.assert_valid();
}

#[test]
fn a_memcg_that_goes_leaves_its_places_to_its_parent() {
    let zswap = base().device(device()).build().unwrap();
    let parent = zswap.root().mkdir("parent").unwrap();
    let slots = zswap.reserve(200).unwrap();
    let empty = zswap.tree().census();
    for round in 0..3 {
        let vm = parent.mkdir("vm").unwrap();
        fill(&zswap, &vm, slots, round * 50..round * 50 + 50);
        assert!(matches!(zswap.shrink_memcg(&vm, 50), Shrunk::Written(_)));
        let (own, all) = (swap(&vm), swap(&parent));
        zswap.offline(&vm).unwrap();
        assert_eq!((swap(&vm), swap(&parent)), (0, all));
        assert!(own > 0 && own <= all);
        zswap.assert_valid();
    }
    assert_eq!(zswap.tree().census().objcgs, empty.objcgs + 3, "places keep the objcgs of who is gone");
    (0..150).for_each(|k| assert!(zswap.free(slots.get(k).unwrap())));
    assert_eq!((swap(&parent), zswap.tree().census().objcgs), (0, empty.objcgs));
    zswap.assert_valid();
}

#[test]
fn at_its_swap_limit_a_memcg_keeps_its_pages_in_the_pool_and_others_go_on() {
    let zswap = base().device(device()).build().unwrap();
    let parent = zswap.root().mkdir("parent").unwrap();
    let (vm, other) = (parent.mkdir("vm").unwrap(), parent.mkdir("other").unwrap());
    let slots = zswap.reserve(400).unwrap();
    fill(&zswap, &vm, slots, 0..100);
    fill(&zswap, &other, slots, 100..200);
    vm.set_max(Counter::Swap, 10_000).unwrap();
    assert!(matches!(zswap.shrink_memcg(&vm, 100), Shrunk::Written(_)));
    assert!((8_000..=10_000).contains(&swap(&vm)), "{}", swap(&vm));
    let events = |memcg: &Memcg| (memcg.events(MemcgEvent::SwapMax), memcg.events(MemcgEvent::SwapFail));
    assert_eq!((events(&vm), events(&parent), vm.local_events(MemcgEvent::SwapMax)), ((1, 1), (1, 1), 1));
    assert_eq!(parent.local_events(MemcgEvent::SwapFail), 0);
    vm.set_max(Counter::Swap, 0).unwrap();
    assert_eq!(zswap.shrink_memcg(&vm, 100), Shrunk::NoneWritten, "lowered below what is there: nothing fails");
    assert_eq!(events(&vm), (2, 2));
    assert!(matches!(zswap.shrink_memcg(&other, 100), Shrunk::Written(_)));
    assert_eq!(swap(&parent), on_device(&zswap));
    let mut page = Page::zeroed();
    for k in 0..200 {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 300 + k as usize % 900)[..]);
    }
    zswap.assert_valid();
    // A limit above counts as well; and what cannot be admitted to the pool cannot go through to the device.
    vm.set_max(Counter::Swap, u64::MAX).unwrap();
    parent.set_max(Counter::Swap, swap(&parent)).unwrap();
    zswap.set_zswap_max(&vm, 0).unwrap();
    let refused = zswap.store(slots.get(300).unwrap(), &vm, N0, &compressible(1, 900)).unwrap_err();
    assert!(matches!(refused, Error::Limit { reason: Unwritable::SwapMax, .. }), "{refused}");
    assert!(refused.to_string().contains("memory.swap.max is reached: raise it"), "{refused}");
    parent.set_max(Counter::Swap, u64::MAX).unwrap();
    let before = swap(&vm);
    assert_eq!(zswap.store(slots.get(300).unwrap(), &vm, N0, &compressible(1, 900)).unwrap(), Stored::WrittenThrough);
    assert!(swap(&vm) > before + 900 && swap(&parent) == on_device(&zswap));
    zswap.assert_valid();
}

#[test]
fn a_store_that_no_place_can_make_room_for_is_told_of_the_swap_limit() {
    for scan in [1, 16] {
        let zswap = base().scan(64, scan).device(device()).build().unwrap();
        let parent = zswap.root().mkdir("parent").unwrap();
        let vm = parent.mkdir("vm").unwrap();
        let slots = zswap.reserve(200).unwrap();
        fill(&zswap, &vm, slots, 0..100);
        for (limit, place) in [(&vm, &parent), (&parent, &vm), (&vm, &vm)] {
            zswap.set_zswap_max(limit, limit.usage()).unwrap();
            place.set_max(Counter::Swap, swap(place)).unwrap();
            let refused = zswap.store(slots.get(150).unwrap(), &vm, N0, &compressible(1, 2000)).unwrap_err();
            assert!(matches!(refused, Error::Limit { reason: Unwritable::SwapMax, .. }), "scan {scan}: {refused}");
            place.set_max(Counter::Swap, u64::MAX).unwrap();
            zswap.store(slots.get(150).unwrap(), &vm, N0, &compressible(1, 2000)).unwrap();
            limit.set_zswap_max(u64::MAX).unwrap();
            zswap.assert_valid();
        }
    }
}

#[test]
fn writes_that_fail_charge_nothing() {
    let plan = || Plan::none().at(1, Fault::Errno(libc::EIO)).at(2, Fault::Errno(libc::ENOSPC));
    let device = std::sync::Arc::new(FaultyDevice::new(device(), plan()));
    let zswap = base().device(device.clone()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(100).unwrap();
    fill(&zswap, &vm, slots, 0..50);
    for _ in 0..2 {
        assert_eq!(zswap.shrink_memcg(&vm, 50), Shrunk::NoneWritten);
        assert_eq!(swap(&vm), 0);
        zswap.assert_valid();
    }
    // Nor does a page that was to go straight to the device.
    zswap.set_zswap_max(&vm, 0).unwrap();
    device.replan(plan());
    for _ in 0..2 {
        let refused = zswap.store(slots.get(90).unwrap(), &vm, N0, &compressible(1, 900)).unwrap_err();
        assert!(matches!(refused, Error::Limit { reason: Unwritable::WriteFailed, .. }), "{refused}");
        assert_eq!(swap(&vm), 0);
        zswap.assert_valid();
    }
    assert_eq!(zswap.stats().failed_writes, 4, "of either way");
    let never_reserved = zspool::units::Slot(1 << 60);
    assert!(matches!(zswap.store(never_reserved, &vm, N0, &compressible(1, 900)), Err(Error::Swap(_))));
    assert_eq!((swap(&vm), on_device(&zswap)), (0, 0));
    zswap.assert_valid();
}

#[test]
fn a_device_without_room_is_counted_and_charges_nothing() {
    let zswap = base().device(MemoryDevice::new(512 << 10, 4096)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(600).unwrap();
    for k in 0..200 {
        zswap.store(slots.get(k).unwrap(), &vm, N0, &page_of(Kind::Random, k)).unwrap();
    }
    while matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)) {}
    assert!(swap(&vm) > (40 * PAGE_SIZE) as u64 && swap(&vm) == on_device(&zswap));
    assert_eq!((vm.events(MemcgEvent::SwapMax), vm.events(MemcgEvent::SwapFail)), (0, 1));
    zswap.assert_valid();
}

#[test]
fn nothing_is_charged_when_the_instance_is_gone() {
    let zswap = base().device(device()).build().unwrap();
    let (root, slots) = (zswap.root(), zswap.reserve(100).unwrap());
    let vm = root.mkdir("vm").unwrap();
    fill(&zswap, &vm, slots, 0..100);
    assert!(matches!(zswap.shrink_memcg(&vm, 40), Shrunk::Written(_)));
    assert!(swap(&vm) > 0 && vm.usage() > 0);
    drop(zswap);
    assert_eq!(Counter::ALL.map(|counter| vm.current(counter)), [0, 0, 0]);
    vm.tree().assert_valid();
    drop(vm);
    assert_eq!(root.tree().census().objcgs, 2);
    root.tree().by_path("/vm").unwrap().offline().unwrap();
    assert_eq!(root.tree().census().objcgs, 1, "no place keeps its objcg");
}
