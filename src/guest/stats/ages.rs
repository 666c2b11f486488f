//! [`Ages`]: how cold a VM's memory is: bytes by the time since they moved last.
//!
//! Nothing tells when a page was read, so "moved" is all there is: came into memory, left it, or came back from staging. What stays long
//! although it is staged again and again has moved lately; a page in place that moved long ago may be hot or cold until it is staged.

use std::time::Duration;

/// Upper ends of the classes, in seconds. The last has none.
const ENDS: [u64; 6] = [10, 60, 300, 1200, 3600, u64::MAX];

/// Bytes by age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// In memory, by class.
    resident: [u64; ENDS.len()],
    /// Out of memory.
    stored: [u64; ENDS.len()],
}

impl Ages {
    /// Count bytes of this age; `None`: older than is remembered.
    pub(crate) fn add(&mut self, in_memory: bool, age: Option<Duration>, bytes: u64) {
        let seconds = age.map_or(u64::MAX, |age| age.as_secs());
        let class = ENDS.iter().position(|&end| seconds < end).unwrap_or(ENDS.len() - 1);
        let list = if in_memory { &mut self.resident } else { &mut self.stored };
        list[class] += bytes;
    }

    /// The classes, youngest first: up to which age (`None`: any), bytes in memory, bytes out of it (as pages, uncompressed).
    pub fn classes(&self) -> impl Iterator<Item = (Option<Duration>, u64, u64)> {
        let end = |end| (end != u64::MAX).then(|| Duration::from_secs(end));
        ENDS.into_iter()
            .zip(self.resident)
            .zip(self.stored)
            .map(move |((at, resident), stored)| (end(at), resident, stored))
    }

    /// All bytes in memory, and all out of it.
    pub fn totals(&self) -> (u64, u64) {
        (self.resident.iter().sum(), self.stored.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_age() {
        let mut ages = Ages::default();
        for (age, bytes) in [(Some(0), 1), (Some(9), 2), (Some(10), 4), (Some(3599), 8), (Some(3600), 16), (None, 32)] {
            ages.add(true, age.map(Duration::from_secs), bytes);
        }
        ages.add(false, None, 64);
        let resident: Vec<_> =
            ages.classes().map(|(end, resident, _)| (end.map(|end| end.as_secs()), resident)).collect();
        assert_eq!(
            resident,
            [(Some(10), 3), (Some(60), 4), (Some(300), 0), (Some(1200), 0), (Some(3600), 8), (None, 48)]
        );
        assert_eq!(ages.totals(), (63, 64));
    }
}
