//! [`Word`]: where a page of a guest is, in 32 bits. Every change is one compare-exchange.
//!
//! ```text
//!   31      24 23      16 15  13    12     11 10  9    8    7       6       5      4      3      0
//!   +---------+----------+------+-------+------+----+------+-------+-------+------+------+-------+
//!   |  stamp  |   pins   | size |through| ban  |left|waiter|handed |refer. | kept |shadow| state |
//!   +---------+----------+------+-------+------+----+------+-------+-------+------+------+-------+
//! ```
//!
//! | state | where the bytes are | charged as |
//! |---|---|---|
//! | Absent | nowhere: it reads as zeroes (never touched, or discarded) | nothing |
//! | Resident | guest range | 4096 resident |
//! | Leaving, *owned* by an evictor | guest range or staging place: the kernel is asked this moment | 4096 resident |
//! | Staged | staging place | 4096 resident |
//! | Compressing: a compressor reads it, others may take it away | staging place | 4096 resident, which the compressor carries |
//! | Stored | slot | what the slot's content takes |
//! | Filling, *owned* by who brings it in | slot, staging place or nowhere | both, for the moment |
//! | Dropping, *owned* by a discard, or by who gives its frame back | going | |
//! | Poisoned | slot, or lost; who touches it gets a SIGBUS | what the slot's content takes |
//!
//! | flag | means |
//! |---|---|
//! | shadow | a compressor is not through with the staging place: the page is not taken out until it is cleared |
//! | through | only while owned: the compressor that the page was taken from knows that; it does not read the staging place any more. Or, of a page that is Dropping, it is that compressor who owns it |
//! | handed | only while Filling: and it has left the frame in the staging place to the owner |
//! | kept | the slot holds an equal copy, and the page is write-protected; cleared before the first write goes ahead |
//! | size | of that copy, in steps of 512 bytes, less one; where none is kept: how *stiff* the page is, so often in a row it did not shrink |
//! | referenced | it came back from the staging place: hot |
//! | waiter | somebody sleeps until the owned state ends |
//! | left | somebody left a fault of the page to the owner, who wakes it |
//! | ban | so many passes of the clock leave the page alone |
//! | pins | so many times it must stay |
//! | stamp | coarse time of the last move |
//!
//! 1. Only who made a state *owned* ends it. Flags change at any time, by whoever they belong to; so each end of an owned state
//!    is a compare-exchange too, which keeps them.
//! 2. Nothing is installed in the guest range, and nothing taken from it, without owning the word.
//! 3. `kept` is set and cleared only by who owns the word.
//! 4. A word is Compressing only with `shadow`, which is set with it, and cleared by the same compressor or by whom it handed the
//!    frame to, when what it stored is given back and it reads the staging place no more.
//!
//! Owned with Acquire, given back with Release: who owns a word sees what its last owner did.

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Bug, Planted, Zeroed};
use std::fmt;

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    /// Nowhere: zeroes.
    Absent = 0,
    /// In the guest range.
    Resident,
    /// Being taken out of it.
    Leaving,
    /// In the staging place.
    Staged,
    /// There, and being compressed.
    Compressing,
    /// In its slot.
    Stored,
    /// Being brought in.
    Filling,
    /// On its way to nowhere.
    Dropping,
    /// Not to be had.
    Poisoned,
}

const STATES: [State; 9] = [
    State::Absent,
    State::Resident,
    State::Leaving,
    State::Staged,
    State::Compressing,
    State::Stored,
    State::Filling,
    State::Dropping,
    State::Poisoned,
];

impl State {
    /// Whether somebody owns a word in this state, and will end it soon.
    pub(crate) const fn is_owned(self) -> bool {
        matches!(self, State::Leaving | State::Filling | State::Dropping)
    }
}

const STATE: u32 = 0xf;
const SHADOW: u32 = 1 << 4;
const KEPT: u32 = 1 << 5;
const REFERENCED: u32 = 1 << 6;
const HANDED: u32 = 1 << 7;
const WAITER: u32 = 1 << 8;
const LEFT: u32 = 1 << 9;
const BAN_SHIFT: u32 = 10;
const BAN: u32 = 3 << BAN_SHIFT;
const THROUGH: u32 = 1 << 12;
const SIZE_SHIFT: u32 = 13;
const SIZE: u32 = 7 << SIZE_SHIFT;
const PINS_SHIFT: u32 = 16;
const PINS: u32 = 0xff << PINS_SHIFT;
const STAMP_SHIFT: u32 = 24;

