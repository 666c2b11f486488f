//! Prefetch: what comes into the pool, what stays where it is, and at which limit it ends.

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::*;
use zspool::memcg::Memcg;
use zspool::swap::{DeviceOptions, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::{Prefetched, Shrunk, Zswap};

type Faulty = Arc<FaultyDevice<MemoryDevice>>;

const PAGES: u64 = 1000;

fn page(slot: Slot) -> Page {
    compressible(slot.0, 300 + slot.0 as usize % 1500)
}

/// An instance whose pages of `vm` are on a device, all of them.
fn instance() -> (Faulty, Zswap, Memcg, SlotRange) {
    let device = FaultyDevice::with_timeout(MemoryDevice::new(8 << 20, 4096), Plan::none(), Duration::ZERO);
    let device = Arc::new(device);
    let builder = Zswap::builder().slots_in_use(1 << 13).address_space(64 << 20).worker(false);
    let zswap = builder.swap(DeviceOptions::device(Arc::clone(&device))).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(1 << 40).unwrap();
    for slot in slots.iter().take(PAGES as usize) {
        zswap.store(slot, &vm, NodeId(0), &page(slot)).unwrap();
    }
    while let Shrunk::Written(_) = zswap.shrink_memcg(&vm, 64) {}
    assert_eq!(zswap.stats().physical_pages, PAGES);
    (device, zswap, vm, slots)
}

fn check(zswap: &Zswap, slots: SlotRange) {
    let mut back = Page::zeroed();
    for slot in slots.iter().take(PAGES as usize) {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(slot)[..], "{slot:?}");
    }
    zswap.assert_valid();
}

fn sub(slots: SlotRange, first: u64, n: u64) -> SlotRange {
    SlotRange::new(slots.get(first).unwrap(), n)
}

#[test]
fn pages_of_the_range_come_into_the_pool_and_no_others() {
    let (device, zswap, vm, slots) = instance();
    let done = zswap.prefetch(sub(slots, 100, 300));
    assert_eq!((done.pages, done.left, done.refused), (300, 0, None));
    assert_eq!(zswap.stats().physical_pages, PAGES - 300);
    assert_eq!(vm.current(zspool::memcg::Counter::Swap), zswap.stats().area.unwrap().live_bytes);
    zswap.assert_valid();
    device.replan(Plan::none().down_from(1, libc::EIO));
    let mut back = Page::zeroed();
    (100..400).for_each(|k| zswap.load(slots.get(k).unwrap(), &mut back).unwrap());
    device.replan(Plan::none());
    // All of 2^40 slots, of which few were ever touched; and once more, when there is nothing to do.
    assert_eq!(zswap.prefetch(slots).pages, PAGES - 300);
    assert_eq!(zswap.prefetch(slots), Prefetched::default());
    assert_eq!(zswap.stats().area.unwrap().objects, 0);
    check(&zswap, slots);
}

#[test]
fn a_limit_ends_it_and_nothing_is_written_back_for_it() {
    let (_, zswap, vm, slots) = instance();
    zswap.set_zswap_max(&vm, 100 << 10).unwrap();
    let written = zswap.stats().area.unwrap().written_bytes;
    let done = zswap.prefetch(slots);
    assert!(done.refused.as_ref().is_some_and(|why| why.contains("vm")), "{done:?}");
    assert!(done.pages > 50 && done.bytes > 50 << 10, "{done:?}");
    assert!(vm.usage() <= 100 << 10 && vm.usage() > 90 << 10);
    assert_eq!(zswap.stats().physical_pages, PAGES - done.pages);
    assert_eq!(zswap.stats().area.unwrap().written_bytes, written);
    check(&zswap, slots);
}

#[test]
fn pages_that_cannot_be_read_stay_where_they_are_and_are_not_given_up_on() {
    let (device, zswap, _, slots) = instance();
    device.replan(Plan::none().down_from(3, libc::EIO));
    let done = zswap.prefetch(slots);
    assert_eq!((done.pages + done.left, done.refused), (PAGES, None));
    assert!(done.pages > 0 && done.left > 0);
    assert_eq!((zswap.stats().physical_pages, zswap.stats().failed_loads), (done.left, 0));
    device.replan(Plan::none().hang_from(1));
    let hung = zswap.prefetch(slots);
    assert_eq!((hung.pages, hung.left), (0, done.left));
    assert!(device.hanging() <= 9, "{}", device.hanging());
    device.release();
    assert_eq!(zswap.prefetch(slots).pages, done.left);
    check(&zswap, slots);
}

#[test]
fn pages_freed_stored_and_written_back_meanwhile_are_right_in_the_end() {
    let (_, zswap, vm, slots) = instance();
    std::thread::scope(|scope| {
        let fetcher = scope.spawn(|| (0..40).map(|_| zswap.prefetch(slots).pages).sum::<u64>());
        let mut random = Random::new(3);
        while !fetcher.is_finished() {
            let slot = slots.get(random.below(PAGES)).unwrap();
            zswap.free(slot);
            zswap.store(slot, &vm, NodeId(0), &page(slot)).unwrap();
            let _ = zswap.shrink_memcg(&vm, 64);
            let _ = zswap.shrink_memcg(&vm, 64);
        }
        assert!(fetcher.join().unwrap() >= PAGES);
    });
    check(&zswap, slots);
}
