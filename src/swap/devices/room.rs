//! [`Limit`]: bytes that may be in use on all devices together; [`FileSystem`]: bytes that theirs keep free.
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
//!   cleaned. Where that is in use too, because the limit was lowered, cleaning may have one segment whatever the limit says.
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

    /// Its devices have these floors from now on.
    fn settle(&self, floors: &BTreeMap<u8, u64>) {
        self.floor.store(floors.values().copied().max().unwrap_or(0), Ordering::Release);
    }
}

// === impl FileSystems ===

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
    /// this purpose; `beyond`: bytes that are for it whatever is in use (D8).
    pub(super) fn promise(
        &self,
        used: &dyn Fn() -> u64,
        (kept, beyond): (u64, u64),
        range: Range<u64>,
    ) -> Result<(Promise<'_>, u64), Error> {
        let limit = self.get();
        let room = || match limit {
            u64::MAX => u64::MAX,
            _ => limit.saturating_sub(kept).saturating_sub(used()).max(beyond),
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
        assert_eq!(limit.promise(&|| u64::MAX, (1 << 20, 0), 1..1 << 30).unwrap().1, 1 << 30);
        limit.set(1000);
        assert_eq!(limit.promise(&|| 600, (200, 0), 1..1000).unwrap().1, 200);
        assert!(matches!(limit.promise(&|| 800, (200, 0), 1..1000), Err(Error::SwapLimit { used: 800, limit: 1000 })));
        assert_eq!(limit.promise(&|| 800, (0, 200), 1..1000).unwrap().1, 200);
        for used in [900, 1000, 1001] {
            assert_eq!(limit.promise(&|| used, (0, 200), 1..1000).unwrap().1, 200, "what is won comes after it");
            assert!(limit.promise(&|| used, (0, 200), 201..1000).is_err());
        }
    }

    /// A device on a file system of this number with so many bytes free.
    #[derive(Debug)]
    struct On(Option<u64>, AtomicU64);

    impl Device for On {
        fn submit(&self, _: &mut [super::super::super::Request]) {}
        fn complete(&self, _: &mut [super::super::super::Request]) {}
        fn punch(&self, _: Range<u64>) -> std::io::Result<()> {
            Ok(())
        }
        fn len_bytes(&self) -> u64 {
            1 << 30
        }
        fn block_bytes(&self) -> usize {
            4096
        }
        fn file_system(&self) -> Option<u64> {
            self.0
        }
        fn free_bytes(&self) -> std::io::Result<u64> {
            Ok(self.1.load(Ordering::Relaxed))
        }
        fn name(&self) -> &str {
            "on"
        }
    }

    #[test]
    fn a_file_system_keeps_the_highest_floor_of_its_devices() {
        let mut all = FileSystems::default();
        let on = |id| On(id, AtomicU64::new(0));
        let mut join = |device: &On, number, floor| all.join(device, number, floor, Planted::NONE);
        assert!(join(&on(None), 1, 5000).is_none(), "it takes no storage from one");
        let one = join(&on(Some(7)), 2, 1000).unwrap();
        let other = join(&on(Some(8)), 3, 0).unwrap();
        let same = join(&on(Some(7)), 4, 3000).unwrap();
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        let floor = |fs: &FileSystem| fs.floor.load(Ordering::Relaxed);
        assert_eq!((floor(&one), floor(&other)), (3000, 0));
        all.leave(4);
        assert_eq!(floor(&one), 1000);
        all.leave(2);
        assert_eq!(floor(&one), 0);
    }

    #[test]
    fn twice_the_bytes_and_some_for_bookkeeping_must_be_free_above_the_floor() {
        let device = On(Some(1), AtomicU64::new(0));
        let mut all = FileSystems::default();
        let fs = all.join(&device, 0, 10_000, Planted::NONE).unwrap();
        let free_above = |bytes: u64| device.1.store(10_000 + BOOKKEEPING_BYTES + bytes, Ordering::Relaxed);
        free_above(2 * 400);
        let (one, bytes) = fs.promise(&device, "on", 100..400).unwrap();
        assert_eq!(bytes, 400);
        assert!(fs.promise(&device, "on", 100..400).is_err(), "all of it is promised");
        drop(one);
        free_above(2 * 250);
        assert_eq!(fs.promise(&device, "on", 100..400).unwrap().1, 250);
        free_above(2 * 100 - 1);
        let Err(Error::Floor { device: name, free, floor }) = fs.promise(&device, "on", 100..400) else {
            panic!("a byte less than is needed")
        };
        assert_eq!((&*name, free, floor), ("on", 10_000 + BOOKKEEPING_BYTES + 199, 10_000));
        let (late, _) = {
            free_above(2 * 400);
            fs.promise(&device, "on", 100..400).unwrap()
        };
        fs.take_back(late.keep());
        assert_eq!(fs.promise(&device, "on", 100..400).unwrap().1, 400);
        // Without a floor nothing is asked.
        all.leave(0);
        device.1.store(0, Ordering::Relaxed);
        assert_eq!(fs.promise(&device, "on", 100..400).unwrap().1, 400);
    }
}
