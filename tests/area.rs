//! An area over devices in memory, healthy and faulty.
//!
//! Properties:
//! - an object reads back as it was written, or with an error: never as anything else;
//! - whatever fails, the space in use is that of the objects which live, and no buffer is lost;
//! - what was written before a fault stays readable after it, unless the fault hit its very bytes.

#![cfg(not(loom))]

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use zspool::swap::{
    Area, BLOCK_BYTES, Batch, Cipher, Error, Fault, FaultyDevice, Flaw, Geometry, HEADER_BYTES, MAX_PAYLOAD,
    MemoryDevice, Place, Plan, Protection,
};

type Faulty = Arc<FaultyDevice<Arc<MemoryDevice>>>;

/// The bytes of the object of a slot: nothing another slot has, no zeroes at the ends.
fn payload(slot: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (slot as usize * 131 + i * 7 + i / 256) as u8 | 1).collect()
}

fn push(batch: &mut Batch<'_>, slot: u64, len: usize) -> Option<Place> {
    batch.push(slot, 1, (slot % 3) as u8, len, |bytes| bytes.copy_from_slice(&payload(slot, len)))
}

/// Whether the object reads back as written; `Err` is the error.
fn check(area: &Area, place: Place, slot: u64, len: usize) -> Result<(), Error> {
    let object = area.read(place, slot, |object| (object.label.codec, object.label.flags, object.bytes.to_vec()))?;
    assert_eq!(object, (1, (slot % 3) as u8, payload(slot, len)), "slot {slot} came back as something else");
    Ok(())
}

fn memory(bytes: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(bytes, 4096))
}

fn area_of(device: &Arc<MemoryDevice>) -> Area {
    area_with(device, &Protection::new().unwrap())
}

fn area_with(device: &Arc<MemoryDevice>, protection: &Protection) -> Area {
    Area::with_protection(Box::new(Arc::clone(device)), 3, Geometry::default(), protection.clone()).unwrap()
}

fn faulty(bytes: usize) -> (Faulty, Area) {
    faulty_with(bytes, &Protection::new().unwrap())
}

fn faulty_with(bytes: usize, protection: &Protection) -> (Faulty, Area) {
    let device = Arc::new(FaultyDevice::new(memory(bytes), Plan::none()));
    let geometry = Geometry::default();
    let area = Area::with_protection(Box::new(Arc::clone(&device)), 3, geometry, protection.clone()).unwrap();
    (device, area)
}

/// Every protection, with the flaw of what is not what was written: a seal tells no more than that, a checksum, where a
/// whole other block is found, what it is.
fn protections() -> Vec<(Protection, Flaw)> {
    let mut all = vec![(Protection::checksum(), Flaw::Checksum)];
    if !cfg!(miri) {
        all.extend([Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305].map(|c| (Protection::sealed(c).unwrap(), Flaw::Seal)));
    }
    all
}

/// The flaw of a read that must fail for one.
fn flaw(result: Result<(), Error>) -> Flaw {
    match result {
        Err(Error::Corrupt { flaw, .. }) => flaw,
        other => panic!("{other:?}"),
    }
}

/// Write one object alone.
fn write_one(area: &Area, slot: u64, len: usize) -> Place {
    let mut batch = area.begin_at_least(2, 2).unwrap();
    let place = push(&mut batch, slot, len).unwrap();
    batch.write().unwrap();
    place
}

#[test]
fn objects_of_every_length_survive_the_device() {
    let area = area_of(&memory(32 << 20));
    let mut places = Vec::new();
    let mut batch = area.begin(64).unwrap();
    for len in 0..=MAX_PAYLOAD {
        let place = push(&mut batch, len as u64, len).unwrap_or_else(|| {
            std::mem::replace(&mut batch, area.begin(64).unwrap()).write().unwrap();
            push(&mut batch, len as u64, len).unwrap()
        });
        places.push(place);
    }
    batch.write().unwrap();
    for (len, &place) in places.iter().enumerate() {
        check(&area, place, len as u64, len).unwrap();
    }
    let blocks: u64 = places.iter().map(|p| u64::from(p.blocks)).sum();
    let stats = area.stats();
    assert_eq!((stats.objects, stats.live_bytes), (places.len() as u64, blocks * BLOCK_BYTES as u64));
    places.into_iter().for_each(|place| area.free(place));
    assert_eq!((area.stats().used_bytes, area.stats().live_bytes, area.stats().objects), (0, 0, 0));
    area.assert_valid();
}

