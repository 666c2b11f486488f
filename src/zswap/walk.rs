//! The walk: which entries of one memcg are written back, and how far it goes.
//!
//! ```text
//!   raw lists          1 >>>>| up to the first referenced, then    3  >>>>>>>>| what is left of the budget
//!   of all nodes             |>> by the list's share of all entries
//!   compressed lists                                 2 >>>>>>>>>>>|
//!   of all nodes       a node's turn to be first moves on with every walk
//! ```
//!
//! - **T1** One budget for all lists: entries are *looked at*, each at most once a walk, and what one list leaves unused goes
//!   to the next. A walk with a budget in bytes ends at the entry that meets it.
//! - **T2** A referenced entry is cleared and rotated, and may be written by a later walk. One that is being read at this moment
//!   is warm: it ends its list's part of the walk.
//! - **T3** Pages kept as they are go first, for they give back the most, as long as they are cold: those that were
//!   referenced lose their second chance no sooner than compressed ones do, and no later, for there may be cold ones behind them.
//! - **T4** A device that has no room or fails, and a `memory.swap.max` that admits no place, end the walk.
//!
//! [`Form::PerNode`] divides the budget as the kernel does instead.

use super::core::{Core, Zswap};
use super::lru::{Lap, Limits, Look, Which};
use super::writeback::Terms;
use crate::memcg::{GroupRef, Memcg, MemcgId};
use crate::units::{NodeMask, Owner, TierMask};
use std::time::Duration;

/// Entries of each node that a walk of [`Form::PerNode`] looks at (`SWAP_CLUSTER_MAX`).
const PER_NODE: usize = 32;

/// What a call of [`shrink_memcg`](Zswap::shrink_memcg) came to.
///
/// The kernel's own form tells no more than 0, `-EAGAIN` and `-ENOENT`, which are these three without the bytes.
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

/// How a walk divides its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// One budget of entries for all nodes, as the caller says; what one node leaves unused, the next has.
    #[default]
    Shared,
    /// Up to 32 entries of each node, whatever the caller says of entries and bytes, and on through all nodes when something
    /// was written: what the kernel has. For comparison.
    PerNode,
}

/// How far a walk may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Entries it may look at, over all nodes.
    pub(super) entries: usize,
    /// It ends at the entry whose payload meets this.
    pub(super) bytes: u64,
    /// Only entries that have lain so long since they were stored or last looked at. Being new does not protect these.
    pub(super) age: Option<Duration>,
    /// The nodes whose lists it walks.
    pub(super) nodes: NodeMask,
    /// It ends with the first batch that was written.
    pub(super) until_written: bool,
    /// Somebody asked for it by name: what it writes counts as proactive.
    pub(super) proactive: bool,
    /// The tiers that entries may go to, as far as their memcgs allow.
    pub(super) tiers: TierMask,
    /// What it picks joins the batch that stores at their limits fill together.
    pub(super) join: bool,
}

/// What a walk over one memcg's lists came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Payload bytes that left the pool.
    pub(super) bytes: u64,
    /// Entries that did.
    pub(super) written: usize,
    /// Entries looked at.
    pub(super) scanned: usize,
    /// The device had no room or failed: no other batch will do better now.
    pub(super) refused: bool,
    /// An entry that is being read ended the part of a list.
    pub(super) warm: bool,
    /// The `memory.swap.max` of this memcg, itself or one above, admits no more places: those that are not below it may do better.
    pub(super) at_limit: Option<MemcgId>,
}

/// A walk under way.
struct Walker<'a> {
    core: &'a Core,
    group: GroupRef,
    budget: Budget,
    walk: Walk,
    laps: Vec<Lap>,
    /// Entries to be written, which several lists may fill: a batch is one write.
    picked: Vec<Owner>,
    /// For each of them the number of its lap.
    from: Vec<u32>,
    /// Their payload bytes.
    picked_bytes: u64,
}

