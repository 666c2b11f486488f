//! [`Tagged`]: a codec for models and fuzzing, where LZ4's loops would cost minutes.
//!
//! ```text
//! byte   0      1 .............. 16 * tag
//!      +-----+---------------------------+
//!      | tag |  the page's first bytes   |   the rest of the page is zero
//!      +-----+---------------------------+
//! ```

use super::{Codec, CodecId, Compressed, Context, Corrupt};
use crate::units::PAGE_SIZE;

const NAME: &str = "tagged";

/// The tag counts these, so that one byte is enough for all of a page but its last unit.
const UNIT: usize = 16;

/// Strips trailing zeroes; one byte says how many 16-byte units are left. Cheap, no tables; not for real use.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Tagged;

impl Tagged {
    /// Its id, the last one.
    pub const ID: CodecId = CodecId::new(15);
}

impl Codec for Tagged {
    fn id(&self) -> CodecId {
        Self::ID
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c> {
        let (units, _) = page.as_chunks::<UNIT>();
        let kept = units.iter().rposition(|unit| u128::from_ne_bytes(*unit) != 0).map_or(0, |last| last + 1);
        let Ok(tag) = u8::try_from(kept) else { return Compressed::Incompressible };
        let output = context.output();
        output[0] = tag;
        output[1..1 + kept * UNIT].copy_from_slice(&page[..kept * UNIT]);
        Compressed::from_output(output, 1 + kept * UNIT)
    }

    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        let malformed = Corrupt::Malformed { codec: NAME, len: bytes.len() };
        let (&tag, kept) = bytes.split_first().ok_or(malformed)?;
        if kept.len() != usize::from(tag) * UNIT {
            return Err(malformed);
        }
        let (head, tail) = out.split_at_mut(kept.len());
        head.copy_from_slice(kept);
        tail.fill(0);
        Ok(())
    }
}
