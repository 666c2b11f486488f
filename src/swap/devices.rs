//! [`Devices`]: up to 32 areas in tiers, added and removed while others read and write.
//!
//! ```text
//!   begin(allowed) ---> Roster: whose turn? ---> seat n: counted use -> gate: counted writer -> batch     full, shut: the next
//!   get(n), read, free ------------------------> seat n: counted use                                     no lock, no allocation
//!   add     claim a number and a tier -> open -> seat n is taken
//!   drain   gate n is shut; who moves the objects away ...
//!   remove  ... no writers, no objects -> nobody begins to use seat n; wait for those who do -> off
//! ```
//!
//! - **D5** A place's device is there as long as a slot names it: a device is removed when it holds no object. Who reads by a
//!   place that he saw in a slot word before finds a device or none, and looks at the word again.
//! - **D6** A number that comes back goes on with its generations, so that no place is named twice.
//!
//! The rules of who may write where come from above as [`Allowed`]; memcgs are not known here.

mod allowed;
mod attached;
mod capped;
pub(super) mod options;
mod outgoing;
mod room;
mod roster;
mod stats;

pub use allowed::Allowed;
pub use outgoing::Outgoing;
pub use roster::{TierInfo, check_tier_name};
pub use stats::{DeviceStats, State};

pub(super) use self::room::BOOKKEEPING_BYTES;

use self::attached::{Ask, Attached, Identity};
use self::capped::Capped;
use self::room::Limit;
use self::roster::{Claim, Roster};
use super::area::Area;
use super::block::ObjectRef;
use super::segments::Purpose;
use super::{DeviceOptions, Error, Geometry, Place, Protection, ReadOne};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{DEVICES, Mutex, Planted, Rank, Seat, Seated};
use crate::units::TierMask;
use std::ops::Deref;

/// The devices of an instance.
///
/// ```
/// use zspool::swap::{Allowed, DeviceOptions, Devices, Geometry, Label, MemoryDevice, Protection, Tenant};
/// use zspool::sync::Planted;
/// use zspool::units::Owner;
///
/// let devices = Devices::new(Geometry::default(), Protection::new()?, Planted::NONE);
/// devices.add(DeviceOptions::device(MemoryDevice::new(1 << 20, 4096)).tier("disk", 0))?;
/// let fast = devices.add(DeviceOptions::device(MemoryDevice::new(1 << 20, 4096)).tier("nvme", 5))?;
/// let mut batch = devices.begin(&Allowed::ALL, 1, 64)?;
/// let tenant = Tenant { owner: Owner(7), payer: 1 };
/// let hello = |bytes: &mut [u8]| bytes.copy_from_slice(b"hello");
/// let place = batch.push(7, Label::default(), tenant, 5, hello).expect("an empty batch has room");
/// batch.write()?;
/// assert_eq!(place.device, fast);
/// assert_eq!(devices.read(place, 7, |object| object.bytes.to_vec())?, b"hello");
/// devices.free(place);
/// devices.drain(fast)?;
/// devices.remove(fast)?;
/// # Ok::<(), zspool::swap::Error>(())
/// ```
#[derive(Debug)]
pub struct Devices {
    /// By number. Boxed, for most seats stay empty.
    seats: Box<[Seat<Box<Attached>>]>,
    roster: Mutex<Roster>,
    /// Devices that are on. Relaxed: who acts on it looks at the seats.
    count: AtomicU32,
    /// Bits of the tiers that have devices. Relaxed: likewise.
    tiers: AtomicU32,
    /// Of the bytes in use.
    limit: Limit,
    geometry: Geometry,
    /// Of all devices: they share the key.
    protection: Protection,
    planted: Planted,
}

/// A device in use: it is there until this is dropped. No lock, no allocation.
#[derive(Debug)]
pub struct DeviceRef<'a>(Seated<'a, Box<Attached>>);

impl Deref for DeviceRef<'_> {
    type Target = Area;
    fn deref(&self) -> &Area {
        &self.0.area
    }
}

