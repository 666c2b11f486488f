//! [`Report`]: what the steps came to, as JSON has it. Field names are stable.

use crate::histogram::Quantiles;
use crate::kept::SourceLine;
use crate::tiers::report::{Swap, Swapoff, SwapoffEnd};
use serde::Serialize;

/// What the steps came to.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) codec: String,
    pub(crate) encryption: bool,
    pub(crate) seed: u64,
    pub(crate) sources: Vec<SourceLine>,
    /// Pages that the store took.
    pub(crate) stored_pages: u64,
    /// Stores that were refused, and what was said to the first.
    pub(crate) refused_pages: u64,
    pub(crate) refusal: Option<String>,
    pub(crate) written: Written,
    /// Where everything lay when all that could be was written back.
    pub(crate) filled: Swap,
    /// Times of the loads of all pages, in random order, from there.
    pub(crate) load_ns: Quantiles,
    /// After `--free-half`.
    pub(crate) cleaned: Option<Cleaned>,
    /// Each device that was there, in the order of the table.
    pub(crate) swapoffs: Vec<Swapoff>,
    /// Where everything lay at the end.
    pub(crate) end: Swap,
    /// Pages that did not come back as they were, of both read-backs.
    pub(crate) mismatched_pages: u64,
}

/// What was written back.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Written {
    pub(crate) pages: u64,
    /// Bytes that went to the devices.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// A random half was freed, and the devices cleaned.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cleaned {
    pub(crate) freed_pages: u64,
    /// Used bytes and live ones of all devices, when half was freed.
    pub(crate) freed_used_bytes: u64,
    pub(crate) freed_live_bytes: u64,
    /// The same after cleaning.
    pub(crate) used_bytes: u64,
    pub(crate) live_bytes: u64,
    /// Bytes written by cleaning.
    pub(crate) rewritten_bytes: u64,
    pub(crate) seconds: f64,
}

impl Report {
    /// Whether every page came back as it was, and every device could be taken off unless somebody pressed Ctrl-C.
    pub(crate) fn is_good(&self) -> bool {
        let failed = |swapoff: &Swapoff| matches!(swapoff.end, SwapoffEnd::Failed(_));
        self.mismatched_pages == 0 && !self.swapoffs.iter().any(failed)
    }
}
