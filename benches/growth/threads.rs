//! With the threads: 1 to 64, on the cores that there are.

use crate::growing::{Growing, doublings};
use crate::inputs::Noise;
use crate::measure::{Histogram, Table};
use crate::subject::{is_of, stamp};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use zspool::memcg::Memcg;
use zspool::swap::{DeviceOptions, MemoryDevice};
use zspool::units::{NodeId, Page, Slot};
use zspool::zswap::Zswap;

/// Pages of them all.
const PAGES: usize = 32 << 10;

/// Who pays, and whether there is room.
#[derive(Clone, Copy)]
struct Way {
    title: &'static str,
    /// All threads in one memcg, or each in its own.
    shared: bool,
    /// The pool holds half of the pages: stores write back, loads read.
    tight: bool,
}

const WAYS: [Way; 3] = [
    Way { title: "Threads, each in its own memcg, with room", shared: false, tight: false },
    Way { title: "Threads, all in one memcg, with room", shared: true, tight: false },
    Way { title: "Threads, all in one memcg, the pool holds half of their pages", shared: true, tight: true },
];

pub(crate) fn tables(quick: bool) -> Vec<Table> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (most, operations) = if quick { (4, 10_000) } else { (64, 1_000_000) };
    WAYS.map(|way| {
        let title = format!("{} ({cores} cores): as many stores as loads, of 150 bytes each.", way.title);
        let costs = ["1000 operations a second", "p50, ns", "p99.9, us", "a word of them all, ns"];
        let mut table = Growing::new(&title, "threads", &costs);
        for threads in doublings(most) {
            let (rate, times) = run(way, threads, operations / threads);
            table.row(threads, &[rate / 1e3, times.quantile(0.5), times.quantile(0.999) / 1e3, shared(threads)]);
        }
        table.end()
    })
    .into()
}

fn run(way: Way, threads: usize, operations: usize) -> (f64, Histogram) {
    let limit = if way.tight { (PAGES * 150 / 2) as u64 } else { 4 << 30 };
    let builder = Zswap::builder().pool_limit(limit).automatic_compaction(None).compressing_threads(threads);
    let device = DeviceOptions::device(MemoryDevice::new(64 << 20, 4096));
    let zswap = if way.tight { builder.swap(device) } else { builder }.build().expect("an instance");
    let slots = zswap.reserve(PAGES as u64).expect("slots without end");
    let all = zswap.root().mkdir("all").expect("a fresh name");
    let groups: Vec<Memcg> = (0..threads)
        .map(|k| if way.shared { all.clone() } else { all.mkdir(&format!("vm{k}")).expect("a fresh name") })
        .collect();
    let (mut times, mut spans) = (Histogram::default(), vec![]);
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|k| {
                let (zswap, group, barrier) = (&zswap, &groups[k], &barrier);
                let own = PAGES / threads;
                let base = slots.base() + (k * own) as u64;
                scope.spawn(move || work(zswap, group, base, own, k, operations, barrier))
            })
            .collect();
        for worker in workers {
            let (of_one, span) = worker.join().expect("no worker panics");
            times.add(&of_one);
            spans.push(span);
        }
    });
    (times.count() as f64 / from_first_to_last(&spans), times)
}

/// Seconds from when the first began until the last ended.
fn from_first_to_last(spans: &[(Instant, Instant)]) -> f64 {
    let first = spans.iter().map(|span| span.0).min().expect("there is a thread");
    let last = spans.iter().map(|span| span.1).max().expect("there is a thread");
    (last - first).as_secs_f64()
}

/// What adding to one word takes that all threads add to, as a charge does near a limit: the floor of what contention costs.
fn shared(threads: usize) -> f64 {
    const ADDITIONS: usize = 2_000_000;
    let (word, barrier) = (AtomicU64::new(0), Barrier::new(threads));
    let spans: Vec<_> = std::thread::scope(|scope| {
        let add = || {
            barrier.wait();
            let start = Instant::now();
            (0..ADDITIONS / threads).for_each(|_| _ = word.fetch_add(1, Ordering::Relaxed));
            (start, Instant::now())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(add)).collect();
        workers.into_iter().map(|worker| worker.join().expect("it only adds")).collect()
    });
    from_first_to_last(&spans) * 1e9 / ADDITIONS as f64
}

/// How long each operation took, and from when to when all of them did.
fn work(
    zswap: &Zswap,
    group: &Memcg,
    base: Slot,
    pages: usize,
    thread: usize,
    operations: usize,
    barrier: &Barrier,
) -> (Histogram, (Instant, Instant)) {
    let (mut page, mut back, mut noise) = (Page::zeroed(), Page::zeroed(), Noise(thread as u64));
    let mut times = Histogram::default();
    let mut store = |k: usize| {
        stamp(&mut page, k);
        zswap.store(base + k as u64, group, NodeId(0), &page).expect("there is room, or a device");
    };
    (0..pages).for_each(&mut store);
    barrier.wait();
    let began = Instant::now();
    for turn in 0..operations {
        let k = noise.below(pages);
        let start = Instant::now();
        if turn % 2 == 0 {
            store(k);
        } else {
            zswap.load(base + k as u64, &mut back).expect("it is stored");
        }
        times.note(start.elapsed());
        assert!(turn % 2 == 0 || is_of(&back, k), "page {k} came back different");
    }
    (times, (began, Instant::now()))
}
