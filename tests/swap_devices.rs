//! Devices in tiers, by themselves: who is written to, what a refusal says, and how a device comes and goes.
//!
//! 1. Higher priorities are written to first; devices of one tier share the load to a batch (`equal_priorities_share_the_load`).
//! 2. Full, retired, drained and forbidden devices are passed by, and come back.
//! 3. Each refusal is a sentence that says what to do, and changes nothing.
//! 4. A number that is used again never names the place of an earlier device.

use std::collections::BTreeMap;
use std::sync::Arc;
use zspool::swap::{
    Allowed, DeviceOptions, Devices, Error, Fault, FaultyDevice, Geometry, Label, MemoryDevice, Op, Place, Plan,
    Protection, ReadOne, State, SwapFile, Tenant,
};
use zspool::sync::Planted;
use zspool::units::{Owner, TierMask};

const MIB: usize = 1 << 20;

fn devices() -> Devices {
    Devices::new(Geometry::default(), Protection::new().unwrap(), Planted::NONE)
}

fn memory(bytes: usize) -> DeviceOptions {
    DeviceOptions::device(MemoryDevice::new(bytes, 4096))
}

/// Write one object of a page's length; where it went.
fn write(devices: &Devices, allowed: &Allowed, slot: u64) -> Result<Place, Error> {
    let mut batch = devices.begin(allowed, 2, 2)?;
    let place = batch
        .push(slot, Label::default(), Tenant { owner: Owner(slot as u32), payer: 0 }, 4000, |bytes| {
            bytes.fill(slot as u8)
        })
        .expect("two pages hold any object");
    batch.write()?;
    Ok(place)
}

fn tier_of(devices: &Devices, name: &str) -> TierMask {
    let (_, tiers) = devices.tiers();
    TierMask::only(tiers.iter().find(|tier| tier.name == name).expect("the tier is there").index)
}

#[test]
fn equal_priorities_share_the_load() {
    let devices = devices();
    for _ in 0..3 {
        devices.add(memory(4 * MIB).tier("fast", 10)).unwrap();
    }
    devices.add(memory(4 * MIB).tier("slow", 0)).unwrap();
    for slot in 0..100 {
        write(&devices, &Allowed::ALL, slot).unwrap();
        let rows = devices.rows();
        let counts: Vec<_> = rows.iter().filter(|row| row.tier == "fast").map(|row| row.batches).collect();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
    assert_eq!(devices.rows().last().unwrap().batches, 0, "the slow tier is not needed yet");
    // Four threads: what each has open is all that may tell devices apart.
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let devices = &devices;
            threads.spawn(move || (0..50).for_each(|k| _ = write(devices, &Allowed::ALL, 1000 + thread * 50 + k)));
        }
    });
    let rows = devices.rows();
    let counts: Vec<_> = rows.iter().filter(|row| row.tier == "fast").map(|row| row.batches).collect();
    assert_eq!(counts.iter().sum::<u64>(), 300);
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    devices.assert_valid();
}

#[test]
fn what_is_full_is_passed_by_until_there_is_room() {
    let devices = devices();
    let fast = devices.add(memory(MIB).tier("fast", 1)).unwrap();
    let slow = devices.add(memory(MIB).tier("slow", 0)).unwrap();
    let mut by_device = BTreeMap::<u8, Vec<Place>>::new();
    let full = loop {
        match write(&devices, &Allowed::ALL, 1) {
            Ok(place) => by_device.entry(place.device).or_default().push(place),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { device, .. } if device == fast), "{full}");
    assert!(by_device[&fast].len() >= 100 && by_device[&slow].len() >= 100);
    let of_fast = std::mem::take(by_device.get_mut(&fast).unwrap());
    of_fast.into_iter().for_each(|place| _ = devices.free(place));
    assert_eq!(write(&devices, &Allowed::ALL, 2).unwrap().device, fast);
    assert!(write(&devices, &Allowed::tiers(tier_of(&devices, "slow")), 2).is_err());
    devices.assert_valid();
}

