//! Areas over devices in memory, and objects whose bytes say whose they are.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use std::sync::Arc;
use zspool::swap::{Area, Batch, Error, FaultyDevice, Geometry, Label, MemoryDevice, Place, Plan, Tenant};
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
    Area::new(Box::new(Arc::clone(device)), 3, Geometry::default()).unwrap()
}

pub fn faulty(bytes: usize) -> (Faulty, Area) {
    let device = Arc::new(FaultyDevice::new(memory(bytes), Plan::none()));
    let area = Area::new(Box::new(Arc::clone(&device)), 3, Geometry::default()).unwrap();
    (device, area)
}

/// Write one object alone.
pub fn write_one(area: &Area, slot: u64, len: usize) -> Place {
    let mut batch = area.begin_at_least(2, 2).unwrap();
    let place = push(&mut batch, slot, len).unwrap();
    batch.write().unwrap();
    place
}
