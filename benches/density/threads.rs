//! What threads cost each other: two stores at a time, and a reader beside compaction.

use crate::Scale;
use crate::inputs::{Input, Noise};
use crate::subject::{LIMIT, compress, decompress, three_levels};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use zspool::compress::Context;
use zspool::memcg::Memcg;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zsmalloc::{Handle, Pool};
use zspool::zswap::Zswap;

/// Pages freed and stored again in one turn.
const CHUNK: usize = 256;

const OPERATIONS: [&str; 3] = ["store", "load", "replace"];

/// One thread's share of the work: does each operation over all its pages, and says how many seconds each took.
trait Worker: Send {
    fn round(&mut self, pages: &[Page], order: &[usize]) -> [f64; 3];
}

/// Seconds that `work` takes.
fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The codec and a log of its own.
struct Codec {
    context: Context,
    log: Vec<u8>,
    objects: Vec<std::ops::Range<usize>>,
    end: usize,
}

impl Codec {
    fn new(pages: usize) -> Self {
        let mut log = vec![0; pages * 4096];
        log.fill(1);
        Codec { context: Context::new(), log, objects: vec![0..0; pages], end: 0 }
    }

    fn put(&mut self, k: usize, page: &Page) {
        let bytes = compress(&mut self.context, &page[..]);
        let start = if self.end + bytes.len() > self.log.len() { 0 } else { self.end };
        self.end = start + bytes.len();
        self.log[start..self.end].copy_from_slice(bytes);
        self.objects[k] = start..self.end;
    }
}

impl Worker for Codec {
    fn round(&mut self, pages: &[Page], order: &[usize]) -> [f64; 3] {
        let mut out = Page::zeroed();
        let store = timed(|| order.iter().for_each(|&k| self.put(k, &pages[k])));
        let load = timed(|| {
            for &k in order {
                decompress(&self.log[self.objects[k].clone()], &mut out);
                black_box(&out);
            }
        });
        let replace = timed(|| order.iter().rev().for_each(|&k| self.put(k, &pages[order[k]])));
        [store, load, replace]
    }
}

/// A share of the slots of an instance that all threads use, for a memcg that they share too.
struct Share<'a> {
    zswap: &'a Zswap,
    vm: Memcg,
    slots: SlotRange,
}

impl Share<'_> {
    fn put(&self, k: usize, page: &Page) {
        self.zswap.store(self.slots.base() + k as u64, &self.vm, NodeId(0), page).expect("the pool has room");
    }
}

impl Worker for Share<'_> {
    fn round(&mut self, pages: &[Page], order: &[usize]) -> [f64; 3] {
        let mut out = Page::zeroed();
        let mut store = 0.0;
        for chunk in order.chunks(CHUNK) {
            for &k in chunk {
                self.zswap.free(self.slots.base() + k as u64);
            }
            store += timed(|| chunk.iter().for_each(|&k| self.put(k, &pages[k])));
        }
        let load = timed(|| {
            for &k in order {
                self.zswap.load(self.slots.base() + k as u64, &mut out).expect("it was stored");
                black_box(&out);
            }
        });
        let replace = timed(|| order.iter().rev().for_each(|&k| self.put(k, &pages[order[k]])));
        [store, load, replace]
    }
}

/// Run the workers at once, and take the longest of each operation.
fn together<W: Worker>(workers: &mut [W], pages: &[Page], order: &[usize]) -> [f64; 3] {
    let gate = std::sync::Barrier::new(workers.len());
    let mut longest = [0f64; 3];
    std::thread::scope(|scope| {
        let running: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let gate = &gate;
                scope.spawn(move || {
                    gate.wait();
                    worker.round(pages, order)
                })
            })
            .collect();
        for thread in running {
            let times = thread.join().expect("a worker does not panic");
            longest.iter_mut().zip(times).for_each(|(longest, time)| *longest = longest.max(time));
        }
    });
    longest
}