impl DeviceRef<'_> {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Index of its tier.
    pub fn tier(&self) -> u8 {
        self.0.tier
    }

    /// Its priority.
    pub fn priority(&self) -> i16 {
        self.0.priority
    }

    /// How it is.
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// Batches that are being filled or written.
    pub fn writers(&self) -> u64 {
        self.0.writers()
    }

    /// Whether pages are to be written as they are.
    pub fn whole_pages(&self) -> bool {
        self.0.how.whole_pages
    }

    /// Percent in use above which bytes are to move to the next tier, and down to which: low, high.
    pub fn water_marks(&self) -> Option<(u8, u8)> {
        self.0.how.water
    }
}

// === impl Devices ===

impl Devices {
    /// None yet. All will be divided by this geometry, and what is on them protected like this.
    pub fn new(geometry: Geometry, protection: Protection, planted: Planted) -> Self {
        Devices {
            seats: (0..DEVICES).map(|_| Seat::new(planted)).collect(),
            roster: Mutex::new(Rank::Devices, Roster::default()),
            count: AtomicU32::new(0),
            tiers: AtomicU32::new(0),
            limit: Limit::none(planted),
            geometry,
            protection,
            planted,
        }
    }

    /// Add a device: it is written to from now on. Its number.
    ///
    /// # Errors
    /// What opening it says; [`Error::TierName`], [`Error::TierPriority`], [`Error::TiersClash`], [`Error::TooManyTiers`],
    /// [`Error::TooManyDevices`]; what [`Area::new`] says. Nothing is then changed.
    ///
    /// # Locks
    /// [`Rank::Devices`], not while the device is opened.
    pub fn add(&self, options: DeviceOptions) -> Result<u8, Error> {
        let (priority, how, tier_name) = (options.priority, options.how, options.tier.clone());
        let least = 2 * self.segment_bytes();
        if how.max_bytes < least {
            return Err(Error::CapTooSmall { size: how.max_bytes, least });
        }
        // Where it does not fit in, its file is not even looked at.
        let Claim { number, tier, base } = self.roster.lock().claim(&tier_name, priority)?;
        let attached = options.open().and_then(|(name, device)| {
            let device = Capped::at_most(device, how.max_bytes);
            let file_system = self.roster.lock().file_systems.join(&*device, number, how.min_free_bytes, self.planted);
            let area =
                Area::with_protection(device, number, self.geometry, self.protection.clone())?.counting_from(base);
            Ok(Attached::new(area, Identity { name, tier, tier_name, priority }, how, file_system, self.planted))
        });
        let put = attached.map(|attached| self.seats[usize::from(number)].put(Box::new(attached)).is_ok());
        match put {
            Ok(true) => {
                let mut roster = self.roster.lock();
                roster.settle(number);
                self.tiers.store(roster.occupied().bits(), Ordering::Relaxed);
                self.count.fetch_add(1, Ordering::Relaxed);
                Ok(number)
            }
            Ok(false) => unreachable!("D1: the seat of a number that was claimed is empty"),
            Err(error) => {
                self.roster.lock().give_up(number, None);
                Err(error)
            }
        }
    }

    /// Whether there is no device.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Batches that can be open at once on all of them.
    pub fn write_buffers(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize * self.geometry.write_buffers
    }

    /// The tiers that have devices.
    #[inline]
    pub fn occupied_tiers(&self) -> TierMask {
        TierMask::from_bits(self.tiers.load(Ordering::Relaxed))
    }

    /// The sizes of all devices.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The tiers there were so far, by index; and a number that grows with every change, so that of two answers the newer can be
    /// told.
    ///
    /// # Locks
    /// [`Rank::Devices`].
    pub fn tiers(&self) -> (u64, Vec<TierInfo>) {
        self.roster.lock().tiers()
    }

