//! [`word`]: what a child has of a page that its memory does not hold: a claim on a slot, in 64 bits.
//!
//! ```text
//!   63            3 2     0
//!   +--------------+-------+
//!   |     slot     | state |       Zero -> Out <-> Busy -> Here, Zero, Poisoned
//!   +--------------+-------+
//! ```
//!
//! | state | slot | then a fault of the child |
//! |---|---|---|
//! | Zero | | zeroes, and a charge |
//! | Out | holds the page, and a reference of ours | load, COPY, the reference goes |
//! | Busy | the same: somebody is at it | again, in a moment |
//! | Here | | dropped by the child meanwhile: zeroes |
//! | Poisoned | | poisoned again |
//!
//! 1. A word is changed by compare-exchange; who makes it Busy alone reads the slot, and ends Busy. Two do: the thread that serves children,
//!    and a store of the parent's, which waits for the other and never the other way round.
//! 2. A reference is given back while the word is Busy: who finds it [`Taking::Elsewhere`] knows that the slot is not the child's any more.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Bug, Planted};
use crate::units::Slot;

pub(crate) const STATE: u64 = 7;
pub(crate) const ZERO: u64 = 0;
pub(crate) const OUT: u64 = 1;
pub(crate) const BUSY: u64 = 2;
pub(crate) const HERE: u64 = 3;
pub(crate) const POISONED: u64 = 4;
pub(crate) const SLOT_SHIFT: u32 = 3;

/// A word that names a slot.
pub(crate) fn word(state: u64, slot: Slot) -> u64 {
    debug_assert!(slot.0 < 1 << (64 - SLOT_SHIFT));
    slot.0 << SLOT_SHIFT | state
}

/// The slot that a word names.
pub(crate) fn slot(word: u64) -> Slot {
    Slot(word >> SLOT_SHIFT)
}

/// What became of an attempt to make a word Busy.
pub(crate) enum Taking {
    /// It is.
    Mine,
    /// Somebody else has.
    Busy,
    /// It does not name that slot any more.
    Elsewhere,
}

/// A word that this thread made Busy, and that goes back unless it is ended.
pub(crate) struct Taken<'a> {
    pub(crate) word: &'a AtomicU64,
    pub(crate) back: u64,
}

impl Taken<'_> {
    pub(crate) fn end(mut self, now: u64) {
        self.back = now;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Release pairs with the acquire of who takes it next: what was done with the slot comes before.
        self.word.store(self.back, Ordering::Release);
    }
}

/// Make a word Busy that is Out with this slot.
pub(crate) fn take(theirs: &AtomicU64, wanted: Slot) -> Taking {
    let out = word(OUT, wanted);
    match theirs.compare_exchange(out, word(BUSY, wanted), Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => Taking::Mine,
        Err(now) if now & STATE == BUSY && slot(now) == wanted => Taking::Busy,
        Err(now) if now == out => Taking::Busy, // a weak failure: again
        Err(_) => Taking::Elsewhere,
    }
}

/// Move a word to another list. One that names a slot is Busy until it is there: a store that looks for it finds it in one of the two.
pub(crate) fn move_word(from: &AtomicU64, to: &AtomicU64, planted: Planted) {
    let mut backoff = Backoff::new();
    loop {
        let seen = from.load(Ordering::Acquire);
        match seen & STATE {
            BUSY => backoff.wait_for_io(),
            OUT if planted.is(Bug::MovedClaimUncovered) => {
                from.store(ZERO, Ordering::Release);
                return to.store(seen, Ordering::Release);
            }
            OUT if matches!(take(from, slot(seen)), Taking::Mine) => {
                to.store(seen, Ordering::Release);
                return from.store(ZERO, Ordering::Release);
            }
            OUT => {}
            _ if from.compare_exchange(seen, ZERO, Ordering::AcqRel, Ordering::Relaxed).is_ok() => {
                return to.store(seen, Ordering::Release);
            }
            _ => {}
        }
    }
}
