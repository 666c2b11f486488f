//! What cleaning, demotion and swapoff need of an area: which segment, its objects in one read, and room to put them.
//!
//! Properties:
//! - after a random half is freed and cleaning, the bytes in use are at most 1.25 times those that live;
//! - a device is refused only above 95% live where it has 64 segments; where it has fewer, when all but the one that is kept
//!   for cleaning are full of live objects;
//! - a place says where its object is until the object was moved: there is never none.

#![cfg(not(loom))]

#[path = "support/area.rs"]
mod support;

use std::collections::HashMap;
use support::{area_of, check, faulty, label, memory, payload, push, tenant};
use zspool::swap::{Area, Error, Fault, HEADER_BYTES, Place, Plan, SegmentId};
use zspool::units::Owner;

/// What a table of slots would say: who is where.
type Table = HashMap<Owner, (u64, Place, usize)>;

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// Write a batch of what fits of so many objects. False when the device is full.
fn write(area: &Area, table: &mut Table, slots: &mut u64, random: &mut Random, objects: usize) -> bool {
    let lens: Vec<_> = (0..objects).map(|_| 200 + random.below(3500)).collect();
    let bytes: usize = lens.iter().map(|len| (len + HEADER_BYTES).next_multiple_of(64)).sum();
    // As writeback does: room for the smallest, and no more than all take.
    let least = (lens.iter().min().unwrap() + HEADER_BYTES).div_ceil(4096);
    let mut batch = match area.begin_at_least(least, bytes.div_ceil(4096)) {
        Ok(batch) => batch,
        Err(Error::Full { .. }) => return false,
        Err(other) => panic!("{other}"),
    };
    let mut pending = Vec::new();
    for len in lens {
        if let Some(place) = push(&mut batch, *slots, len) {
            pending.push((tenant(*slots).owner, (*slots, place, len)));
            *slots += 1;
        }
    }
    batch.write().unwrap();
    table.extend(pending);
    true
}

/// Move all objects of a segment into one batch on the same device, as cleaning does. False when there is no room.
fn clean(area: &Area, table: &mut Table, id: SegmentId) -> bool {
    let mut lease = area.lease_segment().unwrap();
    let Some(mut image) = area.read_segment(id, &mut lease).unwrap() else { return true };
    let objects = image.objects().to_vec();
    let blocks: usize = objects.iter().map(|(place, _)| usize::from(place.blocks)).sum();
    let pages = blocks.div_ceil(64);
    let Ok(mut batch) = area.begin_for_cleaning(pages, pages) else { return false };
    let mut moves = Vec::new();
    for (i, (place, tenant)) in objects.into_iter().enumerate() {
        let &(slot, named, len) = &table[&tenant.owner];
        assert_eq!(named, place, "the slot of a reverse word names its place");
        let object = image.open(i, slot).unwrap();
        assert_eq!((object.label, object.bytes), (label(slot), &payload(slot, len)[..]));
        let (label, bytes) = (object.label, object.bytes.to_vec());
        let to = batch.push(slot, label, tenant, len, |to| to.copy_from_slice(&bytes)).expect("there is room for all");
        moves.push((slot, place, to, tenant, len));
    }
    batch.write().unwrap();
    for (slot, from, to, tenant, len) in moves {
        table.insert(tenant.owner, (slot, to, len));
        assert_eq!(area.free(from), tenant.payer);
    }
    true
}

/// Clean as long as there is something to win.
fn clean_all(area: &Area, table: &mut Table) {
    while let Some(id) = area.sparsest() {
        let before = area.stats().used_bytes;
        assert!(clean(area, table, id), "there is always room for what cleaning moves");
        assert!(area.stats().used_bytes < before);
    }
    area.assert_valid();
}

fn check_all(area: &Area, table: &Table) {
    for &(slot, place, len) in table.values() {
        check(area, place, slot, len).unwrap();
    }
    assert_eq!(area.stats().objects, table.len() as u64);
}

fn free_half(area: &Area, table: &mut Table, random: &mut Random) {
    let mut all: Vec<_> = table.keys().copied().collect();
    all.sort_unstable();
    for owner in all {
        if random.below(2) == 0 {
            let (_, place, _) = table.remove(&owner).unwrap();
            area.free(place);
        }
    }
}

#[test]
fn after_a_random_half_is_freed_and_cleaning_little_more_is_used_than_lives() {
    let area = area_of(&memory(32 << 20));
    let (mut table, mut slots, mut random) = (Table::new(), 0, Random(0x2545_f491_4f6c_dd1d));
    for round in 0..3 {
        while write(&area, &mut table, &mut slots, &mut random, 64) {}
        free_half(&area, &mut table, &mut random);
        let before = area.stats();
        assert!(before.used_bytes > before.live_bytes * 3 / 2, "there is something to clean");
        let mut steps = 0;
        while area.stats().used_bytes * 4 > area.stats().live_bytes * 5 {
            let id = area.sparsest().expect("there is something to win");
            assert!(clean(&area, &mut table, id));
            steps += 1;
        }
        let stats = area.stats();
        assert!(stats.used_bytes * 4 <= stats.live_bytes * 5, "{stats:?}");
        let moved = (stats.cleaned_bytes - before.cleaned_bytes) as f64 / stats.live_bytes as f64;
        println!("round {round}: {steps} segments cleaned, {moved:.2} of the live bytes moved");
        assert!(moved < 1.0, "nothing is moved twice");
        check_all(&area, &table);
        area.assert_valid();
    }
}

