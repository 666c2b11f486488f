//! Reclaim: making room below a limit, or in the pool.
//!
//! [`shrink_memcg`](Zswap::shrink_memcg) writes back the cold end of one memcg, with the budget rules of T1: `nr_to_scan`
//! entries are *looked at* over all nodes, each at most once a call, and what one node leaves unused goes to the next.

use super::core::{Core, Policy, Zswap};
use super::error::Unwritable;
use crate::memcg::{LimitHit, Memcg, MemcgId};
use crate::sync::atomic::Ordering;
use crate::sync::thread::Backoff;
use crate::units::NodeId;

/// Bytes compaction may move for a store that waits for a frame.
const COMPACT_FOR_STORE: usize = 64 << 10;

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

/// Whether a store that was refused should try again.
#[derive(Debug)]
pub(super) struct Effort {
    failures: usize,
    max_failures: usize,
    tries: usize,
    backoff: Backoff,
}

/// A store gives up after so many rounds even if each made room that others took: far more than are ever needed.
const MAX_TRIES: usize = 4096;

impl Effort {
    pub(super) fn new(policy: &Policy) -> Self {
        Effort { failures: 0, max_failures: policy.max_failures, tries: 0, backoff: Backoff::new() }
    }

    /// Note whether room was made; whether to go on.
    pub(super) fn goes_on(&mut self, room: bool) -> bool {
        self.tries += 1;
        if room {
            self.failures = 0;
        } else {
            self.failures += 1;
            self.backoff.wait();
        }
        self.failures < self.max_failures && self.tries < MAX_TRIES
    }
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

    /// Have compaction gather objects into fewer frames until it can free no more or has moved `budget_bytes`.
    pub fn compact(&self, budget_bytes: usize) -> crate::zsmalloc::Compacted {
        self.core.pool.compact(budget_bytes)
    }

    /// Set `memory.zswap.max` of a memcg and start reclaim if it is over it now. Nothing that is stored fails.
    pub fn set_zswap_max(&self, memcg: &Memcg, max: Option<u64>) {
        memcg.set_zswap_max(max);
        self.core.kick.kick();
    }
}

impl Core {
    pub(super) fn shrink_memcg(&self, memcg: &Memcg, nr_to_scan: usize) -> Shrunk {
        if self.area.is_none() || !memcg.is_online() || !memcg.zswap_writeback() {
            return Shrunk::NothingToScan;
        }
        let group = memcg.group();
        let nodes = self.tree.nodes();
        let (mut scanned, mut bytes) = (0, 0);
        let mut picked = Vec::with_capacity(nr_to_scan.min(self.policy.batch));
        // Nodes take turns to be first, so that small budgets do not always fall on node 0 (W-12).
        let first = self.counters.shrinks.add(1) as usize;
        for node in (0..nodes).map(|n| NodeId(((first + n) % nodes) as u8)) {
            // No entry is seen twice: what is rotated now comes after everything that was there.
            let mut there = self.lru.len(group, node) as usize;
            while scanned < nr_to_scan && there > 0 {
                let budget = there.min(nr_to_scan - scanned).min(self.policy.batch);
                picked.clear();
                let seen = self.lru.scan(group, node, budget, |owner| !self.slots.word(owner).writeback(), &mut picked);
                if seen == 0 {
                    break;
                }
                scanned += seen;
                there -= seen;
                if !picked.is_empty() {
                    bytes += self.write_back(group, &picked).bytes;
                }
            }
        }
        match (bytes, scanned) {
            (0, 0) => Shrunk::NothingToScan,
            (0, _) => Shrunk::NoneWritten,
            (bytes, _) => Shrunk::Written(bytes),
        }
    }

    /// A store hit the limit of a memcg: write back entries of that memcg and its descendants. Whether any went.
    pub(super) fn make_room_below(&self, hit: &LimitHit) -> bool {
        let Some(memcg) = self.tree.find(hit.memcg) else { return true };
        let mut online = memcg.descendants();
        online.insert(0, memcg);
        let first = self.counters.shrinks.get() as usize % online.len();
        // First one entry each; where all are referenced, their second chance is used up by the look, so look again.
        for nr_to_scan in [self.policy.store_scan, self.policy.batch] {
            for k in 0..online.len() {
                if let Shrunk::Written(_) = self.shrink_memcg(&online[(first + k) % online.len()], nr_to_scan) {
                    return true;
                }
            }
        }
        false
    }

    /// A store found no frame: write back a batch of the next memcg and gather what is left. Whether frames may be had now.
    pub(super) fn make_room_in_pool(&self) -> bool {
        self.kick.kick();
        let written = self.shrink_next(self.policy.batch);
        let compacted = self.pool.compact(COMPACT_FOR_STORE);
        self.arena.flush();
        written || compacted.frames_freed > 0
    }

    /// One batch of the memcg after the cursor that has something to write. Whether something was written.
    pub(super) fn shrink_next(&self, nr_to_scan: usize) -> bool {
        // A memcg id, not a reference: nothing to leak, nothing to put twice, and an offline memcg is passed over (T3).
        let after = MemcgId(self.cursor.load(Ordering::Relaxed));
        let mut online = self.tree.root().descendants();
        online.push(self.tree.root());
        online.sort_by_key(|memcg| (memcg.id() <= after, memcg.id()));
        for memcg in online {
            if let Shrunk::Written(_) = self.shrink_memcg(&memcg, nr_to_scan) {
                self.cursor.store(memcg.id().0, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Write back of every memcg that is above its own limit, which was lowered, until it is not or nothing goes any more.
    pub(super) fn shrink_those_above_their_limit(&self, stopped: impl Fn() -> bool) {
        let mut online = self.tree.root().descendants();
        online.push(self.tree.root());
        for memcg in online {
            let mut effort = Effort::new(&self.policy);
            while memcg.zswap_max().is_some_and(|max| memcg.zswap_current() > max) && !stopped() {
                let mut below = memcg.descendants();
                below.push(memcg.clone());
                let written = below
                    .iter()
                    .any(|memcg| matches!(self.shrink_memcg(memcg, self.policy.batch), Shrunk::Written(_)));
                if !effort.goes_on(written) {
                    break;
                }
            }
        }
    }

    /// Why writeback does not help, for an error.
    pub(super) fn why_unwritable(&self, memcg: &Memcg) -> Unwritable {
        let Some(area) = &self.area else { return Unwritable::NoDevice };
        if !memcg.zswap_writeback() {
            Unwritable::Disabled
        } else if area.is_full() {
            Unwritable::DeviceFull
        } else if area.stats().io_errors > 0 {
            Unwritable::WriteFailed
        } else {
            Unwritable::Busy
        }
    }
}
