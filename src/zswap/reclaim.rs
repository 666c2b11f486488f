//! Reclaim: making room below a limit, or in the pool. Which entries of a memcg go is `walk.rs`.

use super::Error;
use super::core::{Core, Policy, Zswap};
use super::error::Unwritable;
use super::walk::{Budget, Walk};
use super::worker::PRESSURE;
use crate::memcg::{LimitHit, Memcg, MemcgId};
use crate::sync::atomic::Ordering;
use crate::sync::thread::Backoff;
use crate::units::NodeMask;
use crate::zsmalloc::Compacted;

/// Bytes compaction may move for a store that waits for a frame.
const COMPACT_FOR_STORE: u64 = 64 << 10;

/// What a batch of the next memcg came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Written,
    /// Everything looked at was referenced or in flight: another look may find some.
    NoneWritten,
    /// The device had no room or failed.
    Refused,
}

/// What an attempt to make room came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Made,
    /// None, and another look may find some.
    None,
    /// None, for the device had no room or failed.
    Refused,
}

/// Whether a store that was refused should try again.
#[derive(Debug)]
pub(super) struct Effort {
    failures: usize,
    refusals: usize,
    max_failures: usize,
    tries: usize,
    backoff: Backoff,
}

/// A store gives up when the device refused so often in a row. More than once, for what another thread's batch has set aside
/// may be free again; not as often as where entries were only busy, for each try writes a batch in vain.
const MAX_REFUSALS: usize = 2;

/// A store gives up after so many rounds even if each made room that others took: far more than are ever needed.
const MAX_TRIES: usize = 4096;

impl Effort {
    pub(super) fn new(policy: &Policy) -> Self {
        Effort { failures: 0, refusals: 0, max_failures: policy.max_failures, tries: 0, backoff: Backoff::new() }
    }

    /// Note whether room was made; whether to go on.
    pub(super) fn goes_on(&mut self, room: Room) -> bool {
        self.tries += 1;
        if room == Room::Made {
            (self.failures, self.refusals) = (0, 0);
        } else {
            self.failures += 1;
            self.refusals += usize::from(room == Room::Refused);
            self.backoff.wait();
        }
        self.failures < self.max_failures && self.refusals < MAX_REFUSALS && self.tries < MAX_TRIES
    }
}

impl Zswap {
    /// Write one of a memcg's files (see [`Memcg::write_file`]), and start reclaim if a limit is below usage now, or move what
    /// lies on nodes that are allowed no longer.
    ///
    /// # Errors
    /// As [`Memcg::write_file`], and [`Error::Busy`].
    pub fn write_file(&self, memcg: &Memcg, name: &str, text: &str) -> Result<(), Error> {
        memcg.write_file(name, text)?;
        self.core.kick.kick(PRESSURE);
        if name == "memory.zswap.nodes" { self.core.leave_nodes(memcg) } else { Ok(()) }
    }

    /// Have compaction gather objects into fewer frames until it can free no more or has moved `budget_bytes`.
    pub fn compact(&self, budget_bytes: u64) -> Compacted {
        self.core.pool.compact(budget_bytes)
    }

    /// Set `memory.zswap.max` of a memcg in bytes (`u64::MAX`: none) and start reclaim if it is over it now. Nothing that is
    /// stored fails.
    ///
    /// # Errors
    /// When the memcg is offline.
    pub fn set_zswap_max(&self, memcg: &Memcg, max: u64) -> Result<(), Error> {
        memcg.set_zswap_max(max)?;
        self.core.kick.kick(PRESSURE);
        Ok(())
    }
}

impl Core {
    /// A store hit the limit of a memcg: write back entries of that memcg and its descendants.
    pub(super) fn make_room_below(&self, hit: &LimitHit) -> Room {
        let online = hit.memcg().subtree();
        if online.is_empty() {
            return Room::Made; // removed since, and with it who stores: the next attempt says so
        }
        let first = self.counters.shrinks.get() as usize % online.len();
        // First a look at a few. If all were referenced, that look took their second chance, and so do the next until some are
        // found: twice round is enough.
        for nr_to_scan in [self.policy.store_scan, usize::MAX, usize::MAX] {
            let budget = Budget { until_written: true, ..self.budget(nr_to_scan) };
            for k in 0..online.len() {
                match self.walk(&online[(first + k) % online.len()], &budget) {
                    Walk { bytes: 1.., .. } => return Room::Made,
                    Walk { refused: true, .. } => return Room::Refused,
                    _ => {}
                }
            }
        }
        Room::None
    }

    /// A store found no frame: write back a batch of the next memcg and gather what is left.
    pub(super) fn make_room_in_pool(&self) -> Room {
        self.kick.kick(PRESSURE);
        let next = self.write_some_back(self.all_nodes());
        let compacted = self.pool.compact(COMPACT_FOR_STORE);
        self.room_after(next, compacted.frames_won())
    }

