//! LZ4, by lz4_flex with its unsafe fast path.
//!
//! Measured over 10,859 pages of three real programs, ns per page, medians in one process (`benches/codec.rs` has the first
//! and the last column):
//!
//! | | compress | decompress | bytes |
//! |---|---:|---:|---:|
//! | fast path, a context's large table (what is used) | 4500 | 1610 | 18.86 M |
//! | fast path, a context's small table | 4730 | | 19.09 M |
//! | fast path, a small table allocated per call | 4750 | | 19.09 M |
//! | features `safe-encode`, `safe-decode`, large table | 5060 | 1710 | 18.86 M |
//! | memcpy, for scale | 145 | | |
//!
//! The large table has 4096 entries as well, but of 32 bits, and hashes five bytes instead of four.
//!
//! The fast path still checks every length and offset against both buffers; `safe-*` only replaces pointers by slices. The
//! property tests below feed it garbage between guard bytes, and Miri and the fuzz targets run it too.

use super::{Codec, CodecId, Compressed, Context, Corrupt};
use crate::units::PAGE_SIZE;
use lz4_flex::block::{self, CompressTable};

const NAME: &str = "lz4";

/// The LZ4 block format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lz4;

impl Lz4 {
    /// LZ4's id.
    pub const ID: CodecId = CodecId::new(1);
}

impl Codec for Lz4 {
    fn id(&self) -> CodecId {
        Self::ID
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c> {
        let (table, output) = context.tables(Self::ID, CompressTable::large);
        let len = block::compress_into_with_table(page, output, table).expect("the buffer has room for the worst case");
        Compressed::from_output(output, len)
    }

    #[inline]
    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        match block::decompress_into(bytes, out) {
            Ok(PAGE_SIZE) => Ok(()),
            Ok(unpacked) => Err(Corrupt::WrongLength { codec: NAME, unpacked }),
            Err(_) => Err(Corrupt::Malformed { codec: NAME, len: bytes.len() }),
        }
    }
}
