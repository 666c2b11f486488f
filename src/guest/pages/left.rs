//! [`Left`]: a bit for each page of a region that left its place, or was thrown away, since somebody asked.
//!
//! The kernel's marks of written pages go with a page that is taken out, and nothing else remembers afterwards that it was there. So who
//! takes pages out says so here, before and after:
//!
//! ```text
//!   evictor    note     MOVE     note         a taker scans the kernel's marks first, and takes the bits then:
//!   taker         ^ scan   ^ take   ^         the page is in one of them, or in both, whichever way the two meet
//! ```
//!
//! With the note before alone, a page written between `take` and MOVE would be missed; with the one after alone, a taker between MOVE and
//! note would miss it. And a page whose first note an earlier taker took is told because it is Leaving still: a taker looks for those between
//! the two.

use super::bits::State;
use super::pages::Pages;
use crate::guest::Error;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Bug, Table, TryLock};
use std::io;
use std::ops::Range;

/// What is remembered of the pages of a region beside their words.
#[derive(Default)]
pub(crate) struct Traces {
    /// Pages whose marks went, or whose content did, since dirty pages were asked for; where that is wanted.
    changed: Option<Left>,
    /// Pages that left since a recording began.
    visited: Option<Left>,
    /// Who asks the kernel for its marks has this until what they said is told or noted.
    marks: TryLock<()>,
    /// Where the guest sees the region, if that was said.
    guest_address: Option<u64>,
}

/// Pages of a word.
const BITS: u32 = u64::BITS;

/// Bits of pages, backed where some was set.
pub(crate) struct Left {
    words: Table<AtomicU64>,
}

// === impl Pages ===

impl Pages {
    /// Remember which pages leave, and if writes are tracked, which changed.
    ///
    /// # Errors
    /// When there is no address space for that.
    pub(crate) fn traced(mut self, dirty_tracking: bool, guest_address: Option<u64>) -> Result<Pages, Error> {
        let reserve = || {
            Left::reserve(self.count()).map_err(|source| Error::AddressSpace {
                bytes: u64::from(self.count().div_ceil(BITS)) * 8,
                what: "the bits of pages that left",
                source,
            })
        };
        let changed = dirty_tracking.then(reserve).transpose()?;
        self.traces = Traces { changed, visited: Some(reserve()?), marks: TryLock::default(), guest_address };
        Ok(self)
    }

    /// Pages that changed and have no mark of it, where that is tracked.
    pub(crate) fn changed(&self) -> Option<&Left> {
        self.traces.changed.as_ref()
    }

    /// Who asks the kernel for its marks, which forgets them, until they are told or noted.
    pub(crate) fn marks(&self) -> &TryLock<()> {
        &self.traces.marks
    }

    /// Note pages as changed that are being taken out or thrown away this moment: whoever does has taken their marks perhaps, and an earlier
    /// taker their bits; they are owned until they are noted again. For a taker, after the kernel's marks and before the bits.
    pub(crate) fn note_going(&self) {
        if self.shared().planted.is(Bug::LeavingNotLookedFor) {
            return;
        }
        for page in 0..self.count() {
            if matches!(self.word(page).load().state(), State::Leaving | State::Dropping) {
                self.note_changed(page..page + 1);
            }
        }
    }

    /// Pages that left since this was taken.
    pub(crate) fn visited(&self) -> Option<&Left> {
        self.traces.visited.as_ref()
    }

    /// Where the guest sees the first page.
    pub(crate) fn guest_address(&self) -> Option<u64> {
        self.traces.guest_address
    }

    /// Pages are about to leave or to be thrown away, or were.
    #[inline]
    pub(super) fn note_changed(&self, pages: Range<u32>) {
        if let Some(changed) = &self.traces.changed {
            changed.note(pages);
        }
    }

    /// Pages have left.
    #[inline]
    pub(super) fn note_left(&self, pages: Range<u32>) {
        self.note_changed(pages.clone());
        if let Some(visited) = &self.traces.visited {
            visited.note(pages);
        }
    }
}

// === impl Left ===

impl Left {
    /// For so many pages.
    ///
    /// # Errors
    /// When there is no address space for them: 8 bytes for 64 pages.
    pub(crate) fn reserve(pages: u32) -> io::Result<Left> {
        Ok(Left { words: Table::reserve(pages.div_ceil(BITS) as usize)? })
    }

    /// Set the bits of pages.
    pub(crate) fn note(&self, pages: Range<u32>) {
        let mut at = pages.start;
        while at < pages.end {
            let end = ((at / BITS + 1) * BITS).min(pages.end);
            let mask = (u64::MAX >> (BITS - (end - at))) << (at % BITS);
            let word = self.words.get((at / BITS) as usize);
            // Release: who takes the bit sees what was done before it was set.
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Release);
            }
            at = end;
        }
    }

    /// Take all bits, adding them to `into`, which has a word for each 64 pages.
    pub(crate) fn take(&self, into: &mut [u64]) {
        for (k, into) in into.iter_mut().enumerate() {
            let word = self.words.get(k);
            if word.load(Ordering::Relaxed) != 0 {
                *into |= word.swap(0, Ordering::Acquire);
            }
        }
    }
}

/// Tell `each` the runs of bits that are set.
pub(crate) fn runs(bits: &[u64], mut each: impl FnMut(Range<u32>)) {
    let mut run: Option<Range<u32>> = None;
    for (k, &word) in bits.iter().enumerate() {
        let base = k as u32 * BITS;
        let mut at = 0;
        while at < BITS {
            let rest = word >> at;
            let (is_set, len) = match rest & 1 {
                1 => (true, rest.trailing_ones().min(BITS - at)),
                _ => (false, rest.trailing_zeros().min(BITS - at)),
            };
            if is_set {
                run.get_or_insert(base + at..base + at).end = base + at + len;
            } else if let Some(run) = run.take() {
                each(run);
            }
            at += len;
        }
    }
    if let Some(run) = run {
        each(run);
    }
}

/// Set the bits of a run of pages in plain words.
pub(crate) fn set(bits: &mut [u64], pages: Range<u32>) {
    let mut at = pages.start;
    while at < pages.end {
        let end = ((at / BITS + 1) * BITS).min(pages.end);
        bits[(at / BITS) as usize] |= (u64::MAX >> (BITS - (end - at))) << (at % BITS);
        at = end;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn told(bits: &[u64]) -> Vec<Range<u32>> {
        let mut told = Vec::new();
        runs(bits, |run| told.push(run));
        told
    }

    #[test]
    fn what_is_noted_is_taken_once() {
        let left = Left::reserve(300).unwrap();
        for run in [0..1, 5..6, 60..70, 127..192, 255..300] {
            left.note(run);
        }
        let mut bits = vec![0; 5];
        left.take(&mut bits);
        assert_eq!(told(&bits), [0..1, 5..6, 60..70, 127..192, 255..300]);
        bits.fill(0);
        left.take(&mut bits);
        assert_eq!(told(&bits), []);
    }

    #[test]
    fn plain_bits_are_set_and_told_as_the_others() {
        for (first, end) in (0..140).flat_map(|first| (first + 1..150).map(move |end| (first, end))) {
            let mut bits = vec![0; 3];
            set(&mut bits, first..end);
            let left = Left::reserve(150).unwrap();
            left.note(first..end);
            let mut taken = vec![0; 3];
            left.take(&mut taken);
            assert_eq!(bits, taken);
            assert_eq!(told(&bits), vec![first..end; 1]);
        }
    }
}
