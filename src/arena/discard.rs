//! Giving warm frames back to the kernel, in batches.

use super::arena::Arena;
use super::config::MIN_WARM;
use super::run::{Lane, frames_in};
use super::state::State;
use super::warm::Lists;
use crate::sync::assert_no_lock_held;
use crate::sync::atomic::Ordering;
use crate::units::{FRAME_SIZE, Frame, NodeId};

/// Frames given back together. From 64 pages on the kernel flushes other cores' translations in another, dearer-for-them
/// way; below, frames cost more each.
const BATCH: usize = 64;

/// Frames in state Discarding that belong to one thread.
pub(super) struct Batch {
    frames: [Frame; BATCH],
    len: usize,
}

impl Batch {
    /// No frames.
    pub(super) fn new() -> Self {
        Batch { frames: [Frame(0); BATCH], len: 0 }
    }

    fn push(&mut self, frame: Frame) {
        self.frames[self.len] = frame;
        self.len += 1;
    }

    /// Number of frames.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Arena {
    /// When more frames are warm than the configuration says, give the oldest half of that back, so that the next call
    /// has nothing to do for a while. When more bytes are backed than a lowered limit says, give warm frames back for
    /// that. Returns the number of frames.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena); call it outside all locks.
    pub fn maintain(&self) -> usize {
        let lists = self.lists.lock();
        let bound = self.warm_bound();
        let over_warm = match (lists.spare.warm as usize).saturating_sub(bound) {
            0 => 0,
            excess => excess + (bound / 2).min(BATCH - 1),
        };
        let count = over_warm.max(self.over_limit());
        drop(lists);
        self.give_back_oldest(count)
    }

    /// Frames that may be warm.
    fn warm_bound(&self) -> usize {
        let share = self.backed_bytes() as usize / FRAME_SIZE / self.warm_share;
        share.max(MIN_WARM).min(self.warm_frames)
    }

    /// Frames that may be warm for being backed ahead of need: fewer, for many of them no object will ever use.
    pub(super) fn ahead_bound(&self) -> usize {
        if self.warm_share == 1 {
            return self.warm_frames;
        }
        let share = self.backed_bytes() as usize / FRAME_SIZE / self.warm_share;
        (share.max(MIN_WARM) / 4).min(self.warm_bound())
    }

    /// A count of frames that became warm or were taken.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena).
    pub fn turns(&self) -> u64 {
        self.lists.lock().turns
    }

    /// When no frame became warm or was taken since the last call, give all warm frames back. To be called now and then;
    /// returns whether to call again: if not, the [alarm](Self::alarm) is rung when there is a warm frame again.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena); call it outside all locks.
    pub fn flush_if_idle(&self, turns: &mut u64) -> bool {
        let mut lists = self.lists.lock();
        if lists.spare.warm == 0 {
            lists.noted = false;
            return false;
        }
        lists.noted = true;
        if std::mem::replace(turns, lists.turns) != lists.turns {
            return true;
        }
        drop(lists);
        let given = self.flush();
        let mut lists = self.lists.lock();
        // What the kernel will not take (locked memory) it will not take later either.
        lists.noted = lists.spare.warm > 0;
        lists.noted && given > 0
    }

    /// Give all warm frames back. Returns their number; frames that the kernel will not take (locked memory) stay warm.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena); call it outside all locks.
    pub fn flush(&self) -> usize {
        self.give_back_oldest(usize::MAX)
    }

    /// Set the most bytes that may be backed. Below what is backed now, warm frames go; what is owned stays, and
    /// [`ensure`](Self::ensure) refuses until enough was released.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena); call it outside all locks.
    pub fn set_limit(&self, bytes: u64) {
        let lists = self.lists.lock();
        self.limit.store(bytes, Ordering::Relaxed);
        let count = self.over_limit();
        drop(lists);
        self.give_back_oldest(count);
    }

