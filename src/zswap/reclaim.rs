//! Reclaim: making room below a limit, or in the pool, for a store that was refused. Which entries of a memcg go is `walk.rs`.
//!
//! ```text
//!   refused by      who makes room
//!   a memcg         the store: one entry of the memcg or one below it, in a batch with other stores' (submission.rs)
//!   the pool        the worker; the store waits at a turnstile, or helps with a batch while the worker's is at the device
//!   its nodes       the store: a batch from these nodes
//! ```
//!
//! - **P1** As many batches are under way as there are write buffers: the worker has one, stores that help the others. With
//!   one batch at a time the device idles while the next is gathered.
//! - **P2** Without a worker, stores do all of it.

use super::Error;
use super::core::{Core, Zswap};
use super::effort::{Effort, Room, WAIT};
use super::error::Unwritable;
use super::walk::{Budget, Walk};
use super::worker::PRESSURE;
use crate::memcg::{LimitHit, Memcg, MemcgId};
use crate::sync::Passed;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::units::NodeMask;
use crate::zsmalloc::Compacted;

/// Bytes compaction may move for a store that waits for a frame.
const COMPACT_FOR_STORE: u64 = 64 << 10;

/// Stores that help the worker at this moment, and how many may.
#[derive(Debug)]
pub(super) struct Helpers {
    places: AtomicUsize,
}

/// One of them.
struct Helping<'a>(&'a Helpers);

impl Helpers {
    /// As many as there are write buffers, less the worker's.
    pub(super) fn new(write_buffers: usize) -> Self {
        Helpers { places: AtomicUsize::new(write_buffers.saturating_sub(1)) }
    }

    fn help(&self) -> Option<Helping<'_>> {
        // Relaxed: a count of places, which orders nothing.
        let taken = self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
        taken.is_ok().then(|| Helping(self))
    }
}

