//! [`Histogram`]: latencies in buckets of at most 1/32 relative width.
//!
//! ```text
//! value      0 1 2 ... 31 | 32 33 ... 63 | 64 66 ... 126 | 128 132 ...
//! step       1            | 1            | 2             | 4            32 buckets per doubling
//! ```

use serde::Serialize;

/// Buckets per doubling, as a power of two.
const STEPS_LOG2: u32 = 5;
const STEPS: usize = 1 << STEPS_LOG2;

/// Enough for any u64: one linear row, then a row per doubling above it.
const BUCKETS: usize = STEPS * (64 - STEPS_LOG2 as usize + 1);

/// Counts of values (nanoseconds, here). All its memory is there, and touched, from the start.
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

fn bucket(value: u64) -> usize {
    let row = (value | (STEPS as u64 - 1)).ilog2() + 1 - STEPS_LOG2;
    // Row 0 is linear; in the others the top bit is implied by the row.
    match row {
        0 => value as usize,
        _ => row as usize * STEPS + (value >> (row - 1)) as usize - STEPS,
    }
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (row, step) = (bucket / STEPS, bucket % STEPS);
    match row {
        0 => step as u64,
        _ => (((STEPS + step + 1) as u128) << (row - 1)).wrapping_sub(1) as u64,
    }
}

impl Histogram {
    pub(crate) fn new() -> Self {
        let mut counts = vec![0; BUCKETS].into_boxed_slice();
        // Freshly mapped zeroes are not resident yet; writing makes them so.
        std::hint::black_box(&mut counts).fill(0);
        Histogram { counts, total: 0 }
    }

    #[inline]
    pub(crate) fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The value that `share` (0 to 1) of all values do not exceed, up to 1/32 too high. 0 when there are none.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(at);
            }
        }
        0
    }
}

/// Of latencies in nanoseconds, at most 1/32 too high.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

impl Quantiles {
    pub(crate) fn of(histogram: &Histogram) -> Self {
        Quantiles { p50: histogram.quantile(0.5), p99: histogram.quantile(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_without_gap() {
        let edges = (0..100_000u64).chain((0..64).flat_map(|b| [(1 << b) - 1, 1 << b, (1 << b) + 1]));
        for value in edges.chain([u64::MAX]) {
            let at = bucket(value);
            assert!(at < BUCKETS);
            assert!(value <= upper(at), "{value} above its bucket");
            assert!(at == 0 || value > upper(at - 1), "{value} fits the bucket before");
            assert!(upper(at) - value <= value / STEPS as u64, "the bucket of {value} is too wide");
        }
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut all = Histogram::new();
        assert_eq!(all.quantile(0.99), 0);
        let mut other = Histogram::new();
        (1..=50).for_each(|v| all.add(v * 1000));
        (51..=100).for_each(|v| other.add(v * 1000));
        all.merge(&other);
        for (share, exact) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0), (0.0, 1_000.0)] {
            let found = all.quantile(share) as f64;
            assert!((exact..exact * 1.04).contains(&found), "{share}: {found}");
        }
    }
}
