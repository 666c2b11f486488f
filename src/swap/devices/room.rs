//! [`Limits`]: bytes that may be in use on all devices together, and bytes that their file systems keep free.
//!
//! ```text
//!   begin   promise the bytes of the batch -> look: used + all promised <= limit?   free - all promised >= floor?
//!             too much: promise less, down to what the batch needs; else refuse
//!   write   the bytes are in use, and no longer free
//!   after   take the promise back            late writes: when the device answers again
//! ```
//!
//! - **D7** Bytes are promised before anybody looks, and taken back after they were written. So of two who look, the later one has
//!   counted the other, and what both write stays within. For a moment bytes count twice, never not at all.
//! - **D8** Of the limit one segment is left to cleaning, which gives back more than it takes, so that a device at the limit can be
//!   cleaned.
//!
//! A floor holds for all devices on its file system: what one must leave, another must not take. Others who write there are not
//! stopped by it. Whether bytes that are written have storage already is not asked: near the floor they may be refused all the
//! same, until holes have been punched.

use super::super::Error;
use super::super::device::Device;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Bug, Planted};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a batch may take for the file system's own bookkeeping: tree blocks of extents.
pub(in super::super) const BOOKKEEPING_BYTES: u64 = 64 << 10;

/// Bytes that are promised.
#[derive(Debug)]
pub(super) struct Pot {
    promised: AtomicU64,
    planted: Planted,
}

/// Bytes promised, until it is dropped.
#[derive(Debug)]
pub(super) struct Promise<'a> {
    pot: &'a Pot,
    bytes: u64,
}

/// A file system that devices lie on.
#[derive(Debug)]
pub(super) struct FileSystem {
    /// Its number in the system.
    id: u64,
    /// The highest floor of the devices there.
    floor: AtomicU64,
    pot: Pot,
}

/// The file systems there were so far, with the floors of the devices on each by number.
#[derive(Debug, Default)]
pub(super) struct FileSystems(Vec<(Arc<FileSystem>, BTreeMap<u8, u64>)>);

/// Bytes in use on all devices together at most.
#[derive(Debug)]
pub(super) struct Limit {
    bytes: AtomicU64,
    pot: Pot,
}

// === impl Pot ===

impl Pot {
    fn new(planted: Planted) -> Self {
        Pot { promised: AtomicU64::new(0), planted }
    }

    /// Promise `most` bytes, or fewer, down to `least`: as many as there is `room` for beside what others were promised before.
    /// What room there is is asked after promising (D7).
    fn promise(&self, least: u64, most: u64, room: impl Fn() -> u64) -> Result<Promise<'_>, u64> {
        let early = self.planted.is(Bug::PromiseLooksFirst).then(|| (self.promised.load(Ordering::Acquire), room()));
        // AcqRel: who comes later has counted us, and asks for the room after that.
        let others = self.promised.fetch_add(most, Ordering::AcqRel);
        let mut promise = Promise { pot: self, bytes: most };
        let (others, room) = early.unwrap_or_else(|| (others, room()));
        let left = room.saturating_sub(others).min(most);
        if left < least {
            return Err(room);
        }
        promise.cut(left);
        Ok(promise)
    }

    /// Take back what was promised.
    fn take_back(&self, bytes: u64) {
        self.promised.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Promise<'_> {
    /// Promise less.
    pub(super) fn cut(&mut self, bytes: u64) {
        self.pot.take_back(self.bytes - bytes);
        self.bytes = bytes;
    }

    /// It stands beyond this value. The bytes.
    pub(super) fn keep(self) -> u64 {
        std::mem::ManuallyDrop::new(self).bytes
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.pot.take_back(self.bytes);
    }
}

// === impl FileSystem ===

impl FileSystem {
    /// Promise bytes that may be written without leaving less than the floor; how many of `range`.
    pub(super) fn promise(
        &self,
        device: &dyn Device,
        name: &str,
        range: Range<u64>,
    ) -> Result<(Promise<'_>, u64), Error> {
        // Acquire pairs with the release of who set it.
        let floor = self.floor.load(Ordering::Acquire);
        // Without a floor there is nothing to ask; promised all the same, for who sets one.
        let free = || if floor == 0 { u64::MAX } else { device.free_bytes().unwrap_or(0).saturating_sub(floor) };
        // Twice: while ext4 allocates blocks it has them both as taken and as claimed, and says so to who asks.
        let with = |bytes: u64| 2 * bytes + BOOKKEEPING_BYTES;
        let promise = self.pot.promise(with(range.start), with(range.end), free).map_err(|above| Error::Floor {
            device: name.to_owned(),
            free: above.saturating_add(floor),
            floor,
        })?;
        let bytes = (promise.bytes - BOOKKEEPING_BYTES) / 2;
        Ok((promise, bytes))
    }

