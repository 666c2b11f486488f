//! [`Zspage`]: the descriptor of a zspage, in a table indexed by run.
//!
//! ```text
//! byte    0                       64            80            96   104                          118  128
//!         +-----------------------+-------------+-------------+------+----+----+----+----+----+----+--+----+
//!         | array of frame 0..15  | starting    | touching    |links |used|free|cls |strd|tchd|room|ng|    |
//!         +-----------------------+-------------+-------------+------+----+----+----+----+----+----+--+----+
//! ```
//!
//! Descriptors are type-stable: the memory is never anything else. Everything changes under the lock of the zspage's
//! class and node, so that the atomics are Relaxed, but for two. Readers look at `class` and `arrays` without the
//! lock, pin what they find, and look again: see [`read`](super::Pool::read). Those two are stored with Release and
//! loaded with Acquire, as are the entries: a reader who finds an object gone has then synchronized with whoever took
//! it away, so that its cell, which changed before, tells it something new.
//!
//! Invariants, for each frame f of a zspage in use:
//! - **Z1** `starting[f]` = entries of f's array that are not free; `arrays[f]` is an array exactly if that is not 0.
//! - **Z2** `touching[f]` = slots in use with a byte in f = `starting[f]` + 1 if the slot that straddles from f-1 is
//!   in use; bit f of `touched`: this is not 0. Bit f of `room`: nor are all slots in use that lie wholly in f.
//! - **Z3** Bit f of `straddling`: the slot that straddles from f to f+1 is in use.
//! - **Z4** `inuse` = sum of `starting` > 0; a zspage without objects is no zspage, and all its fields but the last
//!   class and node are 0.
//! - **Z5** `reusable` = free slots all of whose frames are touched: they cost no memory to take.

use super::entries::Array;
use super::geometry::{ClassIndex, SizeClass};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32};
use crate::sync::{ZSPAGE_FRAMES, Zeroed};
use crate::units::NodeId;

/// Number of a zspage: of the run it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ZspageIndex(pub(super) u32);

/// Descriptor of a zspage. Who may touch what: see the module.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Zspage {
    /// Array of the entries of the objects that start in each frame, 0 for none. Read without the lock too.
    arrays: [AtomicU32; ZSPAGE_FRAMES],
    /// Slots in use that start in each frame.
    starting: [AtomicU8; ZSPAGE_FRAMES],
    /// Slots in use that have a byte in each frame.
    touching: [AtomicU8; ZSPAGE_FRAMES],
    /// The zspage before this one in its fullness group plus 1, or 0.
    prev: AtomicU32,
    /// The zspage after this one in its fullness group plus 1, or 0.
    next: AtomicU32,
    /// Slots in use.
    inuse: AtomicU16,
    /// Free slots that need no new frame.
    reusable: AtomicU16,
    /// Size class. Read without the lock too.
    class: AtomicU16,
    /// Bit f: the slot that straddles from frame f is in use.
    straddling: AtomicU16,
    /// Bit f: a slot in use has a byte in frame f.
    touched: AtomicU16,
    /// Bit f: frame f is touched, and a slot that lies wholly in it is free.
    room: AtomicU16,
    /// Home node: whose list it is in.
    node: AtomicU8,
    /// Fullness group: which list.
    group: AtomicU8,
}

const _: () = assert!(cfg!(loom) || size_of::<Zspage>() == 128);

// SAFETY: a struct of atomic integers (and arrays of them), for all of which zero bytes are a value, without
// destructor.
unsafe impl Zeroed for Zspage {}

// === impl Zspage ===

impl Zspage {
    #[inline]
    pub(super) fn class(&self) -> ClassIndex {
        ClassIndex(self.class.load(Acquire))
    }

    #[inline]
    pub(super) fn array(&self, frame: usize) -> Option<Array> {
        Array::from_raw(self.arrays[frame].load(Acquire))
    }

    pub(super) fn node(&self) -> NodeId {
        NodeId(self.node.load(Relaxed))
    }

    pub(super) fn group(&self) -> u8 {
        self.group.load(Relaxed)
    }

    pub(super) fn inuse(&self) -> usize {
        self.inuse.load(Relaxed).into()
    }

    /// Frames touched.
    pub(super) fn frames(&self) -> usize {
        self.touched.load(Relaxed).count_ones() as usize
    }

    /// Bit f: frame f is touched and has a free slot that needs no other.
    #[inline]
    pub(super) fn room(&self) -> u16 {
        self.room.load(Relaxed)
    }

    /// Bit f: the slot that straddles from frame f is free and needs no new frame.
    #[inline]
    pub(super) fn straddling_room(&self, class: &SizeClass) -> u16 {
        let touched = self.touched.load(Relaxed);
        class.straddlers() & !self.straddling.load(Relaxed) & touched & touched >> 1
    }

    pub(super) fn reusable(&self) -> usize {
        self.reusable.load(Relaxed).into()
    }

    /// Slots in use that start in the frame.
    pub(super) fn starting(&self, frame: usize) -> usize {
        self.starting[frame].load(Relaxed).into()
    }

    /// Slots in use that have a byte in the frame. A frame is owned exactly if this is not 0.
    pub(super) fn touching(&self, frame: usize) -> usize {
        self.touching[frame].load(Relaxed).into()
    }

