//! Models of an area: readers, writers, frees and holes on a device of a few hundred bytes.
//!
//! Each asserts the set of outcomes it has seen, so that a model which explored one order only fails.

use loom::sync::Arc;
use std::collections::BTreeSet;
use std::sync::Mutex;
use zspool::swap::{Area, Error, Geometry, Label, MemoryDevice, Place, Protection, SegmentId, Tenant};
use zspool::sync::{Bug, Planted};
use zspool::units::Owner;

/// Pages of two blocks; an object takes one block.
const TINY: Geometry = Geometry { page_bytes: 128, batch_pages: 1, max_payload: 8, write_buffers: 1, read_buffers: 1 };

/// An area of segments of one page each.
fn area(segments: usize, planted: Planted) -> Arc<Area> {
    let device = MemoryDevice::new(segments * 128, 128);
    Arc::new(Area::with_planted(Box::new(device), 0, TINY, Protection::Checksum(1), planted).unwrap())
}

/// Two segments of two pages.
fn two_pages(planted: Planted) -> Arc<Area> {
    let (device, geometry) = (MemoryDevice::new(4 * 128, 128), Geometry { batch_pages: 2, write_buffers: 2, ..TINY });
    Arc::new(Area::with_planted(Box::new(device), 0, geometry, Protection::Checksum(1), planted).unwrap())
}

const TENANT: Tenant = Tenant { owner: Owner(0), payer: 1 };

/// Write an object of one byte for a slot.
fn write(area: &Area, slot: u64, byte: u8) -> Option<Place> {
    let mut batch = area.begin(1).ok()?;
    let place = batch.push(slot, Label::default(), TENANT, 1, |bytes| bytes.fill(byte)).unwrap();
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

/// The message that a model with a bug in it fails with.
fn catches(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(f).expect_err("the planted bug is caught");
    let text = panic.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| panic.downcast_ref::<&str>().expect("a panic has a message").to_string())
}

// === a read against the free of its place, which is then used again for the same slot ===

fn read_vs_free_and_reuse(planted: Planted) -> impl Fn() -> String + Send + Sync + 'static {
    move || {
        let area = area(2, planted);
        let old = write(&area, 1, 1).unwrap();
        let reader = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || match read(&area, old, 1) {
                Ok(byte) => {
                    assert_eq!(byte, 1, "what another place holds");
                    "object"
                }
                Err(Error::Corrupt { .. }) => "flaw",
                Err(other) => panic!("{other}"),
            })
        };
        area.free(old);
        // The same slot, the same blocks of the same segment.
        let new = write(&area, 1, 2).unwrap();
        let outcome = reader.join().unwrap();
        assert_eq!(read(&area, new, 1).unwrap(), 2);
        area.assert_valid();
        outcome.to_owned()
    }
}

#[test]
fn a_read_of_a_place_that_is_used_again_is_the_old_object_or_a_flaw() {
    model(&["flaw", "object"], read_vs_free_and_reuse(Planted::NONE));
}

#[test]
fn a_segment_that_keeps_its_generation_is_seen() {
    let bug = Planted::bug(Bug::SegmentKeepsGeneration);
    let message = catches(|| model(&["flaw", "object"], read_vs_free_and_reuse(bug)));
    assert!(message.contains("what another place holds"), "{message}");
}

// === a batch against a hole ===

fn begin_vs_maintain(planted: Planted) -> impl Fn() -> String + Send + Sync + 'static {
    move || {
        // One segment to fill, free and dirty: a batch takes it before it is punched, or waits until it is.
        let area = area(2, planted);
        area.free(write(&area, 1, 1).unwrap());
        let maintainer = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || area.maintain())
        };
        let place = write(&area, 2, 2).expect("a segment that is being punched is waited for");
        let punched = maintainer.join().unwrap();
        assert_eq!(read(&area, place, 2).ok(), Some(2), "the hole was punched under an object");
        area.assert_valid();
        if punched > 0 { "punched" } else { "written" }.to_owned()
    }
}

#[test]
fn a_hole_is_never_punched_under_a_batch() {
    model(&["punched", "written"], begin_vs_maintain(Planted::NONE));
}

#[test]
fn a_segment_to_be_had_while_it_is_punched_is_seen() {
    let bug = Planted::bug(Bug::PunchLeavesFree);
    let message = catches(|| model(&["punched", "written"], begin_vs_maintain(bug)));
    assert!(message.contains("punched under an object"), "{message}");
}