    /// Use a device. No lock, no allocation: it can be called in handlers of faults.
    #[inline]
    pub fn get(&self, number: u8) -> Option<DeviceRef<'_>> {
        self.seats.get(usize::from(number))?.get().map(DeviceRef)
    }

    /// All that are on, by number.
    pub fn iter(&self) -> impl Iterator<Item = DeviceRef<'_>> {
        self.seats.iter().filter_map(|seat| seat.get().map(DeviceRef))
    }

    fn on(&self, number: u8) -> Result<DeviceRef<'_>, Error> {
        self.get(number).ok_or(Error::NotOn { device: number })
    }

    /// A batch of `least` to `most` pages on an allowed device: of the highest priority, those of one tier in turn, those that
    /// are full, being drained or retired passed by. Waits for a write buffer, so a thread has one batch at a time.
    ///
    /// When its write fails, begin again [`without`](Allowed::without) that device.
    ///
    /// # Errors
    /// What the first that was asked says ([`Error::Full`], [`Error::SwapLimit`], [`Error::Floor`], [`Error::Hung`]); else
    /// [`Error::Shut`] when none takes writes, and [`Error::NoDevice`].
    ///
    /// # Locks
    /// [`Rank::Devices`]; then as [`Area::begin`].
    pub fn begin(&self, allowed: &Allowed, least: usize, most: usize) -> Result<Outgoing<'_>, Error> {
        let (mut allowed, mut first) = (*allowed, None);
        while let Some(number) = self.next(&allowed) {
            allowed = allowed.without(number);
            let Some(seated) = self.seats[usize::from(number)].get() else { continue };
            match Outgoing::begin(seated, &self.limit, &self.ask(Purpose::Filling, least, most)) {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(error) => _ = first.get_or_insert(error),
            }
        }
        Err(first.unwrap_or(match self.is_empty() {
            true => Error::NoDevice,
            false => Error::Shut,
        }))
    }

    /// A batch on this device, as [`Area::begin_for_cleaning`].
    ///
    /// # Errors
    /// As that; [`Error::NotOn`], [`Error::Shut`].
    ///
    /// # Locks
    /// As [`Area::begin`].
    pub fn begin_for_cleaning(&self, number: u8, least: usize, most: usize) -> Result<Outgoing<'_>, Error> {
        Outgoing::begin(self.on(number)?.0, &self.limit, &self.ask(Purpose::Cleaning, least, most))?.ok_or(Error::Shut)
    }

    fn segment_bytes(&self) -> u64 {
        self.geometry.segment_bytes() as u64
    }

    /// The bytes of a batch of so many pages, in the bounds that areas have too.
    fn ask(&self, purpose: Purpose, least: usize, most: usize) -> Ask<'_> {
        let most = most.clamp(1, self.geometry.batch_pages);
        let bytes = |pages: usize| (pages * self.geometry.page_bytes) as u64;
        let kept_beyond = match purpose {
            Purpose::Filling => (self.segment_bytes(), 0),
            Purpose::Cleaning => (0, self.segment_bytes()),
        };
        Ask { purpose, least: bytes(least.clamp(1, most)), most: bytes(most), devices: self, kept_beyond }
    }

    /// Bytes in use on all devices together, live or not.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub fn used_bytes(&self) -> u64 {
        self.iter().map(|device| device.stats().used_bytes).sum()
    }

    /// Bytes in use on all devices together at most; `u64::MAX`: as many as they have.
    pub fn limit(&self) -> u64 {
        self.limit.get()
    }

    /// Set it. What is in use above it stays. Of the limit the bytes of a segment are for cleaning only.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.set(bytes);
    }

    fn next(&self, allowed: &Allowed) -> Option<u8> {
        self.roster.lock().next(allowed.tiers, allowed.tried)
    }

    /// As [`Area::read`] of the device of the place.
    ///
    /// # Errors
    /// As that, and [`Error::NotOn`] where the device is gone: then no slot names the place any more.
    ///
    /// # Locks
    /// As [`Area::read`].
    pub fn read<R>(&self, place: Place, slot: u64, f: impl FnOnce(ObjectRef<'_>) -> R) -> Result<R, Error> {
        self.on(place.device)?.read(place, slot, f)
    }

    /// These objects, sorted by device, with the device of each: to be [read together](Area::read_many). Those of a device that
    /// is gone are left out.
    pub fn of_each<'o>(
        &self,
        objects: &'o mut [ReadOne],
    ) -> impl Iterator<Item = (DeviceRef<'_>, &'o mut [ReadOne])> + use<'_, 'o> {
        objects.sort_unstable_by_key(|object| object.place.device);
        let alike = objects.chunk_by_mut(|a, b| a.place.device == b.place.device);
        alike.filter_map(|objects| Some((self.get(objects[0].place.device)?, objects)))
    }

    /// As [`Area::blame`] of the device of the place.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub fn blame(&self, place: Place, error: &Error) {
        if let Some(device) = self.get(place.device) {
            device.blame(place, error);
        }
    }

    /// As [`Area::free`] of the device of the place. Returns who paid for it.
    ///
    /// # Panics
    /// When the object was freed before, or its device is gone (D5).
    ///
    /// # Locks
    /// [`Rank::Device`].
    #[inline]
    pub fn free(&self, place: Place) -> u32 {
        self.get(place.device).expect("D5: the device of an object stays").free(place)
    }

    /// As [`Area::payer`] of the device of the place.
    ///
    /// # Panics
    /// When no object lives there, or its device is gone (D5).
    ///
    /// # Locks
    /// [`Rank::Device`].
    #[inline]
    pub fn payer(&self, place: Place) -> u32 {
        self.get(place.device).expect("D5: the device of an object stays").payer(place)
    }

    /// As [`Area::maintain_until`] of all devices.
    ///
    /// # Locks
    /// As that.
    pub fn maintain_until(&self, stop: impl Fn() -> bool) -> u64 {
        self.iter().map(|device| device.maintain_until(&stop)).sum()
    }

    /// Write no more to a device; what is on it stays and is read. Batches begun before are finished: see
    /// [`writers`](DeviceRef::writers).
    ///
    /// # Errors
    /// [`Error::NotOn`].
    pub fn drain(&self, number: u8) -> Result<(), Error> {
        self.on(number)?.0.drain();
        Ok(())
    }

    /// Write to a device again that was being drained.
    ///
    /// # Errors
    /// [`Error::NotOn`], also when it is being removed.
    pub fn resume(&self, number: u8) -> Result<(), Error> {
        match self.on(number)?.0.resume() {
            true => Ok(()),
            false => Err(Error::NotOn { device: number }),
        }
    }

    /// Write to a device again that was retired, also where writes failed.
    ///
    /// # Errors
    /// [`Error::NotOn`].
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub fn reinstate(&self, number: u8) -> Result<(), Error> {
        let device = self.on(number)?;
        device.reinstate();
        device.0.reinstate();
        Ok(())
    }

    /// Remove a device that was drained and is empty, and close it. Waits for those who use it at this moment; its number is
    /// used again late, and with other generations.
    ///
    /// # Errors
    /// [`Error::NotOn`], [`Error::NotDraining`], [`Error::NotEmpty`]: it stays as it was.
    ///
    /// # Locks
    /// [`Rank::Devices`], after the waiting.
    pub fn remove(&self, number: u8) -> Result<(), Error> {
        self.on(number)?.0.leave()?;
        let attached = self.seats[usize::from(number)].take().expect("who leaves is alone in that");
        assert_eq!(attached.area.stats().objects, 0, "D4: an object came to a device that leaves");
        self.count.fetch_sub(1, Ordering::Relaxed);
        attached.take_back_late(&self.limit, true);
        let base = attached.area.next_base();
        drop(attached);
        let mut roster = self.roster.lock();
        roster.give_up(number, Some(base));
        self.tiers.store(roster.occupied().bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Check every area, as [`Area::assert_valid`], and that tiers and devices fit together.
    ///
    /// # Panics
    /// With a sentence, when an invariant is broken.
    pub fn assert_valid(&self) {
        let on: u32 = self.iter().map(|device| 1 << device.number()).sum();
        assert_eq!(on, self.roster.lock().claimed(), "D1: the numbers claimed are those of the devices that are on");
        assert_eq!(on.count_ones(), self.count.load(Ordering::Relaxed), "the devices are counted");
        for device in self.iter() {
            device.assert_valid();
            assert_eq!(device.writers(), 0, "no batch is open");
        }
    }
}
