//! Sparse segments are cleaned: by request, by the worker, and by who finds no room.

mod support;

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use support::*;
use zspool::memcg::{Counter, Memcg};
use zspool::swap::{AreaStats, Device, Fault, FaultyDevice, MemoryDevice, Op, Plan, Request, State};
use zspool::units::{NodeId, Page, Slot};
use zspool::zswap::{Builder, Error, Shrunk, Unwritable, Zswap};

const N0: NodeId = NodeId(0);
const SEGMENT: usize = 256 << 10;

fn base(segments: usize) -> (Arc<FaultyDevice<MemoryDevice>>, Builder) {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(segments * SEGMENT, 4096), Plan::none()));
    let builder = Zswap::builder().slots_in_use(1 << 16).address_space(256 << 20).pool_limit(128 << 20).worker(false);
    (Arc::clone(&device), builder.device(device))
}

/// Pages of 200 to 3000 bytes; every 50th does not shrink.
fn page(number: u64) -> Page {
    if number.is_multiple_of(50) {
        page_of(Kind::Random, number)
    } else {
        compressible(number, 200 + number as usize * 37 % 2800)
    }
}

fn store(zswap: &Zswap, memcg: &Memcg, slot: Slot, number: u64) -> Result<(), Error> {
    zswap.store(slot, memcg, N0, &page(number)).map(drop)
}

fn write_back_all(zswap: &Zswap) {
    while matches!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::Written(_)) {}
}

fn check(zswap: &Zswap, held: &[(Slot, u64)]) {
    let mut back = Page::zeroed();
    for &(slot, number) in held {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(number)[..], "{slot:?}");
    }
    zswap.assert_valid();
}

fn area(zswap: &Zswap) -> AreaStats {
    zswap.stats().area.unwrap()
}

/// An instance whose device has so many pages, every other one of which was freed at random.
fn half_freed(builder: Builder, pages: u64) -> (Zswap, Vec<(Slot, u64)>) {
    let zswap = builder.build().unwrap();
    let mut held: Vec<_> = zswap.reserve(pages).unwrap().iter().map(|slot| (slot, slot.0)).collect();
    held.iter().for_each(|&(slot, number)| store(&zswap, &zswap.root(), slot, number).unwrap());
    write_back_all(&zswap);
    let mut random = Random::new(pages);
    held.retain(|&(slot, _)| random.below(2) == 0 || !zswap.free(slot));
    (zswap, held)
}

#[test]
fn a_device_that_takes_no_writes_is_not_read_to_be_cleaned() {
    let (device, builder) = base(40);
    let (zswap, held) = half_freed(builder, 4000);
    assert!(area(&zswap).used_bytes > area(&zswap).live_bytes * 3 / 2);
    let [slot] = [zswap.reserve(1).unwrap().base()];
    store(&zswap, &zswap.root(), slot, 1).unwrap();
    device.replan((1..=8).fold(Plan::none(), |plan, k| plan.at(k, Fault::Errno(libc::EIO))));
    for _ in 0..8 {
        assert_ne!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::Written(1));
    }
    assert_eq!(zswap.devices()[0].state, State::Retired);
    let operations = device.operations();
    let cleaned = zswap.clean(u64::MAX);
    assert_eq!((cleaned.segments, device.operations()), (0, operations), "it would be read each time, in vain");
    check(&zswap, &held);
    zswap.reinstate(0).unwrap();
    assert!(zswap.clean(u64::MAX).won_bytes > 0);
    check(&zswap, &held);
}

