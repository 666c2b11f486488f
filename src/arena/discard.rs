//! Giving warm frames back to the kernel, in batches.

use super::pool::Arena;
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
    /// When more frames are warm than the configuration says, give the oldest back, and some more, so that the next call
    /// has nothing to do for a while. When more bytes are backed than a lowered limit says, give warm frames back for
    /// that. Returns the number of frames.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`](crate::sync::Rank::Arena); call it outside all locks.
    pub fn maintain(&self) -> usize {
        let slack = (self.warm_frames / 4).min(BATCH as u32 / 2) as usize;
        let lists = self.lists.lock();
        let over_warm = match lists.spare.warm.saturating_sub(self.warm_frames) {
            0 => 0,
            excess => excess as usize + slack,
        };
        let count = over_warm.max(self.over_limit());
        drop(lists);
        self.give_back_oldest(count)
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
