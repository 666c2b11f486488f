//! Whether the pages on the device are the cold ones: a trace, and the same trace through a perfect LRU.
//!
//! ```text
//!   3 of 4 accesses   a page of a Zipf distribution    in the pool: loaded; 1 in 4 is written and stored again
//!                                                      on the device: read, and stored again
//!   1 of 4            a page that never comes back     stored
//! ```
//!
//! The perfect LRU holds as many payload bytes as the pool did on average and knows every access: both count how often an access
//! had to read the device. What it still holds at the end, in as many bytes as the pool has then, is hot; of that the share is told
//! that lies on the device.

use crate::Scale;
use crate::device::Watched;
use crate::inputs::Noise;
use crate::measure::{Cell, Table};
use std::collections::BTreeMap;
use std::sync::Arc;
use zspool::memcg::{Event, Memcg};
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Builder, Error, Zswap};

/// Share of the trace's pages that the pool holds, about.
const HELD: f64 = 0.25;

/// Skew of the Zipf distribution.
const SKEW: f64 = 0.9;

/// An access of the trace.
#[derive(Clone, Copy)]
struct Access {
    page: usize,
    /// It writes the page.
    write: bool,
}

fn trace(pages: usize, accesses: usize) -> Vec<Access> {
    let mut noise = Noise(8);
    let order = noise.shuffled(pages);
    let mut sums = vec![0.0; pages];
    let mut sum = 0.0;
    for (rank, slot) in sums.iter_mut().enumerate() {
        sum += ((rank + 1) as f64).powf(-SKEW);
        *slot = sum;
    }
    let mut once = pages;
    let mut access = |_| {
        if noise.below(4) == 0 {
            once += 1;
            return Access { page: once - 1, write: true };
        }
        let at = noise.next() as f64 / u64::MAX as f64 * sum;
        let rank = sums.partition_point(|&sum| sum < at).min(pages - 1);
        Access { page: order[rank], write: noise.below(4) == 0 }
    };
    (0..accesses).map(&mut access).collect()
}

/// Which pages were accessed last, as many as fit in some bytes.
#[derive(Default)]
struct Lru {
    by_time: BTreeMap<usize, usize>,
    time_of: BTreeMap<usize, usize>,
    bytes: u64,
}

impl Lru {
    /// Access a page of so many bytes; whether it was there.
    fn access(&mut self, now: usize, page: usize, bytes_of: impl Fn(usize) -> u64, capacity: u64) -> bool {
        let there = self.time_of.insert(page, now);
        match there {
            Some(before) => _ = self.by_time.remove(&before),
            None => self.bytes += bytes_of(page),
        }
        self.by_time.insert(now, page);
        self.shrink(bytes_of, capacity);
        there.is_some()
    }

    /// Forget the coldest pages until so many bytes are left.
    fn shrink(&mut self, bytes_of: impl Fn(usize) -> u64, capacity: u64) {
        while self.bytes > capacity {
            let (_, coldest) = self.by_time.pop_first().expect("bytes are of pages");
            self.time_of.remove(&coldest);
            self.bytes -= bytes_of(coldest);
        }
    }
}

struct Run<'a> {
    zswap: Zswap,
    vm: Memcg,
    slots: SlotRange,
    pages: &'a [Page],
}

impl Run<'_> {
    fn page(&self, page: usize) -> &Page {
        &self.pages[page % self.pages.len()]
    }

    fn store(&self, page: usize) -> bool {
        let slot = self.slots.base() + page as u64;
        self.zswap.store(slot, &self.vm, NodeId(0), self.page(page)).is_ok()
    }

    /// Whether it lies on the device. A page in the pool counts as read.
    fn on_device(&self, page: usize) -> bool {
        let slot = self.slots.base() + page as u64;
        matches!(self.zswap.try_load(slot, &mut Page::zeroed()), Err(Error::NeedsIo { .. }))
    }
}