#[test]
fn after_a_random_half_is_freed_no_more_than_a_quarter_is_allocated_beside_what_lives() {
    let (_, builder) = base(80);
    let (zswap, held) = half_freed(builder, 9000);
    let before = area(&zswap);
    assert!(before.used_bytes > before.live_bytes * 19 / 10, "{before:?}");
    let swap = zswap.root().current(Counter::Swap);
    let cleaned = zswap.clean(u64::MAX);
    let after = area(&zswap);
    assert!(after.used_bytes <= after.live_bytes * 5 / 4, "{after:?}");
    assert_eq!(before.used_bytes - after.used_bytes, cleaned.won_bytes, "{cleaned:?}");
    assert_eq!((after.live_bytes, after.objects), (before.live_bytes, before.objects));
    assert_eq!(zswap.root().current(Counter::Swap), swap, "nothing is charged for it");
    // What lived in sparse segments was written once.
    assert!(cleaned.moved_bytes <= before.live_bytes, "{cleaned:?}");
    assert!(after.cleaned_bytes <= cleaned.moved_bytes + cleaned.moved_bytes / 10, "{after:?} {cleaned:?}");
    check(&zswap, &held);
    let again = zswap.clean(u64::MAX);
    assert_eq!((again.segments, again.objects), (0, 0), "it is clean");
    zswap.quiesce();
    let punched = area(&zswap);
    assert_eq!(punched.punchable_bytes, 0);
    held.iter().for_each(|&(slot, _)| assert!(zswap.free(slot)));
    assert_eq!((area(&zswap).used_bytes, zswap.root().current(Counter::Swap)), (0, 0));
    zswap.assert_valid();
}

#[test]
fn a_bound_on_what_is_moved_is_kept_to_a_segment() {
    let (_, builder) = base(80);
    let (zswap, held) = half_freed(builder, 5000);
    let (mut calls, mut moved) = (0, 0);
    loop {
        let cleaned = zswap.clean(1);
        if cleaned.segments == 0 {
            break;
        }
        assert_eq!(cleaned.segments, 1);
        assert!(cleaned.moved_bytes <= SEGMENT as u64);
        (calls, moved) = (calls + 1, moved + cleaned.moved_bytes);
    }
    assert!(calls > 10 && moved > 1 << 20, "{calls} {moved}");
    check(&zswap, &held);
}

#[test]
fn the_worker_cleans_when_nothing_else_is_to_be_done() {
    let (_, builder) = base(80);
    let (zswap, held) = half_freed(builder.worker(true), 5000);
    // Something has to wake it, as stores and frees do.
    let begun = std::time::Instant::now();
    while area(&zswap).used_bytes > area(&zswap).live_bytes * 5 / 4 {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", area(&zswap));
        zswap.quiesce();
    }
    check(&zswap, &held);
}

/// A guest at its limit is above its mark with each page that comes in, though nothing of it is to be written.
#[test]
fn the_worker_cleans_while_a_memcg_full_of_resident_pages_stores() {
    let (_, builder) = base(64);
    let (zswap, held) = half_freed(builder.worker(true).sampling(None), 4000);
    let vm = zswap.root().mkdir("vm").unwrap();
    vm.set_high(64 << 10).unwrap();
    let resident = vm.charge_resident(128 << 10).unwrap();
    let slots = zswap.reserve(8).unwrap();
    let since = std::time::Instant::now();
    let mut stores = 0;
    while area(&zswap).used_bytes > area(&zswap).live_bytes * 13 / 10 {
        let comes = vm.charge_resident(4096).unwrap();
        store(&zswap, &vm, slots.get(stores % 8).unwrap(), 1).unwrap();
        drop(comes);
        stores += 1;
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(since.elapsed().as_secs() < 60, "{stores} stores, and still {:?}", area(&zswap));
    }
    assert!(vm.excess().is_some());
    check(&zswap, &held);
    drop(resident);
}

