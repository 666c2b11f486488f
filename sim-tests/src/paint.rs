//! Pages that follow from a number: the token, which is their first eight bytes.
//!
//! ```text
//!   token   63 .................. 8 | 7 ..... 3 | 2 .. 0
//!           which page it is, once  | how much  | kind: 0, 1 one word repeated, 7 noise, others some noise and then zeroes
//! ```

use crate::Random;
use zspool::units::PAGE_SIZE;

/// Bits of a repeated word that does not fit where narrow ones do.
const WIDE: u64 = 0xfeed << 48;

/// Make a page of its token. Of 0, zeroes.
pub fn paint(token: u64, page: &mut [u8; PAGE_SIZE]) {
    let noise = match (token & 7, token >> 3 & 31) {
        (0 | 1, _) => {
            page.as_chunks_mut::<8>().0.fill(token.to_ne_bytes());
            return;
        }
        (7, _) => PAGE_SIZE,
        (_, much) => 8 + 120 * much as usize,
    };
    let mut random = Random::new(token);
    page[noise..].fill(0);
    page[..noise].as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = random.word().to_ne_bytes());
    page[..8].copy_from_slice(&token.to_ne_bytes());
}

/// The token of a page.
///
/// # Panics
/// When a byte of it is another page's.
pub fn token_of(page: &[u8; PAGE_SIZE]) -> u64 {
    let token = u64::from_ne_bytes(*page.first_chunk().expect("a page has eight bytes"));
    let mut expected = [0; PAGE_SIZE];
    paint(token, &mut expected);
    assert!(*page == expected, "a page begins as that of token {token:#x}, and goes on as another");
    token
}

/// How pages compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// In every way.
    All,
    /// To one of two sizes, so that objects share zspages and leave gaps.
    Two,
    /// Not at all.
    None,
}

/// A token that was not there before: the `number`th.
pub fn token(number: u64, random: &mut Random, sizes: Sizes) -> u64 {
    let (kind, much) = match sizes {
        Sizes::All => (random.below(8), random.below(32)),
        Sizes::Two => (2, random.pick(&[3, 10])),
        Sizes::None => (7, 0),
    };
    let wide = if kind == 1 { WIDE } else { 0 };
    wide | (number + 1) << 8 | much << 3 | kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_its_pages() {
        let mut random = Random::new(1);
        for number in 0..1000 {
            let token = token(number, &mut random, [Sizes::All, Sizes::Two, Sizes::None][number as usize % 3]);
            let mut page = [1; PAGE_SIZE];
            paint(token, &mut page);
            assert_eq!(token_of(&page), token);
            assert_ne!(token, 0);
        }
        let mut page = [1; PAGE_SIZE];
        paint(0, &mut page);
        assert_eq!(page, [0; PAGE_SIZE]);
    }

    #[test]
    #[should_panic(expected = "goes on as another")]
    fn a_byte_of_another_page_is_noticed() {
        let mut page = [0; PAGE_SIZE];
        paint(0x1ff, &mut page);
        page[4095] ^= 1;
        token_of(&page);
    }
}
