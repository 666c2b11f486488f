//! Pages of real memory go out and come back: by calls, so that who serves faults has no part in it.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;
mod support;

use served::*;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, Error, FaultAround, Region, Service, Vm, VmOptions};
use zspool::zswap::Zswap;

/// One that nobody serves.
fn unserved(options: VmOptions) -> (Engine, Vm) {
    one(options.service(Service::None))
}

fn one(options: VmOptions) -> (Engine, Vm) {
    let engine = engine();
    let vm = vm(&engine, "vm", options).unwrap();
    (engine, vm)
}

#[test]
fn memory_in_use_is_found_leaves_and_comes_back() {
    within_a_minute(|| {
        let mapping = Mapping::new(1000);
        mapping.write(100..600, 1);
        let (engine, vm) = unserved(VmOptions::new());
        let region = mapping.register(&vm);
        assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), 500 * PAGE as u64, "what was there is charged");
        region.assert_valid();
        let evicted = vm.evict_all();
        assert_eq!((evicted.pages, evicted.stayed, evicted.refused, mapping.present()), (500, 0, 0, 0));
        region.assert_valid();
        engine.assert_valid();
        region.make_resident(100 * PAGE..600 * PAGE).unwrap();
        mapping.check(100..600, 1);
        assert_eq!(mapping.present(), 500);
        vm.evict_all();
        region.unregister().unwrap();
        mapping.check(100..600, 1);
        assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), 0);
        engine.assert_valid();
    });
}

#[test]
fn memory_in_use_that_is_larger_than_the_limit_is_taken_out_as_it_is_found() {
    within_a_minute(|| {
        let mapping = Mapping::new(1000);
        mapping.write(0..1000, 1);
        let zswap = Zswap::builder().pool_limit(64 << 20).build().unwrap();
        let engine = Engine::new(zswap).unwrap();
        let memcg = engine.root().mkdir("vm").unwrap();
        memcg.set_max(zspool::memcg::Counter::Memory, 600 * PAGE as u64).unwrap();
        let vm = engine.vm(&memcg, VmOptions::new()).unwrap();
        let region = mapping.register(&vm);
        assert_eq!(vm.stats().overshoot_bytes, 0, "there was always something to take out");
        assert!(mapping.present() <= 600, "{} pages are in memory", mapping.present());
        mapping.check(0..1000, 1);
        assert!(memcg.current(zspool::memcg::Counter::Memory) <= 600 * PAGE as u64);
        region.unregister().unwrap();
        mapping.check(0..1000, 1);
    });
}

#[test]
fn clean_pages_leave_without_the_codec() {
    within_a_minute(|| {
        let mapping = Mapping::new(64);
        mapping.write(0..64, 1);
        // What is protected for a copy's sake is written after a fault: the thread's own.
        let (engine, vm) = one(VmOptions::new().kept_bytes(1 << 20));
        let region = mapping.register(&vm);
        vm.evict_all();
        region.make_resident(0..64 * PAGE).unwrap();
        mapping.check(0..64, 1);
        region.assert_valid();
        let stores = engine.zswap().root().stat().unwrap().events(zspool::memcg::Event::ZswpOut);
        assert_eq!(vm.evict_all().pages, 64);
        assert_eq!(engine.zswap().root().stat().unwrap().events(zspool::memcg::Event::ZswpOut), stores);
        region.make_resident(0..64 * PAGE).unwrap();
        mapping.check(0..64, 1);
        region.unregister().unwrap();
        mapping.write(0..64, 2); // not protected any more
        mapping.check(0..64, 2);
    });
}

