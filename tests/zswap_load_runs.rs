//! Runs of pages that lie in the pool, on devices, nowhere; on devices that fail, hang, and are few of buffers.

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::*;
use zspool::swap::{DeviceOptions, Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot, SlotRange};
use zspool::zswap::{Error, Zswap};

type Faulty = Arc<FaultyDevice<MemoryDevice>>;

fn page(slot: Slot) -> Page {
    match slot.0 % 9 {
        0 => compressible(slot.0, PAGE_SIZE),
        1 => Page::zeroed(),
        k => compressible(slot.0, 300 * k as usize),
    }
}

/// 256 pages; the even ones are on two devices when it returns, mostly.
fn instance() -> (Faulty, Zswap, SlotRange) {
    let device = || FaultyDevice::with_timeout(MemoryDevice::new(4 << 20, 4096), Plan::none(), Duration::ZERO);
    let faulty = Arc::new(device());
    let builder = Zswap::builder().slots_in_use(1 << 13).address_space(64 << 20).worker(false).sampling(None);
    let builder = builder.swap(DeviceOptions::device(Arc::clone(&faulty)).tier("a", 0));
    let zswap = builder.swap(DeviceOptions::device(device()).tier("a", 0)).build();
    let zswap = zswap.unwrap_or_else(|error| panic!("{error}"));
    let slots = zswap.reserve(256).unwrap();
    let cold = zswap.root().mkdir("cold").unwrap();
    for slot in slots.iter().filter(|slot| slot.0 % 2 == 0) {
        zswap.store(slot, &cold, NodeId(0), &page(slot)).unwrap();
    }
    while let zspool::zswap::Shrunk::Written(_) = zswap.shrink_memcg(&cold, 32) {}
    for slot in slots.iter().filter(|slot| slot.0 % 2 == 1) {
        zswap.store(slot, &zswap.root(), NodeId(0), &page(slot)).unwrap();
    }
    assert!(zswap.stats().physical_pages > 100);
    (faulty, zswap, slots)
}

/// Load a run; all that it says it has read is right.
fn load(zswap: &Zswap, first: Slot, n: usize) -> (usize, Result<(), Error>) {
    let mut pages = vec![[0xa5; PAGE_SIZE]; n];
    let (read, result) = zswap.load_run(first, &mut pages);
    assert!(read == n || result.is_err());
    for (k, read) in pages[..read].iter().enumerate() {
        assert!(read[..] == page(first + k as u64)[..], "page {k} of the run");
    }
    (read, result)
}

#[test]
fn runs_of_every_length_from_everywhere_are_read_whole() {
    let (faulty, zswap, slots) = instance();
    let reads = faulty.operations();
    for (first, n) in [(0, 256), (1, 1), (0, 2), (3, 64), (3, 65), (100, 128), (255, 1), (0, 0)] {
        assert!(matches!(load(&zswap, slots.get(first).unwrap(), n), (read, Ok(())) if read == n));
    }
    let area = zswap.devices()[0].area;
    assert!(area.read_bytes > 0 && faulty.operations() > reads);
    zswap.assert_valid();
}

#[test]
fn neighbours_are_read_in_fewer_requests_than_there_are_pages() {
    let (faulty, zswap, slots) = instance();
    let objects = zswap.devices().iter().find(|row| row.area.objects > 0).unwrap().area.objects;
    faulty.replan(Plan::none());
    load(&zswap, slots.base(), 256).1.unwrap();
    let together = faulty.operations();
    faulty.replan(Plan::none());
    slots.iter().for_each(|slot| zswap.load(slot, &mut Page::zeroed()).unwrap());
    let singly = faulty.operations();
    assert!(together * 3 < singly * 2, "{together} requests for about {objects} objects, and {singly} one by one");
}

#[test]
fn a_run_ends_at_the_first_page_that_cannot_be_had() {
    let (_, zswap, slots) = instance();
    zswap.free(slots.get(70).unwrap());
    assert!(
        matches!(load(&zswap, slots.base(), 256), (70, Err(Error::NotStored { slot })) if slot == slots.get(70).unwrap())
    );
    assert!(matches!(load(&zswap, slots.get(71).unwrap(), 100), (100, Ok(()))));
    assert!(matches!(load(&zswap, slots.get(70).unwrap(), 3), (0, Err(Error::NotStored { .. }))));
}

#[test]
fn what_fails_together_is_tried_alone() {
    let (faulty, zswap, slots) = instance();
    let faults = [
        Fault::Errno(libc::EIO),
        Fault::Short { bytes: 100 },
        Fault::Torn { sectors: 1 },
        Fault::Lost,
        Fault::Misdirect { to: 1 << 20 },
        Fault::Hang,
    ];
    for fault in faults {
        for k in 1..5 {
            faulty.replan(Plan::none().at(k, fault));
            assert!(matches!(load(&zswap, slots.base(), 128), (128, Ok(()))), "{fault:?} at {k}");
            assert!(faulty.tripped());
            faulty.release();
        }
    }
    zswap.quiesce();
    zswap.assert_valid();
    assert_eq!(zswap.stats().failed_loads, 0);
}

#[test]
fn a_page_that_fails_alone_too_is_the_error_of_the_run() {
    let (faulty, zswap, slots) = instance();
    faulty.replan(Plan::none().down_from(1, libc::EIO));
    let (read, result) = load(&zswap, slots.base(), 64);
    assert!(read < 64 && result.is_err(), "{read}");
    faulty.replan(Plan::none());
    zswap.assert_valid();
}

#[test]
fn threads_read_runs_and_pages_while_others_store_and_free() {
    let (_, zswap, slots) = instance();
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let zswap = &zswap;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..300 {
                    let first = random.below(256);
                    let n = 1 + random.below(256 - first) as usize;
                    let (read, result) = load(zswap, slots.get(first).unwrap(), n);
                    assert!(matches!(result, Ok(()) | Err(Error::NotStored { .. })), "{read}: {result:?}");
                }
            });
        }
        let mut random = Random::new(9);
        for _ in 0..2000 {
            let slot = slots.get(random.below(256)).unwrap();
            zswap.free(slot);
            zswap.store(slot, &zswap.root(), NodeId(0), &page(slot)).unwrap();
            if random.below(50) == 0 {
                let _ = zswap.shrink_memcg(&zswap.root(), 32);
            }
        }
    });
    (0..256).for_each(|k| zswap.load(slots.get(k).unwrap(), &mut Page::zeroed()).unwrap());
    zswap.assert_valid();
}
