//! [`Charge`]: an object that its owner was charged for and that is not in its slot yet.

use super::error::Error;
use super::share::{Original, Shares, whole};
use crate::memcg::{Bytes4, Event, Memcg, ObjcgId, Tree};
use crate::units::NodeId;

/// What was charged, counted and referred to for an object; given back on drop unless an entry takes it over.
#[derive(Debug)]
pub(super) struct Charge<'a> {
    /// Who is charged, and in which tree; `None` for nobody.
    to: Option<(&'a Tree, ObjcgId)>,
    /// Where the bytes were counted: the node asked for, before it is known where the object will lie.
    node: NodeId,
    bytes: Bytes4,
    event: Option<Event>,
    /// The owner was charged for the memory before: it shares that, and has it back on drop.
    prepaid: bool,
}

impl<'a> Charge<'a> {
    /// Charge and count an object of `len` bytes in a slot of `size` bytes near `node`, if the pool counts and there is a memcg.
    #[inline]
    pub(super) fn take(
        tree: Option<&'a Tree>,
        memcg: Option<&Memcg>,
        (size, len, original): (usize, usize, Original),
        node: NodeId,
        event: Option<Event>,
        prepaid: bool,
    ) -> Result<Self, Error> {
        let bytes = whole(size, len, original);
        let to = match tree.zip(memcg) {
            Some((tree, memcg)) if prepaid => Some((tree, tree.enter_sharing(memcg, node, bytes, event)?)),
            Some((tree, memcg)) => Some((tree, tree.enter(memcg, node, bytes, event)?)),
            None => None,
        };
        Ok(Charge { to, node, bytes, event, prepaid })
    }

    /// Who is charged.
    #[inline]
    pub(super) fn objcg(&self) -> ObjcgId {
        self.to.map_or(ObjcgId::NONE, |(_, id)| id)
    }

    /// Hand everything over to an entry that holds the id. `shares` says where the object lies.
    #[inline]
    pub(super) fn settle(mut self, shares: impl FnOnce() -> Shares) -> ObjcgId {
        let Some((tree, id)) = self.to.take() else { return ObjcgId::NONE };
        if tree.nodes() > 1 {
            Shares::all_on(self.node, self.bytes).moved(&shares(), tree, id);
        }
        id
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        match self.to {
            Some((tree, id)) if self.prepaid => tree.cancel_sharing(id, self.node, self.bytes, self.event),
            Some((tree, id)) => tree.cancel(id, self.node, self.bytes, self.event),
            None => {}
        }
    }
}
