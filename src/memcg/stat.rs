//! What is counted: bytes by kind and node, events, and their sums over a subtree.
//!
//! Bytes live in objcgs and events too; a removed memcg's objcg counts on under the parent, and when its last object
//! is gone its events are added to the group's past. So a sum over a subtree is always
//!
//! ```text
//! sum(subtree) = sum over its online groups of ( past events + sum over the group's objcgs of (bytes, events) )
//! ```
//!
//! and neither reparenting nor removal changes the sum of a group that contains both.

use super::hierarchy::Hierarchy;
use super::id::{GroupIndex, ObjcgId};
use super::tree::Shared;
use crate::units::NodeId;
use std::ops::AddAssign;

/// Bytes of one or more objects. The caller splits an object that lies on two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes4 {
    /// Bytes of pool memory that the objects make unusable: their slots. The `zswap` of `memory.stat`.
    pub compressed: u64,
    /// Bytes of the pages that went in. The `zswapped` of `memory.stat`.
    pub original: u64,
    /// Bytes that the codec made of them: at most `compressed`.
    pub payload: u64,
    /// Those of `original` whose pages did not shrink and are stored as they are.
    pub incompressible: u64,
}

impl AddAssign for Bytes4 {
    fn add_assign(&mut self, other: Bytes4) {
        self.compressed += other.compressed;
        self.original += other.original;
        self.payload += other.payload;
        self.incompressible += other.incompressible;
    }
}

/// What is counted as it happens. Each is a page unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A page was loaded from zswap.
    ZswpIn,
    /// A page was stored into zswap.
    ZswpOut,
    /// A page was written from zswap to a device.
    ZswpWb,
    /// Payload bytes that went from zswap to a device: counted in bytes, where the others are counted in pages.
    ZswpWbBytes,
    /// Those of [`ZswpWbBytes`](Self::ZswpWbBytes) that were asked for by name (`source=zswap`). In bytes too.
    ZswpWbProactiveBytes,
    /// An object's charge was refused at a limit, the memcg's own or an ancestor's. Charging counts these.
    Refused,
}

impl Event {
    pub(super) const COUNT: usize = 6;
}

/// Sums over a memcg and everything below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Bytes of objects on all nodes.
    pub bytes: Bytes4,
    /// Bytes charged as [`Counter::Memory`](super::Counter::Memory) that are no object's: what upper layers hold resident.
    pub resident: u64,
    /// Bytes of places on devices.
    pub places: u64,
    /// By [`Event`].
    events: [u64; Event::COUNT],
}

impl Stat {
    /// How often `event` was counted.
    pub fn events(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    fn add_events(&mut self, events: [u64; Event::COUNT]) {
        for (sum, more) in self.events.iter_mut().zip(events) {
            *sum += more;
        }
    }
}

/// Sums, as far as what threads keep in stock was settled.
impl Shared {
    /// Bytes of one objcg on all nodes.
    pub(super) fn objcg_bytes(&self, id: ObjcgId) -> Bytes4 {
        (0..self.config.nodes).fold(Bytes4::default(), |mut sum, node| {
            sum += self.objcgs.bytes(id, NodeId(node as u8));
            sum
        })
    }

    /// Over a group and everything below it.
    pub(super) fn stat(&self, hierarchy: &Hierarchy, index: GroupIndex) -> Stat {
        let mut stat = Stat::default();
        for at in hierarchy.subtree(index) {
            stat.add_events(hierarchy.node(at).past);
            for id in hierarchy.objcgs(at) {
                stat.bytes += self.objcg_bytes(id);
                let (resident, places) = self.objcgs.held_bytes(id);
                // A reader may come between the two halves of a change: they wrap.
                stat.resident = stat.resident.wrapping_add(resident);
                stat.places = stat.places.wrapping_add(places);
                stat.add_events(self.objcgs.events(id));
            }
        }
        stat
    }

    /// Over a group alone, on one node.
    pub(super) fn own_bytes(&self, hierarchy: &Hierarchy, index: GroupIndex, node: NodeId) -> Bytes4 {
        hierarchy.objcgs(index).fold(Bytes4::default(), |mut sum, id| {
            sum += self.objcgs.bytes(id, node);
            sum
        })
    }

    /// Bytes of a group and everything below it, by node.
    pub(super) fn numa_stat(&self, hierarchy: &Hierarchy, index: GroupIndex) -> Vec<Bytes4> {
        let mut sums = vec![Bytes4::default(); self.config.nodes];
        for id in hierarchy.subtree(index).into_iter().flat_map(|at| hierarchy.objcgs(at)) {
            for (node, sum) in sums.iter_mut().enumerate() {
                *sum += self.objcgs.bytes(id, NodeId(node as u8));
            }
        }
        sums
    }
}
