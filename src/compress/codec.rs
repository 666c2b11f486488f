//! [`Codec`]: one way to compress a page.

use super::{CodecId, Context, Corrupt};
use crate::units::PAGE_SIZE;

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
