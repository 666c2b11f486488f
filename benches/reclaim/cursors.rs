//! Many reclaimers at once: what a claim of a cursor costs beside the batch that it leads to, alone and when others claim too.
//!
//! ```text
//!   claim   whose turn it is below our memcg, and for how many entries    the tree lock
//!   batch   64 of its entries are written                                 its list's lock, twice an entry's cluster lock, the device
//! ```
//!
//! The question (T3): does every memcg need a lock of its own for its cursor? Only if claims, which share one lock, take a share
//! of the time that matters.

use crate::Scale;
use crate::measure::{Cell, Table, median};
use crate::tenants::Tenants;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zspool::memcg::{Memcg, Rounds};
use zspool::zswap::{Shrunk, WRITEBACK_BATCH, Zswap};

/// Parents that reclaimers work below, each with as many children.
const PARENTS: usize = 8;

/// How many claim at once.
const THREADS: [usize; 4] = [1, 2, 4, 8];

pub(crate) fn tables(scale: &Scale) -> Vec<Table> {
    vec![claims(scale), batches(scale)]
}

/// Parents with children that have entries, a batch and a half each.
fn families(children: usize) -> (Tenants, Vec<Memcg>) {
    let each = WRITEBACK_BATCH * 3 / 2;
    let tenants = Tenants::in_families(PARENTS, children, each);
    tenants.fill();
    let parents = tenants.tenant.children();
    (tenants, parents)
}

/// Claims and nothing else.
fn claims(scale: &Scale) -> Table {
    let heads = ["threads", "below", "claims a second, 1000", "ns of a claim, waiting included", "over one thread"];
    let mut table = Table::new("Cursors: claims alone; 8 parents with children that all have entries.", &heads);
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
                            let mut n = 0;
                            while !stop.load(Ordering::Relaxed) {
                                let claim = parent.claim(WRITEBACK_BATCH, WRITEBACK_BATCH).expect("all have entries");
                                claim.finish(WRITEBACK_BATCH);
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

/// Claims with the batches they lead to, on a device that takes every write at once: the most that claims can weigh.
fn batches(scale: &Scale) -> Table {
    let heads = [
        "reclaimers",
        "proactive callers",
        "below",
        "1000 entries a second",
        "MB of pages a second",
        "claims per batch",
        "time in claims, %",
    ];
    let mut table = Table::new("Cursors: claims with batches, to a device that takes every write at once.", &heads);
    let (tenants, parents) = families(scale.memcgs / 100);
    for below in ["the same", "their own"] {
        for (threads, callers) in [(1, 0), (2, 0), (8, 0), (1, 2), (2, 2), (8, 2)] {
            let (mut rates, mut shares, mut per_batch) = (vec![], vec![], vec![]);
            for _ in 0..scale.rounds {
                tenants.fill();
                let asked = tenants.entry_bytes() * (WRITEBACK_BATCH / 4) as u64;
                let before = tenants.written();
                let start = Instant::now();
                let parts: Vec<Spent> = std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..threads + callers)
                        .map(|k| {
                            let parent = if below == "the same" { &parents[0] } else { &parents[k % PARENTS] };
                            let zswap = &tenants.zswap;
                            scope.spawn(move || {
                                if k < threads {
                                    Spent::below(zswap, parent)
                                } else {
                                    Spent::by_requests(parent, asked)
                                }
                            })
                        })
                        .collect();
                    threads.into_iter().map(|thread| thread.join().expect("reclaim does not panic")).collect()
                });
                let seconds = start.elapsed().as_secs_f64();
                let sum = |of: fn(&Spent) -> f64| parts.iter().map(of).sum::<f64>();
                rates.push((tenants.written() - before) as f64 / seconds);
                shares.push(sum(|spent| spent.claiming.as_secs_f64()) / sum(|spent| spent.all.as_secs_f64()));
                per_batch.push(sum(|spent| spent.claims as f64) / sum(|spent| spent.batches as f64).max(1.0));
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
    claims: u64,
    batches: u64,
    claiming: Duration,
    all: Duration,
}

impl Spent {
    /// Write back everything below a memcg, a batch of the next one at a time.
    fn below(zswap: &Zswap, below: &Memcg) -> Self {
        let start = Instant::now();
        let (mut spent, mut rounds, mut in_vain) = (Spent::default(), Rounds::new(), 0);
        while in_vain < 2 {
            let at = Instant::now();
            let claim = below.claim(WRITEBACK_BATCH, WRITEBACK_BATCH);
            spent.claiming += at.elapsed();
            spent.claims += 1;
            let Some(claim) = claim else { break };
            in_vain += u32::from(rounds.over(&claim));
            match zswap.shrink_memcg(claim.memcg(), claim.entries()) {
                Shrunk::Written(_) => (spent.batches, in_vain) = (spent.batches + 1, 0),
                Shrunk::NoneWritten => {}
                Shrunk::NothingToScan => claim.skip(),
            }
        }
        spent.all = start.elapsed();
        spent
    }

    /// The same by requests to `memory.reclaim`, each for less than a batch; how they claim is their business.
    fn by_requests(below: &Memcg, bytes: u64) -> Self {
        let text = format!("{bytes} source=zswap");
        while below.write_file("memory.reclaim", &text).is_ok() {}
        Spent::default()
    }
}
