//! Operation k of the device goes wrong, for one k after another until a run has no fault left, in every way a device can: two
//! memcgs with limits over a device so small that its places are used again and again.
//!
//! What is held against a model: no load gives a wrong byte; a page is lost only if its last copy lay where a write was
//! silently spoiled; what the device admits costs nothing; counters and space are exact; a healthy device works afterwards.

mod support;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use support::*;
use zspool::memcg::Memcg;
use zspool::swap::{Device, Fault, FaultyDevice, Geometry, MemoryDevice, Op, Plan, Request, Why};
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::{Error, Installed, Taken, Zswap};

const N0: NodeId = NodeId(0);
const SLOTS: u64 = 48;
const DEVICE_BYTES: usize = 40 * 4096;

/// The pages that are stored, made once: a thousand runs use them.
static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| (0..256).map(any_page).collect());

fn page_number(n: u64) -> &'static Page {
    &PAGES[n as usize]
}

/// What reached the device.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// By a load.
    Read(Range<u64>),
    /// By whoever moves objects: a store that cleans the device to make room.
    Moved,
    Write(Range<u64>),
    Punch,
}

/// A faulty device that keeps a log, so that a test knows what operation k was.
#[derive(Debug)]
struct Logged {
    inner: FaultyDevice<MemoryDevice>,
    log: Mutex<Vec<Seen>>,
    /// A load is under way.
    loading: AtomicBool,
}

impl Device for Logged {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests.iter() {
            let range = request.offset()..request.offset() + request.len() as u64;
            self.log.lock().unwrap().push(match request.op() {
                Op::Write => Seen::Write(range),
                Op::Read if self.loading.load(Ordering::Relaxed) => Seen::Read(range),
                Op::Read => Seen::Moved,
            });
        }
        self.inner.submit(requests);
    }
    fn complete(&self, requests: &mut [Request]) {
        self.inner.complete(requests); // everything was through inside submit
    }
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.log.lock().unwrap().push(Seen::Punch);
        self.inner.punch(range)
    }
    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }
    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
}

/// What became of a slot, as far as its user knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    /// This page.
    Page(u64),
    /// Was lost with a page's only copy.
    Lost,
}

/// One run: the store, and what it should hold.
struct Run {
    zswap: Zswap,
    device: Arc<Logged>,
    memcgs: [Memcg; 2],
    slots: SlotRange,
    model: HashMap<Slot, Holds>,
    /// Loads that failed when the device was asked.
    failed_loads: u64,
    /// What was read when pages were found lost.
    lost: Vec<Range<u64>>,
    number: u64,
    title: String,
}

impl Run {
    fn new(plan: Plan, title: String) -> Self {
        let inner = FaultyDevice::new(MemoryDevice::new(DEVICE_BYTES, 4096), plan);
        let device = Arc::new(Logged { inner, log: Mutex::new(vec![]), loading: AtomicBool::new(false) });
        let geometry = Geometry { batch_pages: 4, write_buffers: 1, read_buffers: 1, ..Geometry::default() };
        let zswap = Zswap::builder()
            .pool_limit(14 * 4096)
            .warm_frames(2)
            .slots_in_use(1 << 16)
            .address_space(64 << 20)
            .compressing_threads(1)
            .scan(6, 2)
            .worker(false)
            .device_geometry(geometry)
            .device(Arc::clone(&device))
            .build()
            .unwrap();
        let memcgs = ["a", "b"].map(|name| zswap.root().mkdir(name).unwrap());
        zswap.set_zswap_max(&memcgs[0], 9_000).unwrap();
        let slots = zswap.reserve(SLOTS).unwrap();
        Run {
            zswap,
            device,
            memcgs,
            slots,
            model: slots.iter().map(|slot| (slot, Holds::Nothing)).collect(),
            failed_loads: 0,
            lost: vec![],
            number: 0,
            title,
        }
    }

    fn slot(&self, k: u64) -> Slot {
        self.slots.get(k).unwrap()
    }

    /// Store a new page in slot k, for one memcg or the other. It may be refused; then nothing is left in the slot.
    fn store(&mut self, k: u64) -> bool {
        let (slot, memcg) = (self.slot(k), &self.memcgs[(k % 2) as usize]);
        self.number += 1;
        let number = self.number;
        let (stored, holds) = match self.zswap.store(slot, memcg, N0, page_number(number)) {
            Ok(_) => (true, Holds::Page(number)),
            Err(Error::Limit { .. } | Error::PoolFull { .. }) => (false, Holds::Nothing),
            Err(other) => panic!("{}: {other}", self.title),
        };
        self.model.insert(slot, holds);
        assert_eq!(self.zswap.is_stored(slot), stored, "{}", self.title);
        stored
    }

