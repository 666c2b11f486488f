//! Models of devices that come and go: who has a device in hand, or begins to write to it, while it is removed.
//!
//! The real `Devices` over a device of two pages. Every model says which outcomes it has seen, and has twins with a planted bug
//! that must fail.
use loom_tests::{catches, outcomes, race};
use zspool::swap::{
    Allowed, DeviceOptions, Devices, Error, Geometry, Label, MemoryDevice, Place, Protection, State, Tenant,
};
use zspool::sync::{Arc, Bug, Planted, Seat};
use zspool::units::Owner;

const TENANT: Tenant = Tenant { owner: Owner(0), payer: 1 };

/// Pages of two blocks; an object takes one block.
const TINY: Geometry = Geometry { page_bytes: 128, batch_pages: 1, max_payload: 8, write_buffers: 1, read_buffers: 1 };

fn devices(planted: Planted) -> Arc<Devices> {
    let devices = Devices::new(TINY, Protection::Checksum(1), planted);
    devices.add(memory()).unwrap();
    Arc::new(devices)
}

fn memory() -> DeviceOptions {
    DeviceOptions::device(MemoryDevice::new(2 * 128, 128))
}

fn write(devices: &Devices) -> Result<Place, Error> {
    let mut batch = devices.begin(&Allowed::ALL, 1, 1)?;
    let place = batch.push(1, Label::default(), TENANT, 1, |bytes| bytes.fill(7)).unwrap();
    batch.write()?;
    Ok(place)
}

// === a value in a seat ===

fn use_vs_take(planted: Planted) -> Option<u32> {
    let seat = Arc::new(Seat::new(planted));
    seat.put(7).unwrap();
    let (seen, taken) = race(&seat, |seat| seat.get().map(|value| *value), |seat| seat.take());
    assert_eq!(taken, Some(7));
    // Who was counted for nothing is gone too.
    seat.put(8).unwrap();
    assert_eq!(seat.take(), Some(8));
    seen
}

#[test]
fn a_seat_is_used_or_found_empty() {
    let seen = outcomes(|| use_vs_take(Planted::NONE));
    assert_eq!(seen, [None, Some(7)].into());
}

#[test]
fn counting_late_uses_what_was_taken() {
    let message = catches(|| outcomes(|| use_vs_take(Planted::bug(Bug::SeatCountsLate))));
    assert!(message.contains("E1: a seat that is taken has a value"), "{message}");
}

#[test]
fn not_waiting_takes_what_is_used() {
    let message = catches(|| outcomes(|| use_vs_take(Planted::bug(Bug::SeatTakenInUse))));
    assert!(message.contains("Concurrent read and write"), "{message}");
}

// === a reader by a place that he saw before, against free and removal ===

fn read_vs_remove(planted: Planted) -> &'static str {
    let devices = devices(planted);
    let place = write(&devices).unwrap();
    let (read, ()) = race(
        &devices,
        move |devices| match devices.read(place, 1, |object| object.bytes[0]) {
            Ok(byte) => {
                assert_eq!(byte, 7);
                "object"
            }
            Err(Error::NotOn { .. }) => "off",
            Err(other) => panic!("{other}"),
        },
        move |devices| {
            devices.drain(0).unwrap();
            devices.free(place);
            devices.remove(0).unwrap();
        },
    );
    assert_eq!(devices.state(0), State::Off);
    devices.assert_valid();
    read
}

#[test]
fn a_reader_finds_the_object_or_no_device() {
    let seen = outcomes(|| read_vs_remove(Planted::NONE));
    assert_eq!(seen, ["object", "off"].into());
}

#[test]
fn a_device_removed_in_use_is_read_after_it_is_gone() {
    let message = catches(|| outcomes(|| read_vs_remove(Planted::bug(Bug::SeatTakenInUse))));
    assert!(message.contains("Concurrent read and write"), "{message}");
}

// === a batch begun against drain and removal ===

fn write_vs_remove(planted: Planted) -> (&'static str, &'static str) {
    let devices = devices(planted);
    let (written, removed) = race(
        &devices,
        |devices| match write(devices) {
            Ok(_) => "written",
            Err(Error::Shut | Error::NoDevice) => "refused",
            Err(other) => panic!("{other}"),
        },
        |devices| {
            devices.drain(0).unwrap();
            match devices.remove(0) {
                Ok(()) => "removed",
                Err(Error::NotEmpty { objects: 1, batches: 0, .. }) => "an object",
                Err(Error::NotEmpty { .. }) => "a batch",
                Err(other) => panic!("{other}"),
            }
        },
    );
    devices.assert_valid();
    assert_eq!(removed == "removed", devices.is_empty());
    let on_device = devices.sum().map_or(0, |sum| sum.objects);
    assert_eq!(on_device, u64::from(written == "written"), "an object that was written is there");
    (written, removed)
}

#[test]
fn what_is_written_to_a_device_is_on_it_or_was_refused() {
    let seen = outcomes(|| write_vs_remove(Planted::NONE));
    assert_eq!(
        seen,
        [("refused", "a batch"), ("refused", "removed"), ("written", "a batch"), ("written", "an object")].into()
    );
}

#[test]
fn a_writer_counted_late_writes_to_a_device_that_leaves() {
    let message = catches(|| outcomes(|| write_vs_remove(Planted::bug(Bug::WriterCountsLate))));
    assert!(message.contains("D4: an object came to a device that leaves"), "{message}");
}

// === two writers where the limit has room for one ===

fn two_at_the_limit(planted: Planted) -> (bool, bool) {
    let devices = Arc::new(Devices::new(TINY, Protection::Checksum(1), planted));
    devices.add(DeviceOptions::device(MemoryDevice::new(4 * 128, 128))).unwrap();
    // A page for one batch, and one that is cleaning's.
    devices.set_limit(2 * 128);
    let try_to = |devices: &Devices| match write(devices) {
        Ok(_) => true,
        Err(Error::SwapLimit { limit: 256, .. }) => false,
        Err(other) => panic!("{other}"),
    };
    let written = race(&devices, try_to, try_to);
    assert!(devices.used_bytes() <= 128, "more is in use than the limit says");
    devices.assert_valid();
    written
}

#[test]
fn no_more_is_written_than_the_limit_says() {
    let seen = outcomes(|| two_at_the_limit(Planted::NONE));
    // Bytes may count twice for a moment, and then both are refused.
    assert!(seen.is_superset(&[(false, true), (true, false)].into()) && !seen.contains(&(true, true)), "{seen:?}");
}

#[test]
fn looking_before_promising_passes_the_limit() {
    let message = catches(|| outcomes(|| two_at_the_limit(Planted::bug(Bug::PromiseLooksFirst))));
    assert!(message.contains("more is in use than the limit says"), "{message}");
}
