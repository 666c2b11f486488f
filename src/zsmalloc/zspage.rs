//! [`Zspage`]: the descriptor of a zspage, in a table indexed by run.
//!
//! ```text
//! byte    0      4    6  7    8             16                          32   34   36   38   40
//!         +------+----+--+--+-------+-------+---------------------------+----+----+----+----+
//!         | array| cls|nd|gr| prev  | next  | starting, frame 0..15     |used|free|strd|room|
//!         +------+----+--+--+-------+-------+---------------------------+----+----+----+----+
//!         `- readers -'  `-- list --------'
//! ```
//!
//! Descriptors are type-stable: the memory is never anything else. Everything changes under the lock of the zspage's
//! class and node, so that the atomics are Relaxed, but for two. Readers look at `class` and `array` without the
//! lock, pin what they find, and look again: see [`read`](super::Pool::read). Those two are stored with Release and
//! loaded with Acquire, as are the entries: a reader who finds an object gone has then synchronized with whoever took
//! it away, so that its cell, which changed before, tells it something new. They lie in one word, so a reader fetches one
//! cache line wherever the descriptor begins.
//!
//! Invariants of a zspage in use, f being each of its frames:
//! - **Z1** `starting[f]` = entries of the slots that start in f that are not free; `array` is an array of as many words
//!   as the class has slots.
//! - **Z2** Slots in use with a byte in f, `touching(f)` = `starting[f]` + 1 if the slot that straddles from f-1 is in
//!   use. Bit f of `room`: this is not 0, nor are all slots in use that lie wholly in f.
//! - **Z3** Bit f of `straddling`: the slot that straddles from f to f+1 is in use.
//! - **Z4** `inuse` = sum of `starting` > 0; a zspage without objects is no zspage, and all its fields but the last
//!   class and node are 0.
//! - **Z5** `reusable` = free slots all of whose frames are touched: they cost no memory to take.

use super::entries::Array;
use super::geometry::{ClassIndex, SizeClass};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use crate::sync::{ZSPAGE_FRAMES, Zeroed};
use crate::units::NodeId;

/// Number of a zspage: of the run it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ZspageIndex(pub(super) u32);

/// Bytes of frames counted in one word of [`Zspage::starting`].
const COUNTS: usize = 8;

/// Descriptor of a zspage. Who may touch what: see the module.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Zspage {
    /// Array of the entries of its slots, 0 for none. Read without the lock too.
    array: AtomicU32,
    /// Size class. Read without the lock too.
    class: AtomicU16,
    /// Home node: whose list it is in.
    node: AtomicU8,
    /// Fullness group: which list.
    group: AtomicU8,
    /// The zspage before this one in its fullness group plus 1, or 0.
    prev: AtomicU32,
    /// The zspage after this one in its fullness group plus 1, or 0.
    next: AtomicU32,
    /// Slots in use that start in each frame, a byte each, frame 0 lowest.
    starting: [AtomicU64; 2],
    /// Slots in use.
    inuse: AtomicU16,
    /// Free slots that need no new frame.
    reusable: AtomicU16,
    /// Bit f: the slot that straddles from frame f is in use.
    straddling: AtomicU16,
    /// Bit f: frame f is touched, and a slot that lies wholly in it is free.
    room: AtomicU16,
}

const _: () = assert!(cfg!(loom) || size_of::<Zspage>() == 40);
const _: () = assert!(ZSPAGE_FRAMES <= 2 * COUNTS);

