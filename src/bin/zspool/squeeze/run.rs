//! [`Run`]: the phases of a squeeze, each with all workers.
//!
//! ```text
//!  sources        hash, store     settle, swapoff    load, compare        free
//!  +------+  pages  +---------+                     +---------------+    +------+
//!  | lane |-------->| workers |--> read counters -->| random order  |--->| all  |--> nothing may be left
//!  +------+  of 16  +---------+                     +---------------+    +------+
//!              anonymous memory:  before ... after
//! ```
//!
//! 1. A page is hashed from the buffer it is stored from, before the store, and nobody else can write that buffer.
//! 2. A page is read back if and only if its store said that it was stored.
//! 3. Between the two readings of anonymous memory only the store allocates for long: hashes, histograms, buffers and the
//!    workers' stacks are there before.

use super::lane::{Batch, Counts, Lane};
use super::report::{Failure, PoolReport, ProcessReport, Report, SourceReport};
use super::rss;
use crate::drain::drain;
use crate::error::{RunError, check_not_stopped};
use crate::hashes::{Hashes, hash};
use crate::histogram::{Histogram, Quantiles};
use crate::progress::Progress;
use crate::shuffle::Shuffle;
use crate::signals;
use crate::source::{Source, SourceError};
use crate::target::{GroupStats, Live, PoolStats, Target};
use crate::tiers::report::{Swap, Swapoff, SwapoffEnd};
use std::io::{self, Write as _};
use std::time::Instant;
use zspool::compress::same_filled;
use zspool::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use zspool::sync::{Mutex, Rank, thread};
use zspool::units::{PAGE_SIZE, Page};

/// Pages a worker reads at once: enough to spare system calls, few enough to stay in its core's cache.
const BATCH: usize = 16;

/// Pages a worker takes at once when it reads back.
const CHUNK: u64 = 64;

/// Failures that are described one by one; the others are counted.
const FAILURES_SHOWN: usize = 10;

/// Readings of all counters, until nothing moved during one.
const TRIES_TO_READ: usize = 50;

/// A source with its name, its limit if it has one, and how many pages to read of it at most.
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) source: Box<dyn Source>,
    pub(super) memcg_limit: Option<u64>,
    pub(super) pages: u64,
}

/// What is to be done with them.
pub(super) struct Todo<'a> {
    pub(super) codec: &'a str,
    pub(super) threads: usize,
    /// What the store's making added to anonymous memory.
    pub(super) opening_growth: u64,
    /// Who looks there may change limits and remove memcgs at any time; with `hold`, they are given the time to.
    pub(super) live: Option<&'a dyn Live>,
    pub(super) hold: bool,
    /// Devices to take off before the pages are read back.
    pub(super) swapoff: Vec<u8>,
}

/// What is the same for all phases.
pub(super) struct Run<'t, T: Target> {
    target: &'t T,
    lanes: Vec<Lane<T>>,
    hashes: Hashes,
    seed: u64,
    failures: Mutex<Vec<Failure>>,
}

/// What one worker has to itself.
struct Worker {
    pages: Box<[Page]>,
    store_ns: Histogram,
    load_ns: Histogram,
}

impl Worker {
    fn new() -> Self {
        Worker {
            pages: vec![Page::zeroed(); BATCH].into_boxed_slice(),
            store_ns: Histogram::new(),
            load_ns: Histogram::new(),
        }
    }
}

