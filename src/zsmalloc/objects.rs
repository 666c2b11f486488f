//! Going over all objects of a pool, class by class.

use super::cells::{Cells, Object};
use super::entry::Entry;
use super::fullness::Group;
use super::heap::Spot;
use super::pool::Pool;
use crate::memcg::ObjcgId;
use crate::sync::atomic::Ordering;
use crate::units::{Location, NodeId, Owner};

/// An object as [`Pool::for_each_object`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveObject {
    /// Whose cell should name it.
    pub owner: Owner,
    /// Where it starts.
    pub location: Location,
    /// Who is charged for it; [`ObjcgId::NONE`] for nobody.
    pub objcg: ObjcgId,
    /// Bytes of its slot: what is charged.
    pub slot_bytes: usize,
    /// The node whose list its zspage is in.
    pub home_node: NodeId,
    /// Guards holding it.
    pub pins: u32,
}

impl<C: Cells> Pool<C> {
    /// Call `f` for every live object. Objects may come, move or go in other classes meanwhile.
    ///
    /// # Locks
    /// Holds `Class` while it calls `f`, which must not call the pool.
    pub fn for_each_object(&self, mut f: impl FnMut(LiveObject)) {
        self.for_each_slot(|spot, entry, home_node| {
            if let Some(owner) = entry.owner() {
                let slot_bytes = self.heap.geometry.class(spot.class).size();
                let (location, objcg, pins) = (spot.location, entry.objcg(), entry.pins());
                f(LiveObject { owner, location, objcg, slot_bytes, home_node, pins });
            }
        });
    }

    /// Payload of the object in a slot: what its cell says if live, what it owes if doomed. `None` when no cell names
    /// it.
    pub(super) fn len_of(&self, spot: &Spot, entry: Entry) -> Option<usize> {
        let Some(owner) = entry.owner() else { return Some(entry.owes().unwrap_or(0)) };
        let object = self.cells.object(owner).filter(|object| object.location == spot.location);
        object.map(|Object { len, .. }| len)
    }

    pub(super) fn for_each_slot(&self, mut f: impl FnMut(&Spot, Entry, NodeId)) {
        for (index, shape) in self.heap.geometry.classes() {
            for node in self.heap.arena.topology().nodes() {
                let class = self.heap.lock(index, node);
                for z in Group::all().flat_map(|group| class.lists.iter(&self.heap.zspages, group)) {
                    for slot in 0..shape.slots() {
                        let spot = self.heap.spot(z, index, slot);
                        // Acquire as in `movable`.
                        let entry = Entry::from_raw(self.heap.word(&spot).load(Ordering::Acquire));
                        f(&spot, entry, node);
                    }
                }
            }
        }
    }
}