#[test]
fn discarded_pages_are_zeroes_and_cost_nothing() {
    within_a_minute(|| {
        let mapping = Mapping::new(300);
        mapping.write(0..300, 1);
        let (_engine, vm) = unserved(VmOptions::new());
        let region = mapping.register(&vm);
        region.evict(0..150 * PAGE);
        assert_eq!(region.discard(100 * PAGE..200 * PAGE).unwrap(), 100 * PAGE as u64);
        region.assert_valid();
        let pin = region.pin(0..300 * PAGE).unwrap();
        mapping.check(0..100, 1);
        mapping.check(200..300, 1);
        // SAFETY: inside the mapping.
        let byte = |at| unsafe { mapping.at(0).cast::<u8>().wrapping_add(at).read_volatile() };
        assert!((100 * PAGE..200 * PAGE).step_by(PAGE).all(|at| byte(at) == 0));
        assert_eq!(vm.evict_all().pages, 0, "all are pinned");
        assert!(matches!(region.discard(0..PAGE), Err(Error::Pinned { page: 0 })));
        drop(pin);
        assert_eq!(vm.evict_all().pages, 300);
        assert!(matches!(region.discard(0..PAGE + 1), Err(Error::Unaligned { .. })));
        assert!(matches!(region.pin(0..301 * PAGE), Err(Error::Outside { .. })));
    });
}

#[test]
fn what_is_nowhere_is_not_made_to_be_pinned() {
    within_a_minute(|| {
        let mapping = Mapping::new(300);
        mapping.write(10..60, 1);
        mapping.write(200..201, 1);
        let (_engine, vm) = unserved(VmOptions::new());
        let region = mapping.register(&vm);
        region.evict(0..40 * PAGE);
        let pin = region.pin_populated(0..300 * PAGE).unwrap();
        assert_eq!((vm.stats().resident, vm.stats().pinned), (51 * PAGE as u64, 51 * PAGE as u64));
        assert_eq!(vm.evict_all().pages, 0, "all are pinned that are somewhere");
        region.make_resident(60 * PAGE..62 * PAGE).unwrap();
        assert_eq!(vm.evict_all().pages, 2, "what came later is not");
        let again = region.pin_populated(59 * PAGE..201 * PAGE).unwrap();
        drop(pin);
        assert_eq!(vm.evict_all().pages, 49, "what is pinned twice stays");
        drop(again);
        assert_eq!((vm.evict_all().pages, vm.stats().pinned), (4, 0));
        region.assert_valid();
        assert!(matches!(region.pin_populated(0..301 * PAGE), Err(Error::Outside { .. })));
    });
}

#[test]
fn a_range_registered_twice_is_refused_and_can_be_had_again() {
    within_a_minute(|| {
        let mapping = Mapping::new(10);
        mapping.write(0..10, 3);
        let (_engine, vm) = unserved(VmOptions::new().fault_around(FaultAround::Off));
        let region = mapping.register(&vm);
        // SAFETY: refused.
        assert!(unsafe { vm.register(mapping.memory()) }.is_err());
        vm.evict_all();
        drop(region);
        mapping.check(0..10, 3);
        let region = mapping.register(&vm);
        vm.evict_all();
        let all = region.addresses();
        vm.make_resident(all.clone()).unwrap();
        let refused = vm.make_resident(all.end..all.end + PAGE).unwrap_err();
        assert!(matches!(refused, Error::Outside { ref inside, .. } if *inside == all), "{refused}");
        mapping.check(0..10, 3);
    });
}

#[test]
fn a_page_takes_255_pins_and_no_more() {
    within_a_minute(|| {
        let mapping = Mapping::new(3);
        mapping.write(0..3, 1);
        let (_engine, vm) = unserved(VmOptions::new());
        let region = mapping.register(&vm);
        let mut pins: Vec<_> = (0..255).map(|_| region.pin(PAGE..2 * PAGE).unwrap()).collect();
        let refused = region.pin(0..3 * PAGE).unwrap_err();
        assert!(matches!(refused, Error::TooManyPins { page: 1, most: 255 }), "{refused}");
        assert_eq!(vm.stats().pinned, PAGE as u64, "a refused pin holds nothing");
        assert_eq!(vm.evict_all().pages, 2);
        pins.pop();
        pins.push(region.pin(PAGE..2 * PAGE).unwrap());
        drop(pins);
        assert_eq!((vm.evict_all().pages, vm.stats().pinned), (1, 0));
        region.make_resident(0..3 * PAGE).unwrap();
        mapping.check(0..3, 1);
    });
}

