//! More is stored than fits: who waits, who writes, who is refused and why.

mod support;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::*;
use zspool::memcg::{Counter, Event, Memcg, MemcgEvent};
use zspool::swap::{Device, Fault, FaultyDevice, MemoryDevice, Op, Plan, Request, State};
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Builder, Error, Shrunk, Unwritable, Zswap};

const N0: NodeId = NodeId(0);

/// A device that takes its time for a write, and counts.
#[derive(Debug)]
struct Slow {
    inner: MemoryDevice,
    write: Duration,
    writes: AtomicU64,
    /// The thread of this name dies of its first write.
    kills: Option<&'static str>,
}

impl Slow {
    fn new(write: Duration) -> Self {
        Slow { inner: MemoryDevice::new(64 << 20, 4096), write, writes: AtomicU64::new(0), kills: None }
    }
}

impl Device for Slow {
    fn submit(&self, requests: &mut [Request]) {
        if requests.iter().any(|request| request.op() == Op::Write) {
            self.writes.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(self.write);
            let me = std::thread::current();
            assert!(self.kills.is_none() || me.name() != self.kills, "the device kills this thread, as it was told");
        }
        self.inner.submit(requests);
    }
    rest_of_device!(inner);
}

fn base(limit: u64) -> Builder {
    Zswap::builder().pool_limit(limit).slots_in_use(1 << 17).address_space(256 << 20)
}

fn store(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, k: u64) -> Result<(), Error> {
    zswap.store(slots.get(k).unwrap(), memcg, N0, &compressible(k, 700)).map(drop)
}

/// `threads` store `each` pages; the errors.
fn store_all(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, threads: u64, each: u64) -> Vec<Error> {
    let run = |t: u64| (t * each..(t + 1) * each).filter_map(|k| store(zswap, memcg, slots, k).err()).collect();
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..threads).map(|t| s.spawn(move || run(t))).collect::<Vec<_>>();
        threads.into_iter().flat_map(|thread| -> Vec<Error> { thread.join().unwrap() }).collect()
    })
}

fn check(zswap: &Zswap, slots: SlotRange, n: u64) {
    zswap.quiesce();
    zswap.assert_valid();
    read(zswap, slots, n);
}

fn read(zswap: &Zswap, slots: SlotRange, n: u64) {
    let mut page = Page::zeroed();
    for k in 0..n {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 700)[..], "page {k}");
    }
}

#[test]
fn stores_at_the_pool_limit_wait_for_the_device_and_are_not_refused() {
    let device = Arc::new(Slow::new(Duration::from_millis(2)));
    let zswap = base(512 << 10).device(Arc::clone(&device)).build().unwrap();
    let (root, slots) = (zswap.root(), zswap.reserve(6000).unwrap());
    let refused = store_all(&zswap, &root, slots, 6, 1000);
    assert!(refused.is_empty(), "{}", refused[0]);
    check(&zswap, slots, 6000);
    // 6000 entries of which some 600 fit: in batches, not one by one.
    let writes = device.writes.load(Ordering::Relaxed);
    assert!((5000 / 64..1000).contains(&writes), "{writes} writes");
}

/// A device at which writes wait until they are let go.
#[derive(Debug)]
struct Held {
    inner: MemoryDevice,
    waiting: AtomicU64,
    go: AtomicBool,
}

impl Device for Held {
    fn submit(&self, requests: &mut [Request]) {
        if requests.iter().any(|request| request.op() == Op::Write) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while !self.go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.inner.submit(requests);
    }
    rest_of_device!(inner);
}

#[test]
fn a_store_at_a_limit_of_which_all_is_being_written_waits_for_that() {
    let (waiting, go) = (AtomicU64::new(0), AtomicBool::new(false));
    let device = Arc::new(Held { inner: MemoryDevice::new(16 << 20, 4096), waiting, go });
    let zswap = base(8 << 20).device(Arc::clone(&device)).worker(false).build().unwrap();
    let (vm, slots) = (zswap.root().mkdir("vm").unwrap(), zswap.reserve(10).unwrap());
    (0..4).for_each(|k| store(&zswap, &vm, slots, k).unwrap());
    zswap.set_zswap_max(&vm, vm.usage()).unwrap();
    std::thread::scope(|s| {
        let writer = s.spawn(|| zswap.shrink_memcg(&vm, 100));
        while device.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let storer = s.spawn(|| store(&zswap, &vm, slots, 4));
        std::thread::sleep(Duration::from_millis(20)); // it looks meanwhile
        device.go.store(true, Ordering::SeqCst);
        assert!(matches!(writer.join().unwrap(), Shrunk::Written(_)));
        storer.join().unwrap().unwrap();
    });
    // One that does not come back is not waited for without end.
    device.go.store(false, Ordering::SeqCst);
    zswap.set_zswap_max(&vm, vm.usage()).unwrap();
    std::thread::scope(|s| {
        let writer = s.spawn(|| zswap.shrink_memcg(&vm, 100));
        while device.waiting.load(Ordering::SeqCst) == 1 {
            std::thread::yield_now();
        }
        let refused = store(&zswap, &vm, slots, 5).unwrap_err();
        assert!(matches!(refused, Error::Limit { reason: Unwritable::Busy, .. }), "{refused}");
        device.go.store(true, Ordering::SeqCst);
        assert!(matches!(writer.join().unwrap(), Shrunk::Written(_)));
    });
    check(&zswap, slots, 5);
}

