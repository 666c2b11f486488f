//! [`CodecId`]: what is kept of a codec beside what it wrote.

use std::fmt;

/// Which codec wrote an object. Below 16, for the words that keep it have four bits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodecId(u8);

impl CodecId {
    /// Ids there are.
    pub const COUNT: usize = 16;

    /// Not a codec: the page is kept as it is.
    pub const RAW: CodecId = CodecId(0);

    /// The id with this number.
    ///
    /// # Panics
    /// When it is 16 or more; ids are constants of the program.
    pub const fn new(id: u8) -> Self {
        assert!((id as usize) < Self::COUNT, "codec ids have four bits");
        CodecId(id)
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The id in the low four bits of `bits`; the others are not looked at.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        CodecId((bits & (Self::COUNT as u64 - 1)) as u8)
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
