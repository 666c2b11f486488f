//! A device is emptied and removed: under load, without room, called off, broken, and again and again.
//!
//! What holds in each: every page comes back as it was stored, references and charges go along, and what is refused says in a
//! sentence what to do.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use support::*;
use zspool::memcg::{Cancel, Counter};
use zspool::swap::{self, DeviceOptions, Fault, FaultyDevice, Geometry, MemoryDevice, Plan, State};
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot, SlotRange};
use zspool::zswap::{Builder, Error, Shrunk, SwapoffError, SwapoffReport, Zswap};

const N0: NodeId = NodeId(0);
const MIB: usize = 1 << 20;

fn base() -> Builder {
    let geometry = Geometry { batch_pages: 16, ..Geometry::default() };
    let builder = Zswap::builder().slots_in_use(1 << 14).address_space(128 << 20).pool_limit(64 << 20);
    builder.device_geometry(geometry).worker(false)
}

fn memory(bytes: usize) -> DeviceOptions {
    DeviceOptions::device(MemoryDevice::new(bytes, 4096))
}

fn page(number: u64) -> Page {
    compressible(number, 200 + number as usize * 37 % 1800)
}

/// Store this many pages, of 200 to 2000 bytes.
fn fill(zswap: &Zswap, pages: u64) -> SlotRange {
    let slots = zswap.reserve(pages).unwrap();
    slots.iter().for_each(|slot| _ = zswap.store(slot, &zswap.root(), N0, &page(slot.0)).unwrap());
    slots
}

fn write_back_all(zswap: &Zswap) {
    while matches!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::Written(_)) {}
}

fn check(zswap: &Zswap, slots: SlotRange) {
    let mut back = Page::zeroed();
    for slot in slots.iter() {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(slot.0)[..], "{slot:?}");
    }
    zswap.assert_valid();
}

fn swapoff(zswap: &Zswap, number: u8) -> Result<SwapoffReport, SwapoffError> {
    zswap.swapoff(number, &Cancel::new(), |_| ())
}

#[test]
fn what_was_on_a_device_is_in_the_pool_and_was_read_once() {
    let zswap = base().build().unwrap();
    let (one, _) = (zswap.swapon(memory(8 * MIB)).unwrap(), zswap.swapon(memory(8 * MIB)).unwrap());
    let slots = fill(&zswap, 1000);
    slots.iter().step_by(3).for_each(|slot| assert_eq!(zswap.dup(slot).unwrap(), 2));
    write_back_all(&zswap);
    let before = zswap.device(one).unwrap().stats();
    assert!(before.objects > 300, "{before:?}");
    let mut seen = Vec::new();
    let report = zswap.swapoff(one, &Cancel::new(), |progress| seen.push(*progress)).unwrap();
    assert_eq!(
        (report.objects_at_start, report.touched, report.to_pool),
        (before.objects, before.objects, before.objects)
    );
    assert_eq!((report.passes, report.raced, report.lost, report.gone), (1, 0, 0, 0));
    // A call for each segment with something in it, whatever the device's size.
    assert_eq!(seen.len() as u64, before.segments.open + before.segments.full);
    assert!(seen.windows(2).all(|pair| pair[0].objects_left > pair[1].objects_left));
    assert_eq!((seen.last().unwrap().objects_left, seen[0].objects_at_start), (0, before.objects));
    assert!(zswap.device(one).is_none() && zswap.devices().len() == 1);
    check(&zswap, slots);
    let places = zswap.root().current(Counter::Swap);
    assert_eq!(places, zswap.stats().area.unwrap().live_bytes, "charged is what lies on the other device");
    for (k, slot) in slots.iter().enumerate() {
        assert_eq!(zswap.put(slot).unwrap(), u32::from(k % 3 == 0), "references go along");
        assert_eq!(zswap.free(slot), k % 3 == 0);
    }
    zswap.assert_valid();
    assert_eq!([zswap.root().usage(), zswap.root().current(Counter::Swap)], [0, 0]);
}

