//! An area over a device that fails, and one that lies.
//!
//! Properties:
//! - an object reads back as it was written, or with an error: never as anything else;
//! - whatever fails, the space in use is that of segments with objects which live, and no buffer is lost;
//! - what was written before a fault stays readable after it, unless the fault hit its very bytes.

#![cfg(not(loom))]

#[path = "support/area.rs"]
mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use support::{
    area_of, area_with, check, faulty, faulty_with, flaw, memory, payload, protections, push, tenant, write_one,
};
use zspool::swap::{Area, Device, Error, Fault, Flaw, Geometry, Label, MemoryDevice, Place, Plan, Protection, Request};

// --- corruption

#[test]
fn every_flipped_bit_of_a_block_is_an_error_and_never_data() {
    for (protection, wrong) in protections() {
        let device = memory(1 << 20);
        let area = area_with(&device, &protection);
        let mut batch = area.begin(2).unwrap();
        let before = push(&mut batch, 1, 100).unwrap();
        let place = push(&mut batch, 2, 300).unwrap();
        let after = push(&mut batch, 3, 100).unwrap();
        batch.write().unwrap();
        let first_bit = place.offset_bytes() as usize * 8;
        for bit in first_bit..first_bit + place.len_bytes() * 8 {
            let flip = |image: &mut [u8]| image[bit / 8] ^= 1 << (bit % 8);
            device.tamper(flip);
            match check(&area, place, 2, 300) {
                Err(Error::Corrupt { slot: 2, place: at, flaw }) if at == place && flaw == wrong => {}
                other => panic!("bit {bit}: {other:?}"),
            }
            check(&area, before, 1, 100).unwrap();
            check(&area, after, 3, 100).unwrap();
            device.tamper(flip);
        }
        check(&area, place, 2, 300).unwrap();
        area.assert_valid();
    }
}

#[test]
fn faults_that_claim_success_are_found_when_reading() {
    let faults = [
        Fault::Torn { sectors: 0 },
        Fault::Torn { sectors: 1 },
        Fault::Torn { sectors: 5 },
        Fault::Flip { bit: 8 * 700 },
        Fault::Misdirect { to: 512 << 10 },
        Fault::Lost,
    ];
    for (fault, (protection, wrong)) in faults.into_iter().flat_map(|f| protections().into_iter().map(move |p| (f, p)))
    {
        let (device, area) = faulty_with(1 << 20, &protection);
        device.replan(Plan::none().at(1, fault));
        let place = write_one(&area, 7, 3000);
        let error = check(&area, place, 7, 3000).unwrap_err();
        assert!(matches!(error, Error::Corrupt { slot: 7, flaw, .. } if flaw == wrong), "{fault:?}: {error}");
        // The slot still names it, so its page is not trusted again.
        area.blame(place, &error);
        area.free(place);
        assert_eq!((area.stats().corrupt, area.stats().bad_bytes, area.stats().used_bytes), (1, 256 << 10, 0));
        area.assert_valid();
    }
}

#[test]
fn a_block_copied_to_another_place_or_device_does_not_pass_there() {
    for (protection, wrong) in protections() {
        let device = memory(1 << 20);
        let area = area_with(&device, &protection);
        let (a, b) = (write_one(&area, 7, 3000), write_one(&area, 7, 3000));
        device.tamper(|image| {
            image.copy_within(a.offset_bytes() as usize..a.offset_bytes() as usize + 4096, b.offset_bytes() as usize);
        });
        check(&area, a, 7, 3000).unwrap();
        assert_eq!(flaw(check(&area, b, 7, 3000)), wrong);
        // The same bytes at the same offset of another device of the instance, which shares the key.
        let (copy, bytes) = (memory(1 << 20), device.image());
        copy.tamper(|image| image.copy_from_slice(&bytes));
        let other = Area::with_protection(Box::new(copy), 4, Geometry::default(), protection.clone()).unwrap();
        assert_eq!(flaw(check(&other, Place { device: 4, ..a }, 7, 3000)), wrong);
    }
}

#[test]
fn the_block_before_a_lost_write_is_told_by_its_generation() {
    for (protection, wrong) in protections() {
        let (device, area) = faulty_with(512 << 10, &protection);
        let mut wanted = write_one(&area, 7, 3000);
        let mut flaws = Vec::new();
        // Until the same page comes again, for the same slot and the same bytes.
        for lost in [false, true] {
            let first = wanted.block;
            area.free(wanted);
            loop {
                device.replan(if lost { Plan::none().at(1, Fault::Lost) } else { Plan::none() });
                let place = write_one(&area, 7, 3000);
                if place.block == first {
                    wanted = place;
                    break;
                }
                area.free(place);
            }
            flaws.push(check(&area, wanted, 7, 3000).err().map(|error| flaw(Err(error))));
        }
        let old = Flaw::Generation { found: wanted.generation - 1 };
        assert_eq!(flaws, [None, Some(if wrong == Flaw::Seal { wrong } else { old })]);
    }
}

