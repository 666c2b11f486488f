//! [`Ranges`]: a set of addresses, as ranges in order that do not touch.

use std::ops::Range;

/// A set of addresses.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// In order, none empty; each begins behind the end of the one before it.
    ranges: Vec<Range<usize>>,
}

impl Ranges {
    pub(crate) const fn new() -> Self {
        Ranges { ranges: Vec::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<usize>> {
        self.ranges.iter()
    }

    /// Those that have an address of `range`, or touch it: their numbers.
    fn near(&self, range: &Range<usize>) -> Range<usize> {
        let first = self.ranges.partition_point(|r| r.end < range.start);
        first..first + self.ranges[first..].partition_point(|r| r.start <= range.end)
    }

    pub(crate) fn add(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let near = self.near(&range);
        let joined = self.ranges[near.clone()].iter().fold(range, |a, b| a.start.min(b.start)..a.end.max(b.end));
        self.ranges.splice(near, [joined]);
    }

    pub(crate) fn remove(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let near = self.near(&range);
        let mut left = [const { 0..0 }; 2];
        if let (Some(first), Some(last)) = (self.ranges[near.clone()].first(), self.ranges[near.clone()].last()) {
            left = [first.start..first.end.min(range.start), last.start.max(range.end)..last.end];
        }
        self.ranges.splice(near, left.into_iter().filter(|r| !r.is_empty()));
    }

    /// The parts of `range` that are not in the set.
    pub(crate) fn missing(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        for known in &self.ranges[self.near(&range)] {
            if known.start > at {
                missing.push(at..known.start.min(range.end));
            }
            at = at.max(known.end);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    /// The parts of `range` that are in the set.
    pub(crate) fn within(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let parts = self.ranges[self.near(&range)].iter();
        parts.map(move |r| r.start.max(range.start)..r.end.min(range.end)).filter(|part| !part.is_empty())
    }

    /// Whether an address of `range` is in the set.
    pub(crate) fn overlaps(&self, range: &Range<usize>) -> bool {
        !range.is_empty() && self.ranges[self.near(range)].iter().any(|r| r.start < range.end && range.start < r.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_set_that_a_table_of_bits_says() {
        let (mut set, mut bits) = (Ranges::new(), [false; 40]);
        let mut seed = 1u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let start = next(40);
            let range = start..start + next(41 - start);
            match next(3) {
                0 => {
                    set.add(range.clone());
                    bits[range].fill(true);
                }
                1 => {
                    set.remove(range.clone());
                    bits[range].fill(false);
                }
                _ => {
                    let missing: Vec<usize> = set.missing(range.clone()).into_iter().flatten().collect();
                    let expected: Vec<usize> = range.clone().filter(|at| !bits[*at]).collect();
                    assert_eq!(missing, expected);
                    let within: Vec<usize> = set.within(range.clone()).flatten().collect();
                    assert_eq!(within, range.clone().filter(|at| bits[*at]).collect::<Vec<_>>());
                    assert_eq!(set.overlaps(&range), bits[range].iter().any(|b| *b));
                }
            }
            let flat: Vec<usize> = set.iter().cloned().flatten().collect();
            assert_eq!(flat, (0..40).filter(|at| bits[*at]).collect::<Vec<_>>());
            assert!(set.ranges.windows(2).all(|w| w[0].end < w[1].start), "{set:?}");
        }
    }
}
