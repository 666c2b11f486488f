//! The pressure shrinker: [`count`](Shrinker::count) what may go and [`scan`](Shrinker::scan) it, per memcg and node;
//! and [`relieve`](Zswap::relieve), which does both for all memcgs when the system wants memory back.
//!
//! ```text
//!   list of a memcg on a node          cold -> | | | | | | | | | | | | | <- warm
//!   less recent reads from the device          |-------------------|//////| each would not have been, had it been kept
//!   times stored bytes / original bytes        |----->|                    memcgs that compress well are spared
//!   count                                       ^^^^^^
//!   relieve, priority 12, 11, .. 0, 0  scan count >> priority, of memcg after memcg, until enough was written; all of
//!                                      it twice at last: what a first look finds referenced, a second takes
//! ```
//!
//! - **R1** A recent read protects one entry once: it is gone from the counter by the count that used it. A call of `relieve`
//!   goes round several times, and remembers for as long as it takes what it has taken.
//! - **R2** Memcgs come in the turns of a cursor, which stays where the last relief ended.
//! - **R3** What is written is not counted as proactive: nobody asked for these bytes by name.
//!
//! The scaling is by what lies on that node in that memcg, not below it.

use super::core::{Core, Zswap};
use super::walk::{Budget, Walk};
use crate::memcg::{Memcg, MemcgId, Rounds};
use crate::units::{FRAME_SIZE, NodeId, NodeMask};
use std::collections::HashMap;

/// Rounds of `relieve` begin with a 4096th of what may go (the kernel's `DEF_PRIORITY`).
const FIRST_PRIORITY: u32 = 12;

/// Which entries may go under pressure; from [`Zswap::shrinker`].
#[derive(Clone, Copy, Debug)]
pub struct Shrinker<'a> {
    core: &'a Core,
}

/// What a scan came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Scanned {
    /// Payload bytes that were written to the device and left the pool.
    pub bytes: u64,
    /// Entries looked at.
    pub entries: u64,
    /// The round is over for this list: an entry that is being loaded was met, or the device or a `memory.swap.max` refused.
    pub stopped: bool,
}

/// Reads that a call of `relieve` has taken, by list: so many entries it leaves alone.
type Spared = HashMap<(MemcgId, NodeId), u64>;

impl Zswap {
    /// For an embedder that decides by itself what goes where, as the kernel's reclaim does with its shrinkers.
    pub fn shrinker(&self) -> Shrinker<'_> {
        Shrinker { core: &self.core }
    }

    /// The system wants memory back: write cold pages of all memcgs in turn to the device, in proportion to what may go
    /// there ([`Shrinker::count`]), until `pages` pages of 4096 bytes are won or nothing may go any more; then gather what is
    /// left into fewer frames and return the others. Returns the payload bytes that left the pool.
    ///
    /// For a balloon, a low-memory callback, or a [`PressureWatch`](super::PressureWatch). May allocate, and waits for the
    /// device.
    ///
    /// # Locks
    /// Tree and LRU; then per entry cluster and class. None during a write.
    pub fn relieve(&self, pages: u64) -> u64 {
        self.core.relieve(pages, || false)
    }
}

impl Shrinker<'_> {
    /// Entries of this memcg (not of its descendants) on this node that may go: those on its lists, less the recent reads
    /// from the device, which are used up by this; times the share of their pages' bytes that they take. 0 where nothing can
    /// be written back: writeback is disabled, there is no device, the memcg is offline or another instance's.
    ///
    /// # Panics
    /// When there is no such node.
    ///
    /// # Locks
    /// Tree, and the memcg's lists.
    pub fn count(&self, memcg: &Memcg, node: NodeId) -> u64 {
        self.core.count(memcg, node, None)
    }

    /// Look at up to `nr` entries of this memcg on this node from the cold end, and write back those not referenced.
    ///
    /// # Panics
    /// When there is no such node.
    ///
    /// # Locks
    /// LRU; then per entry cluster and class. None during the write.
    pub fn scan(&self, memcg: &Memcg, node: NodeId, nr: u64) -> Scanned {
        let walk = self.core.scan(memcg, node, nr, u64::MAX);
        Scanned {
            bytes: walk.bytes,
            entries: walk.scanned as u64,
            stopped: walk.refused || walk.at_limit.is_some() || walk.warm,
        }
    }
}

