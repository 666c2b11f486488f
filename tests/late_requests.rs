//! Devices that do not answer in time: what is late is not used again before it is over, nobody waits for ever, no page is lost,
//! and when the device answers everything can be used again.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};
use support::*;
use zspool::swap::{
    Area, Device, Error, Fault, FaultyDevice, Geometry, Label, MemoryDevice, Op, Place, Plan, State, SwapFile, Tenant,
};
use zspool::units::{NodeId, Owner, Page};
use zspool::zswap::{self, Shrunk, Zswap};

type Hanging = Arc<FaultyDevice<MemoryDevice>>;

/// With a time-out of zero: a request that hangs is late at once.
fn hanging(bytes: usize) -> Hanging {
    let device = FaultyDevice::with_timeout(MemoryDevice::new(bytes, 4096), Plan::none(), Duration::ZERO);
    Arc::new(device)
}

fn area(geometry: Geometry) -> (Hanging, Area) {
    let device = hanging(4 << 20);
    let area = Area::new(Box::new(Arc::clone(&device)), 0, geometry).unwrap();
    (device, area)
}

const TENANT: Tenant = Tenant { owner: Owner(0), payer: 1 };

fn byte(slot: u64) -> u8 {
    slot as u8 ^ 0x5a
}

fn write(area: &Area, slots: impl Iterator<Item = u64>) -> Result<Vec<(u64, Place)>, Error> {
    let mut batch = area.begin(64)?;
    let push = |slot| Some((slot, batch.push(slot, Label::default(), TENANT, 2000, |to| to.fill(byte(slot)))?));
    let Some(places) = slots.map(push).collect() else {
        return Err(Error::Shut); // the batch was shorter than was asked for
    };
    batch.write().map(|_| places)
}

fn check(area: &Area, places: &[(u64, Place)]) {
    for &(slot, place) in places {
        area.read(place, slot, |object| assert!(object.bytes.iter().all(|&b| b == byte(slot)))).unwrap();
    }
}

#[test]
fn pages_of_a_late_write_are_nobody_elses_until_it_is_over() {
    let (device, area) = area(Geometry::default());
    let before = write(&area, 0..20).unwrap();
    // A second batch is open when the first one hangs.
    let mut open = area.begin(64).unwrap();
    let place = open.push(99, Label::default(), TENANT, 2000, |to| to.fill(byte(99))).unwrap();
    device.replan(Plan::none().at(1, Fault::Hang));
    assert!(matches!(write(&area, 20..40), Err(Error::TimedOut { device: 0, op: Op::Write, .. })));
    assert!(area.is_hung());
    let stats = area.stats();
    assert_eq!((stats.quarantined_bytes, stats.timeouts, stats.io_errors), (256 << 10, 1, 0));
    assert!(matches!(area.begin(1), Err(Error::Hung { device: 0, late: 1 })));
    open.write().unwrap();
    area.assert_valid();
    // Everything that was there goes, and comes again, as far as it can without the late pages.
    check(&area, &before);
    before.iter().for_each(|&(_, place)| _ = area.free(place));
    let operations = device.operations();
    assert_eq!((area.maintain(), device.operations()), (0, operations), "who punched would wait for the write");
    assert!(area.is_hung());
    assert_eq!(device.release(), 1);
    assert!(area.is_hung(), "nobody has looked yet");
    assert_eq!(area.maintain(), (20 * 2048 / 4096 + 64) * 4096, "what was late too");
    // Every segment of the device but the one that is kept for cleaning, twice.
    for _ in 0..2 {
        let mut places = vec![];
        while let Ok(new) = write(&area, 100..200) {
            places.push(new);
        }
        let segments = (4 << 20) / (256 << 10);
        assert!((segments - 2..segments).contains(&places.len()), "in one a single object lies: {}", places.len());
        places.iter().for_each(|places| check(&area, places));
        check(&area, &[(99, place)]);
        places.iter().flatten().for_each(|&(_, place)| _ = area.free(place));
    }
    assert!(!area.is_hung());
    assert_eq!(area.stats().quarantined_bytes, 0);
    area.assert_valid();
}

#[test]
fn a_late_write_that_fails_in_the_end_gives_its_pages_back_too() {
    let (device, area) = area(Geometry::default());
    device.replan(Plan::none().at(1, Fault::Hang));
    write(&area, 0..1).unwrap_err();
    assert_eq!(device.release_failed(libc::EIO), 1);
    area.maintain();
    assert!(!area.is_hung());
    area.assert_valid();
    assert_eq!((area.stats().used_bytes, area.stats().bad_bytes), (0, 0));
    check(&area, &write(&area, 0..1).unwrap());
}

#[test]
fn late_reads_leave_the_object_alone_and_the_fifth_of_eight_is_not_begun() {
    let (device, area) = area(Geometry { read_buffers: 8, ..Geometry::default() });
    let places = write(&area, 0..10).unwrap();
    let (slot, place) = places[3];
    device.replan(Plan::none().hang_from(1));
    for late in 1..=4 {
        assert!(matches!(area.read(place, slot, |_| ()), Err(Error::TimedOut { op: Op::Read, .. })));
        assert_eq!((device.hanging(), area.stats().timeouts), (late, late as u64));
        area.assert_valid();
    }
    assert!(matches!(area.read(place, slot, |_| ()), Err(Error::Hung { late: 4, .. })));
    assert_eq!((device.hanging(), area.stats().corrupt), (4, 0));
    assert!(matches!(area.begin(1), Err(Error::Hung { .. })), "and nothing is written");
    device.release();
    // Whoever comes next finds that they are over: no maintenance is needed.
    check(&area, &places);
    area.maintain();
    assert!(!area.is_hung());
    area.assert_valid();
    places.iter().for_each(|&(_, place)| _ = area.free(place));
}