    /// Whether the slot that straddles from the frame is in use.
    pub(super) fn straddling(&self, frame: usize) -> bool {
        self.straddling.load(Relaxed) >> frame & 1 == 1
    }

    pub(super) fn prev(&self) -> Option<ZspageIndex> {
        self.prev.load(Relaxed).checked_sub(1).map(ZspageIndex)
    }

    pub(super) fn next(&self) -> Option<ZspageIndex> {
        self.next.load(Relaxed).checked_sub(1).map(ZspageIndex)
    }

    /// Free slots that lie wholly in the frame.
    pub(super) fn free_inner(&self, class: &SizeClass, frame: usize) -> usize {
        class.inner(frame) - (self.starting(frame) - usize::from(self.straddling(frame)))
    }

    /// Whether a slot straddles from the frame and is free.
    pub(super) fn free_straddler(&self, class: &SizeClass, frame: usize) -> bool {
        class.straddles(frame) && !self.straddling(frame)
    }

    /// Free slots that touch the frame and need no new one: those that emptying the frame cannot use.
    pub(super) fn reusable_touching(&self, class: &SizeClass, frame: usize) -> usize {
        if self.touching(frame) == 0 {
            return 0;
        }
        let straddler =
            |f: usize| usize::from(self.free_straddler(class, f) && self.touching(f) > 0 && self.touching(f + 1) > 0);
        let from_before = if frame > 0 { straddler(frame - 1) } else { 0 };
        self.free_inner(class, frame) + straddler(frame) + from_before
    }

    /// What Z5 says `reusable` is.
    pub(super) fn count_reusable(&self, class: &SizeClass) -> usize {
        let (mut left, mut inner) = (self.room(), 0);
        while left != 0 {
            inner += self.free_inner(class, left.trailing_zeros() as usize);
            left &= left - 1;
        }
        inner + self.straddling_room(class).count_ones() as usize
    }

    pub(super) fn set_class(&self, class: ClassIndex, node: NodeId) {
        self.class.store(class.0, Release);
        self.node.store(node.0, Relaxed);
    }

    pub(super) fn set_array(&self, frame: usize, array: Option<Array>) {
        self.arrays[frame].store(Array::to_raw(array), Release);
    }

    pub(super) fn set_group(&self, group: u8) {
        self.group.store(group, Relaxed);
    }

    pub(super) fn set_prev(&self, to: Option<ZspageIndex>) {
        self.prev.store(to.map_or(0, |z| z.0 + 1), Relaxed);
    }

    pub(super) fn set_next(&self, to: Option<ZspageIndex>) {
        self.next.store(to.map_or(0, |z| z.0 + 1), Relaxed);
    }

    pub(super) fn set_reusable(&self, slots: usize) {
        self.reusable.store(slots as u16, Relaxed);
    }

    /// Count a slot that starts in `frame` and `straddles` into the next. Returns how many frames are touched anew.
    pub(super) fn count_in(&self, class: &SizeClass, frame: usize, straddles: bool) -> usize {
        let bump = |count: &AtomicU8| count.store(count.load(Relaxed) + 1, Relaxed);
        bump(&self.starting[frame]);
        bump(&self.touching[frame]);
        self.inuse.store(self.inuse.load(Relaxed) + 1, Relaxed);
        let mut now = 1 << frame;
        if straddles {
            bump(&self.touching[frame + 1]);
            self.straddling.store(self.straddling.load(Relaxed) | 1 << frame, Relaxed);
            now |= 2 << frame;
        }
        let touched = self.touched.load(Relaxed);
        self.touched.store(touched | now, Relaxed);
        self.settle_room(class, frame);
        if straddles {
            self.settle_room(class, frame + 1);
        }
        (now & !touched).count_ones() as usize
    }

    /// Undo [`count_in`](Self::count_in). Returns which of the two frames are untouched now.
    pub(super) fn count_out(&self, class: &SizeClass, frame: usize, straddles: bool) -> [bool; 2] {
        let drop = |count: &AtomicU8| {
            let new = count.load(Relaxed) - 1;
            count.store(new, Relaxed);
            new == 0
        };
        drop(&self.starting[frame]);
        self.inuse.store(self.inuse.load(Relaxed) - 1, Relaxed);
        let first = drop(&self.touching[frame]);
        let second = straddles && {
            self.straddling.store(self.straddling.load(Relaxed) & !(1 << frame), Relaxed);
            drop(&self.touching[frame + 1])
        };
        let gone = u16::from(first) << frame | u16::from(second) << 1 << frame;
        self.touched.store(self.touched.load(Relaxed) & !gone, Relaxed);
        self.settle_room(class, frame);
        if second {
            self.settle_room(class, frame + 1);
        }
        [first, second]
    }

    /// Restore the frame's bit of `room` (Z2) after a count of it has changed.
    fn settle_room(&self, class: &SizeClass, frame: usize) {
        let has = self.touching(frame) > 0 && self.free_inner(class, frame) > 0;
        let others = self.room.load(Relaxed) & !(1 << frame);
        self.room.store(others | u16::from(has) << frame, Relaxed);
    }
}
