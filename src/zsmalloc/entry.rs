//! [`Entry`]: the word that says what a slot holds and whose it is.
//!
//! ```text
//! bit   63 ............. 32 | 31 ........ 8 | 7 .... 2 | 1 0
//!       owner               | objcg         | pins     | state
//! live  handle cell         | who is charged| guards   |  10
//! gone  moved 1 | len 13    | who is charged| guards   |  11
//! taken 0                   | who will be   | 0        |  01
//! ```
//!
//! | state | | meaning to the rest |
//! |---|---|---|
//! | Free | 00 | nothing here: the slot may be taken. Other bits are 0 |
//! | Reserved | 01 | somebody is writing the bytes: counted as in use, not to be read, moved or freed by others |
//! | Live | 10 | an object; readers may pin it; moved or freed only under the class lock |
//! | Doomed | 11 | freed, or `moved` away and nothing owed, while pinned: no new pins, the last unpin frees |
//!
//! Transitions: Free → Reserved → Live → (Free | Doomed → Free), all under the class lock except Reserved → Live,
//! which its only holder does with a release store, and the pins, which anybody changes by compare-exchange or
//! subtraction.

use crate::memcg::ObjcgId;
use crate::units::Owner;

const STATE: u64 = 0b11;
const PIN: u64 = 1 << 2;
const PINS: u64 = 0x3f << 2;
const OBJCG_SHIFT: u32 = 8;
const OBJCG: u64 = 0xff_ffff << OBJCG_SHIFT;
const OWNER_SHIFT: u32 = 32;
const MOVED: u64 = 1 << 63;

const _: () = assert!(ObjcgId::MAX as u64 == OBJCG >> OBJCG_SHIFT);
const _: () = assert!(STATE.count_ones() + PINS.count_ones() + OBJCG.count_ones() == OWNER_SHIFT);

/// The word of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

/// What the slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Reserved,
    Live,
    Doomed,
}

impl Entry {
    /// Nothing.
    pub(super) const FREE: Entry = Entry(0);
    /// What one pin adds to the word.
    pub(super) const PIN: u64 = PIN;
    /// Guards an object can have at a time.
    pub(super) const MAX_PINS: u32 = 63;

    /// Taken for an object of this objcg, and not yet one.
    pub(super) const fn reserved(objcg: ObjcgId) -> Self {
        Entry((objcg.raw() as u64) << OBJCG_SHIFT | 1)
    }

    /// A live object with this many pins.
    pub(super) fn live(owner: Owner, objcg: ObjcgId, pins: u32) -> Self {
        debug_assert!(pins <= Self::MAX_PINS);
        let objcg = u64::from(objcg.raw()) << OBJCG_SHIFT;
        Entry(u64::from(owner.0) << OWNER_SHIFT | objcg | (u64::from(pins) * PIN) | 2)
    }

    pub(super) const fn from_raw(word: u64) -> Self {
        Entry(word)
    }

    pub(super) const fn raw(self) -> u64 {
        self.0
    }

    pub(super) const fn state(self) -> State {
        match self.0 & STATE {
            0 => State::Free,
            1 => State::Reserved,
            2 => State::Live,
            _ => State::Doomed,
        }
    }

    /// The owner, if live.
    pub(super) fn owner(self) -> Option<Owner> {
        (self.state() == State::Live).then_some(Owner((self.0 >> OWNER_SHIFT) as u32))
    }

    /// Whether it is a live object of `owner`.
    #[inline]
    pub(super) fn is_live_of(self, owner: Owner) -> bool {
        (self.0 & STATE, self.0 >> OWNER_SHIFT) == (2, u64::from(owner.0))
    }

    pub(super) const fn pins(self) -> u32 {
        ((self.0 & PINS) / PIN) as u32
    }

    /// Who is charged.
    pub(super) const fn objcg(self) -> ObjcgId {
        ObjcgId::from_raw(((self.0 & OBJCG) >> OBJCG_SHIFT) as u32)
    }

    /// One more guard; `None` if there is no room for it.
    #[inline]
    pub(super) fn pinned(self) -> Option<Self> {
        (self.pins() < Self::MAX_PINS).then_some(Entry(self.0 + PIN))
    }

    /// Freed under its guards: what is owed when the last goes.
    pub(super) fn doomed(self, len: usize) -> Self {
        debug_assert!(self.state() == State::Live);
        Entry((self.0 & (OBJCG | PINS)) | (len as u64) << OWNER_SHIFT | STATE)
    }

    /// Moved away under its guards: nothing is owed when the last goes.
    pub(super) fn doomed_moved(self) -> Self {
        debug_assert!(self.state() == State::Live);
        Entry(self.0 & PINS | MOVED | STATE)
    }

    /// A copy that no cell ever named, under its guards: payload is counted for it, and nobody charged.
    pub(super) fn doomed_copy(self, len: usize) -> Self {
        Entry(self.doomed(len).0 & !OBJCG)
    }

    /// Payload length that a doomed object still owes for; `None` if it was moved away.
    pub(super) fn owes(self) -> Option<usize> {
        debug_assert!(self.state() == State::Doomed);
        (self.0 & MOVED == 0).then_some((self.0 >> OWNER_SHIFT) as usize)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (objcg, pins) = (self.objcg().raw(), self.pins());
        write!(f, "{:?}(owner {:#x}, objcg {objcg}, pins {pins})", self.state(), self.0 >> OWNER_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap() {
        let entry = Entry::live(Owner(u32::MAX - 1), ObjcgId::from_raw(0xff_ffff), 0);
        assert_eq!(entry.owner(), Some(Owner(u32::MAX - 1)));
        assert_eq!(entry.objcg().raw(), 0xff_ffff);
        assert_eq!((entry.pins(), entry.state()), (0, State::Live));
        let mut pinned = entry;
        for n in 1..=Entry::MAX_PINS {
            pinned = pinned.pinned().unwrap();
            assert_eq!(pinned.pins(), n);
            assert_eq!((pinned.owner(), pinned.objcg()), (entry.owner(), entry.objcg()));
        }
        assert_eq!(pinned.pinned(), None);
        let doomed = pinned.doomed(4096);
        assert_eq!((doomed.state(), doomed.pins(), doomed.owes()), (State::Doomed, 63, Some(4096)));
        assert_eq!(doomed.objcg(), entry.objcg());
        let copy = pinned.doomed_copy(4096);
        assert_eq!(
            (copy.state(), copy.pins(), copy.owes(), copy.objcg()),
            (State::Doomed, 63, Some(4096), ObjcgId::NONE)
        );
        let reserved = Entry::reserved(ObjcgId::from_raw(0xff_ffff));
        assert_eq!((reserved.state(), reserved.pins(), reserved.objcg().raw()), (State::Reserved, 0, 0xff_ffff));
        let moved = pinned.doomed_moved();
        assert_eq!(
            (moved.state(), moved.pins(), moved.owes(), moved.objcg()),
            (State::Doomed, 63, None, ObjcgId::NONE)
        );
    }
}
