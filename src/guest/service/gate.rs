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
//! A fork closes everything, and so does a range for which there is no place: who reads never waits for a place. A thread that forks, or unmaps,
//! may have the allocator's lock until its event is read, and who opens ranges may want that lock first.
//!
//! 3. A range can be held as well: open for all but taking out, until a moment. What the kernel leaves in a range of which it told that it is dropped
//!    may be emptied still, by a thread that has not run yet; a page that was taken out by then would come back.
//! 4. Changes are followed, or handed on, in the order in which they were read, whoever read them: a move and the unmapping that the same `mremap`
//!    raises next, followed the other way round, would leave nothing to be moved. So each read that has changes takes a turn while it is alone.
//!
//! Where no event is asked for there is no need for a gate.

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Bug, Deadline, Mutex, Planted, Rank, RwLock, RwLockReadGuard};
use std::ops::Range;
use std::time::Duration;

/// Ranges that can be closed at once and by themselves: more than the events of a read for each thread that reads.
const CLOSED: usize = if cfg!(loom) { 2 } else { 256 };

/// Ranges that are held at once and by themselves; where there are more, everything is.
const HELD: usize = if cfg!(loom) { 1 } else { 32 };

/// All there is.
pub(crate) const ALL: Range<usize> = 0..usize::MAX;

/// Guards ranges against being taken out while they change.
#[derive(Debug)]
pub(crate) struct Gate {
    passage: RwLock<()>,
    /// How many are closed: most of the time none, and that is one load.
    closed: AtomicUsize,
    /// Something was moved, ever.
    moved: AtomicBool,
    /// How many of those are all there is.
    everything: AtomicUsize,
    ranges: Mutex<[Range<usize>; CLOSED]>,
    /// Something is held: most of the time nothing is, and that is one load.
    holds: AtomicBool,
    held: Mutex<[Option<Hold>; HELD]>,
    /// Turns that were taken, by who was alone, and turns that ended: the first that has not is the one whose changes are followed.
    turns: AtomicU64,
    ended: AtomicU64,
    planted: Planted,
}

/// Nothing is taken out of a range before a moment.
#[derive(Debug)]
struct Hold {
    range: Range<usize>,
    until: Deadline,
}

/// While it lives, no event is read.
#[must_use = "dropped, events are read again"]
pub(crate) struct Passing<'a>(#[expect(dead_code, reason = "held")] RwLockReadGuard<'a, ()>);

/// A range that was closed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it stays closed until it is opened"]
pub(crate) struct Closed(Option<usize>);

impl Gate {
    /// All is open.
    pub(crate) fn new() -> Self {
        Gate::with_planted(Planted::NONE)
    }

    /// The same, for models.
    pub(crate) fn with_planted(planted: Planted) -> Self {
        Gate {
            passage: RwLock::new(Rank::Changes, ()),
            closed: AtomicUsize::new(0),
            moved: AtomicBool::new(false),
            everything: AtomicUsize::new(0),
            ranges: Mutex::new(Rank::Leaf, [const { 0..0 }; CLOSED]),
            holds: AtomicBool::new(false),
            held: Mutex::new(Rank::Leaf, [const { None }; HELD]),
            turns: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            planted,
        }
    }

    /// The bug that a model has planted.
    pub(crate) fn planted(&self) -> Planted {
        self.planted
    }