/// The store holds no lock while it reads or writes a client's memory: a fault on that memory, which goes into the same store, is served
/// in the middle of a call.
#[test]
fn calls_of_the_store_touch_memory_whose_faults_go_into_the_same_store() {
    use zspool::swap::MemoryDevice;
    use zspool::units::{NodeId, Page};
    use zspool::zswap::{Installed, Shrunk, Taken};
    within_a_minute(|| {
        const PAGES: usize = 32;
        let mapping = Mapping::new(PAGES);
        mapping.write(0..PAGES, 1);
        let zswap = Zswap::builder().pool_limit(64 << 20).device(MemoryDevice::new(8 << 20, 4096)).build().unwrap();
        let engine = Engine::builder(zswap).evictor(false).build().unwrap();
        let [guests, own] = ["guests", "own"].map(|name| engine.root().mkdir(name).unwrap());
        let vm = engine.vm(&guests, VmOptions::new().fault_around(FaultAround::Off)).unwrap();
        let region = mapping.register(&vm);
        let zswap = engine.zswap();
        let slots = zswap.reserve(PAGES as u64).unwrap();
        let mut kept = Page::zeroed();
        for (k, on_device) in (0..PAGES / 2).flat_map(|k| [(k, false), (k, true)]) {
            let (slot, other) = (slots.get(k as u64).unwrap(), PAGES / 2 + k);
            let page = |k: usize| mapping.at(k).cast::<Page>();
            let out = || {
                assert!(vm.evict_all().pages > 0);
                if on_device {
                    assert!(matches!(zswap.shrink_memcg(&guests, 64), Shrunk::Written(_)));
                }
            };
            let faults = || vm.stats().all_faults();
            // Compressed from a page that is out; loaded into one; shown to somebody who writes to one.
            out();
            let before = faults();
            // SAFETY: a page of the test's, which it alone uses.
            let from = unsafe { &*page(k) };
            // SAFETY: as above, another one.
            let to = unsafe { &mut *page(other) };
            zswap.store(slot, &own, NodeId(0), from).unwrap();
            assert!(faults() > before, "the page was out");
            out();
            let before = faults();
            zswap.load(slot, to).unwrap();
            assert!(faults() > before, "the page was out");
            mapping.check(k..k + 1, 1);
            kept.copy_from_slice(&to[..]);
            out();
            let before = faults();
            let taken = zswap.take_with(slot, |page| {
                to.iter_mut().zip(&page[..]).for_each(|(to, &byte)| *to = !byte);
                Installed::Yes
            });
            assert_eq!(taken.unwrap(), Taken::Freed);
            assert!(faults() > before, "the page was out");
            assert!(to.iter().zip(&kept[..]).all(|(&turned, &byte)| turned == !byte));
            // SAFETY: as above.
            assert!(unsafe { &*page(k) }[..] == kept[..], "page {k} came through as it was");
        }
        region.unregister().unwrap();
        zswap.assert_valid();
    });
}

/// A word in each page, read and written by threads of a test's as a guest would.
fn cell(start: usize, page: usize) -> &'static std::sync::atomic::AtomicU64 {
    // SAFETY: the first word of a page of memory that outlives the threads, accessed as this alone.
    unsafe { &*std::ptr::with_exposed_provenance(start + page * PAGE) }
}

