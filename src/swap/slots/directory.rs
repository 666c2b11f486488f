//! [`Directory`]: which ordinal a virtual cluster has. Who looks for one that is there takes no lock.
//!
//! ```text
//!   sections, one behind the other in reserved address space; that of `level` is in use, the others are zero
//!   | 2^least | 2^(least+1)      | 2^(least+2)                          | ..
//!             +------------------+
//!             | . e . . e e . .  |    open addressing, at most three quarters full, neighbour after neighbour
//!             +------------------+
//!   entry     | fragment 12 | ordinal + 1  20 |        0: free
//! ```
//!
//! An entry is half a word: the virtual cluster itself stands in the descriptor that the ordinal names, and is compared there. So
//! the directory costs 5.3 to 10.7 bytes per touched cluster, and what a reader finds is right at that moment whatever
//! happened to the entry that led there.
//!
//! - **D1** An entry names an ordinal whose descriptor names a virtual cluster that leads to it: from its home to the entry
//!   there is no free place. Exactly one entry of the section in use names it.
//! - **D2** Sections other than that in use are zero.
//! - **D3** Entries change under the lock. A reader without it may miss an entry that is being moved; he looks again with it. He
//!   cannot find a wrong one.
//!
//! Linear probing with deletion by moving entries back: Knuth, The Art of Computer Programming 3, 6.4, algorithm R.

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard, Rank, Table};
use std::io;
use std::ops::Range;

const ORDINAL_BITS: u32 = 20;
const ORDINAL_MASK: u32 = (1 << ORDINAL_BITS) - 1;
const FRAGMENT_BITS: u32 = 32 - ORDINAL_BITS;

/// Most ordinals that entries can name.
pub(super) const MAX_ORDINALS: usize = ORDINAL_MASK as usize;

/// The map from virtual clusters to ordinals.
#[derive(Debug)]
pub(super) struct Directory {
    entries: Table<AtomicU32>,
    /// log2 of the entries of the section in use.
    level: AtomicU32,
    /// log2 of the entries of the first section.
    least: u32,
    state: Mutex<State>,
}

/// Ordinals, and what guards changes of the entries.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Entries of the section in use.
    pub(super) len: u32,
    /// Ordinals ever used: those below.
    pub(super) used: u32,
    /// Top of the stack of ordinals to use again, plus one; chained by the descriptors.
    pub(super) free: u32,
    /// Ordinals on it.
    pub(super) free_len: u32,
}

/// The directory, locked.
pub(super) struct Locked<'a> {
    directory: &'a Directory,
    state: MutexGuard<'a, State>,
}

