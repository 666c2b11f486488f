//! Block devices as swap devices, on loop devices: what is refused, what is left alone, and that they are devices like files.

#![cfg(all(target_os = "linux", not(loom), not(miri)))]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use zspool::swap::{Area, BlockDevice, Device, Error, Geometry, Label, Place, Tenant};
use zspool::units::Owner;

mod support;

const MIB: u64 = 1 << 20;
const LEN: usize = 4000;
const TENANT: Tenant = Tenant { owner: Owner(1), payer: 2 };

/// A file that is a disk.
struct Loop {
    node: PathBuf,
    _folder: TempDir,
    image: PathBuf,
}

impl Loop {
    /// `None`, aloud, where this user or machine has no loop devices.
    fn new(test: &str, bytes: u64, args: &[&str]) -> Option<Loop> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let output = Command::new("losetup").args(args).args(["--find", "--show"]).arg(&image).output();
        match output {
            Ok(output) if output.status.success() => {
                let node = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
                Some(Loop { node, _folder: folder, image })
            }
            other => {
                support::skip(test, &format!("losetup says {other:?}"));
                None
            }
        }
    }

    fn open(&self) -> Result<BlockDevice, Error> {
        BlockDevice::options().path(&self.node).open()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let disk = fs::File::options().write(true).open(&self.node).unwrap();
        disk.write_all_at(bytes, at).unwrap();
        disk.sync_all().unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.node).unwrap()
    }

    /// A refusal, which is a sentence that names the device and changes nothing on it.
    fn refusal(&self) -> Error {
        let before = self.bytes();
        let error = self.open().expect_err("it is refused");
        let message = error.to_string();
        assert!(message.contains(self.node.to_str().unwrap()) && !message.ends_with('.'), "{message}");
        assert!(self.bytes() == before, "it was left alone");
        error
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.node).status();
    }
}

fn area_on(device: BlockDevice) -> Area {
    Area::new(Box::new(device), 0, Geometry::default()).unwrap()
}

fn payload(slot: u64) -> Vec<u8> {
    (0..LEN).map(|i| (slot as usize * 131 + i * 7 + i / 256) as u8 | 1).collect()
}

/// Fill the device with objects.
fn fill(area: &Area) -> Vec<(u64, Place)> {
    let mut live = Vec::new();
    while let Ok(mut batch) = area.begin(64) {
        let first = live.len();
        while let Some(place) = batch.push(live.len() as u64, Label::default(), TENANT, LEN, |bytes| {
            bytes.copy_from_slice(&payload(live.len() as u64))
        }) {
            live.push((live.len() as u64, place));
        }
        assert!(live.len() > first);
        batch.write().unwrap();
    }
    live
}

fn check(area: &Area, &(slot, place): &(u64, Place)) -> Result<(), Error> {
    area.read(place, slot, |object| assert!(object.bytes == payload(slot), "slot {slot} came back as something else"))
}

#[test]
fn a_blank_disk_is_used_whole_and_again_by_the_next() {
    let Some(disk) = Loop::new("a_blank_disk_is_used_whole_and_again_by_the_next", 8 * MIB, &[]) else { return };
    let mut first_live = Vec::new();
    for round in 0..2 {
        let device = disk.open().unwrap();
        assert_eq!(device.len_bytes(), 8 * MIB - 4096);
        let described = device.describe();
        assert!(described.contains(disk.node.to_str().unwrap()) && described.contains("direct I/O"), "{described}");
        assert!(described.contains("sectors of 512"), "{described}");
        let area = area_on(device);
        // What an earlier instance left means nothing to this one.
        assert!(first_live.iter().all(|object| matches!(check(&area, object), Err(Error::Corrupt { .. }))));
        let live = fill(&area);
        assert!(live.len() > 1500, "{} objects", live.len());
        live.iter().for_each(|object| check(&area, object).unwrap());
        live.iter().for_each(|&(_, place)| _ = area.free(place));
        if round == 1 {
            let given_back = area.maintain();
            let stored = fs::metadata(&disk.image).unwrap();
            let stored = std::os::unix::fs::MetadataExt::blocks(&stored) * 512;
            assert!(given_back > 7 * MIB && stored < MIB, "{given_back} bytes given back, {stored} stay");
        }
        first_live = live;
    }
}