#[test]
fn pages_are_loaded_freed_and_replaced_while_their_segments_are_cleaned() {
    let (_, builder) = base(120);
    let (zswap, held) = half_freed(builder, 9000);
    let (mut mine, others) = (held[..held.len() / 2].to_vec(), &held[held.len() / 2..]);
    std::thread::scope(|threads| {
        let cleaner = threads.spawn(|| zswap.clean(u64::MAX));
        let loader = threads.spawn(|| (0..3).for_each(|_| load_all(&zswap, others)));
        let mut random = Random::new(5);
        for round in 0..2000 {
            let k = random.below(mine.len() as u64) as usize;
            let (slot, _) = mine[k];
            match round % 3 {
                0 => assert!(zswap.free(slot)),
                _ => zswap.load(slot, &mut Page::zeroed()).unwrap(),
            }
            store(&zswap, &zswap.root(), slot, 1_000_000 + round).unwrap();
            mine[k].1 = 1_000_000 + round;
        }
        loader.join().unwrap();
        let cleaned = cleaner.join().unwrap();
        assert!(cleaned.objects > 1000, "{cleaned:?}");
    });
    mine.extend(others);
    check(&zswap, &mine);
}

/// A device that, once it is told to, has somebody do something whenever a segment is read, and waits until that is done.
#[derive(Debug)]
struct Beside {
    inner: MemoryDevice,
    somebody: Mutex<Option<(SyncSender<()>, Receiver<()>)>>,
}

impl Device for Beside {
    fn submit(&self, requests: &mut [Request]) {
        self.inner.submit(requests);
        if requests.iter().any(|request| request.op() == Op::Read && request.len() > SEGMENT / 2)
            && let Some((ask, done)) = &*self.somebody.lock().unwrap()
        {
            ask.send(()).unwrap();
            done.recv().unwrap();
        }
    }
    rest_of_device!(inner);
}

/// Each segment that becomes free is filled by others before it is looked what was won.
#[test]
fn cleaning_goes_on_while_others_write_as_much_as_it_wins() {
    let inner = MemoryDevice::new(120 * SEGMENT, 4096);
    let device = Arc::new(Beside { inner, somebody: Mutex::new(None) });
    let builder = Zswap::builder().slots_in_use(1 << 16).address_space(256 << 20).pool_limit(128 << 20).worker(false);
    let (zswap, mut held) = half_freed(builder.device(Arc::clone(&device)), 6000);
    let more = zswap.reserve(1000).unwrap();
    for slot in more.iter() {
        store(&zswap, &zswap.root(), slot, slot.0).unwrap();
        held.push((slot, slot.0));
    }
    let (ask, asked) = mpsc::sync_channel(0);
    let (say, done) = mpsc::sync_channel(0);
    *device.somebody.lock().unwrap() = Some((ask, done));
    let before = area(&zswap);
    let cleaned = std::thread::scope(|threads| {
        threads.spawn(|| {
            for () in asked {
                for _ in 0..3 {
                    let _ = zswap.shrink_memcg(&zswap.root(), 64);
                }
                say.send(()).unwrap();
            }
        });
        let cleaned = zswap.clean(u64::MAX);
        *device.somebody.lock().unwrap() = None; // and the thread ends
        cleaned
    });
    let after = area(&zswap);
    assert!(after.written_bytes - before.written_bytes > after.cleaned_bytes - before.cleaned_bytes, "others wrote");
    assert!(after.used_bytes <= after.live_bytes + after.live_bytes / 4, "{cleaned:?}, {after:?}");
    check(&zswap, &held);
}

fn load_all(zswap: &Zswap, held: &[(Slot, u64)]) {
    let mut back = Page::zeroed();
    for &(slot, number) in held {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(number)[..], "{slot:?}");
    }
}

/// Write pages back until nothing more goes, now and then freeing one at random; what lives on the device then.
fn fill_up(segments: usize) -> (Zswap, Vec<(Slot, u64)>, AreaStats) {
    let (_, builder) = base(segments);
    let zswap = builder.build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(60_000).unwrap();
    let (mut held, mut random) = (Vec::new(), Random::new(segments as u64));
    let mut full = false;
    for slot in slots.iter() {
        store(&zswap, &vm, slot, slot.0).unwrap();
        held.push((slot, slot.0));
        if random.below(4) == 0 {
            let (gone, _) = held.swap_remove(random.below(held.len() as u64) as usize);
            assert!(zswap.free(gone));
        }
        if slot.0 % 64 == 63 {
            full = !matches!(zswap.shrink_memcg(&vm, 128), Shrunk::Written(_));
            if full {
                break;
            }
        }
    }
    assert!(full, "the device takes all of it");
    let stats = area(&zswap);
    // Who is at a limit is told so.
    zswap.set_zswap_max(&vm, vm.usage()).unwrap();
    let refused = store(&zswap, &vm, slots.get(59_999).unwrap(), 50).unwrap_err();
    assert!(matches!(refused, Error::Limit { reason: Unwritable::DeviceFull, .. }), "{refused}");
    check(&zswap, &held);
    (zswap, held, stats)
}

