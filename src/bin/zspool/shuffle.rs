//! [`Shuffle`]: the numbers below `n` in an order that a seed decides, without a table.
//!
//! A Feistel network of four rounds permutes the numbers of the next even number of bits; a number that lands at `n` or above
//! is sent through again until it does not (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
//! The domain is less than four times `n`, so that takes four rounds at most on average.

/// A permutation of `0..n`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shuffle {
    n: u64,
    half_bits: u32,
    seed: u64,
}

const ROUNDS: u64 = 4;

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Shuffle {
    pub(crate) fn new(n: u64, seed: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Shuffle { n, half_bits: bits.div_ceil(2).max(1), seed: mix(seed ^ 0x9e37_79b9_7f4a_7c15) }
    }

    /// The number at place `k` of the order; `k` is below `n`.
    pub(crate) fn at(&self, k: u64) -> u64 {
        assert!(k < self.n);
        let mut k = self.once(k);
        while k >= self.n {
            k = self.once(k);
        }
        k
    }

    fn once(&self, k: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (k >> self.half_bits, k & mask);
        for round in 0..ROUNDS {
            let key = mix(self.seed.wrapping_add(round.wrapping_mul(0xd1b5_4a32_d192_ed03)));
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once() {
        for n in [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097] {
            for seed in [0, 1, 42] {
                let shuffle = Shuffle::new(n, seed);
                let mut seen = vec![false; n as usize];
                (0..n).for_each(|k| assert!(!std::mem::replace(&mut seen[shuffle.at(k) as usize], true), "n {n}"));
            }
        }
    }

    #[test]
    fn seeds_give_other_orders_and_neighbours_part() {
        let order = |seed| (0..1000).map(|k| Shuffle::new(1000, seed).at(k)).collect::<Vec<_>>();
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let adjacent = order(7).windows(2).filter(|w| w[0].abs_diff(w[1]) <= 2).count();
        assert!(adjacent < 50, "{adjacent} of 999 steps are short");
    }
}
