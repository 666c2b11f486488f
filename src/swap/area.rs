//! [`Area`]: a device with its map of free pages, its buffers and its counters.
//!
//! ```text
//!   begin -> Batch: push, push, ... write -> places        one request, up to 256 KiB
//!   read(place, slot)  -> verified object, or an error     one request, up to 12 KiB
//!   free(place)        -> its pages, when nobody else is on them
//!   maintain()         -> holes where free pages were written
//! ```
//!
//! 1. An object is never taken for another: `read` verifies that it is what was written for the slot at the place, by a
//!    seal or a checksum (see [`Protection`]).
//! 2. No lock is held across I/O.
//! 3. `read` and `free` neither allocate nor deallocate; `free` makes no system call but for a contended lock.
//!
//! The area does not know what slots mean, nor whether a place is still wanted: a read that races with the free of its
//! place finds an object or a flaw, and the caller looks at its slot word again before it believes either.

use super::batch::Batch;
use super::block::{ObjectRef, open};
use super::buffer::BufferPool;
use super::device::{Device, Failure, Op};
use super::geometry::{BLOCK_BYTES, Geometry, MAX_DEVICE_BYTES};
use super::quarantine::Quarantine;
use super::space::Space;
use super::{Error, Place, Protection};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Planted, Tally, assert_no_lock_held};
use std::io;

/// A device and what is on it.
///
/// ```
/// use zspool::swap::{Area, Geometry, MemoryDevice};
///
/// let area = Area::new(Box::new(MemoryDevice::new(1 << 20, 4096)), 0, Geometry::default())?;
/// let mut batch = area.begin(64)?;
/// let place = batch.push(7, 1, 0, 5, |bytes| bytes.copy_from_slice(b"hello")).expect("an empty batch has room");
/// batch.write()?;
/// assert_eq!(area.read(place, 7, |object| object.bytes.to_vec())?, b"hello");
/// area.free(place);
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
    space: Space,
    write_buffers: BufferPool,
    read_buffers: BufferPool,
    /// Requests that the device has not answered in time.
    quarantine: Quarantine,
    /// Number of the next batch.
    next_batch: AtomicU64,
    /// The device said that it cannot punch. Set once.
    unpunchable: AtomicBool,
    // Counters, each exact; nothing is ordered by them.
    written_bytes: Tally,
    read_bytes: Tally,
    io_errors: Tally,
    corrupt: Tally,
    punched_bytes: Tally,
    unpunched_bytes: Tally,
}

/// What an area holds and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AreaStats {
    /// Bytes of all pages.
    pub size_bytes: u64,
    /// Bytes of pages that objects touch or an open batch holds.
    pub used_bytes: u64,
    /// Bytes of the blocks of live objects, headers and padding included.
    pub live_bytes: u64,
    /// Live objects.
    pub objects: u64,
    /// Bytes of pages that are not used again.
    pub bad_bytes: u64,
    /// Bytes of free pages that `maintain` would punch.
    pub punchable_bytes: u64,
    /// Bytes written, ever.
    pub written_bytes: u64,
    /// Bytes read, ever.
    pub read_bytes: u64,
    /// Requests and punches that failed, ever.
    pub io_errors: u64,
    /// Objects that were found not to be what was written, ever (see [`Area::blame`]).
    pub corrupt: u64,
    /// Bytes whose storage was given back, ever.
    pub punched_bytes: u64,
    /// Bytes whose storage was to be given back and was not, ever: the device cannot, or failed.
    pub unpunched_bytes: u64,
    /// Bytes of pages that a late write may yet reach.
    pub quarantined_bytes: u64,
    /// Requests that the device has not answered in time, ever.
    pub timeouts: u64,
}

// === impl Area ===