    /// Load slot k: twice, for what one load says, the next has to say too.
    fn load(&mut self, k: u64) {
        let slot = self.slot(k);
        let mut page = Page::zeroed();
        for _ in 0..2 {
            page.fill(0xa5);
            let before = self.device.log.lock().unwrap().len();
            self.device.loading.store(true, Ordering::Relaxed);
            let loaded = self.zswap.load(slot, &mut page);
            self.device.loading.store(false, Ordering::Relaxed);
            match (loaded, self.model[&slot]) {
                (Ok(()), Holds::Page(number)) => {
                    assert!(page[..] == page_number(number)[..], "{}: wrong bytes for {slot:?}", self.title)
                }
                (Ok(()), holds) => panic!("{}: {slot:?} gives a page and holds {holds:?}", self.title),
                (Err(Error::NotStored { .. }), Holds::Nothing) | (Err(Error::Lost { .. }), Holds::Lost) => {}
                (Err(Error::Lost { .. }), Holds::Page(_)) => self.note_lost(slot, before),
                (Err(error), holds) => panic!("{}: {slot:?}, which holds {holds:?}: {error}", self.title),
            }
        }
    }

    /// The page of the slot did not come back, by a read after so many operations, or by a mover's before.
    fn note_lost(&mut self, slot: Slot, before: usize) {
        self.model.insert(slot, Holds::Lost);
        let log = self.device.log.lock().unwrap();
        if let Some(last) = log[before..].last() {
            let Seen::Read(range) = last else { panic!("{}: {slot:?} is lost by {last:?}", self.title) };
            self.failed_loads += 1;
            self.lost.push(range.clone());
        }
    }

    fn free(&mut self, k: u64) {
        let slot = self.slot(k);
        let held = self.model.insert(slot, Holds::Nothing).unwrap();
        assert_eq!(self.zswap.free(slot), held != Holds::Nothing, "{}", self.title);
    }

    /// Take slot k out; where that fails it is still there.
    fn take(&mut self, k: u64) {
        let slot = self.slot(k);
        let holds = self.model[&slot];
        let expected = |page: &[u8; 4096]| matches!(holds, Holds::Page(n) if page[..] == page_number(n)[..]);
        let before = self.device.log.lock().unwrap().len();
        self.device.loading.store(true, Ordering::Relaxed);
        let taken = self.zswap.take_with(slot, |page| if expected(page) { Installed::Yes } else { Installed::No });
        self.device.loading.store(false, Ordering::Relaxed);
        match taken {
            Ok(Taken::Freed) => _ = self.model.insert(slot, Holds::Nothing),
            Ok(other) => panic!("{}: {slot:?} was not as it should be: {other:?}", self.title),
            Err(Error::NotStored { .. }) => assert_eq!(holds, Holds::Nothing, "{}", self.title),
            Err(Error::Lost { .. }) if holds == Holds::Lost => {}
            Err(Error::Lost { .. }) => self.note_lost(slot, before),
            Err(other) => panic!("{}: {other}", self.title),
        }
    }

    fn load_all(&mut self) {
        (0..SLOTS).for_each(|k| self.load(k * 29 % SLOTS));
    }

    /// The same for every plan: limits met, places freed and used again, everything read.
    fn scenario(&mut self) {
        (0..SLOTS).for_each(|k| _ = self.store(k));
        self.zswap.assert_valid();
        self.load_all();
        // Places are freed in many ways, holes punched, and used again for the same slots and others.
        (0..SLOTS).step_by(3).for_each(|k| self.free(k));
        self.zswap.quiesce();
        (0..SLOTS).step_by(4).for_each(|k| _ = self.store(k));
        (1..SLOTS).step_by(5).for_each(|k| self.take(k));
        // A limit is lowered to nothing: pages go straight to the device.
        self.zswap.set_zswap_max(&self.memcgs[1], 0).unwrap();
        (1..SLOTS).step_by(6).for_each(|k| _ = self.store(k));
        self.zswap.set_zswap_max(&self.memcgs[1], u64::MAX).unwrap();
        let _ = self.zswap.shrink_memcg(&self.memcgs[1], 12);
        (0..SLOTS).step_by(2).for_each(|k| _ = self.store(k));
        self.zswap.assert_valid();
        self.load_all();
    }

