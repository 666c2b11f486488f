//! Limits hold at every moment, and what they refuse says why.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use support::*;
use zspool::swap::{Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, Page};
use zspool::zswap::{Builder, Error, Stored, Unwritable, Zswap};

const N0: NodeId = NodeId(0);

fn base(limit: u64) -> Builder {
    Zswap::builder().pool_limit(limit).slots_in_use(1 << 17).address_space(256 << 20)
}

fn device(mib: usize) -> MemoryDevice {
    MemoryDevice::new(mib << 20, 4096)
}

#[test]
fn no_limit_is_exceeded_while_threads_store() {
    let zswap = base(2 << 20).device(device(64)).build().unwrap();
    let group = zswap.root().mkdir("group").unwrap();
    let vms: Vec<_> = (0..3).map(|t| group.mkdir(&format!("vm{t}")).unwrap()).collect();
    let limits = [300_000, 500_000, u64::MAX];
    zswap.set_zswap_max(&group, 1_000_000).unwrap();
    zswap.set_zswap_max(&vms[0], limits[0]).unwrap();
    zswap.set_zswap_max(&vms[1], limits[1]).unwrap();
    let slots = zswap.reserve(6000).unwrap();
    let done = AtomicBool::new(false);
    let samples = std::thread::scope(|s| {
        let sampler = s.spawn(|| {
            let mut samples = 0u64;
            while !done.load(Ordering::Relaxed) {
                assert!(group.usage() <= 1_000_000, "the group's limit");
                for (vm, limit) in vms.iter().zip(limits) {
                    assert!(vm.usage() <= limit, "a memcg's limit");
                }
                assert!(zswap.arena().backed_bytes() <= 2 << 20, "the pool's limit");
                samples += 1;
            }
            samples
        });
        let workers: Vec<_> = (0..3u64)
            .map(|t| {
                let (zswap, vm) = (&zswap, &vms[t as usize]);
                s.spawn(move || {
                    for k in 0..2000 {
                        let slot = slots.get(t * 2000 + k).unwrap();
                        zswap.store(slot, vm, N0, &compressible(t << 32 | k, 200 + (k as usize * 37) % 2000)).unwrap();
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        let samples = sampler.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
        samples
    });
    assert!(samples > 100, "the sampler ran");
    zswap.quiesce();
    zswap.assert_valid();
    let mut page = Page::zeroed();
    for t in 0..3u64 {
        for k in 0..2000 {
            zswap.load(slots.get(t * 2000 + k).unwrap(), &mut page).unwrap();
            assert!(page[..] == compressible(t << 32 | k, 200 + (k as usize * 37) % 2000)[..], "page {t}/{k}");
        }
    }
}

#[test]
fn limits_of_zero_and_one_send_pages_straight_to_the_device() {
    for limit in [0, 1] {
        let zswap = base(8 << 20).device(device(8)).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        zswap.set_zswap_max(&vm, limit).unwrap();
        let slots = zswap.reserve(3).unwrap();
        let page = compressible(1, 900);
        assert_eq!(zswap.store(slots.base(), &vm, N0, &page).unwrap(), Stored::WrittenThrough);
        assert_eq!(zswap.store(slots.get(1).unwrap(), &vm, N0, &Page::zeroed()).unwrap(), Stored::SameFilled);
        let large = page_of(Kind::LargePattern, 5);
        assert_eq!(zswap.store(slots.get(2).unwrap(), &vm, N0, &large).unwrap(), Stored::WrittenThrough);
        let mut back = Page::zeroed();
        zswap.load(slots.base(), &mut back).unwrap();
        assert!(back[..] == page[..]);
        zswap.load(slots.get(2).unwrap(), &mut back).unwrap();
        assert!(back[..] == large[..]);
        assert_eq!(vm.usage(), 0);
        zswap.assert_valid();
    }
}

#[test]
fn a_pool_limit_of_zero_or_one_sends_pages_straight_to_the_device() {
    for limit in [0, 1, 4095] {
        let zswap = base(limit).device(device(8)).build().unwrap();
        let slots = zswap.reserve(1).unwrap();
        let page = compressible(1, 900);
        assert_eq!(zswap.store(slots.base(), &zswap.root(), N0, &page).unwrap(), Stored::WrittenThrough);
        assert_eq!(zswap.stats().backed_bytes, 0);
        zswap.assert_valid();
    }
}

#[test]
fn without_a_device_a_limit_refuses_and_says_what_to_do() {
    let zswap = base(8 << 20).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    zswap.set_zswap_max(&vm, 0).unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    match zswap.store(slot, &vm, N0, &compressible(1, 900)) {
        Err(error @ Error::Limit { reason: Unwritable::NoDevice, .. }) => {
            let text = error.to_string();
            assert!(text.contains("vm") && text.contains("swap device"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    zswap.store(slot, &vm, N0, &Page::zeroed()).expect("a zero page costs nothing");
}

#[test]
fn a_full_pool_without_a_device_refuses_and_keeps_what_it_has() {
    let zswap = base(256 << 10).build().unwrap();
    let slots = zswap.reserve(1000).unwrap();
    let root = zswap.root();
    let mut stored = Vec::new();
    for (k, slot) in slots.iter().enumerate() {
        match zswap.store(slot, &root, N0, &compressible(k as u64, 1500)) {
            Ok(_) => stored.push(k as u64),
            Err(Error::PoolFull { reason: Unwritable::NoDevice, .. }) => assert!(!zswap.is_stored(slot)),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(stored.len() > 100 && stored.len() < 1000, "{}", stored.len());
    let mut page = Page::zeroed();
    for k in stored {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 1500)[..]);
    }
    zswap.quiesce();
    zswap.assert_valid();
}

#[test]
fn with_writeback_disabled_above_it_a_memcg_at_its_limit_is_refused() {
    let zswap = base(8 << 20).device(device(8)).build().unwrap();
    let parent = zswap.root().mkdir("parent").unwrap();
    let child = parent.mkdir("child").unwrap();
    parent.set_writeback(false).unwrap();
    zswap.set_zswap_max(&child, 20_000).unwrap();
    let slots = zswap.reserve(100).unwrap();
    let refused = slots
        .iter()
        .filter(|&slot| match zswap.store(slot, &child, N0, &compressible(slot.0, 900)) {
            Ok(_) => false,
            Err(Error::Limit { reason: Unwritable::Disabled, .. }) => true,
            Err(other) => panic!("{other:?}"),
        })
        .count();
    assert!(refused > 50, "{refused}");
    assert_eq!(zswap.stats().physical_pages, 0, "nothing was written behind its back");
    zswap.quiesce();
    zswap.assert_valid();
}

#[test]
fn a_memcg_at_its_limit_writes_back_only_its_own() {
    let zswap = base(8 << 20).device(device(8)).build().unwrap();
    let (a, b) = (zswap.root().mkdir("a").unwrap(), zswap.root().mkdir("b").unwrap());
    let slots = zswap.reserve(400).unwrap();
    for k in 0..200 {
        zswap.store(slots.get(k).unwrap(), &b, N0, &compressible(k, 900)).unwrap();
    }
    let before = b.usage();
    zswap.set_zswap_max(&a, 50_000).unwrap();
    for k in 200..400 {
        zswap.store(slots.get(k).unwrap(), &a, N0, &compressible(k, 900)).unwrap();
    }
    assert_eq!(b.usage(), before);
    assert!(a.usage() <= 50_000 && zswap.stats().physical_pages > 100);
    zswap.quiesce();
    zswap.assert_valid();
}

#[test]
fn a_limit_set_below_usage_reclaims_and_fails_nothing_stored() {
    let zswap = base(8 << 20).device(device(8)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(500).unwrap();
    for (k, slot) in slots.iter().enumerate() {
        zswap.store(slot, &vm, N0, &compressible(k as u64, 900)).unwrap();
    }
    zswap.set_zswap_max(&vm, 100_000).unwrap();
    let patience = std::time::Instant::now();
    while vm.usage() > 100_000 {
        assert!(patience.elapsed().as_secs() < 20, "reclaim did not bring usage under the new limit");
        std::thread::yield_now();
    }
    let mut page = Page::zeroed();
    for (k, slot) in slots.iter().enumerate() {
        zswap.load(slot, &mut page).unwrap();
        assert!(page[..] == compressible(k as u64, 900)[..]);
    }
}

#[test]
fn a_full_device_leaves_pages_in_the_pool_and_the_error_says_so() {
    let zswap = base(1 << 20).device(device(1)).build().unwrap();
    let root = zswap.root();
    let slots = zswap.reserve(4000).unwrap();
    let mut stored = Vec::new();
    let mut full = 0;
    for (k, slot) in slots.iter().enumerate() {
        match zswap.store(slot, &root, N0, &compressible(k as u64, 1500)) {
            Ok(_) => stored.push(k as u64),
            Err(Error::PoolFull { reason: Unwritable::DeviceFull, .. }) => full += 1,
            Err(other) => panic!("{other:?}"),
        }
        if full > 20 {
            break;
        }
    }
    assert!(full > 20 && stored.len() > 900, "{full} {}", stored.len());
    let mut page = Page::zeroed();
    for k in stored {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 1500)[..]);
    }
    zswap.quiesce();
    zswap.assert_valid();
}

/// Operation k of the device fails, for k = 1, 2, 3, ... until a run has no failure: nothing is lost or wrong, every counter
/// is exact, and a healthy round afterwards succeeds.
#[test]
fn a_device_that_fails_at_any_operation_loses_nothing() {
    for k in 1.. {
        let device = std::sync::Arc::new(FaultyDevice::new(device(4), Plan::none().at(k, Fault::Errno(libc::EIO))));
        let zswap = base(8 << 20).worker(false).device(device.clone()).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(100).unwrap();
        for slot in slots.iter() {
            zswap.store(slot, &vm, N0, &any_page(slot.0)).unwrap();
        }
        for _ in 0..6 {
            let _ = zswap.shrink_memcg(&vm, 20);
        }
        zswap.assert_valid();
        let mut page = Page::zeroed();
        let mut lost = 0;
        for slot in slots.iter() {
            match zswap.load(slot, &mut page) {
                Ok(()) => assert!(page[..] == any_page(slot.0)[..], "at operation {k}: slot {slot:?}"),
                // The one page that was read when the device failed, and it stays so.
                Err(Error::Lost { .. }) => {
                    assert!(matches!(zswap.load(slot, &mut page), Err(Error::Lost { .. })));
                    lost += 1;
                }
                Err(other) => panic!("at operation {k}: {other:?}"),
            }
        }
        assert_eq!((lost, zswap.stats().lost_pages), (zswap.stats().failed_loads, lost), "at operation {k}");
        assert!(lost <= 1, "at operation {k}");
        zswap.assert_valid();
        let tripped = device.tripped();
        device.replan(Plan::none());
        for slot in slots.iter() {
            zswap.store(slot, &vm, N0, &any_page(slot.0 + 7)).unwrap();
        }
        let _ = zswap.shrink_memcg(&vm, 200);
        slots.iter().for_each(|slot| assert!(zswap.free(slot)));
        zswap.assert_valid();
        assert_eq!(vm.usage(), 0);
        if !tripped {
            assert!(k > 10, "the scenario has more operations than {k}");
            return;
        }
    }
}
