//! A device is removed while its slots are used and written back to it: R-34.
//!
//! The real `Zswap` with one slot and one device of two pages a segment. Every model says which outcomes it has seen, and has a
//! twin with a planted bug that must fail.
use loom_tests::{builder, catches, empty_and_check, outcomes_of_long, page, race};
use zspool::memcg::Cancel;
use zspool::swap::MemoryDevice;
use zspool::sync::{Arc, Bug, Planted};
use zspool::units::{NodeId, Slot};
use zspool::zswap::{Shrunk, Zswap};

const N0: NodeId = NodeId(0);

/// An instance with a device of two segments and a page in the pool, or on the device.
fn tiny(planted: Planted, on_device: bool) -> (Arc<Zswap>, Slot) {
    let zswap = builder(planted).device(MemoryDevice::new(2 * 2 * 256, 256)).build().unwrap();
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
    empty_and_check(&zswap, [slot]);
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
    empty_and_check(&zswap, [slot]);
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
    empty_and_check(&zswap, [slot]);
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