#[test]
fn a_device_of_64_segments_is_refused_only_above_95_percent_live() {
    for seed in [1, 2] {
        let area = area_of(&memory(16 << 20));
        let (mut table, mut slots, mut random) = (Table::new(), 0, Random(0x9e37_79b9_7f4a_7c15 ^ seed));
        for _ in 0..2 {
            loop {
                while write(&area, &mut table, &mut slots, &mut random, 64) {}
                if area.stats().reclaimable_bytes == 0 {
                    break;
                }
                clean_all(&area, &mut table);
            }
            let stats = area.stats();
            let live = stats.live_bytes as f64 / stats.size_bytes as f64;
            println!("refused at {:.1}% live: {stats:?}", live * 100.0);
            assert!(live > 0.95, "{live}");
            check_all(&area, &table);
            free_half(&area, &mut table, &mut random);
        }
    }
}

#[test]
fn a_small_device_fills_all_segments_but_one() {
    for segments in [2, 3, 5, 8] {
        let area = area_of(&memory(segments << 18));
        let (mut table, mut slots, mut random) = (Table::new(), 0, Random(7));
        for _ in 0..4 {
            loop {
                while write(&area, &mut table, &mut slots, &mut random, 64) {}
                while write(&area, &mut table, &mut slots, &mut random, 1) {}
                if area.stats().reclaimable_bytes == 0 {
                    break;
                }
                clean_all(&area, &mut table);
            }
            let stats = area.stats();
            assert_eq!(stats.segments.free, 1, "{stats:?}");
            // Less than a page is lost in each of the others.
            assert!(stats.live_bytes + ((segments as u64 - 1) << 12) > ((segments as u64 - 1) << 18), "{stats:?}");
            check_all(&area, &table);
            free_half(&area, &mut table, &mut random);
        }
    }
}

#[test]
fn a_segment_whose_objects_are_moved_takes_no_batch_meanwhile() {
    let area = area_of(&memory(1 << 20));
    let (mut table, mut slots, mut random) = (Table::new(), 0, Random(7));
    write(&area, &mut table, &mut slots, &mut random, 10);
    let mut lease = area.lease_segment().unwrap();
    let image = area.read_segment(SegmentId(0), &mut lease).unwrap().unwrap();
    assert_eq!((image.id(), image.objects().len()), (SegmentId(0), 10));
    assert_eq!(image.objects(), area.objects_of(SegmentId(0)));
    write(&area, &mut table, &mut slots, &mut random, 10);
    assert_eq!(area.stats().segments.open, 2, "the tail of the first was left alone");
    drop(image);
    drop(lease);
    write(&area, &mut table, &mut slots, &mut random, 10);
    write(&area, &mut table, &mut slots, &mut random, 10);
    assert_eq!(area.stats().segments.open, 2);
    check_all(&area, &table);
    area.assert_valid();
}

#[test]
fn an_image_of_objects_that_went_meanwhile_harms_nobody() {
    let area = area_of(&memory(1 << 20));
    let (mut table, mut slots, mut random) = (Table::new(), 0, Random(7));
    write(&area, &mut table, &mut slots, &mut random, 10);
    let mut lease = area.lease_segment().unwrap();
    let mut image = area.read_segment(SegmentId(0), &mut lease).unwrap().unwrap();
    table.drain().for_each(|(_, (_, place, _))| _ = area.free(place));
    write(&area, &mut table, &mut slots, &mut random, 10);
    assert_eq!(area.live_segments_from(SegmentId(0)), Some(SegmentId(0)), "it was used again");
    let (place, _) = image.objects()[3];
    assert!(image.open(3, 3).is_ok(), "as it was when it was read");
    assert_eq!(area.tenant(place), None);
    drop(image);
    drop(lease);
    assert!(area.read_segment(SegmentId(2), &mut area.lease_segment().unwrap()).unwrap().is_none());
    check_all(&area, &table);
    area.assert_valid();
}

#[test]
fn a_segment_that_cannot_be_read_is_an_error_and_its_objects_are_known() {
    let (device, area) = faulty(1 << 20);
    let (mut table, mut slots, mut random) = (Table::new(), 0, Random(7));
    write(&area, &mut table, &mut slots, &mut random, 10);
    device.replan(Plan::none().at(1, Fault::Errno(libc::EIO)));
    let mut lease = area.lease_segment().unwrap();
    assert!(matches!(area.read_segment(SegmentId(0), &mut lease), Err(Error::Io { .. })));
    assert_eq!(area.objects_of(SegmentId(0)).len(), 10);
    assert!(area.read_segment(SegmentId(0), &mut lease).unwrap().is_some(), "nobody moves them");
    drop(lease);
    check_all(&area, &table);
    area.assert_valid();
}

#[test]
fn a_condemned_segment_is_not_cleaned_but_emptied_like_others() {
    let area = area_of(&memory(2 << 20));
    let (mut table, mut slots, mut random) = (Table::new(), 0, Random(7));
    for _ in 0..6 {
        write(&area, &mut table, &mut slots, &mut random, 64);
    }
    free_half(&area, &mut table, &mut random);
    let bad = area.sparsest().unwrap();
    let (place, tenant) = area.objects_of(bad)[0];
    let (slot, ..) = table[&tenant.owner];
    area.blame(place, &Error::Corrupt { slot, place, flaw: zspool::swap::Flaw::Checksum });
    assert_ne!(area.sparsest(), Some(bad), "nothing would be won");
    assert!(clean(&area, &mut table, bad), "but its objects can be moved");
    assert_eq!(area.stats().segments.bad, 1);
    clean_all(&area, &mut table);
    check_all(&area, &table);
    area.assert_valid();
}
