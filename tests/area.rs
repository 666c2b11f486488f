//! An area over a device in memory: objects, batches, segments and holes.
//!
//! Properties:
//! - an object reads back as it was written, or with an error: never as anything else;
//! - whatever is written, freed and dropped, the space in use is that of segments with objects which live.

#![cfg(not(loom))]

#[path = "support/area.rs"]
mod support;

use std::sync::Arc;
use support::{area_of, check, memory, push, tenant, write_one};
use zspool::swap::{Area, BLOCK_BYTES, Error, Geometry, HEADER_BYTES, Label, MAX_PAYLOAD, MemoryDevice, Tenant};

/// Payload of an object that takes a page of the device.
const WHOLE: usize = 4096 - HEADER_BYTES;

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
    for (len, place) in places.into_iter().enumerate() {
        assert_eq!(area.free(place), tenant(len as u64).payer);
    }
    assert_eq!((area.stats().used_bytes, area.stats().live_bytes, area.stats().objects), (0, 0, 0));
    area.assert_valid();
}

#[test]
fn a_batch_writes_whole_pages_and_gives_the_others_back() {
    let area = area_of(&memory(1 << 20));
    let mut batch = area.begin(64).unwrap();
    push(&mut batch, 1, 4076).unwrap();
    push(&mut batch, 2, 10).unwrap();
    let written = batch.write().unwrap();
    assert_eq!((written.objects, written.payload_bytes, written.device_bytes), (2, 4086, 8192));
    assert_eq!((area.stats().used_bytes, area.stats().written_bytes), (8192, 8192));
    let segments = area.stats().segments;
    assert_eq!((segments.all, segments.free, segments.open, segments.full), (4, 3, 1, 0));
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
    assert!(batch.push(1, Label::default(), tenant(1), 4096, |_| panic!("it was filled")).is_none());
    assert!(push(&mut batch, 1, 4096 - HEADER_BYTES - 64).is_some());
    assert!(push(&mut batch, 2, 64 - HEADER_BYTES + 1).is_none());
    assert!(push(&mut batch, 2, 64 - HEADER_BYTES).is_some());
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
    while batch.push(9, Label::default(), tenant(9), 4000, |bytes| bytes.fill(0xee)).is_some() {}
    drop(batch);
    let mut batch = area.begin(64).unwrap();
    let place = batch.push(1, Label::default(), tenant(1), 1000, |_| ()).unwrap();
    batch.write().unwrap();
    assert!(area.read(place, 1, |object| object.bytes.iter().all(|&b| b == 0)).unwrap());
    // The header may hold any byte, once; a run of them is old data.
    assert!(!device.image().windows(8).any(|w| w == [0xee; 8]));
}

#[test]
fn a_full_device_refuses_with_its_numbers() {
    let area = area_of(&memory(512 << 10));
    let mut batch = area.begin(64).unwrap();
    let mut places = Vec::new();
    while let Some(place) = push(&mut batch, 1, WHOLE) {
        places.push(place);
    }
    batch.write().unwrap();
    let refused = |area: &Area| match area.begin(1).unwrap_err() {
        Error::Full { device: 3, wanted: 1, live, reclaimable, size } => {
            assert_eq!((live, size), (area.stats().live_bytes, 512 << 10));
            reclaimable
        }
        other => panic!("{other}"),
    };
    assert_eq!(refused(&area), 0, "cleaning would win nothing");
    area.free(places[7]);
    area.free(places[60]);
    assert_eq!(refused(&area), 2 * 4096);
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
        (make((512 << 10) - 4096, 4096, 0, geometry), "it needs 524288, for its header and two segments"),
        (make(1 << 20, 4096, 0, Geometry { batch_pages: 65, ..geometry }), "batch_pages"),
    ] {
        assert!(message.contains(word) && !message.ends_with('.'), "{message}");
    }
}

