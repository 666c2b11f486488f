//! [`Context`]: what one compression needs besides the page.

use super::CodecId;
use crate::units::PAGE_SIZE;
use std::any::Any;

/// Bytes of the output buffer. More than a page, for codecs find out late that a page does not shrink: LZ4 wants room for
/// 4525 bytes.
pub const OUTPUT_BYTES: usize = 4608;

const _: () = assert!(OUTPUT_BYTES >= lz4_flex::block::get_maximum_output_size(PAGE_SIZE));

/// An output buffer and the tables of the codecs that have used it. One compression at a time.
pub struct Context {
    /// Where codecs write.
    output: Box<[u8; OUTPUT_BYTES]>,
    /// Each codec's tables, made when it first uses this context. A handful, so searched in order.
    tables: Vec<(CodecId, Box<dyn Any + Send>)>,
}

impl Context {
    /// A context no codec has used.
    pub fn new() -> Self {
        Context { output: Box::new([0; OUTPUT_BYTES]), tables: Vec::new() }
    }

    /// The output buffer, for codecs without tables. It holds whatever the last codec left.
    #[inline]
    pub fn output(&mut self) -> &mut [u8; OUTPUT_BYTES] {
        &mut self.output
    }

    /// The tables of `codec`, made by `make` the first time, and the output buffer.
    #[inline]
    pub fn tables<T: Any + Send>(
        &mut self,
        codec: CodecId,
        make: impl FnOnce() -> T,
    ) -> (&mut T, &mut [u8; OUTPUT_BYTES]) {
        let at = match self.tables.iter().position(|(id, table)| *id == codec && table.is::<T>()) {
            Some(at) => at,
            None => {
                // Tables of another type are those of a codec of another registry that shares the id.
                self.tables.retain(|(id, _)| *id != codec);
                self.tables.push((codec, Box::new(make())));
                self.tables.len() - 1
            }
        };
        let table = self.tables[at].1.downcast_mut().expect("its type was checked when it was found");
        (table, &mut self.output)
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("tables", &self.tables.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_made_once_per_codec_and_replaced_when_of_another_type() {
        let (one, two) = (CodecId::new(1), CodecId::new(2));
        let mut context = Context::new();
        *context.tables(one, || 5u32).0 += 1;
        *context.tables(two, || 7u32).0 += 1;
        assert_eq!(*context.tables(one, || 0u32).0, 6);
        assert_eq!(*context.tables(two, || 0u32).0, 8);
        assert_eq!(*context.tables(one, || "other").0, "other");
        assert_eq!(*context.tables(two, || 0u32).0, 8);
    }
}
