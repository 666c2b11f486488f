//! [`Place`]: where an object lies on which device. It fits in a slot word.
//!
//! ```text
//!  bit  55          46 45      39 38                  5 4      0
//!       +-------------+----------+---------------------+--------+
//!       |  generation |  blocks  |    block (64 bytes) | device |
//!       +-------------+----------+---------------------+--------+
//! ```

use super::geometry::BLOCK_BYTES;
use std::fmt;

/// Where an object lies: a run of 64-byte blocks of a device, and which use of those blocks it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Number of the device, below 2^5.
    pub device: u8,
    /// The first block, counted from the first byte the device lends; below 2^34.
    pub block: u64,
    /// Blocks, header and padding included: 1 to 66.
    pub blocks: u8,
    /// How often the page of the first block had been handed out, modulo 2^10: a block of an earlier use is seen to be
    /// old.
    pub generation: u16,
}

impl Place {
    /// Bits of the device number.
    pub const DEVICE_BITS: u32 = 5;
    /// Bits of the first block.
    pub const BLOCK_BITS: u32 = 34;
    /// Bits of the count of blocks.
    pub const BLOCKS_BITS: u32 = 7;
    /// Bits of the generation.
    pub const GENERATION_BITS: u32 = 10;
    /// All bits: what a slot word keeps for it.
    pub const BITS: u32 = Self::DEVICE_BITS + Self::BLOCK_BITS + Self::BLOCKS_BITS + Self::GENERATION_BITS;
    /// Generations before they come round.
    pub const GENERATIONS: u16 = 1 << Self::GENERATION_BITS;

    /// First byte on the device.
    #[inline]
    pub const fn offset_bytes(&self) -> u64 {
        self.block * BLOCK_BYTES as u64
    }

    /// Bytes on the device, header and padding included.
    #[inline]
    pub const fn len_bytes(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }

    /// As it lies in a slot word.
    pub(super) fn pack(self) -> u64 {
        let mut bits = u64::from(self.generation);
        bits = bits << Self::BLOCKS_BITS | u64::from(self.blocks);
        bits = bits << Self::BLOCK_BITS | self.block;
        bits << Self::DEVICE_BITS | u64::from(self.device)
    }

    pub(super) fn unpack(mut bits: u64) -> Self {
        let mut field = |width: u32| {
            let value = bits & ((1 << width) - 1);
            bits >>= width;
            value
        };
        let device = field(Self::DEVICE_BITS) as u8;
        let block = field(Self::BLOCK_BITS);
        let blocks = field(Self::BLOCKS_BITS) as u8;
        Place { device, block, blocks, generation: field(Self::GENERATION_BITS) as u16 }
    }
}

const _: () = assert!(Place::BITS == 56);

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} block {}+{} generation {}", self.device, self.block, self.blocks, self.generation)
    }
}
