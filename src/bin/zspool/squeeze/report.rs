//! What a run found: the data, as JSON has it.
//!
//! Field names are stable. Bytes and pages are what the counters said after every page was stored and before the first was read
//! back; `original`, `payload` and `slot` bytes are of what is in the pool, so they leave out what was written back.

use crate::histogram::Quantiles;
use crate::source::Kind;
use crate::target::{ClassRow, GroupStats};
use crate::tiers::report::{Swap, Swapoff};
use serde::Serialize;

/// What a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) codec: String,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    /// From the first store to the last free.
    pub(crate) seconds: f64,
    pub(crate) sources: Vec<SourceReport>,
    /// All memcgs together, with what those had that were removed while the run was held.
    pub(crate) total: GroupStats,
    pub(crate) pool: PoolReport,
    /// Where the slots' pages lie, and the devices.
    pub(crate) swap: Swap,
    /// The devices that were to be taken off before the pages were read back, in that order.
    pub(crate) swapoffs: Vec<Swapoff>,
    pub(crate) process: ProcessReport,
    pub(crate) store_ns: Quantiles,
    pub(crate) load_ns: Quantiles,
    /// The first few failures; `mismatched_pages` counts all.
    pub(crate) failures: Vec<Failure>,
}

/// One source and its memcg.
#[derive(Debug, Serialize)]
pub(crate) struct SourceReport {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Pages read from the source.
    pub(crate) pages: u64,
    /// Those that the store took; the others are `refused_pages`.
    pub(crate) stored_pages: u64,
    pub(crate) same_filled_pages: u64,
    /// What its memcg counts. Not in the JSON of one that was removed while the run was held: what it had is in the total.
    #[serde(flatten)]
    pub(crate) memcg: Option<GroupStats>,
    /// Whether it was.
    pub(crate) removed: bool,
    /// Stored pages that did not come back as they were, unreadable ones included.
    pub(crate) mismatched_pages: u64,
    /// Stored pages that could not be read back.
    pub(crate) unreadable_pages: u64,
    /// Pages the store did not take; they are where they were.
    pub(crate) refused_pages: u64,
    /// What the store said to the first of them.
    pub(crate) refusal: Option<String>,
    /// Pages that were gone from the source when their turn came.
    pub(crate) vanished_pages: u64,
    /// What else there is to say about the source.
    pub(crate) note: Option<String>,
    /// `memory.stat` and its like, as text.
    #[serde(skip)]
    pub(crate) stat: String,
}

/// The pool.
#[derive(Debug, Serialize)]
pub(crate) struct PoolReport {
    pub(crate) frame_bytes: u64,
    pub(crate) metadata_bytes: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) objects: u64,
    /// Storage that the pages on swapfiles take there.
    pub(crate) swapfile_bytes: u64,
    pub(crate) classes: Vec<ClassRow>,
}

/// This process, as the kernel sees it.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessReport {
    /// Growth of anonymous memory by the store: its making and its filling.
    pub(crate) rss_growth_bytes: u64,
}

/// Something that must not happen and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// The source, if it concerns one.
    pub(crate) source: Option<String>,
    /// The page's number in it, if it concerns one.
    pub(crate) page: Option<u64>,
    /// What happened, as the end of a sentence that begins with the page.
    pub(crate) what: String,
}

impl Report {
    /// Whether every page that was stored came back as it was, and nothing else went wrong.
    pub(crate) fn is_good(&self) -> bool {
        self.failures.is_empty() && self.sources.iter().all(|source| source.mismatched_pages == 0)
    }
}