    /// What the counters must say after the scenario, by what operation k was and how it went wrong.
    fn check(&self, k: u64, fault: Fault) {
        let title = &self.title;
        let log = self.device.log.lock().unwrap();
        let hit = log.get(k as usize - 1);
        let stats = self.zswap.stats();
        let area = stats.area.as_ref().unwrap();
        let admitted = matches!(fault, Fault::Errno(_) | Fault::Short { .. });
        let is = |hit: Option<&Seen>, write: bool| match hit {
            Some(Seen::Write(_)) => write,
            Some(Seen::Read(_)) => !write,
            _ => false,
        };
        assert!(stats.failed_loads >= self.failed_loads, "{title}: movers' reads count too");
        assert_eq!(area.io_errors, u64::from(admitted && hit.is_some()), "{title}: I/O errors");
        let failed_writes = u64::from(admitted && is(hit, true));
        assert!(stats.failed_writes <= failed_writes, "{title}: batches the device failed to write");
        match hit {
            // A mover that failed to read a segment reads its objects one by one.
            None | Some(Seen::Punch | Seen::Moved) => {
                assert_eq!((stats.failed_loads, self.lost.len()), (0, 0), "{title}");
            }
            // It costs the page that was read: it is never asked for again.
            Some(Seen::Read(range)) => {
                // A flip or a tear may fall where no page of this read lies.
                assert!(stats.failed_loads <= 1, "{title}: {} failed loads", stats.failed_loads);
                assert!(self.lost.iter().all(|lost| lost == range), "{title}: {:?} is lost", self.lost);
                if admitted {
                    assert_eq!(self.failed_loads, 1, "{title}");
                }
            }
            // It was still in the pool.
            Some(Seen::Write(_)) if admitted => assert_eq!((stats.failed_loads, self.lost.len()), (0, 0), "{title}"),
            Some(Seen::Write(range)) => {
                let mut spoiled = vec![range.clone()];
                if let Fault::Misdirect { to } = fault {
                    let len = range.end - range.start;
                    let to = to.min(DEVICE_BYTES as u64 - len) / 4096 * 4096;
                    spoiled.push(to..to + len);
                }
                for place in &self.lost {
                    let inside = |range: &Range<u64>| range.start < place.end && place.start < range.end;
                    assert!(spoiled.iter().any(inside), "{title}: {place:?} is lost, and {spoiled:?} was spoiled");
                }
                if matches!(fault, Fault::Flip { .. }) {
                    assert!(stats.failed_loads <= 1, "{title}: one bit cost {:?}", self.lost);
                }
            }
        }
    }

    /// The device is well again: everything works, and everything is given back, but for the places given up as bad.
    fn recover(&mut self, bad: u64) {
        self.device.inner.replan(Plan::none());
        (0..SLOTS).step_by(2).for_each(|k| self.free(k));
        let stored = (0..SLOTS).filter(|&k| self.store(k)).count();
        assert!(stored > 40 || bad > 8, "{}: {stored} pages find room", self.title);
        self.zswap.assert_valid();
        let lost = self.lost.len();
        self.load_all();
        assert_eq!(self.lost.len(), lost, "{}: nothing new is lost", self.title);
        (0..SLOTS).for_each(|k| self.free(k));
        self.zswap.quiesce();
        self.zswap.assert_valid();
        let stats = self.zswap.stats();
        let area = stats.area.unwrap();
        assert_eq!((stats.pool.objects, stats.pool.payload_bytes, stats.backed_bytes), (0, 0, 0), "{}", self.title);
        assert_eq!((area.used_bytes, area.live_bytes, area.objects), (0, 0, 0), "{}", self.title);
        assert!(area.bad_bytes <= bad * 4096, "{}: {} bytes are given up", self.title, area.bad_bytes);
        let gauges = [
            stats.same_filled_pages,
            stats.pattern_pages,
            stats.compressed_pages,
            stats.physical_pages,
            stats.lost_pages,
        ];
        assert_eq!(gauges, [0; 5], "{}", self.title);
        for memcg in &self.memcgs {
            assert_eq!(memcg.usage(), 0, "{}", self.title);
            assert_eq!(memcg.stat().unwrap().bytes, Default::default(), "{}", self.title);
        }
    }
}

/// Operations go wrong in each of these ways, one in each run: all of them where `ZSPOOL_FAULTS` is set (`.ci/deep faults`), else every
/// second one, beginning with the first and the second in turns, so that two ways of a kind have all between them.
fn drive_all(faults: &[Fault]) {
    let step: u64 = if std::env::var_os("ZSPOOL_FAULTS").is_some() { 1 } else { 2 };
    for (number, &fault) in faults.iter().enumerate() {
        let operations = drive(fault, 1 + number as u64 % step, step);
        assert!(operations > 80, "the scenario has too few operations");
    }
}

/// From the first operation on, and every so many further. Returns how many operations there are.
fn drive(fault: Fault, first: u64, step: u64) -> u64 {
    let mut losses = 0;
    for k in (first..).step_by(step as usize) {
        let mut run = Run::new(Plan::none().at(k, fault), format!("operation {k}, {fault:?}"));
        run.scenario();
        run.check(k, fault);
        let tripped = run.device.inner.tripped();
        losses += run.lost.len();
        if k % 3 == 0 || !tripped {
            run.recover(8); // a misdirected write spoils two batches of four pages
        }
        if !tripped {
            let silent_writes = matches!(fault, Fault::Lost | Fault::Torn { .. } | Fault::Misdirect { .. });
            assert!(!silent_writes || losses > 0, "{fault:?} must have cost something, or nothing was tried");
            println!("{fault:?}: {} operations at most, {losses} pages lost where the device lied", k - 1);
            return k - 1;
        }
    }
    unreachable!()
}

