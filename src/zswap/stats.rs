//! [`Stats`]: what an instance holds and did, as one value.

use super::core::{Core, Zswap};
use crate::swap::{AreaStats, Content, SlotWord};
use crate::sync::Tally;
use crate::zsmalloc;

/// Gauges change with slot words, under the cluster lock; the rest only grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) same_filled: Tally,
    pub(super) patterns: Tally,
    pub(super) compressed: Tally,
    pub(super) incompressible: Tally,
    pub(super) physical: Tally,
    pub(super) lost: Tally,
    pub(super) written_through: Tally,
    pub(super) refused: Tally,
    pub(super) failed_loads: Tally,
    pub(super) failed_writes: Tally,
    pub(super) shrinks: Tally,
}

impl Counters {
    fn gauges(&self, word: SlotWord) -> Option<&Tally> {
        Some(match word.content() {
            Content::Empty => return None,
            Content::SameFilled(_) => &self.same_filled,
            Content::Pattern(_) => &self.patterns,
            Content::Compressed(entry) if entry.is_raw() => &self.incompressible,
            Content::Compressed(_) => &self.compressed,
            Content::Physical(_) => &self.physical,
            Content::Lost(_) => &self.lost,
        })
    }

    /// A slot now holds this.
    pub(super) fn enter(&self, word: SlotWord) {
        if let Some(gauge) = self.gauges(word) {
            gauge.add(1);
        }
    }

    /// A slot no longer holds this.
    pub(super) fn leave(&self, word: SlotWord) {
        if let Some(gauge) = self.gauges(word) {
            gauge.sub(1);
        }
    }
}

/// What an instance holds now and has done so far.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Slots whose page repeats one word, kept in the slot.
    pub same_filled_pages: u64,
    /// Slots whose page repeats a word that takes an object.
    pub pattern_pages: u64,
    /// Slots with compressed bytes in the pool.
    pub compressed_pages: u64,
    /// Slots with the page as it is in the pool.
    pub incompressible_pages: u64,
    /// Pages that were given to the codec and did not shrink, so far.
    pub compressed_in_vain: u64,
    /// Pages that were stored as they are without asking the codec, so far: those around them did not shrink.
    pub passed_by: u64,
    /// Slots on the device.
    pub physical_pages: u64,
    /// Slots whose page could not be read back.
    pub lost_pages: u64,
    /// Pages that went to the device without entering the pool, so far.
    pub written_through: u64,
    /// Stores refused so far.
    pub refused: u64,
    /// Reads of a page from its device that failed so far, by loads and by those that move pages.
    pub failed_loads: u64,
    /// Batches the device failed to write so far.
    pub failed_writes: u64,
    /// Walks over a memcg's lists so far, by the worker, by stores and by [`shrink_memcg`](Zswap::shrink_memcg).
    pub shrinks: u64,
    /// How often the worker was woken so far.
    pub worker_runs: u64,
    /// The allocator's.
    pub pool: zsmalloc::Stats,
    /// Frames of the pool that are backed, warm ones too, in bytes.
    pub backed_bytes: u64,
    /// The pool limit in bytes.
    pub limit_bytes: u64,
    /// Bytes of slot words, LRU links and counts of references in touched clusters.
    pub slot_table_bytes: u64,
    /// The sum over all devices; `None` where there are none.
    pub area: Option<AreaStats>,
}

impl Zswap {
    /// What the instance holds and did. Exact at a quiet point.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }
}

impl Core {
    pub(super) fn stats(&self) -> Stats {
        let (c, memory) = (&self.counters, self.slots.memory());
        Stats {
            same_filled_pages: c.same_filled.get(),
            pattern_pages: c.patterns.get(),
            compressed_pages: c.compressed.get(),
            incompressible_pages: c.incompressible.get(),
            compressed_in_vain: self.sampler.in_vain.get(),
            passed_by: self.sampler.passed_by.get(),
            physical_pages: c.physical.get(),
            lost_pages: c.lost.get(),
            written_through: c.written_through.get(),
            refused: c.refused.get(),
            failed_loads: c.failed_loads.get(),
            failed_writes: c.failed_writes.get(),
            shrinks: c.shrinks.get(),
            worker_runs: self.kick.runs(),
            pool: self.pool.stats(),
            backed_bytes: self.arena.backed_bytes(),
            limit_bytes: self.arena.limit(),
            slot_table_bytes: memory.words_bytes + memory.links_bytes() + memory.counts_bytes,
            area: self.devices.sum(),
        }
    }
}
