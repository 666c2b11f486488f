//! [`Place`]: where a block lies on a device, in 56 bits.

/// A block on a device.
///
/// ```text
/// | generation 10 | blocks 7 | block 34 | device 5 |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which device. Below 32.
    pub device: u8,
    /// First block of 64 bytes.
    pub block: u64,
    /// Blocks of 64 bytes.
    pub blocks: u8,
    /// Tells what lay here before apart.
    pub generation: u16,
}

impl Place {
    /// Bits of [`device`](Self::device).
    pub const DEVICE_BITS: u32 = 5;
    /// Bits of [`block`](Self::block): 1 TiB in blocks of 64 bytes.
    pub const BLOCK_BITS: u32 = 34;
    /// Bits of [`blocks`](Self::blocks).
    pub const BLOCKS_BITS: u32 = 7;
    /// Bits of [`generation`](Self::generation).
    pub const GENERATION_BITS: u32 = 10;

    /// As 56 bits.
    pub fn pack(self) -> u64 {
        u64::from(self.device)
            | self.block << Self::DEVICE_BITS
            | u64::from(self.blocks) << (Self::DEVICE_BITS + Self::BLOCK_BITS)
            | u64::from(self.generation) << (Self::DEVICE_BITS + Self::BLOCK_BITS + Self::BLOCKS_BITS)
    }

    /// From [`pack`](Self::pack).
    pub fn unpack(bits: u64) -> Self {
        let field = |shift: u32, bits_wide: u32| bits >> shift & ((1 << bits_wide) - 1);
        Place {
            device: field(0, Self::DEVICE_BITS) as u8,
            block: field(Self::DEVICE_BITS, Self::BLOCK_BITS),
            blocks: field(Self::DEVICE_BITS + Self::BLOCK_BITS, Self::BLOCKS_BITS) as u8,
            generation: field(Self::DEVICE_BITS + Self::BLOCK_BITS + Self::BLOCKS_BITS, Self::GENERATION_BITS) as u16,
        }
    }
}
