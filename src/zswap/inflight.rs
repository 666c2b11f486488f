//! [`Inflight`]: records of the flights to a device, from the pool or from another place, that have begun and not ended.
//!
//! ```text
//!            begin (bit set in the word)         finish: was it still live?
//!    free ------------------------------> live(owner) -----------------------> free
//!                                            |  cancel (slot emptied or replaced)   ^
//!                                            +-----------> cancelled --finish-------+
//! ```
//!
//! - **I1** A live record names an owner whose word has the writeback bit set, and no other live record names it.
//! - **I2** Records change under the lock of their owner's cluster, except a cancelled one, which is its flight's alone.
//!
//! The record decides whether the word is switched to the device, not a generation, which could wrap (R-12). There are few
//! records, in one array; cancelling scans it, and happens only where the bit says so.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Bug, Planted, Table, Tally};
use crate::units::Owner;
use std::io;

const FREE: u64 = 0;
const CANCELLED: u64 = u64::MAX;

/// A record: its number in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record(usize);

#[derive(Debug)]
pub(super) struct Inflight {
    /// Owner plus one, [`FREE`] or [`CANCELLED`]. A table, for most instances never have so many flights, or any.
    records: Table<AtomicU64>,
    /// Records begun so far: where the next search begins, for those begun long ago are free by now.
    begun: Tally,
    planted: Planted,
}

impl Inflight {
    /// Room for so many writebacks at once.
    ///
    /// # Errors
    /// When there is no address space for them.
    pub(super) fn new(capacity: usize, planted: Planted) -> io::Result<Self> {
        Ok(Inflight { records: Table::reserve(capacity)?, begun: Tally::new(), planted })
    }

    fn records(&self) -> impl Iterator<Item = &AtomicU64> {
        (0..self.records.capacity()).map(|i| self.records.get(i))
    }

    /// Begin a flight; `None` when all records are taken. Under the cluster lock of the owner.
    pub(super) fn begin(&self, owner: Owner) -> Option<Record> {
        let (live, all) = (u64::from(owner.0) + 1, self.records.capacity());
        let first = self.begun.add(1) as usize % all;
        (first..all)
            .chain(0..first)
            .find(|&i| self.records.get(i).compare_exchange(FREE, live, Ordering::Relaxed, Ordering::Relaxed).is_ok())
            .map(Record)
    }

    /// The slot of `owner` was emptied or replaced while its writeback bit was set. Under its cluster lock.
    pub(super) fn cancel(&self, owner: Owner) {
        if self.planted.is(Bug::WritebackIgnoresCancel) {
            return;
        }
        let live = u64::from(owner.0) + 1;
        // Looked at first: it is one among thousands, and the lock is held.
        let is_it = |record: &AtomicU64| record.load(Ordering::Relaxed) == live;
        let cancel =
            |record: &AtomicU64| record.compare_exchange(live, CANCELLED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let found = self.records().any(|record| is_it(record) && cancel(record));
        debug_assert!(found, "I1: a word with the writeback bit has a live record");
    }

    /// End a flight: whether the word may be switched. Under the cluster lock of the owner, unless it was cancelled.
    #[must_use]
    pub(super) fn finish(&self, record: Record) -> bool {
        // Relaxed: who asks holds the cluster lock, under which the record was cancelled if it was.
        self.records.get(record.0).swap(FREE, Ordering::Relaxed) != CANCELLED
    }

    /// Whether no flight is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.records().all(|record| record.load(Ordering::Relaxed) == FREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_flight_may_not_land() {
        let inflight = Inflight::new(2, Planted::NONE).unwrap();
        let (a, b) = (inflight.begin(Owner(1)).unwrap(), inflight.begin(Owner(2)).unwrap());
        assert!(inflight.begin(Owner(3)).is_none(), "all records are taken");
        inflight.cancel(Owner(1));
        assert!(!inflight.finish(a));
        let again = inflight.begin(Owner(1)).unwrap();
        assert!(inflight.finish(again) && inflight.finish(b));
        assert!(inflight.is_empty());
    }
}