/// Fibonacci hashing. Nobody else chooses the numbers of clusters, so nobody can make them collide on purpose.
#[inline]
fn spread(cluster: u64) -> u64 {
    cluster.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Where an entry belongs in a section: the high bits, which are the good ones.
#[inline]
fn home(spread: u64, level: u32) -> usize {
    (spread >> (64 - level)) as usize
}

/// Other bits than those for the home of even the largest section.
#[inline]
fn fragment(spread: u64) -> u32 {
    (spread >> (64 - MAX_LEVEL - FRAGMENT_BITS)) as u32 & ((1 << FRAGMENT_BITS) - 1)
}

/// The section that [`MAX_ORDINALS`] would need.
const MAX_LEVEL: u32 = ORDINAL_BITS + 1;

fn entry(cluster: u64, ordinal: u32) -> u32 {
    fragment(spread(cluster)) << ORDINAL_BITS | (ordinal + 1)
}

fn ordinal_of(entry: u32) -> Option<u32> {
    (entry & ORDINAL_MASK).checked_sub(1)
}

/// Whether so many entries are more than a section should hold: three quarters.
fn is_full(len: usize, level: u32) -> bool {
    4 * len > 3 << level
}

// === impl Directory ===

impl Directory {
    /// An empty one with room for `ordinals`, that begins with `1 << least` entries.
    ///
    /// # Errors
    /// When there is no address space for its entries.
    pub(super) fn reserve(ordinals: usize, least: u32) -> io::Result<Self> {
        assert!(ordinals <= MAX_ORDINALS && (1..=MAX_LEVEL).contains(&least));
        let most = (least..).find(|&level| !is_full(ordinals, level)).expect("some section is large enough");
        let entries = Table::reserve((2 << most) - (1 << least))?;
        Ok(Directory {
            entries,
            level: AtomicU32::new(least),
            least,
            state: Mutex::new(Rank::Directory, State::default()),
        })
    }

    fn section(&self, level: u32) -> Range<usize> {
        let start = (1 << level) - (1 << self.least);
        start..start + (1 << level)
    }

    /// The ordinal of `cluster`, if it is found without the lock. `is_it` looks into a descriptor. `None` proves nothing: look again
    /// with the lock.
    #[inline]
    pub(super) fn find(&self, cluster: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        // Acquire pairs with the release in `resize`: the entries of the section are seen.
        let level = self.level.load(Ordering::Acquire);
        let spread = spread(cluster);
        let (first, mask, fragment) = (self.section(level).start, (1 << level) - 1, fragment(spread));
        let mut at = home(spread, level);
        // A section is never full, but what is seen of one that is being left may be.
        for _ in 0..=mask {
            // Acquire pairs with the release in `insert`: the descriptor is made and says whose it is.
            let entry = self.entries.get(first + at).load(Ordering::Acquire);
            let ordinal = ordinal_of(entry)?;
            if entry >> ORDINAL_BITS == fragment && is_it(ordinal) {
                return Some(ordinal);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Lock it.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked { directory: self, state: self.state.lock() }
    }

    /// Bytes of memory of the section in use.
    pub(super) fn bytes(&self) -> usize {
        (size_of::<u32>() << self.level.load(Ordering::Relaxed)).next_multiple_of(crate::units::FRAME_SIZE)
    }
}

// === impl Locked ===

impl std::ops::Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Locked<'_> {
    fn level(&self) -> u32 {
        self.directory.level.load(Ordering::Relaxed)
    }

    fn at(&self, level: u32, at: usize) -> &AtomicU32 {
        self.directory.entries.get(self.directory.section(level).start + at)
    }

    fn get(&self, level: u32, at: usize) -> u32 {
        self.at(level, at).load(Ordering::Relaxed)
    }

    /// The ordinal of `cluster`: `cluster_of` says what the descriptor of an ordinal names.
    pub(super) fn find(&self, cluster: u64, cluster_of: impl Fn(u32) -> u64) -> Option<u32> {
        self.directory.find(cluster, |ordinal| cluster_of(ordinal) == cluster)
    }

    /// Enter a cluster that is not there. Its descriptor names it already.
    pub(super) fn insert(&mut self, cluster: u64, ordinal: u32, cluster_of: impl Fn(u32) -> u64) {
        if is_full(self.len as usize + 1, self.level()) {
            self.resize(self.level() + 1, cluster_of);
        }
        self.place(self.level(), cluster, ordinal);
        self.len += 1;
    }

    fn place(&self, level: u32, cluster: u64, ordinal: u32) {
        let mut at = home(spread(cluster), level);
        while self.get(level, at) != 0 {
            at = (at + 1) & ((1 << level) - 1);
        }
        // Release pairs with the acquire in `find`.
        self.at(level, at).store(entry(cluster, ordinal), Ordering::Release);
    }

    /// Take a cluster out that is there, while its descriptor still names it.
    pub(super) fn remove(&mut self, cluster: u64, ordinal: u32, cluster_of: impl Fn(u32) -> u64) {
        let level = self.level();
        let mask = (1 << level) - 1;
        let gone = entry(cluster, ordinal);
        let mut free = home(spread(cluster), level);
        while self.get(level, free) != gone {
            assert!(self.get(level, free) != 0, "D1: cluster {cluster} is in the directory");
            free = (free + 1) & mask;
        }
        // Entries behind it that would no longer be found move up.
        let mut at = free;
        loop {
            at = (at + 1) & mask;
            let Some(ordinal) = ordinal_of(self.get(level, at)) else { break };
            let home = home(spread(cluster_of(ordinal)), level);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(free) & mask {
                self.at(level, free).store(self.get(level, at), Ordering::Release);
                free = at;
            }
        }
        self.at(level, free).store(0, Ordering::Release);
        self.len -= 1;
    }

    /// Go back to a smaller section if this one is nearly empty.
    pub(super) fn shrink(&mut self, cluster_of: impl Fn(u32) -> u64) {
        let len = self.len as usize;
        if is_full(4 * len, self.level()) {
            return;
        }
        // So that the next few neither fill it nor leave it again.
        if let Some(level) = (self.directory.least..self.level()).find(|&level| !is_full(2 * len, level)) {
            self.resize(level, cluster_of);
        }
    }

    /// Move all entries to the section of another level.
    fn resize(&mut self, to: u32, cluster_of: impl Fn(u32) -> u64) {
        let from = self.level();
        for at in 0..1 << from {
            if let Some(ordinal) = ordinal_of(self.get(from, at)) {
                self.place(to, cluster_of(ordinal), ordinal);
            }
        }
        // Release pairs with the acquire in `find`.
        self.directory.level.store(to, Ordering::Release);
        // Late readers find nothing there, and look again with the lock. Zeroed, for the kernel may refuse (locked memory).
        for at in 0..1 << from {
            self.at(from, at).store(0, Ordering::Relaxed);
        }
        let _ = self.directory.entries.discard(self.directory.section(from));
    }

    /// Check D1 and D2.
    ///
    /// # Panics
    /// When one is broken.
    pub(super) fn assert_valid(&self, cluster_of: impl Fn(u32) -> u64) {
        let level = self.level();
        let mut len = 0;
        for at in 0..1 << level {
            let Some(ordinal) = ordinal_of(self.get(level, at)) else { continue };
            len += 1;
            let cluster = cluster_of(ordinal);
            assert_eq!(self.find(cluster, &cluster_of), Some(ordinal), "D1: cluster {cluster} is found");
        }
        assert_eq!(len, self.len, "the directory's length counts its entries");
        assert!(!is_full(self.len as usize, level), "a section is at most three quarters full");
        let mut others = (self.directory.least..level).flat_map(|level| self.directory.section(level));
        let zero = others.all(|at| self.directory.entries.get(at).load(Ordering::Relaxed) == 0);
        assert!(zero, "D2: a section that is not in use is zero");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Clusters of ordinals, and the directory over them.
    struct Model {
        directory: Directory,
        clusters: RefCell<Vec<u64>>,
        expected: BTreeMap<u64, u32>,
    }

    impl Model {
        fn new(ordinals: usize, least: u32) -> Self {
            let directory = Directory::reserve(ordinals, least).unwrap();
            Model { directory, clusters: RefCell::new(vec![u64::MAX; ordinals]), expected: BTreeMap::new() }
        }

        fn insert(&mut self, cluster: u64) {
            let used: Vec<u32> = self.expected.values().copied().collect();
            let ordinal = (0..).find(|ordinal| !used.contains(ordinal)).unwrap();
            self.clusters.borrow_mut()[ordinal as usize] = cluster;
            self.directory.lock().insert(cluster, ordinal, |o| self.clusters.borrow()[o as usize]);
            self.expected.insert(cluster, ordinal);
        }

        fn remove(&mut self, cluster: u64) {
            let ordinal = self.expected.remove(&cluster).unwrap();
            let mut locked = self.directory.lock();
            locked.remove(cluster, ordinal, |o| self.clusters.borrow()[o as usize]);
            self.clusters.borrow_mut()[ordinal as usize] = u64::MAX;
            locked.shrink(|o| self.clusters.borrow()[o as usize]);
        }

        fn check(&self) {
            let cluster_of = |o: u32| self.clusters.borrow()[o as usize];
            self.directory.lock().assert_valid(cluster_of);
            for (&cluster, &ordinal) in &self.expected {
                assert_eq!(self.directory.find(cluster, |o| cluster_of(o) == cluster), Some(ordinal));
            }
            for absent in 0..300 {
                if !self.expected.contains_key(&absent) {
                    assert_eq!(self.directory.find(absent, |o| cluster_of(o) == absent), None);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn clusters_are_found_exactly_while_they_are_there(steps in prop::collection::vec(0u64..200, 1..400)) {
            let mut model = Model::new(200, 2);
            for cluster in steps {
                if model.expected.contains_key(&cluster) { model.remove(cluster) } else { model.insert(cluster) }
            }
            model.check();
            let left: Vec<u64> = model.expected.keys().copied().collect();
            for cluster in left {
                model.remove(cluster);
            }
            model.check();
            prop_assert_eq!(model.directory.level.load(Ordering::Relaxed), 2, "an empty directory is small again");
        }
    }

    #[test]
    fn as_many_clusters_as_there_are_ordinals_fit() {
        let mut model = Model::new(97, 3);
        for k in 0..97 {
            model.insert(k << 40 | k);
        }
        model.check();
    }
}
