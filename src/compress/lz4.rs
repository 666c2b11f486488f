//! LZ4: lz4_flex compresses, with its unsafe fast path; the reference decoder of the LZ4 project unpacks.
//!
//! Measured over 10,859 pages of three real programs, ns per page, medians in one process (`benches/codec.rs` has the first line and the
//! last):
//!
//! | compress | | bytes |
//! |---|---:|---:|
//! | lz4_flex's fast path, a context's large table (what is used) | 4500 | 18.86 M |
//! | fast path, a context's small table | 4730 | 19.09 M |
//! | fast path, a small table allocated per call | 4750 | 19.09 M |
//! | features `safe-encode`, `safe-decode`, large table | 5060 | 18.86 M |
//! | memcpy, for scale | 145 | |
//!
//! The large table has 4096 entries as well, but of 32 bits, and hashes five bytes instead of four. The reference encoder is as quick, and
//! its output 0.7 percent larger.
//!
//! A decoder copies *overlapping* matches where a page repeats a byte, or a word: most of a page that is nearly empty. lz4_flex copies those byte
//! by byte, each waiting for the one before: 11 to 19 us for a page of 128 bytes and zeroes, where the reference decoder takes 0.2, or 6 where
//! the encoder found the zeroes again 9 to 15 bytes before (a copy of 8 bytes then waits for two earlier ones); a page of a repeated
//! word 1.1 and 0.2 us. (`safe-decode`: 0.06 and 7.7.) Over the real pages it takes 0.6 to 0.9 of lz4_flex's time. In turns, on a busy machine.
//!
//! Both check every length and offset against both buffers. The property tests below feed the decoder garbage between guard bytes, and the
//! fuzz targets run it too; under Miri, which runs no C, lz4_flex decodes.

use super::{Codec, CodecId, Compressed, Context, Corrupt};
use crate::units::PAGE_SIZE;
use lz4_flex::block::{self, CompressTable};
#[cfg(not(miri))]
use lz4_sys::LZ4_decompress_safe;

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
        match unpack(bytes, out) {
            Some(PAGE_SIZE) => Ok(()),
            Some(unpacked) => Err(Corrupt::WrongLength { codec: NAME, unpacked }),
            None => Err(Corrupt::Malformed { codec: NAME, len: bytes.len() }),
        }
    }
}

/// Unpack a block; how many bytes that were, `None` where it is not one, or does not fit.
#[cfg(not(miri))]
#[inline]
fn unpack(bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Option<usize> {
    let len = i32::try_from(bytes.len()).ok()?;
    // SAFETY: it reads no more than `len` bytes from the one and writes no more than a page into the other, whatever the bytes.
    let unpacked =
        unsafe { LZ4_decompress_safe(bytes.as_ptr().cast(), out.as_mut_ptr().cast(), len, PAGE_SIZE as i32) };
    usize::try_from(unpacked).ok()
}

#[cfg(miri)]
fn unpack(bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Option<usize> {
    block::decompress_into(bytes, out).ok()
}
