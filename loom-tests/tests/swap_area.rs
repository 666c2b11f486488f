//! Models of an area: readers, writers, frees and holes on a device of a few hundred bytes.
//!
//! Each asserts the set of outcomes it has seen, so that a model which explored one order only fails.

#![cfg(loom)]

use loom::sync::Arc;
use std::collections::BTreeSet;
use std::sync::Mutex;
use zspool::swap::{Area, Error, Geometry, Label, MemoryDevice, Place, Tenant};
use zspool::units::Owner;

/// Pages of two blocks; an object takes one block.
const TINY: Geometry = Geometry { page_bytes: 128, batch_pages: 1, max_payload: 8, write_buffers: 1, read_buffers: 1 };

fn area(pages: usize) -> Arc<Area> {
    Arc::new(Area::with_seed(Box::new(MemoryDevice::new(pages * 128, 128)), 0, TINY, 1).unwrap())
}

const TENANT: Tenant = Tenant { owner: Owner(0), payer: 1 };

fn write(area: &Area, slot: u64) -> Option<Place> {
    let mut batch = area.begin(1).ok()?;
    let place = batch.push(slot, Label::default(), TENANT, 1, |bytes| bytes.fill(slot as u8)).unwrap();
    batch.write().unwrap();
    Some(place)
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

#[test]
fn read_vs_free_and_reuse() {
    model(&["flaw", "object"], || {
        let area = area(2);
        let old = write(&area, 1).unwrap();
        let reader = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || match read(&area, old, 1) {
                Ok(byte) => {
                    assert_eq!(byte, 1, "another slot's bytes");
                    "object"
                }
                Err(Error::Corrupt { .. }) => "flaw",
                Err(other) => panic!("{other}"),
            })
        };
        area.free(old);
        let new = write(&area, 2).unwrap();
        let outcome = reader.join().unwrap();
        assert_eq!(read(&area, new, 2).unwrap(), 2);
        area.assert_valid();
        outcome.to_owned()
    });
}

#[test]
fn begin_vs_maintain() {
    // One page, free and dirty: a batch takes it before it is punched, or waits until it is.
    model(&["punched", "written"], || {
        let area = area(2);
        area.free(write(&area, 1).unwrap());
        let maintainer = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || area.maintain())
        };
        let place = write(&area, 2).expect("a page that is being punched is waited for");
        assert_eq!(read(&area, place, 2).unwrap(), 2, "the hole was punched under an object");
        let punched = maintainer.join().unwrap();
        assert_eq!(read(&area, place, 2).unwrap(), 2, "the hole was punched under an object");
        area.assert_valid();
        if punched > 0 { "punched" } else { "written" }.to_owned()
    });
}

#[test]
fn two_frees_on_one_page() {
    model(&["free"], || {
        let area = area(2);
        let mut batch = area.begin(1).unwrap();
        let a = batch.push(1, Label::default(), TENANT, 1, |bytes| bytes.fill(1)).unwrap();
        let b = batch.push(2, Label::default(), TENANT, 1, |bytes| bytes.fill(2)).unwrap();
        batch.write().unwrap();
        let other = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || _ = area.free(a))
        };
        assert_eq!(read(&area, b, 2).unwrap(), 2);
        area.free(b);
        other.join().unwrap();
        area.assert_valid();
        assert_eq!(area.stats().used_bytes, 0);
        "free".to_owned()
    });
}

#[test]
fn two_readers_share_one_buffer() {
    model(&["both"], || {
        let area = area(2);
        let place = write(&area, 1).unwrap();
        let other = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || read(&area, place, 1).unwrap())
        };
        assert_eq!(read(&area, place, 1).unwrap(), 1);
        assert_eq!(other.join().unwrap(), 1);
        area.assert_valid();
        "both".to_owned()
    });
}