#[test]
fn what_is_forbidden_or_tried_is_left_out() {
    let devices = devices();
    let fast = devices.add(memory(MIB).tier("fast", 1)).unwrap();
    let slow = devices.add(memory(MIB).tier("slow", 0)).unwrap();
    let (fast_only, slow_only) = (tier_of(&devices, "fast"), tier_of(&devices, "slow"));
    assert_eq!(write(&devices, &Allowed::tiers(slow_only), 1).unwrap().device, slow);
    assert_eq!(write(&devices, &Allowed::ALL.without(fast), 1).unwrap().device, slow);
    assert_eq!(write(&devices, &Allowed::ALL.within(fast_only), 1).unwrap().device, fast);
    let none = write(&devices, &Allowed::tiers(TierMask::NONE), 1).unwrap_err();
    assert!(matches!(none, Error::Shut) && none.to_string().contains("then add one, or reinstate one"), "{none}");
    assert!(matches!(self::devices().begin(&Allowed::ALL, 1, 1), Err(Error::NoDevice)));
}

#[test]
fn a_device_is_retired_after_failures_in_a_row_and_reinstated() {
    let devices = devices();
    let faulty = Arc::new(FaultyDevice::new(MemoryDevice::new(8 * MIB, 4096), Plan::none()));
    let bad = devices.add(DeviceOptions::device(Arc::clone(&faulty)).tier("fast", 1).retire_after(3)).unwrap();
    let good = devices.add(memory(MIB).tier("slow", 0)).unwrap();
    let kept = write(&devices, &Allowed::ALL, 5).unwrap();
    assert_eq!(kept.device, bad);
    let fail = |times: usize| {
        for _ in 0..times {
            faulty.replan(Plan::none().at(1, Fault::Errno(libc::EIO)));
            let error = write(&devices, &Allowed::ALL, 1).unwrap_err();
            assert!(matches!(error, Error::Io { op: Op::Write, .. }) && !error.lacks_room(), "{error}");
        }
    };
    // Two, a success, two: not in a row.
    fail(2);
    devices.free(write(&devices, &Allowed::ALL, 1).unwrap());
    fail(2);
    assert_eq!(devices.state(bad), State::On);
    // Want of room says nothing about the device.
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        faulty.replan(Plan::none().at(1, Fault::Errno(errno)));
        assert!(write(&devices, &Allowed::ALL, 1).unwrap_err().lacks_room());
    }
    assert_eq!(devices.state(bad), State::On);
    fail(1);
    assert_eq!(devices.state(bad), State::Retired);
    assert_eq!(write(&devices, &Allowed::ALL, 1).unwrap().device, good, "nothing is written to it any more");
    assert_eq!(devices.read(kept, 5, |object| object.bytes[0]).unwrap(), 5, "and it is read");
    devices.reinstate(bad).unwrap();
    assert_eq!((devices.state(bad), write(&devices, &Allowed::ALL, 1).unwrap().device), (State::On, bad));
    fail(2);
    assert_eq!(devices.state(bad), State::On, "it counts anew");
}

#[test]
fn a_device_leaves_when_it_is_drained_and_empty() {
    let devices = devices();
    let one = devices.add(memory(MIB)).unwrap();
    let place = write(&devices, &Allowed::ALL, 7).unwrap();
    let refused = devices.remove(one).unwrap_err().to_string();
    assert!(refused.contains("is still written to: have it drained first"), "{refused}");
    let batch = devices.begin(&Allowed::ALL, 1, 1).unwrap();
    devices.drain(one).unwrap();
    assert_eq!((devices.state(one), devices.get(one).unwrap().writers()), (State::Draining, 1));
    assert!(matches!(devices.begin(&Allowed::ALL, 1, 1), Err(Error::Shut)));
    let refused = devices.remove(one).unwrap_err().to_string();
    assert!(refused.contains("still holds 1 objects, and 1 batches are under way"), "{refused}");
    drop(batch);
    assert!(matches!(devices.remove(one), Err(Error::NotEmpty { objects: 1, batches: 0, .. })));
    // A cancelled swapoff goes on as before.
    devices.resume(one).unwrap();
    let other = write(&devices, &Allowed::ALL, 8).unwrap();
    devices.drain(one).unwrap();
    devices.free(place);
    devices.free(other);
    devices.remove(one).unwrap();
    assert_eq!((devices.state(one), devices.is_empty(), devices.sum()), (State::Off, true, None));
    for refused in [devices.remove(one), devices.drain(one), devices.resume(one), devices.reinstate(one)] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::NotOn { device } if device == one));
        assert!(refused.to_string().contains("it is off already, or never was on"), "{refused}");
    }
    assert!(matches!(devices.read(place, 7, |_| ()), Err(Error::NotOn { .. })));
    devices.assert_valid();
}

