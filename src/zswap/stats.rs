//! [`Stats`]: what an instance holds and did, as one value.

use super::core::{Core, Zswap};
use crate::swap::{AreaStats, Content, SlotWord};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::PAGE_SIZE;
use crate::zsmalloc;

/// A counter of its own. Relaxed throughout: it orders nothing.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Add and return what it was.
    pub(super) fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed)
    }

    fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gauges change with slot words, under the cluster lock; the rest only grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) same_filled: Counter,
    pub(super) patterns: Counter,
    pub(super) compressed: Counter,
    pub(super) incompressible: Counter,
    pub(super) physical: Counter,
    pub(super) written_through: Counter,
    pub(super) refused: Counter,
    pub(super) failed_loads: Counter,
    pub(super) failed_writes: Counter,
    pub(super) shrinks: Counter,
    pub(super) worker_panics: Counter,
}

impl Counters {
    fn gauges(&self, word: SlotWord) -> Option<&Counter> {
        Some(match word.content() {
            Content::Empty => return None,
            Content::SameFilled(_) => &self.same_filled,
            Content::Pattern(_) => &self.patterns,
            Content::Compressed(entry) if entry.length == PAGE_SIZE => &self.incompressible,
            Content::Compressed(_) => &self.compressed,
            Content::Physical(_) => &self.physical,
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
    /// Slots on the device.
    pub physical_pages: u64,
    /// Pages that went to the device without entering the pool, so far.
    pub written_through: u64,
    /// Stores refused so far.
    pub refused: u64,
    /// Loads that failed so far.
    pub failed_loads: u64,
    /// Batches the device failed to write so far.
    pub failed_writes: u64,
    /// The allocator's.
    pub pool: zsmalloc::Stats,
    /// Frames of the pool that are backed, warm ones too, in bytes.
    pub backed_bytes: u64,
    /// The pool limit in bytes.
    pub limit_bytes: u64,
    /// Bytes of slot words and LRU links in touched clusters.
    pub slot_table_bytes: u64,
    /// The device's.
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
        let c = &self.counters;
        Stats {
            same_filled_pages: c.same_filled.get(),
            pattern_pages: c.patterns.get(),
            compressed_pages: c.compressed.get(),
            incompressible_pages: c.incompressible.get(),
            physical_pages: c.physical.get(),
            written_through: c.written_through.get(),
            refused: c.refused.get(),
            failed_loads: c.failed_loads.get(),
            failed_writes: c.failed_writes.get(),
            pool: self.pool.stats(),
            backed_bytes: self.arena.backed_bytes(),
            limit_bytes: self.arena.limit(),
            slot_table_bytes: (self.slots.touched() * crate::sync::CLUSTER_SLOTS * 2 * size_of::<u64>()) as u64,
            area: self.area.as_ref().map(|area| area.stats()),
        }
    }
}
