//! [`Swapins`]: pages that were lately read back from the device, per memcg and node.
//!
//! ```text
//!   words, by group index * nodes + node
//!     63         48 47                0
//!    +-------------+-------------------+
//!    | generation  | reads not taken   |    of the group index: a memcg that inherits it begins at 0
//!    +-------------+-------------------+
//!
//!   load that waited for the device --note--> +1          --take(n)--> what is there, n at most, is gone
//! ```
//!
//! Each such read would not have been if so many more entries of that list had stayed in the pool; so the
//! [shrinker](super::Shrinker) leaves so many at the warm end alone, once.
//!
//! - **P1** A read that was noted is taken at most once, by whomever; what is taken was noted (R-25).
//! - **P2** Noting neither allocates nor waits: it happens in fault handlers. Words are made by [`prepare`](Swapins::prepare),
//!   by who writes back or counts; a read of a memcg that nobody has prepared is not noted.
//! - **P3** Which memcg a page on the device belongs to says who pays for its place, and its block says which node it came from.
//!   Who pays is looked up before the read, so that a page that is freed meanwhile may be noted for whoever has that objcg by then.

use super::core::Core;
use crate::memcg::{GroupRef, ObjcgId};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Bug, GrowTable, Planted};
use crate::units::NodeId;

const GENERATION_SHIFT: u32 = 48;
const COUNT: u64 = (1 << GENERATION_SHIFT) - 1;

/// Recent reads from the device. Atomics only.
#[derive(Debug)]
pub struct Swapins {
    /// Relaxed throughout: a word decides for itself alone.
    words: GrowTable<AtomicU64>,
    nodes: usize,
    planted: Planted,
}

impl Swapins {
    /// No reads, on any of `nodes` nodes.
    pub fn new(nodes: usize, planted: Planted) -> Self {
        Swapins { words: GrowTable::new(), nodes, planted }
    }

    fn index(&self, group: GroupRef, node: NodeId) -> usize {
        group.index().index() * self.nodes + node.index()
    }

    /// Have reads noted for this memcg from now on. Allocates at first.
    pub fn prepare(&self, group: GroupRef) {
        let fresh = u64::from(group.generation()) << GENERATION_SHIFT;
        for node in 0..self.nodes {
            let word = self.words.get_or_make(self.index(group, NodeId(node as u8)));
            let now = word.load(Ordering::Relaxed);
            // Not by one who has an outdated reference: a memcg that is newer has the index. Wrapping, as generations are.
            let age = group.generation().wrapping_sub((now >> GENERATION_SHIFT) as u16) as i16;
            if now & !COUNT != fresh && (now == 0 || age > 0) {
                // Another who prepares has done it if this fails; what is noted by then is lost, which costs a hint.
                let _ = word.compare_exchange(now, fresh, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// A page of this memcg that lay on this node was read from the device.
    pub fn note(&self, group: GroupRef, node: NodeId) {
        if let Some(word) = self.words.get(self.index(group, node)) {
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now >> GENERATION_SHIFT == u64::from(group.generation()) && now & COUNT < COUNT).then_some(now + 1)
            });
        }
    }

    /// Take up to `most` of the reads noted (P1).
    pub fn take(&self, group: GroupRef, node: NodeId, most: u64) -> u64 {
        let Some(word) = self.words.get(self.index(group, node)) else { return 0 };
        let taken = |now: u64| match now >> GENERATION_SHIFT == u64::from(group.generation()) {
            true => (now & COUNT).min(most),
            false => 0,
        };
        if self.planted.is(Bug::SwapinsTakenInTwoSteps) {
            let n = taken(word.load(Ordering::Relaxed));
            word.fetch_sub(n, Ordering::Relaxed);
            return n;
        }
        let update = |now| match taken(now) {
            0 => None,
            n => Some(now - n),
        };
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).map_or(0, taken)
    }
}

impl Core {
    /// A page was read from a device whose place `payer` paid for, and that came from `node`.
    pub(super) fn note_swapin(&self, payer: ObjcgId, node: NodeId) {
        if node.index() < self.swapins.nodes {
            self.swapins.note(self.tree.group_of(payer), node);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memcg::{Tree, TreeConfig};

    const N0: NodeId = NodeId(0);
    const N1: NodeId = NodeId(1);

    #[test]
    fn what_was_noted_is_taken_once_by_memcg_and_node() {
        let tree = Tree::new(TreeConfig::default());
        let swapins = Swapins::new(2, Planted::NONE);
        let (a, b) = (tree.root().mkdir("a").unwrap(), tree.root().mkdir("b").unwrap());
        swapins.note(a.group(), N0);
        assert_eq!(swapins.take(a.group(), N0, 9), 0, "nobody has prepared it");
        [&a, &b].into_iter().for_each(|memcg| swapins.prepare(memcg.group()));
        for _ in 0..5 {
            swapins.note(a.group(), N1);
        }
        swapins.note(b.group(), N1);
        swapins.prepare(a.group());
        assert_eq!([2, 9, 9].map(|most| swapins.take(a.group(), N1, most)), [2, 3, 0]);
        assert_eq!([swapins.take(a.group(), N0, 9), swapins.take(b.group(), N1, 9)], [0, 1]);
    }

    #[test]
    fn a_memcg_does_not_inherit_the_reads_of_the_one_before() {
        let tree = Tree::new(TreeConfig::default());
        let swapins = Swapins::new(1, Planted::NONE);
        let before = tree.root().mkdir("before").unwrap();
        let old = before.group();
        swapins.prepare(old);
        swapins.note(old, N0);
        before.offline().unwrap();
        drop(before);
        let after = tree.root().mkdir("after").unwrap();
        assert_eq!(after.group().index(), old.index(), "the index comes back");
        assert_eq!(swapins.take(after.group(), N0, 9), 0);
        swapins.prepare(after.group());
        swapins.note(old, N0); // a late reader
        assert_eq!(swapins.take(after.group(), N0, 9), 0);
        swapins.note(after.group(), N0);
        assert_eq!((swapins.take(old, N0, 9), swapins.take(after.group(), N0, 9)), (0, 1));
    }
}