#[test]
fn a_number_that_is_used_again_names_no_earlier_place() {
    let devices = devices();
    let mut places = std::collections::HashSet::new();
    // More devices than numbers, so that each is used twice and more.
    for round in 0..70u64 {
        let number = devices.add(memory(MIB)).unwrap();
        assert_eq!(u64::from(number), round % 32);
        for slot in 0..3 {
            let place = write(&devices, &Allowed::ALL, slot).unwrap();
            assert!(places.insert(place), "{place:?} named an object of an earlier device");
            devices.free(place);
        }
        devices.drain(number).unwrap();
        devices.remove(number).unwrap();
    }
}

#[test]
fn what_does_not_fit_in_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    let devices = devices();
    let file = |tier: &str, priority| DeviceOptions::path(&path, 1 << 20).tier(tier, priority);
    devices.add(file("disk", 3)).unwrap();
    let refuse = |options: DeviceOptions, says: &str| {
        let before = format!("{:?}{:?}", devices.rows(), devices.tiers().1);
        let error = devices.add(options).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(format!("{:?}{:?}", devices.rows(), devices.tiers().1), before, "nothing was changed");
    };
    refuse(file("disk", 3), "is in use by another process or by another handle of this one: stop its user");
    refuse(memory(MIB).tier("disk", 4), "the tier disk has priority 3, and the new device asks for 4");
    refuse(memory(MIB).tier("nvme", 3), "priority 3 is that of the tier disk, so the tier nvme cannot have it");
    refuse(memory(MIB).tier("a b", 4), "\"a b\" cannot be the name of a tier");
    refuse(memory(8192).tier("disk", 3), "is too small: it needs 524288");
    refuse(DeviceOptions::swapfile(SwapFile::options().path(folder.path()).size(1 << 20)), "is a directory");
    for _ in 1..32 {
        devices.add(memory(MIB)).unwrap();
    }
    refuse(memory(MIB), "there are 32 swap devices already");
    let rows = devices.rows();
    assert_eq!((rows.len(), rows[0].name.as_str(), rows[0].tier.as_str()), (32, path.to_str().unwrap(), "disk"));
    assert_eq!(rows[0].state.to_string(), "on");
    devices.assert_valid();
}

#[test]
fn who_comes_late_with_a_place_of_a_larger_device_is_told_that_it_is_gone() {
    let devices = devices();
    let large = devices.add(memory(8 * MIB)).unwrap();
    let mut places: Vec<_> = (0..200).map(|k| write(&devices, &Allowed::ALL, k).unwrap()).collect();
    let last = *places.iter().max_by_key(|place| place.block).unwrap();
    places.drain(..).for_each(|place| _ = devices.free(place));
    devices.drain(large).unwrap();
    devices.remove(large).unwrap();
    // Another one has the number once all others were used.
    let small = loop {
        let number = devices.add(memory(MIB / 2)).unwrap();
        if number == large {
            break number;
        }
        devices.drain(number).unwrap();
        devices.remove(number).unwrap();
    };
    assert!(last.offset_bytes() > (MIB / 2) as u64);
    assert!(matches!(devices.read(last, 5, |_| ()), Err(Error::NotOn { device }) if device == small));
    let mut wanted = [ReadOne { place: last, slot: 5, key: 0 }; 2];
    devices.get(small).unwrap().read_many(&mut wanted, |_, _| panic!("nothing is there"));
    devices.assert_valid();
}

#[test]
fn a_limit_that_was_lowered_below_what_is_in_use_does_not_keep_from_cleaning() {
    let devices = devices();
    let number = devices.add(memory(8 * MIB)).unwrap();
    let places: Vec<_> = (0..400).map(|k| write(&devices, &Allowed::ALL, k).unwrap()).collect();
    let used = devices.used_bytes();
    for place in places.iter().enumerate().filter(|(k, _)| k % 4 > 0).map(|(_, place)| *place) {
        devices.free(place);
    }
    assert_eq!(devices.used_bytes(), used, "something lives in every segment");
    devices.set_limit(used / 2);
    assert!(matches!(devices.begin(&Allowed::ALL, 1, 64), Err(Error::SwapLimit { .. })));
    let one = devices.begin_for_cleaning(number, 32, 32).unwrap();
    let other = devices.begin_for_cleaning(number, 64, 64).map(drop);
    assert!(matches!(other, Err(Error::SwapLimit { .. })), "a segment's worth at a time: {other:?}");
    drop(one);
    devices.assert_valid();
}
