//! Models of late requests: the device answers while others look whether it has, write, and close the area.
//!
//! Each asserts the set of outcomes it has seen, so that a model which explored one order only fails.

use loom::sync::Arc;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;
use zspool::swap::{Area, Error, FaultyDevice, Geometry, Label, MemoryDevice, Place, Plan, Protection, Tenant};
use zspool::sync::{Bug, Planted};
use zspool::units::Owner;

/// Pages of two blocks; an object takes one block. Two buffers, so that one may be with a late request.
const TINY: Geometry = Geometry { page_bytes: 128, batch_pages: 1, max_payload: 8, write_buffers: 2, read_buffers: 2 };

type Device = Arc<FaultyDevice<MemoryDevice>>;

/// An area whose device gives up on what hangs at once.
fn area(pages: usize, planted: Planted) -> (Device, Arc<Area>) {
    let memory = MemoryDevice::new(pages * 128, 128);
    let device = Arc::new(FaultyDevice::with_timeout(memory, Plan::none(), Duration::ZERO));
    let area = Area::with_planted(Box::new(Arc::clone(&device)), 0, TINY, Protection::Checksum(1), planted).unwrap();
    (device, Arc::new(area))
}

const TENANT: Tenant = Tenant { owner: Owner(0), payer: 1 };

fn write(area: &Area, slot: u64) -> Result<Place, Error> {
    let mut batch = area.begin(1)?;
    let place = batch.push(slot, Label::default(), TENANT, 1, |bytes| bytes.fill(slot as u8)).unwrap();
    batch.write().map(|_| place)
}

fn read(area: &Area, place: Place, slot: u64) -> Result<u8, Error> {
    area.read(place, slot, |object| object.bytes[0])
}

fn model(outcomes: &[&str], f: impl Fn() -> String + Send + Sync + 'static) {
    let seen = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
    let record = std::sync::Arc::clone(&seen);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 10_000;
    builder.check(move || {
        let outcome = f();
        record.lock().unwrap().insert(outcome);
    });
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), outcomes);
}

/// A write hangs. It is done late, while another thread maintains and a third one writes.
fn late_write_vs_maintain_and_write(planted: Planted) -> impl Fn() -> String + Send + Sync + 'static {
    move || {
        let (device, area) = area(2, planted);
        device.replan(Plan::none().hang_from(1));
        assert!(matches!(write(&area, 1), Err(Error::TimedOut { .. })));
        device.replan(Plan::none());
        let releaser = {
            let device = Arc::clone(&device);
            loom::thread::spawn(move || assert_eq!(device.release(), 1))
        };
        let maintainer = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || _ = area.maintain())
        };
        let outcome = match write(&area, 2) {
            Ok(place) => {
                // The late write has nothing to do with the page any more.
                assert_eq!(read(&area, place, 2).unwrap(), 2);
                releaser.join().unwrap();
                assert_eq!(read(&area, place, 2).unwrap(), 2, "overwritten late");
                area.free(place);
                "written"
            }
            Err(Error::Hung { late: 1, .. }) => {
                releaser.join().unwrap();
                "hung"
            }
            Err(other) => panic!("{other}"),
        };
        maintainer.join().unwrap();
        area.maintain();
        assert!(!area.is_hung());
        area.assert_valid();
        let place = write(&area, 3).expect("all is usable again");
        assert_eq!(read(&area, place, 3).unwrap(), 3);
        outcome.to_owned()
    }
}

#[test]
fn late_write_vs_maintain_vs_write() {
    model(&["hung", "written"], late_write_vs_maintain_and_write(Planted::NONE));
}

#[test]
#[should_panic]
fn late_write_that_is_not_awaited() {
    model(&["hung", "written"], late_write_vs_maintain_and_write(Planted::bug(Bug::LateNotAwaited)));
}

#[test]
fn late_read_vs_read_vs_maintain() {
    // Half of the buffers are gone: a read is refused, or finds that the late one is over.
    model(&["hung", "read"], || {
        let (device, area) = area(2, Planted::NONE);
        let place = write(&area, 1).unwrap();
        device.replan(Plan::none().hang_from(1));
        assert!(matches!(read(&area, place, 1), Err(Error::TimedOut { .. })));
        device.replan(Plan::none());
        let releaser = {
            let device = Arc::clone(&device);
            loom::thread::spawn(move || _ = device.release())
        };
        let maintainer = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || _ = area.maintain())
        };
        let outcome = match read(&area, place, 1) {
            Ok(byte) => {
                assert_eq!(byte, 1);
                "read"
            }
            Err(Error::Hung { .. }) => "hung",
            Err(other) => panic!("{other}"),
        };
        releaser.join().unwrap();
        maintainer.join().unwrap();
        assert_eq!(read(&area, place, 1).unwrap(), 1);
        area.maintain();
        area.assert_valid();
        outcome.to_owned()
    });
}

#[test]
fn late_write_vs_the_end_of_the_area() {
    model(&["ended"], || {
        let (device, area) = area(2, Planted::NONE);
        device.replan(Plan::none().hang_from(1));
        write(&area, 1).unwrap_err();
        let releaser = {
            let device = Arc::clone(&device);
            loom::thread::spawn(move || _ = device.release())
        };
        let maintainer = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || _ = area.maintain())
        };
        drop(area);
        releaser.join().unwrap();
        maintainer.join().unwrap();
        "ended".to_owned()
    });
}