impl Area {
    /// An empty area over all of `device`, whose number in places is `number`, protected by the default of
    /// [`Protection::new`]. What the device holds is not looked at.
    ///
    /// # Errors
    /// [`Error::Geometry`], [`Error::Alignment`], [`Error::DeviceNumber`], [`Error::TooLarge`], [`Error::TooSmall`]
    /// when the device has no room for a batch; [`Error::Key`].
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
        let (size, least) = (device.len_bytes(), geometry.write_buffer_bytes() as u64);
        if size > MAX_DEVICE_BYTES {
            return Err(Error::TooLarge { size, most: MAX_DEVICE_BYTES });
        }
        if size < least {
            return Err(Error::TooSmall { size, least });
        }
        Ok(Area {
            space: Space::new((size / page as u64) as usize, geometry.blocks_per_page()),
            write_buffers: BufferPool::new(geometry.write_buffers, geometry.write_buffer_bytes()),
            read_buffers: BufferPool::new(geometry.read_buffers, geometry.read_buffer_bytes()),
            quarantine: Quarantine::new(geometry.write_buffers + geometry.read_buffers, planted),
            device,
            number,
            geometry,
            protection,
            next_batch: AtomicU64::new(0),
            unpunchable: AtomicBool::new(false),
            written_bytes: Tally::new(),
            read_bytes: Tally::new(),
            io_errors: Tally::new(),
            corrupt: Tally::new(),
            punched_bytes: Tally::new(),
            unpunched_bytes: Tally::new(),
        })
    }

    /// A batch with a buffer and a run of up to `most` free pages; shorter where the device is fragmented. Waits for a
    /// buffer, so a thread has one batch at a time.
    ///
    /// A batch of a single page has no room for an object of more than 63 blocks' payload: see
    /// [`begin_at_least`](Self::begin_at_least).
    ///
    /// # Errors
    /// [`Error::Full`] when no page is free; [`Error::Forked`], [`Error::NoncesExhausted`] when nothing may be sealed.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers), then [`Rank::Device`](crate::sync::Rank::Device).
    pub fn begin(&self, most: usize) -> Result<Batch<'_>, Error> {
        self.begin_at_least(1, most)
    }

    /// The same with `least` pages at least, so that an object that needs them fits (two hold any).
    ///
    /// # Errors
    /// [`Error::Full`] when there is no run of `least` free pages, [`Error::Hung`] while the device does not answer.
    ///
    /// # Locks
    /// As [`begin`](Self::begin).
    pub fn begin_at_least(&self, least: usize, most: usize) -> Result<Batch<'_>, Error> {
        assert_no_lock_held("waiting for a write buffer");
        self.protection.check()?;
        let most = most.clamp(1, self.geometry.batch_pages);
        let least = least.clamp(1, most);
        let lease = self.write_lease()?;
        let Some(extent) = self.space.take(least, most) else {
            let stats = self.space.stats();
            let bytes = |pages: usize| (pages * self.geometry.page_bytes) as u64;
            return Err(Error::Full {
                device: self.number,
                wanted: least,
                used: bytes(stats.pages - stats.free),
                size: bytes(stats.pages),
            });
        };
        Ok(Batch::new(self, lease, extent, self.next_batch.fetch_add(1, Ordering::Relaxed)))
    }

    /// Read the object of `slot` at `place`, verify it, and hand it to `f`. Waits for a buffer. No allocation.
    ///
    /// `f` runs with a read buffer in hand, so it must not read from this area nor touch memory whose faults do.
    ///
    /// # Errors
    /// [`Error::Io`] when the device fails (counted), [`Error::TimedOut`] and [`Error::Hung`] when it does not answer, which
    /// says nothing about the object, [`Error::Corrupt`] when the bytes are not those that were written
    /// there for that slot. A caller that races with frees looks at its slot word again, and calls
    /// [`blame`](Self::blame) if the word is unchanged.
    ///
    /// # Panics
    /// When the place is not on this device.
    ///
    /// # Locks
    /// [`Rank::Buffers`](crate::sync::Rank::Buffers), not across the read.
    pub fn read<R>(&self, place: Place, slot: u64, f: impl FnOnce(ObjectRef<'_>) -> R) -> Result<R, Error> {
        assert_no_lock_held("reading from a device");
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

    /// A read of `place` failed with `error` and the slot word still names the place: it counts, and the pages are not
    /// used again once their objects are gone.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn blame(&self, place: Place, error: &Error) {
        match error {
            Error::Corrupt { .. } => _ = self.corrupt.add(1),
            Error::Io { op: Op::Read, .. } => {}
            _ => return,
        }
        self.space.condemn(&place);
    }

    /// The object at `place` is not wanted any more. No allocation, no I/O.
    ///
    /// # Panics
    /// When it was freed before.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn free(&self, place: Place) {
        self.span(&place);
        self.space.release(&place);
    }

    /// Punch holes where free pages still have storage behind them; returns the bytes given back. Errors are counted,
    /// and the pages can be used all the same.
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
        self.settle();
        let mut given_back = 0;
        let mut at = 0;
        while !stop()
            && let Some(run) = self.space.punch_next(at)
        {
            at = run.end;
            let page_bytes = self.geometry.page_bytes as u64;
            let bytes = run.len() as u64 * page_bytes;
            // Relaxed: a maintainer that has not seen the flag yet asks the device once more.
            let result = if self.unpunchable.load(Ordering::Relaxed) {
                Err(io::ErrorKind::Unsupported.into())
            } else {
                self.device.punch(run.start as u64 * page_bytes..run.end as u64 * page_bytes)
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
            self.space.punched(run);
        }
        self.punched_bytes.add(given_back);
        given_back
    }

    /// The counters. Those of space are of one instant.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn stats(&self) -> AreaStats {
        let space = self.space.stats();
        let bytes = |pages: usize| (pages * self.geometry.page_bytes) as u64;
        let count = Tally::get;
        AreaStats {
            size_bytes: bytes(space.pages),
            used_bytes: bytes(space.held + space.occupied),
            live_bytes: space.live_blocks * BLOCK_BYTES as u64,
            objects: space.objects,
            bad_bytes: bytes(space.bad),
            punchable_bytes: bytes(space.unpunched),
            written_bytes: count(&self.written_bytes),
            read_bytes: count(&self.read_bytes),
            io_errors: count(&self.io_errors),
            corrupt: count(&self.corrupt),
            punched_bytes: count(&self.punched_bytes),
            unpunched_bytes: count(&self.unpunched_bytes),
            quarantined_bytes: bytes(self.quarantine.pages()),
            timeouts: self.quarantine.timeouts(),
        }
    }

    /// How the device is used, for people.
    pub fn describe(&self) -> String {
        let holes = if self.unpunchable.load(Ordering::Relaxed) { ", which cannot give storage back" } else { "" };
        format!("{}, {}{holes}", self.device.describe(), self.protection)
    }

    /// The device's number in places.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Check the map of space, and that no buffer is lost. Nobody may be reading or holding a batch.
    ///
    /// # Panics
    /// With a sentence, when an invariant is broken.
    pub fn assert_valid(&self) {
        self.space.assert_valid();
        for (buffers, kind) in [(&self.write_buffers, "write"), (&self.read_buffers, "read")] {
            assert_eq!(buffers.free() + buffers.aside(), buffers.count(), "every {kind} buffer came back, or is aside");
        }
        assert_eq!(
            self.write_buffers.aside() + self.read_buffers.aside(),
            self.quarantine.len(),
            "those of late requests"
        );
        assert_eq!(self.space.stats().held, self.quarantine.pages(), "no batch is open");
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

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    /// How its objects are protected.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.written_bytes.add(bytes);
    }

    /// Count a failed request and put it into words.
    pub(super) fn io_error(&self, op: Op, offset: u64, bytes: usize, failure: Failure) -> Error {
        self.io_errors.add(1);
        Error::Io { device: self.number, op, offset, bytes, done: failure.done, source: failure.cause.into() }
    }

    /// The pages of a place of this device.
    fn span(&self, place: &Place) -> std::ops::Range<usize> {
        assert_eq!(place.device, self.number, "{place:?} is on another device");
        assert!(
            place.blocks > 0 && place.len_bytes() <= Geometry::blocks_for(self.geometry.max_payload) * BLOCK_BYTES,
            "{place:?} has no length of an object"
        );
        let span = self.space.pages_of(place);
        assert!((span.end * self.geometry.page_bytes) as u64 <= self.device.len_bytes(), "{place:?} is outside");
        span
    }
}
