//! Races of walks over LRU lists: against each other, against frees and loads, and against memcgs that go.
//!
//! | model | race | bug planted |
//! |---|---|---|
//! | `two_walks_of_one_entry` | R-14 | LaunchTwice |
//! | `two_walks_and_offline` | R-14, R-20, R-40 | |
//! | `lap_vs_free`, `lap_vs_walk` | R-40, T1.4 | LapCountsOnlyItself |
//! | `walk_vs_store_by_parent` | R-12, R-20 | LaunchTrustsPick |
//! | `failed_write_vs_free` | R-15, R-16 | CancelKeepsCharge |
//! | `walk_vs_free` | R-12, R-15, with places charged | CancelKeepsCharge, PlaceKeepsCharge |
//! | `free_vs_offline` | R-18 | LruTrustsFirstLook |
//! | `walk_vs_offline` | R-18, R-20 | |
//! | `take_of_a_place_vs_offline` | places and their owners | PlaceKeepsCharge |
use loom_tests::{GEOMETRY, builder, catches, empty_and_check, look, outcomes_of_long, page, race};
use std::collections::BTreeSet;
use zspool::memcg::{Counter, Event, Memcg};
use zspool::swap::{self, Device, Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::sync::{Arc, Bug, Planted};
use zspool::units::{NodeId, Slot};
use zspool::zswap::{Installed, Shrunk, Taken, Zswap};

const N0: NodeId = NodeId(0);

fn device() -> MemoryDevice {
    MemoryDevice::new(6 * 256, 256)
}

/// An instance that looks at one entry at a time, with a memcg.
fn tiny(planted: Planted, device: impl Device + 'static) -> (Arc<Zswap>, Memcg) {
    let zswap = builder(planted)
        .device(device)
        .device_geometry(swap::Geometry { write_buffers: 2, ..GEOMETRY })
        .build()
        .unwrap();
    let child = zswap.root().mkdir("c").unwrap();
    (Arc::new(zswap), child)
}

/// So many pages of a memcg in the first slots of one range.
fn store<const N: usize>(zswap: &Zswap, memcg: &Memcg) -> [Slot; N] {
    let slots = zswap.reserve(4).unwrap().base();
    std::array::from_fn(|k| {
        zswap.store(slots + k as u64, memcg, N0, &page(k as u8 + 1)).unwrap();
        slots + k as u64
    })
}

/// What the stub codec makes of a page.
const PAYLOAD: u64 = 17;

/// Entries written.
fn written(shrunk: Shrunk) -> u64 {
    let bytes = if let Shrunk::Written(bytes) = shrunk { bytes } else { 0 };
    assert_eq!(bytes % PAYLOAD, 0);
    bytes / PAYLOAD
}

/// Entries ever written, as the counters say.
fn counted(zswap: &Zswap) -> u64 {
    let stat = zswap.root().stat().unwrap();
    assert_eq!(stat.events(Event::ZswpWbBytes), stat.events(Event::ZswpWb) * PAYLOAD);
    stat.events(Event::ZswpWb)
}

// === two walks of one entry ===

fn two_walks_of_one_entry(planted: Planted) -> (u64, u64) {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<1>(&zswap, &child);
    let (memcg, same) = (child.clone(), child);
    let (a, b) = race(
        &zswap,
        move |zswap| written(zswap.shrink_memcg(&memcg, 1)),
        move |zswap| written(zswap.shrink_memcg(&same, 1)),
    );
    assert_eq!(look(&zswap, slots[0]), (1, true));
    assert_eq!((counted(&zswap), a + b), (1, 1), "an entry is counted by who wrote it, once");
    empty_and_check(&zswap, slots);
    (a, b)
}

#[test]
fn an_entry_is_written_by_one_walk_of_two() {
    let seen = outcomes_of_long(|| two_walks_of_one_entry(Planted::NONE));
    assert_eq!(seen, [(0, 1), (1, 0)].into());
}

#[test]
fn two_flights_of_one_entry_are_seen() {
    let message = catches(|| outcomes_of_long(|| two_walks_of_one_entry(Planted::bug(Bug::LaunchTwice))));
    assert!(message.contains("W2:"), "{message}");
}

// === two walks and a memcg that goes ===

fn two_walks_and_offline(planted: Planted) -> (u64, u64) {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<1>(&zswap, &child);
    let (memcg, gone) = (child.clone(), child);
    let (walker, goer) = (Arc::clone(&zswap), Arc::clone(&zswap));
    let walker = loom::thread::spawn(move || written(walker.shrink_memcg(&memcg, 1)));
    let goer = loom::thread::spawn(move || goer.offline(&gone).unwrap());
    // The parent's own walk finds the entry as soon as it is the parent's, and never before.
    let parents = written(zswap.shrink_memcg(&zswap.root(), 1));
    let childs = walker.join().unwrap();
    goer.join().unwrap();
    assert_eq!(look(&zswap, slots[0]), (1, parents + childs > 0));
    assert_eq!(counted(&zswap), parents + childs);
    empty_and_check(&zswap, slots);
    (parents, childs)
}

#[test]
fn an_entry_whose_memcg_goes_is_written_by_one_walk_or_stays() {
    let seen = outcomes_of_long(|| two_walks_and_offline(Planted::NONE));
    assert_eq!(seen, [(0, 0), (0, 1), (1, 0)].into());
}

// === a lap, and others that take and rotate ===

/// Two entries, both referenced: a walk of any length writes neither, for it sees neither twice.
fn lap(planted: Planted, meanwhile: impl FnOnce(&Zswap, [Slot; 2]) -> u64 + 'static) -> (u64, u64) {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<2>(&zswap, &child);
    slots.iter().for_each(|&slot| assert!(!look(&zswap, slot).1));
    let (walked, other) = race(
        &zswap,
        move |zswap| written(zswap.shrink_memcg(&child, usize::MAX)),
        move |zswap| meanwhile(zswap, slots),
    );
    empty_and_check(&zswap, slots);
    (walked, other)
}

fn lap_vs_free(planted: Planted) -> u64 {
    let (walked, _) = lap(planted, |zswap, slots| u64::from(zswap.free(slots[1])));
    assert_eq!(walked, 0, "an entry was seen twice in one walk");
    walked
}

#[test]
fn a_walk_sees_no_entry_twice_while_others_are_freed() {
    let seen = outcomes_of_long(|| lap_vs_free(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([0]));
}

#[test]
fn a_lap_that_counts_only_what_it_has_seen_is_caught() {
    let message = catches(|| outcomes_of_long(|| lap_vs_free(Planted::bug(Bug::LapCountsOnlyItself))));
    assert!(message.contains("seen twice"), "{message}");
}

/// Both look at each entry at most once, so four looks clear two bits and pick two at most.
fn lap_vs_walk(planted: Planted) -> (u64, u64) {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<2>(&zswap, &child);
    slots.iter().for_each(|&slot| assert!(!look(&zswap, slot).1));
    let (memcg, same) = (child.clone(), child);
    let (a, b) = race(
        &zswap,
        move |zswap| written(zswap.shrink_memcg(&memcg, usize::MAX)),
        move |zswap| written(zswap.shrink_memcg(&same, usize::MAX)),
    );
    assert!(a + b <= 2 && counted(&zswap) == a + b);
    empty_and_check(&zswap, slots);
    (a, b)
}

#[test]
fn two_walks_chase_each_other_for_one_round_at_most() {
    let seen = outcomes_of_long(|| lap_vs_walk(Planted::NONE));
    // One after the other; or the later one began while the earlier had looked at one.
    assert!(seen.is_superset(&[(0, 2), (2, 0), (0, 1), (1, 0)].into()), "{seen:?}");
}

// === a walk, and the slot's next page, which is another memcg's ===

fn walk_vs_store_by_parent(planted: Planted) -> (bool, bool) {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<1>(&zswap, &child);
    let (shrunk, ()) = race(
        &zswap,
        move |zswap| zswap.shrink_memcg(&child, 1),
        move |zswap| _ = zswap.store(slots[0], &zswap.root(), N0, &page(9)).unwrap(),
    );
    let (number, on_device) = look(&zswap, slots[0]);
    assert_eq!(number, 9);
    assert!(!on_device, "a walk of a memcg wrote its parent's page");
    empty_and_check(&zswap, slots);
    (matches!(shrunk, Shrunk::Written(_)), shrunk == Shrunk::NothingToScan)
}

#[test]
fn a_walk_writes_no_page_of_the_parent() {
    let seen = outcomes_of_long(|| walk_vs_store_by_parent(Planted::NONE));
    assert_eq!(seen, [(true, false), (false, false), (false, true)].into());
}

#[test]
fn a_walk_that_trusts_what_it_picked_is_seen() {
    let message = catches(|| outcomes_of_long(|| walk_vs_store_by_parent(Planted::bug(Bug::LaunchTrustsPick))));
    assert!(message.contains("wrote its parent's page"), "{message}");
}

// === a walk against a free, with a device that works and one that does not ===

fn walk_vs_free(planted: Planted, fails: bool) -> (bool, bool) {
    let plan = if fails { Plan::none().at(1, Fault::Errno(libc_eio())) } else { Plan::none() };
    let (zswap, child) = tiny(planted, FaultyDevice::new(device(), plan));
    let slots = store::<2>(&zswap, &child);
    let (shrunk, freed_from_device) = race(
        &zswap,
        move |zswap| zswap.shrink_memcg(&child, 1),
        move |zswap| {
            let before = zswap.stats().area.unwrap().objects;
            assert!(zswap.free(slots[0]));
            before > 0
        },
    );
    assert!(!fails || !matches!(shrunk, Shrunk::Written(_)));
    assert_eq!(look(&zswap, slots[1]).0, 2);
    empty_and_check(&zswap, slots);
    (matches!(shrunk, Shrunk::Written(_)), freed_from_device)
}

fn libc_eio() -> i32 {
    5
}

#[test]
fn a_place_is_given_back_with_its_charge_however_its_flight_ends() {
    let seen = outcomes_of_long(|| walk_vs_free(Planted::NONE, false));
    // Cancelled; freed first, and the second entry written instead; written, and freed from the device.
    assert!(seen.is_superset(&[(false, false), (true, false), (true, true)].into()), "{seen:?}");
}

#[test]
fn a_write_that_fails_leaves_the_entry_and_charges_nothing() {
    let seen = outcomes_of_long(|| walk_vs_free(Planted::NONE, true));
    assert_eq!(seen, [(false, false)].into());
}

#[test]
fn a_cancelled_flight_that_keeps_its_charge_is_seen() {
    let message = catches(|| outcomes_of_long(|| walk_vs_free(Planted::bug(Bug::CancelKeepsCharge), false)));
    assert!(message.contains("S1:") || message.contains("Q1:"), "{message}");
}

#[test]
fn a_free_that_leaves_the_place_charged_is_seen() {
    let message = catches(|| outcomes_of_long(|| walk_vs_free(Planted::bug(Bug::PlaceKeepsCharge), false)));
    assert!(message.contains("S1:") || message.contains("Q1:"), "{message}");
}

// === a memcg that goes, against a free and a walk of its entries ===

fn free_vs_offline(planted: Planted) -> bool {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<2>(&zswap, &child);
    let (freed, ()) = race(&zswap, move |zswap| zswap.free(slots[0]), move |zswap| zswap.offline(&child).unwrap());
    zswap.assert_valid();
    // The other one is the root's now, and can be walked to.
    assert_eq!(written(zswap.shrink_memcg(&zswap.root(), 2)), 1);
    empty_and_check(&zswap, slots);
    freed
}

#[test]
fn an_entry_freed_while_its_memcg_goes_leaves_the_list_it_is_on() {
    let seen = outcomes_of_long(|| free_vs_offline(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([true]));
}

#[test]
fn an_entry_taken_off_a_list_found_without_asking_again_is_seen() {
    let message = catches(|| outcomes_of_long(|| free_vs_offline(Planted::bug(Bug::LruTrustsFirstLook))));
    assert!(!message.is_empty(), "{message}");
}

fn walk_vs_offline(planted: Planted) -> u64 {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<2>(&zswap, &child);
    let gone = child.clone();
    let (walked, ()) =
        race(&zswap, move |zswap| written(zswap.shrink_memcg(&child, 2)), move |zswap| zswap.offline(&gone).unwrap());
    zswap.assert_valid();
    assert_eq!(counted(&zswap), walked);
    assert_eq!(written(zswap.shrink_memcg(&zswap.root(), 2)) + walked, 2, "each is written once");
    empty_and_check(&zswap, slots);
    walked
}

#[test]
fn a_walk_of_a_memcg_that_goes_ends_and_leaves_the_rest_to_the_parent() {
    let seen = outcomes_of_long(|| walk_vs_offline(Planted::NONE));
    assert_eq!(seen, [0, 1, 2].into());
}

// === a place whose owner goes while it is taken ===

fn take_of_a_place_vs_offline(planted: Planted) -> bool {
    let (zswap, child) = tiny(planted, device());
    let slots = store::<1>(&zswap, &child);
    assert_eq!(written(zswap.shrink_memcg(&child, 1)), 1);
    let (taken, ()) = race(
        &zswap,
        move |zswap| zswap.take_with(slots[0], |_| Installed::Yes).unwrap(),
        move |zswap| zswap.offline(&child).unwrap(),
    );
    assert_eq!(taken, Taken::Freed);
    assert_eq!(zswap.root().current(Counter::Swap), 0, "nothing stays charged");
    empty_and_check(&zswap, slots);
    assert_eq!(zswap.tree().census().objcgs, 1, "no reference is left to who is gone");
    true
}

#[test]
fn a_place_taken_while_its_memcg_goes_is_uncharged_once() {
    let seen = outcomes_of_long(|| take_of_a_place_vs_offline(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([true]));
}

#[test]
fn a_place_taken_without_its_charge_is_seen() {
    let message = catches(|| outcomes_of_long(|| take_of_a_place_vs_offline(Planted::bug(Bug::PlaceKeepsCharge))));
    assert!(message.contains("nothing stays charged"), "{message}");
}
