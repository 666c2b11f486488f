//! [`Slots`]: virtual slots without end, over words that exist where slots were touched.
//!
//! ```text
//!   slot     | virtual cluster | offset |
//!                   |
//!        directory (one entry per touched cluster)
//!                   v
//!   owner    |   ordinal       | offset |  ---> words[owner]   one page of words per ordinal
//!                   |
//!                   +---> clusters[ordinal]    lock, which virtual cluster, live slots
//! ```
//!
//! Invariants:
//! - **S1** The directory maps a virtual cluster to an ordinal exactly while `clusters[ordinal].assigned` names it.
//! - **S2** `live` of a cluster is the number of its words that are not empty. A cluster with live words is not reaped.
//! - **S3** Words change under their cluster's lock, by atomic operations, because compaction changes locations without it.
//! - **S4** A cluster that is empty and assigned is on the stack of empty clusters, or will find itself there when reaped.
//!
//! Memory of words is never unmapped: a stale owner reads a word of another cluster or an empty one, and whoever reads
//! without the lock checks afterwards that the cluster is still the one meant.
//!
//! It does not know what an object or a place is; it keeps words.

use super::{Error, SlotWord};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{CLUSTER_SLOTS, GrowTable, Mutex, MutexGuard, Rank, RwLock, Table};
use crate::units::{MAX_SLOTS_IN_USE, Owner, Slot, SlotRange};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Slots that can be named; ranges are handed out below it and never again.
const VIRTUAL_END: u64 = 1 << 63;

/// End of the stack of empty clusters (indexes are stored plus one).
const NIL: u32 = 0;

/// All slots of one instance.
#[derive(Debug)]
pub struct Slots {
    /// The first slot never handed out.
    next: AtomicU64,
    /// Which ordinal a virtual cluster has. Written when a cluster is first touched and when it is reaped.
    directory: RwLock<Directory>,
    /// The words by owner; see S3.
    words: Table<AtomicU64>,
    clusters: GrowTable<Cluster>,
    /// Top of the stack of clusters that became empty, plus one. Pushed under the cluster's lock, taken whole.
    empty: AtomicU32,
}

#[derive(Debug, Default)]
struct Directory {
    ordinals: HashMap<u64, u32, BuildHasherDefault<Spread>>,
    /// Ordinals that were reaped, to be used first.
    free: Vec<u32>,
    /// Ordinals ever used.
    used: u32,
}

/// Hashes the number of a virtual cluster. Nobody else chooses those, so nobody can make them collide on purpose.
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of clusters are hashed");
    }

    #[inline]
    fn write_u64(&mut self, cluster: u64) {
        // Fibonacci hashing, and the high bits, which are the good ones, to both ends: the map looks at both.
        let spread = cluster.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ spread >> 32;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Cluster {
    state: Mutex<State>,
    /// The virtual cluster plus one, 0 for none. Changes under `state` and the directory; read without either.
    assigned: AtomicU64,
    /// Next on the stack of empty clusters, plus one.
    next_empty: AtomicU32,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            state: Mutex::new(Rank::Cluster, State { live: 0, stores: 0, queued: false }),
            assigned: AtomicU64::new(0),
            next_empty: AtomicU32::new(NIL),
        }
    }
}

#[derive(Debug)]
struct State {
    /// Words that are not empty.
    live: u32,
    /// Contents stored, ever; the low bits are the last one's generation.
    stores: u64,
    /// On the stack of empty clusters.
    queued: bool,
}

/// A slot whose cluster is locked.
pub struct SlotGuard<'a> {
    slots: &'a Slots,
    cluster: &'a Cluster,
    state: MutexGuard<'a, State>,
    slot: Slot,
    owner: Owner,
}

fn split(slot: Slot) -> (u64, usize) {
    (slot.0 / CLUSTER_SLOTS as u64, (slot.0 % CLUSTER_SLOTS as u64) as usize)
}

