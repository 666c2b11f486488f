//! Areas over devices in memory, and objects whose bytes say whose they are.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use std::sync::Arc;
use zspool::swap::{
    Area, Batch, Cipher, Error, FaultyDevice, Flaw, Geometry, Label, MemoryDevice, Place, Plan, Protection, Tenant,
};
use zspool::units::Owner;

pub type Faulty = Arc<FaultyDevice<Arc<MemoryDevice>>>;

/// The bytes of the object of a slot: nothing another slot has, no zeroes at the ends.
pub fn payload(slot: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (slot as usize * 131 + i * 7 + i / 256) as u8 | 1).collect()
}

pub fn label(slot: u64) -> Label {
    Label { codec: 1, flags: (slot % 3) as u8, node: (slot % 64) as u8 }
}

/// Who has the object of a slot, and who pays for it.
pub fn tenant(slot: u64) -> Tenant {
    Tenant { owner: Owner(slot as u32 & 0xff_ffff), payer: !(slot as u32) & 0xff_ffff }
}

pub fn push(batch: &mut Batch<'_>, slot: u64, len: usize) -> Option<Place> {
    batch.push(slot, label(slot), tenant(slot), len, |bytes| bytes.copy_from_slice(&payload(slot, len)))
}

/// Whether the object reads back as written; `Err` is the error.
pub fn check(area: &Area, place: Place, slot: u64, len: usize) -> Result<(), Error> {
    let object = area.read(place, slot, |object| (object.label, object.bytes.to_vec()))?;
    assert_eq!(object, (label(slot), payload(slot, len)), "slot {slot} came back as something else");
    Ok(())
}

pub fn memory(bytes: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(bytes, 4096))
}

pub fn area_of(device: &Arc<MemoryDevice>) -> Area {
    area_with(device, &Protection::new().unwrap())
}

pub fn area_with(device: &Arc<MemoryDevice>, protection: &Protection) -> Area {
    Area::with_protection(Box::new(Arc::clone(device)), 3, Geometry::default(), protection.clone()).unwrap()
}

pub fn faulty(bytes: usize) -> (Faulty, Area) {
    faulty_with(bytes, &Protection::new().unwrap())
}

pub fn faulty_with(bytes: usize, protection: &Protection) -> (Faulty, Area) {
    let device = Arc::new(FaultyDevice::new(memory(bytes), Plan::none()));
    let geometry = Geometry::default();
    let area = Area::with_protection(Box::new(Arc::clone(&device)), 3, geometry, protection.clone()).unwrap();
    (device, area)
}

/// Every protection, with the flaw of what is not what was written: a seal tells no more than that, a checksum, where a
/// whole other block is found, what it is.
pub fn protections() -> Vec<(Protection, Flaw)> {
    let mut all = vec![(Protection::checksum(), Flaw::Checksum)];
    if !cfg!(miri) {
        all.extend([Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305].map(|c| (Protection::sealed(c).unwrap(), Flaw::Seal)));
    }
    all
}

/// The flaw of a read that must fail for one.
pub fn flaw(result: Result<(), Error>) -> Flaw {
    match result {
        Err(Error::Corrupt { flaw, .. }) => flaw,
        other => panic!("{other:?}"),
    }
}

/// Write one object alone.
pub fn write_one(area: &Area, slot: u64, len: usize) -> Place {
    let mut batch = area.begin_at_least(2, 2).unwrap();
    let place = push(&mut batch, slot, len).unwrap();
    batch.write().unwrap();
    place
}
