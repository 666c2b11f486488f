//! Races of the whole: writeback against loads, frees and new stores of the same slot, and stores against reparenting.
//!
//! The real `Zswap` with a slot or two, pages that the stub codec makes a few bytes of, and a device of a few pages. Every
//! model says which outcomes it has seen, and has a twin with a planted bug that must fail.
use loom_tests::{builder, catches, empty_and_check, look, outcomes_of_costly, outcomes_of_long, page, race};
use zspool::swap::MemoryDevice;
use zspool::sync::{Arc, Bug, Planted};
use zspool::units::{NodeId, Slot};
use zspool::zswap::{Shrunk, Zswap};

const N0: NodeId = NodeId(0);

/// An instance with room for `device_pages` pages on the device; a batch takes two.
fn tiny(planted: Planted, device_pages: usize) -> Zswap {
    builder(planted).device(MemoryDevice::new(device_pages * 256, 256)).build().unwrap()
}

fn one_slot(zswap: &Zswap, number: u8) -> Slot {
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &zswap.root(), N0, &page(number)).unwrap();
    slot
}

// === writeback against free and a new store of the slot ===

fn writeback_vs_free_and_restore(planted: Planted) -> (bool, bool) {
    let zswap = Arc::new(tiny(planted, 6));
    let slot = one_slot(&zswap, 1);
    let (shrunk, ()) = race(
        &zswap,
        |zswap| zswap.shrink_memcg(&zswap.root(), 1),
        move |zswap| {
            zswap.free(slot);
            zswap.store(slot, &zswap.root(), N0, &page(2)).unwrap();
        },
    );
    let (number, on_device) = look(&zswap, slot);
    assert_eq!(number, 2, "the newer page is what is there");
    empty_and_check(&zswap, [slot]);
    (matches!(shrunk, Shrunk::Written(_)), on_device)
}

#[test]
fn a_newer_page_is_never_lost_to_a_writeback_of_the_older() {
    let seen = outcomes_of_long(|| writeback_vs_free_and_restore(Planted::NONE));
    // Cancelled or nothing to do; the older written before it was freed; the newer written.
    assert_eq!(seen, [(false, false), (true, false), (true, true)].into());
}

#[test]
fn a_writeback_that_ignores_its_cancelling_is_seen() {
    let message =
        catches(|| outcomes_of_long(|| writeback_vs_free_and_restore(Planted::bug(Bug::WritebackIgnoresCancel))));
    assert!(message.contains("the newer page is what is there"), "{message}");
}

// === writeback against load ===

fn writeback_vs_load(planted: Planted) -> (bool, bool) {
    let zswap = Arc::new(tiny(planted, 6));
    let slot = one_slot(&zswap, 1);
    let (shrunk, on_device) = race(
        &zswap,
        |zswap| zswap.shrink_memcg(&zswap.root(), 1),
        move |zswap| {
            let mut read = page(0);
            zswap.load(slot, &mut read).unwrap();
            assert_eq!(read[0], 1);
            zswap.stats().area.unwrap().read_bytes > 0
        },
    );
    empty_and_check(&zswap, [slot]);
    (matches!(shrunk, Shrunk::Written(_)), on_device)
}

#[test]
fn a_page_is_loadable_at_every_moment_of_its_writeback() {
    let seen = outcomes_of_long(|| writeback_vs_load(Planted::NONE));
    // Loaded first and so passed over; loaded from the pool while it was written, or before; loaded from the device.
    assert_eq!(seen, [(false, false), (true, false), (true, true)].into());
}

#[test]
fn a_word_switched_before_the_write_is_seen() {
    let message = catches(|| outcomes_of_long(|| writeback_vs_load(Planted::bug(Bug::WritebackSwitchesEarly))));
    assert!(message.contains("where nothing lives"), "{message}");
}

// === load from the device against a new store that is written to the same place ===

fn load_vs_replace_and_writeback(planted: Planted) -> u8 {
    // Room for one batch: the second page goes where the first was.
    let zswap = Arc::new(tiny(planted, 4));
    let slot = one_slot(&zswap, 1);
    assert!(matches!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(_)));
    let ((), read) = race(
        &zswap,
        move |zswap| {
            zswap.store(slot, &zswap.root(), N0, &page(2)).unwrap();
            // Passed over if the load came in between.
            let _ = zswap.shrink_memcg(&zswap.root(), 1);
        },
        move |zswap| {
            let mut read = page(0);
            zswap.load(slot, &mut read).unwrap();
            read[0]
        },
    );
    assert_eq!(look(&zswap, slot).0, 2);
    empty_and_check(&zswap, [slot]);
    read
}

#[test]
fn a_load_overtaken_on_the_device_starts_again() {
    let seen = outcomes_of_long(|| load_vs_replace_and_writeback(Planted::NONE));
    assert_eq!(seen, [1, 2].into());
}

#[test]
fn a_load_that_trusts_an_old_word_is_seen() {
    let message =
        catches(|| outcomes_of_long(|| load_vs_replace_and_writeback(Planted::bug(Bug::LoadSkipsRevalidation))));
    assert!(message.contains("Generation"), "{message}");
}

// === store and writeback against reparenting ===

fn store_vs_offline(planted: Planted) -> bool {
    let zswap = Arc::new(tiny(planted, 6));
    let child = zswap.root().mkdir("c").unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    let (memcg, gone) = (child.clone(), child.clone());
    let (stored, ()) = race(
        &zswap,
        move |zswap| zswap.store(slot, &memcg, N0, &page(1)).is_ok(),
        move |zswap| zswap.offline(&gone).unwrap(),
    );
    // Wherever it was charged, it is on the root's list now, and only there.
    drop(child);
    zswap.assert_valid();
    if stored {
        assert!(matches!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(_)));
        assert_eq!(look(&zswap, slot), (1, true));
    }
    empty_and_check(&zswap, [slot]);
    stored
}

#[test]
fn an_entry_stored_while_its_memcg_goes_is_on_the_parents_list() {
    let seen = outcomes_of_costly(|| store_vs_offline(Planted::NONE));
    assert_eq!(seen, [false, true].into());
}

#[test]
fn a_list_found_without_asking_again_is_seen() {
    let message = catches(|| outcomes_of_long(|| store_vs_offline(Planted::bug(Bug::LruTrustsFirstLook))));
    assert!(message.contains("L1:"), "{message}");
}
