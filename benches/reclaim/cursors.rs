//! Many reclaimers at once: what a step of a cursor costs beside the batch that it leads to, alone and when others step too.
//!
//! ```text
//!   step    the next memcg below ours that has entries      the tree lock
//!   batch   64 of its entries are written                   its list's lock, twice an entry's cluster lock, the device
//! ```
//!
//! The question (T3): does every memcg need a lock of its own for its cursor? Only if steps, which share one lock, take a share of
//! the time that matters.

use crate::Scale;
use crate::measure::{Cell, Table, median};
use crate::tenants::Tenants;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zspool::memcg::{Memcg, MemcgId};
use zspool::zswap::{Shrunk, WRITEBACK_BATCH, Zswap};

/// Parents that reclaimers work below, each with as many children.
const PARENTS: usize = 8;

/// How many step at once.
const THREADS: [usize; 4] = [1, 2, 4, 8];

pub(crate) fn tables(scale: &Scale) -> Vec<Table> {
    vec![steps(scale), batches(scale)]
}

/// One step of a cursor below a memcg.
fn step(below: &Memcg, cursor: &mut MemcgId) -> Option<Memcg> {
    let next = below.next_listed(*cursor).or_else(|| below.next_listed(MemcgId(0)));
    *cursor = next.as_ref().map_or(MemcgId(0), Memcg::id);
    next
}

/// Parents with children that have entries, a batch and a half each.
fn families(children: usize) -> (Tenants, Vec<Memcg>) {
    let each = WRITEBACK_BATCH * 3 / 2;
    let tenants = Tenants::in_families(PARENTS, children, each);
    tenants.fill();
    let parents = tenants.tenant.children();
    (tenants, parents)
}

/// Steps and nothing else.
fn steps(scale: &Scale) -> Table {
    let heads = ["threads", "below", "steps a second, 1000", "ns of a step, waiting included", "over one thread"];
    let mut table = Table::new("Cursors: steps alone; 8 parents with children that all have entries.", &heads);
    let (_tenants, parents) = families(scale.memcgs / 100);
    let mut first = None;
    for below in ["the same", "their own"] {
        for threads in THREADS {
            let mut rates = vec![];
            for _ in 0..scale.rounds {
                let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
                let start = Instant::now();
                std::thread::scope(|scope| {
                    for k in 0..threads {
                        let parent = if below == "the same" { &parents[0] } else { &parents[k % PARENTS] };
                        let (stop, count) = (&stop, &count);
                        scope.spawn(move || {
                            let (mut cursor, mut n) = (MemcgId(0), 0);
                            while !stop.load(Ordering::Relaxed) {
                                assert!(step(parent, &mut cursor).is_some(), "all have entries");
                                n += 1;
                            }
                            count.fetch_add(n, Ordering::Relaxed);
                        });
                    }
                    std::thread::sleep(scale.round / 4);
                    stop.store(true, Ordering::Relaxed);
                });
                rates.push(count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64());
            }
            let rate = median(rates);
            table.row(vec![
                Cell::count(threads as u64),
                Cell::text(below),
                Cell::number(rate / 1e3, 0),
                Cell::number(threads as f64 / rate * 1e9, 0),
                Cell::number(rate / *first.get_or_insert(rate), 2),
            ]);
        }
    }
    table.end()
}

/// Steps with the batches they lead to, on a device that takes every write at once: the most that steps can weigh.
fn batches(scale: &Scale) -> Table {
    let heads = [
        "reclaimers",
        "proactive callers",
        "below",
        "1000 entries a second",
        "MB of pages a second",
        "steps per batch",
        "time in steps, %",
    ];
    let mut table = Table::new("Cursors: steps with batches, to a device that takes every write at once.", &heads);
    let (tenants, parents) = families(scale.memcgs / 100);
    for below in ["the same", "their own"] {
        for (threads, callers) in [(1, 0), (2, 0), (8, 0), (1, 2), (2, 2), (8, 2)] {
            let (mut rates, mut shares, mut per_batch) = (vec![], vec![], vec![]);
            for _ in 0..scale.rounds {
                tenants.fill();
                let before = tenants.written();
                let start = Instant::now();
                let parts: Vec<Spent> = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..threads + callers)
                        .map(|k| {
                            let parent = if below == "the same" { &parents[0] } else { &parents[k % PARENTS] };
                            // A proactive caller wants less at a time than a batch.
                            let entries = if k < threads { WRITEBACK_BATCH } else { WRITEBACK_BATCH / 4 };
                            let zswap = &tenants.zswap;
                            scope.spawn(move || Spent::below(zswap, parent, entries))
                        })
                        .collect();
                    threads.into_iter().map(|thread| thread.join().expect("reclaim does not panic")).collect()
                });
                let seconds = start.elapsed().as_secs_f64();
                let sum = |of: fn(&Spent) -> f64| parts.iter().map(of).sum::<f64>();
                rates.push((tenants.written() - before) as f64 / seconds);
                shares.push(sum(|spent| spent.stepping.as_secs_f64()) / sum(|spent| spent.all.as_secs_f64()));
                per_batch.push(sum(|spent| spent.steps as f64) / sum(|spent| spent.batches as f64).max(1.0));
            }
            let rate = median(rates);
            table.row(vec![
                Cell::count(threads as u64),
                Cell::count(callers as u64),
                Cell::text(below),
                Cell::number(rate / 1e3, 0),
                Cell::number(rate * 4096.0 / 1e6, 0),
                Cell::number(median(per_batch), 2),
                Cell::number(median(shares) * 100.0, 1),
            ]);
        }
    }
    table.end()
}

/// What a reclaimer did until nothing was left.
#[derive(Default)]
struct Spent {
    steps: u64,
    batches: u64,
    stepping: Duration,
    all: Duration,
}

impl Spent {
    /// Write back everything below a memcg, a batch of `entries` of the next one at a time.
    fn below(zswap: &Zswap, below: &Memcg, entries: usize) -> Self {
        let (start, mut cursor) = (Instant::now(), MemcgId(0));
        let (mut spent, mut in_vain) = (Spent::default(), 0);
        while in_vain <= below.children().len() {
            let at = Instant::now();
            let next = step(below, &mut cursor);
            spent.stepping += at.elapsed();
            spent.steps += 1;
            let Some(memcg) = next else { break };
            match zswap.shrink_memcg(&memcg, entries) {
                Shrunk::Written(_) => (spent.batches, in_vain) = (spent.batches + 1, 0),
                _ => in_vain += 1,
            }
        }
        spent.all = start.elapsed();
        spent
    }
}
