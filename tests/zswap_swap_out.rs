//! `swap_out`: a page that is charged as resident becomes its slot's content.

mod support;

use support::*;
use zspool::memcg::{Counter, Event, Memcg};
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, PAGE_SIZE, Page};
use zspool::zswap::{Builder, Error, Help, Stored, Unwritable, Zswap};

const N0: NodeId = NodeId(0);
const PAGE: u64 = PAGE_SIZE as u64;

fn base() -> Builder {
    Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 14).address_space(64 << 20).worker(false)
}

fn with_device() -> Zswap {
    base().device(MemoryDevice::new(8 << 20, 4096)).build().unwrap()
}

/// Memory and Zswap.
fn usage(memcg: &Memcg) -> (u64, u64) {
    (memcg.current(Counter::Memory), memcg.current(Counter::Zswap))
}

#[test]
fn a_memcg_full_of_resident_pages_swaps_them_out_without_room_for_another_byte() {
    let zswap = with_device();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(16).unwrap();
    let residents: Vec<_> = slots.iter().map(|_| vm.charge_resident(PAGE).unwrap()).collect();
    vm.set_max(Counter::Memory, 16 * PAGE).unwrap();
    assert!(zswap.store(slots.base(), &vm, N0, &compressible(0, 700)).is_err(), "there is no room for an object");
    let mut sum = 0;
    for (k, resident) in residents.into_iter().enumerate() {
        let stored = zswap.swap_out(slots.get(k as u64).unwrap(), resident, N0, &compressible(k as u64, 700)).unwrap();
        let Stored::Compressed { slot_bytes, .. } = stored else { panic!("{stored:?}") };
        sum += slot_bytes as u64;
        assert_eq!(usage(&vm), (sum + (15 - k as u64) * PAGE, sum));
    }
    for (k, slot) in slots.iter().enumerate() {
        let mut page = Page::zeroed();
        zswap.load(slot, &mut page).unwrap();
        assert!(page[..] == compressible(k as u64, 700)[..]);
        zswap.free(slot);
    }
    assert_eq!(usage(&vm), (0, 0));
    zswap.assert_valid();
}

#[test]
fn what_needs_no_memory_gives_the_page_back() {
    let zswap = with_device();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(3).unwrap();
    let out = |k: u64, page: &Page| {
        let resident = vm.charge_resident(PAGE).unwrap();
        zswap.swap_out(slots.get(k).unwrap(), resident, N0, page).unwrap()
    };
    assert_eq!((out(0, &Page::zeroed()), usage(&vm)), (Stored::SameFilled, (0, 0)));
    assert!(matches!(out(1, &page_of(Kind::LargePattern, 5)), Stored::Pattern { .. }));
    let (memory, compressed) = usage(&vm);
    assert!(memory == compressed && compressed > 0);
    assert_eq!(out(2, &page_of(Kind::Random, 5)), Stored::Incompressible);
    assert_eq!(usage(&vm), (PAGE + memory, PAGE + memory), "a raw page is as large as it was");
    zswap.assert_valid();
}

#[test]
fn a_store_that_is_to_win_memory_takes_no_page_that_hardly_shrinks_into_the_pool() {
    let (alone, with) = (base().build().unwrap(), with_device());
    for (zswap, help, place) in [
        (&alone, Help::None, Err(Unwritable::NoDevice)),
        (&alone, Help::All, Err(Unwritable::NoDevice)),
        (&with, Help::None, Err(Unwritable::NotTried)),
        (&with, Help::Device, Ok(())),
        (&with, Help::All, Ok(())),
    ] {
        let vm = zswap.root().mkdir(&format!("{help:?}")).unwrap();
        zswap.prepare_stores(&vm).unwrap();
        let slots = zswap.reserve(4).unwrap();
        let out = |k: u64, page: &Page| {
            let resident = vm.charge_resident(PAGE).unwrap();
            zswap.swap_out_to_win(slots.get(k).unwrap(), resident, N0, page, help)
        };
        // Noise, and what shrinks by a sixteenth alone; then what shrinks by a quarter.
        for (k, page) in [page_of(Kind::Random, 5), compressible(5, 3840)].iter().enumerate() {
            match (out(k as u64, page), place) {
                (Ok(stored), Ok(())) => assert_eq!((stored, usage(&vm)), (Stored::WrittenThrough, (0, 0))),
                (Err(refused), Err(why)) => {
                    assert!(
                        matches!(refused.error, Error::Incompressible { reason, .. } if reason == why),
                        "{refused}"
                    );
                    assert_eq!((refused.resident.bytes(), usage(&vm)), (PAGE, (PAGE, 0)));
                }
                (came, expected) => panic!("{help:?}: {came:?}, not {expected:?}"),
            }
        }
        assert!(matches!(out(2, &compressible(6, 3000)), Ok(Stored::Compressed { .. })));
        assert_eq!(out(3, &Page::zeroed()).unwrap(), Stored::SameFilled);
        if place.is_ok() {
            let mut page = Page::zeroed();
            zswap.load(slots.base(), &mut page).unwrap();
            assert!(page[..] == page_of(Kind::Random, 5)[..]);
            vm.set_max(Counter::Swap, vm.current(Counter::Swap)).unwrap();
            let refused = out(2, &page_of(Kind::Random, 6)).unwrap_err();
            assert!(matches!(refused.error, Error::Incompressible { reason: Unwritable::SwapMax, .. }), "{refused}");
            assert!(!zswap.is_stored(slots.get(2).unwrap()), "no older copy stays behind");
        }
        assert_eq!(zswap.stats().incompressible_pages, 0);
        slots.iter().for_each(|slot| _ = zswap.free(slot));
        assert_eq!(usage(&vm), (0, 0));
        zswap.assert_valid();
    }
}