fn owner(ordinal: u32, offset: usize) -> Owner {
    Owner(ordinal * CLUSTER_SLOTS as u32 + offset as u32)
}

// === impl Slots ===

impl Slots {
    /// Slots of which at most `in_use` (rounded up to whole clusters) may be in touched clusters at once.
    ///
    /// # Errors
    /// [`Error::AddressSpace`] when there is no room for their words.
    pub fn new(in_use: u64) -> Result<Self, Error> {
        // The last owners stay unused: the LRU's links need values for "end" and "off".
        let in_use = in_use.clamp(1, MAX_SLOTS_IN_USE - CLUSTER_SLOTS as u64).next_multiple_of(CLUSTER_SLOTS as u64);
        Ok(Slots {
            next: AtomicU64::new(0),
            directory: RwLock::new(Rank::Directory, Directory::default()),
            words: Table::reserve(in_use as usize)
                .map_err(|source| Error::AddressSpace { bytes: in_use * 8, source })?,
            clusters: GrowTable::new(),
            empty: AtomicU32::new(NIL),
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

    /// The owner of a slot in a touched cluster. A hint: confirm with [`is_owner`](Self::is_owner) while the word is known
    /// not to be empty, or lock.
    ///
    /// # Locks
    /// Directory, shared.
    #[inline]
    pub fn owner(&self, slot: Slot) -> Option<Owner> {
        let (cluster, offset) = split(slot);
        let ordinal = *self.directory.read().ordinals.get(&cluster)?;
        Some(owner(ordinal, offset))
    }

    /// Whether `owner` is (still) the owner of `slot`.
    #[inline]
    pub fn is_owner(&self, slot: Slot, owner: Owner) -> bool {
        let (cluster, offset) = split(slot);
        owner.0 as usize % CLUSTER_SLOTS == offset
            // Acquire pairs with the release in `make` and `reap`: the words read afterwards are of that assignment.
            && self.cluster(owner).assigned.load(Ordering::Acquire) == cluster + 1
    }

    /// The word of an owner as it is now. Acquire: what it names was written before.
    #[inline]
    pub fn word(&self, owner: Owner) -> SlotWord {
        SlotWord::from_raw(self.words.get(owner.0 as usize).load(Ordering::Acquire))
    }

    /// Replace the word of an owner if it is still `old`. For compaction, which may hold no cluster lock; `old` and `new`
    /// are both not empty.
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
        self.clusters.get(owner.0 as usize / CLUSTER_SLOTS).expect("owners come from touched clusters")
    }

    /// Lock the cluster of a slot, if it was touched.
    ///
    /// # Locks
    /// Directory, shared, then the cluster.
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
        let (wanted, _) = split(slot);
        (cluster.assigned.load(Ordering::Relaxed) == wanted + 1).then_some(SlotGuard {
            slots: self,
            cluster,
            state,
            slot,
            owner,
        })
    }

    /// Lock the cluster an owner belongs to now; `None` when it was reaped.
    pub fn lock_owner(&self, owner: Owner) -> Option<SlotGuard<'_>> {
        let cluster = self.cluster(owner);
        let state = cluster.state.lock();
        let assigned = cluster.assigned.load(Ordering::Relaxed).checked_sub(1)?;
        let slot = Slot(assigned * CLUSTER_SLOTS as u64 + u64::from(owner.0) % CLUSTER_SLOTS as u64);
        Some(SlotGuard { slots: self, cluster, state, slot, owner })
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
        let (virtual_cluster, _) = split(slot);
        let mut directory = self.directory.write();
        if directory.ordinals.contains_key(&virtual_cluster) {
            return Ok(());
        }
        let limit = self.capacity() / CLUSTER_SLOTS;
        let ordinal = match directory.free.pop() {
            Some(ordinal) => ordinal,
            None if (directory.used as usize) < limit => {
                directory.used += 1;
                directory.used - 1
            }
            None => {
                drop(directory);
                // Perhaps some are empty and nobody has come round to reap them.
                return if self.reap() > 0 {
                    Ok(())
                } else {
                    Err(Error::TooManySlots { in_use: self.capacity() as u64 })
                };
            }
        };
        let cluster = self.clusters.get_or_make(ordinal as usize);
        let _state = cluster.state.lock();
        // Release pairs with the acquire in `is_owner`.
        cluster.assigned.store(virtual_cluster + 1, Ordering::Release);
        directory.ordinals.insert(virtual_cluster, ordinal);
        Ok(())
    }

