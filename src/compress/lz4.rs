//! LZ4: an encoder of our own for pages (`encoder.rs`), and lz4_flex's decoder with its unsafe fast path.
//!
//! Measured over 47,241 pages of three real programs (python, node, java), ns per page in random order, medians in one process, pages in
//! turns, the machine shared:
//!
//! | compress | python | node | java | bytes |
//! |---|---:|---:|---:|---:|
//! | the encoder for pages (what is used) | 5929 | 4447 | 4257 | 72.71 M |
//! | lz4_flex, a large table kept in the context | 6590 | 4787 | 4647 | 72.51 M |
//! | the former, matches also extended backwards | 6139 | 4537 | 4377 | 72.46 M |
//! | only words of 6 bytes, not even half of the positions learned | 5539 | 4046 | 4016 | 73.58 M |
//!
//! The last two are unchecked prototypes. Decoding, an earlier measurement: lz4_flex's fast path 1610 ns, with its feature `safe-decode` 1710; a
//! decoder of our own for pages won 2 to 6 percent, which is not worth its unsafe code.
//!
//! lz4_flex's fast path still checks every length and offset against both buffers. Property tests feed it garbage between guard bytes, and
//! Miri and the fuzz targets run it too.

mod encoder;

use super::{Codec, CodecId, Compressed, Context, Corrupt};
use crate::units::PAGE_SIZE;
use encoder::Positions;
use lz4_flex::block;

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
        let (positions, output) = context.tables(Self::ID, Positions::new);
        match encoder::compress(page, output, positions) {
            Some(len) => Compressed::from_output(output, len),
            None => Compressed::Incompressible,
        }
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
