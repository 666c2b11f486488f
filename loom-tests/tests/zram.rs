//! The races of a block: stores, discards, loads and compaction, on the real device with tiny geometry.
//!
//! Each model returns its outcome; the set of outcomes is asserted. Each has a twin with a bug planted that must fail.
//!
//! | model | race | bug planted |
//! |---|---|---|
//! | `load_vs_replace_and_discard` | a load, against a store over its object, a discard, and the next use of the slot | ReadSkipsRevalidation |
//! | `load_vs_compaction` | a load, against the move of its object and the next use of the slot | CompactionIgnoresPins |
//! | `discard_vs_compaction` | a discard, against the move of the object | CompactionIgnoresFree |
//! | `wide_loads_vs_discard_and_store` | loads of a wide repeated word, against a discard and another wide word in its place | PatternSkipsSecondLook |
//! | `wide_store_vs_stores` | a store of a wide word, against another and an object after it | PatternWithoutLock |
//! | `wide_store_vs_compaction` | a store of a wide word over an object, against the object's move | (none: the lock bit is kept by a move) |
use loom_tests::{catches, outcomes, outcomes_of_long};
use std::collections::BTreeSet;
use zspool::arena::Topology;
use zspool::compress::Tagged;
use zspool::sync::{Arc, Bug, Planted};
use zspool::units::PAGE_SIZE;
use zspool::zram::{Stored, Zram};
use zspool::zsmalloc::Geometry;

type Page = Box<[u8; PAGE_SIZE]>;

/// Repeated words that do not fit in a block's word.
const WIDE: [u64; 2] = [0x1111_0000_0000_0001, 0x2222_0000_0000_0002];

/// Marks a page of `WIDE`, whose numbers are above those of other pages.
const SAME: u8 = 100;

/// A page of bytes so many that it takes a slot of 2048 bytes (two to a frame), or, from [`SAME`] on, one that repeats a word.
/// Even numbers are a little longer than odd ones.
fn page(number: u8) -> Page {
    let mut page = Box::new([0; PAGE_SIZE]);
    if let Some(wide) = number.checked_sub(SAME) {
        page.as_chunks_mut::<8>().0.fill(WIDE[wide as usize].to_le_bytes());
        return page;
    }
    page[..1900 - usize::from(number % 2) * 100].fill(number);
    page
}

fn device(planted: Planted) -> Arc<Zram> {
    let zram = Zram::builder()
        .disksize(4 * PAGE_SIZE as u64)
        .codec(Tagged)
        .compressing_threads(2)
        .topology(Topology::simulated(1))
        .address_space(4 * 2 * 4096)
        .geometry(Geometry::new(1024, 1024, 2).unwrap())
        .warm_frames(0)
        .planted(planted)
        .build()
        .unwrap();
    Arc::new(zram)
}

fn store(zram: &Zram, block: u64, number: u8) -> Stored {
    zram.store(block, &page(number)).unwrap()
}

/// The number of the page in a block; 0: it is empty.
fn load(zram: &Zram, block: u64) -> u8 {
    let mut read = Box::new([1; PAGE_SIZE]);
    zram.load(block, &mut read).expect("no load fails, whatever others do");
    let word = u64::from_le_bytes(read[..8].try_into().unwrap());
    let number = WIDE.iter().position(|&wide| wide == word).map_or(read[0], |wide| SAME + wide as u8);
    let whole = if number == 0 { Box::new([0; PAGE_SIZE]) } else { page(number) };
    assert!(*read == *whole, "a page mixed from two");
    number
}

/// At the end of a model: nothing is lost, and nothing is left when all is discarded.
fn finish(zram: &Zram) {
    zram.assert_valid();
    (0..4).for_each(|block| {
        zram.discard(block).unwrap();
    });
    zram.assert_valid();
    zram.pool().flush(); // a frame stays warm that the last of an object's pins was the last to hold
    let left = zram.mm_stat();
    assert_eq!((left.orig_data_size, left.mem_used_total, left.same_pages), (0, 0, 0));
}

