//! Who is written back: by the policy for new entries, and with or without pages that do not shrink first.
//!
//! ```text
//!   access k of a trace: 4 in 5 to page p of the universe, p by Zipf (0.8); 1 in 5 to a page used once
//!
//!   taken    a guest's memory: resident pages (an LRU of an eighth of the universe) --evicted--> store
//!                                                     ^------------- take_with -----------------|
//!   kept     a cache: load, and it stays; 3 in 10 accesses store the page anew, as do the first and each that finds it on
//!            the device (it was brought in again)
//! ```
//!
//! The limit is a quarter of the slots that the universe would take, for the instance (`memory.zswap.max` of its memcg) as for
//! the perfect LRU beside it, which forgets nothing, sees every access, and evicts the coldest page only. Hot are the most
//! popular pages that would fit into half of the limit.

use crate::inputs::{Noise, noise_page};
use crate::{Scale, pages_that_shrink};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use zspool::memcg::{Event, Memcg};
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Error, Installed, Stored, Taken, Zswap};

/// Exponent of the distribution.
const ZIPF: f64 = 0.8;

/// One page in so many does not shrink.
const NOISE_EVERY: usize = 8;

/// Numbers of pages by how often they are wanted: 0 is the most popular.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=n).map(|rank| {
            sum += (rank as f64).powf(-ZIPF);
            sum
        });
        Zipf(weights.collect())
    }

    fn draw(&self, noise: &mut Noise) -> usize {
        let at = (noise.next() >> 11) as f64 / (1u64 << 53) as f64 * self.0[self.0.len() - 1];
        self.0.partition_point(|&sum| sum <= at).min(self.0.len() - 1)
    }
}

/// Pages by the time they were last used.
#[derive(Default)]
struct Order {
    times: HashMap<usize, u64>,
    pages: BTreeMap<u64, usize>,
    now: u64,
}

impl Order {
    fn touch(&mut self, page: usize) {
        self.remove(page);
        self.now += 1;
        self.times.insert(page, self.now);
        self.pages.insert(self.now, page);
    }

    fn remove(&mut self, page: usize) -> bool {
        let time = self.times.remove(&page);
        time.is_some_and(|time| self.pages.remove(&time).is_some())
    }

    fn pop_coldest(&mut self) -> Option<usize> {
        let (_, page) = self.pages.pop_first()?;
        self.times.remove(&page);
        Some(page)
    }

    fn len(&self) -> usize {
        self.times.len()
    }
}

/// Where pages go that a client stores.
trait Store {
    /// Store it, in place of what was there.
    fn put(&mut self, page: usize);
    /// Look at it where it stays, or take it away. Whether the device was read.
    fn get(&mut self, page: usize, take: bool) -> bool;
    /// It is no longer wanted.
    fn forget(&mut self, page: usize);
    /// Whether it lies on the device.
    fn is_on_device(&mut self, page: usize) -> bool;
    /// Pages written to the device.
    fn written(&self) -> u64;
}

/// What a trace came to.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    accesses: u64,
    reads: u64,
    hot_accesses: u64,
    hot_reads: u64,
    hot_written: u64,
    written: u64,
}

/// An instance under the limit.
struct Ours<'a> {
    zswap: Zswap,
    vm: Memcg,
    slots: SlotRange,
    pages: &'a [Page],
}

impl<'a> Ours<'a> {
    fn new(pages: &'a [Page], limit: u64, new_is_referenced: bool, raw_first: bool) -> Self {
        let zswap = Zswap::builder()
            .pool_limit(4 << 30)
            .device(MemoryDevice::new(pages.len() * 2 * PAGE_SIZE + (8 << 20), PAGE_SIZE))
            .new_is_referenced(new_is_referenced)
            .incompressible_first(raw_first)
            .sampling(None)
            .worker(false)
            .build()
            .expect("an instance");
        let vm = zswap.root().mkdir("vm").expect("a fresh name");
        vm.set_zswap_max(limit).expect("it is online");
        let slots = zswap.reserve(pages.len() as u64).expect("slots without end");
        Ours { zswap, vm, slots, pages }
    }
}