#[test]
fn without_a_worker_stores_make_all_the_room() {
    for worker_dies in [false, true] {
        let kills = worker_dies.then_some("zspool-worker");
        let device = Slow { kills, ..Slow::new(Duration::from_micros(100)) };
        let zswap = base(512 << 10).device(device).worker(worker_dies).build().unwrap();
        let (root, slots) = (zswap.root(), zswap.reserve(3000).unwrap());
        let refused = store_all(&zswap, &root, slots, 3, 1000);
        assert!(refused.is_empty(), "{}", refused[0]);
        zswap.quiesce();
        if !worker_dies {
            zswap.assert_valid(); // a thread that dies in a device takes a buffer along
        }
        read(&zswap, slots, 3000);
    }
}

#[test]
fn a_device_that_fails_has_stores_refused_by_its_name_until_it_is_back() {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(16 << 20, 4096), Plan::none().down_from(1, libc::EIO)));
    let zswap = base(512 << 10).device(Arc::clone(&device)).build().unwrap();
    let (root, slots) = (zswap.root(), zswap.reserve(2000).unwrap());
    let mut refused = 0;
    for k in 0..1000 {
        match store(&zswap, &root, slots, k) {
            Ok(()) => {}
            // Until it is retired for that.
            Err(Error::PoolFull { reason: Unwritable::WriteFailed | Unwritable::Shut, .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 200, "{refused}");
    assert_eq!(zswap.devices()[0].state, State::Retired);
    // Nobody waits for a device that fails, nor tries it many times; the worker tries it too.
    let failed = zswap.stats().failed_writes;
    assert!(failed <= 8 * refused, "{failed} writes failed for {refused} stores");
    device.replan(Plan::none());
    zswap.reinstate(0).unwrap();
    for k in 0..2000 {
        store(&zswap, &root, slots, k).unwrap();
    }
    check(&zswap, slots, 2000);
}

#[test]
fn a_refusal_names_writeback_that_is_off_for_those_who_have_entries() {
    for worker in [true, false] {
        let zswap = base(512 << 10).device(MemoryDevice::new(4 << 20, 4096)).worker(worker).build().unwrap();
        let [hog, vm] = ["hog", "vm"].map(|name| zswap.root().mkdir(name).unwrap());
        hog.set_writeback(false).unwrap();
        let slots = zswap.reserve(2000).unwrap();
        let full = (0..2000).find(|&k| store(&zswap, &hog, slots, k).is_err()).unwrap();
        let refused = store(&zswap, &vm, slots, full).unwrap_err();
        assert!(matches!(refused, Error::PoolFull { reason: Unwritable::Disabled, .. }), "{refused}");
        // At a memcg's limit: the child that has the entries may not write them, the one that stores could.
        let tenant = zswap.root().mkdir("tenant").unwrap();
        let [keeps, writes] = ["keeps", "writes"].map(|name| tenant.mkdir(name).unwrap());
        (0..full).for_each(|k| _ = zswap.free(slots.get(k).unwrap()));
        (0..50).for_each(|k| store(&zswap, &keeps, slots, k).unwrap());
        keeps.set_writeback(false).unwrap();
        tenant.set_zswap_max(tenant.usage()).unwrap();
        let refused = store(&zswap, &writes, slots, 100).unwrap_err();
        assert!(matches!(refused, Error::Limit { reason: Unwritable::Disabled, .. }), "{refused}");
        zswap.quiesce();
        zswap.assert_valid();
    }
}

#[test]
fn a_limit_that_nothing_to_write_counts_for_says_so() {
    let zswap = base(4 << 20).device(MemoryDevice::new(4 << 20, 4096)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let _resident = vm.charge_resident(1 << 20).unwrap();
    vm.set_max(Counter::Memory, 1 << 20).unwrap();
    let refused = store(&zswap, &vm, zswap.reserve(1).unwrap(), 0).unwrap_err();
    assert!(matches!(refused, Error::Limit { reason: Unwritable::NothingThere, .. }), "{refused}");
    assert!(refused.to_string().contains("memory.max"), "{refused}");
}

#[test]
fn a_store_at_its_limit_looks_on_where_the_first_entry_was_referenced() {
    let zswap = base(8 << 20).device(MemoryDevice::new(16 << 20, 4096)).worker(false).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(2000).unwrap();
    (0..300).for_each(|k| store(&zswap, &vm, slots, k).unwrap());
    vm.set_zswap_max(vm.usage()).unwrap();
    for k in 300..900 {
        check_one(&zswap, slots, k - 300..k); // all are referenced
        store(&zswap, &vm, slots, k).unwrap();
    }
    // One went for each that came: nobody wrote a batch for a page.
    let physical = zswap.stats().physical_pages;
    assert!((550..=650).contains(&physical), "{physical}");
    zswap.assert_valid();
}

fn check_one(zswap: &Zswap, slots: SlotRange, range: Range<u64>) {
    let mut page = Page::zeroed();
    range.for_each(|k| _ = zswap.try_load(slots.get(k).unwrap(), &mut page));
}

#[test]
fn stores_at_one_limit_share_batches() {
    let device = Arc::new(Slow::new(Duration::from_millis(20)));
    let zswap = base(8 << 20).device(Arc::clone(&device)).worker(false).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(1600).unwrap();
    vm.set_zswap_max(100_000).unwrap();
    let refused = store_all(&zswap, &vm, slots, 8, 40);
    assert!(refused.is_empty(), "{}", refused[0]);
    let (writes, entries) = (device.writes.load(Ordering::Relaxed), zswap.stats().physical_pages);
    assert!(entries > 150 && writes * 2 < entries, "{entries} entries in {writes} writes");
    check(&zswap, slots, 320);
}

#[test]
fn a_memcg_near_its_limit_is_written_down_in_the_background() {
    let zswap = base(16 << 20).device(MemoryDevice::new(16 << 20, 4096)).build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let vms: Vec<_> = (0..3).map(|k| tenant.mkdir(&format!("vm{k}")).unwrap()).collect();
    let slots = zswap.reserve(4000).unwrap();
    let limit = 640_000;
    tenant.set_zswap_max(limit).unwrap();
    let mark = limit - limit / 64;
    for k in 0..3000 {
        store(&zswap, &vms[k as usize % 3], slots, k).unwrap();
    }
    zswap.quiesce();
    assert!(tenant.usage() <= mark && tenant.usage() > limit / 2, "{}", tenant.usage());
    // What is to be done for a lower limit and for memory.high is done without a store.
    zswap.set_zswap_max(&vms[0], 50_000).unwrap();
    zswap.quiesce();
    assert!(vms[0].usage() <= 50_000, "{}", vms[0].usage());
    let before = vms[1].events(MemcgEvent::High);
    vms[1].set_high(60_000).unwrap();
    zswap.quiesce();
    assert!(vms[1].current(Counter::Memory) <= 60_000, "{}", vms[1].current(Counter::Memory));
    assert_eq!(vms[1].events(MemcgEvent::High), before + 1);
    check(&zswap, slots, 3000);
}

#[test]
fn under_pressure_every_memcg_gives_the_same_share() {
    let zswap = base(8 << 20).device(MemoryDevice::new(32 << 20, 4096)).build().unwrap();
    let vms: Vec<_> = (0..5).map(|k| zswap.root().mkdir(&format!("vm{k}")).unwrap()).collect();
    let slots = zswap.reserve(5000).unwrap();
    // Of very different sizes, the smallest 400 entries.
    let sizes = [400, 500, 1600, 700, 1200];
    let mut next = 0..;
    for (vm, &size) in vms.iter().zip(&sizes) {
        next.by_ref().take(size).for_each(|k| store(&zswap, vm, slots, k).unwrap());
    }
    for limit in [3 << 20, 5 << 19, 2 << 20] {
        zswap.arena().set_limit(limit);
        store(&zswap, &vms[0], slots, 0).unwrap(); // tells the worker
        zswap.quiesce();
        let written: Vec<_> = vms.iter().map(|vm| vm.stat().unwrap().events(Event::ZswpWb)).collect();
        let (most, least) = (written.iter().max().unwrap(), written.iter().min().unwrap());
        assert!(*least > 0 && most - least <= 2 * 64, "{written:?} were written");
    }
    zswap.assert_valid();
}

#[test]
fn a_worker_that_can_write_nothing_comes_to_rest() {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(16 << 20, 4096), Plan::none().at(1, Fault::Lost)));
    let zswap = base(1 << 20).device(Arc::clone(&device)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    vm.set_writeback(false).unwrap();
    let slots = zswap.reserve(4000).unwrap();
    let full = (0..4000).find(|&k| store(&zswap, &vm, slots, k).is_err()).unwrap();
    vm.set_zswap_max(1000).unwrap();
    zswap.quiesce();
    assert_eq!(device.operations(), 0);
    vm.set_writeback(true).unwrap();
    device.replan(Plan::none());
    // A thousand times the limit has to be written before it fits: it may be refused, as others are at it for longer than it waits.
    let first = store(&zswap, &vm, slots, 0);
    assert!(matches!(first, Ok(()) | Err(Error::Limit { reason: Unwritable::Busy, .. })), "{first:?}");
    zswap.quiesce();
    assert!(vm.usage() <= 1000, "{}", vm.usage());
    if first.is_err() {
        store(&zswap, &vm, slots, 0).unwrap();
    }
    check(&zswap, slots, full);
}