    /// Take back clusters in which nothing is stored; returns how many. Not for signal handlers: it allocates and gives
    /// memory back.
    ///
    /// # Locks
    /// Directory, then each cluster.
    pub fn reap(&self) -> usize {
        self.reap_with(|_| ())
    }

    /// As [`reap`](Self::reap). `emptied` gets the owners of each cluster while nobody has them, to give back what else is kept
    /// for them.
    ///
    /// # Locks
    /// As [`reap`](Self::reap); `emptied` runs under none.
    pub fn reap_with(&self, mut emptied: impl FnMut(Range<usize>)) -> usize {
        // Acquire pairs with the release of the pushes. The stack is taken whole, so no element can come back under us.
        let mut top = self.empty.swap(NIL, Ordering::Acquire);
        let mut reaped = Vec::new();
        {
            let mut directory = self.directory.write();
            while top != NIL {
                let ordinal = top - 1;
                let cluster = self.clusters.get(ordinal as usize).expect("pushed clusters exist");
                let mut state = cluster.state.lock();
                top = cluster.next_empty.load(Ordering::Relaxed);
                state.queued = false;
                if state.live == 0
                    && let Some(assigned) = cluster.assigned.load(Ordering::Relaxed).checked_sub(1)
                {
                    cluster.assigned.store(0, Ordering::Release);
                    directory.ordinals.remove(&assigned);
                    reaped.push(ordinal);
                }
            }
        }
        for &ordinal in &reaped {
            // Unassigned and not yet free to take: nobody writes these words. A refusal (locked memory) costs memory only.
            let first = ordinal as usize * CLUSTER_SLOTS;
            let _ = self.words.discard(first..first + CLUSTER_SLOTS);
            emptied(first..first + CLUSTER_SLOTS);
        }
        self.directory.write().free.extend(&reaped);
        reaped.len()
    }

    /// Ordinals of the clusters that are touched now.
    pub fn touched(&self) -> usize {
        self.directory.read().ordinals.len()
    }

    /// Call `f` for every slot that holds something. For checks at quiet points: it locks cluster by cluster.
    pub fn for_each(&self, mut f: impl FnMut(Slot, Owner, SlotWord)) {
        let ordinals: Vec<u32> = self.directory.read().ordinals.values().copied().collect();
        for ordinal in ordinals {
            for offset in 0..CLUSTER_SLOTS {
                if let Some(guard) = self.lock_owner(owner(ordinal, offset))
                    && !guard.word().is_empty()
                {
                    let (slot, owner, word) = (guard.slot(), guard.owner(), guard.word());
                    drop(guard);
                    f(slot, owner, word);
                }
            }
        }
    }