fn nanoseconds(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

impl<'t, T: Target> Run<'t, T> {
    /// Make the memcgs, reserve the slots, and set memory aside.
    pub(super) fn new(target: &'t T, sources: Vec<Planned>, seed: u64) -> Result<Self, RunError> {
        let total = sources.iter().map(|planned| planned.pages).sum();
        let hashes = Hashes::new(total).ok_or(RunError::NoMemoryForHashes { pages: total })?;
        let mut lanes = Vec::with_capacity(sources.len());
        let mut first = 0;
        for Planned { name, source, memcg_limit, pages } in sources {
            let set_up = || {
                let group = target.mkdir(&name)?;
                if let Some(bytes) = memcg_limit {
                    target.set_limit(&group, bytes)?;
                }
                Ok((group, target.reserve(pages)?))
            };
            let (group, slots) = set_up().map_err(|cause| RunError::Group { name: name.clone(), cause })?;
            lanes.push(Lane::new(name, group, slots, first, pages, source));
            first += pages;
        }
        let failures = Mutex::new(Rank::Leaf, Vec::with_capacity(FAILURES_SHOWN));
        Ok(Run { target, lanes, hashes, seed, failures })
    }

    /// All phases.
    pub(super) fn squeeze(self, todo: &Todo<'_>) -> Result<Report, RunError> {
        let &Todo { codec, threads, opening_growth, live, hold, ref swapoff } = todo;
        let mut workers: Vec<_> = (0..threads).map(|_| Worker::new()).collect();
        // Each thread's first allocation sets up a heap of its own, which the next phase's threads take over.
        self.in_parallel(&mut workers, |_, worker| drop(std::hint::black_box(worker.pages.to_vec())));

        let pages = self.hashes.len();
        let started = Instant::now();
        let progress = Progress::pages("storing", pages);
        let before = rss::anonymous();
        self.store_all(&mut workers, &progress)?;
        check_not_stopped()?;
        self.target.settle();
        let after = rss::anonymous();
        drop(progress);

        if let Some(live) = live.filter(|_| hold) {
            self.hold(live);
            check_not_stopped()?;
            self.target.settle();
        }

        let (pool, total, mut sources, still) = self.read_counters();
        let (classes, swap) = (self.target.classes(), self.target.swap());
        // What others change meanwhile would add up to nothing.
        if still || live.is_none() {
            self.check_sums(&sources, pool);
        }

        let swapoffs = self.swapoff(swapoff, &swap);
        check_not_stopped()?;
        self.load_all(&mut workers, &Progress::pages("reading back", pages));
        check_not_stopped()?;
        self.free_all(&mut workers, &Progress::pages("freeing", pages));
        check_not_stopped()?;
        self.target.settle();
        self.check_nothing_is_left();
        for (report, lane) in sources.iter_mut().zip(&self.lanes) {
            report.unreadable_pages = lane.counts.unreadable.load(Relaxed);
            report.mismatched_pages = lane.counts.different.load(Relaxed) + report.unreadable_pages;
        }

        let (mut store_ns, mut load_ns) = (Histogram::new(), Histogram::new());
        for worker in &workers {
            store_ns.merge(&worker.store_ns);
            load_ns.merge(&worker.load_ns);
        }
        let PoolStats { frame_bytes, metadata_bytes, payload_bytes, objects, swapfile_bytes } = pool;
        let failures = std::mem::take(&mut *self.failures.lock());
        Ok(Report {
            codec: codec.to_owned(),
            threads,
            seed: self.seed,
            seconds: started.elapsed().as_secs_f64(),
            sources,
            total,
            pool: PoolReport { frame_bytes, metadata_bytes, payload_bytes, objects, swapfile_bytes, classes },
            swap,
            swapoffs,
            process: ProcessReport { rss_growth_bytes: opening_growth + after.saturating_sub(before) },
            store_ns: Quantiles::of(&store_ns),
            load_ns: Quantiles::of(&load_ns),
            failures,
        })
    }

    /// Take devices off, one after the other. That one could not be is a failure of the run, but if somebody pressed Ctrl-C.
    fn swapoff(&self, numbers: &[u8], swap: &Swap) -> Vec<Swapoff> {
        let swapoffs = drain(self.target, swap, numbers);
        for swapoff in &swapoffs {
            if let SwapoffEnd::Failed(_) = &swapoff.end {
                self.fail_as_a_whole(format!("{} could not be taken off, for the reason above.", swapoff.name));
            }
        }
        swapoffs
    }

    /// Run `work` once per worker, on a thread each.
    fn in_parallel(&self, workers: &mut [Worker], work: impl Fn(usize, &mut Worker) + Sync) {
        thread::scope(|scope| {
            for (index, worker) in workers.iter_mut().enumerate() {
                let work = &work;
                scope.spawn(move || work(index, worker));
            }
        });
    }

    fn store_all(&self, workers: &mut [Worker], progress: &Progress) -> Result<(), SourceError> {
        let broken = AtomicBool::new(false);
        let error = Mutex::new(Rank::Leaf, None);
        self.in_parallel(workers, |index, worker| {
            while !broken.load(Relaxed) && signals::stopped().is_none() {
                match self.next_batch(index, worker) {
                    Ok(Some((lane, batch))) => {
                        self.store_batch(lane, &batch, worker);
                        progress.add(batch.count as u64);
                    }
                    Ok(None) => return,
                    Err(e) => {
                        broken.store(true, Relaxed);
                        error.lock().get_or_insert(e);
                    }
                }
            }
        });
        let error = error.lock().take();
        error.map_or(Ok(()), Err)
    }

    /// The next pages of some lane, into the worker's buffer. Workers start with different lanes and share one only when there
    /// are not enough, so that all memcgs fill side by side.
    fn next_batch(&self, index: usize, worker: &mut Worker) -> Result<Option<(&Lane<T>, Batch)>, SourceError> {
        let own = index % self.lanes.len();
        let (before, after) = self.lanes.split_at(own);
        for wait in [false, true] {
            for lane in after.iter().chain(before).filter(|lane| !lane.is_done()) {
                if let Some(batch) = lane.read(&mut worker.pages, wait)? {
                    return Ok(Some((lane, batch)));
                }
            }
        }
        Ok(None)
    }

    fn store_batch(&self, lane: &Lane<T>, batch: &Batch, worker: &mut Worker) {
        for (number, page) in (batch.first..).zip(&worker.pages[..batch.count]) {
            let hash = hash(page);
            let slot = lane.slot(number);
            let start = Instant::now();
            let stored = self.target.store(slot, &lane.group, page);
            let took = nanoseconds(start);
            let Counts { stored: stored_pages, same_filled: same_filled_pages, refused, .. } = &lane.counts;
            match stored {
                Ok(()) => {
                    worker.store_ns.add(took);
                    self.hashes.set(lane.first + number, hash);
                    stored_pages.fetch_add(1, Relaxed);
                    same_filled_pages.fetch_add(same_filled(page).is_some().into(), Relaxed);
                }
                Err(refusal) => {
                    if refused.fetch_add(1, Relaxed) == 0 {
                        // Worded before the lock is taken: naming a memcg takes locks of its own.
                        let refusal = refusal.to_string();
                        *lane.refusal.lock() = Some(refusal);
                    }
                }
            }
        }
    }

    /// Call `work` for every page stored, in the order `order` gives.
    fn for_all(
        &self,
        workers: &mut [Worker],
        progress: &Progress,
        order: impl Fn(u64) -> u64 + Sync,
        work: impl Fn(&Lane<T>, u64, u128, &mut Worker) + Sync,
    ) {
        let next = AtomicU64::new(0);
        let total = self.hashes.len();
        self.in_parallel(workers, |_, worker| {
            loop {
                let start = next.fetch_add(CHUNK, Relaxed);
                if start >= total || signals::stopped().is_some() {
                    return;
                }
                let end = total.min(start + CHUNK);
                for page in (start..end).map(&order) {
                    if let Some(hash) = self.hashes.get(page) {
                        // Lanes of no pages share their first page with the next one; the last of them has it.
                        let lane = &self.lanes[self.lanes.partition_point(|lane| lane.first <= page) - 1];
                        work(lane, page - lane.first, hash, worker);
                    }
                }
                progress.add(end - start);
            }
        });
    }

    fn load_all(&self, workers: &mut [Worker], progress: &Progress) {
        let shuffle = Shuffle::new(self.hashes.len(), self.seed);
        let load = |lane: &Lane<T>, number, expected, worker: &mut Worker| {
            let page = &mut worker.pages[0];
            // What a load leaves untouched must not pass for the page before.
            page.fill(0xa5);
            let start = Instant::now();
            let loaded = self.target.load(lane.slot(number), page);
            let took = nanoseconds(start);
            let (count, what) = match loaded {
                Ok(()) => {
                    worker.load_ns.add(took);
                    if hash(page) == expected {
                        return;
                    }
                    (&lane.counts.different, "came back different.".to_owned())
                }
                Err(error) => (&lane.counts.unreadable, format!("did not come back: {error}")),
            };
            count.fetch_add(1, Relaxed);
            self.fail(Failure { source: Some(lane.name.clone()), page: Some(number), what });
        };
        self.for_all(workers, progress, |k| shuffle.at(k), load);
    }

    fn free_all(&self, workers: &mut [Worker], progress: &Progress) {
        let free = |lane: &Lane<T>, number, _, _: &mut Worker| {
            if let Err(error) = self.target.free(lane.slot(number)) {
                let what = format!("was not freed: {error}");
                self.fail(Failure { source: Some(lane.name.clone()), page: Some(number), what });
            }
        };
        self.for_all(workers, progress, |k| k, free);
    }

    /// Wait with everything stored, until it has been looked at.
    fn hold(&self, live: &dyn Live) {
        let pages: u64 = self.lanes.iter().map(|lane| lane.counts.stored.load(Relaxed)).sum();
        // Where nobody listens they see the files.
        let _ = writeln!(
            io::stderr(),
            "{pages} pages are held; their memcgs are in {}. {}, to have them read back.",
            live.path().display(),
            if signals::hears_interrupts() { "Press Ctrl-C, or unmount it" } else { "Unmount it" },
        );
        signals::wait_for_one(|| !live.is_mounted());
    }

    /// The counters of the pool, of all memcgs and of the sources, and whether nothing moved meanwhile: the worker gathers objects
    /// now and then on its own, so there are some tries.
    fn read_counters(&self) -> (PoolStats, GroupStats, Vec<SourceReport>, bool) {
        let mut tries = TRIES_TO_READ;
        loop {
            let (pool, total) = (self.target.pool(), self.target.all_groups());
            let sources: Vec<_> = self.lanes.iter().map(|lane| self.source_report(lane)).collect();
            let still = self.target.pool() == pool && !sources.iter().any(|source| source.removed);
            if still || tries == 0 {
                return (pool, total, sources, still);
            }
            tries -= 1;
            self.target.settle();
        }
    }

    /// Each byte in the pool is some memcg's, and of no two.
    fn check_sums(&self, sources: &[SourceReport], pool: PoolStats) {
        let sum =
            |field: fn(&GroupStats) -> u64| sources.iter().flat_map(|source| &source.memcg).map(field).sum::<u64>();
        let original = pool.objects * PAGE_SIZE as u64;
        for (what, memcgs, pool) in [
            ("payload", sum(|memcg| memcg.payload_bytes), pool.payload_bytes),
            ("original", sum(|memcg| memcg.original_bytes), original),
        ] {
            if memcgs != pool {
                self.fail_as_a_whole(format!("the memcgs count {memcgs} {what} bytes, and the pool holds {pool}."));
            }
        }
    }

    /// Everything was freed: every counter is back at 0.
    fn check_nothing_is_left(&self) {
        let PoolStats { objects, payload_bytes, swapfile_bytes, .. } = self.target.pool();
        if (objects, payload_bytes, swapfile_bytes) != (0, 0, 0) {
            self.fail_as_a_whole(format!(
                "{objects} objects with {payload_bytes} bytes, and {swapfile_bytes} bytes of the swapfile, were left after \
                 every page was freed."
            ));
        }
        for lane in &self.lanes {
            let GroupStats { original_bytes, payload_bytes, slot_bytes, .. } =
                self.target.group(&lane.group).unwrap_or_default();
            if (original_bytes, payload_bytes, slot_bytes) != (0, 0, 0) {
                let name = &lane.name;
                self.fail_as_a_whole(format!(
                    "{slot_bytes} bytes were left charged to {name} after its pages were freed."
                ));
            }
        }
    }

    fn fail_as_a_whole(&self, what: String) {
        self.fail(Failure { source: None, page: None, what });
    }

    fn fail(&self, failure: Failure) {
        let mut failures = self.failures.lock();
        if failures.len() < FAILURES_SHOWN {
            failures.push(failure);
        }
    }

    fn source_report(&self, lane: &Lane<T>) -> SourceReport {
        let outcome = lane.outcome();
        let memcg = self.target.group(&lane.group);
        let refusal = lane.refusal.lock().clone();
        SourceReport {
            name: lane.name.clone(),
            kind: lane.kind,
            pages: outcome.read,
            stored_pages: lane.counts.stored.load(Relaxed),
            same_filled_pages: lane.counts.same_filled.load(Relaxed),
            memcg,
            removed: memcg.is_none(),
            // Known after the read-back.
            mismatched_pages: 0,
            unreadable_pages: 0,
            refused_pages: lane.counts.refused.load(Relaxed),
            refusal,
            vanished_pages: outcome.vanished,
            note: outcome.note,
            stat: self.target.stat(&lane.group),
        }
    }
}
