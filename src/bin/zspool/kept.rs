//! [`Kept`]: pages in an instance and what each of them was, for commands that store with one thread.

use crate::error::{RunError, check_not_stopped};
use crate::hashes::{Hashes, hash};
use crate::progress::Progress;
use crate::shuffle::Shuffle;
use crate::source::chosen::Taken;
use crate::source::{self, Kind};
use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};
use zspool::memcg::Memcg;
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::Zswap;

/// Pages read at once.
const BATCH: usize = 16;

/// Pages in an instance, each in a slot of its own, a memcg for each source.
pub(crate) struct Kept<'a> {
    pub(crate) zswap: &'a Zswap,
    /// Each source's first page among all, its slots, and who pays.
    ranges: Vec<(u64, SlotRange, Memcg)>,
    /// What is stored for each page, if anything is.
    hashes: Hashes,
    /// Stores that were refused, and what was said to the first.
    pub(crate) refused: u64,
    pub(crate) refusal: Option<String>,
}

/// A source.
#[derive(Debug, Serialize)]
pub(crate) struct SourceLine {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Pages read from it.
    pub(crate) pages: u64,
    pub(crate) vanished_pages: u64,
    pub(crate) note: Option<String>,
}

impl SourceLine {
    /// What is out of the ordinary about it.
    pub(crate) fn remarks(&self, f: &mut impl fmt::Write) -> fmt::Result {
        source::remarks(&self.name, self.vanished_pages, self.note.as_deref(), f)
    }
}

impl<'a> Kept<'a> {
    /// Read everything from these sources and store it.
    ///
    /// # Errors
    /// When a source cannot be read, or a signal came. A refused store is counted.
    pub(crate) fn fill(zswap: &'a Zswap, taken: Vec<Taken>) -> Result<(Self, Vec<SourceLine>), RunError> {
        let total = taken.iter().map(|taken| taken.pages).sum();
        let hashes = Hashes::new(total).ok_or(RunError::NoMemoryForHashes { pages: total })?;
        let mut kept = Kept { zswap, ranges: vec![], hashes, refused: 0, refusal: None };
        let progress = Progress::pages("storing", total);
        let mut pages = vec![Page::zeroed(); BATCH].into_boxed_slice();
        let (mut lines, mut first) = (vec![], 0);
        for Taken { name, mut source, pages: limit } in taken {
            let memcg = kept.zswap.root().mkdir(&name);
            let slots = memcg.map_err(Into::into).and_then(|memcg| Ok((kept.zswap.reserve(limit)?, memcg)));
            let (slots, memcg) = slots
                .map_err(|cause: zspool::zswap::Error| RunError::Group { name: name.clone(), cause: cause.into() })?;
            kept.ranges.push((first, slots, memcg));
            let mut done = 0;
            while done < limit {
                check_not_stopped()?;
                let want = BATCH.min((limit - done) as usize);
                let count = source.read(&mut pages[..want])?;
                if count == 0 {
                    break;
                }
                for page in &pages[..count] {
                    kept.store(first + done, page);
                    done += 1;
                }
                progress.add(count as u64);
            }
            let (kind, vanished_pages, note) = (source.kind(), source.vanished_pages(), source.note());
            lines.push(SourceLine { name, kind, pages: done, vanished_pages, note });
            first += limit;
        }
        Ok((kept, lines))
    }

    /// The slot of a page, and who pays for it.
    pub(crate) fn slot(&self, page: u64) -> (Slot, &Memcg) {
        let (first, slots, memcg) = &self.ranges[self.ranges.partition_point(|range| range.0 <= page) - 1];
        (slots.get(page - first).expect("slots were reserved for every page that may come"), memcg)
    }

    /// Put a page where page number `page` is kept.
    pub(crate) fn store(&mut self, page: u64, bytes: &Page) {
        let (slot, memcg) = self.slot(page);
        let hash = match self.zswap.store(slot, memcg, NodeId(0), bytes) {
            Ok(_) => hash(bytes),
            // The slot is empty now: an older page there would be stale.
            Err(refusal) => {
                self.refused += 1;
                self.refusal.get_or_insert_with(|| refusal.to_string());
                0
            }
        };
        self.hashes.set(page, hash);
    }

    /// How many pages there may be: their numbers are below.
    pub(crate) fn len(&self) -> u64 {
        self.hashes.len()
    }

    /// Whether a page is kept.
    pub(crate) fn holds(&self, page: u64) -> bool {
        self.hashes.get(page).is_some()
    }

    /// Free a page.
    pub(crate) fn free(&self, page: u64) {
        self.zswap.free(self.slot(page).0);
        self.hashes.set(page, 0);
    }

    /// Free half of the pages, in this order. How many.
    ///
    /// # Errors
    /// When a signal came.
    pub(crate) fn free_half(&self, order: &Shuffle) -> Result<u64, RunError> {
        let stored: Vec<u64> = (0..self.len()).map(|k| order.at(k)).filter(|&page| self.holds(page)).collect();
        let half = &stored[..stored.len() / 2];
        half.iter().for_each(|&page| self.free(page));
        check_not_stopped()?;
        Ok(half.len() as u64)
    }

    /// Read a page that is kept.
    ///
    /// # Errors
    /// When it does not come back.
    pub(crate) fn load(&self, number: u64, page: &mut Page) -> Result<(), RunError> {
        self.zswap.load(self.slot(number).0, page).map_err(|error| RunError::Lost { page: number, cause: error.into() })
    }

    /// Pages stored now.
    pub(crate) fn stored(&self) -> u64 {
        (0..self.len()).filter(|&page| self.holds(page)).count() as u64
    }

    /// Read every page in the order that `order` gives, and count those that are not what was stored. `each` is told how long
    /// every load took.
    ///
    /// # Errors
    /// When one does not come back, or a signal came.
    pub(crate) fn compare(&self, order: impl Fn(u64) -> u64, mut each: impl FnMut(Duration)) -> Result<u64, RunError> {
        let progress = Progress::pages("comparing", self.len());
        let (mut page, mut different) = (Page::zeroed(), 0);
        for k in 0..self.len() {
            let number = order(k);
            if let Some(expected) = self.hashes.get(number) {
                // What a load leaves untouched must not pass for the page before.
                page.fill(0xa5);
                let start = Instant::now();
                self.load(number, &mut page)?;
                each(start.elapsed());
                different += u64::from(hash(&page) != expected);
            }
            if k % 64 == 0 {
                check_not_stopped()?;
                progress.add(64.min(self.len() - k));
            }
        }
        Ok(different)
    }
}