    /// Do something in a range that must not change meanwhile: one request of the kernel's. `None` while the range is closed.
    ///
    /// # Locks
    /// [`Rank::Changes`], while it lives.
    pub(crate) fn pass(&self, range: Range<usize>) -> Option<Passing<'_>> {
        if self.planted.is(Bug::GateLooksFirst) {
            return self.is_open(range).then(|| Passing(self.passage.read()));
        }
        let passing = Passing(self.passage.read());
        self.is_open(range).then_some(passing)
    }

    /// `f` inside, which [`pass`](Self::pass) says more of; `None`, and nothing is done, while the range is closed.
    pub(crate) fn through<R>(&self, range: Range<usize>, f: impl FnOnce() -> R) -> Option<R> {
        let _passing = self.pass(range)?;
        Some(f())
    }

    /// As [`pass`](Self::pass), to take something out. `None` while a part of the range is held, too.
    ///
    /// # Locks
    /// As [`pass`](Self::pass), and a leaf.
    pub(crate) fn pass_out(&self, range: Range<usize>) -> Option<Passing<'_>> {
        let passing = self.pass(range.clone())?;
        (!self.is_held(&range)).then_some(passing)
    }

    /// Have nothing taken out of a range for so long. Before it is opened: who finds it open finds it held.
    pub(crate) fn hold(&self, range: Range<usize>, how_long: Duration) {
        if self.planted.is(Bug::HoldForgotten) {
            return;
        }
        let mut held = self.held.lock();
        let hold = Hold { range, until: Deadline::after(how_long) };
        match held.iter_mut().find(|place| place.as_ref().is_none_or(|hold| hold.until.passed())) {
            Some(place) => *place = Some(hold),
            // For all of them, to the last.
            None => held[0] = Some(Hold { range: ALL, ..hold }),
        }
        self.holds.store(true, Ordering::Relaxed); // shown by who opens the range
    }

    fn is_held(&self, range: &Range<usize>) -> bool {
        if !self.holds.load(Ordering::Relaxed) {
            return false;
        }
        let mut held = self.held.lock();
        held.iter_mut()
            .filter(|place| place.as_ref().is_some_and(|hold| hold.until.passed()))
            .for_each(|place| *place = None);
        self.holds.store(held.iter().any(Option::is_some), Ordering::Relaxed); // under the lock, as the other
        held.iter().flatten().any(|hold| hold.range.start < range.end && range.start < hold.range.end)
    }

    /// Whether no part of the range is closed. Who is not in the gate learns what was.
    pub(crate) fn is_open(&self, range: Range<usize>) -> bool {
        // Acquire pairs with the release of who opened it: the words are as he left them.
        self.closed.load(Ordering::Acquire) == 0
            || (!self.is_all_closed()
                && !self.ranges.lock().iter().any(|closed| closed.start < range.end && range.start < closed.end))
    }

    /// Whether everything is closed: no fault can be served anyway.
    pub(crate) fn is_all_closed(&self) -> bool {
        self.everything.load(Ordering::Acquire) > 0
    }

    /// A range was moved: what is nowhere by its word may have been moved there. For who is alone in the gate.
    pub(crate) fn note_moved(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    /// Whether a range was moved, ever. Who passes knows of all that was read before; Relaxed, as the passage is a lock.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed)
    }

    /// Read events, alone, and close what they change: `f` is called with what closes a range.
    ///
    /// # Locks
    /// [`Rank::Changes`].
    pub(crate) fn alone<R>(&self, f: impl FnOnce(&mut dyn FnMut(Range<usize>) -> Closed) -> R) -> R {
        let _alone = self.passage.write();
        f(&mut |range| self.close(range))
    }

    /// The next turn, for changes that were read just now. For who is alone in the gate; it has to [end](Self::end_turn).
    pub(crate) fn take_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether all that was read before was followed or handed on.
    pub(crate) fn is_turn(&self, turn: u64) -> bool {
        // Acquire pairs with the end of the turn before: what was handed on then lies before what is now.
        self.ended.load(Ordering::Acquire) == turn || self.planted.is(Bug::FollowsOutOfTurn)
    }

    /// The changes of this turn were followed or handed on.
    pub(crate) fn end_turn(&self, turn: u64) {
        debug_assert!(self.is_turn(turn), "turns end in order");
        self.ended.store(turn + 1, Ordering::Release);
    }

    /// What covers all there is takes no place, nor does what finds none.
    fn close(&self, range: Range<usize>) -> Closed {
        let place = (range != ALL).then(|| self.take_place(range)).flatten();
        if place.is_none() {
            self.everything.fetch_add(1, Ordering::Release);
        }
        self.closed.fetch_add(1, Ordering::Release);
        Closed(place)
    }

    fn take_place(&self, range: Range<usize>) -> Option<usize> {
        let mut ranges = self.ranges.lock();
        let place = ranges.iter().position(|closed| closed.is_empty())?;
        ranges[place] = range;
        Some(place)
    }

    /// Its words have followed.
    pub(crate) fn open(&self, closed: Closed) {
        match closed.0 {
            Some(place) => self.ranges.lock()[place] = 0..0,
            None => _ = self.everything.fetch_sub(1, Ordering::Release),
        }
        // Release, and last: who reads it finds what is open open.
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
    fn what_finds_no_place_closes_everything_until_it_is_opened() {
        let gate = Gate::new();
        let mut closed =
            gate.alone(|close| (1..=CLOSED + 2).map(|k| close(k << 12..(k + 1) << 12)).collect::<Vec<_>>());
        assert!(gate.is_all_closed() && !gate.is_open(0..1));
        closed.drain(CLOSED..).for_each(|closed| gate.open(closed));
        assert!(!gate.is_all_closed() && gate.is_open(0..1) && !gate.is_open(1 << 12..2 << 12));
        let fork = gate.alone(|close| close(ALL));
        assert!(gate.is_all_closed() && !gate.is_open(0..1));
        gate.open(fork);
        closed.into_iter().for_each(|closed| gate.open(closed));
        assert!(gate.pass(ALL).is_some());
    }

    #[test]
    fn what_is_held_is_passed_by_all_but_who_takes_out_and_not_for_ever() {
        let (gate, long, short) = (Gate::new(), Duration::from_secs(1000), Duration::from_millis(30));
        gate.hold(0x2000..0x4000, long);
        assert!(gate.pass(0x2000..0x3000).is_some() && gate.pass_out(0x2000..0x3000).is_none());
        assert!(gate.pass_out(0x4000..0x5000).is_some() && gate.pass_out(0x1000..0x2000).is_some());
        gate.hold(0x8000..0x9000, short);
        assert!(gate.pass_out(0x8000..0x9000).is_none());
        std::thread::sleep(short);
        assert!(gate.pass_out(0x8000..0x9000).is_some() && gate.pass_out(0x3000..0x9000).is_none());
        // More than there are places: nothing is taken out of anything.
        (0..HELD).for_each(|k| gate.hold(k << 16..(k << 16) + 1, long));
        assert!(gate.pass_out(1 << 40..2 << 40).is_none() && gate.pass(ALL).is_some());
        let passing = Gate::new();
        passing.hold(ALL, short);
        std::thread::sleep(short);
        assert!(passing.pass_out(ALL).is_some() && !passing.holds.load(Ordering::Relaxed));
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
