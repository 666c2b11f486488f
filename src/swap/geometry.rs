//! The sizes a device is divided by: blocks, pages, batches, buffers.
//!
//! ```text
//!   block  64 bytes                what a place counts in; objects start at any block
//!   page   64 blocks               what is written as a whole
//!   batch  up to 64 pages          what is written in one request; as many pages as it can have are a segment, which is
//!                                  what is free or in use
//!
//!   | page 0                | page 1                | page 2                |
//!   +-------+---------+-----+-----+-------+---------+-------+---------------+
//!   | obj   | obj     | obj       | obj   | obj     | obj   | zeroes        |
//!   +-------+---------+-----------+-------+---------+-------+---------------+
//! ```
//!
//! Production uses [`Geometry::default`]; a model of the protocols uses pages of a few blocks, so that a device has a
//! few KiB.

use super::block::HEADER_BYTES;
use super::{Error, Place};

/// Bytes of a block: the 34 bits a place has for its block then reach 1 TiB, and an object wastes 32 bytes on average.
pub const BLOCK_BYTES: usize = 64;

/// Most pages of a batch: one 256 KiB request keeps any disk streaming, and a batch's bookkeeping fits in its struct.
pub const MAX_BATCH_PAGES: usize = 64;

/// Most blocks of an object: a raw page (4096 bytes), its header, and room for what a codec or a cipher adds.
pub const MAX_BLOCKS: usize = 66;

/// Most payload bytes of an object.
pub const MAX_PAYLOAD: usize = MAX_BLOCKS * BLOCK_BYTES - HEADER_BYTES;

/// Most bytes of a device: what the blocks of a [`Place`] can name.
pub const MAX_DEVICE_BYTES: u64 = (BLOCK_BYTES as u64) << Place::BLOCK_BITS;

const _: () = assert!(MAX_PAYLOAD >= crate::units::PAGE_SIZE);
const _: () = assert!(MAX_BLOCKS < 1 << Place::BLOCKS_BITS);
const _: () = assert!(MAX_BLOCKS <= MAX_BATCH_PAGES * crate::units::PAGE_SIZE / BLOCK_BYTES);

/// How an [`Area`](super::Area) divides its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a device page: a power of two, a multiple of [`BLOCK_BYTES`], at most 4096.
    pub page_bytes: usize,
    /// Pages of a batch at most: 1 to [`MAX_BATCH_PAGES`].
    pub batch_pages: usize,
    /// Payload bytes of an object at most: up to [`MAX_PAYLOAD`]; an object must fit in a batch.
    pub max_payload: usize,
    /// Buffers for batches, each of `batch_pages` pages: as many batches can be open at once.
    pub write_buffers: usize,
    /// Buffers for reads: as many reads can be under way at once.
    pub read_buffers: usize,
}

impl Default for Geometry {
    /// 4 KiB pages, 256 KiB batches; two batches (one fills while one is written) and 16 reads at a time: 704 KiB of
    /// buffers.
    fn default() -> Self {
        Geometry {
            page_bytes: 4096,
            batch_pages: MAX_BATCH_PAGES,
            max_payload: MAX_PAYLOAD,
            write_buffers: 2,
            read_buffers: 16,
        }
    }
}

impl Geometry {
    /// Blocks of a page.
    #[inline]
    pub const fn blocks_per_page(&self) -> usize {
        self.page_bytes / BLOCK_BYTES
    }

    /// Blocks that an object with this many payload bytes takes: header and payload, rounded up.
    #[inline]
    pub const fn blocks_for(payload: usize) -> usize {
        (HEADER_BYTES + payload).div_ceil(BLOCK_BYTES)
    }

    /// Pages of a batch that hold an object with this many payload bytes if it is the first.
    #[inline]
    pub const fn pages_for(&self, payload: usize) -> usize {
        Self::blocks_for(payload).div_ceil(self.blocks_per_page())
    }

    /// Bytes of a segment, and of a buffer for a batch.
    pub const fn segment_bytes(&self) -> usize {
        self.batch_pages * self.page_bytes
    }

    /// Bytes of a buffer for a read: the whole pages that the longest object touches when it starts at a page's last
    /// block.
    pub const fn read_buffer_bytes(&self) -> usize {
        (self.page_bytes - BLOCK_BYTES + Self::blocks_for(self.max_payload) * BLOCK_BYTES)
            .next_multiple_of(self.page_bytes)
    }

    /// Whether the sizes go together.
    ///
    /// # Errors
    /// [`Error::Geometry`] names the first that does not.
    pub fn check(&self) -> Result<(), Error> {
        let rules = [
            (
                "page_bytes",
                self.page_bytes,
                self.page_bytes.is_power_of_two() && (BLOCK_BYTES..=4096).contains(&self.page_bytes),
                "a power of two from 64 to 4096",
            ),
            ("batch_pages", self.batch_pages, (1..=MAX_BATCH_PAGES).contains(&self.batch_pages), "1 to 64"),
            (
                "max_payload",
                self.max_payload,
                self.max_payload <= MAX_PAYLOAD
                    && Self::blocks_for(self.max_payload) * BLOCK_BYTES <= self.segment_bytes(),
                "at most 4192, and an object of it must fit in a batch",
            ),
            ("write_buffers", self.write_buffers, self.write_buffers > 0, "at least 1"),
            ("read_buffers", self.read_buffers, self.read_buffers > 0, "at least 1"),
        ];
        match rules.into_iter().find(|&(_, _, good, _)| !good) {
            Some((field, value, _, rule)) => Err(Error::Geometry { field, value, rule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_geometry_is_the_documented_one() {
        let geometry = Geometry::default();
        geometry.check().unwrap();
        assert_eq!(geometry.segment_bytes(), 256 << 10);
        assert_eq!(geometry.read_buffer_bytes(), 12 << 10);
        assert_eq!(MAX_DEVICE_BYTES, 1 << 40);
    }

    #[test]
    fn a_read_buffer_holds_every_object_at_every_block() {
        let geometry = Geometry::default();
        for payload in 0..=geometry.max_payload {
            let bytes = Geometry::blocks_for(payload) * BLOCK_BYTES;
            assert!(bytes >= HEADER_BYTES + payload && bytes < HEADER_BYTES + payload + BLOCK_BYTES);
            for start in (0..4096).step_by(BLOCK_BYTES) {
                assert!((start + bytes).next_multiple_of(4096) <= geometry.read_buffer_bytes());
            }
        }
    }

    #[test]
    fn sizes_that_do_not_go_together_are_refused_by_name() {
        let good = Geometry::default();
        let bad = [
            (Geometry { page_bytes: 96, ..good }, "page_bytes"),
            (Geometry { page_bytes: 8192, ..good }, "page_bytes"),
            (Geometry { page_bytes: 32, ..good }, "page_bytes"),
            (Geometry { batch_pages: 0, ..good }, "batch_pages"),
            (Geometry { batch_pages: 65, ..good }, "batch_pages"),
            (Geometry { max_payload: MAX_PAYLOAD + 1, ..good }, "max_payload"),
            (Geometry { batch_pages: 1, max_payload: 4096, ..good }, "max_payload"),
            (Geometry { write_buffers: 0, ..good }, "write_buffers"),
            (Geometry { read_buffers: 0, ..good }, "read_buffers"),
        ];
        for (geometry, name) in bad {
            assert!(matches!(geometry.check(), Err(Error::Geometry { field, .. }) if field == name), "{geometry:?}");
        }
    }
}
