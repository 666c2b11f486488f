//! The walk: which entries of one memcg are written back, and how far it goes.
//!
//! [`shrink_memcg`](Zswap::shrink_memcg) writes back the cold end of one memcg, with the budget rules of T1: `nr_to_scan`
//! entries are *looked at* over all nodes, each at most once a call, and what one node leaves unused goes to the next.

use super::core::{Core, Zswap};
use crate::memcg::Memcg;
use crate::units::NodeMask;
use std::time::Duration;

/// What a call of [`shrink_memcg`](Zswap::shrink_memcg) came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Shrunk {
    /// So many payload bytes were written to the device and left the pool.
    Written(u64),
    /// There were entries, and none was written: all referenced, in flight, or the device refused.
    NoneWritten,
    /// Nothing was looked at: no entries, no device, writeback disabled, or the memcg is offline.
    NothingToScan,
}

/// What a walk over one memcg's lists came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    /// Payload bytes that left the pool.
    pub(super) bytes: u64,
    /// Entries looked at.
    pub(super) scanned: usize,
    /// The device had no room or failed: no other batch will do better now.
    pub(super) refused: bool,
}

/// How far a walk may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Entries it may look at, over all nodes.
    pub(super) entries: usize,
    /// It ends at the entry whose payload meets this.
    #[expect(dead_code, reason = "the walk obeys it with the next commit")]
    pub(super) bytes: u64,
    /// Only entries that have lain so long.
    #[expect(dead_code, reason = "the walk obeys it with the next commit")]
    pub(super) age: Option<Duration>,
    /// The nodes whose lists it walks.
    pub(super) nodes: NodeMask,
    /// It ends with the first batch that was written.
    pub(super) until_written: bool,
    /// Somebody asked for it by name: what it writes counts as proactive.
    #[expect(dead_code, reason = "the walk obeys it with the next commit")]
    pub(super) proactive: bool,
    /// What it picks joins the batch that stores at their limits fill together.
    pub(super) join: bool,
}

impl Zswap {
    /// Write back the cold end of `memcg` (not of its descendants), looking at no more than `nr_to_scan` entries.
    ///
    /// A referenced entry is cleared and rotated, and may be written by a later call.
    ///
    /// # Locks
    /// LRU; then per entry cluster and class. None during the write.
    pub fn shrink_memcg(&self, memcg: &Memcg, nr_to_scan: usize) -> Shrunk {
        self.core.shrink_memcg(memcg, nr_to_scan)
    }
}

impl Core {
    pub(super) fn shrink_memcg(&self, memcg: &Memcg, nr_to_scan: usize) -> Shrunk {
        match self.walk(memcg, &self.budget(nr_to_scan)) {
            Walk { bytes: 0, scanned: 0, .. } => Shrunk::NothingToScan,
            Walk { bytes: 0, .. } => Shrunk::NoneWritten,
            Walk { bytes, .. } => Shrunk::Written(bytes),
        }
    }

    pub(super) fn all_nodes(&self) -> NodeMask {
        NodeMask::first(self.tree.nodes())
    }

    /// So many entries of all nodes, and no other bound.
    pub(super) fn budget(&self, entries: usize) -> Budget {
        let nodes = self.all_nodes();
        Budget { entries, bytes: u64::MAX, age: None, nodes, until_written: false, proactive: false, join: false }
    }

    /// Write back the cold end of one memcg within the budget.
    ///
    /// # Locks
    /// As [`Zswap::shrink_memcg`].
    pub(super) fn walk(&self, memcg: &Memcg, budget: &Budget) -> Walk {
        let Budget { entries: nr_to_scan, nodes, until_written, join, .. } = *budget;
        let mut walk = Walk::default();
        if self.area.is_none() || !memcg.tree().is(&self.tree) || !memcg.is_online() || !memcg.writeback() {
            return walk;
        }
        let group = memcg.group();
        let mut picked = Vec::with_capacity(nr_to_scan.min(self.policy.batch));
        // Nodes take turns to be first, so that small budgets do not always fall on node 0 (W-12).
        let first = self.counters.shrinks.add(1) as usize;
        let first = first % nodes.len().max(1);
        for node in nodes.iter().skip(first).chain(nodes.iter().take(first)) {
            // No entry is seen twice: what is rotated now comes after everything that was there.
            let mut there = self.lru.len(group, node) as usize;
            while walk.scanned < nr_to_scan && there > 0 && !walk.refused && !(until_written && walk.bytes > 0) {
                let budget = there.min(nr_to_scan - walk.scanned).min(self.policy.batch);
                picked.clear();
                let seen = self.lru.scan(group, node, budget, |owner| !self.slots.word(owner).writeback(), &mut picked);
                if seen == 0 {
                    break;
                }
                walk.scanned += seen;
                there -= seen;
                if !picked.is_empty() {
                    let write_back = if join { Self::write_back_joined } else { Self::write_back };
                    let landed = write_back(self, group, &picked);
                    walk.bytes += landed.bytes;
                    walk.refused |= landed.device_refused;
                }
            }
        }
        walk
    }
}