#[test]
fn an_area_may_be_closed_while_requests_are_late() {
    let (device, area) = area(Geometry::default());
    let places = write(&area, 0..10).unwrap();
    let mut open = area.begin(64).unwrap();
    open.push(10, Label::default(), TENANT, 2000, |to| to.fill(byte(10))).unwrap();
    device.replan(Plan::none().hang_from(1));
    area.read(places[0].1, 0, |_| ()).unwrap_err();
    assert!(matches!(open.write(), Err(Error::TimedOut { .. })));
    drop(area);
    assert_eq!(device.release(), 2);
}

#[test]
fn a_time_out_is_waited_for_and_an_answer_before_it_is_an_answer() {
    let timeout = Duration::from_millis(200);
    let device = FaultyDevice::with_timeout(MemoryDevice::new(1 << 20, 4096), Plan::none(), timeout);
    let device = Arc::new(device);
    let area = Area::new(Box::new(Arc::clone(&device)), 0, Geometry::default()).unwrap();
    let places = write(&area, 0..1).unwrap();
    device.replan(Plan::none().hang_from(1));
    let began = Instant::now();
    assert!(matches!(area.read(places[0].1, 0, |_| ()), Err(Error::TimedOut { seconds: 0.2, .. })));
    assert!(began.elapsed() >= timeout);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| area.read(places[0].1, 0, |object| object.bytes[0]));
        while device.hanging() < 2 && !reader.is_finished() {
            std::thread::yield_now();
        }
        device.release();
        if let Ok(byte_read) = reader.join().unwrap() {
            assert_eq!(byte_read, byte(0));
        }
    });
    check(&area, &places);
}

// --- an instance

fn page(k: u64) -> Page {
    compressible(k, 300 + k as usize % 900)
}

#[test]
fn pages_whose_write_is_late_stay_in_the_pool_and_reads_that_are_late_may_be_tried_again() {
    let device = hanging(8 << 20);
    let builder = Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 13).address_space(64 << 20).worker(false);
    let zswap = builder.device(Arc::clone(&device)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots: Vec<_> = zswap.reserve(200).unwrap().iter().collect();
    let state = || zswap.devices()[0].state;
    let stores = |k: u64| zswap.store(slots[k as usize], &vm, NodeId(0), &page(k)).unwrap();
    (0..200).for_each(|k| _ = stores(k));
    let loads = |k: u64| {
        let mut back = Page::zeroed();
        let result = zswap.load(slots[k as usize], &mut back);
        assert!(result.is_err() || back[..] == page(k)[..], "{k}");
        result
    };
    assert!(matches!(zswap.shrink_memcg(&vm, 60), Shrunk::Written(_)));
    let (physical, swap) = (zswap.stats().physical_pages, vm.current(zspool::memcg::Counter::Swap));
    assert!(physical > 0);
    device.replan(Plan::none().hang_from(1));
    assert!(!matches!(zswap.shrink_memcg(&vm, 60), Shrunk::Written(_)));
    assert!(!matches!(zswap.shrink_memcg(&vm, 60), Shrunk::Written(_)), "nor while it hangs");
    assert_eq!((device.hanging(), state()), (1, State::Hung), "which was not asked again");
    assert_eq!((zswap.stats().physical_pages, vm.current(zspool::memcg::Counter::Swap)), (physical, swap));
    // Pages in the pool load; those on the device are late, or refused where too many are.
    let mut late = vec![];
    for k in 0..200 {
        match loads(k) {
            Ok(()) => {}
            Err(zswap::Error::Read { source: Error::TimedOut { .. } | Error::Hung { .. }, .. }) => late.push(k),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(late.len() as u64, physical);
    assert!(device.hanging() < 12, "{}", device.hanging());
    zswap.assert_valid();
    // Late pages can be stored anew, or freed.
    stores(late[0]);
    zswap.free(slots[late[1] as usize]);
    stores(late[1]);
    device.release();
    (0..200).for_each(|k| loads(k).unwrap());
    zswap.quiesce();
    assert_eq!(state(), State::On);
    let _ = zswap.shrink_memcg(&vm, 200); // all were loaded: they lose their second chance
    assert!(matches!(zswap.shrink_memcg(&vm, 100), Shrunk::Written(_)));
    (0..200).for_each(|k| loads(k).unwrap());
    zswap.assert_valid();
    assert!(device.describe().contains("faults"));
}

/// The time of a request may be over before the kernel was asked for anything: then there is nothing to wait for.
#[test]
fn a_request_that_is_late_before_it_begins_is_not_waited_for() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    for (round, nanos) in [1, 1000, 5000, 20_000, 50_000].into_iter().cycle().take(50).enumerate() {
        let options = SwapFile::options().size(1 << 20).timeout(Duration::from_nanos(nanos));
        let file = options.path(place.path().join(round.to_string())).open().unwrap();
        let area = Area::new(Box::new(file), 0, Geometry::default()).unwrap();
        let written = write(&area, 0..20);
        let since = Instant::now();
        while area.is_hung() {
            assert!(since.elapsed() < Duration::from_secs(60), "after {nanos} ns: {written:?}");
            area.maintain();
        }
        if let Ok(places) = written {
            places.into_iter().for_each(|(_, place)| _ = area.free(place));
        }
    }
}
