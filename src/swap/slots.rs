//! [`Slots`]: virtual slots without end, over words that exist where slots were touched.
//!
//! ```text
//!   slot     | virtual cluster | offset |
//!                   |
//!        directory (an entry per touched cluster)
//!                   v
//!   owner    |   ordinal       | offset |  ---> words[owner]   a page of words per ordinal
//!                   |                           counts[owner]  a page per ordinal with a slot that many refer to
//!                   +---> clusters[ordinal]     lock, which virtual cluster, live slots
//! ```
//!
//! Invariants:
//! - **S1** The directory maps a virtual cluster to an ordinal exactly while the descriptor of the ordinal is assigned to it.
//! - **S2** `live` of a cluster is the number of its words that are not empty, `entries` of those that need their link, `shared` of
//!   those whose references stand in `counts`. A cluster with live words is not taken back.
//! - **S3** Words change under their cluster's lock, by atomic operations, because compaction changes locations without it.
//! - **S4** A cluster that has something to give back, and is assigned, is on the stack of idle clusters (`idle.rs`), or will find
//!   itself there.
//!
//! Memory of words is never unmapped: a stale owner reads a word of another cluster or an empty one, and whoever reads
//! without the lock checks afterwards that the cluster is still the one meant.
//!
//! What a touched cluster costs: 4096 bytes of words; a descriptor of 48 and 5.3 to 10.7 in the directory; and where it has a
//! slot that many refer to, 4096 of counts.
//!
//! It does not know what an object or a place is; it keeps words.

mod cluster;
mod counts;
mod directory;
mod guard;
mod idle;
mod singles;
#[cfg(all(test, not(loom)))]
mod tests;

pub use counts::MAX_REFERENCES;
pub use guard::SlotGuard;

use self::cluster::{Cluster, Flags, NIL};
use self::counts::Counts;
use self::directory::{Directory, MAX_ORDINALS};
use self::guard::needs_link;
use self::singles::Singles;
use super::word::MANY;
use super::{Error, SlotWord};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Bug, CLUSTER_SLOTS, ChunkTable, Planted, Table, Tally};
use crate::units::{MAX_SLOTS_IN_USE, Owner, Slot, SlotRange};

/// Slots that can be named; ranges are handed out below it and never again.
const VIRTUAL_END: u64 = 1 << 63;

/// log2 of the entries the directory begins with: a page of them.
const DIRECTORY_LEVEL: u32 = (2 * CLUSTER_SLOTS).ilog2();

/// Clusters whose descriptors are made ahead: a chunk of them.
const AHEAD: usize = if cfg!(loom) { 1 } else { 64 };

/// Others that may touch a cluster at the same time.
const OTHERS: usize = if cfg!(loom) { 1 } else { 16 };

/// All slots of one instance.
#[derive(Debug)]
pub struct Slots {
    /// The first slot never handed out.
    next: AtomicU64,
    /// Which ordinal a virtual cluster has. Changes when a cluster is first touched and when it is taken back.
    directory: Directory,
    /// The words by owner; see S3.
    words: Table<AtomicU64>,
    counts: Counts,
    clusters: ChunkTable<Cluster>,
    /// Top of the stack of idle clusters, plus one. Pushed under the cluster's lock, taken whole.
    idle: AtomicU32,
    singles: Singles,
    /// Clusters whose slots have links, and counts.
    linked: Tally,
    counted: Tally,
    planted: Planted,
}

/// Bytes of memory that slots take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotMemory {
    /// Clusters that are touched now.
    pub touched_clusters: u64,
    /// Clusters with memory for links: those of which a slot needed one since they were last given back.
    pub linked_clusters: u64,
    /// Slot words: a page per touched cluster.
    pub words_bytes: u64,
    /// Counts of slots that more refer to than fit in their words: a page per cluster with such a slot.
    pub counts_bytes: u64,
    /// The directory of clusters and their descriptors; these stay as many as there once were at the same time.
    pub directory_bytes: u64,
}