/// Run both at once, on threads of their own.
fn race<A: 'static, B: 'static>(
    zram: &Arc<Zram>,
    a: impl FnOnce(&Zram) -> A + 'static,
    b: impl FnOnce(&Zram) -> B + 'static,
) -> (A, B) {
    let (one, two) = (Arc::clone(zram), Arc::clone(zram));
    let a = loom::thread::spawn(move || a(&one));
    let b = loom::thread::spawn(move || b(&two));
    (a.join().unwrap(), b.join().unwrap())
}

// === a load against what others do with its block ===

fn load_vs_replace_and_discard(planted: Planted) -> u8 {
    let zram = device(planted);
    store(&zram, 0, 2);
    let (seen, ()) = race(
        &zram,
        |zram| load(zram, 0),
        |zram| {
            zram.discard(0).unwrap();
            store(zram, 0, 3); // in the same slot, if nobody holds it, and shorter
        },
    );
    assert_eq!(load(&zram, 0), 3);
    finish(&zram);
    seen
}

#[test]
fn a_load_sees_the_page_before_nothing_or_the_page_after() {
    assert_eq!(outcomes_of_long(|| load_vs_replace_and_discard(Planted::NONE)), BTreeSet::from([2, 0, 3]));
}

#[test]
fn a_load_that_does_not_look_again_is_caught() {
    let message = catches(|| outcomes(|| load_vs_replace_and_discard(Planted::bug(Bug::ReadSkipsRevalidation))));
    assert!(message.contains("no load fails") || message.contains("mixed"), "{message}");
}

fn replace_is_atomic(planted: Planted) -> u8 {
    let zram = device(planted);
    store(&zram, 0, 2);
    let (seen, _) = race(&zram, |zram| load(zram, 0), |zram| store(zram, 0, 3));
    finish(&zram);
    seen
}

#[test]
fn a_load_during_a_store_sees_one_of_the_two_pages_and_never_zeroes() {
    assert_eq!(outcomes(|| replace_is_atomic(Planted::NONE)), BTreeSet::from([2, 3]));
}

// === compaction ===

/// Blocks 0 and 2 in use, each alone in its frame, so that one of them moves.
fn sparse(zram: &Zram) {
    (0..3).for_each(|block| {
        store(zram, block, 2 + 2 * block as u8);
    });
    zram.discard(1).unwrap();
}

fn load_vs_compaction(planted: Planted) -> (u8, u64) {
    let zram = device(planted);
    sparse(&zram);
    let (seen, freed) = race(
        &zram,
        |zram| (load(zram, 0), load(zram, 2)),
        |zram| {
            let freed = zram.compact().frames_freed;
            store(zram, 3, 8); // where the moved one was
            freed
        },
    );
    assert_eq!(seen, (2, 6), "what was stored is read");
    finish(&zram);
    (seen.0, freed)
}

#[test]
fn a_load_and_a_move_agree() {
    // Moved, or left alone because somebody read it.
    assert_eq!(outcomes_of_long(|| load_vs_compaction(Planted::NONE)), BTreeSet::from([(2, 0), (2, 1)]));
}

#[test]
fn a_move_that_ignores_pins_is_caught() {
    let message = catches(|| outcomes(|| load_vs_compaction(Planted::bug(Bug::CompactionIgnoresPins))));
    assert!(message.contains("Causality violation") || message.contains("mixed"), "{message}");
}

/// Which of the two moves is the pool's choice, so each is discarded in a model of its own.
fn discard_vs_compaction(planted: Planted, block: u64) -> u64 {
    let zram = device(planted);
    sparse(&zram);
    let (held, freed) = race(&zram, move |zram| zram.discard(block).unwrap(), |zram| zram.compact().frames_freed);
    assert!(held);
    assert_eq!((load(&zram, 0) == 0, load(&zram, 2) == 0), (block == 0, block == 2), "one block is empty now");
    finish(&zram);
    freed
}

