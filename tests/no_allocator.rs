//! `load`, `take_with`, `put`, `free` and `swap_out_unaided` run inside fault and signal handlers: an allocator that aborts stands under them.

#[path = "support/forbidden_allocator.rs"]
mod forbidden_allocator;
mod support;

use forbidden_allocator::without_allocator;
use support::*;
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, Page};
use zspool::zswap::{Error, Installed, Shrunk, SwapOutError, Taken, Unwritable, Zswap};

#[test]
fn loading_taking_and_freeing_never_call_the_allocator() {
    let zswap = Zswap::builder()
        .pool_limit(32 << 20)
        .slots_in_use(1 << 16)
        .address_space(256 << 20)
        .worker(false)
        .device(MemoryDevice::new(8 << 20, 4096))
        .build()
        .unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(2000).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &vm, NodeId(0), &any_page(slot.0)).unwrap();
    }
    assert!(matches!(zswap.shrink_memcg(&vm, 500), Shrunk::Written(_)), "some are on the device");
    zswap.offline(&vm).unwrap(); // the last put of its objcg happens below, too
    let mut page = Page::zeroed();
    let expected: Vec<Page> = slots.iter().map(|slot| any_page(slot.0)).collect();
    for (slot, expected) in slots.iter().zip(&expected) {
        let taken = without_allocator(|| {
            zswap.load(slot, &mut page).unwrap();
            assert!(page[..] == expected[..]);
            match slot.0 % 3 {
                0 => zswap.take_with(slot, |_| Installed::Yes).unwrap(),
                1 => {
                    assert!(zswap.free(slot));
                    Taken::Freed
                }
                _ => {
                    assert_eq!(zswap.put(slot).unwrap(), 0);
                    Taken::Freed
                }
            }
        });
        assert_eq!(taken, Taken::Freed);
    }
    zswap.assert_valid();
    assert_eq!(zswap.root().usage(), 0);
}

