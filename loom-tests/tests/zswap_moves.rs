//! What lives on a device is moved to other segments of it, or to another device, while its slot is used.
//!
//! The real `Zswap` with a slot or two, pages that the stub codec makes a few bytes of, and devices of a few segments of two
//! pages. Every model says which outcomes it has seen, and has a twin with a planted bug that must fail.
use loom_tests::{builder, catches, empty_and_check, look, outcomes_of_long, page, race};
use zspool::memcg::Cancel;
use zspool::swap::{DeviceOptions, MemoryDevice};
use zspool::sync::{Arc, Bug, Planted};
use zspool::units::{NodeId, Slot};
use zspool::zswap::{Shrunk, Zswap};

const N0: NodeId = NodeId(0);

fn device() -> MemoryDevice {
    MemoryDevice::new(3 * 2 * 256, 256)
}

/// An instance with a device of three segments, the first of which has the page of one slot.
fn tiny(planted: Planted) -> (Arc<Zswap>, Slot) {
    let zswap = builder(planted).device(device()).build().unwrap();
    let slot = on_device(&zswap, 1);
    (Arc::new(zswap), slot)
}

fn on_device(zswap: &Zswap, number: u8) -> Slot {
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &zswap.root(), N0, &page(number)).unwrap();
    assert!(matches!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(_)));
    slot
}

// === cleaning against free and a new store of the slot (R-35) ===

fn cleaning_vs_free_and_restore(planted: Planted) -> (u64, bool) {
    let (zswap, slot) = tiny(planted);
    let (moved, ()) = race(
        &zswap,
        |zswap| zswap.clean_segment(0, 0),
        move |zswap| {
            zswap.free(slot);
            zswap.store(slot, &zswap.root(), N0, &page(2)).unwrap();
        },
    );
    let (number, on_device) = look(&zswap, slot);
    assert_eq!(number, 2, "the newer page is what is there");
    empty_and_check(&zswap, [slot]);
    (moved, on_device)
}

#[test]
fn a_newer_page_is_never_lost_to_the_cleaning_of_the_older() {
    let seen = outcomes_of_long(|| cleaning_vs_free_and_restore(Planted::NONE));
    // Gone or cancelled; moved, and then freed.
    assert_eq!(seen, [(0, false), (1, false)].into());
}

#[test]
fn a_slot_that_is_marked_without_another_look_is_seen() {
    let message =
        catches(|| outcomes_of_long(|| cleaning_vs_free_and_restore(Planted::bug(Bug::MoveTrustsReverseWord))));
    assert!(message.contains("newer page"), "{message}");
}

#[test]
fn a_move_that_ignores_its_cancelling_is_seen() {
    let message =
        catches(|| outcomes_of_long(|| cleaning_vs_free_and_restore(Planted::bug(Bug::WritebackIgnoresCancel))));
    assert!(message.contains("newer page"), "{message}");
}

// === cleaning against a load (R-38) ===

fn cleaning_vs_load(planted: Planted) -> (u64, u64) {
    let (zswap, slot) = tiny(planted);
    let before = zswap.stats().area.unwrap().read_bytes;
    let (moved, ()) = race(
        &zswap,
        |zswap| {
            let moved = zswap.clean_segment(0, 0);
            // What was there is not there any more.
            let area = zswap.device(0).unwrap();
            area.maintain();
            moved
        },
        move |zswap| {
            let mut read = page(0);
            zswap.load(slot, &mut read).unwrap();
            assert_eq!(read[0], 1);
        },
    );
    let reads = (zswap.stats().area.unwrap().read_bytes - before) / 256;
    assert_eq!(zswap.stats().lost_pages, 0);
    empty_and_check(&zswap, [slot]);
    (moved, reads)
}

#[test]
fn a_page_is_loadable_at_every_moment_of_its_move() {
    let seen = outcomes_of_long(|| cleaning_vs_load(Planted::NONE));
    // A read of the segment, and one for the load, or two when the first came too late.
    assert_eq!(seen, [(1, 2), (1, 3)].into());
}

#[test]
fn a_load_that_trusts_an_old_place_is_seen() {
    let message = catches(|| outcomes_of_long(|| cleaning_vs_load(Planted::bug(Bug::LoadSkipsRevalidation))));
    assert!(message.contains("Corrupt"), "{message}");
}

// === cleaning against another that cleans the same segment ===

fn cleaning_vs_cleaning(planted: Planted) -> (u64, u64) {
    let (zswap, slot) = tiny(planted);
    let moved = race(&zswap, |zswap| zswap.clean_segment(0, 0), |zswap| zswap.clean_segment(0, 0));
    assert_eq!(look(&zswap, slot), (1, true));
    empty_and_check(&zswap, [slot]);
    moved
}

#[test]
fn two_who_clean_a_segment_move_each_object_once() {
    let seen = outcomes_of_long(|| cleaning_vs_cleaning(Planted::NONE));
    assert_eq!(seen, [(0, 1), (1, 0)].into());
}

// === demotion against dup and put ===

fn demotion_vs_references(planted: Planted) -> (u64, bool) {
    let zswap = builder(planted).swap(DeviceOptions::device(device()).tier("fast", 1)).build().unwrap();
    let slot = on_device(&zswap, 1);
    let slow = zswap.swapon(DeviceOptions::device(device()).tier("slow", 0)).unwrap();
    let zswap = Arc::new(zswap);
    let (moved, left) = race(
        &zswap,
        |zswap| zswap.demote(&zswap.root(), "slow", 1, &Cancel::new()).unwrap().objects,
        move |zswap| {
            zswap.dup(slot).unwrap();
            assert_eq!(zswap.put(slot).unwrap(), 1);
            zswap.put(slot).unwrap()
        },
    );
    assert_eq!(left, 0);
    assert!(!zswap.is_stored(slot), "its last reference is gone");
    let on_slow = zswap.device(slow).unwrap().stats().written_bytes > 0;
    empty_and_check(&zswap, [slot]);
    (moved, on_slow)
}

#[test]
fn references_go_along_and_the_last_one_ends_the_move() {
    let seen = outcomes_of_long(|| demotion_vs_references(Planted::NONE));
    // Gone; cancelled after it was written; moved.
    assert_eq!(seen, [(0, false), (0, true), (1, true)].into());
}

#[test]
fn a_demotion_that_ignores_its_cancelling_is_seen() {
    let message = catches(|| outcomes_of_long(|| demotion_vs_references(Planted::bug(Bug::WritebackIgnoresCancel))));
    assert!(message.contains("last reference"), "{message}");
}