impl SlotMemory {
    /// Links: a page per cluster that has them.
    pub fn links_bytes(&self) -> u64 {
        self.linked_clusters * (CLUSTER_SLOTS * size_of::<u64>()) as u64
    }
}

fn split(slot: Slot) -> (u64, usize) {
    (slot.0 / CLUSTER_SLOTS as u64, (slot.0 % CLUSTER_SLOTS as u64) as usize)
}

fn owner(ordinal: u32, offset: usize) -> Owner {
    Owner(ordinal * CLUSTER_SLOTS as u32 + offset as u32)
}

impl Slots {
    /// Slots of which at most `in_use` (rounded up to whole clusters) may be in touched clusters at once.
    ///
    /// # Errors
    /// [`Error::AddressSpace`] when there is no room for their words.
    pub fn new(in_use: u64, planted: Planted) -> Result<Self, Error> {
        Self::with_directory(in_use, DIRECTORY_LEVEL, planted)
    }

    /// The same, with a directory that begins with `1 << level` entries: for models of its growth.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[doc(hidden)]
    pub fn with_directory(in_use: u64, level: u32, planted: Planted) -> Result<Self, Error> {
        // The last owners stay unused: the LRU's links need values for "end" and "off".
        let most = MAX_SLOTS_IN_USE.min((MAX_ORDINALS * CLUSTER_SLOTS) as u64) - CLUSTER_SLOTS as u64;
        let in_use = in_use.clamp(1, most).next_multiple_of(CLUSTER_SLOTS as u64) as usize;
        let refuse = |source| Error::AddressSpace { bytes: in_use as u64 * 16, source };
        Ok(Slots {
            next: AtomicU64::new(0),
            directory: Directory::reserve(in_use / CLUSTER_SLOTS, level).map_err(refuse)?,
            words: Table::reserve(in_use).map_err(refuse)?,
            counts: Counts::reserve(in_use).map_err(refuse)?,
            clusters: ChunkTable::reserve(in_use / CLUSTER_SLOTS).map_err(refuse)?,
            idle: AtomicU32::new(NIL),
            singles: Singles::new(in_use / CLUSTER_SLOTS),
            linked: Tally::new(),
            counted: Tally::new(),
            planted,
        })
    }

    /// Owners there can be: every owner is below.
    pub fn capacity(&self) -> usize {
        self.words.capacity()
    }