impl Store for Ours<'_> {
    fn put(&mut self, page: usize) {
        let slot = self.slots.base() + page as u64;
        self.zswap.store(slot, &self.vm, NodeId(0), &self.pages[page]).expect("the device has room for all");
    }

    fn get(&mut self, page: usize, take: bool) -> bool {
        let slot = self.slots.base() + page as u64;
        let mut out = Page::zeroed();
        let read = match self.zswap.try_load(slot, &mut out) {
            Ok(()) => false,
            Err(Error::NeedsIo { .. }) => true,
            Err(error) => panic!("page {page}: {error}"),
        };
        if take {
            let taken = self.zswap.take_with(slot, |_| Installed::Yes);
            assert_eq!(taken.expect("it is stored"), Taken::Freed);
        } else if read {
            self.zswap.load(slot, &mut out).expect("it is stored");
        }
        read
    }

    fn forget(&mut self, page: usize) {
        self.zswap.free(self.slots.base() + page as u64);
    }

    fn is_on_device(&mut self, page: usize) -> bool {
        let slot = self.slots.base() + page as u64;
        matches!(self.zswap.try_load(slot, &mut Page::zeroed()), Err(Error::NeedsIo { .. }))
    }

    fn written(&self) -> u64 {
        self.vm.stat().expect("it is online").events(Event::ZswpWb)
    }
}

/// What evicts the page that was used the longest ago, and knows.
struct Perfect<'a> {
    bytes: &'a [u64],
    order: Order,
    there: u64,
    limit: u64,
    on_device: HashMap<usize, ()>,
    written: u64,
}

impl Store for Perfect<'_> {
    fn put(&mut self, page: usize) {
        self.forget(page);
        while self.there + self.bytes[page] > self.limit {
            let coldest = self.order.pop_coldest().expect("what is there are pages");
            self.there -= self.bytes[coldest];
            self.on_device.insert(coldest, ());
            self.written += 1;
        }
        self.order.touch(page);
        self.there += self.bytes[page];
    }

    fn get(&mut self, page: usize, take: bool) -> bool {
        let read = self.is_on_device(page);
        if take {
            self.forget(page);
        } else if !read {
            self.order.touch(page);
        }
        read
    }

    fn forget(&mut self, page: usize) {
        if self.order.remove(page) {
            self.there -= self.bytes[page];
        }
        self.on_device.remove(&page);
    }

    fn is_on_device(&mut self, page: usize) -> bool {
        self.on_device.contains_key(&page)
    }

    fn written(&self) -> u64 {
        self.written
    }
}

/// A client's use of the pages below `universe`, and of those from there on once each.
struct Trace {
    accesses: usize,
    universe: usize,
    /// Pages below this rank are hot.
    hot: usize,
    taken: bool,
}

impl Trace {
    /// Run it. The numbers of pages that are used once go round: each is forgotten before it comes again.
    fn run(&self, store: &mut impl Store) -> Outcome {
        let (mut noise, zipf) = (Noise(5), Zipf::new(self.universe));
        let mut outcome = Outcome::default();
        let mut resident = Order::default();
        let mut stored = vec![false; 2 * self.universe];
        let mut once = 0;
        for _ in 0..self.accesses {
            let page = match noise.below(5) {
                0 => {
                    once = (once + 1) % self.universe;
                    let page = self.universe + once;
                    if std::mem::take(&mut stored[page]) {
                        store.forget(page);
                    }
                    resident.remove(page);
                    page
                }
                _ => zipf.draw(&mut noise),
            };
            let stores = noise.below(10) < 3;
            let is_hot = page < self.hot;
            outcome.accesses += 1;
            outcome.hot_accesses += u64::from(is_hot);
            let read = |outcome: &mut Outcome, store: &mut dyn FnMut() -> bool| {
                let read = store();
                outcome.reads += u64::from(read);
                // It was written back since it was stored last, once.
                outcome.hot_reads += u64::from(read && is_hot);
                outcome.hot_written += u64::from(read && is_hot);
                read
            };
            if self.taken {
                if std::mem::take(&mut stored[page]) {
                    read(&mut outcome, &mut || store.get(page, true));
                }
                resident.touch(page);
                if resident.len() > self.universe / 8 {
                    let coldest = resident.pop_coldest().expect("there are many");
                    store.put(coldest);
                    stored[coldest] = true;
                }
            } else {
                let brought_in = stored[page] && read(&mut outcome, &mut || store.get(page, false));
                if !stored[page] || brought_in || stores {
                    // Where it is stored anew without having been looked for, nothing was read.
                    store.put(page);
                    stored[page] = true;
                }
            }
        }
        outcome.written = store.written();
        for page in (0..self.hot).filter(|&page| stored[page]) {
            outcome.hot_written += u64::from(store.is_on_device(page));
        }
        outcome
    }
}