fn measure(name: &str, builder: Builder, pages: &[Page], trace: &[Access], payload: &[u64], table: &mut Table) {
    let named = trace.iter().map(|access| access.page).max().map_or(0, |page| page + 1);
    let total: u64 = payload.iter().sum();
    let device = Arc::new(Watched::new(MemoryDevice::new(1 << 30, 4096)));
    let builder = builder.pool_limit((total as f64 * HELD) as u64).device(Arc::clone(&device));
    let zswap = builder.build().expect("an instance");
    let vm = zswap.root().mkdir("vm").expect("a fresh name");
    let slots = zswap.reserve(named as u64).expect("slots without end");
    let run = Run { zswap, vm, slots, pages };

    // The first half fills the pool.
    let half = trace.len() / 2;
    let mut known = vec![false; named];
    let (mut held, mut reads, mut refused) = (vec![], 0_u64, 0_u64);
    let mut out = Page::zeroed();
    let mut written = 0;
    for (now, access) in trace.iter().enumerate() {
        if now == half {
            written = run.vm.stat().expect("it is online").events(Event::ZswpWb);
            refused = 0;
        }
        let page = access.page;
        let first = !std::mem::replace(&mut known[page], true);
        let mut away = false;
        if !first {
            let slot = run.slots.base() + page as u64;
            match run.zswap.try_load(slot, &mut out) {
                Err(Error::NeedsIo { .. }) => {
                    run.zswap.load(slot, &mut out).expect("the device keeps what it was given");
                    away = true;
                }
                // A refused store keeps the page with the client.
                Err(Error::NotStored { .. }) => away = true,
                other => other.expect("it was stored"),
            }
            reads += u64::from(away && now >= half);
        }
        if first || away || access.write {
            refused += u64::from(!run.store(page));
        }
        if now >= half && now % 64 == 0 {
            held.push(run.zswap.stats().pool.payload_bytes);
        }
    }
    run.zswap.quiesce();
    let written = run.vm.stat().expect("it is online").events(Event::ZswpWb) - written;
    let capacity = held.iter().sum::<u64>() / held.len().max(1) as u64;

    let bytes_of = |page: usize| payload[page % payload.len()];
    let (mut lru, mut misses) = (Lru::default(), 0_u64);
    let mut known = vec![false; named];
    for (now, access) in trace.iter().enumerate() {
        let there = lru.access(now, access.page, bytes_of, capacity);
        misses += u64::from(!there && std::mem::replace(&mut known[access.page], true) && now >= half);
        known[access.page] = true;
    }
    lru.shrink(bytes_of, run.zswap.stats().pool.payload_bytes);
    let hot: Vec<usize> = lru.time_of.keys().copied().collect();
    let inverted = hot.iter().filter(|&&page| run.on_device(page)).count();
    table.row(vec![
        Cell::text(name),
        Cell::number(capacity as f64 / f64::from(1 << 20), 1),
        Cell::count(written),
        Cell::number(refused as f64 / (trace.len() - half) as f64 * 100.0, 2),
        Cell::count(hot.len() as u64),
        Cell::number(inverted as f64 / hot.len().max(1) as f64 * 100.0, 1),
        Cell::count(reads),
        Cell::number(reads as f64 / misses.max(1) as f64, 2),
    ]);
}

pub(crate) fn table(pages: &[Page], scale: &Scale) -> Table {
    let pages = &pages[..pages.len().min(scale.accesses / 10)];
    let heads = [
        "writeback",
        "MiB held",
        "pages written",
        "refused, %",
        "hot pages",
        "of them on the device, %",
        "accesses that read the device",
        "over a perfect LRU's",
    ];
    let title = format!(
        "Inversion: {} accesses to {} pages (Zipf, {SKEW}), a quarter to pages that never come back; the second half counts.",
        scale.accesses,
        pages.len()
    );
    let mut table = Table::new(title, &heads);
    let trace = trace(pages.len(), scale.accesses);
    let mut context = zspool::compress::Context::new();
    let payload: Vec<u64> = pages
        .iter()
        .map(|page| {
            use zspool::compress::{Codec, Compressed, Lz4};
            match Lz4.compress(&mut context, page) {
                Compressed::Bytes(bytes) => bytes.len() as u64,
                Compressed::Incompressible => page.len() as u64,
            }
        })
        .collect();
    let mut row = |name: &str, builder: Builder| measure(name, builder, pages, &trace, &payload, &mut table);
    row("worker, batch of 64", Zswap::builder());
    row("the same, a new entry is referenced", Zswap::builder().new_is_referenced(true));
    row("worker, batch of 1", Zswap::builder().scan(1, 1));
    row("no worker, batch of 64", Zswap::builder().worker(false));
    table.end()
}