#[test]
fn what_the_pool_does_not_take_goes_to_the_other_device() {
    let zswap = base().build().unwrap();
    let one = zswap.swapon(memory(8 * MIB).tier("fast", 1)).unwrap();
    let (vm, slots) = (zswap.root().mkdir("vm").unwrap(), zswap.reserve(1000).unwrap());
    slots.iter().for_each(|slot| _ = zswap.store(slot, &vm, N0, &page(slot.0)).unwrap());
    while matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)) {}
    let two = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
    let charged = vm.current(Counter::Swap);
    zswap.set_zswap_max(&vm, 100_000).unwrap();
    let written = zswap.device(two).unwrap().stats().written_bytes;
    let report = swapoff(&zswap, one).unwrap();
    assert_eq!((report.objects_at_start, report.touched), (1000, 1000));
    assert_eq!(report.to_pool + report.to_devices, 1000);
    assert!(report.to_pool > 30 && report.to_devices > 800, "{report:?}");
    assert!(vm.usage() <= 100_000);
    let stats = zswap.device(two).unwrap().stats();
    assert_eq!((stats.objects, stats.live_bytes), (report.to_devices, vm.current(Counter::Swap)));
    assert!(charged > vm.current(Counter::Swap));
    // Large writes: most of a segment's objects at once.
    assert!(stats.written_bytes - written < stats.live_bytes + stats.live_bytes / 10, "{stats:?}");
    check(&zswap, slots);
}

#[test]
fn without_room_anywhere_the_device_stays_and_the_next_call_goes_on() {
    let zswap = base().build().unwrap();
    let one = zswap.swapon(memory(8 * MIB)).unwrap();
    let (vm, slots) = (zswap.root().mkdir("vm").unwrap(), zswap.reserve(1000).unwrap());
    slots.iter().for_each(|slot| _ = zswap.store(slot, &vm, N0, &page(slot.0)).unwrap());
    while matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)) {}
    zswap.set_zswap_max(&vm, 300_000).unwrap();
    let refused = swapoff(&zswap, one).unwrap_err();
    let SwapoffError::NoRoom { device, objects, bytes, .. } = &refused else { panic!("{refused}") };
    let stats = zswap.device(one).unwrap().stats();
    assert_eq!((*device, *objects, *bytes), (one, stats.objects, stats.live_bytes));
    assert!(*objects > 0 && *objects < 1000);
    let said = refused.to_string();
    assert!(said.contains("memory.zswap.max") && said.contains("raise the limit"), "{said}");
    assert_eq!(zswap.devices()[0].state, State::On);
    check(&zswap, slots);
    // It is used as before.
    let more = fill(&zswap, 100);
    assert!(matches!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::Written(_)));
    check(&zswap, more);
    more.iter().for_each(|slot| assert!(zswap.free(slot)));
    zswap.set_zswap_max(&vm, u64::MAX).unwrap();
    let report = swapoff(&zswap, one).unwrap();
    assert_eq!((report.touched, report.to_pool), (*objects, *objects), "what was moved is not touched again");
    check(&zswap, slots);
    assert!(zswap.devices().is_empty());
}

#[test]
fn what_one_tier_fails_to_write_goes_to_the_next_in_the_same_call() {
    for plan in [Plan::none().full_from(1), Plan::none().down_from(1, libc::EIO)] {
        let zswap = base().build().unwrap();
        let one = zswap.swapon(memory(8 * MIB).tier("fast", 10)).unwrap();
        let (vm, slots) = (zswap.root().mkdir("vm").unwrap(), zswap.reserve(1000).unwrap());
        slots.iter().for_each(|slot| _ = zswap.store(slot, &vm, N0, &page(slot.0)).unwrap());
        while matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)) {}
        let failing = FaultyDevice::new(MemoryDevice::new(8 * MIB, 4096), plan);
        zswap.swapon(DeviceOptions::device(failing).tier("mid", 5)).unwrap();
        let slow = zswap.swapon(memory(8 * MIB).tier("slow", 0)).unwrap();
        vm.set_zswap_max(0).unwrap();
        let report = swapoff(&zswap, one).unwrap();
        assert_eq!((report.objects_at_start, report.touched, report.to_devices), (1000, 1000, 1000), "{report:?}");
        assert_eq!(zswap.stats().failed_writes, 1, "the one in the middle was asked first, and not again");
        assert_eq!(zswap.device(slow).unwrap().stats().objects, 1000);
        vm.set_zswap_max(u64::MAX).unwrap();
        check(&zswap, slots);
    }
}