impl Zswap {
    /// Write back the cold end of `memcg` (not of its descendants), looking at no more than `nr_to_scan` entries.
    ///
    /// A referenced entry is cleared and rotated, and may be written by a later call. Under [`Form::PerNode`], `nr_to_scan` means
    /// nothing.
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
        Budget {
            entries,
            bytes: u64::MAX,
            age: None,
            nodes,
            until_written: false,
            proactive: false,
            tiers: TierMask::ALL,
            join: false,
        }
    }

    /// Write back the cold end of one memcg within the budget. It looks at nothing where there is no device, where writeback is
    /// disabled, and of a memcg that is offline: its lists are its parent's (R-20).
    ///
    /// # Locks
    /// As [`Zswap::shrink_memcg`].
    pub(super) fn walk(&self, memcg: &Memcg, budget: &Budget) -> Walk {
        if !memcg.tree().is(&self.tree) || !memcg.is_online() || !self.may_write_back(memcg) {
            return Walk::default();
        }
        // Nodes take turns to be first, so that small budgets do not always fall on node 0.
        let nodes = budget.nodes;
        self.counters.shrinks.add(1);
        let turn = self.lru.next_walk(memcg.group());
        let first = turn as usize % nodes.len().max(1);
        let in_turn = || nodes.iter().skip(first).chain(nodes.iter().take(first));
        let most = budget.entries.min(self.policy.batch);
        let mut walker = Walker {
            core: self,
            group: memcg.group(),
            budget: *budget,
            walk: Walk::default(),
            laps: Vec::with_capacity(2 * nodes.len()),
            picked: Vec::with_capacity(most),
            from: Vec::with_capacity(most),
            picked_bytes: 0,
        };
        match self.policy.form {
            Form::Shared => {
                let all: u64 = nodes.iter().map(|node| self.lru.len(walker.group, node)).sum();
                for node in in_turn() {
                    let (which, lap) = (Which { node, raw: true }, walker.laps.len());
                    walker.begin(which, true);
                    // What is picked has as good as left.
                    let picked = walker.from.iter().filter(|&&from| from as usize == lap).count();
                    let left = self.lru.list_len(walker.group, which).saturating_sub(picked as u64);
                    walker.go_on(lap, share(turn, budget.entries, left, all));
                }
                in_turn().for_each(|node| walker.begin(Which { node, raw: false }, false));
                (0..nodes.len()).for_each(|lap| walker.go_round(lap, false));
            }
            Form::PerNode => {
                for node in in_turn() {
                    let entries = walker.walk.scanned + PER_NODE;
                    walker.budget = Budget { entries, bytes: u64::MAX, until_written: false, ..*budget };
                    Which::of(node).into_iter().for_each(|which| walker.begin(which, false));
                }
            }
        }
        walker.write();
        walker.walk
    }

    /// What to do with an entry that was not referenced. Under the lock of its list.
    fn look(&self, owner: Owner) -> Look {
        let word = self.slots.word(owner);
        match word.entry() {
            _ if word.writeback() => Look::Leave,
            Some(entry) if self.pool.is_held(owner, entry.location) => Look::Warm,
            Some(entry) => Look::Pick(entry.length),
            // On its way in, or out.
            None => Look::Leave,
        }
    }
}

/// How many entries of a list of `len` a walk with this budget looks at, so that all lists are gone round equally fast: the
/// fractions add up over turns.
fn share(turn: u64, entries: usize, len: u64, all: u64) -> usize {
    let entries = all.min(entries as u64);
    let until = |turn: u64| u128::from(turn) * u128::from(entries) * u128::from(len) / u128::from(all.max(1));
    (until(turn + 1) - until(turn)) as usize
}

