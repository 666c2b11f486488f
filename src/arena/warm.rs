//! [`Lists`]: what the arena lock guards: free runs, warm frames oldest first, and counts of both.
//!
//! Warm frames are listed by run, with a mask of frames each: links cost 16 bytes a run instead of 8 a frame, and frames
//! that lie side by side are given back by one system call. A run moves to the young end whenever a frame of it becomes
//! warm.
//!
//! ```text
//! warm   oldest -> run 7 [..W.....] -> run 2 [WWWW....] -> run 9 [.......W] <- youngest
//! free   warm_free: run 2            free: run 4 -> run 1                      never used: run >= bump
//! ```

use super::run::{Lane, List, Run, Runs};
use crate::units::{MAX_NODES, NodeId};

/// Frames of one node that are backed and nobody's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spare {
    /// Warm frames.
    pub(super) warm: u32,
    /// Frames being given back, or being backed ahead of need: room for others, soon.
    pub(super) passing: u32,
}

/// Everything the arena lock guards but for tables of atomics, which change under it too.
#[derive(Debug)]
pub(super) struct Lists {
    /// Runs with warm frames, oldest first.
    pub(super) warm: List,
    /// Free runs with warm frames, the last one freed first.
    pub(super) warm_free: List,
    /// Other free runs, the last one freed first.
    pub(super) free: List,
    /// The first run that was never used.
    pub(super) bump: u32,
    /// By node.
    pub(super) spare_on: [Spare; MAX_NODES],
    /// Sum over the nodes.
    pub(super) spare: Spare,
    /// Frames that became warm or ceased to be, so far.
    pub(super) turns: u64,
    /// Whoever looks after idle frames knows of these.
    pub(super) noted: bool,
    /// Threads that wait for another's commit or discard.
    pub(super) waiters: u32,
}

impl Lists {
    /// No run was ever used.
    pub(super) fn new() -> Self {
        Lists {
            warm: List::new(Lane::Warm),
            warm_free: List::new(Lane::Free),
            free: List::new(Lane::Free),
            bump: 0,
            spare_on: [Spare::default(); MAX_NODES],
            spare: Spare::default(),
            turns: 0,
            noted: false,
            waiters: 0,
        }
    }

    /// A run nobody has: one with warm frames, or the last one freed, or the next unused one.
    pub(super) fn take_run(&mut self, runs: &Runs) -> Option<Run> {
        if let Some(run) = self.warm_free.head() {
            runs.remove(&mut self.warm_free, run);
            return Some(run);
        }
        if let Some(run) = self.free.head() {
            runs.remove(&mut self.free, run);
            return Some(run);
        }
        let fresh = ((self.bump as usize) < runs.count()).then_some(Run(self.bump))?;
        self.bump += 1;
        Some(fresh)
    }

    /// The run is nobody's again.
    pub(super) fn put_run(&mut self, runs: &Runs, run: Run) {
        runs.push_front(self.free_list(runs, run), run);
    }

    fn free_list(&mut self, runs: &Runs, run: Run) -> &mut List {
        if runs.warm(run) != 0 { &mut self.warm_free } else { &mut self.free }
    }

    /// Frame `bit` of the run, on `node`, became warm: the run is the youngest.
    pub(super) fn add_warm(&mut self, runs: &Runs, run: Run, bit: u32, node: NodeId) {
        let old = runs.warm(run);
        debug_assert_eq!(old >> bit & 1, 0);
        if old != 0 {
            runs.remove(&mut self.warm, run);
        }
        runs.push_back(&mut self.warm, run);
        self.set_warm(runs, run, old | 1 << bit);
        self.spare.warm += 1;
        self.turns += 1;
        self.spare_on[node.index()].warm += 1;
    }

    /// Frame `bit` of the run, on `node`, is warm no longer.
    pub(super) fn remove_warm(&mut self, runs: &Runs, run: Run, bit: u32, node: NodeId) {
        let left = runs.warm(run) & !(1 << bit);
        if left == 0 {
            runs.remove(&mut self.warm, run);
        }
        self.set_warm(runs, run, left);
        self.spare.warm -= 1;
        self.turns += 1;
        self.spare_on[node.index()].warm -= 1;
    }

    /// Change the mask, and the list of free runs that the run is in with it.
    fn set_warm(&mut self, runs: &Runs, run: Run, mask: u64) {
        let moves = (runs.warm(run) == 0) != (mask == 0) && runs.is_listed(run, Lane::Free);
        if moves {
            runs.remove(self.free_list(runs, run), run);
        }
        runs.set_warm(run, mask);
        if moves {
            runs.push_front(self.free_list(runs, run), run);
        }
    }

    /// `count` frames of the node will soon be nobody's or gone.
    pub(super) fn add_passing(&mut self, node: NodeId, count: u32) {
        self.spare.passing += count;
        self.spare_on[node.index()].passing += count;
    }

    /// They are.
    pub(super) fn remove_passing(&mut self, node: NodeId, count: u32) {
        self.spare.passing -= count;
        self.spare_on[node.index()].passing -= count;
    }
}
