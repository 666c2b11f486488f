//! Stores that never stop, with a limit far below what they store (N-5).
//!
//! ```text
//!   1, 2, 8 threads   store page k, k+1, ... round and round      each page comes back when long written
//!        |
//!   pool of 8 MiB, or 8 memcgs of 1 MiB                           at the limit all the time
//!        |
//!   a swapfile, or a device of a set speed                        watched: every write
//! ```

use crate::Scale;
use crate::device::{Paced, Plain, Watched};
use crate::floor;
use crate::measure::{Cell, Histogram, Others, Table, cpu_of_process, median};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zspool::memcg::{Event, Memcg};
use zspool::swap::SwapFile;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::Zswap;

/// The pool's limit where that is what stores hit.
const POOL: u64 = 8 << 20;

/// The limit of each memcg where that is.
const MEMCG: u64 = 1 << 20;
const MEMCGS: usize = 8;

/// Bytes of the device: more than all pages as they are.
const DEVICE: u64 = 512 << 20;

/// Bytes of the floor's file: writes go round and round in it.
const FLOOR: u64 = 64 << 20;

/// A round counts as calm while others keep less of a core busy.
const CALM: f64 = 0.3;

/// The device of a set speed: a slow disk, 200 us a request and 60 MB a second.
fn paced() -> Paced {
    Paced::new(DEVICE, Duration::from_micros(200), 60e6)
}

/// What is on trial.
#[derive(Clone, Copy)]
struct Shape {
    disk: bool,
    /// Stores hit `memory.zswap.max`, not the pool's limit.
    memcg: bool,
    threads: usize,
    /// Entries a batch of the worker looks at, and a store at its memcg's limit.
    scan: (usize, usize),
}

struct Run<'a> {
    shape: Shape,
    pages: &'a [Page],
    zswap: Zswap,
    device: Arc<Watched>,
    memcgs: Vec<Memcg>,
    slots: SlotRange,
}

/// What a round came to.
struct Round {
    seconds: f64,
    stores: Histogram,
    refused: u64,
    /// Where each thread is.
    at: Vec<usize>,
}

/// A round and the floors after it.
struct Turn {
    round: Round,
    /// Cores that others kept busy.
    others: f64,
    /// Writes, walks, wake-ups of the worker, and pages written.
    requests: u64,
    shrinks: u64,
    wakes: u64,
    written: u64,
    /// Time of the device alone for the same writes, and bytes of the pipeline a second, over ours.
    over_device: f64,
    over_pipeline: f64,
    /// CPU time of a page: ours, in seconds, and the pipeline's over it.
    cpu: f64,
    cpu_over: f64,
    punching: Duration,
}

impl<'a> Run<'a> {
    fn new(shape: Shape, pages: &'a [Page], scale: &Scale) -> Self {
        let path = scale.dir.join(format!("zspool-bench.{}", std::process::id()));
        let device = Arc::new(if shape.disk {
            Watched::new(SwapFile::options().path(path).size(DEVICE).open().expect("a swapfile can be made in --dir"))
        } else {
            Watched::new(paced())
        });
        let (batch, store) = shape.scan;
        let builder = Zswap::builder().device(Arc::clone(&device)).scan(batch, store);
        let zswap = builder.pool_limit(if shape.memcg { 1 << 30 } else { POOL }).build().expect("an instance");
        let memcgs: Vec<_> = (0..MEMCGS).map(|k| zswap.root().mkdir(&format!("{k}")).expect("a fresh name")).collect();
        if shape.memcg {
            memcgs.iter().for_each(|memcg| memcg.set_zswap_max(MEMCG).expect("it is online"));
        }
        let slots = zswap.reserve(pages.len() as u64).expect("slots without end");
        Run { shape, pages, zswap, device, memcgs, slots }
    }