    /// Check S1, S2 and S4 at a quiet point.
    ///
    /// # Panics
    /// When one is broken.
    pub fn assert_valid(&self) {
        let directory = self.directory.read();
        assert_eq!(
            directory.ordinals.len() + directory.free.len(),
            directory.used as usize,
            "every ordinal is assigned or free"
        );
        for (&virtual_cluster, &ordinal) in &directory.ordinals {
            let cluster = self.clusters.get(ordinal as usize).expect("S1: the directory names clusters that exist");
            let state = cluster.state.lock();
            assert_eq!(
                cluster.assigned.load(Ordering::Relaxed),
                virtual_cluster + 1,
                "S1: cluster {ordinal} is assigned to what the directory says"
            );
            let live = (0..CLUSTER_SLOTS).filter(|&o| !self.word(owner(ordinal, o)).is_empty()).count();
            assert_eq!(state.live as usize, live, "S2: live of cluster {ordinal} counts its words");
            for offset in 0..CLUSTER_SLOTS {
                let word = self.word(owner(ordinal, offset));
                assert_eq!(
                    word.is_empty(),
                    word.count() == 0,
                    "a slot has references exactly while it holds something"
                );
            }
        }
        for &ordinal in &directory.free {
            let cluster = self.clusters.get(ordinal as usize).expect("free ordinals were used once");
            assert_eq!(cluster.assigned.load(Ordering::Relaxed), 0, "S1: free ordinals are assigned to nothing");
        }
    }
}

// === impl SlotGuard ===

