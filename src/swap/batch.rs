//! [`Batch`]: objects packed into one run of pages, written in one request.
//!
//! ```text
//!   buffer  | object | object     | object | zeroes |            |
//!           +--------+------------+--------+--------+------------+
//!   extent  |  page 0   |  page 1   |  page 2       |  page 3    |
//!           +-----------+-----------+---------------+------------+
//!            <--------- written in one request ----> <- given back
//! ```
//!
//! 1. A batch has one write buffer and one extent of held pages, until it is written or dropped.
//! 2. Its places name objects only once `write` has returned `Ok`; until then they are promises.
//! 3. Whatever happens, each page of the extent is given back, or touched by the objects that were written.

use super::area::Area;
use super::block::{HEADER_BYTES, Label, seal};
use super::buffer::Lease;
use super::device::{Cause, Op};
use super::geometry::{BLOCK_BYTES, Geometry, MAX_BATCH_PAGES};
use super::space::{Contents, Extent};
use super::{Error, Place};
use crate::sync::assert_no_lock_held;

/// Objects on their way to a device.
#[derive(Debug)]
pub struct Batch<'a> {
    area: &'a Area,
    /// The write buffer.
    lease: Lease<'a>,
    /// `None` once its pages went elsewhere.
    extent: Option<Extent>,
    /// Number of the batch.
    number: u64,
    /// Blocks of the extent.
    capacity_blocks: usize,
    /// Blocks filled so far.
    filled: usize,
    /// Payload bytes so far.
    payload: u64,
    contents: Contents,
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
    pub(super) fn new(area: &'a Area, lease: Lease<'a>, extent: Extent, number: u64) -> Self {
        Batch {
            capacity_blocks: extent.pages * area.geometry().blocks_per_page(),
            area,
            lease,
            extent: Some(extent),
            number,
            filled: 0,
            payload: 0,
            contents: Contents { touching: [0; MAX_BATCH_PAGES], objects: 0, blocks: 0 },
        }
    }

    /// Objects in it.
    pub fn objects(&self) -> u64 {
        self.contents.objects
    }

    /// Whether an object with this many payload bytes fits.
    pub fn fits(&self, len: usize) -> bool {
        self.filled + Geometry::blocks_for(len) <= self.capacity_blocks
    }

    /// Add an object of `len` payload bytes for `slot`; `fill` writes them (they are zeroes before). `None` when it
    /// does not fit any more, and `fill` was not called.
    ///
    /// # Panics
    /// When `len` is above the geometry's `max_payload`.
    pub fn push(&mut self, slot: u64, codec: u8, flags: u8, len: usize, fill: impl FnOnce(&mut [u8])) -> Option<Place> {
        let geometry = *self.area.geometry();
        assert!(len <= geometry.max_payload, "an object of {len} bytes, where {} are the most", geometry.max_payload);
        if !self.fits(len) {
            return None;
        }
        let extent = self.extent.as_ref().expect("a batch has its extent until it is written");
        let (start, blocks) = (self.filled, Geometry::blocks_for(len));
        let pages = start / geometry.blocks_per_page()..(start + blocks - 1) / geometry.blocks_per_page() + 1;
        let place = Place {
            device: self.area.number(),
            block: (extent.first * geometry.blocks_per_page() + start) as u64,
            blocks: blocks as u8,
            generation: extent.generations[pages.start],
        };
        let block = &mut self.lease[start * BLOCK_BYTES..(start + blocks) * BLOCK_BYTES];
        // The buffer holds earlier batches: nothing of them may reach the device under another's slot.
        block.fill(0);
        fill(&mut block[HEADER_BYTES..HEADER_BYTES + len]);
        let label = Label { codec, flags, node: 0 };
        seal(block, self.area.protection(), &place, slot, label, self.number, len);
        for page in pages {
            self.contents.touching[page] += 1;
        }
        self.contents.objects += 1;
        self.contents.blocks += blocks as u64;
        self.filled += blocks;
        self.payload += len as u64;
        Some(place)
    }

    /// Write the pages that have objects, in one request, and give the others back. From `Ok` on every place is an
    /// object, to be freed by [`Area::free`] on its own. An empty batch writes nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing of the batch is an object, all its pages are given back (one that failed with an I/O
    /// error is not used again), and the error is counted. [`Error::TimedOut`]: the same, but that its pages are not used
    /// before the device is through with the write. [`Error::Forked`] in a
    /// child of fork.
    ///
    /// # Locks
    /// None held across the write; [`Rank::Device`](crate::sync::Rank::Device) after it.
    pub fn write(mut self) -> Result<Written, Error> {
        assert_no_lock_held("writing a batch");
        if self.filled == 0 {
            return Ok(Written::default());
        }
        self.area.protection().check_process()?;
        let page_bytes = self.area.geometry().page_bytes;
        let pages = (self.filled * BLOCK_BYTES).div_ceil(page_bytes);
        let len = pages * page_bytes;
        self.lease[self.filled * BLOCK_BYTES..len].fill(0);

        let first = self.extent.as_ref().expect("a batch has its extent until it is written").first;
        let offset = (first * page_bytes) as u64;
        let result = self.area.run_write(offset, len, &mut self.lease, &mut self.extent);

        let Some(extent) = self.extent.take() else {
            let failure = result.expect_err("the extent is in quarantine because the write is late");
            return Err(self.area.request_error(Op::Write, offset, len, failure));
        };
        match result {
            Ok(()) => {
                self.area.space().commit(&extent, &self.contents);
                self.area.count_written(len as u64);
                Ok(Written { objects: self.contents.objects, payload_bytes: self.payload, device_bytes: len as u64 })
            }
            Err(failure) => {
                // A bad place on the disk would fail the next batch too; lack of space says nothing about the page.
                let bad =
                    (failure.cause == Cause::Os(libc::EIO)).then(|| first + failure.done.min(len - 1) / page_bytes);
                self.area.space().give_back_failed(&extent, pages, bad);
                Err(self.area.request_error(Op::Write, offset, len, failure))
            }
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if let Some(extent) = self.extent.take() {
            self.area.space().give_back(&extent);
        }
    }
}