const _: () = {
    assert!(STATES.len() <= STATE as usize + 1);
    let flags = [SHADOW, KEPT, REFERENCED, HANDED, WAITER, LEFT, BAN, THROUGH, SIZE, PINS, 0xff << STAMP_SHIFT];
    let (mut seen, mut k) = (STATE, 0);
    while k < flags.len() {
        assert!(seen & flags[k] == 0);
        seen |= flags[k];
        k += 1;
    }
};

/// The most passes of the clock a page can be left alone.
pub(crate) const MAX_BAN: u32 = BAN >> BAN_SHIFT;

/// The most times in a row that a page is known not to shrink.
pub(crate) const MAX_STIFF: u32 = 5;

/// The most pins a page can have.
pub(crate) const MAX_PINS: u32 = PINS >> PINS_SHIFT;

/// A copy that the slot keeps of a page in the guest range: how much of the pool it takes, in steps of [`KEPT_STEP`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptSize(u8);

/// What kept copies are counted in.
pub(crate) const KEPT_STEP: u64 = 512;

impl KeptSize {
    /// So many bytes, up to a page.
    pub(crate) fn of(bytes: usize) -> Self {
        KeptSize((bytes as u64).div_ceil(KEPT_STEP).clamp(1, 8) as u8)
    }

    /// Bytes, rounded up.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.0) * KEPT_STEP
    }
}

/// What a word said at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bits(u32);

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

// === impl Bits ===

impl Bits {
    pub(crate) const fn state(self) -> State {
        STATES[(self.0 & STATE) as usize]
    }

    const fn with_state(self, state: State) -> Bits {
        Bits(self.0 & !STATE | state as u32)
    }

    const fn set(self, flag: u32, on: bool) -> Bits {
        Bits(if on { self.0 | flag } else { self.0 & !flag })
    }

    /// A compressor is not through with the staging place.
    pub(crate) const fn has_shadow(self) -> bool {
        self.0 & SHADOW != 0
    }

    /// The slot holds an equal copy.
    pub(crate) const fn is_kept(self) -> bool {
        self.0 & KEPT != 0
    }

    /// The equal copy in the slot.
    pub(crate) const fn kept(self) -> Option<KeptSize> {
        if self.is_kept() { Some(KeptSize(((self.0 & SIZE) >> SIZE_SHIFT) as u8 + 1)) } else { None }
    }

    /// So often in a row it was found not to shrink.
    pub(crate) const fn stiff(self) -> u32 {
        if self.is_kept() { 0 } else { (self.0 & SIZE) >> SIZE_SHIFT }
    }

    fn with_stiff(self, times: u32) -> Bits {
        debug_assert!(!self.is_kept());
        Bits(self.0 & !SIZE | times << SIZE_SHIFT)
    }

    fn with_kept(self, kept: Option<KeptSize>) -> Bits {
        let size = kept.map_or(0, |kept| (u32::from(kept.0) - 1) << SIZE_SHIFT);
        Bits(self.0 & !SIZE | size).set(KEPT, kept.is_some())
    }

