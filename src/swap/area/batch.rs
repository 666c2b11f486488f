//! [`Batch`]: objects packed into one run of pages of a segment, written in one request.
//!
//! ```text
//!   buffer  | object | object     | object | zeroes |            |
//!           +--------+------------+--------+--------+------------+
//!   extent  |  page 0   |  page 1   |  page 2       |  page 3    |
//!           +-----------+-----------+---------------+------------+
//!            <--------- written in one request ----> <- given back
//! ```
//!
//! 1. A batch has one write buffer and the tail of one segment, until it is written or dropped.
//! 2. Its places name objects only once `write` has returned `Ok`; until then they are promises. Before that, the reverse words
//!    are installed: whoever sees a place in a slot word finds its reverse word.
//! 3. Whatever happens, each page of the extent is given back, or lies before the segment's append point.

use super::Area;
use crate::swap::block::{HEADER_BYTES, Label, seal};
use crate::swap::buffer::Lease;
use crate::swap::device::{Cause, Op};
use crate::swap::geometry::{BLOCK_BYTES, Geometry};
use crate::swap::rmap::{Rmap, Tenant};
use crate::swap::segments::{Extent, Purpose};
use crate::swap::{Error, Place};
use crate::sync::assert_no_lock_held;

/// Objects on their way to a device.
#[derive(Debug)]
pub struct Batch<'a> {
    area: &'a Area,
    /// The write buffer.
    lease: Lease<'a>,
    /// `None` once its pages went elsewhere.
    extent: Option<Extent>,
    /// Pages that the device was asked to write.
    tried: usize,
    purpose: Purpose,
    /// Number of the batch: for people who look at a damaged file.
    number: u64,
    /// The first block of the device that is the batch's.
    first_block: u64,
    /// Blocks of the extent.
    capacity_blocks: usize,
    /// Blocks filled so far.
    filled: usize,
    /// Payload bytes so far.
    payload: u64,
    /// Reverse words of the objects, in order.
    words: Vec<u64>,
}

/// What a batch wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Objects.
    pub objects: u64,
    /// Payload bytes of the objects.
    pub payload_bytes: u64,
    /// Bytes of the pages written, headers and padding included.
    pub device_bytes: u64,
}

// === impl Batch ===

impl<'a> Batch<'a> {
    pub(super) fn new(area: &'a Area, lease: Lease<'a>, extent: Extent, purpose: Purpose, number: u64) -> Self {
        let geometry = area.geometry();
        let first_page = u64::from(extent.segment) * geometry.batch_pages as u64 + extent.first as u64;
        Batch {
            first_block: first_page * geometry.blocks_per_page() as u64,
            capacity_blocks: extent.pages * geometry.blocks_per_page(),
            area,
            lease,
            extent: Some(extent),
            tried: 0,
            purpose,
            number,
            filled: 0,
            payload: 0,
            words: Vec::new(),
        }
    }

    /// The device it goes to.
    pub fn area(&self) -> &'a Area {
        self.area
    }

    /// Objects in it.
    pub fn objects(&self) -> u64 {
        self.words.len() as u64
    }

    /// Whether an object with this many payload bytes fits.
    pub fn fits(&self, len: usize) -> bool {
        self.filled + Geometry::blocks_for(len) <= self.capacity_blocks
    }

    /// Add an object of `len` payload bytes for `slot`; `fill` writes them (they are zeroes before). `None` when it
    /// does not fit any more; then nothing is called or changed. `tenant` says who has the object, and who pays for its place.
    ///
    /// If `fill` panics the object is not in the batch.
    ///
    /// # Panics
    /// When the object is longer than the geometry's `max_payload`, or a number of the tenant is too large.
    pub fn push(
        &mut self,
        slot: u64,
        label: Label,
        tenant: Tenant,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Option<Place> {
        let geometry = self.area.geometry();
        assert!(len <= geometry.max_payload, "an object of {len} bytes, where {} is the most", geometry.max_payload);
        if !self.fits(len) {
            return None;
        }
        let extent = self.extent.as_ref().expect("a batch has its extent until it is written");
        let (start, blocks) = (self.filled, Geometry::blocks_for(len));
        let place = Place {
            device: self.area.number(),
            block: self.first_block + start as u64,
            blocks: blocks as u8,
            generation: extent.generation,
        };
        let word = tenant.word(extent.first * geometry.blocks_per_page() + start + blocks - 1);
        let block = &mut self.lease[start * BLOCK_BYTES..(start + blocks) * BLOCK_BYTES];
        // The buffer holds earlier batches: nothing of them may reach the device under another's slot.
        block.fill(0);
        fill(&mut block[HEADER_BYTES..HEADER_BYTES + len]);
        seal(block, self.area.protection(), &place, slot, label, self.number, len);
        self.words.push(word);
        self.filled += blocks;
        self.payload += len as u64;
        Some(place)
    }

    /// Write the pages that have objects, in one request, and give the others back. From `Ok` on every place is an
    /// object with its reverse word, to be freed by [`Area::free`] on its own. An empty batch writes nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing of the batch is an object, all its pages are given back, and the error is counted. A segment where
    /// a write failed with an I/O error takes no more batches, and is not used again once it is empty. [`Error::TimedOut`]: the
    /// same, but that the segment takes no batch before the device is through with the write. [`Error::Forked`] in a
    /// child of fork.
    ///
    /// # Locks
    /// None held across the write; [`Rank::Device`](crate::sync::Rank::Device) after it.
    pub fn write(mut self) -> Result<Written, Error> {
        assert_no_lock_held("writing a batch");
        if self.words.is_empty() {
            return Ok(Written::default());
        }
        self.area.protection().check_process()?;
        let page_bytes = self.area.geometry().page_bytes;
        let pages = (self.filled * BLOCK_BYTES).div_ceil(page_bytes);
        let len = pages * page_bytes;
        self.lease[self.filled * BLOCK_BYTES..len].fill(0);

        let offset = self.first_block * BLOCK_BYTES as u64;
        self.tried = pages;
        let result = self.area.run_write(offset, len, &mut self.lease, &mut self.extent);

        let Some(extent) = self.extent.take() else {
            let failure = result.expect_err("the extent is in quarantine because the write is late");
            return Err(self.area.request_error(Op::Write, offset, len, failure));
        };
        match result {
            Ok(()) => {
                // Whoever frees an object of the segment waits for the lock, so room is made outside it; nobody else adds words
                // to a segment that this batch has.
                let room = Rmap::room(extent.objects + self.words.len());
                self.area.segments().commit(extent, pages, &self.words, self.filled, room);
                self.area.count_written(len as u64, self.purpose);
                Ok(Written { objects: self.objects(), payload_bytes: self.payload, device_bytes: len as u64 })
            }
            Err(failure) => {
                // A bad place on the disk would fail the next batch too; lack of space says nothing about the place.
                let bad = failure.cause == Cause::Os(libc::EIO);
                self.area.segments().give_back_failed(extent, pages, bad);
                Err(self.area.request_error(Op::Write, offset, len, failure))
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some(extent) = self.extent.take() {
            match self.tried {
                0 => self.area.segments().give_back(extent),
                // The device has panicked: some of it may be written.
                pages => self.area.segments().give_back_failed(extent, pages, false),
            }
        }
    }
}