#[test]
fn a_batch_writes_whole_pages_and_gives_the_others_back() {
    let area = area_of(&memory(1 << 20));
    let mut batch = area.begin(64).unwrap();
    assert_eq!(area.stats().used_bytes, 256 << 10);
    push(&mut batch, 1, 5000 - 24 - 900).unwrap();
    push(&mut batch, 2, 10).unwrap();
    let written = batch.write().unwrap();
    assert_eq!((written.objects, written.payload_bytes, written.device_bytes), (2, 4086, 8192));
    assert_eq!((area.stats().used_bytes, area.stats().written_bytes), (8192, 8192));
    area.assert_valid();
}

#[test]
fn a_batch_that_is_dropped_or_empty_takes_no_space() {
    let device = memory(1 << 20);
    let area = area_of(&device);
    let mut batch = area.begin(64).unwrap();
    push(&mut batch, 1, 100).unwrap();
    drop(batch);
    assert_eq!(area.begin(64).unwrap().write().unwrap().objects, 0);
    assert_eq!(area.stats().used_bytes, 0);
    assert!(device.image().iter().all(|&b| b == 0));
    area.assert_valid();
}

#[test]
fn an_object_that_does_not_fit_any_more_is_not_filled() {
    let area = area_of(&memory(1 << 20));
    let mut batch = area.begin(1).unwrap();
    assert!(!batch.fits(4096) && batch.fits(4096 - HEADER_BYTES));
    assert!(batch.push(1, 0, 0, 4096, |_| panic!("it was filled")).is_none());
    assert!(push(&mut batch, 1, 4096 - HEADER_BYTES - BLOCK_BYTES).is_some());
    assert!(push(&mut batch, 2, BLOCK_BYTES - HEADER_BYTES + 1).is_none());
    assert!(push(&mut batch, 2, BLOCK_BYTES - HEADER_BYTES).is_some());
    assert!(push(&mut batch, 3, 0).is_none());
    assert_eq!(batch.write().unwrap().device_bytes, 4096);
    area.assert_valid();
}

#[test]
fn nothing_of_an_earlier_batch_reaches_the_device_again() {
    let device = memory(1 << 20);
    let geometry = Geometry { write_buffers: 1, ..Geometry::default() };
    let area = Area::new(Box::new(Arc::clone(&device)), 0, geometry).unwrap();
    let mut batch = area.begin(64).unwrap();
    while batch.push(9, 0, 0, 4000, |bytes| bytes.fill(0xee)).is_some() {}
    drop(batch);
    let mut batch = area.begin(64).unwrap();
    let place = batch.push(1, 0, 0, 1000, |_| ()).unwrap();
    batch.write().unwrap();
    assert!(area.read(place, 1, |object| object.bytes.iter().all(|&b| b == 0)).unwrap());
    // The header may hold any byte, once; a run of them is old data.
    assert!(!device.image().windows(8).any(|w| w == [0xee; 8]));
}

#[test]
fn a_full_device_refuses_with_its_numbers() {
    let area = area_of(&memory(256 << 10));
    let mut batch = area.begin(64).unwrap();
    while push(&mut batch, 1, 4000).is_some() {}
    batch.write().unwrap();
    match area.begin(1).unwrap_err() {
        Error::Full { device: 3, wanted: 1, used, size } => assert_eq!((used, size), (256 << 10, 256 << 10)),
        other => panic!("{other}"),
    }
    area.assert_valid();
}

#[test]
fn devices_that_do_not_suit_are_refused_with_a_sentence() {
    let make = |bytes, unit, number, geometry| {
        Area::new(Box::new(MemoryDevice::new(bytes, unit)), number, geometry).unwrap_err().to_string()
    };
    let geometry = Geometry::default();
    for (message, word) in [
        (make(1 << 20, 8192, 0, geometry), "8192"),
        (make(1 << 20, 4096, 32, geometry), "0 to 31"),
        (make(4096, 4096, 0, geometry), "262144"),
        (make(1 << 20, 4096, 0, Geometry { batch_pages: 65, ..geometry }), "batch_pages"),
    ] {
        assert!(message.contains(word) && message.ends_with('.'), "{message}");
    }
}

