//! What a slot costs, measured from outside: the kernel's word on the tables, the allocator's on the rest.
//!
//! Properties, at 0, 25, 50, 75 and 100% use of a range, used from its start or at random:
//!
//! 1. Words: a page per touched cluster and nothing else, so 8 bytes a slot.
//! 2. Links: a page per touched cluster with an object in the pool, so 8 more; none where all is same-filled, and
//!    none is left where all objects are gone from the pool.
//! 3. Reverse words: 8 bytes per object on the device, and 8 per segment in use.
//! 4. Directory and descriptors: at most 64 bytes a touched cluster, and what every instance begins with.
//! 5. [`Metadata`] says the same to the byte.

#![cfg(all(target_os = "linux", not(loom)))]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use support::*;
use zspool::memcg::Memcg;
use zspool::swap::MemoryDevice;
use zspool::units::{FRAME_SIZE, NodeId, Page, Slot};
use zspool::zswap::{Metadata, Shrunk, Zswap};

const N0: NodeId = NodeId(0);

/// Counts what a thread asks for and does not give back.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: all calls go to the system's allocator as they are; the counts are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> i64 {
    HELD.with(Cell::get)
}

/// Bytes of a table that the kernel has memory behind.
fn backed(zswap: &Zswap, table: &str) -> u64 {
    let tables = zswap.tables();
    let range = &tables.iter().find(|(name, _)| *name == table).expect("a table of this name").1;
    let (first, last) = (range.start / FRAME_SIZE, range.end.div_ceil(FRAME_SIZE));
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let mut words = vec![0u8; (last - first) * 8];
    pagemap.read_exact_at(&mut words, first as u64 * 8).unwrap();
    // Bit 63: present; bit 62: swapped out.
    let pages = words.chunks(8).filter(|word| u64::from_ne_bytes((*word).try_into().unwrap()) >> 62 != 0).count();
    (pages * FRAME_SIZE) as u64
}

/// What a page becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Same,
    Compressed,
    OnDevice,
}

#[derive(Clone, Copy, Debug)]
enum Mix {
    All(What),
    /// Every other slot compressed, the rest on the device.
    HalfAndHalf,
}

impl Mix {
    fn of(self, k: u64) -> What {
        match self {
            Mix::All(kind) => kind,
            Mix::HalfAndHalf if k.is_multiple_of(2) => What::Compressed,
            Mix::HalfAndHalf => What::OnDevice,
        }
    }
}

fn page_of(kind: What, k: u64) -> Page {
    if kind == What::Same { same_filled(k) } else { compressible(k, 700) }
}

fn same_filled(k: u64) -> Page {
    let mut page = Page::zeroed();
    page.chunks_mut(8).for_each(|word| word.copy_from_slice(&k.to_ne_bytes()));
    page
}

fn instance() -> Zswap {
    Zswap::builder()
        .pool_limit(64 << 20)
        .address_space(256 << 20)
        .slots_in_use(1 << 20)
        .worker(false)
        .device(MemoryDevice::new(32 << 20, 4096))
        .build()
        .unwrap()
}

fn write_back_all(zswap: &Zswap, memcg: &Memcg) {
    while zswap.shrink_memcg(memcg, 64) != Shrunk::NothingToScan {}
}

/// Whether a slot with such a page needs its link.
fn has_link(kind: What) -> bool {
    kind == What::Compressed
}

/// The kernel's and the allocator's word against the instance's.
fn check(zswap: &Zswap, allocated: i64, context: &str) -> Metadata {
    let metadata = zswap.metadata();
    assert_eq!(metadata.slot_words, backed(zswap, "words"), "words: {context}");
    assert_eq!(metadata.links, backed(zswap, "links"), "links: {context}");
    assert_eq!(metadata.counts, backed(zswap, "counts"), "counts: {context}");
    let directory = backed(zswap, "directory") + backed(zswap, "descriptors") + allocated as u64;
    assert_eq!(metadata.directory, directory, "directory: {context}");
    assert_eq!(zswap.stats().slot_table_bytes, metadata.total() - metadata.directory);
    metadata
}

