//! Pages that do not shrink, at a limit: none is taken out for nothing, and what comes of it is counted.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/guest.rs"]
#[allow(dead_code, reason = "of a file that several tests share")]
mod guest;

use guest::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zspool::guest::policy::{PlainFifo, Random};
use zspool::guest::{Engine, EngineBuilder, Vm, VmOptions, VmStats};
use zspool::memcg::{Counter, Memcg, MemcgEvent};
use zspool::swap::MemoryDevice;
use zspool::zswap::Zswap;

const M: u64 = 1 << 20;
const PAGES: usize = 4096;

fn builder(device: u64) -> EngineBuilder {
    let zswap = Zswap::builder().pool_limit(64 * M);
    let zswap = if device > 0 { zswap.device(MemoryDevice::new(device as usize, 4096)) } else { zswap };
    Engine::builder(zswap.build().unwrap())
}

/// A guest whose faults are served in the thread that touches it.
struct Bed {
    engine: Engine,
    memcg: Memcg,
    vm: Vm,
    guest: Guest,
}

impl Bed {
    fn new(builder: EngineBuilder, max: u64) -> Bed {
        let engine = builder.build().unwrap();
        let memcg = engine.root().mkdir("vm").unwrap();
        let vm = engine.vm(&memcg, VmOptions::new()).unwrap();
        memcg.write_file("memory.max", &max.to_string()).unwrap();
        let guest = Guest::served(&vm, PAGES);
        Bed { engine, memcg, vm, guest }
    }

    /// Write a page that does not shrink.
    fn write_noise(&self, page: usize, version: u64) {
        for (k, word) in noise(page, version).enumerate() {
            // SAFETY: inside the mapping, served; one thread.
            unsafe { self.guest.mapping.at(page).wrapping_add(k).write_volatile(word) };
        }
    }

    fn check_noise(&self, page: usize, version: u64) {
        for (k, word) in noise(page, version).enumerate() {
            // SAFETY: as above.
            let found = unsafe { self.guest.mapping.at(page).wrapping_add(k).read_volatile() };
            assert_eq!(found, word, "word {k} of page {page}");
        }
    }

    fn usage(&self) -> u64 {
        self.memcg.current(Counter::Memory)
    }

    /// At a quiet point: everything is where it is counted.
    fn adds_up(&self) -> VmStats {
        self.engine.quiesce();
        let stats = self.vm.stats();
        assert_eq!(stats.charged(), self.usage(), "{stats:?}");
        assert_eq!(stats.on_device_into, self.memcg.current(Counter::Swap));
        assert_eq!(self.engine.zswap().stats().incompressible_pages, 0, "none is stored as it is in the pool");
        let all = stats.resident + stats.staged + stats.compressed + stats.on_device + stats.same_filled;
        assert_eq!(all, PAGES as u64 * 4096, "every page is somewhere: {stats:?}");
        assert!(stats.incompressible <= stats.resident + stats.staged);
        self.engine.assert_valid();
        self.guest.region().assert_valid();
        stats
    }

    /// The memory goes back, and nothing is counted any more.
    fn end(self) {
        self.memcg.write_file("memory.max", "max").unwrap();
        self.guest.unregister();
        let stats = self.vm.stats();
        assert_eq!((stats.incompressible, stats.resident, self.memcg.current(Counter::Memory)), (0, 0, 0));
    }
}

