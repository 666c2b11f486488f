//! [`Metadata`]: bytes of memory that slots take beside what is stored in them.
//!
//! ```text
//!                                      bytes                        for
//!   slot words                         4096 a touched cluster       8 a slot
//!   LRU links                          4096 a cluster               8 a slot, if a slot of the cluster has an object
//!   counts                             4096 a cluster               if one has more than 14 references
//!   directory and descriptors          at most 64 a cluster
//!   reverse words                      8 an object on a device, and 8 a segment in use
//! ```
//!
//! The entries and descriptors of objects are the allocator's ([`zsmalloc::Stats`](crate::zsmalloc::Stats)).

use super::core::{Core, Zswap};
use std::ops::Range;

/// Bytes of memory that slots take beside what is stored in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Clusters of 512 slots of which one at least holds something, or has until lately.
    pub touched_clusters: u64,
    /// Slot words.
    pub slot_words: u64,
    /// Links of the LRU lists.
    pub links: u64,
    /// Counts of references that do not fit in the slot words.
    pub counts: u64,
    /// The directory of clusters and their descriptors. Descriptors stay as many as there ever were at the same time.
    pub directory: u64,
    /// Reverse words of the devices' segments: which slot an object belongs to, and who pays for it. One whose object is gone counts
    /// until its segment is empty or cleaned.
    pub reverse_words: u64,
}

impl Metadata {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.slot_words + self.links + self.counts + self.directory + self.reverse_words
    }
}

impl Zswap {
    /// Bytes of memory that slots take beside what is stored in them. Exact at a quiet point, after [`quiesce`](Self::quiesce).
    pub fn metadata(&self) -> Metadata {
        self.core.metadata()
    }

    /// Where the tables of slots lie in this process, for tests that ask the kernel about them.
    #[doc(hidden)]
    pub fn tables(&self) -> Vec<(&'static str, Range<usize>)> {
        let mut tables = self.core.slots.tables().to_vec();
        tables.push(("links", self.core.lru.addresses()));
        tables
    }
}

impl Core {
    pub(super) fn metadata(&self) -> Metadata {
        let slots = self.slots.memory();
        Metadata {
            touched_clusters: slots.touched_clusters,
            slot_words: slots.words_bytes,
            links: slots.links_bytes(),
            counts: slots.counts_bytes,
            directory: slots.directory_bytes,
            reverse_words: self.devices.sum().map_or(0, |devices| devices.reverse_bytes),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_every_table_once_and_no_cluster() {
        let metadata = Metadata {
            touched_clusters: 900_000,
            slot_words: 1,
            links: 10,
            counts: 100,
            directory: 1000,
            reverse_words: 10_000,
        };
        assert_eq!(metadata.total(), 11_111);
    }
}