// === a free against the commit of another batch in the same segment ===

fn free_vs_commit(planted: Planted) -> impl Fn() -> String + Send + Sync + 'static {
    move || {
        let area = two_pages(planted);
        let first = write(&area, 1, 1).unwrap();
        let freer = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || {
                assert_eq!(area.free(first), TENANT.payer);
                area.stats().objects
            })
        };
        let second = write(&area, 2, 2).unwrap();
        assert_eq!(read(&area, second, 2).unwrap(), 2);
        let objects = freer.join().unwrap();
        assert_eq!((area.tenant(first), area.tenant(second)), (None, Some(TENANT)), "who is there");
        assert_eq!(area.stats().objects, 1);
        area.assert_valid();
        area.free(second);
        area.assert_valid();
        assert_eq!((area.stats().used_bytes, area.stats().segments.free), (0, 2));
        // In the same segment: before the free it was not empty. Otherwise it was free by then, and used again.
        let outcome = if second.block == first.block { "freed first" } else { "beside it" };
        format!("{outcome}, {objects} left")
    }
}

#[test]
fn a_free_and_the_commit_of_another_batch_in_the_segment_are_both_done() {
    let outcomes = ["beside it, 0 left", "beside it, 1 left", "freed first, 0 left", "freed first, 1 left"];
    model(&outcomes, free_vs_commit(Planted::NONE));
}

#[test]
fn a_commit_that_trusts_its_first_look_is_seen() {
    let message = catches(|| model(&[], free_vs_commit(Planted::bug(Bug::CommitTrustsFirstLook))));
    assert!(message.contains("who is there"), "{message}");
}

// === two frees in one segment, beside a read ===

#[test]
fn two_frees_in_one_segment() {
    model(&["free"], || {
        let area = area(2, Planted::NONE);
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
        assert_eq!((area.stats().used_bytes, area.stats().segments.free), (0, 2));
        "free".to_owned()
    });
}

// === who waits for a segment that a batch has ===

#[test]
fn whoever_waits_for_the_segment_of_a_batch_gets_its_tail() {
    model(&["tail"], || {
        let area = two_pages(Planted::NONE);
        let other = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || match area.begin(1) {
                // The other one is kept for cleaning.
                Ok(batch) => drop(batch),
                Err(other) => panic!("{other}"),
            })
        };
        let place = write(&area, 2, 2).expect("it is waited for");
        other.join().unwrap();
        let next = write(&area, 3, 3).unwrap();
        assert_eq!(next.block, place.block + 2, "the next page of the same segment");
        area.free(place);
        area.free(next);
        area.assert_valid();
        "tail".to_owned()
    });
}

// === an image of a segment against frees, and a batch ===

#[test]
fn an_image_vs_a_free_and_a_batch() {
    model(&["all", "none", "some"], || {
        let area = two_pages(Planted::NONE);
        let (a, b) = (write(&area, 1, 1).unwrap(), write(&area, 2, 2).unwrap());
        let other = {
            let area = Arc::clone(&area);
            loom::thread::spawn(move || {
                area.free(a);
                area.free(b);
                write(&area, 3, 3).map(|place| _ = area.free(place)).expect("the segment is free, whoever looks at it");
            })
        };
        let mut lease = area.lease_segment().unwrap();
        let outcome = match area.read_segment(SegmentId(0), &mut lease).unwrap() {
            None => "none",
            Some(mut image) => {
                let objects = image.objects().to_vec();
                for (i, (place, tenant)) in objects.iter().enumerate() {
                    assert_eq!(*tenant, TENANT);
                    let slot = if *place == a {
                        1
                    } else if *place == b {
                        2
                    } else {
                        3
                    };
                    if let Ok(object) = image.open(i, slot) {
                        assert_eq!(u64::from(object.bytes[0]), slot, "another's bytes");
                    }
                }
                if objects.len() == 2 { "all" } else { "some" }
            }
        };
        drop(lease);
        other.join().unwrap();
        area.assert_valid();
        assert_eq!(area.stats().segments.free, 2);
        outcome.to_owned()
    });
}

#[test]
fn two_readers_share_one_buffer() {
    model(&["both"], || {
        let area = area(2, Planted::NONE);
        let place = write(&area, 1, 1).unwrap();
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