/// The kernel's test_swapin_nozswap: with `memory.zswap.max` at 0 pages come and go, and zswap has nothing to do with it.
#[test]
fn under_a_zswap_max_of_zero_pages_go_straight_to_the_device_and_come_back() {
    let zswap = with_device();
    let vm = zswap.root().mkdir("vm").unwrap();
    vm.set_zswap_max(0).unwrap();
    let slots = zswap.reserve(64).unwrap();
    for (k, slot) in slots.iter().enumerate() {
        let resident = vm.charge_resident(PAGE).unwrap();
        let stored = zswap.swap_out(slot, resident, N0, &compressible(k as u64, 700)).unwrap();
        assert_eq!((stored, usage(&vm)), (Stored::WrittenThrough, (0, 0)));
    }
    for (k, slot) in slots.iter().enumerate() {
        let mut page = Page::zeroed();
        zswap.load(slot, &mut page).unwrap();
        assert!(page[..] == compressible(k as u64, 700)[..]);
    }
    let stat = vm.stat().unwrap();
    assert_eq!((stat.events(Event::ZswpOut), stat.events(Event::ZswpIn)), (0, 0));
    zswap.assert_valid();
}

#[test]
fn a_page_that_is_refused_keeps_its_charge_and_its_slot_is_empty() {
    let zswap = base().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &vm, N0, &compressible(1, 700)).unwrap();
    vm.set_zswap_max(0).unwrap();
    let resident = vm.charge_resident(PAGE).unwrap();
    let refused = zswap.swap_out(slot, resident, N0, &compressible(2, 700)).unwrap_err();
    assert!(matches!(refused.error, Error::Limit { reason: Unwritable::NoDevice, .. }), "{refused}");
    assert!(!zswap.is_stored(slot), "no older copy stays behind");
    assert_eq!((refused.resident.bytes(), usage(&vm)), (PAGE, (PAGE, 0)));
    // With what came back it can be tried again.
    vm.set_zswap_max(u64::MAX).unwrap();
    let again = zswap.swap_out(slot, refused.resident, N0, &compressible(2, 700)).unwrap();
    assert!(matches!(again, Stored::Compressed { .. }));
    // A slot that was never reserved, and a charge that is less than the page takes.
    let nowhere = zspool::units::Slot(1 << 40);
    let refused = zswap.swap_out(nowhere, vm.charge_resident(PAGE).unwrap(), N0, &compressible(2, 700)).unwrap_err();
    assert!(matches!(refused.error, Error::Swap(_)) && refused.resident.bytes() == PAGE);
    drop(refused);
    let refused = zswap.swap_out(slot, vm.charge_resident(100).unwrap(), N0, &compressible(2, 700)).unwrap_err();
    assert!(matches!(refused.error, Error::Pool(_)) && refused.resident.bytes() == 100, "{refused}");
    drop(refused);
    assert_eq!(usage(&vm), (0, 0), "the slot was emptied, and both charges given back");
    zswap.assert_valid();
}

#[test]
fn who_must_not_allocate_and_is_not_prepared_finds_its_slot_empty_too() {
    let zswap = base().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &vm, N0, &compressible(1, 700)).unwrap();
    let resident = vm.charge_resident(PAGE).unwrap();
    let refused = zswap.swap_out_unaided(slot, resident, N0, &compressible(2, 700)).unwrap_err();
    assert!(matches!(refused.error, Error::Unprepared { .. }), "{refused}");
    assert!(!zswap.is_stored(slot), "no older copy stays behind");
    assert_eq!((refused.resident.bytes(), usage(&vm)), (PAGE, (PAGE, 0)));
    zswap.assert_valid();
}

#[test]
fn a_removed_memcgs_page_is_its_parents() {
    let zswap = with_device();
    let parent = zswap.root().mkdir("parent").unwrap();
    let vm = parent.mkdir("vm").unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    let resident = vm.charge_resident(PAGE).unwrap();
    zswap.offline(&vm).unwrap();
    assert_eq!(usage(&parent), (PAGE, 0));
    let stored = zswap.swap_out(slot, resident, N0, &compressible(1, 700)).unwrap();
    let Stored::Compressed { slot_bytes, .. } = stored else { panic!("{stored:?}") };
    assert_eq!(usage(&parent), (slot_bytes as u64, slot_bytes as u64));
    zswap.assert_valid();
}

/// A client that keeps 16 pages resident under a `memory.max` of 16 pages, with threads that charge, swap out and fault back in.
#[test]
fn threads_at_memory_max_never_pass_it_and_lose_nothing() {
    let zswap = base().worker(true).device(MemoryDevice::new(8 << 20, 4096)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let max = 24 * PAGE;
    vm.set_max(Counter::Memory, max).unwrap();
    let slots = zswap.reserve(1200).unwrap();
    std::thread::scope(|s| {
        for t in 0..3u64 {
            let (zswap, vm) = (&zswap, &vm);
            s.spawn(move || {
                for k in t * 400..(t + 1) * 400 {
                    // Zswap is the only reclaimer: what is compressed makes room for what is resident.
                    let resident = vm.charge_resident(PAGE).unwrap();
                    assert!(vm.current(Counter::Memory) <= max);
                    zswap.swap_out(slots.get(k).unwrap(), resident, N0, &compressible(k, 700)).unwrap();
                    assert!(vm.current(Counter::Memory) <= max);
                }
            });
        }
    });
    zswap.quiesce();
    zswap.assert_valid();
    let mut page = Page::zeroed();
    for k in 0..1200 {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 700)[..]);
    }
    assert!(zswap.stats().physical_pages > 800);
}
