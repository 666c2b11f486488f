//! Frames of pool memory and locations in it.
//!
//! ```text
//! location (36 bits)   27 .................... 8 | 7 ......... 0
//!                      frame number (28 bits)    | 16-byte unit in the frame
//! ```

use std::fmt;

/// Size of a frame of pool memory in bytes.
pub const FRAME_SIZE: usize = 4096;

/// Objects start at multiples of this many bytes, so that 36 bits reach 1 TiB.
pub const LOCATION_UNIT: usize = 16;

const _: () = assert!(FRAME_SIZE.is_multiple_of(LOCATION_UNIT));

/// Number of a frame in the arena: its byte offset over [`FRAME_SIZE`]. Below 2^28.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u32);

impl Frame {
    /// Byte offset of the frame's first byte in the arena.
    #[inline]
    pub const fn offset(self) -> usize {
        self.0 as usize * FRAME_SIZE
    }
}

/// Where an object starts in the arena, in units of [`LOCATION_UNIT`] bytes. 36 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location(u64);

impl Location {
    /// Bits a location needs.
    pub const BITS: u32 = 36;

    /// The location at a byte offset of the arena.
    ///
    /// # Panics
    /// When the offset is no multiple of [`LOCATION_UNIT`] or above 1 TiB.
    #[inline]
    pub const fn from_offset(offset: usize) -> Self {
        assert!(offset.is_multiple_of(LOCATION_UNIT));
        Self::from_raw((offset / LOCATION_UNIT) as u64)
    }

    /// The location with this raw number of units.
    ///
    /// # Panics
    /// When it needs more than 36 bits.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        assert!(raw >> Self::BITS == 0);
        Location(raw)
    }

    /// Number of 16-byte units from the start of the arena.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Byte offset in the arena.
    #[inline]
    pub const fn offset(self) -> usize {
        self.0 as usize * LOCATION_UNIT
    }

    /// The frame the location lies in.
    #[inline]
    pub const fn frame(self) -> Frame {
        Frame((self.offset() / FRAME_SIZE) as u32)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.frame().0, self.offset() % FRAME_SIZE)
    }
}