#[test]
fn errors_that_the_device_admits_lose_nothing() {
    let faults = [
        Fault::Errno(libc::EIO),
        Fault::Errno(libc::ENOSPC),
        Fault::Short { bytes: 100 },
        Fault::Short { bytes: 5000 },
    ];
    drive_all(&faults);
}

#[test]
fn writes_and_reads_that_are_torn_or_lost_are_seen() {
    drive_all(&[Fault::Torn { sectors: 1 }, Fault::Torn { sectors: 9 }, Fault::Lost, Fault::Lost]); // one kind of loss: twice
}

#[test]
fn bits_that_flip_and_blocks_that_go_astray_are_seen() {
    let faults = [
        Fault::Flip { bit: 8 * 50 + 3 },
        Fault::Flip { bit: 12_345 },
        Fault::Misdirect { to: 0 },
        Fault::Misdirect { to: 20 * 4096 },
    ];
    drive_all(&faults);
}

/// The device fails for good in the middle: what is in the pool stays readable, what is on the device and was asked for is lost,
/// what was not is there when it comes back, and nothing adds up wrongly.
#[test]
fn a_device_that_goes_away_takes_only_its_own_pages() {
    for k in (1..120).step_by(7) {
        // Each write that fails with EIO gives up a place; lack of space says nothing about places.
        let plans = [(Plan::none().down_from(k, libc::EIO), u64::MAX / 4096), (Plan::none().full_from(k), 0)];
        for (plan, bad) in plans {
            let mut run = Run::new(plan, format!("down from operation {k}"));
            (0..SLOTS).for_each(|k| _ = run.store(k));
            let _ = run.zswap.shrink_memcg(&run.memcgs[1], 100);
            run.zswap.assert_valid();
            let mut page = Page::zeroed();
            let slots = run.slots;
            for slot in slots.iter().step_by(2) {
                match (run.zswap.load(slot, &mut page), run.model[&slot]) {
                    (Ok(()), Holds::Page(number)) => assert!(page[..] == page_number(number)[..], "{}", run.title),
                    (Err(Error::NotStored { .. }), Holds::Nothing) => {}
                    (Err(Error::Lost { .. }), Holds::Page(_)) => {
                        assert!(matches!(run.zswap.try_load(slot, &mut page), Err(Error::Lost { .. })));
                        run.model.insert(slot, Holds::Lost);
                    }
                    (loaded, holds) => panic!("{}: {holds:?} gives {loaded:?}", run.title),
                }
            }
            // It comes back, with all that nobody asked for.
            run.device.inner.replan(Plan::none());
            run.load_all();
            run.recover(bad);
        }
    }
}

/// A slot that is stored again and again comes to lie where it lay before. If that write is lost, what is found there is a whole
/// block of the same slot, sealed by the same key: an older page, which must not pass for the new one.
#[test]
fn a_lost_write_does_not_bring_an_older_page_back() {
    let mut losses = 0;
    for lost in 1..=24 {
        let device = FaultyDevice::new(MemoryDevice::new(16 * 4096, 4096), Plan::none().at(2 * lost - 1, Fault::Lost));
        let geometry = Geometry { batch_pages: 4, write_buffers: 1, read_buffers: 1, ..Geometry::default() };
        let zswap = Zswap::builder().slots_in_use(1 << 16).address_space(64 << 20).pool_limit(1 << 20).worker(false);
        let zswap = zswap.device_geometry(geometry).device(device).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        zswap.set_zswap_max(&vm, 0).unwrap();
        let slot = zswap.reserve(1).unwrap().base();
        for version in 1..=24 {
            // Operations: a write, and a read.
            zswap.store(slot, &vm, N0, &compressible(version, 700)).unwrap();
            let mut page = Page::zeroed();
            match zswap.load(slot, &mut page) {
                Ok(()) => assert!(page[..] == compressible(version, 700)[..], "version {version}, {lost} lost"),
                Err(Error::Lost { loss, .. }) => {
                    assert_eq!((version, loss.why), (lost, Why::Corrupt));
                    losses += 1;
                }
                Err(other) => panic!("version {version}, {lost} lost: {other}"),
            }
            assert_eq!(zswap.device(0).unwrap().stats().objects, u64::from(version != lost));
        }
    }
    assert_eq!(losses, 24, "each lost write is seen");
}