/// Threads write versions to pages of their own and check them, at a limit of a third, while others take the pages out, bring
/// them in, pin them and throw some away.
fn threads_at_a_limit(mapping: &Mapping, memory: Memory, options: VmOptions) {
    use std::sync::atomic::{AtomicBool, Ordering};
    const WRITERS: usize = 3;
    let pages = mapping.bytes / PAGE;
    let (mine, start) = (pages / (WRITERS + 1), mapping.start);
    let engine = Engine::new(Zswap::builder().pool_limit(256 << 20).build().unwrap()).unwrap();
    let memcg = engine.root().mkdir("vm").unwrap();
    memcg.set_max(zspool::memcg::Counter::Memory, (mapping.bytes / 3) as u64).unwrap();
    let vm = engine.vm(&memcg, options).unwrap();
    // SAFETY: the mapping outlives the region, and nobody changes what is mapped there.
    let region = unsafe { vm.register(memory) }.unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|t| {
                scope.spawn(move || {
                    let mut version = vec![0u64; mine];
                    let mut x = 88172645463325252u64 + t as u64;
                    for round in 0..30_000 {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        let k = if round % 4 == 0 { x as usize % mine } else { round / 8 % mine };
                        let cell = cell(start, t * mine + k);
                        assert_eq!(cell.load(Ordering::Relaxed), version[k], "page {k} of thread {t}, round {round}");
                        if x.is_multiple_of(3) {
                            version[k] = x;
                            cell.store(x, Ordering::Relaxed);
                        }
                    }
                    version
                })
            })
            .collect();
        let (region, stop) = (&region, &stop);
        let meddler = scope.spawn(move || {
            let mut round = 0usize;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let at = round * 7919 % pages;
                let range = at * PAGE..(at + 200).min(pages) * PAGE;
                match round % 5 {
                    0 => drop(region.evict(range)),
                    1 => drop(region.prefetch(range)),
                    2 => drop(region.pin(at * PAGE..(at + 1) * PAGE).unwrap()),
                    3 => drop(region.discard(WRITERS * mine * PAGE..pages * PAGE).unwrap()),
                    _ => region.make_resident(at * PAGE..(at + 20).min(pages) * PAGE).unwrap(),
                }
            }
        });
        let versions: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        meddler.join().unwrap();
        engine.quiesce();
        region.assert_valid();
        engine.assert_valid();
        for (t, versions) in versions.iter().enumerate() {
            for (k, &version) in versions.iter().enumerate() {
                assert_eq!(
                    cell(start, t * mine + k).load(Ordering::Relaxed),
                    version,
                    "page {k} of thread {t} in the end"
                );
            }
        }
    });
    region.unregister().unwrap();
    engine.assert_valid();
    assert_eq!(memcg.current(zspool::memcg::Counter::Memory), 0);
}

#[test]
fn no_write_is_lost_at_a_limit_in_anonymous_memory() {
    within_a_minute(|| {
        let mapping = Mapping::new(1200);
        threads_at_a_limit(&mapping, mapping.memory(), VmOptions::new());
    });
}

#[test]
fn no_write_is_lost_at_a_limit_with_kept_copies() {
    within_a_minute(|| {
        let mapping = Mapping::new(1200);
        threads_at_a_limit(&mapping, mapping.memory(), VmOptions::new().kept_bytes(1 << 20));
    });
}

#[test]
fn no_write_is_lost_at_a_limit_in_memory_that_is_protected_in_place() {
    within_a_minute(|| {
        let mapping = Mapping::new(1200);
        for kept in [0, 1 << 20] {
            let memory = mapping.memory().method(zspool::guest::memory::Method::Protect);
            mapping.clear();
            threads_at_a_limit(&mapping, memory, VmOptions::new().kept_bytes(kept));
        }
    });
}

#[test]
fn no_write_is_lost_at_a_limit_in_a_memfd() {
    within_a_minute(|| {
        for kept in [0, 1 << 20] {
            let (mapping, file) = memfd(1200);
            let memory = Memory::memfd(mapping.at(0).cast(), mapping.bytes, &file, 0);
            threads_at_a_limit(&mapping, memory, VmOptions::new().kept_bytes(kept));
        }
    });
}

#[test]
fn threads_use_memory_all_the_while_it_is_registered_and_unregistered() {
    use std::sync::atomic::{AtomicBool, Ordering};
    within_a_minute(|| {
        const PAGES: usize = 64;
        let mapping = Mapping::new(PAGES);
        let start = mapping.start;
        let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
        let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), VmOptions::new()).unwrap();
        let first = mapping.register(&vm); // the handler of faults is there from here on
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = &stop;
            let writers = (0..2).map(|t| {
                scope.spawn(move || {
                    let mut version = [0u64; PAGES];
                    let mut round = 0;
                    while !stop.load(Ordering::Relaxed) {
                        round += 1;
                        let page = round * 7 % (PAGES / 2) * 2 + t;
                        assert_eq!(
                            cell(start, page).load(Ordering::Relaxed),
                            version[page],
                            "page {page}, round {round}"
                        );
                        version[page] += 1;
                        cell(start, page).store(version[page], Ordering::Relaxed);
                    }
                    round
                })
            });
            let writers: Vec<_> = writers.collect();
            let mut region = Some(first);
            for round in 0..60 {
                let here = region.take().unwrap_or_else(|| mapping.register(&vm));
                here.evict(0..mapping.bytes);
                // Another one comes and goes beside it.
                let beside = Mapping::new(4);
                drop(beside.register(&vm));
                if round % 2 == 0 {
                    here.unregister().unwrap();
                } else {
                    drop(here);
                }
            }
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                assert!(writer.join().unwrap() > 0);
            }
        });
        engine.assert_valid();
        assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), 0);
    });
}

