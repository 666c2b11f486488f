//! Many memcgs with entries, for those who write them back.

use crate::device::Sink;
use crate::inputs::{Noise, heap_page};
use crate::measure::cpu_of_process;
use zspool::memcg::{Event, Memcg};
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::Zswap;

/// Far above everything that is stored.
const NO_LIMIT: u64 = 1 << 40;

/// Memcgs below one tenant, some of which have entries, all of the same page.
///
/// ```text
/// root - tenant - 0, 1, 2, ...  the first `used` of them have entries
/// ```
pub(crate) struct Tenants {
    pub(crate) zswap: Zswap,
    pub(crate) tenant: Memcg,
    pub(crate) memcgs: Vec<Memcg>,
    slots: SlotRange,
    used: usize,
    entries: usize,
    page: Page,
    /// For a page that repeats a word: a store that only looks whether the worker is needed.
    nudge: SlotRange,
}

impl Tenants {
    /// `memcgs` of which `used` have `entries` together, the same number each, of which `entries` is a multiple. Nothing is stored yet.
    pub(crate) fn new(memcgs: usize, used: usize, entries: usize) -> Self {
        Self::with(
            |tenant| (0..memcgs).map(|k| tenant.mkdir(&format!("{k}")).expect("a fresh name")).collect(),
            used,
            entries,
        )
    }

    /// Parents with children, of which each has `each` entries.
    pub(crate) fn in_families(parents: usize, children: usize, each: usize) -> Self {
        let make = |tenant: &Memcg| {
            let family = |parent| {
                let parent = tenant.mkdir(&format!("{parent}")).expect("a fresh name");
                (0..children).map(move |child| parent.mkdir(&format!("{child}")).expect("a fresh name"))
            };
            (0..parents).flat_map(family).collect()
        };
        Self::with(make, parents * children, parents * children * each)
    }

    fn with(make: impl FnOnce(&Memcg) -> Vec<Memcg>, used: usize, entries: usize) -> Self {
        let builder = Zswap::builder().pool_limit(NO_LIMIT).device(Sink(32 << 30)).automatic_compaction(None);
        let zswap = builder.build().expect("an instance");
        let tenant = zswap.root().mkdir("tenant").expect("a fresh name");
        let memcgs = make(&tenant);
        let slots = zswap.reserve(entries as u64).expect("slots without end");
        let nudge = zswap.reserve(1).expect("slots without end");
        // Small, so that many take little memory, and the same, so that bytes are entries.
        let mut page = Page::zeroed();
        page[..64].copy_from_slice(&heap_page(&mut Noise(6))[..64]);
        Tenants { zswap, tenant, memcgs, slots, used, entries, page, nudge }
    }

    /// Store all entries, memcg by memcg in turns, each in slots of its own that lie together; those that are stored already are
    /// replaced.
    pub(crate) fn fill(&self) {
        let each = self.entries / self.used;
        for k in 0..self.entries {
            let (memcg, page) = (k % self.used, k / self.used);
            let (slot, memcg) = (self.slots.base() + (memcg * each + page) as u64, &self.memcgs[memcg]);
            self.zswap.store(slot, memcg, NodeId(0), &self.page).expect("no limit is near");
        }
    }

    /// Payload bytes of an entry.
    pub(crate) fn entry_bytes(&self) -> u64 {
        let stats = self.zswap.stats();
        stats.pool.payload_bytes / stats.compressed_pages
    }

    /// Entries written back so far.
    pub(crate) fn written(&self) -> u64 {
        self.zswap.root().stat().expect("the root is online").events(Event::ZswpWb)
    }

    /// Entries written back so far by each memcg that has any.
    pub(crate) fn written_by_memcg(&self) -> Vec<f64> {
        let memcgs = self.memcgs[..self.used].iter();
        memcgs.map(|memcg| memcg.stat().expect("it is online").events(Event::ZswpWb) as f64).collect()
    }

    /// Have the worker write back until about a share of the pool is left. CPU seconds and entries written.
    pub(crate) fn run_down(&self, left: f64) -> (f64, u64) {
        let (arena, before) = (self.zswap.pool().arena(), self.written());
        let start = cpu_of_process();
        // The worker stops at 90 percent of the limit.
        arena.set_limit((arena.backed_bytes() as f64 * left / 0.9) as u64);
        self.zswap.store(self.nudge.base(), &self.zswap.root(), NodeId(0), &Page::zeroed()).expect("one word");
        self.zswap.quiesce();
        let seconds = cpu_of_process() - start;
        arena.set_limit(NO_LIMIT);
        (seconds, self.written() - before)
    }
}
