//! [`Bits`]: what a page's word says: where the page is, in 32 bits.
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
//! | Poisoned | slot if *kept*, or lost; nowhere if not; who touches it gets a SIGBUS | what the slot's content takes |
//!
//! | flag | means |
//! |---|---|
//! | shadow | a compressor is not through with the staging place: the page is not taken out until it is cleared |
//! | through | only while owned: the compressor that the page was taken from knows that; it does not read the staging place any more. Or, of a page that is Dropping, it is that compressor who owns it |
//! | handed | only while Filling: and it has left the frame in the staging place to the owner |
//! | kept | the slot holds an equal copy, and the page is write-protected; cleared before the first write goes ahead. Of a page that is Poisoned: the slot is its own, and not what a child of fork has of another page that was here |
//! | size | of that copy, in steps of 512 bytes, less one; where none is kept: how *stiff* the page is, so often in a row it did not shrink |
//! | referenced | it came back from the staging place: hot |
//! | waiter | somebody sleeps until the owned state ends |
//! | left | somebody left a fault of the page to the owner, who wakes it |
//! | ban | so many passes of the clock leave the page alone |
//! | pins | so many times it must stay |
//! | stamp | coarse time of the last move |

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
pub(super) const SHADOW: u32 = 1 << 4;
const KEPT: u32 = 1 << 5;
pub(super) const REFERENCED: u32 = 1 << 6;
pub(super) const HANDED: u32 = 1 << 7;
pub(super) const WAITER: u32 = 1 << 8;
pub(super) const LEFT: u32 = 1 << 9;
pub(super) const BAN_SHIFT: u32 = 10;
pub(super) const BAN: u32 = 3 << BAN_SHIFT;
pub(super) const THROUGH: u32 = 1 << 12;
const SIZE_SHIFT: u32 = 13;
const SIZE: u32 = 7 << SIZE_SHIFT;
pub(super) const PINS_SHIFT: u32 = 16;
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

    /// Of a page that is Poisoned, for which it counts nothing.
    pub(crate) const OWN: KeptSize = KeptSize(1);

    /// Bytes, rounded up.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.0) * KEPT_STEP
    }
}

/// What a word said at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bits(pub(super) u32);

// === impl Bits ===

impl Bits {
    pub(crate) const fn state(self) -> State {
        STATES[(self.0 & STATE) as usize]
    }

    pub(super) const fn with_state(self, state: State) -> Bits {
        Bits(self.0 & !STATE | state as u32)
    }

    pub(super) const fn set(self, flag: u32, on: bool) -> Bits {
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

    /// What a word says of a page that is not in memory and whose slot is its own, also when it is Poisoned: one that is nowhere has none, and what
    /// is in the place of it may be a child's.
    pub(crate) fn own_slot(self) -> Option<KeptSize> {
        match self.state() {
            State::Stored => Some(KeptSize::OWN),
            State::Poisoned => self.kept(),
            _ => None,
        }
    }

    /// So often in a row it was found not to shrink.
    pub(crate) const fn stiff(self) -> u32 {
        if self.is_kept() { 0 } else { (self.0 & SIZE) >> SIZE_SHIFT }
    }

    pub(super) fn with_stiff(self, times: u32) -> Bits {
        debug_assert!(!self.is_kept());
        Bits(self.0 & !SIZE | times << SIZE_SHIFT)
    }

    pub(super) fn with_kept(self, kept: Option<KeptSize>) -> Bits {
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

    pub(super) const fn with_stamp(self, stamp: u8) -> Bits {
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
