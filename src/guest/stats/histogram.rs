//! [`Histogram`]: how often which number, with four steps to each power of two; [`Recorder`] is where it is counted.
//!
//! ```text
//!   value    0 1 2 3 | 4  5  6  7 | 8 10 12 14 | 16 20 24 28 | 32 40 48 56 | ...   lower ends of buckets
//!   bucket   0 1 2 3 | 4  5  6  7 | 8  9 10 11 | 12 13 14 15 | ...               four a power of two: at most a fifth too small
//! ```

use crate::sync::Tally;

/// Steps to a power of two, as a power of two.
const SUB_BITS: u32 = 2;
const SUB: u64 = 1 << SUB_BITS;

/// Buckets up to 2^41: half an hour in nanoseconds. Above, the last.
const BUCKETS: usize = 160;

/// Where something is counted by its size. One relaxed addition; no lock, no allocation.
#[derive(Debug)]
pub(crate) struct Recorder([Tally; BUCKETS]);

/// How often which number was seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
}

fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let log = value.ilog2();
    let sub = (value >> (log - SUB_BITS)) & (SUB - 1);
    (u64::from(log - SUB_BITS + 1) * SUB + sub).min(BUCKETS as u64 - 1) as usize
}

fn lower_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match bucket / SUB {
        0 => bucket,
        power => (SUB + bucket % SUB) << (power - 1),
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder(std::array::from_fn(|_| Tally::new()))
    }
}

impl Recorder {
    /// It was this much.
    #[inline]
    pub(crate) fn record(&self, value: u64) {
        self.0[bucket(value)].add(1);
    }

    /// What was counted so far.
    pub(crate) fn snapshot(&self) -> Histogram {
        Histogram { counts: Box::new(std::array::from_fn(|bucket| self.0[bucket].get())) }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: Box::new([0; BUCKETS]) }
    }
}

impl Histogram {
    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The lower end of the bucket of the number below which this share (0 to 1) of them lies; 0 of none.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count() as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut sum = 0;
        let found = self.counts.iter().position(|&count| {
            sum += count;
            sum >= rank
        });
        found.map_or(0, lower_end)
    }

    /// Half of them are at most about this.
    pub fn p50(&self) -> u64 {
        self.quantile(0.5)
    }

    /// 99 of a hundred are.
    pub fn p99(&self) -> u64 {
        self.quantile(0.99)
    }

    /// 999 of a thousand are.
    pub fn p999(&self) -> u64 {
        self.quantile(0.999)
    }

    /// The buckets that are not empty: lower end and count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.counts.iter().enumerate();
        counts.filter(|(_, count)| **count > 0).map(|(bucket, &count)| (lower_end(bucket), count))
    }

    /// What this has that an earlier one of the same had not.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        Histogram { counts: Box::new(std::array::from_fn(|k| self.counts[k].saturating_sub(earlier.counts[k]))) }
    }
}

impl std::ops::AddAssign<&Histogram> for Histogram {
    fn add_assign(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts.iter()).for_each(|(sum, more)| *sum += more);
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_in_the_bucket_that_begins_at_or_below_it() {
        for value in (0..5000).chain((0..41).map(|log| 1 << log)).chain((3..41).map(|log| (1 << log) - 1)) {
            let at = bucket(value);
            assert!(lower_end(at) <= value, "{value}");
            assert!(at == BUCKETS - 1 || value < lower_end(at + 1), "{value}");
            assert!(lower_end(at) as f64 >= value as f64 * 0.8, "{value}: {}", lower_end(at));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((1..BUCKETS).all(|at| bucket(lower_end(at)) == at && bucket(lower_end(at) - 1) == at - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_numbers() {
        let recorder = Recorder::default();
        assert_eq!(recorder.snapshot().p99(), 0);
        (0..1000).for_each(|value| recorder.record(value * 10));
        let before = recorder.snapshot();
        assert_eq!((before.count(), before.p50(), before.p99(), before.p999()), (1000, 4096, 8192, 8192));
        recorder.record(1 << 20);
        let new = recorder.snapshot().since(&before);
        assert_eq!((new.count(), new.quantile(0.0), new.quantile(1.0)), (1, 1 << 20, 1 << 20));
        assert_eq!(new.buckets().collect::<Vec<_>>(), [(1 << 20, 1)]);
        let mut sum = before.clone();
        sum += &new;
        assert_eq!(sum, recorder.snapshot());
    }
}