#[test]
fn a_device_of_two_kib_works() {
    let geometry = Geometry { page_bytes: 256, batch_pages: 2, max_payload: 200, write_buffers: 1, read_buffers: 1 };
    let area = Area::with_seed(Box::new(MemoryDevice::new(2048, 256)), 0, geometry, 1).unwrap();
    let mut places = Vec::new();
    for slot in 0..4 {
        let mut batch = area.begin(2).unwrap();
        places.push((push(&mut batch, slot, 200).unwrap(), 200));
        places.push((push(&mut batch, slot + 10, 100).unwrap(), 100));
        batch.write().unwrap();
    }
    assert!(matches!(area.begin(2), Err(Error::Full { .. })));
    for (k, &(place, len)) in places.iter().enumerate() {
        check(&area, place, k as u64 / 2 + k as u64 % 2 * 10, len).unwrap();
    }
    area.assert_valid();
}

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
        assert_eq!((area.stats().corrupt, area.stats().bad_bytes, area.stats().used_bytes), (1, 4096, 0));
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
        let (device, area) = faulty_with(256 << 10, &protection);
        let mut wanted = write_one(&area, 7, 3000);
        let mut flaws = Vec::new();
        // Until next-fit comes round to the same page, with the same slot and the same bytes.
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
fn a_failed_write_gives_every_page_back_and_counts() {
    for (fault, bad) in [
        (Fault::Errno(libc::ENOSPC), 0),
        (Fault::Errno(libc::EFBIG), 0),
        (Fault::Errno(libc::EIO), 4096),
        (Fault::Short { bytes: 5000 }, 0),
    ] {
        let (device, area) = faulty(1 << 20);
        let kept = write_one(&area, 1, 2000);
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
        assert_eq!((stats.used_bytes, stats.objects, stats.io_errors, stats.bad_bytes), (4096, 1, 1, bad), "{fault:?}");
        area.assert_valid();
        check(&area, kept, 1, 2000).unwrap();
        check(&area, write_one(&area, 2, 3000), 2, 3000).unwrap();
    }
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
            batch.push(2, 0, 0, 10, |_| std::panic::resume_unwind(Box::new(())));
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

#[test]
fn maintain_punches_free_pages_only() {
    let device = memory(1 << 20);
    let area = area_of(&device);
    let mut batch = area.begin(64).unwrap();
    let places: Vec<_> = (0..60).map(|slot| push(&mut batch, slot, 4000).unwrap()).collect();
    batch.write().unwrap();
    for place in places.iter().step_by(2) {
        area.free(*place);
    }
    let free_before = area.stats().punchable_bytes;
    assert_eq!(area.maintain(), free_before);
    for (slot, &place) in places.iter().enumerate().skip(1).step_by(2) {
        check(&area, place, slot as u64, 4000).unwrap();
    }
    let zero_pages = device.image()[..256 << 10].chunks(4096).filter(|page| page.iter().all(|&b| b == 0)).count();
    assert!(zero_pages * 4096 >= free_before as usize);
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

/// Blocks of the pages that live objects touch.
fn touched_bytes(live: &BTreeMap<u64, (Place, usize)>) -> u64 {
    let mut pages: Vec<u64> = live
        .values()
        .flat_map(|(p, _)| p.offset_bytes() / 4096..=(p.offset_bytes() + p.len_bytes() as u64 - 1) / 4096)
        .collect();
    pages.sort_unstable();
    pages.dedup();
    pages.len() as u64 * 4096
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
            let (device, area) = faulty(1 << 20);
            device.replan(plan(k));
            let live = scenario(&area);
            let tripped = device.tripped();
            device.replan(Plan::none());

            area.assert_valid();
            let stats = area.stats();
            assert_eq!(stats.used_bytes, touched_bytes(&live), "{name} at {k}");
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

// --- long runs

#[test]
fn a_device_filled_and_thinned_at_random_reads_back_whole() {
    let area = area_of(&memory(2 << 20));
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut live: Vec<(u64, Place, usize)> = Vec::new();
    let mut slot = 0;
    let mut times_full = 0;
    while times_full < 12 {
        match area.begin_at_least(2, 1 + next(64)) {
            Ok(mut batch) => {
                let mut pending = Vec::new();
                loop {
                    let len = next(MAX_PAYLOAD + 1);
                    let Some(place) = push(&mut batch, slot, len) else { break };
                    pending.push((slot, place, len));
                    slot += 1;
                }
                if next(10) == 0 {
                    drop(batch);
                } else {
                    batch.write().unwrap();
                    live.extend(pending);
                }
            }
            Err(Error::Full { .. }) => {
                times_full += 1;
                for &(slot, place, len) in &live {
                    check(&area, place, slot, len).unwrap();
                }
                for _ in 0..live.len() * 2 / 3 {
                    area.free(live.swap_remove(next(live.len())).1);
                }
                area.maintain();
                area.assert_valid();
            }
            Err(other) => panic!("{other}"),
        }
    }
    live.into_iter().for_each(|(_, place, _)| area.free(place));
    assert_eq!(area.stats().used_bytes, 0);
    area.assert_valid();
}

#[test]
fn threads_write_read_free_and_maintain_at_once() {
    let area = area_of(&memory(4 << 20));
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let area = &area;
            scope.spawn(move || {
                for round in 0..60 {
                    let mut batch = area.begin(8).unwrap();
                    let mut places = Vec::new();
                    for k in 0..6 {
                        let slot = thread << 32 | round << 8 | k;
                        let len = 100 + (slot as usize * 37) % 3900;
                        places.extend(push(&mut batch, slot, len).map(|place| (slot, place, len)));
                    }
                    batch.write().unwrap();
                    for (slot, place, len) in places {
                        check(area, place, slot, len).unwrap();
                        area.free(place);
                    }
                    if round % 8 == thread {
                        area.maintain();
                    }
                }
            });
        }
    });
    assert_eq!((area.stats().used_bytes, area.stats().io_errors), (0, 0));
    area.assert_valid();
}

