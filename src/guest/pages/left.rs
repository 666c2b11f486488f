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
//! note would miss it.
//!
//! Between `scan` and `take` a taker looks at what is not mapped, too:
//!
//! - A page whose word is owned: it is leaving, and an earlier taker took its first note; or it is coming in.
//! - A page in memory by its word: it went behind our back. Somebody threw it away, or the kernel swapped out what is in a file, and the mark
//!   went with it. What has no frame is taken out, as the evictor does; what a file has gets a mark where it is not mapped: so both are told
//!   once. Who serves the fault of such a page notes it before he maps it.

use super::bits::State;
use super::owned::{End, Owned, TOGETHER};
use super::pages::Pages;
use crate::guest::Error;
use crate::guest::memory::backing::{Marks, Staging};
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
    /// Who asks the kernel for its marks has this until he has them, or, if he tells nobody, until they are noted.
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

    /// Who asks the kernel for its marks, which forgets them: see [`Traces`].
    pub(crate) fn marks(&self) -> &TryLock<()> {
        &self.traces.marks
    }

    /// Add the pages to `bits` that changed since this was asked, and forget it; `bits` has a word for each 64 pages. Nothing where that is not
    /// tracked.
    ///
    /// # Errors
    /// What the kernel said; what it had told already is kept for the next time.
    pub(crate) fn take_changed(&self, marks: &dyn Marks, bits: &mut [u64]) -> io::Result<()> {
        let Some(changed) = self.changed() else { return Ok(()) };
        // Whoever else took marks before has noted them when this is through.
        let alone = self.marks().lock();
        let scanned = marks.take_written(&mut |run| set(bits, run));
        drop(alone);
        let scanned = scanned.and_then(|()| marks.unmapped(&mut |run| self.note_lost_marks(run)));
        if let Err(source) = scanned {
            runs(bits, |run| changed.note(run)); // they are protected again, and were not told
            return Err(source);
        }
        changed.take(bits);
        Ok(())
    }

    /// Pages are not mapped, and have no mark: note those that should be, and those that are owned: whoever owns one may note it too late for
    /// this taker, or an earlier one took the note.
    fn note_lost_marks(&self, pages: Range<u32>) {
        if self.shared().planted.is(Bug::LostMarksNotLookedFor) {
            return;
        }
        let mut at = pages.start;
        while at < pages.end {
            let state = |page: u32| self.word(page).load().state();
            let first = at;
            while at < pages.end && at - first < TOGETHER && state(at) == State::Resident {
                at += 1;
            }
            if at == first {
                if state(at).is_owned() && !self.shared().planted.is(Bug::LeavingNotLookedFor) {
                    self.note_changed(at..at + 1);
                }
                at += 1;
                continue;
            }
            self.note_changed(first..at);
            match self.backing().staging() {
                Staging::Apart => _ = self.stage(first, at - first),
                Staging::InPlace => self.mark_unmapped(first..at),
            }
        }
    }

    /// Have the kernel mark pages that it has in a file, and has not mapped, as not written. Noted as changed before.
    fn mark_unmapped(&self, pages: Range<u32>) {
        let Some(_entered) = self.enter() else { return };
        let mut owned = Owned::none(self, pages.start);
        for page in pages {
            let seen = self.word(page).load();
            if seen.state() != State::Resident || self.word(page).fill(seen).is_err() {
                break; // whoever has it by now notes it; those behind are told the next time
            }
            owned.push(seen);
        }
        let (first, len) = (owned.first(), owned.len());
        if len > 0 {
            _ = self.backing().protect(first, len); // not now: told once more
        }
        while owned.len() > 0 {
            let kept = owned.was(owned.first()).kept();
            owned.end_front(1, End { to: State::Resident, kept, moved: false });
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