impl Core {
    fn check_node(&self, node: NodeId) {
        assert!(node.index() < self.tree.nodes(), "node {} is none of the {} there are", node.0, self.tree.nodes());
    }

    fn count(&self, memcg: &Memcg, node: NodeId, spared: Option<&mut Spared>) -> u64 {
        self.check_node(node);
        if !memcg.tree().is(&self.tree) || !memcg.is_online() || !self.may_write_back(memcg) {
            return 0;
        }
        let group = memcg.group();
        self.swapins.prepare(group);
        let there = self.lru.len(group, node);
        let warm = match spared {
            None => self.swapins.take(group, node, there),
            Some(spared) => {
                let before = spared.get(&(memcg.id(), node)).copied().unwrap_or(0);
                let more = self.swapins.take(group, node, there.saturating_sub(before));
                if more > 0 {
                    spared.insert((memcg.id(), node), before + more);
                }
                before + more
            }
        };
        let may_go = there.saturating_sub(warm);
        let Ok(bytes) = memcg.own_bytes(node) else { return 0 };
        if bytes.original == 0 {
            return 0;
        }
        // Never more than there are: an object of 8 bytes is in a slot of more, but its page is 4096.
        let share = u128::from(may_go) * u128::from(bytes.compressed) / u128::from(bytes.original);
        share.min(may_go.into()) as u64
    }

    /// The walk of a scan. It ends at the entry that meets `bytes`.
    fn scan(&self, memcg: &Memcg, node: NodeId, nr: u64, bytes: u64) -> Walk {
        self.check_node(node);
        let entries = usize::try_from(nr).unwrap_or(usize::MAX);
        self.walk(memcg, &Budget { bytes, nodes: NodeMask::only(node), ..self.budget(entries) })
    }

    /// See [`Zswap::relieve`]; `stop` ends it early.
    pub(super) fn relieve(&self, pages: u64, stop: impl Fn() -> bool) -> u64 {
        let goal = pages.saturating_mul(FRAME_SIZE as u64);
        let (mut spared, mut won) = (Spared::new(), 0);
        // How far counts are shifted, and at last twice not at all.
        let mut shifts = (1..=FIRST_PRIORITY).rev().chain([0, 0]).peekable();
        while let Some(shift) = shifts.next()
            && won < goal
            && !stop()
        {
            let round = self.relieve_round(shift, goal - won, &mut spared, &stop);
            won += round.bytes;
            let Some(longest) = round.longest.checked_ilog2().filter(|_| !round.refused) else { break };
            // Where the longest list is short, rounds that would scan nothing of it are left out.
            while shifts.next_if(|&next| next > longest).is_some() {}
        }
        if won > 0 && !stop() {
            let _ = self.pool.compact(goal); // what is won shows in the frames backed
        }
        self.tidy_memory();
        self.tidy_devices(stop);
        won
    }

    /// Go round all memcgs that have entries once, and scan of each list its count shifted, until `goal` bytes are written.
    fn relieve_round(&self, shift: u32, goal: u64, spared: &mut Spared, stop: &impl Fn() -> bool) -> Round {
        let root = self.tree.root();
        let (mut rounds, mut round) = (Rounds::new(), Round::default());
        while round.bytes < goal && !round.refused && !stop() {
            // A turn is one memcg with all that this round asks of it.
            let Some(claim) = self.relief_cursor.claim(&root, 1, 1) else { break };
            if rounds.over(&claim) {
                claim.finish(0);
                break;
            }
            let memcg = claim.memcg();
            let mut there = 0;
            for node in self.all_nodes().iter() {
                there += self.lru.len(memcg.group(), node);
                let count = self.count(memcg, node, Some(spared));
                round.longest = round.longest.max(count);
                if count >> shift > 0 && round.bytes < goal && !round.refused {
                    let walk = self.scan(memcg, node, count >> shift, goal - round.bytes);
                    round.bytes += walk.bytes;
                    round.refused |= walk.refused;
                }
            }
            if there == 0 {
                memcg.delist_with(|listing| self.lru.if_empty(memcg.group(), || listing.clear()));
            }
            claim.finish(1);
        }
        round
    }
}

/// What a round over all memcgs came to.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    bytes: u64,
    /// The largest count of a list.
    longest: u64,
    /// The device refused.
    refused: bool,
}