#[test]
fn swapping_out_unaided_never_calls_the_allocator_and_refuses_at_once() {
    let zswap = Zswap::builder()
        .pool_limit(1 << 20)
        .slots_in_use(1 << 18)
        .address_space(256 << 20)
        .worker(false)
        .device(MemoryDevice::new(8 << 20, 4096))
        .build()
        .unwrap();
    let group = zswap.root().mkdir("group").unwrap();
    let vm = group.mkdir("vm").unwrap();
    // A page in each of many clusters, and all of some.
    let slots = zswap.reserve(1 << 17).unwrap();
    let charge = vm.charge_resident(4096).unwrap();
    let unprepared = zswap.swap_out_unaided(slots.base(), charge, NodeId(0), &any_page(0)).unwrap_err();
    assert!(matches!(unprepared.error, Error::Unprepared { .. }), "{}", unprepared.error);
    drop(unprepared);
    zswap.prepare_stores(&vm).unwrap();
    let mut stored = Vec::new();
    let mut refused = 0;
    for k in 0..3000u64 {
        let slot = slots.base() + if k % 4 == 0 { k / 4 * 512 % (1 << 17) } else { k };
        let page = if k % 50 == 0 { Page::zeroed() } else { any_page(k) };
        let charge = vm.charge_resident(4096).unwrap();
        let done = without_allocator(|| zswap.swap_out_unaided(slot, charge, NodeId(0), &page));
        match done {
            Ok(_) => stored.push((slot, page)),
            Err(SwapOutError { error: Error::Unprepared { .. }, resident }) => {
                drop(resident);
                stored.retain(|(other, _)| *other != slot);
                zswap.prepare_stores(&vm).unwrap();
            }
            Err(SwapOutError { error: error @ Error::PoolFull { reason: Unwritable::NotTried, .. }, resident }) => {
                assert!(error.to_string().contains("was not to wait"), "{error}");
                without_allocator(|| drop(resident));
                stored.retain(|(other, _)| *other != slot);
                refused += 1;
                if refused % 20 == 0 {
                    assert!(matches!(zswap.shrink_memcg(&vm, 300), Shrunk::Written(_)));
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 20 && stored.len() > 1000, "{refused} refused, {} stored", stored.len());
    let mut page = Page::zeroed();
    let mut seen = std::collections::HashSet::new();
    for (slot, expected) in stored.iter().rev().filter(|(slot, _)| seen.insert(*slot)) {
        zswap.load(*slot, &mut page).unwrap();
        assert!(page[..] == expected[..]);
    }
    vm.set_zswap_max(4096).unwrap();
    let charge = vm.charge_resident(4096).unwrap();
    let hit = without_allocator(|| zswap.swap_out_unaided(slots.base(), charge, NodeId(0), &any_page(9))).unwrap_err();
    assert!(matches!(hit.error, Error::Limit { reason: Unwritable::NotTried, .. }), "{}", hit.error);
    assert_eq!(hit.resident.bytes(), 4096);
    drop(hit);
    zswap.assert_valid();
}

#[test]
fn references_without_end_and_many_slots_at_once_never_call_the_allocator() {
    let zswap = Zswap::builder()
        .pool_limit(32 << 20)
        .slots_in_use(1 << 16)
        .address_space(256 << 20)
        .worker(false)
        .device(MemoryDevice::new(8 << 20, 4096))
        .build()
        .unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(2000).unwrap();
    let fill = || {
        for slot in slots.iter() {
            zswap.store(slot, &vm, NodeId(0), &any_page(slot.0)).unwrap();
        }
        assert!(matches!(zswap.shrink_memcg(&vm, 500), Shrunk::Written(_)), "some are on the device");
    };
    fill();
    for slot in slots.iter().step_by(5) {
        without_allocator(|| {
            // Into the table of counts and out of it, in a cluster that had none.
            (2..=40).for_each(|n| assert_eq!(zswap.dup(slot).unwrap(), n));
            (1..40).rev().for_each(|n| assert_eq!(zswap.put(slot).unwrap(), n));
            (2..=20).for_each(|n| assert_eq!(zswap.dup(slot).unwrap(), n));
        });
    }
    let many: Vec<_> = slots.iter().step_by(2).collect();
    assert_eq!(without_allocator(|| zswap.free_many(&many)), 1000);
    assert_eq!(without_allocator(|| zswap.free_run(slots)), 1000);
    zswap.assert_valid();
    fill();
    assert_eq!(without_allocator(|| zswap.free_run(slots)), 2000);
    zswap.assert_valid();
    assert_eq!(zswap.root().usage(), 0);
}

#[test]
fn reading_a_file_alone_and_together_never_calls_the_allocator() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Zswap::builder().slots_in_use(1 << 16).address_space(256 << 20).worker(false);
    let zswap = builder.swapfile(folder.path().join("swap"), 16 << 20).build().unwrap();
    let slots = zswap.reserve(2000).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &zswap.root(), NodeId(0), &any_page(slot.0)).unwrap();
    }
    while let Shrunk::Written(_) = zswap.shrink_memcg(&zswap.root(), 500) {}
    let expected: Vec<Page> = slots.iter().map(|slot| any_page(slot.0)).collect();
    // Several at once, so that rings are made on the way.
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (zswap, expected) = (&zswap, &expected);
            scope.spawn(move || {
                let mut page = Page::zeroed();
                let mut run = vec![[0; zspool::units::PAGE_SIZE]; 64];
                for first in (thread * 64..2000 - 64).step_by(192) {
                    let slot = slots.get(first as u64).unwrap();
                    without_allocator(|| {
                        assert!(matches!(zswap.load_run(slot, &mut run), (64, Ok(()))));
                        zswap.load(slot, &mut page).unwrap();
                    });
                    assert!(run.iter().zip(&expected[first..]).all(|(read, page)| read[..] == page[..]));
                    assert!(page[..] == expected[first][..]);
                }
            });
        }
    });
    zswap.assert_valid();
}
