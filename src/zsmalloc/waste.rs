//! [`Waste`]: how many frames compaction could win, known without looking at every class.
//!
//! ```text
//! class     frames touched - frames its slots in use would fill     exact, under the class lock
//!             |  when it has changed by more than a 64th of the frames
//! heap      sum over the classes ---- above the trigger? ---- ring the alarm
//! ```
//!
//! The trigger is a level, not a time: after a pass it stands above what the pass has left over, so nothing is tried again
//! before there is more to win, and an idle pool wakes nobody.

use super::geometry::SizeClass;
use super::heap::Class;
use crate::arena::Arena;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A class tells of changes by more than its frames over this.
const COARSE: u64 = 64;

/// Wasted frames of a heap, nearly.
#[derive(Debug)]
pub(super) struct Waste {
    frames: AtomicU64,
    /// Above this the alarm is rung. Who sets it looks at the sum after that, and who changes the sum looks at it after that: of the two
    /// read-modify-writes (AcqRel) on the sum one is first, so that one of them sees the other.
    trigger: AtomicU64,
}

impl Waste {
    pub(super) fn new() -> Self {
        Waste { frames: AtomicU64::new(0), trigger: AtomicU64::new(0) }
    }

    /// Follow a change of the class, whose lock the caller has.
    #[inline]
    pub(super) fn follow(&self, class: &mut Class, shape: &SizeClass, arena: &Arena) {
        let now = class.waste(shape);
        if now.abs_diff(class.wasted) > class.frames / COARSE + 1 || (now == 0 && class.wasted > 0) {
            self.tell(class, now, arena);
        }
    }

    #[cold]
    fn tell(&self, class: &mut Class, now: u64, arena: &Arena) {
        // Two's complement: what is taken away is added too.
        let change = now.wrapping_sub(class.wasted);
        class.wasted = now;
        let sum = self.frames.fetch_add(change, Ordering::AcqRel).wrapping_add(change);
        if sum > self.trigger.load(Ordering::Relaxed) {
            arena.alarm().ring();
        }
    }

    /// Frames wasted: within a 64th of the frames in use, and two a class.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Above so many wasted frames the alarm is rung.
    #[cfg(all(test, not(loom)))]
    pub(super) fn trigger(&self) -> u64 {
        self.trigger.load(Ordering::Relaxed)
    }

    /// Ring from so many wasted frames on. How many there are now: whose change is not in it sees the trigger.
    pub(super) fn set_trigger(&self, frames: u64) -> u64 {
        self.trigger.store(frames, Ordering::Relaxed);
        self.frames.fetch_add(0, Ordering::AcqRel)
    }
}