#[test]
fn a_discard_and_a_move_agree() {
    let seen: BTreeSet<u64> =
        [0, 2].into_iter().flat_map(|block| outcomes(move || discard_vs_compaction(Planted::NONE, block))).collect();
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

#[test]
fn a_move_that_ignores_a_discard_is_caught() {
    let planted = Planted::bug(Bug::CompactionIgnoresFree);
    let message = catches(|| [0, 2].map(|block| outcomes(move || discard_vs_compaction(planted, block))));
    assert!(message.contains("which is Free"), "an object is freed twice: {message}");
}

// === wide repeated words ===

fn wide_loads_vs_discard_and_store(planted: Planted) -> (u8, u8) {
    let zram = device(planted);
    store(&zram, 0, SAME);
    let (seen, ()) = race(
        &zram,
        |zram| (load(zram, 0), load(zram, 0)),
        |zram| {
            zram.discard(0).unwrap();
            store(zram, 0, SAME + 1);
        },
    );
    finish(&zram);
    // As numbers in the order of the block's contents.
    let nth = |number| [SAME, 0, SAME + 1].iter().position(|&n| n == number).expect("a page that was stored") as u8;
    (nth(seen.0), nth(seen.1))
}

#[test]
fn loads_of_a_block_see_its_pages_in_the_order_of_the_stores() {
    let seen = outcomes(|| {
        let (first, second) = wide_loads_vs_discard_and_store(Planted::NONE);
        assert!(first <= second, "an older page after a newer one");
        (first, second)
    });
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]));
}

#[test]
fn a_wide_word_that_is_not_looked_at_again_is_caught() {
    let message = catches(|| {
        outcomes(|| {
            let (first, second) = wide_loads_vs_discard_and_store(Planted::bug(Bug::PatternSkipsSecondLook));
            assert!(first <= second, "an older page after a newer one");
        })
    });
    assert!(message.contains("an older page after a newer one"), "{message}");
}

fn wide_store_vs_stores(planted: Planted) -> u8 {
    let zram = device(planted);
    race(
        &zram,
        |zram| store(zram, 0, SAME),
        |zram| {
            store(zram, 0, SAME + 1);
            store(zram, 0, 3);
        },
    );
    let last = load(&zram, 0);
    assert!([SAME, 3].contains(&last), "{last} was replaced by its own thread");
    finish(&zram);
    last
}

#[test]
fn the_last_of_several_stores_stays() {
    assert_eq!(outcomes(|| wide_store_vs_stores(Planted::NONE)), BTreeSet::from([SAME, 3]));
}

#[test]
fn stores_of_wide_words_that_do_not_exclude_each_other_are_caught() {
    let message = catches(|| outcomes(|| wide_store_vs_stores(Planted::bug(Bug::PatternWithoutLock))));
    assert!(message.contains("was replaced by its own thread"), "{message}");
}

fn wide_store_vs_compaction(block: u64) -> u64 {
    let zram = device(Planted::NONE);
    sparse(&zram);
    let (_, freed) = race(&zram, move |zram| store(zram, block, SAME), |zram| zram.compact().frames_freed);
    let other = 2 - block;
    assert_eq!((load(&zram, block), load(&zram, other)), (SAME, 2 + 2 * other as u8));
    assert_eq!(zram.pool().stats().objects, 1, "the object is gone, wherever it was moved to");
    finish(&zram);
    freed
}

#[test]
fn a_move_under_the_lock_of_a_wide_store_is_followed() {
    let seen: BTreeSet<u64> =
        [0, 2].into_iter().flat_map(|block| outcomes(move || wide_store_vs_compaction(block))).collect();
    assert_eq!(seen, BTreeSet::from([0, 1]));
}