    /// Hand out `n` slots that were never handed out. They cost nothing until touched. Ranges share no cluster.
    ///
    /// # Errors
    /// [`Error::Reserve`] for no slots, or more than there are numbers.
    pub fn reserve(&self, n: u64) -> Result<SlotRange, Error> {
        let refuse = || Error::Reserve { asked: n };
        if n == 0 {
            return Err(refuse());
        }
        let span = n.checked_next_multiple_of(CLUSTER_SLOTS as u64).ok_or_else(refuse)?;
        // Relaxed: the number alone is taken; nothing is published by it.
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(span).filter(|&end| end <= VIRTUAL_END)
            })
            .map(|base| SlotRange::new(Slot(base), n))
            .map_err(|_| refuse())
    }

    /// Whether the slot was ever handed out.
    pub fn is_reserved(&self, slot: Slot) -> bool {
        slot.0 < self.next.load(Ordering::Relaxed)
    }

    // --- looking for a slot ---

    /// The owner of a slot in a touched cluster. A hint: confirm with [`is_owner`](Self::is_owner) while the word is known
    /// not to be empty, or lock.
    ///
    /// # Locks
    /// Directory, for a slot of a cluster that seems not to be touched.
    #[inline]
    pub fn owner(&self, slot: Slot) -> Option<Owner> {
        let (cluster, offset) = split(slot);
        let is_it = |ordinal| self.clusters.get(ordinal as usize).is_some_and(|c| c.assigned() == Some(cluster));
        match self.directory.find(cluster, is_it) {
            Some(ordinal) => Some(owner(ordinal, offset)),
            None => self.owner_of_missing(slot),
        }
    }

    #[cold]
    fn owner_of_missing(&self, slot: Slot) -> Option<Owner> {
        if self.planted.is(Bug::LookupTrustsMiss) {
            return None;
        }
        let (cluster, offset) = split(slot);
        let ordinal = self.directory.lock().find(cluster, |ordinal| self.cluster_of(ordinal))?;
        Some(owner(ordinal, offset))
    }

    /// Whether `owner` is (still) the owner of `slot`.
    #[inline]
    pub fn is_owner(&self, slot: Slot, owner: Owner) -> bool {
        let (cluster, offset) = split(slot);
        owner.0 as usize % CLUSTER_SLOTS == offset
            && (self.cluster(owner).assigned() == Some(cluster) || self.planted.is(Bug::LookupTrustsDirectory))
    }

    /// The word of an owner as it is now. Acquire: what it names was written before.
    #[inline]
    pub fn word(&self, owner: Owner) -> SlotWord {
        SlotWord::from_raw(self.words.get(owner.0 as usize).load(Ordering::Acquire))
    }

    /// Replace the word of an owner if it is still `old`. For compaction, which may hold no cluster lock and changes the location
    /// alone; `old` and `new` are both not empty.
    #[inline]
    pub fn exchange(&self, owner: Owner, old: SlotWord, new: SlotWord) -> Result<(), SlotWord> {
        debug_assert!(!old.is_empty() && !new.is_empty());
        self.words
            .get(owner.0 as usize)
            // Release: the bytes at the new location come before the word that names it. Pairs with `word`.
            .compare_exchange(old.raw(), new.raw(), Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(SlotWord::from_raw)
    }

    fn cluster(&self, owner: Owner) -> &Cluster {
        self.cluster_at(owner.0 / CLUSTER_SLOTS as u32)
    }

    fn cluster_at(&self, ordinal: u32) -> &Cluster {
        self.clusters.get(ordinal as usize).expect("ordinals come from touched clusters")
    }

    /// The virtual cluster of an ordinal in the directory, which is locked.
    fn cluster_of(&self, ordinal: u32) -> u64 {
        self.cluster_at(ordinal).assigned().expect("D1: an entry names a descriptor that is assigned")
    }

    // --- locking one ---

    /// Lock the cluster of a slot, if it was touched.
    ///
    /// # Locks
    /// The cluster; before it the directory, where the cluster seems not to be touched.
    pub fn lock(&self, slot: Slot) -> Option<SlotGuard<'_>> {
        loop {
            let owner = self.owner(slot)?;
            if let Some(guard) = self.lock_as(slot, owner) {
                return Some(guard);
            }
        }
    }

    fn lock_as(&self, slot: Slot, owner: Owner) -> Option<SlotGuard<'_>> {
        let cluster = self.cluster(owner);
        let state = cluster.state.lock();
        let is_it = cluster.assigned() == Some(split(slot).0);
        is_it.then(|| SlotGuard::new(self, cluster, state, slot, owner))
    }

    /// Lock the cluster an owner belongs to now; `None` when it was taken back.
    pub fn lock_owner(&self, owner: Owner) -> Option<SlotGuard<'_>> {
        let cluster = self.cluster(owner);
        let state = cluster.state.lock();
        let slot = Slot(cluster.assigned()? * CLUSTER_SLOTS as u64 + u64::from(owner.0) % CLUSTER_SLOTS as u64);
        Some(SlotGuard::new(self, cluster, state, slot, owner))
    }

    /// Lock the cluster of a slot, made if this is the first touch. Allocates.
    ///
    /// # Errors
    /// [`Error::NotReserved`] for a slot never handed out, [`Error::TooManySlots`] when all owners are in use.
    pub fn lock_or_make(&self, slot: Slot) -> Result<SlotGuard<'_>, Error> {
        if !self.is_reserved(slot) {
            return Err(Error::NotReserved { slot });
        }
        loop {
            if let Some(guard) = self.lock(slot) {
                return Ok(guard);
            }
            self.make(slot)?;
        }
    }

    fn make(&self, slot: Slot) -> Result<(), Error> {
        let (cluster, _) = split(slot);
        let cluster_of = |ordinal| self.cluster_of(ordinal);
        let mut directory = self.directory.lock();
        if directory.find(cluster, cluster_of).is_some() {
            return Ok(());
        }
        let limit = self.capacity() / CLUSTER_SLOTS;
        let ordinal = match directory.free.checked_sub(1) {
            Some(ordinal) => {
                directory.free = self.cluster_at(ordinal).next_idle.load(Ordering::Relaxed);
                directory.free_len -= 1;
                ordinal
            }
            None if (directory.used as usize) < limit => {
                directory.used += 1;
                directory.used - 1
            }
            None => {
                drop(directory);
                // Perhaps some are empty and nobody has come round to take them back.
                return if self.reap() > 0 {
                    Ok(())
                } else {
                    Err(Error::TooManySlots { in_use: self.capacity() as u64 })
                };
            }
        };
        let descriptor = self.clusters.get_or_make(ordinal as usize);
        let mut state = descriptor.state.lock();
        descriptor.assign(Some(cluster));
        directory.insert(cluster, ordinal, cluster_of);
        // Links are kept for it where who gave it back could not discard them, and may not be needed.
        if state.has(Flags::LINKS) {
            state.flags |= Flags::IDLE;
            cluster::push(&self.idle, ordinal, &descriptor.next_idle);
        }
        Ok(())
    }

    /// Have descriptors there of clusters that will be touched next: a chunk more than now. Allocates.
    pub fn make_ahead(&self) {
        let next = self.used() as usize + AHEAD;
        if next < self.capacity() / CLUSTER_SLOTS {
            let _ = self.clusters.get_or_make(next);
        }
        // Chunks have no gaps.
        let _ = self.clusters.get_or_make((self.used() as usize).min(self.capacity() / CLUSTER_SLOTS - 1));
    }

    /// Whether [`lock_or_make`](Self::lock_or_make) of this slot will not allocate: its cluster is there, or the next descriptors are,
    /// also if some others come first.
    pub fn is_made_ahead(&self, slot: Slot) -> bool {
        let (most, next) = (self.capacity() / CLUSTER_SLOTS - 1, self.used() as usize + OTHERS);
        self.owner(slot).is_some() || self.clusters.get(next.min(most)).is_some()
    }

    // --- all of them ---

    /// Clusters that are touched now.
    pub fn touched(&self) -> usize {
        self.directory.lock().len as usize
    }

    /// Bytes of memory that slots take. Exact at a quiet point, after a [`tidy`](Self::tidy).
    pub fn memory(&self) -> SlotMemory {
        let directory = self.directory.lock();
        let (touched, used) = (u64::from(directory.len), directory.used as usize);
        let page = (CLUSTER_SLOTS * size_of::<u64>()) as u64;
        SlotMemory {
            touched_clusters: touched,
            linked_clusters: self.linked.get(),
            words_bytes: touched * page,
            counts_bytes: self.counted.get() * page,
            directory_bytes: match used {
                0 => 0,
                _ => (self.directory.bytes() + ChunkTable::<Cluster>::bytes_of(used)) as u64,
            },
        }
    }

    /// Where the tables lie in this process, for tests that ask the kernel about them.
    #[doc(hidden)]
    pub fn tables(&self) -> [(&'static str, std::ops::Range<usize>); 4] {
        [
            ("words", self.words.addresses()),
            ("counts", self.counts.addresses()),
            ("directory", self.directory.addresses()),
            ("descriptors", self.clusters.addresses()),
        ]
    }

    /// The parts of a range that lie in touched clusters, a cluster each, in no order. Takes time by clusters of the range or by
    /// touched ones, whichever are fewer.
    pub fn parts_of(&self, range: SlotRange) -> impl Iterator<Item = SlotRange> {
        const N: u64 = CLUSTER_SLOTS as u64;
        let (start, end) = (range.base().0, range.base().0 + range.len());
        let (first, last) = (start / N, end.div_ceil(N));
        let used = self.used();
        // By what is asked for, or by what there is.
        let by_ordinal = u64::from(used) < last - first;
        let clusters = (0..if by_ordinal { used.into() } else { last - first }).filter_map(move |k| match by_ordinal {
            true => self.cluster_at(k as u32).assigned(),
            false => self.owner(Slot((first + k) * N)).map(|_| first + k),
        });
        clusters.filter_map(move |cluster| {
            let (start, end) = (start.max(cluster * N), end.min((cluster + 1) * N));
            (start < end).then(|| SlotRange::new(Slot(start), end - start))
        })
    }

    /// Owners that were ever handed out lie in clusters below this.
    fn used(&self) -> u32 {
        self.directory.lock().used
    }

    /// Call `f` for every slot that holds something. For checks at quiet points: it locks cluster by cluster.
    pub fn for_each(&self, mut f: impl FnMut(Slot, Owner, SlotWord)) {
        for ordinal in 0..self.used() {
            for offset in 0..CLUSTER_SLOTS {
                let Some(guard) = self.lock_owner(owner(ordinal, offset)) else { break };
                if !guard.word().is_empty() {
                    let (slot, owner, word) = (guard.slot(), guard.owner(), guard.word());
                    drop(guard);
                    f(slot, owner, word);
                }
            }
        }
    }

    /// Check S1, S2 and S4 and the directory, at a quiet point.
    ///
    /// # Panics
    /// When one is broken.
    pub fn assert_valid(&self) {
        let directory = self.directory.lock();
        directory.assert_valid(|ordinal| self.cluster_of(ordinal));
        assert_eq!(directory.len + directory.free_len, directory.used, "every ordinal is assigned or free");
        let (mut assigned, mut linked, mut counted) = (0, 0, 0);
        for ordinal in 0..directory.used {
            let cluster = self.cluster_at(ordinal);
            let state = cluster.state.lock();
            linked += u64::from(state.has(cluster::Flags::LINKS));
            counted += u64::from(state.has(cluster::Flags::COUNTS));
            let Some(virtual_cluster) = cluster.assigned() else {
                // Its words were given back: they are not looked at, which would map a page of zeroes.
                let numbers = (state.live, state.entries, state.shared);
                assert_eq!(numbers, (0, 0, 0), "S1: cluster {ordinal} is assigned to nothing");
                continue;
            };
            assigned += 1;
            let found = directory.find(virtual_cluster, |ordinal| self.cluster_of(ordinal));
            assert_eq!(found, Some(ordinal), "S1: an assigned cluster is in the directory");
            assert!(!state.is_idle() || state.has(cluster::Flags::IDLE), "S4: {ordinal} is on the stack");
            let words = (0..CLUSTER_SLOTS).map(|offset| self.word(owner(ordinal, offset)));
            let count = |of: fn(SlotWord) -> bool| words.clone().filter(|&word| of(word)).count() as u16;
            assert_eq!(state.live, count(|word| !word.is_empty()), "S2: live of cluster {ordinal}");
            assert_eq!(state.entries, count(needs_link), "S2: entries of cluster {ordinal}");
            assert_eq!(state.shared, count(|word| word.count() == MANY), "S2: shared slots of cluster {ordinal}");
            assert!(state.entries == 0 || state.has(cluster::Flags::LINKS), "S2: entries have links");
            for (offset, word) in words.clone().enumerate() {
                assert_eq!(
                    word.is_empty(),
                    word.count() == 0,
                    "a slot has references exactly while it holds something"
                );
                if state.has(cluster::Flags::COUNTS) {
                    let references = self.counts.get(owner(ordinal, offset));
                    assert_eq!(references >= MANY.into(), word.count() == MANY, "N1: of {offset} in cluster {ordinal}");
                }
            }
        }
        assert_eq!(assigned, directory.len, "S1: every assigned cluster is in the directory");
        assert_eq!((linked, counted), (self.linked.get(), self.counted.get()), "pages of links and of counts");
    }
}