    /// Take back what was promised to late writes.
    pub(super) fn take_back(&self, bytes: u64) {
        self.pot.take_back(bytes);
    }
}

impl FileSystems {
    /// The file system that this device lies on, if it lies on one, which is to have so many bytes free.
    pub(super) fn join(
        &mut self,
        device: &dyn Device,
        number: u8,
        floor: u64,
        planted: Planted,
    ) -> Option<Arc<FileSystem>> {
        let id = device.file_system()?;
        let at = self.0.iter().position(|(there, _)| there.id == id).unwrap_or_else(|| {
            let new = FileSystem { id, floor: AtomicU64::new(0), pot: Pot::new(planted) };
            self.0.push((Arc::new(new), BTreeMap::new()));
            self.0.len() - 1
        });
        let (file_system, floors) = &mut self.0[at];
        floors.insert(number, floor);
        file_system.settle(floors);
        Some(Arc::clone(file_system))
    }

    /// The device of this number is gone.
    pub(super) fn leave(&mut self, number: u8) {
        for (file_system, floors) in &mut self.0 {
            if floors.remove(&number).is_some() {
                file_system.settle(floors);
            }
        }
    }
}

impl FileSystem {
    fn settle(&self, floors: &BTreeMap<u8, u64>) {
        self.floor.store(floors.values().copied().max().unwrap_or(0), Ordering::Release);
    }
}

// === impl Limit ===

impl Limit {
    /// None.
    pub(super) fn none(planted: Planted) -> Self {
        Limit { bytes: AtomicU64::new(u64::MAX), pot: Pot::new(planted) }
    }

    pub(super) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Release);
    }

    /// Take back what was promised to late writes.
    pub(super) fn take_back(&self, bytes: u64) {
        self.pot.take_back(bytes);
    }

    /// Promise bytes that may be used beside what `used` says; how many of `range`. `kept`: bytes of the limit that are not for
    /// this purpose (D8).
    pub(super) fn promise(
        &self,
        used: &dyn Fn() -> u64,
        kept: u64,
        range: Range<u64>,
    ) -> Result<(Promise<'_>, u64), Error> {
        let limit = self.get();
        let room = || match limit {
            u64::MAX => u64::MAX,
            _ => limit.saturating_sub(kept).saturating_sub(used()),
        };
        let promise = self.pot.promise(range.start, range.end, room);
        let promise = promise.map_err(|_| Error::SwapLimit { used: used(), limit })?;
        let bytes = promise.bytes;
        Ok((promise, bytes))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_cut_down_to_the_room_and_refused_below_what_is_needed() {
        let pot = Pot::new(Planted::NONE);
        let one = pot.promise(10, 100, || 150).unwrap();
        assert_eq!(one.bytes, 100);
        let two = pot.promise(10, 100, || 150).unwrap();
        assert_eq!(two.bytes, 50, "the other's are counted");
        assert_eq!(pot.promise(10, 100, || 155).unwrap_err(), 155);
        drop(one);
        assert_eq!(pot.promise(10, 100, || 155).unwrap().bytes, 100);
        pot.take_back(two.keep());
        assert_eq!(pot.promised.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_limit_keeps_a_part_for_cleaning() {
        let limit = Limit::none(Planted::NONE);
        assert_eq!(limit.promise(&|| u64::MAX, 1 << 20, 1..1 << 30).unwrap().1, 1 << 30);
        limit.set(1000);
        assert_eq!(limit.promise(&|| 600, 200, 1..1000).unwrap().1, 200);
        assert!(matches!(limit.promise(&|| 800, 200, 1..1000), Err(Error::SwapLimit { used: 800, limit: 1000 })));
        assert_eq!(limit.promise(&|| 800, 0, 1..1000).unwrap().1, 200);
    }
}
