//! [`Codec`]: one way to compress a page.

use super::{Context, Corrupt};
use crate::units::PAGE_SIZE;
use std::fmt;

/// Which codec wrote an object. Below 16, for entries and slot words keep it in four bits.
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

/// What became of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Compressed<'c> {
    /// Fewer bytes than the page, at least one. They lie in the context.
    Bytes(&'c [u8]),
    /// The page does not shrink: keep it raw.
    Incompressible,
}

impl<'c> Compressed<'c> {
    /// The first `len` bytes of `output` if that is less than a page.
    #[inline]
    pub fn from_output(output: &'c [u8], len: usize) -> Self {
        debug_assert!(len > 0, "a codec wrote nothing");
        if len < PAGE_SIZE { Compressed::Bytes(&output[..len]) } else { Compressed::Incompressible }
    }
}

/// One way to compress a page. Stateless: what a compression needs lies in the [`Context`].
pub trait Codec: Send + Sync {
    /// Its id, the same for ever: it is written to swapfiles.
    fn id(&self) -> CodecId;

    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Compress `page`. May allocate, in `context` only and at most once per context. Called under no lock.
    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c>;

    /// Unpack `bytes` into `out`. Must not allocate, touch thread-locals, take locks or panic, whatever the bytes: it runs in
    /// fault handlers, on bytes from devices. After an error `out` holds anything.
    ///
    /// # Errors
    /// When the bytes are not exactly one page compressed by this codec.
    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt>;
}