/// Bytes of the slot that each page takes.
fn slots_of(pages: &[Page]) -> Vec<u64> {
    let zswap = Zswap::builder().pool_limit(4 << 30).sampling(None).worker(false).build().expect("an instance");
    let slot = zswap.reserve(1).expect("slots without end").base();
    let bytes = pages.iter().map(|page| match zswap.store(slot, &zswap.root(), NodeId(0), page) {
        Ok(Stored::Compressed { slot_bytes, .. }) => slot_bytes as u64,
        Ok(Stored::Incompressible) => PAGE_SIZE as u64,
        other => panic!("inputs leave out pages that repeat a word: {other:?}"),
    });
    bytes.collect()
}

pub(crate) fn tables(scale: Scale) -> Vec<Value> {
    let (kind, mut pages) = pages_that_shrink(2 * scale.universe);
    let mut noise = Noise(6);
    for page in pages.iter_mut().step_by(NOISE_EVERY) {
        *page = noise_page(&mut noise);
    }
    // Neighbours in a file are alike; popularity has nothing to do with it.
    let order = noise.shuffled(pages.len());
    let pages: Vec<Page> = order.into_iter().map(|k| pages[k].clone()).collect();
    let universe = pages.len() / 2;
    let bytes = slots_of(&pages);
    let limit = bytes[..universe].iter().sum::<u64>() / 4;
    let mut sum = 0;
    let hot = bytes
        .iter()
        .take_while(|&&bytes| {
            sum += bytes;
            sum <= limit / 2
        })
        .count();
    println!("## Who is written back\n");
    println!(
        "{kind} pages, 1 in {NOISE_EVERY} noise; {universe} come back (Zipf {ZIPF}), {} accesses; the {hot} most popular are hot.\n",
        scale.accesses
    );
    println!(
        "| use | policy | reads from the device, % of accesses | of hot accesses, % | pages written | of them hot, % | reads \
         over a perfect LRU's |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    let mut numbers = vec![];
    for taken in [true, false] {
        let trace = Trace { accesses: scale.accesses, universe, hot, taken };
        let mut perfect =
            Perfect { bytes: &bytes, order: Order::default(), there: 0, limit, on_device: HashMap::new(), written: 0 };
        let perfect = trace.run(&mut perfect);
        let mut rows = vec![("perfect LRU".to_owned(), perfect)];
        for (new_is_referenced, raw_first) in [(false, true), (true, true), (false, false), (true, false)] {
            let mut ours = Ours::new(&pages, limit, new_is_referenced, raw_first);
            let outcome = trace.run(&mut ours);
            ours.zswap.assert_valid();
            let name = format!(
                "new {}, {}",
                if new_is_referenced { "twice" } else { "once" },
                if raw_first { "raw first" } else { "all alike" }
            );
            rows.push((name, outcome));
        }
        for (name, outcome) in rows {
            let percent = |n: u64, of: u64| 100.0 * n as f64 / of.max(1) as f64;
            let usage = if taken { "taken" } else { "kept" };
            let over = outcome.reads as f64 / perfect.reads as f64;
            println!(
                "| {usage} | {name} | {:.2} | {:.2} | {} | {:.1} | {over:.2} |",
                percent(outcome.reads, outcome.accesses),
                percent(outcome.hot_reads, outcome.hot_accesses),
                outcome.written,
                percent(outcome.hot_written, outcome.written),
            );
            numbers.push(json!({
                "use": usage, "policy": name, "accesses": outcome.accesses, "reads": outcome.reads,
                "hot_accesses": outcome.hot_accesses, "hot_reads": outcome.hot_reads,
                "hot_written": outcome.hot_written, "written": outcome.written, "over_perfect": over,
            }));
        }
    }
    println!();
    numbers
}