fn noise(page: usize, version: u64) -> impl Iterator<Item = u64> {
    let mut x = (page as u64) << 20 | version << 1 | 1;
    (0..PAGE / 8).map(move |_| {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let y = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (y ^ y >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}

/// Say what it cost: once in a while somebody wants to know.
fn told(what: &str, stats: &VmStats) {
    let VmStats { put_away, put_back, taken_out, overshoot_bytes, incompressible, .. } = stats;
    println!(
        "{what}: {} faults, {taken_out} pages taken out, {put_away} put away, {put_back} put back; {incompressible} bytes do not shrink, \
         {overshoot_bytes} past the limit",
        stats.all_faults()
    );
}

/// All pages are noise, there is no device, and the limit is half: what is over it stays, is counted, and costs nothing more.
fn noise_stays(builder: EngineBuilder) {
    let bed = Bed::new(builder, PAGES as u64 * 4096 / 2);
    (0..PAGES).for_each(|page| bed.write_noise(page, 1));
    for round in 0..4 {
        shuffled(0..PAGES, round).into_iter().for_each(|page| bed.check_noise(page, 1));
    }
    let stats = bed.adds_up();
    told("noise", &stats);
    assert_eq!((stats.compressed, stats.on_device), (0, 0), "{stats:?}");
    assert_eq!(stats.resident + stats.staged, PAGES as u64 * 4096);
    assert!(stats.overshoot_bytes >= PAGES as u64 * 4096 / 2 && bed.memcg.overshoot() > 0, "{stats:?}");
    assert!(bed.memcg.events(MemcgEvent::Overshoot) > 0);
    assert!(stats.incompressible >= PAGES as u64 * 4096 / 2, "one look says what it is: {stats:?}");
    // Each was met once, perhaps twice (a test may take as long as a rest), and came in once; some were touched while they were staged.
    assert!(stats.put_back <= 3 * PAGES as u64, "{stats:?}");
    assert!(stats.all_faults() <= 3 * PAGES as u64, "{stats:?}");
    bed.end();
}

#[test]
fn noise_without_a_device_stays_and_is_counted() {
    within_a_minute(|| {
        noise_stays(builder(0));
        noise_stays(builder(0).evictor(false));
        noise_stays(builder(0).policy(PlainFifo));
        noise_stays(builder(0).policy(Random::seeded(1)));
    });
}

/// Every other page is noise, and the limit has room for that and for what the others come to.
fn others_go(builder: EngineBuilder) {
    let max = PAGES as u64 * 4096 * 3 / 4;
    let bed = Bed::new(builder, max);
    let write = |page: usize, version| match page % 2 {
        0 => bed.guest.write(page, version),
        _ => bed.write_noise(page, version),
    };
    let mut most = 0;
    for version in 0..3 {
        for page in shuffled(0..PAGES, version) {
            write(page, version);
            most = most.max(bed.usage());
        }
    }
    for page in shuffled(0..PAGES, 9) {
        if page.is_multiple_of(2) {
            bed.guest.check(page, 2)
        } else {
            bed.check_noise(page, 2)
        }
        most = most.max(bed.usage());
    }
    let stats = bed.adds_up();
    told("mixed", &stats);
    assert!(most <= max, "{most} bytes were charged, of {max}");
    assert_eq!((stats.overshoot_bytes, bed.memcg.overshoot()), (0, 0), "{stats:?}");
    assert!(stats.compressed > 0 && stats.compressed <= PAGES as u64 / 2 * 4096, "noise went: {stats:?}");
    assert!(stats.incompressible > 0 && stats.incompressible <= PAGES as u64 / 2 * 4096, "{stats:?}");
    assert!(stats.put_back <= 2 * PAGES as u64, "{stats:?}");
    bed.end();
}

#[test]
fn of_mixed_pages_those_go_that_shrink_and_the_limit_holds() {
    within_a_minute(|| {
        others_go(builder(0));
        others_go(builder(0).evictor(false));
        others_go(builder(0).evictor(false).staged_ahead(0));
    });
}

#[test]
fn behind_noise_of_any_length_what_shrinks_is_found() {
    within_a_minute(|| {
        for evictor in [true, false] {
            let max = PAGES as u64 * 4096 * 7 / 8;
            let bed = Bed::new(builder(0).evictor(evictor), max);
            // The hand meets three quarters of noise first, and then the rest.
            (0..PAGES).for_each(
                |page| if page < PAGES * 3 / 4 { bed.write_noise(page, 1) } else { bed.guest.write(page, 1) },
            );
            let stats = bed.adds_up();
            told("noise first", &stats);
            assert_eq!((stats.overshoot_bytes, bed.usage() <= max), (0, true), "{stats:?}");
            (0..PAGES * 3 / 4).for_each(|page| bed.check_noise(page, 1));
            bed.end();
        }
    });
}

#[test]
fn noise_goes_to_a_device_without_staying_in_the_pool() {
    within_a_minute(|| {
        let max = PAGES as u64 * 4096 / 2;
        let bed = Bed::new(builder(64 * M), max);
        let most = Arc::new(AtomicU64::new(0));
        let (theirs, memcg) = (Arc::clone(&most), bed.memcg.clone());
        let watch = Watch::over(move || theirs.fetch_max(memcg.current(Counter::Memory), Ordering::Relaxed));
        (0..PAGES).for_each(|page| bed.write_noise(page, 1));
        shuffled(0..PAGES, 3).into_iter().for_each(|page| bed.check_noise(page, 1));
        watch.most();
        let stats = bed.adds_up();
        told("noise over a device", &stats);
        assert!(most.load(Ordering::Relaxed) <= max, "{most:?} bytes were charged, of {max}");
        assert_eq!((stats.overshoot_bytes, stats.incompressible, stats.put_back), (0, 0, 0), "{stats:?}");
        assert!(stats.on_device >= PAGES as u64 * 4096 / 2, "{stats:?}");
        assert!(stats.compressed == 0 && bed.engine.zswap().stats().written_through >= PAGES as u64 / 2);
        bed.end();
    });
}

#[test]
fn a_device_takes_noise_up_to_what_swap_max_and_its_room_allow() {
    within_a_minute(|| {
        for (device, swap_max) in [(64 * M, M), (2 * M, u64::MAX)] {
            let bed = Bed::new(builder(device), PAGES as u64 * 4096 / 2);
            if swap_max != u64::MAX {
                bed.memcg.write_file("memory.swap.max", &swap_max.to_string()).unwrap();
            }
            (0..PAGES).for_each(|page| bed.write_noise(page, 1));
            let swap = bed.memcg.current(Counter::Swap);
            assert!(swap > 0 && swap <= swap_max.min(device), "{swap}");
            shuffled(0..PAGES, 3).into_iter().for_each(|page| bed.check_noise(page, 1));
            let stats = bed.adds_up();
            told("noise over a small device", &stats);
            assert!(stats.overshoot_bytes > 0 && stats.incompressible > 0 && stats.on_device > 0, "{stats:?}");
            bed.end();
        }
        let bed = Bed::new(builder(64 * M), PAGES as u64 * 4096 / 2);
        bed.memcg.write_file("memory.zswap.writeback", "0").unwrap();
        (0..PAGES).for_each(|page| bed.write_noise(page, 1));
        let stats = bed.adds_up();
        assert!(stats.on_device == 0 && stats.overshoot_bytes > 0, "nothing may be written: {stats:?}");
        bed.end();
    });
}

#[test]
fn what_did_not_shrink_is_tried_again_after_a_rest() {
    within_a_minute(|| {
        let clock = zspool::sync::Clock::settable();
        let bed = Bed::new(builder(0).evictor(false).clock(clock.clone()), PAGES as u64 * 4096);
        (0..PAGES).for_each(|page| bed.write_noise(page, 1));
        let reclaim = || bed.memcg.write_file("memory.reclaim", "4M source=anon");
        assert!(reclaim().is_err(), "there is nothing to win");
        let once = bed.adds_up();
        assert_eq!((once.put_back, once.incompressible), (PAGES as u64, PAGES as u64 * 4096), "{once:?}");
        // It rests, whatever is asked and whatever it is by now.
        (0..PAGES).for_each(|page| bed.guest.write(page, 2));
        assert!(reclaim().is_err());
        assert_eq!(bed.adds_up().put_back, PAGES as u64);
        // A minute later it is tried again.
        for second in 1..80 {
            clock.set(second * 1000);
            if second < 60 {
                assert!(reclaim().is_err());
            }
            drop(reclaim());
        }
        let then = bed.adds_up();
        assert!(then.compressed >= 4 * M && then.incompressible < once.incompressible, "{then:?}");
        assert_eq!(then.put_back, PAGES as u64, "{then:?}");
        // A call that says which pages does not ask how often.
        let out = bed.guest.region().evict(0..PAGES * PAGE);
        let stats = bed.adds_up();
        assert_eq!((stats.incompressible, stats.resident, out.stayed), (0, 0, 0), "{stats:?} {out:?}");
        (0..PAGES).for_each(|page| bed.guest.check(page, 2));
        bed.end();
    });
}

#[test]
fn a_page_thrown_away_is_not_known_any_more() {
    within_a_minute(|| {
        let bed = Bed::new(builder(0).evictor(false), PAGES as u64 * 4096);
        (0..PAGES).for_each(|page| bed.write_noise(page, 1));
        assert_eq!(bed.guest.region().evict(0..PAGES * PAGE).stayed, PAGES as u64);
        assert_eq!(bed.vm.stats().incompressible, PAGES as u64 * 4096);
        bed.guest.region().discard(0..100 * PAGE).unwrap();
        assert_eq!(bed.vm.stats().incompressible, (PAGES as u64 - 100) * 4096);
        (0..100).for_each(|page| bed.guest.write(page, 3));
        bed.memcg.write_file("memory.reclaim", "300K source=anon").unwrap();
        assert!(bed.adds_up().compressed >= 80 * 4096);
        (0..100).for_each(|page| bed.guest.check(page, 3));
        (100..PAGES).for_each(|page| bed.check_noise(page, 1));
        bed.end();
    });
}
