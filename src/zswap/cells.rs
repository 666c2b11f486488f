//! [`SlotCells`]: the slot word is the allocator's handle cell, so there is no second table.

use crate::swap::Slots;
use crate::sync::Arc;
use crate::units::{Location, Owner};
use crate::zsmalloc::{Cells, Object};

/// The words of the slots, as the pool sees them.
#[derive(Clone, Debug)]
pub struct SlotCells(pub Arc<Slots>);

impl Cells for SlotCells {
    #[inline]
    fn object(&self, owner: Owner) -> Option<Object> {
        self.0.word(owner).entry().map(|entry| Object { location: entry.location, len: entry.length })
    }

    #[inline]
    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let mut word = self.0.word(owner);
        // Reference count and writeback bit may change under us; only a change of the location ends the attempt.
        while word.entry().is_some_and(|entry| entry.location == from) {
            match self.0.exchange(owner, word, word.with_location(to)) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }
}