    /// It came back from the staging place.
    pub(crate) const fn is_referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }

    /// Who fills the page gives the staged frame back.
    pub(crate) const fn is_handed(self) -> bool {
        self.0 & HANDED != 0
    }

    /// The compressor that it was taken from knows that, or has it still: Dropping, on its way to its slot.
    pub(crate) const fn is_through(self) -> bool {
        self.0 & (THROUGH | HANDED) != 0
    }

    /// Passes of the clock that leave the page alone.
    pub(crate) const fn ban(self) -> u32 {
        (self.0 & BAN) >> BAN_SHIFT
    }

    /// How often it is pinned.
    pub(crate) const fn pins(self) -> u32 {
        (self.0 & PINS) >> PINS_SHIFT
    }

    /// Coarse time of the last move.
    pub(crate) const fn stamp(self) -> u8 {
        (self.0 >> STAMP_SHIFT) as u8
    }

    /// Whether an evictor may take it out, whatever its ban and whether it is hot.
    pub(crate) const fn can_leave(self) -> bool {
        matches!(self.state(), State::Resident) && self.pins() == 0 && !self.has_shadow()
    }

    /// The same, staged.
    pub(crate) const fn as_staged(self) -> Bits {
        self.with_state(State::Staged)
    }

    const fn with_stamp(self, stamp: u8) -> Bits {
        Bits(self.0 & !(0xff << STAMP_SHIFT) | (stamp as u32) << STAMP_SHIFT)
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.state())?;
        let flags = [(SHADOW, "shadow"), (KEPT, "kept"), (REFERENCED, "referenced"), (HANDED, "handed")];
        for (_, name) in
            flags.into_iter().chain([(WAITER, "waiter"), (LEFT, "left")]).filter(|(flag, _)| self.0 & flag != 0)
        {
            write!(f, "|{name}")?;
        }
        write!(f, " ban {} pins {} stamp {}", self.ban(), self.pins(), self.stamp())
    }
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

    /// Own it to take the page out: Resident -> Leaving. What it said, or `None` where it may not leave: not there, pinned, a
    /// compressor at it, or left alone for a while unless `banned` too.
    pub(crate) fn leave(&self, banned: bool) -> Option<Bits> {
        self.update(|seen| (seen.can_leave() && (banned || seen.ban() == 0)).then(|| seen.with_state(State::Leaving)))
            .ok()
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
        assert_eq!((word.load().ban(), word.leave(false)), (MAX_BAN, None));
        word.set_ban(0);
        word.set_referenced(true);
        assert!(word.leave(false).is_some() && word.leave(false).is_none());
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
        assert!(!word.leave_to_owner() && word.load().kept() == Some(KeptSize(2)));
    }

    #[test]
    fn a_page_taken_from_its_compressor_leaves_only_when_that_is_through() {
        let word = Word::default();
        assert!(word.found(0) && word.leave(true).is_some() && word.end(State::Staged, None, None).is_ok());
        let _ = word.compress();
        word.fill(word.load()).unwrap();
        assert_eq!((word.compressed(), word.hand_over()), (Through::Lost, Frame::Handed));
        assert!(word.end(State::Resident, None, None).unwrap_err().is_handed());
        word.took_over();
        assert!(word.end(State::Resident, None, None).is_ok() && word.load().can_leave());
        // The other way round: filled before the compressor was through.
        assert!(word.leave(true).is_some() && word.end(State::Staged, None, None).is_ok());
        let _ = word.compress();
        word.fill(word.load()).unwrap();
        assert!(word.end(State::Resident, None, None).is_ok());
        assert_eq!((word.leave(true), word.not_compressed(), word.hand_over()), (None, Through::Lost, Frame::Ours));
        word.shadow_gone();
        assert!(word.leave(true).is_some());
    }

    #[test]
    fn a_page_is_stiff_while_it_is_in_memory() {
        let word = Word::default();
        assert!(word.found(0) && word.leave(true).is_some() && word.stiffen() && !word.stiffen());
        assert!(!word.end(State::Staged, None, None).unwrap().softened && word.load().stiff() == 2);
        assert!(word.compress().is_some() && word.compressed() == Through::Mine);
        assert!(word.end(State::Stored, None, None).unwrap().softened && word.load().stiff() == 0);
        // The size of a kept copy has the same bits.
        word.fill(word.load()).unwrap();
        assert!(!word.end(State::Resident, Some(KeptSize::of(4096)), None).unwrap().softened);
        assert_eq!((word.load().stiff(), word.stiffen(), word.load().kept()), (0, false, Some(KeptSize(8))));
    }

    #[test]
    fn pins_keep_a_page_and_are_counted() {
        let word = Word::default();
        assert!(word.pin(Planted::NONE).is_err());
        word.found(0);
        for _ in 0..MAX_PINS {
            assert_eq!(word.pin(Planted::NONE).unwrap(), word.load().pins() == 1);
        }
        assert_eq!((word.pin(Planted::NONE).unwrap_err().pins(), word.leave(true)), (MAX_PINS, None));
        assert!((1..MAX_PINS).all(|_| !word.unpin()) && word.unpin());
        assert!(word.leave(true).is_some());
    }
}