    /// A store found none of the nodes that it may use with room: the same on those.
    pub(super) fn make_room_on(&self, nodes: NodeMask) -> Room {
        let next = self.write_some_back(nodes);
        let won = nodes.iter().map(|node| self.pool.compact_node(node, COMPACT_FOR_STORE).frames_won()).sum();
        self.room_after(next, won)
    }

    /// Write back a batch of the next memcg; where all was referenced, the second look finds some.
    fn write_some_back(&self, nodes: NodeMask) -> Next {
        let mut next = self.shrink_next(self.policy.batch, nodes);
        for _ in 0..2 {
            if next == Next::NoneWritten {
                next = self.shrink_next(usize::MAX, nodes);
            }
        }
        next
    }

    fn room_after(&self, next: Next, frames_won: u64) -> Room {
        self.arena.flush();
        match next {
            _ if frames_won > 0 => Room::Made,
            Next::Written => Room::Made,
            Next::NoneWritten => Room::None,
            Next::Refused => Room::Refused,
        }
    }

    /// One batch of the next memcg after the cursor that has something to write on these nodes.
    pub(super) fn shrink_next(&self, nr_to_scan: usize, nodes: NodeMask) -> Next {
        // A memcg id, not a reference: nothing to leak, nothing to put twice, and a memcg that went is just not there (T3).
        let start = MemcgId(self.cursor.load(Ordering::Relaxed));
        let root = self.tree.root();
        let budget = Budget { nodes, until_written: true, ..self.budget(nr_to_scan) };
        let (mut after, mut wrapped) = (start, false);
        loop {
            let Some(memcg) = root.next_listed(after) else {
                if wrapped {
                    return Next::NoneWritten;
                }
                (after, wrapped) = (MemcgId(0), true);
                continue;
            };
            after = memcg.id();
            if wrapped && after > start {
                return Next::NoneWritten;
            }
            match self.walk(&memcg, &budget) {
                Walk { bytes: 1.., .. } => {
                    self.cursor.store(after.0, Ordering::Relaxed);
                    return Next::Written;
                }
                Walk { refused: true, .. } => return Next::Refused,
                Walk { scanned: 0, .. } => self.delist_if_empty(&memcg),
                _ => {}
            }
        }
    }

    /// Take a memcg without entries off the roster of those that have some.
    pub(super) fn delist_if_empty(&self, memcg: &Memcg) {
        memcg.delist_with(|listing| self.lru.if_empty(memcg.group(), || listing.clear()));
    }

    /// Write back of every memcg that is above its own limit, which was lowered, until it is not or nothing goes any more.
    pub(super) fn shrink_those_above_their_limit(&self, stopped: impl Fn() -> bool) {
        for memcg in self.tree.root().subtree() {
            let mut effort = Effort::new(&self.policy);
            while memcg.usage() > memcg.zswap_max() && !stopped() {
                let online = memcg.subtree();
                let mut walks = online.iter().map(|memcg| self.walk(memcg, &self.budget(self.policy.batch)));
                let room = walks.find_map(|walk| match walk {
                    Walk { bytes: 1.., .. } => Some(Room::Made),
                    Walk { refused: true, .. } => Some(Room::Refused),
                    _ => None,
                });
                if !effort.goes_on(room.unwrap_or(Room::None)) {
                    break;
                }
            }
        }
    }

    /// Remember why a batch did not go; or that one went.
    pub(super) fn note_trouble(&self, trouble: Option<Unwritable>) {
        let number = match trouble {
            Some(Unwritable::DeviceFull) => 1,
            Some(Unwritable::WriteFailed) => 2,
            _ => 0,
        };
        // Relaxed: it only words an error.
        self.trouble.store(number, Ordering::Relaxed);
    }

    /// Why writeback does not help, for an error.
    pub(super) fn why_unwritable(&self, memcg: &Memcg) -> Unwritable {
        match self.trouble.load(Ordering::Relaxed) {
            _ if self.area.is_none() => Unwritable::NoDevice,
            _ if !memcg.writeback() => Unwritable::Disabled,
            1 => Unwritable::DeviceFull,
            2 => Unwritable::WriteFailed,
            _ => Unwritable::Busy,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_memcg_that_went_offline_after_it_refused_is_no_reason_to_panic() {
        let zswap = Zswap::builder().address_space(1 << 24).slots_in_use(1 << 10).worker(false).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        vm.set_zswap_max(100).unwrap();
        let hit = vm.objcg().unwrap().try_charge(101).unwrap_err();
        zswap.offline(&vm).unwrap();
        assert_eq!(
            zswap.core.make_room_below(&hit),
            Room::Made,
            "its store tries again, and is told that its memcg is gone"
        );
    }
}
