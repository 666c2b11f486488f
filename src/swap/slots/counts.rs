//! [`Counts`]: references of slots that have more than fit in their words.
//!
//! ```text
//!   count in the word     1 .. 14            15
//!   references            the same           counts[owner]: 15 to 2^32 - 1
//! ```
//!
//! A page of counts per cluster, at the same place as its page of words; backed by the first slot of the cluster that needs it, and
//! given back when none does. So nobody calls an allocator, nothing has to be made with the cluster lock dropped, and the
//! races of a table that is (R-26 of `docs/races.md`) cannot be.
//!
//! - **N1** The count of an owner is 0 unless its word's is [`MANY`]; then it is at least that. Both change under the
//!   cluster lock.

use crate::swap::word::MANY;
use crate::sync::Table;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::Owner;
use std::io;
use std::ops::Range;

/// The most references a slot can have.
pub const MAX_REFERENCES: u32 = u32::MAX;

/// Counts by owner.
#[derive(Debug)]
pub(super) struct Counts {
    /// Relaxed throughout: the cluster lock orders them. Half a word would do; whole ones make the page of a cluster its own.
    counts: Table<AtomicU64>,
}

impl Counts {
    pub(super) fn reserve(owners: usize) -> io::Result<Self> {
        Ok(Counts { counts: Table::reserve(owners)? })
    }

    pub(super) fn get(&self, owner: Owner) -> u32 {
        self.counts.get(owner.0 as usize).load(Ordering::Relaxed) as u32
    }

    pub(super) fn set(&self, owner: Owner, references: u32) {
        debug_assert!(references == 0 || references >= MANY.into(), "N1");
        self.counts.get(owner.0 as usize).store(references.into(), Ordering::Relaxed);
    }

    pub(super) fn addresses(&self) -> Range<usize> {
        self.counts.addresses()
    }

    /// Give back the memory of counts that are all 0 and that nobody changes now.
    pub(super) fn discard(&self, owners: Range<usize>) {
        // A refusal (locked memory) costs memory only: they are 0 already.
        let _ = self.counts.discard(owners);
    }
}
