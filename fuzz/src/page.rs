//! [`PageOf`]: pages that a few bytes of input describe.

use arbitrary::Arbitrary;
use zspool::units::{PAGE_SIZE, Page};

/// What is in a page.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOf {
    /// Zeroes.
    Zero,
    /// One word, again and again.
    Word(u64),
    /// Random bytes, and then one that repeats: zero for even seeds.
    Mixed {
        /// How many are random, modulo 4097.
        random: u16,
        /// Of the random bytes.
        seed: u8,
    },
}

impl PageOf {
    /// The page.
    pub fn build(self) -> Page {
        let mut built = Page::zeroed();
        match self {
            PageOf::Zero => {}
            PageOf::Word(word) => built.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&word.to_ne_bytes())),
            PageOf::Mixed { random, seed } => {
                let n = usize::from(random) % (PAGE_SIZE + 1);
                noise(seed, &mut built[..n]);
                built[n..].fill(if seed.is_multiple_of(2) { 0 } else { seed });
            }
        }
        built
    }
}

/// Fill with random bytes.
pub fn noise(seed: u8, to: &mut [u8]) {
    let mut x = u64::from(seed) << 16 | 1;
    for byte in to {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *byte = (x >> 24) as u8;
    }
}