/// How much more two threads do than one, for the codec alone and for zswap, and one over the other.
pub(crate) fn scaling(inputs: &[Input], scale: Scale) {
    println!("Pages done by two threads in the time one needs for its share (2 is perfect), all in one memcg:\n");
    println!("| pages |{}", OPERATIONS.map(|name| format!(" {name}: codec | zswap | ratio, at least 0.95 |")).concat());
    println!("|---|{}", "---:|---:|---:|".repeat(3));
    for input in inputs {
        let pages = input.pages(scale.pages / 2);
        let order = Noise(5).shuffled(pages.len());
        let mut codecs = [Codec::new(pages.len()), Codec::new(pages.len())];
        let zswap = Zswap::builder().pool_limit(LIMIT).build().expect("an instance without a swapfile");
        let vm = three_levels(&zswap.root());
        let slots = || zswap.reserve(pages.len() as u64).expect("slots without end");
        let share = || Share { zswap: &zswap, vm: vm.clone(), slots: slots() };
        let mut shares = [share(), share()];
        for share in &shares {
            (0..pages.len()).for_each(|k| share.put(k, &pages[k]));
        }
        // The least disturbed of several rounds, one and two threads, codec and zswap in turns.
        let mut best = [[[f64::INFINITY; 3]; 2]; 2];
        for _ in 0..=scale.rounds {
            for threads in 1..=2 {
                let times = [
                    together(&mut codecs[..threads], &pages, &order),
                    together(&mut shares[..threads], &pages, &order),
                ];
                for (best, times) in best.iter_mut().zip(times) {
                    best[threads - 1].iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
                }
            }
        }
        print!("| {} |", input.name());
        for operation in 0..3 {
            let [codec, zswap] = best.map(|threads| 2.0 * threads[0][operation] / threads[1][operation]);
            print!(" {codec:.2} | {zswap:.2} | {:.3} |", zswap / codec);
        }
        println!();
    }
    println!();
}

// === a reader beside compaction ===

/// Sorted waits in nanoseconds of a reader of random objects, while another thread frees and inserts, and compacts or not.
fn waits(objects: &[Vec<u8>], compacting: bool, reads: usize) -> Vec<u32> {
    let pool = Pool::builder().limit(LIMIT).build().expect("a pool");
    // Every second object stays and is read; the others come and go.
    let insert = |k: usize| pool.insert(&objects[k]).expect("the pool has room");
    let handles: Vec<Handle> = (0..objects.len()).map(insert).collect();
    let (kept, mut going): (Vec<Handle>, Vec<usize>) = (handles.iter().copied().step_by(2).collect(), Vec::new());
    going.extend((1..objects.len()).step_by(2));
    let stop = AtomicBool::new(false);
    let mut waits = Vec::with_capacity(reads);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut noise = Noise(6);
            let mut others: Vec<(usize, Option<Handle>)> = going.iter().map(|&k| (k, Some(handles[k]))).collect();
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..others.len() / 4 {
                    let (k, handle) = &mut others[noise.below(going.len())];
                    match handle.take() {
                        Some(handle) => pool.remove(handle).expect("it is there"),
                        None => *handle = Some(insert(*k)),
                    }
                }
                if compacting {
                    let _ = pool.compact(u64::MAX);
                }
            }
        });
        let (mut noise, mut out) = (Noise(7), Page::zeroed());
        for _ in 0..reads {
            let handle = kept[noise.below(kept.len())];
            let start = Instant::now();
            let object = pool.get(handle).expect("it is kept");
            out[..object.len()].copy_from_slice(&object);
            drop(object);
            waits.push(start.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
            black_box(&out);
        }
        stop.store(true, Ordering::Relaxed);
    });
    waits.sort_unstable();
    waits
}

/// How long a reader waits with compaction running and without.
pub(crate) fn readers(inputs: &[Input], scale: Scale) {
    println!(
        "A reader's wait in ns, beside a thread that frees and inserts, without and with compaction all the time:\n"
    );
    println!("| pages | p50 | with | p99 | with | p99.9 | with | ratio of p99.9, goal 2 |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for input in inputs {
        let mut context = Context::new();
        let objects: Vec<Vec<u8>> =
            input.pages(scale.pages).iter().map(|page| compress(&mut context, &page[..]).to_vec()).collect();
        let reads = 40 * scale.pages;
        // Quarters of the reads in turns, so that what else the machine does falls on both alike.
        let mut both = [Vec::new(), Vec::new()];
        for _ in 0..4 {
            for (compacting, all) in both.iter_mut().enumerate() {
                all.extend(waits(&objects, compacting == 1, reads / 4));
            }
        }
        both.iter_mut().for_each(|all| all.sort_unstable());
        print!("| {} |", input.name());
        let at = |all: &[u32], share: f64| all[((all.len() - 1) as f64 * share) as usize];
        for share in [0.5, 0.99, 0.999] {
            print!(" {} | {} |", at(&both[0], share), at(&both[1], share));
        }
        println!(" {:.2} |", f64::from(at(&both[1], 0.999)) / f64::from(at(&both[0], 0.999)));
    }
    println!();
}
