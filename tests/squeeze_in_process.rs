//! The main job inside this process, where somebody can watch: no limit is exceeded at any time, and everything adds up before,
//! between and after.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use support::*;
use zspool::memcg::{Event, Memcg};
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Stored, Zswap};

const N0: NodeId = NodeId(0);
const PAGES: u64 = 1500;
const THREADS: u64 = 4;

/// Page `k` of a source.
fn page(source: u64, k: u64) -> Page {
    any_page(source << 32 | k)
}

/// What the stores of one source said that they charged, for what may be still there.
struct Source {
    number: u64,
    memcg: Memcg,
    slots: SlotRange,
    limit: u64,
    in_slot: AtomicU64,
}

fn sources(zswap: &Zswap, limits: [u64; 3]) -> Vec<Source> {
    (0..)
        .zip(limits)
        .map(|(number, limit)| {
            let memcg = zswap.root().mkdir(&format!("source{number}")).unwrap();
            zswap.set_zswap_max(&memcg, limit).unwrap();
            Source { number, memcg, slots: zswap.reserve(PAGES).unwrap(), limit, in_slot: AtomicU64::new(0) }
        })
        .collect()
}

/// Run `work` for every page of every source, on several threads that mix the sources.
fn for_all(sources: &[Source], work: impl Fn(&Source, u64) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let work = &work;
            scope.spawn(move || {
                for n in (thread..PAGES * sources.len() as u64).step_by(THREADS as usize) {
                    // 7919 is prime to the number of pages: each once, in no order.
                    work(&sources[(n % sources.len() as u64) as usize], n / sources.len() as u64 * 7919 % PAGES);
                }
            });
        }
    });
}

fn store_all(zswap: &Zswap, sources: &[Source]) {
    for_all(sources, |source, k| {
        let stored = zswap.store(source.slots.get(k).unwrap(), &source.memcg, N0, &page(source.number, k)).unwrap();
        source.in_slot.fetch_add(u64::from(stored == Stored::SameFilled), Relaxed);
    });
    zswap.quiesce();
}

fn backed(zswap: &Zswap) -> u64 {
    zswap.arena().backed_bytes()
}

#[test]
fn no_limit_is_exceeded_and_every_counter_is_the_sum_over_objects() {
    let folder = tempfile::tempdir().unwrap();
    let base = || Zswap::builder().slots_in_use(1 << 17).address_space(256 << 20);

    // What it is without limits.
    let free = base().pool_limit(64 << 20).build().unwrap();
    let unlimited = sources(&free, [u64::MAX; 3]);
    store_all(&free, &unlimited);
    free.assert_valid();
    let (slot_bytes, frames) = (unlimited[1].memcg.usage(), backed(&free));
    drop(free);

    let path = folder.path().join("swap");
    let pool_limit = frames * 6 / 10;
    let zswap = base().pool_limit(pool_limit).swapfile(&path, 64 << 20).build().unwrap();
    let sources = sources(&zswap, [u64::MAX, slot_bytes / 4, u64::MAX]);
    let done = AtomicBool::new(false);
    let samples = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = 0u64;
            let mut most = 0;
            while !done.load(Relaxed) {
                let now = backed(&zswap);
                assert!(now <= pool_limit, "{now} bytes of frames where {pool_limit} are allowed");
                for source in &sources {
                    let now = source.memcg.usage();
                    assert!(now <= source.limit, "{now} bytes charged where {} are allowed", source.limit);
                }
                most = most.max(sources[1].memcg.usage());
                samples += 1;
            }
            assert!(most > sources[1].limit / 2, "the limit was never come near: {most}");
            samples
        });
        store_all(&zswap, &sources);
        zswap.assert_valid();
        for_all(&sources, |source, k| {
            let mut back = Page::zeroed();
            zswap.load(source.slots.get(k).unwrap(), &mut back).unwrap();
            assert!(back[..] == page(source.number, k)[..], "page {k} of source {}", source.number);
        });
        done.store(true, Relaxed);
        sampler.join().unwrap()
    });
    assert!(samples > 100, "{samples} samples");

    // At a quiet point: every page is in its slot, in the pool or in the file, and counted there once.
    zswap.assert_valid();
    let mut written_back = 0;
    for source in &sources {
        let stat = source.memcg.stat().unwrap();
        let (in_pool, in_file) = (stat.bytes.original / 4096, stat.events(Event::ZswpWb));
        assert_eq!(source.in_slot.load(Relaxed) + in_pool + in_file, PAGES);
        assert_eq!(stat.bytes.compressed, source.memcg.usage());
        written_back += in_file;
    }
    // Of three times as many; those that do not shrink go first, so that fewer make the same room.
    assert!(written_back >= PAGES * 3 / 4, "{written_back} pages on the device");
    let stats = zswap.stats();
    assert_eq!(stats.physical_pages, written_back);
    let full = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(full >= stats.area.unwrap().live_bytes, "{full} bytes of storage");

    // Everything is freed: nothing is left anywhere, not in memory and not in the file.
    for_all(&sources, |source, k| assert!(zswap.free(source.slots.get(k).unwrap())));
    zswap.quiesce();
    zswap.assert_valid();
    for source in &sources {
        assert_eq!((source.memcg.usage(), source.memcg.stat().unwrap().bytes), (0, Default::default()));
    }
    let stats = zswap.stats();
    assert_eq!((stats.pool.objects, stats.pool.slot_bytes, stats.pool.frame_bytes, stats.backed_bytes), (0, 0, 0, 0));
    assert_eq!((stats.physical_pages, stats.slot_table_bytes), (0, 0));
    assert_eq!(stats.area.unwrap().used_bytes, 0);
    let empty = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(empty <= 64 << 10, "{full} bytes of storage were {empty} after everything was freed");
    drop(zswap);
    assert!(!path.exists());
}