#[test]
fn a_cancelled_swapoff_leaves_the_device_on_and_goes_on_later() {
    let zswap = base().build().unwrap();
    let one = zswap.swapon(memory(8 * MIB)).unwrap();
    let slots = fill(&zswap, 1000);
    write_back_all(&zswap);
    let cancel = Cancel::new();
    let mut calls = 0;
    let cancelled = zswap.swapoff(one, &cancel, |_| {
        calls += 1;
        if calls == 3 {
            cancel.cancel();
        }
    });
    let Err(SwapoffError::Cancelled { objects, bytes, .. }) = cancelled else { panic!("{cancelled:?}") };
    assert_eq!(calls, 3);
    let stats = zswap.device(one).unwrap().stats();
    assert_eq!((objects, bytes), (stats.objects, stats.live_bytes));
    assert!(objects > 500 && objects < 1000, "{objects}");
    assert_eq!(zswap.devices()[0].state, State::On);
    check(&zswap, slots);
    let report = swapoff(&zswap, one).unwrap();
    assert_eq!((report.objects_at_start, report.touched), (objects, objects));
    check(&zswap, slots);
}

#[test]
fn what_cannot_be_removed_is_refused_with_a_sentence() {
    let zswap = base().build().unwrap();
    for number in [0, 31, 32, 255] {
        let refused = swapoff(&zswap, number).unwrap_err();
        assert!(matches!(refused, SwapoffError::Device(swap::Error::NotOn { .. })), "{refused}");
        assert!(refused.to_string().contains(&number.to_string()), "{refused}");
    }
    let one = zswap.swapon(memory(8 * MIB)).unwrap();
    let slots = fill(&zswap, 100);
    write_back_all(&zswap);
    let mut second = None;
    let report = zswap.swapoff(one, &Cancel::new(), |_| second = Some(swapoff(&zswap, one))).unwrap();
    assert!(matches!(second, Some(Err(SwapoffError::UnderWay { .. }))), "{second:?}");
    assert_eq!(report.to_pool, 100);
    assert!(matches!(swapoff(&zswap, one), Err(SwapoffError::Device(swap::Error::NotOn { .. }))), "it is off");
    check(&zswap, slots);
}

#[test]
fn a_segment_that_cannot_be_read_costs_what_is_bad_and_no_more() {
    // The request for a whole segment fails, or has a bit wrong: what can be read alone is not lost.
    for fault in [Fault::Errno(libc::EIO), Fault::Flip { bit: 8 * 700 }, Fault::Short { bytes: 4096 }] {
        let device = Arc::new(FaultyDevice::new(MemoryDevice::new(8 * MIB, 4096), Plan::none()));
        let zswap = base().build().unwrap();
        let one = zswap.swapon(DeviceOptions::device(Arc::clone(&device))).unwrap();
        let slots = fill(&zswap, 300);
        write_back_all(&zswap);
        device.replan(Plan::none().at(1, fault).at(3, Fault::Errno(libc::EIO)));
        let report = swapoff(&zswap, one).unwrap();
        // The third operation reads a page alone, or another segment.
        let alone = !matches!(fault, Fault::Flip { .. });
        assert_eq!((report.touched, report.lost), (300, u64::from(alone)), "{fault:?}");
        assert_eq!(report.to_pool, 300 - report.lost);
        let mut back = Page::zeroed();
        let mut lost = 0;
        for slot in slots.iter() {
            match zswap.load(slot, &mut back) {
                Ok(()) => assert!(back[..] == page(slot.0)[..]),
                Err(Error::Lost { .. }) => lost += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((lost, zswap.stats().lost_pages), (report.lost, report.lost));
        zswap.assert_valid();
    }
}

#[test]
fn a_device_that_is_gone_is_removed_with_what_was_on_it() {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(8 * MIB, 4096), Plan::none()));
    let zswap = base().build().unwrap();
    let one = zswap.swapon(DeviceOptions::device(Arc::clone(&device))).unwrap();
    let slots = fill(&zswap, 300);
    let _ = zswap.shrink_memcg(&zswap.root(), 64);
    let on_it = zswap.stats().physical_pages;
    device.replan(Plan::none().down_from(1, libc::EIO));
    let report = swapoff(&zswap, one).unwrap();
    assert_eq!((report.lost, report.to_pool, zswap.stats().lost_pages), (on_it, 0, on_it));
    let mut back = Page::zeroed();
    let loaded = slots.iter().filter(|&slot| match zswap.load(slot, &mut back) {
        Ok(()) => back[..] == page(slot.0)[..],
        Err(Error::Lost { loss, .. }) => {
            assert_eq!(loss.device, one);
            false
        }
        Err(other) => panic!("{other}"),
    });
    assert_eq!(loaded.count() as u64, 300 - on_it);
    zswap.assert_valid();
    slots.iter().for_each(|slot| assert!(zswap.free(slot)));
    assert_eq!([zswap.root().usage(), zswap.root().current(Counter::Swap)], [0, 0]);
}

