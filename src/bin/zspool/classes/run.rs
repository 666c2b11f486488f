//! The steps: fill, churn, free half, compact, and compare what is left.

use super::report::{Bytes, Report, SourceLine, Step};
use crate::args::Classes;
use crate::progress::Progress;
use crate::signals;
use crate::source::chosen::{Chosen, Taken};
use crate::squeeze::RunError;
use crate::squeeze::hashes::{Hashes, hash};
use crate::squeeze::interface::Target;
use crate::squeeze::shuffle::{Shuffle, mix};
use zspool::compress::Codecs;
use zspool::memcg::Memcg;
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::Zswap;

/// Pages read at once.
const BATCH: usize = 16;

/// Do what `args` say.
///
/// # Errors
/// When a source cannot be read, the instance cannot be made, or a signal came.
pub(crate) fn classes(args: &Classes) -> Result<Report, RunError> {
    Codecs::builtin().by_name(&args.codec)?;
    let chosen = Chosen::open(&args.sources)?;
    let mut builder = Zswap::builder().codec(&args.codec).compressing_threads(1).worker(false);
    if let Some(bytes) = args.pool_limit {
        builder = builder.pool_limit(bytes);
    }
    let zswap = builder.build().map_err(|error| RunError::Open(error.into()))?;
    let taken = chosen.take(&args.sources)?;

    let total = taken.iter().map(|taken| taken.pages).sum();
    let mut run = Run {
        zswap: &zswap,
        ranges: vec![],
        hashes: Hashes::new(total).ok_or(RunError::NoMemoryForHashes { pages: total })?,
        refused: 0,
        refusal: None,
        steps: vec![],
    };
    let sources = run.fill(taken, total)?;
    if let Some(times) = args.churn {
        run.churn(times, args.seed)?;
    }
    if args.free_half {
        run.free_half(args.seed)?;
    }
    if args.compact {
        let won = zswap.compact(u64::MAX).frames_freed;
        run.note("compact", won);
    }
    let stats = zswap.stats();
    let (classes, stored_pages) = (zswap.classes(), run.stored());
    let mismatched_pages = run.compare()?;
    Ok(Report {
        codec: args.codec.clone(),
        seed: args.seed,
        sources,
        stored_pages,
        same_filled_pages: stats.same_filled_pages + stats.pattern_pages,
        incompressible_pages: stats.incompressible_pages,
        refused_pages: run.refused,
        refusal: run.refusal,
        mismatched_pages,
        steps: run.steps,
        classes,
    })
}

struct Run<'a> {
    zswap: &'a Zswap,
    /// Each source's first page among all, its slots, and who pays.
    ranges: Vec<(u64, SlotRange, Memcg)>,
    /// What is stored for each page, if anything is.
    hashes: Hashes,
    refused: u64,
    refusal: Option<String>,
    steps: Vec<Step>,
}

fn check_not_stopped() -> Result<(), RunError> {
    signals::stopped().map_or(Ok(()), |by| Err(RunError::Stopped(by)))
}

impl Run<'_> {
    fn note(&mut self, step: &'static str, count: u64) {
        self.steps.push(Step { step, count, bytes: Bytes::of(self.zswap) });
    }

    /// The slot of a page, and who pays for it.
    fn slot(&self, page: u64) -> (Slot, &Memcg) {
        let (first, slots, memcg) = &self.ranges[self.ranges.partition_point(|range| range.0 <= page) - 1];
        (slots.get(page - first).expect("slots were reserved for every page that may come"), memcg)
    }

    /// Put a page where page number `page` is kept.
    fn store(&mut self, page: u64, bytes: &Page) {
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

    fn fill(&mut self, taken: Vec<Taken>, total: u64) -> Result<Vec<SourceLine>, RunError> {
        let progress = Progress::new("storing", total);
        let mut pages = vec![Page::zeroed(); BATCH].into_boxed_slice();
        let (mut lines, mut first, mut read) = (vec![], 0, 0);
        for Taken { name, mut source, pages: limit } in taken {
            let memcg = self.zswap.root().mkdir(&name);
            let slots = memcg.map_err(Into::into).and_then(|memcg| Ok((self.zswap.reserve(limit)?, memcg)));
            let (slots, memcg) = slots
                .map_err(|cause: zspool::zswap::Error| RunError::Group { name: name.clone(), cause: cause.into() })?;
            self.ranges.push((first, slots, memcg));
            let mut done = 0;
            while done < limit {
                check_not_stopped()?;
                let want = BATCH.min((limit - done) as usize);
                let count = source.read(&mut pages[..want])?;
                if count == 0 {
                    break;
                }
                for page in &pages[..count] {
                    self.store(first + done, page);
                    done += 1;
                }
                progress.add(count as u64);
            }
            let (kind, vanished_pages, note) = (source.kind(), source.vanished_pages(), source.note());
            lines.push(SourceLine { name, kind, pages: done, vanished_pages, note });
            first += limit;
            read += done;
        }
        drop(progress);
        self.note("fill", read);
        Ok(lines)
    }

    /// Replace random pages by other random pages, `times` as many as there are.
    fn churn(&mut self, times: u64, seed: u64) -> Result<(), RunError> {
        let total = self.hashes.len();
        let progress = Progress::new("replacing", times * total);
        let (mut page, mut replaced) = (Page::zeroed(), 0);
        let random = |k: u64| mix(mix(seed).wrapping_add(k)) % total;
        for k in 0..times * total {
            if k % 64 == 0 {
                check_not_stopped()?;
                progress.add(64.min(times * total - k));
            }
            let (to, from) = (random(2 * k), random(2 * k + 1));
            if self.hashes.get(from).is_some() {
                self.load(from, &mut page)?;
                self.store(to, &page);
                replaced += 1;
            }
        }
        drop(progress);
        self.note("churn", replaced);
        Ok(())
    }

    fn free_half(&mut self, seed: u64) -> Result<(), RunError> {
        let total = self.hashes.len();
        let shuffle = Shuffle::new(total, seed);
        let stored: Vec<u64> = (0..total).map(|k| shuffle.at(k)).filter(|&k| self.hashes.get(k).is_some()).collect();
        let half = &stored[..stored.len() / 2];
        for &page in half {
            self.zswap.free(self.slot(page).0);
            self.hashes.set(page, 0);
        }
        check_not_stopped()?;
        self.note("free half", half.len() as u64);
        Ok(())
    }

    fn load(&self, number: u64, page: &mut Page) -> Result<(), RunError> {
        self.zswap.load(self.slot(number).0, page).map_err(|error| RunError::Lost { page: number, cause: error.into() })
    }

    /// Pages stored now.
    fn stored(&self) -> u64 {
        (0..self.hashes.len()).filter(|&page| self.hashes.get(page).is_some()).count() as u64
    }

    /// Read every page, and count those that are not what was stored.
    fn compare(&self) -> Result<u64, RunError> {
        let progress = Progress::new("comparing", self.hashes.len());
        let (mut page, mut different) = (Page::zeroed(), 0);
        for number in 0..self.hashes.len() {
            if let Some(expected) = self.hashes.get(number) {
                self.load(number, &mut page)?;
                different += u64::from(hash(&page) != expected);
            }
            if number % 64 == 0 {
                check_not_stopped()?;
                progress.add(64.min(self.hashes.len() - number));
            }
        }
        Ok(different)
    }
}
