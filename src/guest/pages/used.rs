//! [`Used`]: which parts of a region had pages in memory, ever, so that a look at all words passes the others by.
//!
//! ```text
//!   region of 64 GiB   [ part 0 | part 1 | part 2 | . . . . . . . . . . . . ]     a part: 4096 pages, 16 KiB of words
//!                        used             used      nobody looks at words here, which are not backed either
//! ```
//!
//! A hint for who looks for pages that can leave: one that comes while he looks is met the next time.

use super::pages::Pages;
use crate::sync::Tally;

/// Pages of a part.
const PART: u32 = 4096;

/// A word for each part: 0 until a page was in memory there.
#[derive(Debug)]
pub(super) struct Used(Box<[Tally]>);

impl Used {
    /// None, of so many pages.
    pub(super) fn new(pages: u32) -> Self {
        Used((0..pages.div_ceil(PART)).map(|_| Tally::new()).collect())
    }

    /// A page is in memory, or about to be.
    #[inline]
    pub(super) fn note(&self, page: u32) {
        self.0[(page / PART) as usize].raise(1);
    }

    /// The first page from this one on of a part that was used; `None`: there is none.
    fn next(&self, page: u32) -> Option<u32> {
        let part = page / PART;
        let next = (part..self.0.len() as u32).find(|&part| self.0[part as usize].get() != 0)?;
        Some(if next == part { page } else { next * PART })
    }
}

impl Pages {
    /// The first page from this one on that may ever have been in memory, or their count.
    #[inline]
    pub(crate) fn next_used(&self, page: u32) -> u32 {
        self.used.next(page).unwrap_or(self.count())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_used_is_passed_by() {
        let used = Used::new(5 * PART + 1);
        assert_eq!(used.next(0), None);
        for page in [PART + 7, 5 * PART] {
            used.note(page);
        }
        let nexts = [0, PART - 1, PART, 2 * PART - 1, 2 * PART, 5 * PART].map(|page| used.next(page));
        assert_eq!(nexts, [PART, PART, PART, 2 * PART - 1, 5 * PART, 5 * PART].map(Some));
    }
}
