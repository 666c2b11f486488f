//! Store, load, replace and free of pages through the whole crate, beside the floors: copying a page and the codec alone.
//!
//! ```text
//! zswap   root -> tenant (memory.zswap.max is set) -> user -> vm     pages are the vm's: three levels are charged below the root
//! floors  memcpy of a page into a log; compression into the log; decompression out of it, in random order
//! ```
//!
//! Pages are made here; with `ZSPOOL_PAGES=FOLDER` also taken from the `*.pages` files (flat 4096-byte pages) in that folder.
//! Ratios to the floors, interleaved so that a busy machine disturbs both sides alike, are printed by the bench `density`.

mod inputs;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use inputs::{Input, Noise};
use std::hint::black_box;
use std::time::{Duration, Instant};
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::memcg::Memcg;
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::Zswap;

/// Pages per input: 16 MiB, more than the caches near a core hold, as a store finds its pages.
const PAGES: usize = 4096;

/// An instance, and slots for as many pages as the input has.
struct Pool {
    zswap: Zswap,
    vm: Memcg,
    slots: SlotRange,
}

impl Pool {
    fn new(pages: usize) -> Self {
        let zswap = Zswap::builder().pool_limit(1 << 30).build().expect("an instance without a swapfile");
        let tenant = zswap.root().mkdir("tenant").expect("a fresh name");
        tenant.set_zswap_max(1 << 30).expect("it is online");
        let vm = tenant.mkdir("user").and_then(|user| user.mkdir("vm")).expect("fresh names");
        let slots = zswap.reserve(pages as u64).expect("slots without end");
        Pool { zswap, vm, slots }
    }

    fn store(&self, at: usize, page: &Page) {
        let stored = self.zswap.store(self.slots.base() + at as u64, &self.vm, NodeId(0), page);
        black_box(stored.expect("the pool has room for all pages"));
    }

    fn free(&self, at: usize) {
        self.zswap.free(self.slots.base() + at as u64);
    }

    fn fill(&self, pages: &[Page]) {
        pages.iter().enumerate().for_each(|(at, page)| self.store(at, page));
    }
}

/// Time `timed` over all pages as often as it takes for `iters` pages, and run `untimed` after each time.
fn rounds(iters: u64, pages: usize, mut timed: impl FnMut(usize), mut untimed: impl FnMut(usize)) -> Duration {
    let (mut left, mut sum) = (iters as usize, Duration::ZERO);
    while left > 0 {
        let n = left.min(pages);
        let start = Instant::now();
        (0..n).for_each(&mut timed);
        sum += start.elapsed();
        (0..n).for_each(&mut untimed);
        left -= n;
    }
    sum
}

fn floors(c: &mut Criterion, name: &str, pages: &[Page], order: &[usize]) {
    let mut group = c.benchmark_group("floor");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    let mut log = vec![0u8; pages.len() * PAGE_SIZE];
    group.bench_function(format!("memcpy/{name}"), |b| {
        let mut at = (0..pages.len()).cycle();
        b.iter(|| {
            let at = at.next().expect("without end");
            log[at * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(&pages[at][..]);
        });
    });

    let mut context = Context::new();
    let mut objects = vec![0..0; pages.len()];
    let mut end = 0;
    group.bench_function(format!("compress/{name}"), |b| {
        let mut at = (0..pages.len()).cycle();
        b.iter(|| {
            let at = at.next().expect("without end");
            end = if at == 0 { 0 } else { end };
            let bytes = match Lz4.compress(&mut context, &pages[at]) {
                Compressed::Bytes(bytes) => bytes,
                Compressed::Incompressible => &pages[at][..],
            };
            log[end..end + bytes.len()].copy_from_slice(bytes);
            objects[at] = end..end + bytes.len();
            end += bytes.len();
        });
    });
    // The last round of the measurement may have ended anywhere.
    end = 0;
    for (page, object) in pages.iter().zip(&mut objects) {
        let bytes = match Lz4.compress(&mut context, page) {
            Compressed::Bytes(bytes) => bytes,
            Compressed::Incompressible => &page[..],
        };
        log[end..end + bytes.len()].copy_from_slice(bytes);
        *object = end..end + bytes.len();
        end += bytes.len();
    }
    group.bench_function(format!("decompress/{name}"), |b| {
        let mut out = Page::zeroed();
        let mut at = order.iter().cycle();
        b.iter(|| {
            let bytes = &log[objects[*at.next().expect("without end")].clone()];
            match <&[u8; PAGE_SIZE]>::try_from(bytes) {
                Ok(raw) => out.copy_from_slice(raw),
                Err(_) => Lz4.decompress(bytes, &mut out).expect("it was compressed above"),
            }
            black_box(&out);
        });
    });
    group.finish();
}

fn zswap(c: &mut Criterion) {
    let mut inputs = vec![Input::Heap, Input::Mixed, Input::Noise];
    inputs.extend(inputs::files());
    for input in inputs {
        let (name, pages) = (input.name(), input.pages(PAGES));
        if pages.is_empty() {
            continue;
        }
        let mut noise = Noise(2);
        let (order, other) = (noise.shuffled(pages.len()), noise.shuffled(pages.len()));
        floors(c, &name, &pages, &order);

        let pool = Pool::new(pages.len());
        let mut group = c.benchmark_group("zswap");
        group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
        group.bench_function(format!("store/{name}"), |b| {
            b.iter_custom(|iters| rounds(iters, pages.len(), |at| pool.store(at, &pages[at]), |at| pool.free(at)));
        });
        pool.fill(&pages);
        group.bench_function(format!("load/{name}"), |b| {
            let mut out = Page::zeroed();
            let mut at = order.iter().cycle();
            b.iter(|| {
                let slot = pool.slots.base() + *at.next().expect("without end") as u64;
                pool.zswap.load(slot, &mut out).expect("it was stored");
                black_box(&out);
            });
        });
        group.bench_function(format!("replace/{name}"), |b| {
            let mut at = order.iter().zip(&other).cycle();
            b.iter(|| {
                let (&slot, &page) = at.next().expect("without end");
                pool.store(slot, &pages[page]);
            });
        });
        group.bench_function(format!("free/{name}"), |b| {
            b.iter_custom(|iters| {
                pool.fill(&pages);
                rounds(iters, pages.len(), |k| pool.free(order[k]), |k| pool.store(order[k], &pages[order[k]]))
            });
        });
        group.finish();
        pool.zswap.assert_valid();
    }
}

criterion_group!(benches, zswap);
criterion_main!(benches);