/// A region of 200 pages, the first 100 of which were on a device that lost everything.
fn half_lost(mapping: &Mapping) -> (Engine, Vm, Region) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let zswap = Zswap::builder().pool_limit(64 << 20).swapfile(&path, 16 << 20).worker(false).build().unwrap();
    let engine = Engine::builder(zswap).evictor(false).build().unwrap();
    let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), VmOptions::new().service(Service::None)).unwrap();
    mapping.write(0..200, 5);
    let region = mapping.register(&vm);
    assert_eq!(region.evict(0..100 * PAGE).pages, 100);
    assert!(engine.zswap().relieve(1000) > 0);
    let device = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let garbage = vec![0xa5; device.metadata().unwrap().len() as usize - PAGE];
    std::os::unix::fs::FileExt::write_all_at(&device, &garbage, PAGE as u64).unwrap();
    device.sync_all().unwrap();
    (engine, vm, region)
}

#[test]
fn a_region_with_pages_that_cannot_be_read_stays_until_they_are_discarded() {
    within_a_minute(|| {
        let mapping = Mapping::new(200);
        let (_engine, vm, region) = half_lost(&mapping);
        let (region, error) = region.unregister().unwrap_err();
        assert!(matches!(error, Error::Unreadable { .. }), "{error}");
        mapping.check(100..200, 5);
        region.evict(0..200 * PAGE);
        region.make_resident(100 * PAGE..200 * PAGE).unwrap();
        mapping.check(100..200, 5);
        assert!(matches!(region.make_resident(0..100 * PAGE), Err(Error::Unreadable { .. })));
        region.assert_valid();
        region.discard(0..100 * PAGE).unwrap();
        region.assert_valid();
        region.unregister().map_err(|(_, error)| error).unwrap();
        mapping.check(100..200, 5);
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { mapping.at(0).read_volatile() }, 0);
        assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), 0);
    });
}

#[test]
fn a_dropped_region_poisons_what_cannot_be_read_and_keeps_the_rest() {
    within_a_minute(|| {
        let mapping = Mapping::new(200);
        let (_engine, vm, region) = half_lost(&mapping);
        region.evict(100 * PAGE..200 * PAGE);
        drop(region);
        mapping.check(100..200, 5);
        let (readable, lost): (Vec<_>, Vec<_>) = (0..100).partition(|&page| mapping.can_be_read(page));
        assert!(lost.len() >= 50, "{} pages were on the device", lost.len());
        readable.into_iter().for_each(|page| mapping.check(page..page + 1, 5)); // in the pool still; not zeroes
        assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), 0);
    });
}

#[test]
fn a_region_whose_memory_is_gone_ends_all_the_same() {
    within_a_minute(|| {
        let (_engine, vm) = unserved(VmOptions::new());
        let mapping = Mapping::new(300);
        mapping.write(0..300, 3);
        let region = mapping.register(&vm);
        assert_eq!(region.evict(0..300 * PAGE).pages, 300);
        // Something else is in its place, that no other test is given: the kernel would install pages there as well.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: ours, and not used any more.
        let other = unsafe { libc::mmap(mapping.at(0).cast(), mapping.bytes, libc::PROT_NONE, flags, -1, 0) };
        assert_eq!(other, mapping.at(0).cast());
        let (region, error) = region.unregister().unwrap_err();
        assert!(matches!(error, Error::Gone { .. }), "{error}");
        drop(region);
        assert_eq!(vm.memcg().current(zspool::memcg::Counter::Memory), 0);
    });
}
