//! Pages of one repeated word, which are kept as the word.

use crate::units::PAGE_SIZE;

const WORD: usize = size_of::<u64>();

/// The word (little-endian) that the page repeats from end to end, if it is such a page.
///
/// Most other pages are told by their first line, which whoever compresses them reads next anyway, some by their last word: to be
/// fetched, that line would cost as much as the first.
///
/// ```
/// use zspool::compress::{fill, same_filled};
///
/// let mut page = [0; 4096];
/// assert_eq!(same_filled(&page), Some(0));
/// fill(&mut page, 0x1234_5678_9abc_def0);
/// assert_eq!(same_filled(&page), Some(0x1234_5678_9abc_def0));
/// page[2000] ^= 1;
/// assert_eq!(same_filled(&page), None);
/// ```
#[inline]
pub fn same_filled(page: &[u8; PAGE_SIZE]) -> Option<u64> {
    const LINE: usize = 64;
    let (words, _) = page.as_chunks::<WORD>();
    let word = words[0];
    if page[WORD..LINE] != page[..LINE - WORD] {
        return None;
    }
    // A page that is its own copy one word further on repeats its first word; comparing slices is the C library's
    // vectorised memcmp, which stops at the first difference.
    if words[words.len() - 1] != word || page[WORD..] != page[..PAGE_SIZE - WORD] {
        return None;
    }
    Some(u64::from_le_bytes(word))
}

/// Make `page` repeat `word` (little-endian).
#[inline]
pub fn fill(page: &mut [u8; PAGE_SIZE], word: u64) {
    page.as_chunks_mut::<WORD>().0.fill(word.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_byte_anywhere_is_found() {
        let mut page = [0; PAGE_SIZE];
        fill(&mut page, 0x0102_0304_0506_0708);
        for at in (0..PAGE_SIZE).step_by(if cfg!(miri) { 97 } else { 1 }) {
            page[at] ^= 0x80;
            assert_eq!(same_filled(&page), None, "odd byte at {at}");
            page[at] ^= 0x80;
        }
        assert_eq!(same_filled(&page), Some(0x0102_0304_0506_0708));
    }

    #[test]
    fn a_page_that_repeats_another_period_is_not_same_filled() {
        let page: [u8; PAGE_SIZE] = std::array::from_fn(|i| (i % 16) as u8);
        assert_eq!(same_filled(&page), None);
    }
}
