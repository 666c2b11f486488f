//! What compaction did, in one call and so far, and what it could do now.

use crate::sync::Tally;
use crate::zsmalloc::{Cells, Pool};
use std::time::Duration;

/// What a compaction has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Compacted {
    /// Objects moved.
    pub moved_objects: u64,
    /// Their slots' bytes.
    pub moved_bytes: u64,
    /// Frames that no object touches any more.
    pub frames_freed: u64,
    /// Frames that were taken into use to put objects there.
    pub frames_backed: u64,
    /// Frames left alone because an object in them was held, or being written or freed.
    pub busy: u64,
    /// The budget ended it: there may be more to do.
    pub out_of_budget: bool,
}

/// Why a compaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// No frame can be won by moving objects.
    NothingToWin,
    /// Frames could be won, but objects in them are held, being written or freed: another try may do better.
    Busy,
    /// The budget was used up: there may be more to do.
    OutOfBudget,
}

/// What all compactions of a pool have done, for people to read.
#[derive(Debug, Default)]
pub(in crate::zsmalloc) struct Totals {
    calls: Tally,
    moved_objects: Tally,
    moved_bytes: Tally,
    frames_freed: Tally,
    frames_backed: Tally,
    busy: Tally,
    passes: Tally,
    nanoseconds: Tally,
}

/// What compaction of a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionStats {
    /// Calls, those of the background thread included.
    pub calls: u64,
    /// Frames won (the kernel's `pages_compacted`).
    pub pages_compacted: u64,
    /// Objects moved.
    pub moved_objects: u64,
    /// Bytes of their slots.
    pub moved_bytes: u64,
    /// Frames found busy.
    pub busy: u64,
    /// Calls of the background thread.
    pub automatic_passes: u64,
    /// Time that those took on their thread.
    pub automatic_time: Duration,
    /// Frames that compaction could win now at most, over all classes.
    pub freeable: u64,
}

impl Compacted {
    /// Frames that are touched no longer, less those that are now.
    pub fn frames_won(&self) -> u64 {
        self.frames_freed.saturating_sub(self.frames_backed)
    }

    /// Why it ended.
    pub fn end(&self) -> End {
        match self {
            Compacted { out_of_budget: true, .. } => End::OutOfBudget,
            Compacted { busy: 1.., .. } => End::Busy,
            _ => End::NothingToWin,
        }
    }
}

impl Totals {
    pub(super) fn note(&self, done: &Compacted) {
        self.calls.add(1);
        self.moved_objects.add(done.moved_objects);
        self.moved_bytes.add(done.moved_bytes);
        self.frames_freed.add(done.frames_freed);
        self.frames_backed.add(done.frames_backed);
        self.busy.add(done.busy);
    }

    /// A pass of the background thread took so long.
    pub(in crate::zsmalloc) fn note_automatic(&self, time: Duration) {
        self.passes.add(1);
        self.nanoseconds.add(time.as_nanos() as u64);
    }
}

impl<C: Cells> Pool<C> {
    /// What compaction has done, and could do.
    ///
    /// # Locks
    /// Takes `Class`, one at a time.
    pub fn compaction_stats(&self) -> CompactionStats {
        let totals = &self.compaction;
        CompactionStats {
            calls: totals.calls.get(),
            pages_compacted: totals.frames_freed.get().saturating_sub(totals.frames_backed.get()),
            moved_objects: totals.moved_objects.get(),
            moved_bytes: totals.moved_bytes.get(),
            busy: totals.busy.get(),
            automatic_passes: totals.passes.get(),
            automatic_time: Duration::from_nanos(totals.nanoseconds.get()),
            freeable: self.freeable(),
        }
    }

    /// Frames that compaction could win at most: those touched beyond what the slots in use would fill, by class.
    fn freeable(&self) -> u64 {
        let heap = &self.heap;
        let classes = heap.geometry.classes();
        let nodes = || heap.arena.topology().nodes();
        classes.map(|(index, shape)| nodes().map(|node| heap.lock(index, node).waste(shape)).sum::<u64>()).sum()
    }
}