#[test]
fn a_device_of_two_kib_works() {
    let geometry = Geometry { page_bytes: 256, batch_pages: 2, max_payload: 200, write_buffers: 1, read_buffers: 1 };
    let area = Area::with_seed(Box::new(MemoryDevice::new(2048, 256)), 0, geometry, 1).unwrap();
    let mut places = Vec::new();
    for slot in 0..3 {
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

#[test]
fn maintain_punches_free_segments_only() {
    let device = memory(4 << 20);
    let area = area_of(&device);
    let mut segments = Vec::new();
    for segment in 0..8 {
        let mut batch = area.begin(64).unwrap();
        let slots = segment * 100..segment * 100 + 60;
        segments.push(slots.map(|slot| (slot, push(&mut batch, slot, WHOLE).unwrap())).collect::<Vec<_>>());
        batch.write().unwrap();
    }
    for (segment, objects) in segments.iter().enumerate() {
        for (slot, place) in objects.iter().filter(|(slot, _)| [1, 2, 5].contains(&segment) || slot % 2 == 0) {
            assert_eq!(area.free(*place), tenant(*slot).payer);
        }
    }
    let stats = area.stats();
    assert_eq!((stats.segments.free, stats.segments.open + stats.segments.full), (8 + 3, 5));
    assert_eq!((stats.punchable_bytes, stats.used_bytes), (3 * 60 * 4096, 5 * 60 * 4096));
    assert_eq!(area.maintain(), stats.punchable_bytes);
    let image = device.image();
    for (segment, objects) in segments.iter().enumerate() {
        let free = [1, 2, 5].contains(&segment);
        assert_eq!(image[segment << 18..(segment + 1) << 18].iter().all(|&byte| byte == 0), free);
        for &(slot, place) in objects.iter().filter(|(slot, _)| !free && slot % 2 == 1) {
            check(&area, place, slot, WHOLE).unwrap();
        }
    }
    area.assert_valid();
}

// --- segments

#[test]
fn a_segment_takes_several_batches_and_then_the_next_one_is_begun() {
    let area = area_of(&memory(2 << 20));
    let mut firsts = Vec::new();
    for slot in 0..5 {
        let mut batch = area.begin(20).unwrap();
        firsts.push(push(&mut batch, slot, 100).unwrap().offset_bytes());
        for more in 1..20 {
            push(&mut batch, slot + 100 * more, WHOLE).unwrap();
        }
        batch.write().unwrap();
    }
    assert_eq!(firsts, [0, 80 << 10, 160 << 10, 256 << 10, 336 << 10], "three go into a segment of 64 pages");
    let segments = area.stats().segments;
    assert_eq!((segments.open, segments.full, segments.free), (2, 0, 6));
    area.assert_valid();
}

#[test]
fn small_entries_find_room_in_short_tails() {
    let area = area_of(&memory(1 << 20));
    for slot in 0..3 {
        let mut batch = area.begin(64).unwrap();
        for more in 0..63 {
            push(&mut batch, slot * 100 + more, WHOLE).unwrap();
        }
        batch.write().unwrap();
    }
    assert!(matches!(area.begin_at_least(2, 64), Err(Error::Full { wanted: 2, .. })), "tails of one page are left");
    for slot in 1000..1003 {
        let mut batch = area.begin_at_least(1, 64).unwrap();
        let place = push(&mut batch, slot, 1000).unwrap();
        assert_eq!(place.offset_bytes() % (256 << 10), 252 << 10);
        batch.write().unwrap();
    }
    assert!(matches!(area.begin(1), Err(Error::Full { .. })));
    area.assert_valid();
}

#[test]
fn batches_have_segments_of_their_own() {
    let area = area_of(&memory(2 << 20));
    let (mut a, mut b) = (area.begin(2).unwrap(), area.begin(2).unwrap());
    let (x, y) = (push(&mut a, 1, 100).unwrap(), push(&mut b, 2, 100).unwrap());
    assert_ne!(x.offset_bytes() >> 18, y.offset_bytes() >> 18);
    b.write().unwrap();
    a.write().unwrap();
    check(&area, x, 1, 100).unwrap();
    check(&area, y, 2, 100).unwrap();
    assert_eq!(area.stats().segments.open, 2);
    area.assert_valid();
}

#[test]
fn who_finds_all_segments_taken_by_batches_waits_for_one() {
    let area = area_of(&memory(512 << 10));
    let mut batch = area.begin(2).unwrap();
    let place = push(&mut batch, 1, 100).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| write_one(&area, 2, 100).offset_bytes());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiter.is_finished(), "the other segment is kept for cleaning");
        batch.write().unwrap();
        assert_eq!(waiter.join().unwrap(), place.offset_bytes() + 4096);
    });
    area.assert_valid();
}

#[test]
fn a_segment_is_free_with_its_last_object_and_its_places_do_not_come_again() {
    let area = area_of(&memory(512 << 10));
    let mut seen = std::collections::HashSet::new();
    for round in 0..40 {
        let (a, b) = (write_one(&area, 1, 100), write_one(&area, 2, 100));
        assert!(seen.insert(a) && seen.insert(b), "round {round}: {a:?} and {b:?}");
        assert_eq!(a.offset_bytes() + 4096, b.offset_bytes());
        area.free(b);
        area.free(a);
        let stats = area.stats();
        assert_eq!((stats.used_bytes, stats.segments.free), (0, 2));
    }
    let base = area.next_base();
    let later = area_of(&memory(512 << 10)).counting_from(base);
    assert!(seen.insert(write_one(&later, 1, 100)), "nor with the next device of that number");
}

#[test]
#[should_panic(expected = "was freed before: nothing lives there")]
fn a_place_freed_twice_is_a_panic() {
    let area = area_of(&memory(1 << 20));
    let (place, _other) = (write_one(&area, 1, 100), write_one(&area, 2, 100));
    area.free(place);
    area.free(place);
}

#[test]
#[should_panic(expected = "handed out again")]
fn a_place_freed_twice_is_a_panic_after_reuse_too() {
    let area = area_of(&memory(1 << 20));
    let place = write_one(&area, 1, 100);
    area.free(place);
    assert_eq!(write_one(&area, 1, 100).block, place.block);
    area.free(place);
}

#[test]
fn the_reverse_words_say_who_has_an_object_and_who_pays() {
    let area = area_of(&memory(1 << 20));
    let (a, b) = (write_one(&area, 1, 100), write_one(&area, 2, 5));
    assert_eq!((area.tenant(a), area.payer(b)), (Some(tenant(1)), tenant(2).payer));
    area.set_owner(a, tenant(9).owner);
    let mut all = Vec::new();
    area.for_each(|place, tenant| all.push((place, tenant)));
    assert_eq!(all, [(a, Tenant { owner: tenant(9).owner, ..tenant(1) }), (b, tenant(2))]);
    assert_eq!(area.free(a), tenant(1).payer);
    assert_eq!(area.tenant(a), None);
    area.assert_valid();
}
