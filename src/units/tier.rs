//! [`TierMask`]: a set of tiers of devices, by index.

use std::ops::BitAnd;

/// Most tiers there can be. Nobody has a use for as many, and two masks of them share a word with bits to spare.
pub const MAX_TIERS: usize = 31;

/// A set of tiers, a bit each by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierMask(u32);

impl TierMask {
    /// All there are and will be.
    pub const ALL: TierMask = TierMask((1 << MAX_TIERS) - 1);
    /// None.
    pub const NONE: TierMask = TierMask(0);

    /// Only this one.
    ///
    /// # Panics
    /// When there can be no such tier.
    pub const fn only(index: u8) -> Self {
        assert!((index as usize) < MAX_TIERS, "a tier's index is below MAX_TIERS");
        TierMask(1 << index)
    }

    /// The set of these bits; others than those of tiers are dropped.
    pub const fn from_bits(bits: u32) -> Self {
        TierMask(bits & Self::ALL.0)
    }

    /// A bit for each tier.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether the tier is in it.
    #[inline]
    pub const fn contains(self, index: u8) -> bool {
        self.0 >> index & 1 != 0
    }

    /// Whether none is.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The same with or without a tier.
    #[must_use]
    pub const fn with(self, index: u8, on: bool) -> Self {
        let bit = Self::only(index).0;
        TierMask(if on { self.0 | bit } else { self.0 & !bit })
    }
}

impl BitAnd for TierMask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        TierMask(self.0 & other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_tiers() {
        assert_eq!(TierMask::from_bits(u32::MAX), TierMask::ALL);
        let without = TierMask::ALL.with(30, false);
        assert!(!without.contains(30) && without.contains(29));
        assert_eq!((without & TierMask::only(30)), TierMask::NONE);
        assert_eq!(without.with(30, true), TierMask::ALL);
    }
}