impl Walker<'_> {
    fn is_over(&self) -> bool {
        let (budget, walk) = (&self.budget, &self.walk);
        walk.refused
            || walk.at_limit.is_some()
            || walk.scanned >= budget.entries
            || walk.bytes >= budget.bytes
            || budget.until_written && walk.bytes > 0
    }

    /// Whether what is picked is to be written before more is: a batch is full of it, or it would meet the budget.
    fn has_enough(&self) -> bool {
        let enough =
            self.picked.len() >= self.core.policy.batch || self.walk.bytes + self.picked_bytes >= self.budget.bytes;
        !self.picked.is_empty() && (enough || self.budget.join)
    }

    /// Begin a lap, and go round.
    fn begin(&mut self, which: Which, cold_only: bool) {
        self.laps.push(Lap::of(which));
        self.go_round(self.laps.len() - 1, cold_only);
    }

    /// Go on with a lap by so many entries.
    fn go_on(&mut self, lap: usize, entries: usize) {
        let whole = self.budget.entries;
        self.budget.entries = whole.min(self.walk.scanned + entries);
        self.go_round(lap, false);
        self.budget.entries = whole;
    }

    /// Go on with a lap. `cold_only`: up to the first referenced entry.
    fn go_round(&mut self, lap: usize, cold_only: bool) {
        loop {
            if self.has_enough() {
                self.write();
            }
            if self.is_over() {
                return;
            }
            let Budget { entries, bytes, age, .. } = self.budget;
            let entries = (entries - self.walk.scanned).min(self.core.policy.batch - self.picked.len());
            let limits = Limits { entries, bytes: bytes - self.walk.bytes - self.picked_bytes, age, cold_only };
            let (core, picked_bytes) = (self.core, &mut self.picked_bytes);
            let look = |owner| {
                let look = core.look(owner);
                *picked_bytes += if let Look::Pick(len) = look { len as u64 } else { 0 };
                look
            };
            let seen = core.lru.scan(self.group, &mut self.laps[lap], &limits, look, &mut self.picked);
            if seen == 0 {
                return;
            }
            self.from.resize(self.picked.len(), lap as u32);
            self.walk.scanned += seen;
            self.walk.warm |= self.laps[lap].is_over();
        }
    }

    /// Write what is picked.
    fn write(&mut self) {
        if self.picked.is_empty() {
            return;
        }
        let (laps, from) = (&mut self.laps, &self.from);
        let took = |at: usize, _| laps[from[at] as usize].took(1);
        let landed = if self.budget.join {
            self.core.write_back_joined(self.group, &self.picked, took)
        } else {
            let Budget { bytes, proactive, tiers, .. } = self.budget;
            let terms = Terms { most_bytes: bytes - self.walk.bytes, proactive, tiers };
            self.core.write_back(self.group, &self.picked, terms, took)
        };
        self.walk.bytes += landed.bytes;
        self.walk.written += landed.entries;
        self.walk.refused |= landed.device_refused;
        self.walk.at_limit = self.walk.at_limit.or(landed.at_limit);
        self.picked.clear();
        self.from.clear();
        self.picked_bytes = 0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::arena::Topology;
    use crate::swap::MemoryDevice;
    use crate::sync::Clock;
    use crate::units::{NodeId, Page, SlotRange};

    /// An instance with `pages` pages, every other one on node 1, of payloads between 200 and 1200 bytes or so.
    fn filled(pages: u64) -> (Zswap, Clock, SlotRange) {
        let clock = Clock::settable();
        clock.set(1 << 20);
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).worker(false);
        let builder = builder.topology(Topology::simulated(2)).clock(clock.clone());
        let zswap = builder.device(MemoryDevice::new(4 << 20, 4096)).build().unwrap();
        let slots = zswap.reserve(pages).unwrap();
        (0..pages).for_each(|k| store(&zswap, slots, k));
        (zswap, clock, slots)
    }

    fn store(zswap: &Zswap, slots: SlotRange, k: u64) {
        let mut page = Page::zeroed();
        let mut x = k + 1;
        for byte in &mut page[..200 + (k as usize * 37) % 1000] {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (x >> 56) as u8;
        }
        zswap.store(slots.get(k).unwrap(), &zswap.root(), NodeId((k % 2) as u8), &page).unwrap();
    }

    #[test]
    fn a_budget_in_bytes_is_met_and_without_its_last_entry_it_is_not() {
        let (zswap, _, _) = filled(600);
        let core = &zswap.core;
        let mut total = 0;
        for bytes in [1, 2, 100, 1500, 10_000, 50_000, 100_000].into_iter().cycle().take(14) {
            let budget = Budget { bytes, ..core.budget(usize::MAX) };
            let before = core.tree.root().stat().unwrap().bytes.payload;
            let walk = core.walk(&core.tree.root(), &budget);
            assert_eq!(before - core.tree.root().stat().unwrap().bytes.payload, walk.bytes);
            total += walk.bytes;
            if walk.bytes < before {
                assert!(walk.bytes >= bytes && walk.bytes < bytes + 1400, "{} of {bytes}", walk.bytes);
                assert_eq!(walk.scanned, walk.written, "nothing is picked that is not needed");
            }
            if bytes <= 2 {
                assert_eq!(walk.written, 1, "one entry meets it");
            }
        }
        assert!(total > 250_000, "{total}");
        zswap.assert_valid();
    }

    #[test]
    fn a_walk_with_an_age_leaves_what_came_later_and_what_was_looked_at() {
        let (zswap, clock, slots) = filled(100);
        let core = &zswap.core;
        let root = core.tree.root();
        let aged =
            |seconds| core.walk(&root, &Budget { age: Some(Duration::from_secs(seconds)), ..core.budget(usize::MAX) });
        clock.set((1 << 20) + 100_000);
        (0..50).for_each(|k| store(&zswap, slots, k)); // anew
        clock.set((1 << 20) + 160_000);
        assert_eq!(aged(161), Walk::default(), "nothing is so old");
        // Half of the old ones were loaded: they are rotated, and so have not lain there.
        (50..75).for_each(|k| zswap.load(slots.get(k).unwrap(), &mut Page::zeroed()).unwrap());
        let walk = aged(120);
        assert_eq!((walk.scanned, walk.written), (50, 25));
        assert_eq!(aged(58).written, 50);
        assert_eq!(aged(1), Walk::default());
        clock.set((1 << 20) + 162_100);
        assert_eq!(aged(1).written, 25);
        zswap.assert_valid();
    }

    #[test]
    fn a_walk_of_some_nodes_leaves_the_others_alone() {
        let (zswap, _, _) = filled(200);
        let core = &zswap.core;
        let walk = |until_written| {
            let nodes = NodeMask::only(NodeId(1));
            core.walk(&core.tree.root(), &Budget { nodes, until_written, ..core.budget(usize::MAX) }).written
        };
        let batch = core.policy.batch;
        assert_eq!([walk(true), walk(false), walk(false)], [batch, 100 - batch, 0]);
        assert_eq!(core.lru.len(core.tree.root().group(), NodeId(0)), 100);
    }

    /// An instance with 10 pages of noise, then 90 that shrink.
    fn of_two_kinds() -> (Zswap, SlotRange) {
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).sampling(None).worker(false);
        let zswap = builder.device(MemoryDevice::new(4 << 20, 4096)).build().unwrap();
        let slots = store_two_kinds(&zswap);
        (zswap, slots)
    }

    fn store_two_kinds(zswap: &Zswap) -> SlotRange {
        let slots = zswap.reserve(100).unwrap();
        for (k, slot) in slots.iter().enumerate() {
            let mut page = Page::zeroed();
            let (len, mut x) = (if k < 10 { page.len() } else { 500 }, k as u64 + 1);
            for byte in &mut page[..len] {
                x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte = (x >> 56) as u8;
            }
            zswap.store(slot, &zswap.root(), NodeId(0), &page).unwrap();
        }
        slots
    }

    #[test]
    fn no_cold_page_lies_behind_a_referenced_one_for_ever() {
        let (zswap, slots) = of_two_kinds();
        let core = &zswap.core;
        let raw = || zswap.stats().incompressible_pages;
        let mut page = Page::zeroed();
        zswap.load(slots.base(), &mut page).unwrap();
        // Its share of the first walk is one entry, which is that one; and then the nine are cold and go first.
        assert_eq!(core.walk(&core.tree.root(), &core.budget(10)).written, 9);
        assert_eq!(raw(), 10);
        zswap.load(slots.base(), &mut page).unwrap(); // where it is now, the others come first
        assert_eq!(core.walk(&core.tree.root(), &core.budget(10)).written, 10);
        assert_eq!(raw(), 1, "nine of those ten");
        zswap.assert_valid();
    }

    #[test]
    fn second_chances_of_both_kinds_last_equally_long() {
        let (zswap, slots) = of_two_kinds();
        let core = &zswap.core;
        let mut page = Page::zeroed();
        slots.iter().for_each(|slot| zswap.load(slot, &mut page).unwrap());
        for entries in [7, 13, 30] {
            let walk = core.walk(&core.tree.root(), &core.budget(entries));
            assert_eq!((walk.scanned, walk.written), (entries, 0), "half of the hundred have lost theirs");
        }
        // Half of the raw ones are at the head of their list still, referenced.
        let left = Which { node: NodeId(0), raw: true };
        let mut referenced = 0;
        core.lru
            .for_each(core.tree.root().group(), left, |owner| referenced += u64::from(core.lru.is_referenced(owner)));
        assert!((4..=6).contains(&referenced), "{referenced} of 10");
    }

    #[test]
    fn pages_that_are_new_keep_their_second_chance_equally_long_too() {
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).sampling(None).worker(false);
        let zswap = builder.device(MemoryDevice::new(4 << 20, 4096)).new_is_referenced(true).build().unwrap();
        let slots = store_two_kinds(&zswap);
        let core = &zswap.core;
        assert_eq!(core.walk(&core.tree.root(), &core.budget(50)).written, 0);
        zswap.load(slots.get(99).unwrap(), &mut Page::zeroed()).unwrap();
        // Half of each kind has lost it; of these, the raw ones go first.
        let new = |raw: bool| {
            let mut new = 0;
            let which = Which { node: NodeId(0), raw };
            core.lru.for_each(core.tree.root().group(), which, |owner| new += u64::from(core.lru.is_new(owner)));
            new
        };
        assert_eq!((new(true), new(false)), (5, 45));
        zswap.assert_valid();
    }

    #[test]
    fn walks_over_two_memcgs_by_turns_take_from_both_nodes_of_each() {
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).worker(false);
        let builder = builder.topology(Topology::simulated(2)).device(MemoryDevice::new(4 << 20, 4096));
        let zswap = builder.build().unwrap();
        let (core, slots) = (&zswap.core, zswap.reserve(80).unwrap());
        let memcgs = ["a", "b"].map(|name| zswap.root().mkdir(name).unwrap());
        for (k, slot) in slots.iter().enumerate() {
            let mut page = Page::zeroed();
            page[..8].copy_from_slice(&(k as u64 + 1).to_ne_bytes());
            page[100] = 1;
            zswap.store(slot, &memcgs[k / 40], NodeId((k % 2) as u8), &page).unwrap();
        }
        for _ in 0..10 {
            memcgs.iter().for_each(|memcg| assert_eq!(core.walk(memcg, &core.budget(1)).written, 1));
        }
        for memcg in &memcgs {
            assert_eq!([0, 1].map(|node| core.lru.len(memcg.group(), NodeId(node))), [15, 15], "{}", memcg.path());
        }
    }
}
