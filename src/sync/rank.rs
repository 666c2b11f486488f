//! The lock order of the crate, written once and asserted in debug builds.
//!
//! A thread may take a lock only if its rank comes after every rank it holds. Two locks of one rank may be
//! held together only where [`Mutex::lock_after`](super::Mutex::lock_after) says in which order. Callbacks
//! under [`Rank::Class`] use atomics only, and no system call happens under it.

use std::cell::Cell;

/// Ranks, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// The gate of a VM: shared for the moment in which the kernel is asked to take a guest's pages out or bring them in, alone for
    /// the moment in which it is asked what has changed. Nobody waits for anything else under it.
    Changes,
    /// Guest memory: lists of VMs and of regions, the queue of staged runs. Never held while the kernel is asked for anything, while
    /// a page is compressed or read, or while guest memory is touched.
    Guest,
    /// The worker's mailbox: requests and the stop flag.
    Worker,
    /// The memcg tree: children, names, lists of objcgs. Never taken to charge.
    Tree,
    /// Which cluster single slots are allocated from next.
    Refill,
    /// Directory of clusters: which virtual cluster has which ordinal.
    Directory,
    /// One cluster of slots: the words of its slots change under it (compaction alone may change a word's
    /// location without it, by compare-exchange).
    Cluster,
    /// The LRU lists of one memcg. Child before parent.
    Lru,
    /// Which devices there are, in which order, and whose turn it is; never held across I/O.
    Devices,
    /// Pools of I/O buffers and batches; never held across I/O.
    Buffers,
    /// A device's map of free space.
    Device,
    /// One size class on one node: its zspages, their fullness lists, their entries.
    Class,
    /// Free lists of the arrays of object entries.
    Entries,
    /// Free lists of handle cells.
    Cells,
    /// The arena: free runs, warm frames, node capacities.
    Arena,
    /// Leaves: statistics, histograms. Nothing is taken under them.
    Leaf,
}

const RANKS: usize = Rank::Leaf as usize + 1;

#[cfg(loom)]
loom::thread_local! {
    static HELD: Cell<[u8; RANKS]> = Cell::new([0; RANKS]);
}

#[cfg(shuttle)]
shuttle::thread_local! {
    static HELD: Cell<[u8; RANKS]> = Cell::new([0; RANKS]);
}

// `const` and without a destructor: reading it from a signal handler neither allocates nor registers one.
#[cfg(not(any(loom, shuttle)))]
thread_local! {
    static HELD: Cell<[u8; RANKS]> = const { Cell::new([0; RANKS]) };
}

fn update(change: impl FnOnce(&mut [u8; RANKS])) {
    HELD.with(|held| {
        let mut ranks = held.get();
        change(&mut ranks);
        held.set(ranks);
    });
}

/// Note that a lock of `rank` is about to be taken. With `nested`, one of the same rank may be held.
#[inline]
#[track_caller]
pub(super) fn acquire(rank: Rank, nested: bool) {
    if cfg!(debug_assertions) {
        update(|held| {
            let first_bad = rank as usize + usize::from(nested);
            if let Some(above) = held[first_bad..].iter().position(|&n| n > 0) {
                panic!("lock order: taking {rank:?} while holding rank {}", first_bad + above);
            }
            held[rank as usize] += 1;
        });
    }
}

/// Note that a lock of `rank` was given back.
#[inline]
pub(super) fn release(rank: Rank) {
    if cfg!(debug_assertions) {
        update(|held| held[rank as usize] -= 1);
    }
}

/// In debug builds, panic when this thread holds a lock of `rank`.
#[inline]
#[track_caller]
pub fn assert_not_held(rank: Rank) {
    if cfg!(debug_assertions) {
        HELD.with(|held| assert!(held.get()[rank as usize] == 0, "{rank:?} is held across a call that forbids it"));
    }
}

/// In debug builds, panic when this thread holds any ranked lock: before I/O, codecs, client memory.
#[inline]
#[track_caller]
pub fn assert_no_lock_held(doing: &str) {
    if cfg!(debug_assertions) {
        HELD.with(|held| {
            let ranks = held.get();
            assert!(ranks.iter().all(|&n| n == 0), "a lock is held while {doing}: {ranks:?}");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::Mutex;
    use super::*;

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "ranks are asserted in debug builds only")]
    #[should_panic(expected = "lock order")]
    fn locks_against_the_order_panic() {
        let outer = Mutex::new(Rank::Tree, ());
        let inner = Mutex::new(Rank::Class, ());
        let _inner = inner.lock();
        let _outer = outer.lock();
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "ranks are asserted in debug builds only")]
    #[should_panic(expected = "lock order")]
    fn two_locks_of_one_rank_panic_unless_said_to_nest() {
        let a = Mutex::new(Rank::Lru, ());
        let b = Mutex::new(Rank::Lru, ());
        let _a = a.lock();
        let _b = b.lock();
    }

    #[test]
    fn child_and_parent_nest() {
        let child = Mutex::new(Rank::Lru, ());
        let parent = Mutex::new(Rank::Lru, ());
        let held = child.lock();
        drop(parent.lock_after(&held));
        drop(held);
        assert_no_lock_held("testing");
    }
}