impl SlotGuard<'_> {
    /// The slot that was asked for.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Its dense number.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Its word. Its location may change at any time; nothing else does while the guard lives.
    pub fn word(&self) -> SlotWord {
        self.slots.word(self.owner)
    }

    /// A generation for a new content of the slot.
    pub fn next_generation(&mut self) -> u8 {
        self.state.stores += 1;
        self.state.stores as u8
    }

    /// How many contents the cluster's slots have got so far: while it is the same, so is what is in them, or they are empty.
    pub fn stores(&self) -> u64 {
        self.state.stores
    }

    /// Empty the slot and return what was in it. From here on compaction cannot move the object: it is the caller's.
    #[must_use = "what was in the slot must be given back"]
    pub fn take(&mut self) -> SlotWord {
        // AcqRel: a relocation that came first is seen, with the bytes it wrote.
        let old = self.slots.words.get(self.owner.0 as usize).swap(0, Ordering::AcqRel);
        if old != 0 {
            self.state.live -= 1;
            if self.state.live == 0 && !self.state.queued {
                self.queue_as_empty();
            }
        }
        SlotWord::from_raw(old)
    }

    /// Put a content into the slot, which is empty.
    pub fn put(&mut self, word: SlotWord) {
        debug_assert!(self.word().is_empty() && !word.is_empty());
        // Release pairs with `word`: the object's bytes come before the word that names it.
        self.slots.words.get(self.owner.0 as usize).store(word.raw(), Ordering::Release);
        self.state.live += 1;
    }

    /// Change a word that is not empty into another that is not, whatever compaction does meanwhile; returns the old one.
    pub fn update(&mut self, mut f: impl FnMut(SlotWord) -> SlotWord) -> SlotWord {
        let mut old = self.word();
        loop {
            match self.slots.exchange(self.owner, old, f(old)) {
                Ok(()) => return old,
                Err(now) => old = now,
            }
        }
    }

    fn queue_as_empty(&mut self) {
        self.state.queued = true;
        let me = self.owner.0 / CLUSTER_SLOTS as u32 + 1;
        let mut top = self.slots.empty.load(Ordering::Relaxed);
        loop {
            self.cluster.next_empty.store(top, Ordering::Relaxed);
            // Release pairs with the acquire in `reap`.
            match self.slots.empty.compare_exchange(top, me, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;

    fn same(word: u64) -> SlotWord {
        SlotWord::new(Content::SameFilled(word)).unwrap()
    }

    #[test]
    fn ranges_are_never_handed_out_twice_and_share_no_cluster() {
        let slots = Slots::new(1 << 20).unwrap();
        let a = slots.reserve(1).unwrap();
        let b = slots.reserve(1000).unwrap();
        assert_eq!(b.base().0 / CLUSTER_SLOTS as u64, a.base().0 / CLUSTER_SLOTS as u64 + 1);
        assert!(slots.reserve(0).is_err());
        assert!(slots.reserve(u64::MAX).is_err());
        assert!(slots.reserve(1 << 62).is_ok());
        assert!(slots.reserve(1 << 62).is_err(), "the numbers are used up");
    }

    #[test]
    fn touched_clusters_cost_and_empty_ones_are_reaped() {
        let slots = Slots::new(1 << 20).unwrap();
        let range = slots.reserve(1 << 40).unwrap();
        let far: Vec<Slot> = (0..100).map(|k| range.get(k << 33).unwrap()).collect();
        for (k, &slot) in far.iter().enumerate() {
            slots.lock_or_make(slot).unwrap().put(same(k as u64));
        }
        assert_eq!(slots.touched(), 100);
        slots.assert_valid();
        for (k, &slot) in far.iter().enumerate() {
            assert_eq!(slots.lock(slot).unwrap().take(), same(k as u64));
        }
        let mut emptied = Vec::new();
        assert_eq!(slots.reap_with(|owners| emptied.push(owners)), 100);
        emptied.sort_by_key(|owners| owners.start);
        let expected: Vec<_> = (0..100).map(|k| k * CLUSTER_SLOTS..(k + 1) * CLUSTER_SLOTS).collect();
        assert_eq!(emptied, expected, "each cluster's owners are given once");
        assert_eq!(slots.touched(), 0);
        assert!(slots.lock(far[3]).is_none());
        slots.lock_or_make(far[3]).unwrap().put(same(1));
        slots.assert_valid();
    }

    #[test]
    fn a_cluster_in_use_again_is_not_reaped() {
        let slots = Slots::new(1 << 20).unwrap();
        let slot = slots.reserve(1).unwrap().base();
        let mut guard = slots.lock_or_make(slot).unwrap();
        guard.put(same(1));
        let _ = guard.take();
        guard.put(same(2));
        drop(guard);
        assert_eq!(slots.reap(), 0);
        assert_eq!(slots.lock(slot).unwrap().take(), same(2));
        assert_eq!(slots.reap(), 1);
        slots.assert_valid();
    }

    #[test]
    fn slots_past_the_bound_are_refused_until_some_are_empty() {
        let slots = Slots::new(2 * CLUSTER_SLOTS as u64).unwrap();
        let n = CLUSTER_SLOTS as u64;
        let range = slots.reserve(4 * n).unwrap();
        for k in 0..2 {
            slots.lock_or_make(range.get(k * n).unwrap()).unwrap().put(same(k));
        }
        let third = range.get(2 * n).unwrap();
        assert!(matches!(slots.lock_or_make(third), Err(Error::TooManySlots { .. })));
        let _ = slots.lock(range.get(0).unwrap()).unwrap().take();
        slots.lock_or_make(third).unwrap().put(same(3));
        assert_eq!(slots.touched(), 2);
        slots.assert_valid();
    }

    #[test]
    fn a_slot_never_handed_out_is_refused() {
        let slots = Slots::new(1 << 20).unwrap();
        assert!(matches!(slots.lock_or_make(Slot(0)), Err(Error::NotReserved { .. })));
        assert!(slots.lock(Slot(0)).is_none());
    }

    #[test]
    fn threads_touching_one_cluster_agree_on_its_ordinal() {
        let slots = Slots::new(1 << 20).unwrap();
        let range = slots.reserve(64 * CLUSTER_SLOTS as u64).unwrap();
        std::thread::scope(|s| {
            for t in 0..4u64 {
                let slots = &slots;
                s.spawn(move || {
                    for round in 0..200u64 {
                        let slot = range.get((round * 7 % 64) * CLUSTER_SLOTS as u64 + t).unwrap();
                        let mut guard = slots.lock_or_make(slot).unwrap();
                        assert!(guard.take().is_empty());
                        guard.put(same(t + round));
                        drop(guard);
                        if round % 3 == 0 {
                            slots.reap();
                        }
                        assert_eq!(slots.lock(slot).unwrap().take(), same(t + round));
                    }
                });
            }
        });
        slots.reap();
        slots.assert_valid();
        assert_eq!(slots.touched(), 0);
    }
}