#[derive(Clone, Debug)]
enum Step {
    Write { most: usize, lens: Vec<usize>, fault: Option<Fault> },
    Free { which: usize },
    Read { which: usize, fault: Option<Fault> },
    Maintain,
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fault::Errno(libc::EIO))),
        1 => Just(Some(Fault::Errno(libc::ENOSPC))),
        1 => (0usize..20_000).prop_map(|bytes| Some(Fault::Short { bytes })),
        1 => (0usize..40).prop_map(|sectors| Some(Fault::Torn { sectors })),
        1 => any::<u32>().prop_map(|bit| Some(Fault::Flip { bit: bit as usize })),
        1 => Just(Some(Fault::Lost)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1usize..64, prop::collection::vec(0..=MAX_PAYLOAD, 1..20), fault())
            .prop_map(|(most, lens, fault)| Step::Write { most, lens, fault }),
        6 => any::<prop::sample::Index>().prop_map(|i| Step::Free { which: i.index(1 << 16) }),
        4 => (any::<prop::sample::Index>(), fault())
            .prop_map(|(i, fault)| Step::Read { which: i.index(1 << 16), fault }),
        1 => Just(Step::Maintain),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_read_gives_what_was_written_or_an_error(steps in steps()) {
        let (device, area) = faulty(512 << 10);
        let mut live: Vec<(u64, Place, usize, bool)> = Vec::new();
        let mut slot = 0;
        for step in steps {
            match step {
                Step::Write { most, lens, fault } => {
                    device.replan(fault.map_or(Plan::none(), |fault| Plan::none().at(1, fault)));
                    let Ok(mut batch) = area.begin(most) else { continue };
                    let mut pending = Vec::new();
                    for len in lens {
                        let Some(place) = push(&mut batch, slot, len) else { break };
                        pending.push((slot, place, len, fault.is_some()));
                        slot += 1;
                    }
                    if batch.write().is_ok() {
                        live.extend(pending);
                    }
                }
                Step::Free { which } if !live.is_empty() => area.free(live.swap_remove(which % live.len()).1),
                Step::Read { which, fault } if !live.is_empty() => {
                    device.replan(fault.map_or(Plan::none(), |fault| Plan::none().at(1, fault)));
                    let (slot, place, len, doubtful) = live[which % live.len()];
                    let result = check(&area, place, slot, len);
                    prop_assert!(result.is_ok() || doubtful || fault.is_some(), "{:?}", result);
                }
                Step::Maintain => {
                    device.replan(Plan::none());
                    area.maintain();
                }
                Step::Free { .. } | Step::Read { .. } => {}
            }
            area.assert_valid();
            let stats = area.stats();
            let blocks: u64 = live.iter().map(|(_, place, ..)| u64::from(place.blocks)).sum();
            prop_assert_eq!((stats.objects, stats.live_bytes), (live.len() as u64, blocks * 64));
        }
        device.replan(Plan::none());
        for (slot, place, len, doubtful) in live {
            let result = check(&area, place, slot, len);
            prop_assert!(result.is_ok() || doubtful, "{:?}", result);
            area.free(place);
        }
        prop_assert_eq!(area.stats().used_bytes, 0);
    }
}
