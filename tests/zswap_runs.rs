//! Many slots at once, and slots that the instance chooses.
#![cfg(not(loom))]

mod support;

use std::collections::HashSet;
use support::*;
use zspool::swap::{self, MemoryDevice};
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::{Builder, Error, Shrunk, Stored, Zswap};

const N0: NodeId = NodeId(0);

fn small() -> Builder {
    Zswap::builder()
        .pool_limit(32 << 20)
        .address_space(128 << 20)
        .slots_in_use(1 << 16)
        .worker(false)
        .device(MemoryDevice::new(8 << 20, 4096))
}

fn read(zswap: &Zswap, slot: Slot) -> Page {
    let mut page = Page::zeroed();
    zswap.load(slot, &mut page).unwrap();
    page
}

fn pages(from: u64, n: u64, make: impl Fn(u64) -> Page) -> Vec<[u8; 4096]> {
    (from..from + n).map(|k| *make(k)).collect()
}

#[test]
fn a_run_that_is_refused_leaves_nothing_of_before_it() {
    let zswap = small().device(MemoryDevice::new(1 << 20, 4096)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    vm.set_writeback(false).unwrap();
    let slots = zswap.reserve(64).unwrap();
    let older = pages(0, 64, |k| compressible(k, 300));
    assert!(matches!(zswap.store_run(slots.base(), &vm, N0, &older), (64, Ok(()))));
    let others = zswap.reserve(1).unwrap().base();
    zswap.store(others, &vm, N0, &compressible(99, 300)).unwrap();

    vm.set_zswap_max(vm.usage() + 8 * 1024).unwrap();
    let newer = pages(1000, 64, |k| compressible(k, 2000));
    let (stored, result) = zswap.store_run(slots.base(), &vm, N0, &newer);
    assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
    assert!((1..64).contains(&stored), "{stored} were stored");
    for (k, slot) in slots.iter().enumerate() {
        if k < stored {
            assert!(read(&zswap, slot)[..] == newer[k][..]);
        } else {
            assert!(!zswap.is_stored(slot), "slot {k} holds a page of before the run");
        }
    }
    assert!(read(&zswap, others)[..] == compressible(99, 300)[..], "slots that are not of the run are left alone");
    zswap.assert_valid();
}

#[test]
fn runs_mix_pages_of_all_kinds_and_cross_clusters() {
    let zswap = small().build().unwrap();
    let slots = zswap.reserve(2048).unwrap();
    let first = slots.get(490).unwrap();
    let same = |k: u64| page_of(Kind::SmallPattern, k / 40);
    let mixed = |k: u64| if (k / 10).is_multiple_of(2) { same(k) } else { any_page(k) };
    for (round, make) in [&mixed as &dyn Fn(u64) -> Page, &same, &|k| any_page(k + 7), &mixed].into_iter().enumerate() {
        let run = pages(0, 300, make);
        assert!(matches!(zswap.store_run(first, &zswap.root(), N0, &run), (300, Ok(()))));
        let mut back = vec![[0; 4096]; 300];
        assert!(matches!(zswap.load_run(first, &mut back), (300, Ok(()))));
        assert!(back == run, "round {round}");
        zswap.assert_valid();
        let stats = zswap.stats();
        let stored = [stats.same_filled_pages, stats.pattern_pages, stats.compressed_pages, stats.incompressible_pages];
        assert_eq!(stored.iter().sum::<u64>() + stats.physical_pages, 300);
    }
    let gone = zswap.root().mkdir("gone").unwrap();
    gone.offline().unwrap();
    let (stored, result) = zswap.store_run(first, &gone, N0, &pages(0, 300, same));
    assert!(stored == 0 && matches!(result, Err(Error::Memcg(_))), "{result:?}");
    assert_eq!(zswap.free_run(SlotRange::new(slots.base(), 2048)), 0, "a refused run empties its slots");
    let (stored, result) = zswap.store_run(slots.base() + 4096, &zswap.root(), N0, &pages(0, 3, same));
    assert!(stored == 0 && matches!(result, Err(Error::Swap(swap::Error::NotReserved { .. }))), "{result:?}");
    zswap.assert_valid();
}

#[test]
fn ranges_and_lists_of_slots_are_emptied_whatever_backs_them() {
    let zswap = small().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(1 << 40).unwrap();
    let far = slots.get(1 << 39).unwrap();
    let fill = || {
        for k in 0..1500 {
            zswap.store(slots.get(k).unwrap(), &vm, N0, &any_page(k)).unwrap();
        }
        assert!(matches!(zswap.shrink_memcg(&vm, 400), Shrunk::Written(_)));
        zswap.store(far, &vm, N0, &any_page(3)).unwrap();
        for k in (0..1500).step_by(7) {
            (0..20).for_each(|_| assert!(zswap.dup(slots.get(k).unwrap()).is_ok()));
        }
    };
    fill();
    let part = SlotRange::new(slots.get(100).unwrap(), 1000);
    assert_eq!(zswap.free_run(part), 1000);
    assert_eq!(zswap.free_run(part), 0);
    zswap.assert_valid();
    for k in [0, 99, 1100, 1499] {
        assert!(read(&zswap, slots.get(k).unwrap())[..] == any_page(k)[..], "{k} is outside of the range");
    }
    assert_eq!(zswap.free_run(slots), 501, "the whole range, by what is there");
    zswap.quiesce();
    zswap.assert_valid();
    assert_eq!((zswap.metadata().touched_clusters, vm.usage()), (0, 0));

    fill();
    let mut some: Vec<Slot> = (0..1500).step_by(3).map(|k| slots.get(k).unwrap()).collect();
    some.extend([far, far, slots.get(9000).unwrap(), slots.get(1).unwrap()]);
    some.swap(3, 400);
    assert_eq!(zswap.free_many(&some), 502, "a slot named twice or never stored counts once or not");
    assert!(zswap.is_stored(slots.get(2).unwrap()) && !zswap.is_stored(far));
    zswap.assert_valid();
    assert_eq!(zswap.free_run(slots), 999);
    zswap.assert_valid();
    assert_eq!(zswap.root().usage(), 0);
}

#[test]
fn slots_the_instance_chooses_are_nobody_elses_until_they_are_put() {
    let zswap = small().build().unwrap();
    let root = zswap.root();
    let mine: Vec<Slot> = (0..1500).map(|k| zswap.store_new(&root, N0, &any_page(k)).unwrap()).collect();
    assert_eq!(mine.iter().collect::<HashSet<_>>().len(), 1500);
    assert!(matches!(zswap.shrink_memcg(&root, 300), Shrunk::Written(_)));
    for (k, &slot) in mine.iter().enumerate() {
        assert!(read(&zswap, slot)[..] == any_page(k as u64)[..]);
    }
    zswap.assert_valid();
    zswap.dup(mine[0]).unwrap();
    assert_eq!((zswap.put(mine[0]).unwrap(), zswap.put(mine[1]).unwrap()), (1, 0));
    assert_eq!(zswap.free_many(&mine[2..1000]), 998);
    let again: HashSet<Slot> = (0..1000).map(|k| zswap.store_new(&root, N0, &any_page(k)).unwrap()).collect();
    assert!(!again.contains(&mine[0]) && mine[1000..].iter().all(|slot| !again.contains(slot)));
    assert!(again.iter().filter(|slot| mine.contains(slot)).count() > 900, "numbers are used again");
    assert!(read(&zswap, mine[0])[..] == any_page(0)[..]);
    // A range never meets them.
    let range = zswap.reserve(5000).unwrap();
    assert!(again.iter().chain(&mine).all(|&slot| !range.contains(slot)));
    zswap.assert_valid();
}

#[test]
fn a_page_that_is_refused_takes_no_slot() {
    let zswap = small().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    vm.set_writeback(false).unwrap();
    vm.set_zswap_max(0).unwrap();
    for k in 0..2000 {
        assert!(matches!(zswap.store_new(&vm, N0, &compressible(k, 500)), Err(Error::Limit { .. })));
    }
    assert!(zswap.metadata().touched_clusters <= 1, "the slot that was claimed is used again");
    let same = zswap.store_new(&vm, N0, &Page::zeroed()).unwrap();
    assert!(matches!(zswap.store(same, &vm, N0, &Page::zeroed()), Ok(Stored::SameFilled)));
    zswap.assert_valid();
    let tiny = Zswap::builder().slots_in_use(1024).address_space(16 << 20).worker(false).build().unwrap();
    let all: HashSet<Slot> = (0..1024).map(|_| tiny.store_new(&tiny.root(), N0, &Page::zeroed()).unwrap()).collect();
    assert_eq!(all.len(), 1024);
    let refused = tiny.store_new(&tiny.root(), N0, &Page::zeroed());
    assert!(matches!(refused, Err(Error::Swap(swap::Error::TooManySlots { in_use: 1024 }))), "{refused:?}");
    tiny.assert_valid();
}
