//! [`Word`]: where a page of a guest is. Every change is one compare-exchange of its [`Bits`].
//!
//! ```text
//!   Resident  -- leave ----> Leaving  --+
//!   any other -- fill -----> Filling  --+-- end --> Resident, Staged, Stored, Absent, Poisoned      owned by one thread, for a request or two
//!   any other -- discard --> Dropping --+
//!
//!   Staged -- compress --> Compressing|shadow --+-- compressed, not_shrunk --> Dropping, Filling    the page was there still: the compressor's
//!                                               +-- not_compressed ----------> Staged
//!                                               +-- fill, discard: taken away. hand_over says whose the frame is; shadow_gone, took_over
//! ```
//!
//! 1. Only who made a state *owned* ends it. Flags change at any time, by whoever they belong to; so each end of an owned state
//!    is a compare-exchange too, which keeps them.
//! 2. Nothing is installed in the guest range, and nothing taken from it, without owning the word.
//! 3. `kept` is set and cleared only by who owns the word.
//! 4. A word is Compressing only with `shadow`, which is set with it, and cleared by the same compressor or by whom it handed the
//!    frame to, when what it stored is given back and it reads the staging place no more.
//!
//! Owned with Acquire, given back with Release: who owns a word sees what its last owner did.

use super::bits::{
    BAN, BAN_SHIFT, Bits, HANDED, KeptSize, LEFT, MAX_BAN, MAX_PINS, MAX_STIFF, PINS_SHIFT, REFERENCED, SHADOW, State,
    THROUGH, WAITER,
};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Bug, Planted, Zeroed};
use std::fmt;

/// A page's word. All zero: Absent.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Word(AtomicU32);

// SAFETY: a transparent wrapper of an atomic integer, for which zero is a value; no destructor.
unsafe impl Zeroed for Word {
    fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// What the end of an owned state asks of who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "somebody may wait"]
pub(crate) struct Ended {
    /// Threads sleep at the word.
    pub(crate) waiter: bool,
    /// Threads wait in the kernel, and whoever was to serve them left it to the owner.
    pub(crate) left: bool,
    /// It was stiff, and is not any more.
    pub(crate) softened: bool,
}

/// What a compressor finds when it is through with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the slot or the frame is left over"]
pub(crate) enum Through {
    /// The page is still where it was: the word is Dropping now, and the compressor owns it, to give the frame back.
    Mine,
    /// Somebody took the page away. What was stored is left over, and so is the frame; `shadow` is set still.
    Lost,
}

/// What a compressor that lost its page does with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the frame is left over"]
pub(crate) enum Frame {
    /// Whoever fills the page gives it back: he may be reading it.
    Handed,
    /// The compressor gives it back, and then clears `shadow`.
    Ours,
    /// Nobody: whoever took the page could do nothing with it, and it is staged again. The compressor clears `shadow`.
    Staged,
}

// === impl Word ===

impl Word {
    /// What it says now.
    #[inline]
    pub(crate) fn load(&self) -> Bits {
        Bits(self.0.load(Ordering::Acquire))
    }

