//! [`Cluster`]: the descriptor of a touched cluster.
//!
//! ```text
//!   48 bytes: | lock, rank | stores 8, live 2, entries 2, shared 2, flags 1 | assigned 8 | next idle 4 | next roomy 4 |
//! ```
//!
//! Descriptors are never given back: a late reader finds one that is assigned to another cluster, or to none, and sees it.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Rank};

/// End of a stack of clusters (ordinals are stored plus one).
pub(super) const NIL: u32 = 0;

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) state: Mutex<State>,
    /// The virtual cluster plus one, 0 for none. Changes under `state` and the directory; read without either.
    assigned: AtomicU64,
    /// Next on the stack of idle clusters, or of free ordinals, plus one.
    pub(super) next_idle: AtomicU32,
    /// Next on the stack of clusters with room for single slots, plus one.
    pub(super) next_roomy: AtomicU32,
}

/// What is known of a cluster's slots.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Contents stored, ever; the low bits are the last one's generation.
    pub(super) stores: u64,
    /// Words that are not empty.
    pub(super) live: u16,
    /// Words whose slot needs its link (see [`needs_link`](super::needs_link)).
    pub(super) entries: u16,
    /// Slots whose number of references stands in the table of counts.
    pub(super) shared: u16,
    pub(super) flags: Flags,
}

bitflags::bitflags! {
    /// Where a cluster is listed, and what it has memory for beside its words.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Flags: u8 {
        /// On the stack of idle clusters.
        const IDLE = 1;
        /// A link of one of its slots was written since they were last given back.
        const LINKS = 2;
        /// A count of one of its slots was, likewise.
        const COUNTS = 4;
        /// Its slots are allocated one by one.
        const SINGLES = 8;
        /// Some threads allocate from it now.
        const CURRENT = 16;
        /// On the stack of clusters with room for single slots.
        const ROOMY = 32;
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            state: Mutex::new(Rank::Cluster, State::default()),
            assigned: AtomicU64::new(0),
            next_idle: AtomicU32::new(NIL),
            next_roomy: AtomicU32::new(NIL),
        }
    }
}

impl Cluster {
    /// The virtual cluster it is assigned to.
    #[inline]
    pub(super) fn assigned(&self) -> Option<u64> {
        // Acquire pairs with the release in `assign`: the words read afterwards are of that assignment.
        self.assigned.load(Ordering::Acquire).checked_sub(1)
    }

    /// Assign it, under the directory's lock and its own.
    pub(super) fn assign(&self, to: Option<u64>) {
        self.assigned.store(to.map_or(0, |cluster| cluster + 1), Ordering::Release);
    }
}

impl State {
    pub(super) fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Whether the cluster has something that can be given back.
    pub(super) fn is_idle(&self) -> bool {
        self.live == 0 || self.entries == 0 && self.has(Flags::LINKS) || self.shared == 0 && self.has(Flags::COUNTS)
    }
}

/// Push a cluster on a stack whose links `next` gives; under the lock of the cluster, which is not on it.
pub(super) fn push(top: &AtomicU32, ordinal: u32, next: &AtomicU32) {
    let mut first = top.load(Ordering::Relaxed);
    loop {
        next.store(first, Ordering::Relaxed);
        // Release pairs with the acquire of who takes it: the link is seen.
        match top.compare_exchange(first, ordinal + 1, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_48_bytes() {
        assert_eq!(size_of::<Cluster>(), 48);
    }
}