    /// Store for a while; `at` says where each thread goes on.
    fn round(&self, time: Duration, at: &[usize]) -> Round {
        let start = Instant::now();
        let threads = self.shape.threads;
        let parts: Vec<(Histogram, u64, usize)> = std::thread::scope(|scope| {
            let store = |thread: usize| {
                let (mut stores, mut refused, mut k) = (Histogram::default(), 0, at[thread]);
                let mut now = Instant::now();
                while now.duration_since(start) < time {
                    let slot = self.slots.base() + k as u64;
                    let stored = self.zswap.store(slot, &self.memcgs[k % MEMCGS], NodeId(0), &self.pages[k]);
                    let then = std::mem::replace(&mut now, Instant::now());
                    stores.note(now - then);
                    refused += u64::from(stored.is_err());
                    k = if k + threads < self.pages.len() { k + threads } else { thread };
                }
                (stores, refused, k)
            };
            let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || store(thread))).collect();
            threads.into_iter().map(|thread| thread.join().expect("stores do not panic")).collect()
        });
        let mut round =
            Round { seconds: start.elapsed().as_secs_f64(), stores: Histogram::default(), refused: 0, at: vec![] };
        for (stores, refused, at) in parts {
            round.stores.add(&stores);
            round.refused += refused;
            round.at.push(at);
        }
        round
    }

    fn written(&self) -> u64 {
        self.zswap.root().stat().expect("the root is online").events(Event::ZswpWb)
    }

    /// A round, and the same writes by the floors.
    fn turn(&self, at: &mut Vec<usize>, floor: &Plain, scale: &Scale) -> Turn {
        self.device.take();
        let (before, written, others) = (self.zswap.stats(), self.written(), Others::watch());
        let cpu = cpu_of_process();
        let round = self.round(scale.round, at);
        let cpu = (cpu_of_process() - cpu) / round.stores.count() as f64;
        let others = others.cores();
        let (after, written) = (self.zswap.stats(), self.written() - written);
        let seen = self.device.take();
        at.clone_from(&round.at);
        let (shrinks, wakes) = (after.shrinks - before.shrinks, after.worker_runs - before.worker_runs);
        // Not to the end of all tidying: on a busy disk that takes longer than the round.
        let _calm = self.device.hold_punches();
        // A paced device is known without being asked, and slower than any codec.
        let (over_device, over_pipeline, cpu_over) = if self.shape.disk {
            let len = (seen.written() as usize / seen.writes.len().max(1)).next_multiple_of(4096).max(4096);
            let pipeline = floor::pipeline(floor, self.pages, self.shape.threads, len, scale.round);
            let ours = seen.written() as f64 / round.seconds;
            (floor::alone(floor, &seen.writes) / round.seconds, ours / pipeline.bytes_per_second, pipeline.cpu / cpu)
        } else {
            let alone: f64 = seen.writes.iter().map(|&(_, len)| paced().time(len).as_secs_f64()).sum();
            (alone / round.seconds, f64::NAN, f64::NAN)
        };
        Turn {
            round,
            others,
            requests: seen.writes.len() as u64,
            shrinks,
            wakes,
            written,
            over_device,
            over_pipeline,
            cpu,
            cpu_over,
            punching: seen.punching,
        }
    }

    /// The calmest turns.
    fn turns(&self, floor: &Plain, scale: &Scale) -> Vec<Turn> {
        let mut at: Vec<_> = (0..self.shape.threads).collect();
        // Until it is full, and then some.
        while self.written() < self.pages.len() as u64 / 4 {
            at = self.round(scale.round / 10, &at).at;
        }
        let mut turns: Vec<Turn> = vec![];
        let calm = |turns: &[Turn]| turns.iter().filter(|turn| turn.others < CALM).count();
        while calm(&turns) < scale.rounds && turns.len() < 2 * scale.rounds {
            turns.push(self.turn(&mut at, floor, scale));
        }
        turns.sort_by(|a, b| a.others.total_cmp(&b.others));
        turns.truncate(scale.rounds);
        turns
    }

    fn measure(&self, floor: &Plain, scale: &Scale) -> Vec<Cell> {
        let turns = self.turns(floor, scale);
        let middle = |of: &dyn Fn(&Turn) -> f64| median(turns.iter().map(of).collect());
        let sum = |of: fn(&Turn) -> u64| turns.iter().map(of).sum::<u64>();
        let mut stores = Histogram::default();
        turns.iter().for_each(|turn| stores.add(&turn.round.stores));
        let written = sum(|turn| turn.written).max(1) as f64;
        let Shape { disk, memcg, threads, scan: (batch, store) } = self.shape;
        // The bounds are for batches as they are by default.
        let full = batch > 1;
        let bound = |cell: Cell, on: bool, bound: fn(Cell) -> Cell| if on { bound(cell) } else { cell };
        let refused = Cell::number(sum(|turn| turn.round.refused) as f64 / stores.count() as f64 * 100.0, 2);
        let over_device = Cell::number(middle(&|turn| turn.over_device), 2);
        vec![
            Cell::text(if disk { "swapfile" } else { "paced" }),
            Cell::text(if memcg { "memcgs" } else { "pool" }),
            Cell::count(threads as u64),
            Cell::text(format!("{batch}/{store}")),
            Cell::number(sum(|turn| turn.shrinks) as f64 / written, 3),
            Cell::number(sum(|turn| turn.wakes) as f64 * 1000.0 / written, 1),
            Cell::number(written / sum(|turn| turn.requests).max(1) as f64, 1),
            bound(refused, full, |cell| cell.at_most(1.0)),
            Cell::number(middle(&|turn| turn.round.stores.count() as f64 / turn.round.seconds) / 1e3, 1),
            bound(over_device, full && !memcg, |cell| cell.at_least(0.9)),
            if disk { Cell::number(middle(&|turn| turn.over_pipeline), 2) } else { Cell::none() },
            Cell::number(middle(&|turn| turn.cpu) * 1e6, 1),
            if disk { Cell::number(middle(&|turn| turn.cpu_over), 2) } else { Cell::none() },
            Cell::number(stores.quantile(0.5) / 1e3, 1),
            bound(Cell::number(stores.quantile(0.99) / 1e6, 2), full, |cell| cell.at_most(20.0)),
            Cell::number(stores.most() / 1e6, 1),
            Cell::number(middle(&|turn| turn.punching.as_secs_f64() / turn.round.seconds) * 100.0, 1),
            Cell::number(middle(&|turn| turn.others), 2),
        ]
    }
}

