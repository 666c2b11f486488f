//! Reclaim: making room below a limit, or in the pool, for a store that was refused. Which entries of a memcg go is `walk.rs`.
//!
//! ```text
//!   refused by      who makes room
//!   a memcg         the store: one entry of the memcg or one below it, in a batch with other stores' (submission.rs);
//!                   or it waits, where all of them are on their way
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
use super::turns::{Turn, Turns};
use super::walk::Budget;
use super::worker::{EXCESS, PRESSURE};
use crate::memcg::{Cursor, LimitHit, Memcg};
use crate::sync::Passed;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::units::NodeMask;
use crate::zsmalloc::Compacted;

/// Bytes compaction may move for a store that waits for a frame.
const COMPACT_FOR_STORE: u64 = 64 << 10;

/// Stores that help the worker at this moment.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    busy: AtomicUsize,
}

/// One of them.
struct Helping<'a>(&'a Helpers);

impl Helpers {
    /// Be one of as many as there are write buffers, less the worker's.
    fn help(&self, write_buffers: usize) -> Option<Helping<'_>> {
        // Relaxed: a count, which orders nothing.
        let more = |busy| (busy + 1 < write_buffers).then_some(busy + 1);
        let taken = self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Helping(self))
    }
}

impl Drop for Helping<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Zswap {
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
        self.core.kick.kick(EXCESS);
        Ok(())
    }
}

impl Core {
    /// A store hit the limit of a memcg: write back an entry of that memcg or of one below it, which joins those that other
    /// stores write back.
    pub(super) fn make_room_below(&self, hit: &LimitHit, effort: &mut Effort) -> Room {
        if !hit.memcg().is_online() {
            return Room::Made; // removed since, and with it who stores: the next attempt says so
        }
        self.kick.kick(EXCESS);
        let mut turns = Turns::of(self, hit.memcg());
        let turn = turns.next(&Budget { join: true, ..self.budget(self.policy.store_scan) });
        if !matches!(turn, Turn::NoneWritten(_)) {
            return turn.into();
        }
        // What was looked at has lost its second chance, and was not all there is.
        match turns.search(&Budget { join: true, bytes: 1, ..self.budget(usize::MAX) }).into() {
            // Below a limit that is smaller than a batch all may be on its way to a device.
            Room::None(Unwritable::Busy) if !effort.is_late() && !self.inflight.is_empty() => {
                effort.wait_for_writes();
                Room::Made
            }
            room => room,
        }
    }

    /// A store found no frame: help the worker to make some, or wait until it has. Without a worker, do it all.
    pub(super) fn make_room_in_pool(&self, effort: &mut Effort) -> Room {
        self.kick.kick(PRESSURE);
        if self.devices.is_empty() {
            return self.make_frames();
        }
        let Some(ticket) = self.turnstile.ticket() else { return self.make_frames() };
        if let Some(_helping) = self.helpers.help(self.devices.write_buffers()) {
            return self.make_frames();
        }
        if effort.is_late() {
            return if effort.last_try() { self.make_frames() } else { Room::Late };
        }
        // A look has to come between the ticket and the wait.
        let Some(ticket) = effort.ticket.replace(ticket) else { return Room::Made };
        effort.wait();
        let passed = self.turnstile.wait(ticket, WAIT);
        effort.ticket = self.turnstile.ticket();
        match passed {
            _ if self.worker_gave_up() => self.make_frames(),
            Passed::Closed => self.make_frames(),
            Passed::Turned | Passed::TimedOut => Room::Made,
        }
    }

    /// Write back a batch of the next memcg and gather what is left.
    fn make_frames(&self) -> Room {
        let gave_up = self.worker_gave_up();
        let room = self.write_some_back(&self.cursor, self.all_nodes());
        let compacted = self.pool.compact(COMPACT_FOR_STORE);
        match self.room_after(room, compacted.frames_won()) {
            Room::None(why) if gave_up => Room::Hopeless(why),
            room => room,
        }
    }

    /// A store found none of the nodes that it may use with room: the same on those.
    pub(super) fn make_room_on(&self, nodes: NodeMask) -> Room {
        let room = self.write_some_back(&self.nodes_cursor, nodes);
        let won = nodes.iter().map(|node| self.pool.compact_node(node, COMPACT_FOR_STORE).frames_won()).sum();
        self.room_after(room, won)
    }

    /// Write back a batch of the next memcg, or what is found where that was all referenced.
    fn write_some_back(&self, cursor: &Cursor, nodes: NodeMask) -> Room {
        let root = self.tree.root();
        let mut turns = Turns::with(self, &root, cursor);
        let budget = Budget { nodes, until_written: true, ..self.budget(self.policy.batch) };
        match turns.next(&budget) {
            Turn::NoneWritten(_) => turns.search(&budget).into(),
            turn => turn.into(),
        }
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

    /// Remember why a batch did not go; or that one went.
    pub(super) fn note_trouble(&self, trouble: Option<Unwritable>) {
        let number = match trouble {
            Some(Unwritable::DeviceFull) => 1,
            Some(Unwritable::WriteFailed) => 2,
            Some(Unwritable::Shut) => 3,
            _ => 0,
        };
        // Relaxed: it only words an error.
        self.trouble.store(number, Ordering::Relaxed);
    }

    /// Why the last batch did not go.
    pub(super) fn trouble(&self) -> Unwritable {
        match self.trouble.load(Ordering::Relaxed) {
            1 => Unwritable::DeviceFull,
            2 => Unwritable::WriteFailed,
            3 => Unwritable::Shut,
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
            zswap.core.make_room_below(&hit, &mut Effort::new(&zswap.core.policy)),
            Room::Made,
            "its store tries again, and is told that its memcg is gone"
        );
    }
}
