//! [`Departed`]: what leaves a region while it is looked at for the first time.
//!
//! ```text
//!   registered -> the kernel says what is present ---------> found, run after run, each paid for: that may take long ------> done
//!                                    ^ unmapped: noted here, and then its words follow
//!                                      ^ something else is mapped there, which nobody registered; the look still says "present"
//! ```
//!
//! Whoever believed that look would take pages of the program's that have nobody to serve their faults.
//!
//! It is noted before the words follow. So who marks a page as there, with this locked, is before the one who notes, and the word follows; or
//! finds it noted.

use crate::sync::{Mutex, Rank};
use std::ops::Range;

/// Pages that are not the region's any more; `None` when nobody looks.
#[derive(Debug)]
pub(super) struct Departed(Mutex<Option<Vec<Range<u32>>>>);

impl Departed {
    /// Of a region that is new.
    pub(super) fn new() -> Self {
        Departed(Mutex::new(Rank::Leaf, Some(Vec::new())))
    }

    /// They have left. May allocate.
    pub(super) fn note(&self, pages: Range<u32>) {
        if let Some(departed) = &mut *self.0.lock() {
            departed.push(pages);
        }
    }

    /// Do something to a page that has not.
    pub(super) fn unless<R>(&self, page: u32, f: impl FnOnce() -> R) -> Option<R> {
        let departed = self.0.lock();
        let has_left = departed.iter().flatten().any(|pages| pages.contains(&page));
        (!has_left).then(f)
    }

    /// The look is over.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }
}
