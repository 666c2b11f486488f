//! [`Kept`]: copies that slots keep of pages that came in and were not written since.
//!
//! ```text
//!   Stored --- read fault: installed write-protected, slot untouched ---> Resident|kept
//!     ^                                                                    |        |
//!     +---- taken out, and still kept: no codec, only the frame goes ------+        +--- first write: unprotected, slot freed
//! ```
//!
//! What they take of the pool is bounded; a page for whose copy there is no room comes in as usual. The page is protected as long as
//! its word says kept (invariant 3 of `word.rs`), so a copy is never older than the page.

use super::bits::KeptSize;
use super::pages::Pages;
use super::ports::Gauge;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::zswap::LoadedFrom;

/// How much is kept, and how much may be.
pub(crate) struct Kept {
    bytes: AtomicU64,
    most: u64,
}

impl Kept {
    /// Nothing, and up to `most` bytes.
    pub(crate) fn new(most: u64) -> Self {
        Kept { bytes: AtomicU64::new(0), most }
    }

    /// Whether any copy may be kept.
    pub(crate) fn is_on(&self) -> bool {
        self.most > 0
    }
}

impl Pages {
    /// Keep the copy of a page that was read from there, if there is room for it.
    pub(super) fn keep(&self, from: LoadedFrom) -> Option<KeptSize> {
        let kept = &self.shared().kept;
        if kept.most == 0 {
            return None;
        }
        let size = match from {
            LoadedFrom::Pool { bytes } => KeptSize::of(bytes),
            LoadedFrom::Device => KeptSize::of(0),    // nothing of the pool
            LoadedFrom::SameFilled(_) => return None, // it costs nothing to find out again
        };
        let more = |bytes: u64| (bytes + size.bytes() <= kept.most).then_some(bytes + size.bytes());
        // Relaxed: a number that bounds, and says nothing about anything else.
        kept.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.shared().observer.change(Gauge::Kept, 1);
        Some(size)
    }

    /// A copy is not kept any more, or not kept after all.
    pub(super) fn unkeep(&self, kept: Option<KeptSize>) {
        if let Some(size) = kept {
            self.shared().kept.bytes.fetch_sub(size.bytes(), Ordering::Relaxed);
            self.shared().observer.change(Gauge::Kept, -1);
        }
    }
}