/// Bit f: byte f is not 0. No byte is above 0x80: a frame has at most 128 slots.
fn nonzero_bytes(bytes: u64) -> u16 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // The high bit of each byte; then all eight moved to the top byte, lowest first.
    let flags = (bytes + LOW * 0x7f) >> 7 & LOW;
    (flags.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u16
}

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
    pub(super) fn array(&self) -> Option<Array> {
        Array::from_raw(self.array.load(Acquire))
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

    /// Bit f: a slot in use has a byte in frame f (Z2).
    pub(super) fn touched(&self) -> u16 {
        let [low, high] = &self.starting;
        let starting = nonzero_bytes(low.load(Relaxed)) | nonzero_bytes(high.load(Relaxed)) << COUNTS;
        starting | self.straddling.load(Relaxed) << 1
    }

    /// Frames touched.
    pub(super) fn frames(&self) -> usize {
        self.touched().count_ones() as usize
    }

    /// Bit f: frame f is touched and has a free slot that needs no other.
    #[inline]
    pub(super) fn room(&self) -> u16 {
        self.room.load(Relaxed)
    }

    /// Bit f: the slot that straddles from frame f is free and needs no new frame.
    #[inline]
    pub(super) fn straddling_room(&self, class: &SizeClass) -> u16 {
        let touched = self.touched();
        class.straddlers() & !self.straddling.load(Relaxed) & touched & touched >> 1
    }

    pub(super) fn reusable(&self) -> usize {
        self.reusable.load(Relaxed).into()
    }

    /// Slots in use that start in the frame.
    pub(super) fn starting(&self, frame: usize) -> usize {
        usize::from((self.starting[frame / COUNTS].load(Relaxed) >> (frame % COUNTS * 8)) as u8)
    }

    /// Slots in use that have a byte in the frame. A frame is owned exactly if this is not 0.
    pub(super) fn touching(&self, frame: usize) -> usize {
        self.starting(frame) + usize::from(frame > 0 && self.straddling(frame - 1))
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

    pub(super) fn set_array(&self, array: Option<Array>) {
        self.array.store(Array::to_raw(array), Release);
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
        let untouched = |f| usize::from(self.touching(f) == 0);
        let anew = untouched(frame) + if straddles { untouched(frame + 1) } else { 0 };
        let (count, one) = (&self.starting[frame / COUNTS], 1 << (frame % COUNTS * 8));
        count.store(count.load(Relaxed) + one, Relaxed);
        self.inuse.store(self.inuse.load(Relaxed) + 1, Relaxed);
        if straddles {
            self.straddling.store(self.straddling.load(Relaxed) | 1 << frame, Relaxed);
            self.settle_room(class, frame + 1);
        }
        self.settle_room(class, frame);
        anew
    }

    /// Undo [`count_in`](Self::count_in). Returns which of the two frames are untouched now.
    pub(super) fn count_out(&self, class: &SizeClass, frame: usize, straddles: bool) -> [bool; 2] {
        let (count, one) = (&self.starting[frame / COUNTS], 1 << (frame % COUNTS * 8));
        count.store(count.load(Relaxed) - one, Relaxed);
        self.inuse.store(self.inuse.load(Relaxed) - 1, Relaxed);
        if straddles {
            self.straddling.store(self.straddling.load(Relaxed) & !(1 << frame), Relaxed);
            self.settle_room(class, frame + 1);
        }
        self.settle_room(class, frame);
        [self.touching(frame) == 0, straddles && self.touching(frame + 1) == 0]
    }

    /// Restore the frame's bit of `room` (Z2) after a count of it has changed.
    fn settle_room(&self, class: &SizeClass, frame: usize) {
        let has = self.touching(frame) > 0 && self.free_inner(class, frame) > 0;
        let others = self.room.load(Relaxed) & !(1 << frame);
        self.room.store(others | u16::from(has) << frame, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::geometry::Geometry;
    use super::*;

    #[test]
    fn bytes_that_are_not_zero_are_told() {
        for mask in 0..=u8::MAX {
            for count in [1u8, 0x55, 0x7f, 0x80] {
                let bytes = std::array::from_fn(|f| if mask >> f & 1 == 1 { count } else { 0 });
                assert_eq!(nonzero_bytes(u64::from_le_bytes(bytes)), u16::from(mask), "{bytes:?}");
            }
        }
    }

    #[test]
    fn counts_of_all_frames_are_apart() {
        let geometry = Geometry::default();
        // Many slots in few frames, and the most frames.
        for (len, chain, slots) in [(32, 4, 128), (128, ZSPAGE_FRAMES, 32)] {
            let shape = geometry.class(geometry.class_of(len).unwrap());
            assert_eq!((shape.chain(), shape.inner(0)), (chain, slots));
            let zspage = Zspage::default();
            for f in 0..chain {
                for n in 1..=slots {
                    assert_eq!(zspage.count_in(shape, f, false), usize::from(n == 1));
                    assert_eq!(zspage.starting(f), n);
                }
                assert_eq!(zspage.touched(), u16::MAX >> (15 - f));
            }
            for f in 0..chain {
                for n in (0..slots).rev() {
                    assert_eq!(zspage.count_out(shape, f, false), [n == 0, false]);
                }
            }
            assert_eq!((zspage.inuse(), zspage.touched(), zspage.room()), (0, 0, 0));
        }
    }

    /// All that a descriptor says of its frames, against slots that are looked at one by one.
    #[test]
    fn what_is_said_of_frames_follows_from_the_slots_in_use() {
        let geometry = Geometry::default();
        for len in [48, 96, 1040, 1360, 2080, 3072, 3136, 3840, 4096] {
            let shape = geometry.class(geometry.class_of(len).unwrap());
            let (zspage, mut used) = (Zspage::default(), vec![false; shape.slots()]);
            let frames = |slot: usize| slot * shape.size() / 4096..=((slot + 1) * shape.size() - 1) / 4096;
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            for step in 0..2000 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // First few, then many, then few again.
                let wanted = if (500..1500).contains(&step) { 7 } else { 2 };
                let (slot, fill) = ((random >> 32) as usize % used.len(), random % 9 < wanted);
                if used[slot] == fill {
                    continue;
                }
                let is_touched = |used: &[bool], f: usize| (0..used.len()).any(|s| used[s] && frames(s).contains(&f));
                let before: Vec<_> = (0..shape.chain()).map(|f| is_touched(&used, f)).collect();
                used[slot] = fill;
                let touched: Vec<_> = (0..shape.chain()).map(|f| is_touched(&used, f)).collect();
                let (first, last) = (*frames(slot).start(), *frames(slot).end());
                if fill {
                    let anew = (0..shape.chain()).filter(|&f| touched[f] && !before[f]).count();
                    assert_eq!(zspage.count_in(shape, first, last > first), anew);
                } else {
                    let untouched = zspage.count_out(shape, first, last > first);
                    assert_eq!(untouched, [!touched[first], last > first && !touched[last]]);
                }
                let free = |s: &usize| !used[*s];
                let reusable = |s: &usize| free(s) && frames(*s).all(|f| touched[f]);
                let slots = || 0..used.len();
                assert_eq!(zspage.inuse(), used.iter().filter(|&&used| used).count());
                assert_eq!(zspage.frames(), touched.iter().filter(|&&touched| touched).count());
                assert_eq!(zspage.count_reusable(shape), slots().filter(reusable).count());
                for (f, &is_touched) in touched.iter().enumerate() {
                    let what = format!("frame {f} of slots of {}, step {step}", shape.size());
                    let here = |s: &usize| frames(*s).contains(&f);
                    let inner = |s: &usize| frames(*s) == (f..=f);
                    let across = |s: &usize| frames(*s) == (f..=f + 1);
                    assert_eq!(zspage.touched() >> f & 1 == 1, is_touched, "{what}");
                    assert_eq!(
                        zspage.starting(f),
                        slots().filter(|s| used[*s] && *frames(*s).start() == f).count(),
                        "{what}"
                    );
                    assert_eq!(zspage.touching(f), slots().filter(|s| used[*s] && here(s)).count(), "{what}");
                    assert_eq!(zspage.free_inner(shape, f), slots().filter(|s| free(s) && inner(s)).count(), "{what}");
                    assert_eq!(zspage.free_straddler(shape, f), slots().any(|s| free(&s) && across(&s)), "{what}");
                    assert_eq!(zspage.straddling(f), slots().any(|s| used[s] && across(&s)), "{what}");
                    assert_eq!(zspage.room() >> f & 1 == 1, slots().any(|s| reusable(&s) && inner(&s)), "{what}");
                    let between = slots().any(|s| reusable(&s) && across(&s));
                    assert_eq!(zspage.straddling_room(shape) >> f & 1 == 1, between, "{what}");
                    let with_it = if is_touched { slots().filter(|s| reusable(s) && here(s)).count() } else { 0 };
                    assert_eq!(zspage.reusable_touching(shape, f), with_it, "{what}");
                }
            }
        }
    }
}
