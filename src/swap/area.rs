//! [`Area`]: a device with its segments, its buffers and its counters.
//!
//! ```text
//!   begin -> Batch: push, push, ... write -> places        one request, up to 256 KiB
//!   read(place, slot)  -> verified object, or an error     one request, up to 12 KiB
//!   free(place)        -> who paid; its segment, when nobody else is in it
//!   read_segment(id)   -> all its objects, to be moved     one request, up to 256 KiB
//!   maintain()         -> holes where free segments were written
//! ```
//!
//! 1. An object is never taken for another: `read` verifies that it is what was written for the slot at the place, by a
//!    seal or a checksum (see [`Protection`]).
//! 2. No lock is held across I/O.
//! 3. `read` and `free` neither allocate nor deallocate; `free` makes no system call but for a contended lock.
//! 4. Every live object has a reverse word: which slot names its place, or will, and who pays.
//!
//! The area does not know what slots mean, nor whether a place is still wanted: a read that races with the free of its
//! place finds an object or a flaw, and the caller looks at its slot word again before it believes either. A reverse word whose
//! slot does not name the place belongs to somebody who is about to make it so, or to free the place.

pub(super) mod batch;
pub(super) mod image;
pub(super) mod quarantine;
pub(super) mod read_many;
pub(super) mod requests;
mod stats;

pub use stats::AreaStats;

use self::batch::Batch;
use self::quarantine::Quarantine;
use super::block::{ObjectRef, open};
use super::buffer::BufferPool;
use super::device::{Cause, Device, Failure, Op};
use super::geometry::{BLOCK_BYTES, Geometry, MAX_DEVICE_BYTES};
use super::rmap::Tenant;
use super::segments::{Hole, Purpose, Segments};
use super::{Error, Place, Protection};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Planted, Tally, assert_no_lock_held};
use crate::units::Owner;
use std::io;

/// A device and what is on it.
///
/// ```
/// use zspool::swap::{Area, Geometry, Label, MemoryDevice, Tenant};
/// use zspool::units::Owner;
///
/// let area = Area::new(Box::new(MemoryDevice::new(1 << 20, 4096)), 0, Geometry::default())?;
/// let mut batch = area.begin(64)?;
/// let tenant = Tenant { owner: Owner(7), payer: 1 };
/// let hello = |bytes: &mut [u8]| bytes.copy_from_slice(b"hello");
/// let place = batch.push(7, Label::default(), tenant, 5, hello).expect("an empty batch has room");
/// batch.write()?;
/// assert_eq!(area.read(place, 7, |object| object.bytes.to_vec())?, b"hello");
/// assert_eq!(area.free(place), 1);
/// assert_eq!(area.stats().used_bytes, 0);
/// # Ok::<(), zspool::swap::Error>(())
/// ```
#[derive(Debug)]
pub struct Area {
    device: Box<dyn Device>,
    /// The device's number in places.
    number: u8,
    geometry: Geometry,
    /// Of the instance: blocks of another never match.
    protection: Protection,
    segments: Segments,
    write_buffers: BufferPool,
    read_buffers: BufferPool,
    /// One, for who moves objects; backed when it is first used.
    segment_buffers: BufferPool,
    /// Requests that the device has not answered in time.
    quarantine: Quarantine,
    /// Number of the next batch.
    next_batch: AtomicU64,
    /// The device said that it cannot punch. Set once.
    unpunchable: AtomicBool,
    // Counters, each exact; nothing is ordered by them.
    written_bytes: Tally,
    cleaned_bytes: Tally,
    read_bytes: Tally,
    io_errors: Tally,
    corrupt: Tally,
    punched_bytes: Tally,
    unpunched_bytes: Tally,
}

// === impl Area ===

/// A hole that is being punched: its segments can be used again after it, also where the device panics.
struct Punching<'a> {
    segments: &'a Segments,
    hole: Hole,
}

impl Drop for Punching<'_> {
    fn drop(&mut self) {
        self.segments.punched(&self.hole);
    }
}

impl Area {
    /// An empty area over all of `device`, whose number in places is `number`, protected by the default of
    /// [`Protection::new`]. What the device holds is not looked at.
    ///
    /// # Errors
    /// [`Error::Geometry`], [`Error::Alignment`], [`Error::DeviceNumber`], [`Error::TooLarge`], [`Error::TooSmall`]
    /// when the device has no room for two segments; [`Error::Key`].
    pub fn new(device: Box<dyn Device>, number: u8, geometry: Geometry) -> Result<Self, Error> {
        Self::with_protection(device, number, geometry, Protection::new()?)
    }

