//! How much may be written: the cap of a device, the limit of all together, and what file systems keep free.
//!
//! 1. At no instant is more in use than the limit says, however many threads write (`..no_more_than_the_limit`).
//! 2. At no instant has the file system less free than its floor for what was written here (`a_tmpfs_..`, `an_ext4_..`).
//! 3. A refusal has the numbers, and ends when there is room again.

#![cfg(all(target_os = "linux", not(loom), not(miri)))]

#[path = "support/fault_bed.rs"]
mod fault_bed;
mod support;

use fault_bed::Mounted;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use support::skip;
use zspool::swap::{
    Allowed, DeviceOptions, Devices, Error, Geometry, Label, MemoryDevice, Place, Protection, SwapFile, Tenant,
};
use zspool::sync::Planted;
use zspool::units::Owner;

const TENANT: Tenant = Tenant { owner: Owner(1), payer: 1 };
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Of the default geometry: what a batch may have, and what cleaning keeps of a limit.
const SEGMENT: u64 = 256 * KIB;

fn devices() -> Devices {
    Devices::new(Geometry::default(), Protection::checksum(), Planted::NONE)
}

fn memory(bytes: u64) -> DeviceOptions {
    DeviceOptions::device(MemoryDevice::new(bytes as usize, 4096))
}

/// Write objects of 3 pages in one batch of `pages` pages.
fn write(devices: &Devices, pages: usize) -> Result<Vec<Place>, Error> {
    let mut batch = devices.begin(&Allowed::ALL, 2, pages)?;
    let mut places = Vec::new();
    while let Some(place) = batch.push(1, Label::default(), TENANT, 3000, |bytes| bytes.fill(1)) {
        places.push(place);
    }
    batch.write()?;
    Ok(places)
}

#[test]
fn a_device_has_no_more_in_use_than_its_cap() {
    let devices = devices();
    let refused = devices.add(memory(4 * MIB).max_bytes(2 * SEGMENT - 1)).unwrap_err().to_string();
    assert!(refused.contains("may use 524287 bytes is too small: let it use 524288 bytes or more"), "{refused}");
    let number = devices.add(memory(4 * MIB).max_bytes(MIB + 100)).unwrap();
    let error = loop {
        if let Err(error) = write(&devices, 64) {
            break error;
        }
        assert!(devices.used_bytes() <= MIB);
    };
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert!(devices.used_bytes() >= MIB - SEGMENT);
    let row = devices.rows().remove(0);
    assert!(row.number == number && row.area.size_bytes == MIB);
    assert!(row.describe.contains("of which at most 1048676 bytes are used"), "{}", row.describe);
}

#[test]
fn all_devices_have_no_more_in_use_than_the_limit() {
    let devices = devices();
    for _ in 0..3 {
        devices.add(memory(4 * MIB)).unwrap();
    }
    let limit = 3 * MIB;
    devices.set_limit(limit);
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let writers: Vec<_> = (0..4)
            .map(|thread| {
                let devices = &devices;
                threads.spawn(move || {
                    loop {
                        match write(devices, 8 + 7 * thread) {
                            Ok(_) => {}
                            Err(Error::SwapLimit { used, limit }) => break assert!(used <= limit),
                            Err(other) => panic!("{other}"),
                        }
                    }
                })
            })
            .collect();
        // Nothing is freed, so that a sum taken device by device is no more than there is in the end.
        while writers.iter().any(|writer| !writer.is_finished()) {
            over.fetch_or(devices.used_bytes() > limit - SEGMENT, Relaxed);
        }
    });
    assert!(!over.load(Relaxed));
    let used = devices.used_bytes();
    assert!((limit - 2 * SEGMENT..=limit - SEGMENT).contains(&used), "{used}");
    // A lower limit leaves what is there; a higher one lets more come.
    devices.set_limit(MIB);
    let refused = write(&devices, 2).unwrap_err().to_string();
    assert!(refused.contains(&format!("have {used} of the 1048576 bytes in use that they may have")), "{refused}");
    devices.set_limit(u64::MAX);
    write(&devices, 64).unwrap();
    devices.assert_valid();
}

fn free_bytes(folder: &Path) -> u64 {
    let path = CString::new(folder.as_os_str().as_bytes()).unwrap();
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a NUL, and the call writes to the struct alone.
    assert_eq!(unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) }, 0);
    // SAFETY: zeroes are such a struct, and so is what the call has written.
    let stat = unsafe { stat.assume_init() };
    stat.f_bavail * stat.f_frsize
}

/// Fill devices on a file system with `threads` threads, and see that what is free never falls below the floor.
fn keeps_its_floor(folder: &Path, floor: u64, direct: bool) {
    let devices = devices();
    let file =
        |name: &str| DeviceOptions::swapfile(SwapFile::options().path(folder.join(name)).size(64 * MIB).direct(direct));
    // The floor of one holds for the other, which has none of its own.
    devices.add(file("one").min_free_bytes(floor)).unwrap();
    devices.add(file("two")).unwrap();
    let before = free_bytes(folder);
    let (below, refused) = (AtomicBool::new(false), AtomicBool::new(false));
    let places = std::thread::scope(|threads| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                threads.spawn(|| {
                    let mut places = Vec::new();
                    loop {
                        match write(&devices, 64) {
                            Ok(more) => places.extend(more),
                            Err(Error::Floor { floor: told, .. }) => {
                                assert_eq!(told, floor);
                                refused.store(true, Relaxed);
                                return places;
                            }
                            Err(other) => panic!("{other}"),
                        }
                        below.fetch_or(free_bytes(folder) < floor, Relaxed);
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            below.fetch_or(free_bytes(folder) < floor, Relaxed);
        }
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(refused.load(Relaxed) && !below.load(Relaxed), "less than {floor} bytes were free for a moment");
    let left = free_bytes(folder);
    assert!((floor..floor + MIB).contains(&left), "{left} bytes are free of {before}, and {floor} were to be left");
    // No file is made for which there is no room.
    let late = devices.add(file("late").min_free_bytes(left)).unwrap_err();
    assert!(matches!(late, Error::Floor { floor, .. } if floor == left), "{late}");
    assert!(!folder.join("late").exists());
    // What was freed and given back can be written again.
    places.into_iter().for_each(|place| _ = devices.free(place));
    devices.maintain_until(|| false);
    assert!(free_bytes(folder) + MIB > before);
    write(&devices, 64).unwrap();
    assert!(free_bytes(folder) >= floor);
}

#[test]
fn a_tmpfs_keeps_its_floor() {
    let mounted = match Mounted::tmpfs(16 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip("a_tmpfs_keeps_its_floor", &why),
    };
    for direct in [true, false] {
        keeps_its_floor(mounted.path(), 5 * MIB, direct);
    }
}

#[test]
fn an_ext4_keeps_its_floor() {
    let mounted = match Mounted::ext4(32 * MIB) {
        Ok(mounted) => mounted,
        Err(why) => return skip("an_ext4_keeps_its_floor", &why),
    };
    for direct in [true, false] {
        keeps_its_floor(mounted.path(), 7 * MIB + 4096, direct);
    }
}