#[test]
fn a_block_is_not_given_to_another_slot() {
    for (protection, wrong) in protections() {
        let area = area_with(&memory(1 << 20), &protection);
        let place = write_one(&area, 7, 3000);
        let other = Flaw::Slot { found: 7 };
        assert_eq!(flaw(check(&area, place, 8, 3000)), if wrong == Flaw::Seal { wrong } else { other });
    }
}

#[test]
fn another_instance_on_the_same_bytes_reads_nothing_of_the_first() {
    for ((first, wrong), (second, _)) in protections().into_iter().zip(protections()) {
        let device = memory(1 << 20);
        let place = write_one(&area_with(&device, &first), 7, 3000);
        assert_eq!(flaw(check(&area_with(&device, &second), place, 7, 3000)), wrong);
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri cannot run the cipher")]
fn nothing_that_was_written_can_be_read_off_an_encrypted_device() {
    let device = memory(1 << 20);
    let area = area_of(&device);
    let place = write_one(&area, 7, 3000);
    let (image, payload) = (device.image(), payload(7, 3000));
    let seen = |bytes: &[u8]| image.windows(8).any(|window| window == bytes);
    assert!(!payload.chunks_exact(8).any(seen));
    check(&area, place, 7, 3000).unwrap();
    assert!(area.describe().contains("encrypted with "), "{}", area.describe());
    // It would be seen if it were there.
    let plain = area_with(&device, &Protection::checksum());
    write_one(&plain, 7, 3000);
    let image = device.image();
    assert!(payload.chunks_exact(8).all(|bytes| image.windows(8).any(|window| window == bytes)));
    assert!(plain.describe().contains("not encrypted"), "{}", plain.describe());
}

// --- failures

#[test]
fn a_failed_write_leaves_no_object_and_counts() {
    for (fault, bad) in [
        (Fault::Errno(libc::ENOSPC), 0),
        (Fault::Errno(libc::EFBIG), 0),
        (Fault::Errno(libc::EIO), 256 << 10),
        (Fault::Short { bytes: 5000 }, 0),
    ] {
        let (device, area) = faulty(1 << 20);
        device.replan(Plan::none().at(1, fault));
        let mut batch = area.begin(64).unwrap();
        for slot in 2..9 {
            push(&mut batch, slot, 3000).unwrap();
        }
        let error = batch.write().unwrap_err();
        match (&error, fault) {
            (Error::Io { source, done: 0, .. }, Fault::Errno(errno)) => assert_eq!(source.raw_os_error(), Some(errno)),
            (Error::Io { source, done: 5000, .. }, Fault::Short { .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::WriteZero);
            }
            _ => panic!("{error}"),
        }
        let stats = area.stats();
        assert_eq!((stats.used_bytes, stats.objects, stats.io_errors, stats.bad_bytes), (0, 0, 1, bad), "{fault:?}");
        area.assert_valid();
        check(&area, write_one(&area, 2, 3000), 2, 3000).unwrap();
        assert_eq!(area.reinstate(), usize::from(bad > 0));
        assert_eq!(area.stats().bad_bytes, 0, "what was bad for writes is as good as new");
        area.assert_valid();
    }
}

#[test]
fn pages_that_a_failed_write_may_have_touched_are_not_written_again_in_this_use_of_the_segment() {
    let (device, area) = faulty(512 << 10);
    let kept = write_one(&area, 1, 2000);
    device.replan(Plan::none().at(1, Fault::Errno(libc::ENOSPC)));
    let mut batch = area.begin(64).unwrap();
    let promised = push(&mut batch, 7, 3000).unwrap();
    push(&mut batch, 8, 3000).unwrap();
    assert!(batch.write().is_err());
    let next = write_one(&area, 7, 3000);
    assert_eq!((promised.offset_bytes(), next.offset_bytes()), (4096, 3 * 4096), "two pages were tried");
    // An older version of the slot is still there, whole, but no place of this use names it.
    assert_eq!((area.stats().used_bytes, area.stats().reclaimable_bytes), (4 * 4096, 2 * 4096));
    check(&area, kept, 1, 2000).unwrap();
    check(&area, next, 7, 3000).unwrap();
    area.assert_valid();
}

#[test]
fn a_segment_where_a_write_failed_takes_no_more_batches_but_keeps_its_objects() {
    let (device, area) = faulty(1 << 20);
    let kept = write_one(&area, 1, 2000);
    device.replan(Plan::none().at(1, Fault::Errno(libc::EIO)));
    let mut batch = area.begin(2).unwrap();
    push(&mut batch, 2, 3000).unwrap();
    assert!(batch.write().is_err());
    assert_eq!(write_one(&area, 3, 2000).offset_bytes() >> 18, 1, "the next segment");
    check(&area, kept, 1, 2000).unwrap();
    assert_eq!(area.stats().segments.bad, 0, "something lives there");
    area.free(kept);
    assert_eq!(area.stats().segments.bad, 1);
    area.maintain();
    assert_eq!(area.reinstate(), 1);
    assert_eq!((area.stats().segments.bad, area.stats().segments.free), (0, 3));
    area.assert_valid();
}

#[test]
fn a_segment_that_was_misread_is_not_reinstated() {
    let (device, area) = faulty(1 << 20);
    let place = write_one(&area, 1, 2000);
    device.replan(Plan::none().at(1, Fault::Errno(libc::EIO)));
    area.blame(place, &check(&area, place, 1, 2000).unwrap_err());
    area.free(place);
    assert_eq!((area.reinstate(), area.stats().segments.bad), (0, 1));
    area.assert_valid();
}

#[test]
fn a_read_that_fails_may_be_tried_again() {
    let (device, area) = faulty(1 << 20);
    let place = write_one(&area, 1, 2000);
    for fault in [Fault::Errno(libc::EIO), Fault::Short { bytes: 100 }] {
        device.replan(Plan::none().at(1, fault));
        assert!(matches!(check(&area, place, 1, 2000), Err(Error::Io { .. })));
        check(&area, place, 1, 2000).unwrap();
    }
    assert_eq!((area.stats().io_errors, area.stats().bad_bytes), (2, 0));
    area.assert_valid();
}

#[test]
fn a_panicking_reader_or_writer_returns_its_buffer() {
    let area = area_of(&memory(1 << 20));
    let place = write_one(&area, 1, 2000);
    for _ in 0..40 {
        let read =
            std::panic::AssertUnwindSafe(|| area.read::<()>(place, 1, |_| std::panic::resume_unwind(Box::new(()))));
        assert!(std::panic::catch_unwind(read).is_err());
        let write = std::panic::AssertUnwindSafe(|| {
            let mut batch = area.begin(4).unwrap();
            batch.push(2, Label::default(), tenant(2), 10, |_| std::panic::resume_unwind(Box::new(())));
        });
        assert!(std::panic::catch_unwind(write).is_err());
    }
    area.assert_valid();
    check(&area, place, 1, 2000).unwrap();
}

#[test]
fn a_device_without_holes_is_carried_on_with_and_counted() {
    let (device, area) = faulty(1 << 20);
    let place = write_one(&area, 1, 2000);
    area.free(place);
    device.replan(Plan::none().at(1, Fault::Errno(libc::EOPNOTSUPP)));
    assert_eq!(area.maintain(), 0);
    let stats = area.stats();
    assert_eq!((stats.unpunched_bytes, stats.punched_bytes, stats.punchable_bytes), (4096, 0, 0));
    assert!(area.describe().contains("cannot give storage back"), "{}", area.describe());
    for _ in 0..3 {
        area.free(write_one(&area, 1, 2000));
        area.maintain();
    }
    assert_eq!(area.stats().unpunched_bytes, 4 * 4096);
    area.assert_valid();
}

/// Two batches, reads, frees, holes, a third batch; errors are passed over as a caller would. Returns what should be
/// live.
fn scenario(area: &Area) -> BTreeMap<u64, (Place, usize)> {
    let mut live = BTreeMap::new();
    let write = |slots: std::ops::Range<u64>, live: &mut BTreeMap<u64, (Place, usize)>| {
        let Ok(mut batch) = area.begin(16) else { panic!("there is room for all of it") };
        let mut pending = Vec::new();
        for slot in slots {
            let len = 500 + slot as usize * 190;
            pending.push((slot, push(&mut batch, slot, len).unwrap(), len));
        }
        if batch.write().is_ok() {
            live.extend(pending.into_iter().map(|(slot, place, len)| (slot, (place, len))));
        }
    };
    write(0..8, &mut live);
    write(8..14, &mut live);
    for slot in [3, 9, 4, 5, 10, 11] {
        if let Some(&(place, len)) = live.get(&slot) {
            match check(area, place, slot, len) {
                Ok(()) => {}
                Err(error) => area.blame(place, &error),
            }
            area.free(place);
            live.remove(&slot);
        }
    }
    area.maintain();
    write(14..20, &mut live);
    area.maintain();
    live
}

/// Bytes of the blocks of live objects, and of all pages up to the last of each segment.
fn bytes_of(live: &BTreeMap<u64, (Place, usize)>) -> (u64, u64) {
    let mut ends = BTreeMap::new();
    for (place, _) in live.values() {
        let end = (place.offset_bytes() + place.len_bytes() as u64).next_multiple_of(4096);
        let segment = place.offset_bytes() >> 18;
        let last: &mut u64 = ends.entry(segment).or_default();
        *last = (*last).max(end - (segment << 18));
    }
    (live.values().map(|(place, _)| place.len_bytes() as u64).sum(), ends.values().sum())
}

#[test]
fn whichever_operation_fails_space_is_exact_and_the_rest_is_readable() {
    type MakePlan = fn(u64) -> Plan;
    let plans: [(&str, bool, MakePlan); 6] = [
        ("EIO once", false, |k| Plan::none().at(k, Fault::Errno(libc::EIO))),
        ("EIO from there on", false, |k| Plan::none().down_from(k, libc::EIO)),
        ("full from there on", false, |k| Plan::none().full_from(k)),
        ("short", false, |k| Plan::none().at(k, Fault::Short { bytes: 4097 })),
        ("torn", true, |k| Plan::none().at(k, Fault::Torn { sectors: 3 })),
        ("lost", true, |k| Plan::none().at(k, Fault::Lost)),
    ];
    for (name, lies, plan) in plans {
        let mut k = 1;
        loop {
            let (device, area) = faulty(8 << 20);
            device.replan(plan(k));
            let live = scenario(&area);
            let tripped = device.tripped();
            device.replan(Plan::none());

            area.assert_valid();
            let stats = area.stats();
            let (bytes, used) = bytes_of(&live);
            assert_eq!(stats.live_bytes, bytes, "{name} at {k}");
            assert!(stats.used_bytes >= used && stats.used_bytes <= stats.written_bytes + (64 << 10), "{name} at {k}");
            assert_eq!(stats.objects, live.len() as u64, "{name} at {k}");
            assert_eq!(tripped && !lies, stats.io_errors > 0, "{name} at {k}: every failure is counted");
            let mut corrupt = 0;
            for (&slot, &(place, len)) in &live {
                match check(&area, place, slot, len) {
                    Ok(()) => {}
                    Err(Error::Corrupt { .. }) if lies => corrupt += 1,
                    Err(error) => panic!("{name} at {k}, slot {slot}: {error}"),
                }
            }
            // A second, healthy run succeeds in what is left.
            let again = scenario(&area);
            for (slot, (place, len)) in again.into_iter().chain(live) {
                if corrupt == 0 {
                    check(&area, place, slot, len).unwrap();
                }
                area.free(place);
            }
            assert_eq!((area.stats().used_bytes, area.stats().live_bytes), (0, 0), "{name} at {k}");
            area.assert_valid();
            if !tripped {
                break;
            }
            k += 1;
        }
        assert!(k > 8, "{name}: the scenario has more operations than {k}");
    }
}

/// Panics when it is to punch a hole.
#[derive(Debug)]
struct Unpunchable(MemoryDevice);

impl Device for Unpunchable {
    fn submit(&self, requests: &mut [Request]) {
        self.0.submit(requests);
    }
    fn complete(&self, requests: &mut [Request]) {
        self.0.complete(requests);
    }
    fn punch(&self, _: Range<u64>) -> std::io::Result<()> {
        std::panic::resume_unwind(Box::new("as told")); // without the hook that prints
    }
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }
    fn block_bytes(&self) -> usize {
        self.0.block_bytes()
    }
    fn name(&self) -> &str {
        "unpunchable"
    }
}

#[test]
fn segments_can_be_used_again_after_a_hole_that_panicked() {
    let area = Area::new(Box::new(Unpunchable(MemoryDevice::new(1 << 20, 4096))), 0, Geometry::default()).unwrap();
    let mut batch = area.begin(64).unwrap();
    let place = push(&mut batch, 1, 100).unwrap();
    batch.write().unwrap();
    area.free(place);
    catch_unwind(AssertUnwindSafe(|| area.maintain())).unwrap_err();
    // A segment that stayed as it was would be waited for without an end.
    let refused = loop {
        match area.begin(64) {
            Ok(mut batch) => {
                while push(&mut batch, 2, 4000).is_some() {}
                batch.write().unwrap();
            }
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    area.assert_valid();
}
