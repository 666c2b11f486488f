//! What reclaim costs stores and loads while no limit is near.
//!
//! ```text
//!   on    worker, swapfile, limits of every kind at every level, far away
//!   off   no worker, no device, no limit
//! ```
//!
//! The two take turns, a chunk of pages each, at each moment different chunks, so that neither finds in the cache what the other has
//! just read.

use crate::Scale;
use crate::device::Sink;
use crate::inputs::Noise;
use crate::measure::{Cell, Others, Table, median};
use std::hint::black_box;
use std::time::Instant;
use zspool::memcg::Memcg;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::Zswap;

/// Pages that a subject takes in its turn: a few milliseconds.
const CHUNK: usize = 256;

/// Pages at most: 64 MiB.
const MOST: usize = 16_384;

/// Rounds for each of the other sections.
const ROUNDS: usize = 12;

/// Far away.
const LIMIT: &str = "64G";

struct Subject {
    zswap: Zswap,
    vm: Memcg,
    slots: SlotRange,
}

impl Subject {
    fn new(on: bool, pages: usize) -> Self {
        let builder = Zswap::builder().pool_limit(64 << 30).worker(on).automatic_compaction(None);
        let builder = if on { builder.device(Sink(1 << 30)) } else { builder };
        let zswap = builder.build().expect("an instance");
        let tenant = zswap.root().mkdir("tenant").expect("a fresh name");
        let user = tenant.mkdir("user").expect("a fresh name");
        let vm = user.mkdir("vm").expect("a fresh name");
        for memcg in [&tenant, &user, &vm].into_iter().filter(|_| on) {
            memcg.write_file("memory.zswap.max", LIMIT).expect("it is online");
            for file in ["memory.max", "memory.high", "memory.swap.max"] {
                // As far as there are such files.
                let _ = memcg.write_file(file, LIMIT);
            }
        }
        let slots = zswap.reserve(pages as u64).expect("slots without end");
        Subject { zswap, vm, slots }
    }

    fn store(&self, k: usize, page: &Page) {
        self.zswap.store(self.slots.base() + k as u64, &self.vm, NodeId(0), page).expect("no limit is near");
    }

    fn load(&self, k: usize, out: &mut Page) {
        self.zswap.load(self.slots.base() + k as u64, out).expect("it was stored");
    }
}

const OPERATIONS: [&str; 3] = ["store", "load", "replace"];

pub(crate) fn table(pages: &[Page], scale: &Scale) -> Table {
    let heads = ["operation", "off, ns", "on, ns", "on over off, median of the calmer rounds", "shortest turns"];
    let mut table = Table::new("Idle: reclaim on over off, no limit near.", &heads);
    let pages = &pages[..pages.len().min(MOST) / CHUNK * CHUNK];
    let chunks = pages.len() / CHUNK;
    // A pair in either order: what lies where in memory is by chance, and some of it stays for the life of an instance.
    let subjects = [false, true, true, false].map(|on| (on, Subject::new(on, pages.len())));
    // By operation, subject, chunk: nanoseconds of each round.
    let mut turns = vec![vec![vec![vec![]; chunks]; subjects.len()]; OPERATIONS.len()];
    let mut out = Page::zeroed();
    let mut noise = Noise(9);
    let rounds = scale.rounds * ROUNDS;
    let mut others = vec![];
    for round in 0..=rounds {
        let watch = Others::watch();
        let order = noise.shuffled(pages.len());
        for (operation, turns) in turns.iter_mut().enumerate() {
            for turn in 0..chunks {
                for (s, (_, subject)) in subjects.iter().enumerate() {
                    let chunk = (turn + s * chunks / subjects.len()) % chunks;
                    let numbers = &order[chunk * CHUNK..(chunk + 1) * CHUNK];
                    if operation == 0 {
                        numbers.iter().for_each(|&k| _ = subject.zswap.free(subject.slots.base() + k as u64));
                    }
                    let start = Instant::now();
                    for &k in numbers {
                        match operation {
                            0 => subject.store(k, &pages[k]),
                            1 => subject.load(k, &mut out),
                            _ => subject.store(k, &pages[(k + 1) % pages.len()]),
                        }
                    }
                    black_box(&out);
                    if round > 0 {
                        turns[s][chunk].push(start.elapsed().as_nanos() as f64);
                    }
                }
            }
        }
        // The first fills.
        if round > 0 {
            others.push((watch.cores(), round - 1));
        }
    }
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (name, turns) in OPERATIONS.iter().zip(&turns) {
        let pick = |on: bool| subjects.iter().zip(turns).filter(move |((is, _), _)| *is == on).map(|(_, turns)| turns);
        let sum = |on: bool, of: &dyn Fn(&Vec<f64>) -> f64| pick(on).flatten().map(of).sum::<f64>();
        let per_page = |sum: f64| sum / (2 * pages.len()) as f64;
        let shortest = |turns: &Vec<f64>| turns.iter().copied().fold(f64::INFINITY, f64::min);
        let calmest = others[..rounds.div_ceil(2)].iter().map(|other| other.1);
        let ratios = calmest.map(|round| sum(true, &|turns| turns[round]) / sum(false, &|turns| turns[round]));
        let (off, on) = (sum(false, &shortest), sum(true, &shortest));
        table.row(vec![
            Cell::text(*name),
            Cell::number(per_page(off), 0),
            Cell::number(per_page(on), 0),
            Cell::number(median(ratios.collect()), 3),
            Cell::number(on / off, 3).at_most(1.01),
        ]);
    }
    table.end()
}