/// Fill `share` percent of some clusters.
fn measure(mix: Mix, share: u64, at_random: bool) {
    const CLUSTERS: u64 = 5;
    let context = format!("{mix:?}, {share}%, {}", if at_random { "at random" } else { "from the start" });
    let zswap = instance();
    let (device, pool) = (zswap.root().mkdir("device").unwrap(), zswap.root().mkdir("pool").unwrap());
    let slots = zswap.reserve(CLUSTERS * 512).unwrap();
    let mut used: Vec<u64> = (0..slots.len()).collect();
    if at_random {
        let mut random = Random::new(5);
        (1..used.len()).rev().for_each(|k| used.swap(k, random.below(k as u64 + 1) as usize));
    }
    used.truncate((slots.len() * share / 100) as usize);

    // The first touch of every cluster, which is all that allocates for the slots.
    let mut touched: Vec<u64> = used.iter().map(|k| k / 512).collect();
    touched.sort_unstable();
    touched.dedup();
    let zero = Page::zeroed();
    zswap.store(zswap.reserve(1).unwrap().base(), &pool, N0, &zero).unwrap(); // what the first store of all makes
    let before = held();
    let descriptors = zswap.metadata().directory;
    for cluster in &touched {
        zswap.store(slots.base() + cluster * 512, &pool, N0, &zero).unwrap();
    }
    let grown = (held() - before) as u64;
    assert_eq!(zswap.metadata().directory - descriptors, grown, "a few clusters need no more table: {context}");
    for cluster in &touched {
        if !used.contains(&(cluster * 512)) {
            zswap.free(slots.base() + cluster * 512);
        }
    }
    for &k in &used {
        let kind = mix.of(k);
        let memcg = if kind == What::OnDevice { &device } else { &pool };
        zswap.store(slots.get(k).unwrap(), memcg, N0, &page_of(kind, k)).unwrap();
    }
    write_back_all(&zswap, &device);
    zswap.quiesce();
    zswap.assert_valid();

    let metadata = zswap.metadata();
    let n = touched.len() as u64;
    assert_eq!(metadata.touched_clusters, n + 1, "the one that was there first: {context}");
    assert_eq!(metadata.slot_words, 4096 * (n + 1), "{context}");
    let linked = (0..CLUSTERS).filter(|cluster| used.iter().any(|&k| k / 512 == *cluster && has_link(mix.of(k))));
    assert_eq!(metadata.links, 4096 * linked.count() as u64, "{context}");
    assert_eq!(metadata.slot_words, backed(&zswap, "words"), "words: {context}");
    assert_eq!(metadata.links, backed(&zswap, "links"), "links: {context}");
    assert_eq!((metadata.counts, backed(&zswap, "counts")), (0, 0), "{context}");

    let on_device = used.iter().filter(|&&k| mix.of(k) == What::OnDevice).count() as u64;
    let stats = zswap.stats();
    let segments = stats.area.unwrap().segments;
    let heads = 8 * (segments.all - segments.free);
    assert_eq!((stats.physical_pages, metadata.reverse_words), (on_device, 8 * on_device + heads), "{context}");

    // And all of it goes with the pages.
    assert_eq!(zswap.free_run(slots), used.len() as u64);
    zswap.quiesce();
    zswap.assert_valid();
    let left = zswap.metadata();
    assert_eq!((left.touched_clusters, left.slot_words, left.links), (1, 4096, 0), "{context}");
    assert_eq!(left.reverse_words, 0, "{context}");
    assert_eq!((backed(&zswap, "words"), backed(&zswap, "links")), (4096, 0), "{context}");
}

fn measure_all(mix: Mix) {
    for share in [0, 25, 50, 75, 100] {
        for at_random in [false, true] {
            measure(mix, share, at_random);
        }
    }
}

#[test]
fn same_filled_slots_cost_their_words() {
    measure_all(Mix::All(What::Same));
}

#[test]
fn compressed_slots_cost_words_and_links() {
    measure_all(Mix::All(What::Compressed));
}

#[test]
fn slots_on_a_device_cost_their_words() {
    measure_all(Mix::All(What::OnDevice));
}

#[test]
fn half_and_half_costs_words_and_links() {
    measure_all(Mix::HalfAndHalf);
}