#[test]
fn a_large_device_is_full_only_when_more_than_95_percent_of_it_live() {
    let (_, _, stats) = fill_up(64);
    let percent = stats.live_bytes as f64 * 100.0 / stats.size_bytes as f64;
    println!(
        "{percent:.2}% live, written {:.2} times what lives",
        stats.written_bytes as f64 / stats.live_bytes as f64
    );
    assert!(percent > 95.0, "{percent:.2}%: {stats:?}");
}

#[test]
fn a_small_device_is_full_when_all_segments_but_the_one_kept_for_cleaning_are_full() {
    for segments in [2, 3, 8] {
        let (zswap, held, stats) = fill_up(segments);
        // Each may have lost a page to the end of each of its batches, and an object that did not fit.
        let full = (segments - 1) * SEGMENT;
        let percent = stats.live_bytes as f64 * 100.0 / full as f64;
        println!("{segments} segments: {percent:.2}% of all but one live");
        assert!(percent > 93.0, "{segments} segments: {percent:.2}%: {stats:?}");
        held.iter().for_each(|&(slot, _)| assert!(zswap.free(slot)));
        assert_eq!(area(&zswap).used_bytes, 0);
    }
}

#[test]
fn what_cannot_be_written_elsewhere_stays_where_it_is() {
    let (device, builder) = base(80);
    let (zswap, held) = half_freed(builder, 3000);
    let before = area(&zswap);
    // Reads work, writes do not.
    device.replan(Plan::none().full_from(1));
    let cleaned = zswap.clean(u64::MAX);
    assert_eq!((cleaned.objects, cleaned.won_bytes), (0, 0));
    assert_eq!(area(&zswap).objects, before.objects);
    check(&zswap, &held);
    device.replan(Plan::none());
    assert!(zswap.clean(u64::MAX).won_bytes > 0);
    check(&zswap, &held);
}

#[test]
fn what_cannot_be_read_is_lost_and_is_not_copied() {
    let (device, builder) = base(80);
    let (zswap, held) = half_freed(builder, 3000);
    // The read of a segment fails, and then that of one of its objects.
    device.replan(Plan::none().at(1, Fault::Errno(libc::EIO)).at(4, Fault::Errno(libc::EIO)));
    let cleaned = zswap.clean(u64::MAX);
    assert_eq!((cleaned.lost, zswap.stats().lost_pages), (1, 1), "{cleaned:?}");
    let mut back = Page::zeroed();
    let lost = held.iter().filter(|&&(slot, _)| matches!(zswap.load(slot, &mut back), Err(Error::Lost { .. })));
    assert_eq!(lost.count(), 1);
    zswap.assert_valid();
}

/// A limit that was set to what is in use, or to hardly more, keeps a device from being filled, and not from being cleaned.
#[test]
fn a_device_at_a_limit_that_was_lowered_is_cleaned() {
    for above in [0, 1, 100_000] {
        let (_, builder) = base(64);
        let (zswap, held) = half_freed(builder, 4000);
        let before = area(&zswap);
        zswap.set_swap_limit(before.used_bytes + above);
        let cleaned = zswap.clean(u64::MAX);
        let after = area(&zswap);
        assert!(cleaned.won_bytes > before.used_bytes / 4, "{above}: {cleaned:?}");
        assert!(after.used_bytes <= after.live_bytes + after.live_bytes / 4 + 2 * SEGMENT as u64, "{above}: {after:?}");
        check(&zswap, &held);
    }
}
