//! [`Charge`]: bytes reserved from a memcg's limits for an object that is not published yet.

use super::error::Error;
use crate::memcg::{Memcg, ObjcgId, Tree};

/// A charge of a slot's size and a reference to its owner, given back on drop unless an entry takes them over.
#[derive(Debug)]
pub(super) struct Charge<'a> {
    /// Who is charged, and in which tree; `None` for nobody.
    objcg: Option<(&'a Tree, ObjcgId)>,
    bytes: u64,
}

impl<'a> Charge<'a> {
    /// Charge a slot of `size` bytes to the memcg, if the pool counts and there is one.
    #[inline]
    pub(super) fn take(tree: Option<&'a Tree>, memcg: Option<&Memcg>, size: usize) -> Result<Self, Error> {
        let bytes = size as u64;
        let objcg = match tree.zip(memcg) {
            Some((tree, memcg)) => Some((tree, tree.charge(memcg, bytes)?)),
            None => None,
        };
        Ok(Charge { objcg, bytes })
    }

    /// Who is charged.
    #[inline]
    pub(super) fn objcg(&self) -> ObjcgId {
        self.objcg.map_or(ObjcgId::NONE, |(_, id)| id)
    }

    /// Hand charge and reference over to an entry that holds the id.
    #[inline]
    pub(super) fn into_id(mut self) -> ObjcgId {
        self.objcg.take().map_or(ObjcgId::NONE, |(_, id)| id)
    }
}

impl Drop for Charge<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((tree, id)) = self.objcg {
            tree.cancel(id, self.bytes);
        }
    }
}
