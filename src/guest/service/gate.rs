//! [`Gate`]: nothing is taken out of a range between the moment in which the kernel says that it changes and the moment in which its
//! words have followed.
//!
//! ```text
//!   munmap(R), waits --event--> [ read, close R ] --> words of R follow --> open R
//!     |                          alone in the gate
//!     +-- goes on, maps something else at R, writes there
//!                                                     take pages out of R:   through the gate: R is closed, so not now
//! ```
//!
//! Reading the event lets its thread go on at once. It may map other memory at the same addresses and write to it, while the words
//! still say Resident of what was there before: who took a page out then would take what is not registered. And who served a fault
//! there from the old words would give back what was discarded.
//!
//! 1. Events are read alone in the gate, and what they change is closed before it is left. So whoever is in the gate and finds a range open
//!    may do something there as if no event had come.
//! 2. In the gate nobody waits for a word, and only one request is made of the kernel. Words follow outside, and the range is opened after that.
//!
//! Where no event is asked for there is no need for a gate.

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, Rank, RwLock, RwLockReadGuard};
use std::ops::Range;

/// Ranges that can be closed at once: more than the events of a read for each thread that reads. A reader that finds all in use
/// reads no more until one is opened.
pub(crate) const CLOSED: usize = 256;

/// Guards ranges against being taken out while they change.
#[derive(Debug)]
pub(crate) struct Gate {
    passage: RwLock<()>,
    /// How many are closed: most of the time none, and that is one load.
    closed: AtomicUsize,
    ranges: Mutex<[Range<usize>; CLOSED]>,
}

/// While it lives, no event is read.
#[must_use = "dropped, events are read again"]
pub(crate) struct Passing<'a>(#[expect(dead_code, reason = "held")] RwLockReadGuard<'a, ()>);

/// A range that was closed, by its place.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it stays closed until it is opened"]
pub(crate) struct Closed(usize);

impl Gate {
    /// All is open.
    pub(crate) fn new() -> Self {
        Gate {
            passage: RwLock::new(Rank::Changes, ()),
            closed: AtomicUsize::new(0),
            ranges: Mutex::new(Rank::Leaf, [const { 0..0 }; CLOSED]),
        }
    }

    /// Do something in a range that must not change meanwhile: one request of the kernel's. `None` while the range is closed.
    ///
    /// # Locks
    /// [`Rank::Changes`], while it lives.
    pub(crate) fn pass(&self, range: Range<usize>) -> Option<Passing<'_>> {
        let passing = Passing(self.passage.read());
        self.is_open(range).then_some(passing)
    }

    /// Whether no part of the range is closed. Who is not in the gate learns what was.
    pub(crate) fn is_open(&self, range: Range<usize>) -> bool {
        // Acquire pairs with the release of who opened it: the words are as he left them.
        self.closed.load(Ordering::Acquire) == 0
            || !self.ranges.lock().iter().any(|closed| closed.start < range.end && range.start < closed.end)
    }

    /// Whether `most` more ranges can be closed.
    pub(crate) fn has_room_for(&self, most: usize) -> bool {
        self.closed.load(Ordering::Relaxed) + most <= CLOSED
    }

    /// Read events, alone, and close what they change: `f` is called with what closes a range.
    ///
    /// # Locks
    /// [`Rank::Changes`].
    pub(crate) fn alone<R>(&self, f: impl FnOnce(&mut dyn FnMut(Range<usize>) -> Closed) -> R) -> R {
        let _alone = self.passage.write();
        f(&mut |range| self.close(range))
    }

    fn close(&self, range: Range<usize>) -> Closed {
        let mut ranges = self.ranges.lock();
        let place =
            ranges.iter().position(|closed| closed.is_empty()).expect("the reader has asked whether there is room");
        ranges[place] = range;
        self.closed.fetch_add(1, Ordering::Release);
        Closed(place)
    }

    /// Its words have followed.
    pub(crate) fn open(&self, closed: Closed) {
        self.ranges.lock()[closed.0] = 0..0;
        self.closed.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn what_is_closed_is_passed_by_nobody_until_it_is_opened() {
        let gate = Gate::new();
        let closed = gate.alone(|close| [close(0x2000..0x4000), close(0x9000..0xa000)]);
        for (range, open) in [
            (0x1000..0x2000, true),
            (0x1000..0x2001, false),
            (0x3fff..0x5000, false),
            (0x4000..0x9000, true),
            (0x4000..0x9001, false),
            (0..usize::MAX, false),
        ] {
            assert_eq!(gate.pass(range.clone()).is_some(), open, "{range:#x?}");
        }
        for closed in closed {
            gate.open(closed);
        }
        assert!(gate.pass(0..usize::MAX).is_some());
    }

    #[test]
    fn events_are_not_read_while_somebody_passes() {
        let gate = Gate::new();
        let read = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let passing = gate.pass(0..4096).unwrap();
            scope.spawn(|| gate.alone(|_| read.store(true, Ordering::SeqCst)));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!read.load(Ordering::SeqCst));
            drop(passing);
        });
        assert!(read.load(Ordering::SeqCst));
    }
}