    /// The same with a checksum whose seed is not random: for tests that compare images, and models.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_seed(device: Box<dyn Device>, number: u8, geometry: Geometry, seed: u64) -> Result<Self, Error> {
        Self::with_protection(device, number, geometry, Protection::Checksum(seed))
    }

    /// The same with a protection that devices of one instance share.
    ///
    /// # Errors
    /// As [`new`](Self::new), but for the key.
    pub fn with_protection(
        device: Box<dyn Device>,
        number: u8,
        geometry: Geometry,
        protection: Protection,
    ) -> Result<Self, Error> {
        Self::with_planted(device, number, geometry, protection, Planted::NONE)
    }

    /// The same with a bug, for models.
    #[doc(hidden)]
    pub fn with_planted(
        device: Box<dyn Device>,
        number: u8,
        geometry: Geometry,
        protection: Protection,
        planted: Planted,
    ) -> Result<Self, Error> {
        geometry.check()?;
        let most = (1 << Place::DEVICE_BITS) - 1;
        if number > most {
            return Err(Error::DeviceNumber { number, most });
        }
        let (unit, page) = (device.block_bytes(), geometry.page_bytes);
        if !page.is_multiple_of(unit) {
            return Err(Error::Alignment { name: device.name().to_owned(), unit, page });
        }
        let segment_bytes = geometry.segment_bytes() as u64;
        let (size, least) = (device.len_bytes(), 2 * segment_bytes);
        let most = MAX_DEVICE_BYTES.min(segment_bytes * u64::from(u32::MAX - 1));
        if size > most {
            return Err(Error::TooLarge { size, most });
        }
        if size < least {
            return Err(Error::TooSmall { size, least });
        }
        let (count, page_shift) = ((size / segment_bytes) as u32, geometry.blocks_per_page().ilog2());
        Ok(Area {
            segments: Segments::new(count, geometry.batch_pages, page_shift, planted),
            write_buffers: BufferPool::new(geometry.write_buffers, geometry.segment_bytes()),
            read_buffers: BufferPool::new(geometry.read_buffers, geometry.read_buffer_bytes()),
            segment_buffers: BufferPool::new(1, geometry.segment_bytes()),
            quarantine: Quarantine::new(geometry.write_buffers + geometry.read_buffers + 1, planted),
            device,
            number,
            geometry,
            protection,
            next_batch: AtomicU64::new(0),
            unpunchable: AtomicBool::new(false),
            written_bytes: Tally::new(),
            cleaned_bytes: Tally::new(),
            read_bytes: Tally::new(),
            io_errors: Tally::new(),
            corrupt: Tally::new(),
            punched_bytes: Tally::new(),
            unpunched_bytes: Tally::new(),
        })
    }

    /// Generations of places go on from `base`, which is the [`next_base`](Self::next_base) of the device that had this number
    /// before: its places do not come again.
    #[must_use]
    pub fn counting_from(self, base: u16) -> Self {
        self.segments.count_from(base);
        self
    }

    /// What the next device of this number counts generations from.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn next_base(&self) -> u16 {
        self.segments.next_base()
    }

    /// A batch with a buffer and up to `most` pages of a segment; fewer where only shorter tails are left. Waits for a buffer,
    /// so a thread has one batch at a time.
    ///
    /// A batch of a single page has no room for an object of more than 63 blocks' payload: see
    /// [`begin_at_least`](Self::begin_at_least).
    ///
    /// # Errors
    /// [`Error::Full`] when there is no page; [`Error::Forked`], [`Error::NoncesExhausted`] when nothing may be sealed.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers), then [`Rank::Device`](crate::sync::Rank::Device).
    pub fn begin(&self, most: usize) -> Result<Batch<'_>, Error> {
        self.begin_at_least(1, most)
    }

    /// The same with `least` pages at least, so that an object that needs them fits (two hold any): the shortest tail of a
    /// segment that has `most`, else a free segment but the last, else the longest tail. Waits while nothing is left but what
    /// other batches have.
    ///
    /// # Errors
    /// [`Error::Full`] when there is no run of `least` pages: it says whether cleaning would help. [`Error::Hung`] while the device
    /// does not answer.
    ///
    /// # Locks
    /// As [`begin`](Self::begin).
    pub fn begin_at_least(&self, least: usize, most: usize) -> Result<Batch<'_>, Error> {
        self.begin_for(Purpose::Filling, least, most)
    }

    /// A batch for objects of this device, that leave a segment so that it becomes free. It may have the last free segment; what
    /// it leaves of that is for such batches only, until another segment is free. Who cleans writes all that is left of a
    /// segment in one batch, and one thread at a time does: then there is always room for it.
    ///
    /// # Errors
    /// As [`begin_at_least`](Self::begin_at_least).
    ///
    /// # Locks
    /// As [`begin`](Self::begin).
    pub fn begin_for_cleaning(&self, least: usize, most: usize) -> Result<Batch<'_>, Error> {
        self.begin_for(Purpose::Cleaning, least, most)
    }

    pub(super) fn begin_for(&self, purpose: Purpose, least: usize, most: usize) -> Result<Batch<'_>, Error> {
        assert_no_lock_held("waiting for a write buffer");
        self.protection.check()?;
        let most = most.clamp(1, self.geometry.batch_pages);
        let least = least.clamp(1, most);
        let lease = self.write_lease()?;
        let Some(extent) = self.segments.take(least, most, purpose) else {
            let stats = self.stats();
            return Err(Error::Full {
                device: self.number,
                wanted: least,
                live: stats.live_bytes,
                reclaimable: stats.reclaimable_bytes,
                size: stats.size_bytes,
            });
        };
        Ok(Batch::new(self, lease, extent, purpose, self.next_batch.fetch_add(1, Ordering::Relaxed)))
    }

    /// Read the object of `slot` at `place`, verify it, and hand it to `f`. Waits for a buffer. No allocation.
    ///
    /// `f` runs with a read buffer in hand, so it must not read from this area nor touch memory whose faults do.
    ///
    /// # Errors
    /// [`Error::Io`] when the device fails (counted), [`Error::TimedOut`] and [`Error::Hung`] when it does not answer, which
    /// says nothing about the object, [`Error::Corrupt`] when the bytes are not those that were written
    /// there for that slot; [`Error::NotOn`] when the device ends before the place: it is one of a larger device that had this
    /// number before. A caller that races with frees looks at its slot word again, and calls
    /// [`blame`](Self::blame) if the word is unchanged.
    ///
    /// # Panics
    /// When the place is not on this device.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers), not across the read.
    pub fn read<R>(&self, place: Place, slot: u64, f: impl FnOnce(ObjectRef<'_>) -> R) -> Result<R, Error> {
        assert_no_lock_held("reading from a device");
        if !self.reaches(&place) {
            return Err(Error::NotOn { device: place.device });
        }
        let span = self.span(&place);
        let page_bytes = self.geometry.page_bytes;
        let (offset, len) = ((span.start * page_bytes) as u64, span.len() * page_bytes);

        let mut lease = self.read_lease()?;
        if let Err(failure) = self.run_read(offset, len, &mut lease) {
            return Err(self.request_error(Op::Read, offset, len, failure));
        }
        self.read_bytes.add(len as u64);
        let start = (place.offset_bytes() - offset) as usize;
        match open(&mut lease[start..start + place.len_bytes()], &self.protection, &place, slot) {
            Ok(object) => Ok(f(object)),
            Err(flaw) => Err(Error::Corrupt { slot, place, flaw }),
        }
    }

    /// A read of `place` failed with `error` and the slot word still names the place: it counts, and the segment takes no more
    /// batches, nor is it used again once its objects are gone.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn blame(&self, place: Place, error: &Error) {
        match error {
            Error::Corrupt { .. } => _ = self.corrupt.add(1),
            Error::Io { op: Op::Read, .. } => {}
            _ => return,
        }
        self.segments.condemn(&place);
    }

    /// The object at `place` is not wanted any more. Returns who paid for it. No allocation, no I/O.
    ///
    /// # Panics
    /// When it was freed before.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    #[inline]
    pub fn free(&self, place: Place) -> u32 {
        self.assert_mine(&place);
        self.segments.release(&place)
    }

    /// Who pays for the live object at `place`, which stays live meanwhile: the caller holds the cluster lock of the slot that
    /// names it.
    ///
    /// # Panics
    /// When there is none.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    #[inline]
    pub fn payer(&self, place: Place) -> u32 {
        self.tenant(place).unwrap_or_else(|| panic!("nobody pays for {place:?}, where nothing lives")).payer
    }

    /// Who has the object at `place`, if one lives there.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    #[inline]
    pub fn tenant(&self, place: Place) -> Option<Tenant> {
        self.assert_mine(&place);
        self.segments.tenant(&place)
    }

    /// The slot that is to name the live object at `place` has another dense number than its writer thought.
    ///
    /// # Panics
    /// When there is no such object.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn set_owner(&self, place: Place, owner: Owner) {
        self.assert_mine(&place);
        self.segments.set_owner(&place, owner);
    }

    /// Segments that were condemned for failed writes are used again. Returns how many were.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn reinstate(&self) -> usize {
        self.segments.reinstate()
    }

    /// Punch holes where free segments still have storage behind them, and give back the memory of reverse words that nobody
    /// needs. Returns the bytes of storage given back. Errors are counted, and the segments can be used all the same. While the
    /// device [hangs](Self::is_hung) nothing is done.
    ///
    /// # Locks
    /// None across the system calls; [`Rank::Device`](crate::sync::Rank::Device) between them.
    pub fn maintain(&self) -> u64 {
        self.maintain_until(|| false)
    }

    /// The same, asking before each hole whether there is something better to do: a hole can take milliseconds.
    ///
    /// # Locks
    /// As [`maintain`](Self::maintain); none while `stop` is called.
    pub fn maintain_until(&self, stop: impl Fn() -> bool) -> u64 {
        assert_no_lock_held("punching holes");
        if self.protection.check_process().is_err() {
            return 0; // what is free here may be in use by the parent, whose device it is
        }
        self.settle();
        let segment_bytes = self.geometry.segment_bytes() as u64;
        let mut given_back = 0;
        // Who punches waits for the writes that are under way, and cannot give up: not while one is late.
        while !stop()
            && !self.is_hung()
            && let Some(hole) = self.segments.punch_next()
        {
            let bytes = hole.dirty_pages * self.geometry.page_bytes as u64;
            let range = u64::from(hole.segments.start) * segment_bytes..u64::from(hole.segments.end) * segment_bytes;
            let punching = Punching { segments: &self.segments, hole };
            // Relaxed: a maintainer that has not seen the flag yet asks the device once more.
            let result = if self.unpunchable.load(Ordering::Relaxed) {
                Err(io::ErrorKind::Unsupported.into())
            } else {
                self.device.punch(range)
            };
            match result {
                Ok(()) => given_back += bytes,
                Err(error) => {
                    self.unpunched_bytes.add(bytes);
                    if error.kind() == io::ErrorKind::Unsupported {
                        self.unpunchable.store(true, Ordering::Relaxed);
                    } else {
                        self.io_errors.add(1);
                    }
                }
            }
            drop(punching);
        }
        self.punched_bytes.add(given_back);
        given_back
    }

    /// The device's number in places.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Check the segments, and that no buffer is lost. Nobody may be reading or holding a batch.
    ///
    /// # Panics
    /// With a sentence, when an invariant is broken.
    pub fn assert_valid(&self) {
        self.segments.check();
        let pools = [(&self.write_buffers, "write"), (&self.read_buffers, "read"), (&self.segment_buffers, "segment")];
        for (buffers, kind) in pools {
            assert_eq!(buffers.free() + buffers.aside(), buffers.count(), "every {kind} buffer came back, or is aside");
        }
        let aside: usize = pools.iter().map(|(buffers, _)| buffers.aside()).sum();
        assert_eq!(aside, self.quarantine.len(), "those of late requests");
    }

    /// Call `f` with every live object and who has it, in device order. For checks at quiet points.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device), not across `f`.
    pub fn for_each(&self, mut f: impl FnMut(Place, Tenant)) {
        self.segments.for_each(|block, blocks, generation, tenant| {
            f(Place { device: self.number, block, blocks: blocks as u8, generation }, tenant);
        });
    }

    pub(super) fn device(&self) -> &dyn Device {
        &*self.device
    }

    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    pub(super) fn read_buffers(&self) -> &BufferPool {
        &self.read_buffers
    }

    pub(super) fn write_buffers(&self) -> &BufferPool {
        &self.write_buffers
    }

    pub(super) fn segment_buffers(&self) -> &BufferPool {
        &self.segment_buffers
    }

    pub(super) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// How its objects are protected.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    pub(super) fn count_written(&self, bytes: u64, purpose: Purpose) {
        self.written_bytes.add(bytes);
        if purpose == Purpose::Cleaning {
            self.cleaned_bytes.add(bytes);
        }
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.read_bytes.add(bytes);
    }

    /// Count a failed request and put it into words.
    pub(super) fn request_error(&self, op: Op, offset: u64, bytes: usize, failure: Failure) -> Error {
        let device = self.number;
        if failure.cause == Cause::Kind(io::ErrorKind::TimedOut) {
            let seconds = self.device.timeout().unwrap_or_default().as_secs_f32();
            return Error::TimedOut { device, op, offset, bytes, seconds };
        }
        self.io_errors.add(1);
        Error::Io { device, op, offset, bytes, done: failure.done, source: failure.cause.into() }
    }

    #[inline]
    fn assert_mine(&self, place: &Place) {
        assert_eq!(place.device, self.number, "{place:?} is on another device");
    }

    /// The pages of a place of this device, or of another of its number that was larger.
    pub(super) fn span(&self, place: &Place) -> std::ops::Range<usize> {
        self.assert_mine(place);
        assert!(
            place.blocks > 0 && place.len_bytes() <= Geometry::blocks_for(self.geometry.max_payload) * BLOCK_BYTES,
            "{place:?} has no length of an object"
        );
        let (first, per_page) = (place.block as usize, self.geometry.blocks_per_page());
        first / per_page..(first + usize::from(place.blocks) - 1) / per_page + 1
    }

    /// Whether the pages of a place are all on the device.
    pub(super) fn reaches(&self, place: &Place) -> bool {
        (self.span(place).end * self.geometry.page_bytes) as u64 <= self.device.len_bytes()
    }
}