#[test]
fn a_refusal_that_says_nothing_about_the_page_loses_nothing() {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(8 * MIB, 4096), Plan::none()));
    let zswap = base().build().unwrap();
    let one = zswap.swapon(DeviceOptions::device(Arc::clone(&device))).unwrap();
    let slots = fill(&zswap, 300);
    write_back_all(&zswap);
    device.replan(Plan::none().down_from(1, libc::ENOMEM));
    let refused = swapoff(&zswap, one).unwrap_err();
    assert!(matches!(refused, SwapoffError::Unreadable { objects: 300, .. }), "{refused}");
    device.replan(Plan::none());
    check(&zswap, slots);
    assert_eq!(swapoff(&zswap, one).unwrap().to_pool, 300);
    check(&zswap, slots);
}

#[test]
fn a_device_of_which_half_is_dead_is_cleaned_for_what_has_to_leave_another() {
    for demotes in [false, true] {
        let zswap = base().build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let two = zswap.swapon(memory(MIB).tier("slow", 0)).unwrap();
        let store = |n: u64| {
            let slots = zswap.reserve(n).unwrap();
            slots.iter().for_each(|slot| _ = zswap.store(slot, &vm, N0, &page(slot.0)).unwrap());
            while matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)) {}
            slots
        };
        let there = store(700);
        there.iter().step_by(2).for_each(|slot| assert!(zswap.free(slot)));
        let one = zswap.swapon(memory(8 * MIB).tier("fast", 1)).unwrap();
        let slots = store(250);
        let stats = zswap.device(two).unwrap().stats();
        assert!(stats.segments.free <= 3 && stats.reclaimable_bytes > 300_000, "{stats:?}");
        zswap.set_zswap_max(&vm, 0).unwrap();
        if demotes {
            let demoted = zswap.demote(&vm, "slow", u64::MAX, &Cancel::new()).unwrap();
            assert_eq!(demoted.objects, 250, "{demoted:?}");
        } else {
            let report = swapoff(&zswap, one).unwrap();
            assert_eq!((report.touched, report.to_devices), (250, 250), "{report:?}");
        }
        check(&zswap, slots);
    }
}

// === under load ===

/// Threads that store, load, dup and free pages of their own slots, each checked, until told to stop. Returns operations done.
struct Load {
    stop: AtomicBool,
    operations: AtomicU64,
}

