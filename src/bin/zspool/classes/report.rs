//! [`Report`]: where the bytes went, as JSON has it. Field names are stable.

use crate::kept::SourceLine;
use crate::target::ClassRow;
use serde::Serialize;
use zspool::zswap::Zswap;

/// Where the bytes went.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) codec: String,
    pub(crate) seed: u64,
    pub(crate) sources: Vec<SourceLine>,
    /// Pages in the pool or in slot words, after the last step.
    pub(crate) stored_pages: u64,
    /// Those among them that repeat one word: they take no frame.
    pub(crate) same_filled_pages: u64,
    /// Those that were kept as they are.
    pub(crate) incompressible_pages: u64,
    /// Stores that were refused, and what was said to the first.
    pub(crate) refused_pages: u64,
    pub(crate) refusal: Option<String>,
    /// Stored pages that did not come back as they were.
    pub(crate) mismatched_pages: u64,
    /// What was done, in order, and what the pool looked like afterwards.
    pub(crate) steps: Vec<Step>,
    /// The size classes in use, after the last step.
    pub(crate) classes: Vec<ClassRow>,
}

/// What was done, and what the pool looked like afterwards.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// What was done.
    pub(crate) step: &'static str,
    /// Pages stored, replaced or freed; frames won by a compaction.
    pub(crate) count: u64,
    pub(crate) bytes: Bytes,
}

/// Every byte, by what it is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Bytes {
    pub(crate) payload: u64,
    pub(crate) rounding: u64,
    pub(crate) free_slots: u64,
    pub(crate) tails: u64,
    pub(crate) warm: u64,
    /// What the pool says that it has backed: the sum of those above.
    pub(crate) backed: u64,
    pub(crate) entries: u64,
    pub(crate) descriptors: u64,
    /// Slot words and LRU links, by whole clusters.
    pub(crate) slot_table: u64,
}

impl Bytes {
    /// What the instance has now, at a quiet point.
    pub(crate) fn of(zswap: &Zswap) -> Self {
        let usage = zswap.pool().usage();
        Bytes {
            payload: usage.payload_bytes,
            rounding: usage.rounding_bytes,
            free_slots: usage.free_slot_bytes,
            tails: usage.tail_bytes,
            warm: usage.warm_bytes,
            backed: zswap.arena().backed_bytes(),
            entries: usage.entry_bytes,
            descriptors: usage.descriptor_bytes,
            slot_table: zswap.stats().slot_table_bytes,
        }
    }

    /// Parts of the frames with their names, in the order of the picture.
    pub(crate) fn frames(&self) -> [(&'static str, u64); 5] {
        [
            ("payload", self.payload),
            ("class rounding", self.rounding),
            ("free slots", self.free_slots),
            ("tails", self.tails),
            ("warm frames", self.warm),
        ]
    }

    /// Parts of the metadata.
    pub(crate) fn metadata(&self) -> [(&'static str, u64); 3] {
        [("entries", self.entries), ("descriptors", self.descriptors), ("slot words, links", self.slot_table)]
    }

    pub(crate) fn total(&self) -> u64 {
        self.backed + self.metadata().iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Whether the parts of the frames are what is backed.
    pub(crate) fn adds_up(&self) -> bool {
        self.frames().iter().map(|(_, bytes)| bytes).sum::<u64>() == self.backed
    }
}

impl Report {
    /// Whether every page came back as it was, and the parts add up to the whole after every step.
    pub(crate) fn is_good(&self) -> bool {
        self.mismatched_pages == 0 && self.steps.iter().all(|step| step.bytes.adds_up())
    }
}
