//! [`Panics`]: how often in a row serving a fault has panicked.
//!
//! A handler that panics is replaced, and the fault is served again: its page's word was given back on the way. That ends
//! somewhere, for a fault that panics each time would hang its thread for ever.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// So many in a row, and nobody can serve it: what panics each time does so the second time, and what panics by chance seldom twice.
const TOO_MANY: u32 = 16;

/// Counts panics.
#[derive(Debug, Default)]
pub(crate) struct Panics {
    in_a_row: AtomicU32,
    all: AtomicU64,
}

impl Panics {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Panics { in_a_row: AtomicU32::new(0), all: AtomicU64::new(0) }
    }

    /// A fault was served.
    pub(crate) fn none(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// One panicked. `Some` when that is too often: how often.
    pub(crate) fn too_many(&self) -> Option<u32> {
        self.all.fetch_add(1, Ordering::Relaxed);
        let times = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        (times >= TOO_MANY).then_some(times)
    }

    /// All that there were.
    pub(crate) fn all(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }
}