    /// Frames backed above the limit; under the lock.
    fn over_limit(&self) -> usize {
        self.backed_bytes().saturating_sub(self.limit()).div_ceil(FRAME_SIZE as u64) as usize
    }

    fn give_back_oldest(&self, mut count: usize) -> usize {
        let mut given = 0;
        let mut batch = Batch::new();
        while count > 0 {
            self.take_oldest(&mut self.lists.lock(), count, None, &mut batch);
            let gone = self.give_back(&batch);
            given += gone;
            count -= batch.len;
            // Frames that stayed warm are at the young end now: going on would take them again without end.
            if batch.len < BATCH || gone < batch.len {
                break;
            }
        }
        given
    }

    /// Fill `batch` with up to `most` of the oldest warm frames, now Discarding, of one node or of any.
    pub(super) fn take_oldest(&self, lists: &mut Lists, most: usize, node: Option<NodeId>, batch: &mut Batch) {
        batch.len = 0;
        let mut at = lists.warm.head();
        while let Some(run) = at {
            // The run leaves the list with its last warm frame.
            at = self.runs.after(run, Lane::Warm);
            for frame in frames_in(self.runs.warm(run), self.first_frame(run)) {
                if batch.len == most.min(BATCH) {
                    return;
                }
                if node.is_none_or(|node| node == self.frames.node(frame)) {
                    self.start_discard(lists, frame, batch);
                }
            }
        }
    }

    /// Fill `batch` with those of `frames`, now Discarding, that were warm on another node than `node`.
    pub(super) fn take_strays(
        &self,
        lists: &mut Lists,
        frames: impl Iterator<Item = Frame>,
        node: NodeId,
        batch: &mut Batch,
    ) {
        batch.len = 0;
        for frame in frames {
            if self.frames.state(frame) == State::Warm && self.frames.node(frame) != node {
                self.start_discard(lists, frame, batch);
            }
        }
    }

    fn start_discard(&self, lists: &mut Lists, frame: Frame, batch: &mut Batch) {
        self.unwarm(lists, frame, State::Discarding);
        lists.add_passing(self.frames.node(frame), 1);
        batch.push(frame);
    }

    /// Give the frames of a batch back, by one call where the kernel can, else adjacent ones by one; what it will not take is
    /// warm again. Returns how many went.
    pub(super) fn give_back(&self, batch: &Batch) -> usize {
        if batch.len == 0 {
            return 0;
        }
        assert_no_lock_held("giving frames back");
        let mut frames = batch.frames;
        let frames = &mut frames[..batch.len];
        frames.sort_unstable();
        let mut ranges = [const { 0..0 }; BATCH];
        let mut len = 0;
        for adjacent in frames.chunk_by(|a, b| a.0 + 1 == b.0) {
            let start = adjacent[0].offset();
            ranges[len] = start..start + adjacent.len() * FRAME_SIZE;
            len += 1;
        }
        let mut kept = [false; BATCH];
        self.region.discard_each(&ranges[..len], |refused| {
            for (frame, kept) in frames.iter().zip(&mut kept) {
                *kept |= ranges[refused].contains(&frame.offset());
            }
        });
        let mut lists = self.lists.lock();
        for (&frame, &kept) in frames.iter().zip(&kept) {
            let node = self.frames.node(frame);
            lists.remove_passing(node, 1);
            if kept {
                self.make_warm(&mut lists, frame);
            } else {
                self.unreserve(node, 1);
                self.frames.set(frame, State::Unbacked);
            }
        }
        self.notify(&lists);
        kept[..batch.len].iter().filter(|&&kept| !kept).count()
    }

    /// `count` frames of the node are counted no longer; under the lock.
    pub(super) fn unreserve(&self, node: NodeId, count: usize) {
        let bytes = (count * FRAME_SIZE) as u64;
        self.backed.fetch_sub(bytes, Ordering::Relaxed);
        self.backed_on[node.index()].fetch_sub(bytes, Ordering::Relaxed);
    }
}