#[test]
fn ten_thousand_slots_spread_over_a_tebi_of_slots_cost_a_page_each() {
    const SLOTS: u64 = 10_000;
    let zswap = Zswap::builder()
        .pool_limit(64 << 20)
        .address_space(256 << 20)
        .slots_in_use(1 << 24)
        .worker(false)
        .build()
        .unwrap();
    let range = zswap.reserve(1 << 40).unwrap();
    let mut random = Random::new(5);
    // Half of them hold objects.
    let pages = [same_filled(7), compressible(7, 300)];
    let mut at: Vec<Slot> = (0..SLOTS).map(|_| range.get(random.below(1 << 40)).unwrap()).collect();
    at.sort();
    at.dedup_by_key(|slot| slot.0 / 512);
    let spread = at.clone();
    (1..at.len()).rev().for_each(|k| at.swap(k, random.below(k as u64 + 1) as usize));
    assert!(at.len() as u64 > SLOTS - 10, "nearly every slot has a cluster of its own");

    let before = held();
    for &slot in &at {
        zswap.store(slot, &zswap.root(), N0, &pages[0]).unwrap();
    }
    let n = at.len() as u64;
    let metadata = check(&zswap, held() - before, "10,000 clusters");
    assert_eq!((metadata.touched_clusters, metadata.slot_words, metadata.links), (n, 4096 * n, 0));
    assert!(metadata.directory <= 64 * n, "{} bytes of directory for {n} clusters", metadata.directory);
    println!("directory and descriptors: {:.1} bytes a touched cluster", metadata.directory as f64 / n as f64);

    for &slot in at.iter().step_by(2) {
        zswap.store(slot, &zswap.root(), N0, &pages[1]).unwrap();
    }
    assert_eq!(zswap.metadata().links, 4096 * n.div_ceil(2));
    assert_eq!(backed(&zswap, "links"), 4096 * n.div_ceil(2));
    let mut back = Page::zeroed();
    for (k, &slot) in at.iter().enumerate() {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == pages[1 - k % 2][..]);
    }
    // A range of 2^40 slots is freed in time by what is there.
    assert_eq!(zswap.free_run(range), n);
    zswap.quiesce();
    zswap.assert_valid();
    let left = zswap.metadata();
    assert_eq!((left.touched_clusters, left.slot_words, left.links), (0, 0, 0));
    assert_eq!((backed(&zswap, "words"), backed(&zswap, "links")), (0, 0));
    assert!(spread.iter().all(|&slot| !zswap.is_stored(slot)));
}

#[test]
fn counts_cost_a_page_per_cluster_with_a_slot_that_needs_one() {
    let zswap = instance();
    let slots = zswap.reserve(8 * 512).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &zswap.root(), N0, &same_filled(slot.0)).unwrap();
    }
    let shared = [3, 5, 1000, 2000].map(|k| slots.get(k).unwrap()); // of three clusters
    for slot in shared {
        (2..=14).for_each(|n| assert_eq!(zswap.dup(slot).unwrap(), n));
    }
    assert_eq!((zswap.metadata().counts, backed(&zswap, "counts")), (0, 0), "14 references fit in the word");
    shared.iter().for_each(|&slot| assert_eq!(zswap.dup(slot).unwrap(), 15));
    assert_eq!((zswap.metadata().counts, backed(&zswap, "counts")), (3 * 4096, 3 * 4096));
    shared[1..].iter().for_each(|&slot| assert_eq!(zswap.put(slot).unwrap(), 14));
    zswap.quiesce();
    assert_eq!((zswap.metadata().counts, backed(&zswap, "counts")), (4096, 4096), "one slot needs it");
    zswap.free(shared[0]);
    zswap.quiesce();
    assert_eq!((zswap.metadata().counts, backed(&zswap, "counts")), (0, 0));
    zswap.assert_valid();
}

#[test]
fn links_that_nobody_discarded_go_when_their_cluster_is_used_for_pages_without_objects() {
    let zswap = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 10).worker(false).build().unwrap();
    let clusters = 2;
    let slots = zswap.reserve(512 * (clusters + 1)).unwrap();
    let slot = |cluster| slots.get(cluster * 512).unwrap();
    for cluster in 0..clusters {
        zswap.store(slot(cluster), &zswap.root(), N0, &compressible(cluster, 500)).unwrap();
    }
    let refused = zswap.store(slot(clusters), &zswap.root(), N0, &Page::zeroed());
    assert!(refused.is_err(), "all that may be in use are in use");
    zswap.free(slot(0));
    zswap.store(slot(clusters), &zswap.root(), N0, &Page::zeroed()).unwrap();
    zswap.assert_valid();
    zswap.quiesce();
    assert_eq!(zswap.metadata().links, 4096, "of the one cluster that has an object");
    zswap.assert_valid();
}
