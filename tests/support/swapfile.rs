//! What tests of swapfiles share: files in folders of their own, areas on them that are filled and checked, and children.
//!
//! Tests that need another process run their own binary again, for one of the tests named `child_`, which do nothing
//! unless they are told by the environment.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use zspool::swap::{Area, Batch, Error, Geometry, Label, Place, SwapFile, Tenant};
use zspool::units::Owner;

pub const MIB: u64 = 1 << 20;

pub fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap");
    (folder, path)
}

pub fn open(path: &Path, size: u64) -> Result<SwapFile, Error> {
    SwapFile::options().path(path).size(size).open()
}

pub fn area_on(swapfile: SwapFile) -> Area {
    Area::new(Box::new(swapfile), 0, Geometry::default()).unwrap()
}

pub fn payload(slot: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (slot as usize * 131 + i * 7 + i / 256) as u8 | 1).collect()
}

pub fn push(batch: &mut Batch<'_>, slot: u64, len: usize) -> Option<Place> {
    let tenant = Tenant { owner: Owner(slot as u32), payer: 1 };
    let label = Label { codec: 1, flags: 2, node: 0 };
    batch.push(slot, label, tenant, len, |bytes| bytes.copy_from_slice(&payload(slot, len)))
}

pub fn check(area: &Area, place: Place, slot: u64, len: usize) -> Result<(), Error> {
    let bytes = area.read(place, slot, |object| object.bytes.to_vec())?;
    assert!(bytes == payload(slot, len), "slot {slot} came back as something else");
    Ok(())
}

/// Of an object that fills most of a page.
pub const LEN: usize = 4000;

/// Write whole batches of objects of `LEN` bytes until the device refuses or is full; what was written, and the error.
pub fn fill(area: &Area, slots: &mut u64) -> (Vec<(u64, Place)>, Error) {
    let mut live = Vec::new();
    loop {
        let mut batch = match area.begin(64) {
            Ok(batch) => batch,
            Err(full) => return (live, full),
        };
        let mut pending = Vec::new();
        while let Some(place) = push(&mut batch, *slots, LEN) {
            pending.push((*slots, place));
            *slots += 1;
        }
        match batch.write() {
            Ok(_) => live.extend(pending),
            Err(error) => return (live, error),
        }
    }
}

/// Run a `child_` test of this binary with the path in its environment; whether it passed.
pub fn run_child(name: &str, path: &Path) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("SWAPFILE_TEST_CHILD", path)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("running 1 test\n"), "there is no test {name}: {stdout}");
    if !output.status.success() {
        eprintln!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// The path, in a child.
pub fn child_path() -> Option<PathBuf> {
    std::env::var_os("SWAPFILE_TEST_CHILD").map(PathBuf::from)
}

pub fn is_root() -> bool {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