impl Load {
    fn run(&self, zswap: &Zswap, slots: &[Slot], seed: u64) {
        let mut random = Random::new(seed);
        let mut held: Vec<Option<(u64, u32)>> = vec![None; slots.len()];
        let mut back = Page::zeroed();
        let root = zswap.root();
        while !self.stop.load(Ordering::Relaxed) {
            let k = random.below(slots.len() as u64) as usize;
            let slot = slots[k];
            match (random.below(8), held[k]) {
                (0..3, _) => {
                    let number = random.below(1 << 20);
                    zswap.store(slot, &root, N0, &page(number)).unwrap();
                    held[k] = Some((number, 1));
                }
                (3, Some((number, count))) if count < 30 => {
                    assert_eq!(zswap.dup(slot).unwrap(), count + 1);
                    held[k] = Some((number, count + 1));
                }
                (4, Some((number, count))) => {
                    assert_eq!(zswap.put(slot).unwrap(), count - 1);
                    held[k] = (count > 1).then_some((number, count - 1));
                }
                (5, _) => {
                    assert_eq!(zswap.free(slot), held[k].take().is_some());
                }
                (_, Some((number, _))) => {
                    zswap.load(slot, &mut back).unwrap();
                    assert!(back[..] == page(number)[..], "{slot:?}");
                }
                (_, None) => assert!(matches!(zswap.load(slot, &mut back), Err(Error::NotStored { .. }))),
            }
            self.operations.fetch_add(1, Ordering::Relaxed);
        }
        for (k, &slot) in slots.iter().enumerate() {
            if let Some((number, _)) = held[k] {
                zswap.load(slot, &mut back).unwrap();
                assert!(back[..] == page(number)[..], "{slot:?} at the end");
            }
        }
    }
}

/// Run `f` while four threads use slots of their own; how many operations they did.
fn under_load(zswap: &Zswap, seed: u64, f: impl FnOnce()) -> u64 {
    let load = Load { stop: AtomicBool::new(false), operations: AtomicU64::new(0) };
    let slots = zswap.reserve(4 * 512).unwrap();
    thread::scope(|threads| {
        for t in 0..4 {
            let (load, mine) = (&load, (t * 512..(t + 1) * 512).map(|k| slots.get(k).unwrap()).collect::<Vec<_>>());
            threads.spawn(move || load.run(zswap, &mine, seed + t));
        }
        f();
        load.stop.store(true, Ordering::Relaxed);
    });
    zswap.assert_valid();
    load.operations.into_inner()
}

#[test]
fn one_of_two_devices_is_removed_while_four_threads_store_load_and_free() {
    let zswap = base().worker(true).pool_limit(2 << 20).build().unwrap();
    let devices: Vec<_> = (0..2).map(|_| zswap.swapon(memory(32 * MIB)).unwrap()).collect();
    let slots = fill(&zswap, 4000);
    let operations = under_load(&zswap, 1, || {
        thread::sleep(std::time::Duration::from_millis(300));
        let report = swapoff(&zswap, devices[0]).unwrap();
        assert!(report.objects_at_start > 500, "{report:?}");
        // Those that lived there when it began, but for what was freed in time, and those that raced.
        assert!(report.touched <= report.objects_at_start + report.raced + report.gone, "{report:?}");
        assert_eq!(
            report.touched,
            report.to_pool + report.to_devices + report.gone + report.lost + report.raced,
            "{report:?}"
        );
        assert_eq!(report.lost, 0);
        assert!(zswap.device(devices[0]).is_none());
        println!("{report:?}");
        thread::sleep(std::time::Duration::from_millis(100));
    });
    assert!(operations > 1000, "{operations}");
    check(&zswap, slots);
}

#[test]
fn devices_come_and_go_while_four_threads_store_load_and_free() {
    let zswap = base().worker(true).pool_limit(2 << 20).build().unwrap();
    zswap.swapon(memory(32 * MIB).tier("stays", 0)).unwrap();
    let slots = fill(&zswap, 2000);
    let (mut moved, mut rounds) = (0, 0);
    under_load(&zswap, 11, || {
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_secs(3) {
            let one = zswap.swapon(memory(16 * MIB).tier("comes", 1 + rounds % 2)).unwrap();
            thread::sleep(std::time::Duration::from_millis(10));
            if rounds % 3 == 0 {
                // Called off half way, and then gone on with.
                let cancel = Cancel::new();
                let _ = zswap.swapoff(one, &cancel, |_| cancel.cancel());
            }
            match swapoff(&zswap, one) {
                Ok(report) => moved += report.to_pool + report.to_devices,
                Err(SwapoffError::Device(swap::Error::NotOn { .. })) => {} // it was empty when it was called off
                Err(error) => panic!("{error}"),
            }
            rounds += 1;
        }
    });
    assert!(rounds > 5 && moved > 500, "{moved} objects in {rounds} rounds");
    check(&zswap, slots);
    assert_eq!(PAGE_SIZE, 4096);
}
