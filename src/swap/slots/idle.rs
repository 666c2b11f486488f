//! What a cluster does not need any more is given back, by whoever comes by now and then: the worker.
//!
//! ```text
//!   note_idle, under the cluster lock       a stack, taken whole          tidy
//!     no slot holds anything  --------+                      +--> unassigned; words, links, counts given back
//!     links, and no entry     --------+--->  o -> o -> o ----+--> links given back
//!     counts, and none needed --------+                      +--> counts given back
//! ```
//!
//! Links and counts of a cluster that is in use go under its lock, whatever was found when it was put on the stack. That is a system
//! call of a microsecond or two, and only stores, frees and writebacks of these slots wait for it. It is right because
//!
//! - links are written by who has an entry on a list or puts it there, and every entry on a list lies in a cluster that counts it:
//!   outside its lock, a cluster without entries has no slot on a list, so nobody's neighbour either;
//! - late readers of a link (the codec, by a load that pinned an object before it went) find 0 and then look at the slot word
//!   again, which does not name that object any more: the kernel's unmapping is a barrier on every core, so who sees the zero
//!   sees the word;
//! - a late *referenced* bit (of a load that was decoding meanwhile) backs the page again with a bit that says nothing: the word
//!   is written as a whole when an entry comes. The page goes with the cluster's next idleness.

use super::Slots;
use super::cluster::{Flags, NIL, State};
use crate::sync::atomic::Ordering;
use crate::sync::{Bug, CLUSTER_SLOTS};
use std::ops::Range;

pub(super) fn owners(ordinal: u32) -> Range<usize> {
    let first = ordinal as usize * CLUSTER_SLOTS;
    first..first + CLUSTER_SLOTS
}

impl Slots {
    /// Take back clusters in which nothing is stored; returns how many. Links stay where they are.
    pub fn reap(&self) -> usize {
        self.tidy_with(None)
    }

    /// Take back clusters in which nothing is stored, and of others what none of their slots needs. `discard_links` gives back what
    /// the caller keeps for slots with an object in the pool, by owner: nobody has these owners, or their
    /// cluster is locked. Returns how many clusters were taken back. Not for signal handlers: it gives memory back.
    ///
    /// # Locks
    /// Directory and cluster, then one cluster at a time. `discard_links` may run under a cluster's.
    pub fn tidy(&self, mut discard_links: impl FnMut(Range<usize>)) -> usize {
        self.tidy_with(Some(&mut discard_links))
    }

    fn tidy_with(&self, mut discard_links: Option<&mut dyn FnMut(Range<usize>)>) -> usize {
        // Acquire pairs with the release of the pushes. The stack is taken whole, so no element can come back under us: each is
        // marked as being on it until we are done with it, or is assigned to nothing.
        let mut top = self.idle.swap(NIL, Ordering::Acquire);
        let (mut empty, mut others) = (NIL, NIL);
        while top != NIL {
            let ordinal = top - 1;
            let cluster = self.cluster_at(ordinal);
            top = cluster.next_idle.load(Ordering::Relaxed);
            let list = if self.unassign_if_empty(ordinal) { &mut empty } else { &mut others };
            cluster.next_idle.store(*list, Ordering::Relaxed);
            *list = ordinal + 1;
        }
        self.discard_unneeded(others, &mut discard_links);
        self.give_back(empty, &mut discard_links)
    }

    /// Take a cluster without live slots from whom it is assigned to.
    fn unassign_if_empty(&self, ordinal: u32) -> bool {
        let cluster = self.cluster_at(ordinal);
        let mut directory = self.directory.lock();
        let mut state = cluster.state.lock();
        if state.live > 0 {
            return false;
        }
        let Some(assigned) = cluster.assigned() else {
            unreachable!("S4: a cluster on the stack of idle ones is assigned");
        };
        let cluster_of = |ordinal| self.cluster_at(ordinal).assigned().expect("D1");
        directory.remove(assigned, ordinal, cluster_of);
        cluster.assign(None);
        directory.shrink(cluster_of);
        state.flags -= Flags::IDLE | Flags::SINGLES | Flags::CURRENT;
        true
    }

    /// Look at clusters that were idle and not empty.
    fn discard_unneeded(&self, mut top: u32, discard_links: &mut Option<&mut dyn FnMut(Range<usize>)>) {
        while top != NIL {
            let ordinal = top - 1;
            let cluster = self.cluster_at(ordinal);
            let mut state = cluster.state.lock();
            top = cluster.next_idle.load(Ordering::Relaxed);
            state.flags -= Flags::IDLE;
            let trusting = self.planted.is(Bug::TidyTrustsQueue);
            if state.entries == 0 || trusting {
                self.discard_links(ordinal, &mut state, discard_links);
            }
            if state.shared == 0 {
                self.discard_counts(ordinal, &mut state);
            }
            if state.is_idle() {
                // Emptied since it was looked at, or its links may not go now: the next one is to find it.
                state.flags |= Flags::IDLE;
                super::cluster::push(&self.idle, ordinal, &cluster.next_idle);
            }
        }
    }

    /// Give back the links of a cluster that has some and whose slots need none.
    fn discard_links(&self, ordinal: u32, state: &mut State, discard: &mut Option<&mut dyn FnMut(Range<usize>)>) {
        if state.has(Flags::LINKS)
            && let Some(discard) = discard
        {
            discard(owners(ordinal));
            state.flags -= Flags::LINKS;
            self.linked.sub(1);
        }
    }

    /// The same for counts.
    fn discard_counts(&self, ordinal: u32, state: &mut State) {
        if state.has(Flags::COUNTS) {
            self.counts.discard(owners(ordinal));
            state.flags -= Flags::COUNTS;
            self.counted.sub(1);
        }
    }

    /// Give back all that was kept for clusters that are assigned to nothing, and have their ordinals used again.
    fn give_back(&self, first: u32, discard_links: &mut Option<&mut dyn FnMut(Range<usize>)>) -> usize {
        let (mut top, mut last, mut given) = (first, NIL, 0);
        while top != NIL {
            let ordinal = top - 1;
            let cluster = self.cluster_at(ordinal);
            // Nobody writes these words; a refusal (locked memory) costs memory only.
            let _ = self.words.discard(owners(ordinal));
            let mut state = cluster.state.lock();
            debug_assert_eq!((state.entries, state.shared), (0, 0), "S2: an empty cluster");
            self.discard_links(ordinal, &mut state, discard_links);
            self.discard_counts(ordinal, &mut state);
            drop(state);
            (last, top) = (top, cluster.next_idle.load(Ordering::Relaxed));
            given += 1;
        }
        if given > 0 {
            let mut directory = self.directory.lock();
            self.cluster_at(last - 1).next_idle.store(directory.free, Ordering::Relaxed);
            directory.free = first;
            directory.free_len += given;
        }
        given as usize
    }
}
