//! A device is removed while its slots are used and written back to it: R-34, I-11.
//!
//! The real `Zswap` with one slot and one device of two pages a segment. Every model says which outcomes it has seen, and has a
//! twin with a planted bug that must fail.
#![cfg(loom)]

use loom_tests::{catches, outcomes_of_long, race};
use zspool::arena::Topology;
use zspool::compress::{Codecs, Tagged};
use zspool::memcg::{Cancel, Counter, TreeConfig};
use zspool::swap::{self, MemoryDevice};
use zspool::sync::{Arc, Bug, Planted};
use zspool::units::{NodeId, PAGE_SIZE, Slot};
use zspool::zsmalloc::Geometry;
use zspool::zswap::{Shrunk, Zswap};

const N0: NodeId = NodeId(0);

type Page = Box<[u8; PAGE_SIZE]>;

/// A page that is not same-filled and that the stub codec makes two bytes of.
fn page(number: u8) -> Page {
    let mut page = Box::new([0; PAGE_SIZE]);
    page[0] = number;
    page
}

/// An instance with a device of two segments and a page in the pool, or on the device.
fn tiny(planted: Planted, on_device: bool) -> (Arc<Zswap>, Slot) {
    let zswap = Zswap::builder()
        .codecs(Codecs::none().with(Tagged).unwrap())
        .codec("tagged")
        .compressing_threads(2)
        .pool_limit(1 << 20)
        .topology(Topology::simulated(1))
        .address_space(4 * 2 * 4096)
        .geometry(Geometry::new(1024, 1024, 2).unwrap())
        .warm_frames(0)
        .slots_in_use(4)
        .scan(1, 1)
        .tree(TreeConfig { objcg_ids: 3, stripes: 1, patience: 4, ..TreeConfig::default() })
        .device(MemoryDevice::new(2 * 2 * 256, 256))
        .device_geometry(swap::Geometry {
            page_bytes: 256,
            batch_pages: 2,
            max_payload: 64,
            write_buffers: 1,
            read_buffers: 1,
        })
        .worker(false)
        .planted(planted)
        .build()
        .unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &zswap.root(), N0, &page(1)).unwrap();
    if on_device {
        assert!(matches!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(_)));
    }
    (Arc::new(zswap), slot)
}

/// The number of the page in the slot; it is in the pool, for there is no device any more.
fn number(zswap: &Zswap, slot: Slot) -> u8 {
    assert!(zswap.devices().is_empty());
    let mut read = page(0);
    zswap.try_load(slot, &mut read).unwrap();
    assert!(read[1..].iter().all(|&b| b == 0), "a page mixed from two");
    read[0]
}

fn empty_and_check(zswap: &Zswap, slot: Slot) {
    zswap.assert_valid();
    zswap.free(slot);
    zswap.assert_valid();
    assert_eq!([zswap.root().usage(), zswap.root().current(Counter::Swap)], [0, 0]);
}

fn swapoff(zswap: &Zswap) -> (u64, u64) {
    let report = zswap.swapoff(0, &Cancel::new(), |_| ()).unwrap();
    (report.to_pool, report.raced.min(1))
}

// === against free and a new store ===

fn swapoff_vs_free_and_restore(planted: Planted) -> u64 {
    let (zswap, slot) = tiny(planted, true);
    let ((moved, _), ()) = race(&zswap, swapoff, move |zswap| {
        zswap.free(slot);
        zswap.store(slot, &zswap.root(), N0, &page(2)).unwrap();
    });
    assert_eq!(number(&zswap, slot), 2, "the newer page is what is there");
    empty_and_check(&zswap, slot);
    moved
}

#[test]
fn a_newer_page_is_never_lost_to_the_removal_of_the_older_ones_device() {
    let seen = outcomes_of_long(|| swapoff_vs_free_and_restore(Planted::NONE));
    assert_eq!(seen, [0, 1].into());
}

#[test]
fn a_promotion_that_does_not_look_again_is_seen() {
    let message =
        catches(|| outcomes_of_long(|| swapoff_vs_free_and_restore(Planted::bug(Bug::PromotionSkipsSecondLook))));
    assert!(message.contains("newer page"), "{message}");
}

// === against a load ===

fn swapoff_vs_load(planted: Planted) -> u64 {
    let (zswap, slot) = tiny(planted, true);
    let ((moved, _), ()) = race(&zswap, swapoff, move |zswap| {
        let mut read = page(0);
        zswap.load(slot, &mut read).unwrap();
        assert_eq!(read[0], 1);
    });
    assert_eq!((number(&zswap, slot), zswap.stats().lost_pages), (1, 0));
    empty_and_check(&zswap, slot);
    moved
}

#[test]
fn a_page_is_loadable_at_every_moment_of_the_removal() {
    let seen = outcomes_of_long(|| swapoff_vs_load(Planted::NONE));
    assert_eq!(seen, [1].into());
}

#[test]
fn a_device_closed_under_a_load_is_seen() {
    let message = catches(|| outcomes_of_long(|| swapoff_vs_load(Planted::bug(Bug::SeatTakenInUse))));
    assert!(message.contains("currently reading from cell"), "{message}");
}

// === against a writeback to it (R-34) ===

fn swapoff_vs_writeback(planted: Planted) -> (bool, u64, u64) {
    let (zswap, slot) = tiny(planted, false);
    let ((moved, raced), shrunk) =
        race(&zswap, swapoff, |zswap| matches!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(_)));
    assert_eq!(number(&zswap, slot), 1);
    empty_and_check(&zswap, slot);
    (shrunk, moved, raced)
}

#[test]
fn what_is_written_at_the_last_moment_is_moved_too() {
    let seen = outcomes_of_long(|| swapoff_vs_writeback(Planted::NONE));
    // Not written, for the device takes no more; written before; written, and waited for until it landed.
    assert_eq!(seen, [(false, 0, 0), (true, 1, 0), (true, 1, 1)].into());
}

#[test]
fn a_batch_that_begins_while_the_device_leaves_is_seen() {
    let message = catches(|| outcomes_of_long(|| swapoff_vs_writeback(Planted::bug(Bug::WriterCountsLate))));
    assert!(message.contains("D4"), "{message}");
}
