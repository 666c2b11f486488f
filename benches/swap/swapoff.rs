//! How long it takes to take a device off: by what it holds, whatever else there is, and beside threads that go on.
//!
//! ```text
//!   pages --> leaving (all of them)      4 threads: load, store, free
//!               | swapoff
//!               +--> pool, or where that has no room: staying
//! ```

use crate::Scale;
use crate::inputs::Noise;
use crate::measure::{Cell, Others, Table, median};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use zspool::memcg::Cancel;
use zspool::swap::DeviceOptions;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{SwapoffReport, Zswap};

const THREADS: usize = 4;

/// Where no room is left in the pool.
const SMALL_POOL: u64 = 1 << 20;

/// What is on trial.
struct Shape {
    /// Where the objects have to go.
    to: &'static str,
    pool_limit: u64,
    /// The device holds one page in so many.
    one_in: usize,
    /// Slots in use beside, that are not on the device.
    beside: u64,
    threads: usize,
}

/// What a round came to.
struct Round {
    seconds: f64,
    report: SwapoffReport,
    /// Loads, stores and frees of all threads meanwhile.
    operations: u64,
    others: f64,
}

pub(crate) fn table(pages: &[Page], scale: &Scale) -> Table {
    let heads = [
        "objects go to",
        "it holds",
        "slots in use beside",
        "threads",
        "ms",
        "us an object",
        "MB/s of payload",
        "touched",
        "touched / live at the start",
        "raced",
        "operations of the threads, 1000/s",
        "cores busy for others",
    ];
    let mut table = Table::new("Swapoff of one of two devices.", &heads);
    let pool = Shape { to: "pool", pool_limit: 8 << 30, one_in: 1, beside: 0, threads: 0 };
    let device = Shape { to: "device", pool_limit: SMALL_POOL, ..pool };
    let shapes = [
        Shape { ..pool },
        Shape { one_in: 8, ..pool },
        Shape { beside: 1 << 20, ..pool },
        Shape { threads: THREADS, ..pool },
        Shape { ..device },
        Shape { one_in: 8, ..device },
        Shape { threads: THREADS, ..device },
    ];
    for shape in shapes {
        let rounds: Vec<_> = (0..scale.rounds.div_ceil(3)).map(|_| round(&shape, pages, scale)).collect();
        let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        let ratio = middle(&|round| round.report.touched as f64 / round.report.objects_at_start as f64);
        let ratio = Cell::number(ratio, 4);
        table.row(vec![
            Cell::text(shape.to),
            Cell::number(middle(&|round| round.report.objects_at_start as f64), 0),
            Cell::count(shape.beside),
            Cell::count(shape.threads as u64),
            Cell::number(middle(&|round| round.seconds) * 1e3, 1),
            Cell::number(middle(&|round| round.seconds / round.report.objects_at_start as f64) * 1e6, 2),
            Cell::number(middle(&|round| round.report.payload_bytes as f64 / round.seconds / 1e6), 0),
            Cell::number(middle(&|round| round.report.touched as f64), 0),
            if shape.threads == 0 { ratio.at_least(1.0).at_most(1.0) } else { ratio },
            Cell::number(middle(&|round| round.report.raced as f64), 0),
            Cell::number(middle(&|round| round.operations as f64 / round.seconds) / 1e3, 0),
            Cell::number(middle(&|round| round.others), 2),
        ]);
    }
    table.end()
}

fn round(shape: &Shape, pages: &[Page], scale: &Scale) -> Round {
    let path = |name: &str| scale.dir.join(format!("zspool-swap-bench-{name}.{}", std::process::id()));
    let size = (pages.len() * 4096) as u64 + (64 << 20);
    let options = |name, priority| DeviceOptions::path(path(name), size).tier(name, priority);
    let builder = Zswap::builder().pool_limit(8 << 30).worker(false);
    let zswap = builder.swap(options("staying", 0)).build().expect("an instance");
    let leaving = zswap.swapon(options("leaving", 1)).expect("a second device");
    let vm = zswap.root().mkdir("vm").expect("a fresh name");
    let held = pages.len() / shape.one_in;
    let slots = zswap.reserve(held as u64).expect("slots without end");
    for (k, page) in pages[..held].iter().enumerate() {
        zswap.store(slots.base() + k as u64, &vm, NodeId(0), page).expect("there is room");
    }
    let _ = vm.write_file("memory.reclaim", "1T source=zswap");
    assert_eq!(zswap.stats().physical_pages, held as u64);
    // Pages of zeroes: slots and nothing else.
    if shape.beside > 0 {
        let beside = zswap.reserve(shape.beside).expect("slots without end");
        let zeroes = Page::zeroed();
        (0..shape.beside).for_each(|k| _ = zswap.store(beside.base() + k, &vm, NodeId(0), &zeroes));
    }
    zswap.arena().set_limit(shape.pool_limit);

    let (stop, others) = (AtomicBool::new(false), Others::watch());
    let (mut seconds, mut report, mut operations) = (0.0, None, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shape.threads)
            .map(|thread| {
                let mine = (thread * held / THREADS, (thread + 1) * held / THREADS);
                let client = Client { zswap: &zswap, pages, slots, mine };
                let (stop, vm) = (&stop, &vm);
                scope.spawn(move || client.work(vm, stop))
            })
            .collect();
        let start = Instant::now();
        report = Some(zswap.swapoff(leaving, &Cancel::new(), |_| {}).expect("there is room"));
        seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        operations = threads.into_iter().map(|thread| thread.join().expect("what is loaded is what was stored")).sum();
    });
    let others = others.cores();
    assert!(zswap.devices().iter().all(|device| device.number != leaving), "it is off");
    if shape.threads == 0 {
        let mut back = Page::zeroed();
        for (k, page) in pages[..held].iter().enumerate() {
            zswap.load(slots.base() + k as u64, &mut back).expect("it was moved");
            assert!(back[..] == page[..], "page {k} came back different");
        }
    }
    Round { seconds, report: report.expect("it was run"), operations, others }
}

/// A thread with slots of its own.
struct Client<'a> {
    zswap: &'a Zswap,
    pages: &'a [Page],
    slots: SlotRange,
    /// From one page to another.
    mine: (usize, usize),
}

impl Client<'_> {
    /// Load, store and free until told to stop, and look at everything at the end; how many operations.
    fn work(&self, vm: &zspool::memcg::Memcg, stop: &AtomicBool) -> u64 {
        let (first, end) = self.mine;
        let mut noise = Noise(first as u64);
        // Which page each slot has now.
        let mut now: Vec<Option<usize>> = (first..end).map(Some).collect();
        let mut page = Page::zeroed();
        let mut check = |k: usize, has: Option<usize>| {
            if let Some(has) = has {
                self.zswap.load(self.slots.base() + k as u64, &mut page).expect("it is stored");
                assert!(page[..] == self.pages[has][..], "slot {k} came back different");
            }
        };
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            let at = noise.below(end - first);
            let (k, slot) = (first + at, self.slots.base() + (first + at) as u64);
            match noise.below(16) {
                0..12 => check(k, now[at]),
                12..15 => {
                    let other = noise.below(self.pages.len());
                    // Where neither pool nor device has room for it at the moment, the slot is empty now.
                    now[at] = self.zswap.store(slot, vm, NodeId(0), &self.pages[other]).is_ok().then_some(other);
                }
                _ => {
                    self.zswap.free(slot);
                    now[at] = None;
                }
            }
            done += 1;
        }
        now.iter().enumerate().for_each(|(at, &has)| check(first + at, has));
        done
    }
}
