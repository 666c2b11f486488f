//! Strict node masks: [`set_nodes`](Zswap::set_nodes) ties what `memcg` keeps to what `zsmalloc` moves.
//!
//! ```text
//!   memcg: the mask is set          no object comes to lie outside from here on
//!   pool: move off, per object      slot and frames on an allowed node, outside all locks
//!                                   cluster lock { word still names the object: switch; LRU list of the new home node }
//!   no room there?                  write back from there, and again
//! ```

use super::Error;
use super::cells::SlotCells;
use super::core::{Core, Zswap};
use super::effort::{Effort, Room};
use super::error::Unwritable;
use super::lru::Which;
use crate::arena;
use crate::memcg::Memcg;
use crate::sync::Bug;
use crate::units::NodeMask;
use crate::zsmalloc::{self, Moving};

impl Zswap {
    /// Allow a memcg and those below it these nodes only, strictly: when this returns, none of their objects lies elsewhere,
    /// nor will one while the mask stays. What lies elsewhere is moved before this returns; where there is no room for it,
    /// colder pages are written back from the allowed nodes. A store that finds its nodes full makes room there, and is
    /// refused otherwise.
    ///
    /// # Errors
    /// [`Error::Memcg`] for an empty mask, one with nodes that are not there, or one that leaves a memcg no node: nothing is
    /// changed. [`Error::Busy`] when objects are left outside, for they are held by readers or there is no room for them: the
    /// mask is set, new objects obey it, and another call tries again. [`Error::ForeignMemcg`].
    ///
    /// # Locks
    /// Tree; then class, arena, cluster and LRU, per object.
    pub fn set_nodes(&self, memcg: &Memcg, nodes: NodeMask) -> Result<(), Error> {
        if !memcg.tree().is(&self.core.tree) {
            return Err(Error::ForeignMemcg { path: memcg.path() });
        }
        memcg.set_nodes(nodes)?;
        self.core.leave_nodes(memcg)
    }
}

impl Core {
    /// Move everything of the memcg and those below it to where it may lie.
    pub(super) fn leave_nodes(&self, memcg: &Memcg) -> Result<(), Error> {
        let mut effort = Effort::new(&self.policy);
        loop {
            let done = self.pool.move_off(memcg, |moving| self.move_one(moving));
            if done.left_bytes == 0 {
                return Ok(());
            }
            let room = match &done.refusal {
                Some(zsmalloc::Error::NodesFull { nodes, .. }) => self.make_room_on(*nodes),
                Some(zsmalloc::Error::Arena(arena::Error::Limit { .. })) => self.make_room_in_pool(&mut effort),
                // Held, or no memory at all: nothing that we could do about it.
                _ => Room::Hopeless(Unwritable::Busy),
            };
            if !effort.goes_on(room) {
                let why = match done.refusal {
                    Some(refusal) => format!("{refusal}; {}", effort.why()),
                    None => "readers hold them".to_owned(),
                };
                return Err(Error::Busy { path: memcg.path(), nodes: memcg.nodes(), left_bytes: done.left_bytes, why });
            }
        }
    }

    /// Move one object, and its entry to the list of its new home node, in one section under the cluster lock (L1). Whether it
    /// was moved.
    fn move_one(&self, moving: Moving<'_, SlotCells>) -> bool {
        let (owner, objcg) = (moving.owner(), moving.objcg());
        let Some(guard) = self.slots.lock_owner(owner) else { return false };
        // Freed or moved meanwhile? Else it stays in its home node while we have the lock.
        let Some(entry) = self.slots.word(owner).entry().filter(|entry| entry.location == moving.from()) else {
            return false;
        };
        let (from, to) = moving.homes();
        let moved = moving.switch();
        let _guard = (!self.planted.is(Bug::RehomeOutsideTheLock)).then_some(guard);
        if moved && from != to {
            let from = Which { node: from, ..self.which_list(entry) };
            self.lru.rehome(owner, &self.tree, objcg, from, to);
        }
        moved
    }
}
