//! [`Bitmap`]: one bit per segment, searched a word at a time.

use std::ops::Range;

const WORD: usize = u64::BITS as usize;

/// A fixed number of bits, all zero at first (so that the memory of a large one is backed where it is used).
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    /// `len` zeroes.
    pub(super) fn new(len: usize) -> Self {
        Bitmap { words: vec![0; len.div_ceil(WORD)], len }
    }

    /// The bit.
    pub(super) fn get(&self, at: usize) -> bool {
        assert!(at < self.len);
        self.words[at / WORD] >> (at % WORD) & 1 == 1
    }

    /// Change the bit.
    pub(super) fn set(&mut self, at: usize, to: bool) {
        assert!(at < self.len);
        let mask = 1 << (at % WORD);
        if to {
            self.words[at / WORD] |= mask;
        } else {
            self.words[at / WORD] &= !mask;
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    /// Number of ones.
    pub(super) fn ones(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The first one in `range`.
    pub(super) fn first_one(&self, range: Range<usize>) -> Option<usize> {
        let end = range.end.min(self.len);
        let mut at = range.start;
        while at < end {
            let found = self.words[at / WORD] >> (at % WORD);
            if found != 0 {
                let at = at + found.trailing_zeros() as usize;
                return (at < end).then_some(at);
            }
            at = (at / WORD + 1) * WORD;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn searches_find_what_a_plain_scan_finds(
            bits in prop::collection::vec(prop::bool::weighted(0.1), 1..300), from in 0usize..300, to in 0usize..400,
        ) {
            let mut map = Bitmap::new(bits.len());
            for (i, &bit) in bits.iter().enumerate() {
                map.set(i, true);
                map.set(i, bit);
            }
            let plain = (from..to.min(bits.len())).find(|&i| bits[i]);
            prop_assert_eq!(map.first_one(from..to), plain);
            prop_assert_eq!(map.ones(), bits.iter().filter(|&&b| b).count());
            prop_assert!(bits.iter().enumerate().all(|(i, &bit)| map.get(i) == bit));
        }
    }
}