impl Drop for Helping<'_> {
    fn drop(&mut self) {
        self.0.places.fetch_add(1, Ordering::Relaxed);
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
        if !hit.memcg().is_online() {
            return Room::Made; // removed since, and with it who stores: the next attempt says so
        }
        // First a look at one of each. If all were referenced, that look took their second chance, and so do the next until one
        // is found: twice round is enough.
        let mut room = Room::None(Unwritable::NothingThere);
        for nr_to_scan in [self.policy.store_scan, usize::MAX, usize::MAX] {
            let budget = Budget { until_written: true, join: true, ..self.budget(nr_to_scan) };
            room = self.look_round(hit.memcg(), &budget, &mut MemcgId(0));
            if room != Room::None(Unwritable::Busy) {
                break;
            }
        }
        room
    }

    /// A store found no frame: help the worker to make some, or wait until it has. Without a worker, do it all.
    pub(super) fn make_room_in_pool(&self, effort: &mut Effort) -> Room {
        self.kick.kick(PRESSURE);
        if self.area.is_none() {
            return self.make_frames();
        }
        let Some(ticket) = self.turnstile.ticket() else { return self.make_frames() };
        if let Some(_helping) = self.helpers.help() {
            return self.make_frames();
        }
        // A look has to come between the ticket and the wait.
        let Some(ticket) = effort.ticket.replace(ticket) else { return Room::Made };
        let deadline = effort.deadline();
        let passed = self.turnstile.wait(ticket, deadline, WAIT);
        effort.ticket = self.turnstile.ticket();
        match passed {
            _ if self.worker_gave_up() => self.make_frames(),
            Passed::Closed => self.make_frames(),
            Passed::TimedOut if deadline.passed() => Room::Hopeless(Unwritable::Slow),
            Passed::Turned | Passed::TimedOut => Room::Made,
        }
    }

    /// Write back a batch of the next memcg and gather what is left.
    fn make_frames(&self) -> Room {
        let gave_up = self.worker_gave_up();
        let room = self.write_some_back(self.all_nodes());
        let compacted = self.pool.compact(COMPACT_FOR_STORE);
        match self.room_after(room, compacted.frames_won()) {
            Room::None(why) if gave_up => Room::Hopeless(why),
            room => room,
        }
    }

    /// A store found none of the nodes that it may use with room: the same on those.
    pub(super) fn make_room_on(&self, nodes: NodeMask) -> Room {
        let room = self.write_some_back(nodes);
        let won = nodes.iter().map(|node| self.pool.compact_node(node, COMPACT_FOR_STORE).frames_won()).sum();
        self.room_after(room, won)
    }

    /// Write back a batch of the next memcg; where all was referenced, the second look finds some.
    fn write_some_back(&self, nodes: NodeMask) -> Room {
        let mut room = self.shrink_next(self.policy.batch, nodes);
        for _ in 0..2 {
            if room == Room::None(Unwritable::Busy) {
                room = self.shrink_next(usize::MAX, nodes);
            }
        }
        room
    }

    fn room_after(&self, room: Room, frames_won: u64) -> Room {
        self.arena.flush();
        let room = if frames_won > 0 { Room::Made } else { room };
        if room == Room::Made {
            self.progressed();
        }
        room
    }

    /// Room was made in the pool: those who wait for some look again.
    pub(super) fn progressed(&self) {
        self.gave_up.store(false, Ordering::Relaxed);
        self.turnstile.turn();
    }

    /// The worker could not make any: those who wait need wait no longer.
    pub(super) fn note_worker_gave_up(&self) {
        self.gave_up.store(true, Ordering::Relaxed);
        self.turnstile.turn();
    }

    fn worker_gave_up(&self) -> bool {
        // Relaxed: the turnstile's lock orders it for those who waited; others try one time more or less.
        self.gave_up.load(Ordering::Relaxed)
    }

    /// One batch of the next memcg after the cursor that has something to write on these nodes.
    pub(super) fn shrink_next(&self, nr_to_scan: usize, nodes: NodeMask) -> Room {
        // A memcg id, not a reference: nothing to leak, nothing to put twice, and a memcg that went is just not there (T3).
        let mut cursor = MemcgId(self.cursor.load(Ordering::Relaxed));
        let budget = Budget { nodes, until_written: true, ..self.budget(nr_to_scan) };
        let room = self.look_round(&self.tree.root(), &budget, &mut cursor);
        if room == Room::Made {
            self.cursor.store(cursor.0, Ordering::Relaxed);
        }
        room
    }

    /// Look at the memcg itself and those below it, once each, from the one after the cursor on, until something is written.
    fn look_round(&self, below: &Memcg, budget: &Budget, cursor: &mut MemcgId) -> Room {
        if self.area.is_none() {
            return Room::None(Unwritable::NoDevice);
        }
        let (start, mut wrapped) = (*cursor, false);
        let mut why = Unwritable::NothingThere;
        loop {
            let Some(memcg) = below.next_listed(*cursor) else {
                if wrapped {
                    return Room::None(why);
                }
                (*cursor, wrapped) = (MemcgId(0), true);
                continue;
            };
            *cursor = memcg.id();
            if wrapped && *cursor > start {
                return Room::None(why);
            }
            match self.walk(&memcg, budget) {
                Walk { bytes: 1.., .. } => return Room::Made,
                Walk { refused: true, .. } => return Room::None(self.trouble()),
                Walk { scanned: 0, .. } => {
                    self.delist_if_empty(&memcg);
                    if why == Unwritable::NothingThere && memcg.is_listed() && !memcg.writeback() {
                        why = Unwritable::Disabled;
                    }
                }
                _ => why = Unwritable::Busy,
            }
        }
    }

    /// Take a memcg without entries off the roster of those that have some.
    fn delist_if_empty(&self, memcg: &Memcg) {
        memcg.delist_with(|listing| self.lru.if_empty(memcg.group(), || listing.clear()));
    }

    /// Write back of every memcg that is above its own limit, which was lowered, until it is not or nothing goes any more.
    pub(super) fn shrink_those_above_their_limit(&self, stopped: impl Fn() -> bool) {
        for memcg in self.tree.root().subtree() {
            let mut effort = Effort::new(&self.policy);
            while memcg.usage() > memcg.zswap_max() && !stopped() {
                let room = self.look_round(&memcg, &self.budget(self.policy.batch), &mut MemcgId(0));
                if !effort.goes_on(room) {
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

    /// Why the last batch did not go.
    fn trouble(&self) -> Unwritable {
        match self.trouble.load(Ordering::Relaxed) {
            1 => Unwritable::DeviceFull,
            2 => Unwritable::WriteFailed,
            // Another thread's batch went since.
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