pub(crate) fn tables(pages: &[Page], scale: &Scale) -> Vec<Table> {
    let heads = [
        "device",
        "at its limit",
        "threads",
        "scan",
        "walks per page written",
        "wake-ups per 1000",
        "pages per write",
        "refused, %",
        "1000 stores a second",
        "over the device alone",
        "over codec and device",
        "CPU of a page, us",
        "codec's and device's over it",
        "p50, us",
        "p99, ms",
        "longest, ms",
        "punching, % of the time",
        "cores busy for others",
    ];
    let mut table = Table::new("Overload: stores at a limit that never stop; scan is worker's/store's.", &heads);
    let floor = Plain::new(&scale.dir, FLOOR);
    let pool = |disk, threads, batch| Shape { disk, memcg: false, threads, scan: (batch, batch) };
    let memcg = |disk, threads, store| Shape { disk, memcg: true, threads, scan: (64, store) };
    let mut shapes = vec![];
    for disk in [true, false] {
        shapes.extend([1, 2].map(|threads| pool(disk, threads, 64)));
        shapes.extend([1, 2, 8].map(|threads| memcg(disk, threads, 1)));
    }
    // As it was upstream before: an entry at a time; and half way.
    for disk in [true, false] {
        shapes.extend([1, 2].map(|threads| pool(disk, threads, 1)));
        shapes.extend([1, 2, 8].map(|threads| memcg(disk, threads, 16)));
    }
    for shape in shapes {
        let run = Run::new(shape, pages, scale);
        table.row(run.measure(&floor, scale));
    }
    vec![table.end()]
}