#[test]
fn a_disk_that_holds_anything_is_left_alone_unless_it_may_be_overwritten() {
    let test = "a_disk_that_holds_anything_is_left_alone_unless_it_may_be_overwritten";
    // Where ext4, LVM, Btrfs, ZFS, GPT's second table and old arrays have their marks.
    for at in [0, 1080, 512 + 24, 65536 + 64, (256 << 10) - 8, 4 * MIB - 512, 4 * MIB - 65536] {
        let Some(disk) = Loop::new(test, 4 * MIB, &[]) else { return };
        disk.write(at, b"somebody's data");
        match disk.refusal() {
            error @ Error::Occupied { .. } => {
                assert!(error.to_string().contains("say `overwrite` if nobody"), "{error}")
            }
            other => panic!("{at}: {other}"),
        }
        let device = BlockDevice::options().path(&disk.node).overwrite(true).open().unwrap();
        drop(device);
        disk.open().unwrap();
    }
}

#[test]
fn headers_that_do_not_fit_are_refused_by_what_they_are() {
    let test = "headers_that_do_not_fit_are_refused_by_what_they_are";
    for (at, word) in [(8, "another version"), (100, "damaged")] {
        let Some(disk) = Loop::new(test, 2 * MIB, &[]) else { return };
        drop(disk.open().unwrap());
        disk.write(at, &[9]);
        match disk.refusal() {
            error @ Error::Occupied { .. } => assert!(error.to_string().contains(word), "{error}"),
            other => panic!("{other}"),
        }
        drop(BlockDevice::options().path(&disk.node).overwrite(true).open().unwrap());
        disk.open().unwrap();
    }
}

#[test]
fn a_disk_in_use_is_refused_even_to_overwrite() {
    let Some(disk) = Loop::new("a_disk_in_use_is_refused_even_to_overwrite", 4 * MIB, &[]) else { return };
    let used = disk.open().unwrap();
    let refused = |what: &str| {
        for overwrite in [false, true] {
            match BlockDevice::options().path(&disk.node).overwrite(overwrite).open() {
                Err(error @ Error::Busy { .. }) => assert!(error.to_string().contains("end that use"), "{error}"),
                other => panic!("{what}: {other:?}"),
            }
        }
    };
    refused("by this process");
    drop(used);
    // A file system on it, mounted.
    disk.write(0, &[0; 4096]);
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.node).output();
    if !made.as_ref().is_ok_and(|output| output.status.success()) {
        return support::skip("a_disk_in_use_is_refused_even_to_overwrite", &format!("mkfs.ext4 says {made:?}"));
    }
    let point = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").arg(&disk.node).arg(point.path()).status().unwrap();
    assert!(mounted.success());
    let result = std::panic::catch_unwind(|| refused("by a mount"));
    assert!(Command::new("umount").arg(point.path()).status().unwrap().success());
    result.unwrap();
    // And unmounted, it is somebody's.
    assert!(matches!(disk.refusal(), Error::Occupied { .. }));
}

#[test]
fn disks_with_sectors_of_a_page_work_and_small_or_read_only_ones_are_refused() {
    let test = "disks_with_sectors_of_a_page_work_and_small_or_read_only_ones_are_refused";
    let Some(disk) = Loop::new(test, 4 * MIB, &["--sector-size", "4096"]) else { return };
    let device = disk.open().unwrap();
    assert!(device.describe().contains("sectors of 4096") && device.is_direct(), "{}", device.describe());
    let area = area_on(device);
    fill(&area).iter().for_each(|object| check(&area, object).unwrap());
    drop(area);
    let part = BlockDevice::options().path(&disk.node).size(MIB).open().unwrap();
    assert_eq!(part.len_bytes(), MIB - 4096);
    drop(part);
    match BlockDevice::options().path(&disk.node).size(5 * MIB).open() {
        Err(Error::TooLarge { size, most }) => assert_eq!((size, most), (5 * MIB, 4 * MIB)),
        other => panic!("{other:?}"),
    }
    let small = Loop::new(test, MIB / 2, &[]).unwrap();
    assert!(matches!(small.open(), Err(Error::TooSmall { size, .. }) if size == MIB / 2));
    let read_only = Loop::new(test, 4 * MIB, &["--read-only"]).unwrap();
    assert!(matches!(read_only.refusal(), Error::Permission { .. } | Error::File { .. }));
}

#[test]
fn what_is_no_block_device_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    for (path, word) in [
        (file.as_path(), "a regular file"),
        (folder.path(), "a directory"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        match BlockDevice::options().path(path).open() {
            Err(error @ Error::NotBlock { .. }) => {
                let message = error.to_string();
                assert!(message.contains(word) && message.contains("use a swapfile instead"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read(&file).unwrap(), b"text");
    let missing = BlockDevice::options().path(folder.path().join("none")).open().unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
    assert!(BlockDevice::options().open().unwrap_err().to_string().contains("path"));
}