    fn exchange(&self, seen: Bits, to: Bits) -> Result<(), Bits> {
        self.0.compare_exchange(seen.0, to.0, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(Bits)
    }

    /// Change it until `change` says no. What it was before the change, or what it is.
    fn update(&self, mut change: impl FnMut(Bits) -> Option<Bits>) -> Result<Bits, Bits> {
        let mut seen = self.load();
        while let Some(to) = change(seen) {
            match self.exchange(seen, to) {
                Ok(()) => return Ok(seen),
                Err(now) => seen = now,
            }
        }
        Err(seen)
    }

    /// Own it to take the page out: Resident -> Leaving. What it said, or `None` where it may not leave: not there, pinned, or a compressor at it.
    pub(crate) fn leave(&self) -> Option<Bits> {
        self.update(|seen| seen.can_leave().then(|| seen.with_state(State::Leaving))).ok()
    }

    /// Own it to bring the page in, or to change what is there: `seen` -> Filling. From Compressing it takes the page away
    /// from the compressor.
    ///
    /// # Errors
    /// What it says by now.
    pub(crate) fn fill(&self, seen: Bits) -> Result<(), Bits> {
        debug_assert!(!seen.state().is_owned());
        self.exchange(seen, seen.with_state(State::Filling))
    }

    /// Own it to throw the page away: `seen` -> Dropping. From Compressing it takes the page away from the compressor.
    ///
    /// # Errors
    /// What it says by now.
    pub(crate) fn discard(&self, seen: Bits) -> Result<(), Bits> {
        debug_assert!(!seen.state().is_owned());
        self.exchange(seen, seen.with_state(State::Dropping))
    }

    /// Begin to compress: Staged -> Compressing, with `shadow`. What it said, or `None` where it is not staged any more.
    pub(crate) fn compress(&self) -> Option<Bits> {
        let begun = |seen: Bits| seen.with_state(State::Compressing).set(SHADOW, true);
        self.update(|seen| (seen.state() == State::Staged && !seen.has_shadow()).then(|| begun(seen))).ok()
    }

    /// The page is stored: Compressing -> Dropping, without `shadow`, unless somebody took it away. Who did, and owns it still, is told
    /// by `through`.
    pub(crate) fn compressed(&self) -> Through {
        self.end_compressing(State::Dropping)
    }

    /// The page does not shrink: Compressing -> Filling, without `shadow`, to be put back by who compressed it, unless somebody took it away;
    /// as [`compressed`](Self::compressed).
    pub(crate) fn not_shrunk(&self) -> Through {
        self.end_compressing(State::Filling)
    }

    /// The owner says that the page does not shrink. Whether that is new.
    pub(crate) fn stiffen(&self) -> bool {
        let stiffer = |seen: Bits| (!seen.is_kept()).then(|| seen.with_stiff((seen.stiff() + 1).min(MAX_STIFF)));
        self.update(stiffer).is_ok_and(|before| before.stiff() == 0)
    }

    /// The page could not be stored: Compressing -> Staged, without `shadow`, unless somebody took it away; as
    /// [`compressed`](Self::compressed).
    pub(crate) fn not_compressed(&self) -> Through {
        self.end_compressing(State::Staged)
    }

    fn end_compressing(&self, to: State) -> Through {
        let next = |seen: Bits| match seen.state() {
            State::Compressing => Some(seen.with_state(to).set(SHADOW, false).set(THROUGH, to.is_owned())),
            state if state.is_owned() => Some(seen.set(THROUGH, true)),
            _ => None,
        };
        match self.update(next) {
            Ok(before) if before.state() == State::Compressing => Through::Mine,
            _ => Through::Lost,
        }
    }

    /// The owner took the page from a compressor, and could do nothing with it: back to Compressing, as if nothing had been.
    ///
    /// `None` where the compressor knows by now that it lost the page.
    pub(crate) fn untake(&self, planted: Planted) -> Option<Ended> {
        let back = |seen: Bits| seen.with_state(State::Compressing).set(WAITER | LEFT | THROUGH | HANDED, false);
        let before = self
            .update(|seen| (!seen.is_through() || planted.is(Bug::UntakeIgnoresThrough)).then(|| back(seen)))
            .ok()?;
        Some(Ended { waiter: before.0 & WAITER != 0, left: before.0 & LEFT != 0, softened: false })
    }

    /// A compressor that lost its page, and has given back what it stored, is through with it: who is filling the page gives the
    /// frame back, as he may be reading it; else the compressor does, and nobody takes the page out until
    /// [`shadow_gone`](Self::shadow_gone).
    pub(crate) fn hand_over(&self) -> Frame {
        let handed = |seen: Bits| (seen.state() == State::Filling).then(|| seen.set(HANDED, true));
        match self.update(handed) {
            Ok(_) => Frame::Handed,
            Err(seen) if seen.state() == State::Staged => Frame::Staged,
            Err(_) => Frame::Ours,
        }
    }

    /// The staging place is empty: clear `shadow`.
    pub(crate) fn shadow_gone(&self) {
        let _ = self.update(|seen| Some(seen.set(SHADOW, false)));
    }

    /// End an owned state. Says [`Bits::is_handed`] and changes nothing where the owner has a staged frame to give back first; then
    /// [`took_over`](Self::took_over).
    ///
    /// # Errors
    /// What it says, where a frame was handed over.
    pub(crate) fn end(&self, to: State, kept: Option<KeptSize>, stamp: Option<u8>) -> Result<Ended, Bits> {
        let next = |seen: Bits| {
            let next = seen.with_state(to).with_kept(kept).set(WAITER | LEFT | THROUGH, false);
            // As long as it is in memory.
            let is_in = kept.is_none() && matches!(to, State::Resident | State::Staged);
            let next = if is_in { next.with_stiff(seen.stiff()) } else { next };
            stamp.map_or(next, |stamp| next.with_stamp(stamp))
        };
        let before = self.update(|seen| {
            debug_assert!(seen.state().is_owned() && !to.is_owned(), "{seen:?} -> {to:?}");
            (!seen.is_handed()).then(|| next(seen))
        })?;
        let softened = before.stiff() > 0 && next(before).stiff() == 0;
        Ok(Ended { waiter: before.0 & WAITER != 0, left: before.0 & LEFT != 0, softened })
    }

    /// The owner has given back the frame that was handed to it.
    pub(crate) fn took_over(&self) {
        let _ = self.update(|seen| Some(seen.set(HANDED | SHADOW, false)));
    }

    /// Say that a thread is about to sleep until the owned state that was `seen` ends. What to sleep on, or `None` where the word
    /// changed.
    pub(crate) fn will_wait(&self, seen: Bits) -> Option<Bits> {
        let to = seen.set(WAITER, true);
        (seen == to || self.exchange(seen, to).is_ok()).then_some(to)
    }

    /// Sleep while it says `seen`; may wake without reason.
    pub(crate) fn sleep(&self, seen: Bits) {
        crate::sync::parking::wait(&self.0, seen.0);
    }

    /// Wake all who sleep.
    pub(crate) fn wake(&self) {
        crate::sync::parking::wake_all(&self.0);
    }

    /// Leave a fault to the owner. No, where nobody owns it any more.
    pub(crate) fn leave_to_owner(&self) -> bool {
        self.update(|seen| seen.state().is_owned().then(|| seen.set(LEFT, true))).is_ok()
    }

    /// One pin more, of a page that is in the guest range. Whether it is its first.
    ///
    /// # Errors
    /// What it says, where it is not there or has as many as there can be.
    pub(crate) fn pin(&self, planted: Planted) -> Result<bool, Bits> {
        let more = |seen: Bits| Bits(seen.0 + (1 << PINS_SHIFT));
        if planted.is(Bug::PinCountsLate) && self.load().state() == State::Resident {
            let _ = self.update(|seen| Some(more(seen)));
            return Ok(true);
        }
        let before =
            self.update(|seen| (seen.state() == State::Resident && seen.pins() < MAX_PINS).then(|| more(seen)))?;
        Ok(before.pins() == 0)
    }

    /// One pin less. Whether it was the last.
    pub(crate) fn unpin(&self) -> bool {
        let before = self.update(|seen| (seen.pins() > 0).then(|| Bits(seen.0 - (1 << PINS_SHIFT))));
        debug_assert!(before.is_ok(), "unpinned more often than pinned");
        before.is_ok_and(|before| before.pins() == 1)
    }

    /// It came back from the staging place, or the clock has seen that.
    pub(crate) fn set_referenced(&self, yes: bool) {
        let _ = self.update(|seen| (seen.is_referenced() != yes).then(|| seen.set(REFERENCED, yes)));
    }

    /// Leave the page alone for so many passes.
    pub(crate) fn set_ban(&self, passes: u32) {
        let passes = passes.min(MAX_BAN);
        let _ = self.update(|seen| Some(Bits(seen.0 & !BAN | passes << BAN_SHIFT)));
    }

    /// Its stamp is so old that its number comes again: another one, unless it moved meanwhile.
    pub(crate) fn restamp(&self, from: u8, to: u8) {
        let _ = self.update(|seen| (seen.stamp() == from && !seen.state().is_owned()).then(|| seen.with_stamp(to)));
    }

    /// A page that was in the guest range when it was registered: Absent -> Resident. No, where somebody was faster.
    pub(crate) fn found(&self, stamp: u8) -> bool {
        let found = |seen: Bits| seen.with_state(State::Resident).with_stamp(stamp);
        self.update(|seen| (seen.state() == State::Absent).then(|| found(seen))).is_ok()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_round_and_keeps_what_is_not_the_state() {
        let word = Word::default();
        assert!(word.found(3) && !word.found(4));
        word.set_ban(9);
        assert_eq!(word.load().ban(), MAX_BAN);
        word.set_ban(0);
        word.set_referenced(true);
        assert!(word.leave().is_some() && word.leave().is_none());
        assert_eq!(word.end(State::Staged, None, Some(7)), Ok(Ended { waiter: false, left: false, softened: false }));
        assert!(word.compress().is_some() && word.load().has_shadow());
        assert_eq!(word.compressed(), Through::Mine);
        assert!(word.end(State::Stored, None, None).is_ok());
        let seen = word.load();
        assert_eq!(
            (seen.state(), seen.stamp(), seen.is_referenced(), seen.has_shadow()),
            (State::Stored, 7, true, false)
        );
        word.fill(seen).unwrap();
        assert_eq!(word.fill(seen).unwrap_err().state(), State::Filling);
        assert!(word.will_wait(seen).is_none() && word.will_wait(word.load()).is_some() && word.leave_to_owner());
        assert_eq!(
            word.end(State::Resident, Some(KeptSize::of(1000)), None),
            Ok(Ended { waiter: true, left: true, softened: false })
        );
        assert!(!word.leave_to_owner() && word.load().kept() == Some(KeptSize::of(1024)));
    }

    #[test]
    fn a_page_taken_from_its_compressor_leaves_only_when_that_is_through() {
        let word = Word::default();
        assert!(word.found(0) && word.leave().is_some() && word.end(State::Staged, None, None).is_ok());
        let _ = word.compress();
        word.fill(word.load()).unwrap();
        assert_eq!((word.compressed(), word.hand_over()), (Through::Lost, Frame::Handed));
        assert!(word.end(State::Resident, None, None).unwrap_err().is_handed());
        word.took_over();
        assert!(word.end(State::Resident, None, None).is_ok() && word.load().can_leave());
        // The other way round: filled before the compressor was through.
        assert!(word.leave().is_some() && word.end(State::Staged, None, None).is_ok());
        let _ = word.compress();
        word.fill(word.load()).unwrap();
        assert!(word.end(State::Resident, None, None).is_ok());
        assert_eq!((word.leave(), word.not_compressed(), word.hand_over()), (None, Through::Lost, Frame::Ours));
        word.shadow_gone();
        assert!(word.leave().is_some());
    }

    #[test]
    fn a_page_is_stiff_while_it_is_in_memory() {
        let word = Word::default();
        assert!(word.found(0) && word.leave().is_some() && word.stiffen() && !word.stiffen());
        assert!(!word.end(State::Staged, None, None).unwrap().softened && word.load().stiff() == 2);
        assert!(word.compress().is_some() && word.compressed() == Through::Mine);
        assert!(word.end(State::Stored, None, None).unwrap().softened && word.load().stiff() == 0);
        // The size of a kept copy has the same bits.
        word.fill(word.load()).unwrap();
        assert!(!word.end(State::Resident, Some(KeptSize::of(4096)), None).unwrap().softened);
        assert_eq!((word.load().stiff(), word.stiffen(), word.load().kept()), (0, false, Some(KeptSize::of(4096))));
    }

    #[test]
    fn pins_keep_a_page_and_are_counted() {
        let word = Word::default();
        assert!(word.pin(Planted::NONE).is_err());
        word.found(0);
        for _ in 0..MAX_PINS {
            assert_eq!(word.pin(Planted::NONE).unwrap(), word.load().pins() == 1);
        }
        assert_eq!((word.pin(Planted::NONE).unwrap_err().pins(), word.leave()), (MAX_PINS, None));
        assert!((1..MAX_PINS).all(|_| !word.unpin()) && word.unpin());
        assert!(word.leave().is_some());
    }
}
