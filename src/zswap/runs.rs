//! Many slots at once: `store_run`, `free_run`, `free_many`, and slots for clients without numbers of their own.
//!
//! ```text
//!   store_run   | new | new | new | refused: empty | empty | empty |        what of an older run lay there is gone (R-11, R-39)
//!   free_run    lock { empty 32 slots }  give 32 back  lock { .. }          one lock per 32 slots of a cluster
//! ```
//!
//! - **B1** After a run that was refused part of the way, the slots before that hold the new pages and all others of the run
//!   are empty: none holds a page of before the run.
//! - **B2** What slots held is given back outside the cluster lock, and from the stack: `free_run` and `free_many` call no
//!   allocator.

use super::Error;
use super::core::{Core, Zswap};
use super::release::Held;
use super::store::{Payer, Poor};
use crate::compress;
use crate::memcg::Memcg;
use crate::swap::{Content, SlotGuard, SlotWord};
use crate::sync::{self, Bug, CLUSTER_SLOTS};
use crate::units::{NodeId, Owner, PAGE_SIZE, Slot, SlotRange};

/// Slots that are emptied under one lock: some 50 ns each.
const AT_ONCE: usize = 32;

/// What slots of a cluster held, to be given back once it is unlocked.
struct HeldRun {
    held: [(Owner, Held); AT_ONCE],
    len: usize,
}

/// The rest of a run that is being stored. Dropped, it was refused: what it holds of before is emptied (B1).
struct Rest<'a> {
    core: &'a Core,
    first: Slot,
    len: u64,
}

impl Zswap {
    /// Store pages in consecutive slots; each as [`store`](Self::store) would. Returns how many were stored. Where it is fewer
    /// than `pages`, the error is that of the first that was not; that slot and all after it are empty then, and the caller's
    /// pages the only copies.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn store_run(
        &self,
        first: Slot,
        memcg: &Memcg,
        node: NodeId,
        pages: &[[u8; PAGE_SIZE]],
    ) -> (usize, Result<(), Error>) {
        let (core, payer) = (&*self.core, Payer { memcg, prepaid: None, unaided: false, poor: Poor::Kept });
        let mut rest = Rest { core, first, len: pages.len() as u64 };
        let mut done = 0;
        while let Some(page) = pages.get(done) {
            let stored = core.store_alike(rest.first, payer, &pages[done..]);
            let stored = stored.and_then(|alike| match alike {
                0 => core.store_or_empty(rest.first, payer, node, page).map(|_| 1),
                alike => Ok(alike),
            });
            let stored = match stored {
                Ok(stored) => stored,
                Err(error) => return (done, Err(error)),
            };
            done += stored;
            rest = rest.after(stored as u64);
        }
        (done, Ok(()))
    }

    /// Empty all slots of a range, whatever their numbers of references. Returns how many held a page. Takes time by slots of
    /// touched clusters, not by the length of the range; calls no allocator.
    ///
    /// # Locks
    /// As [`free`](Self::free); the cluster's once for 32 slots.
    pub fn free_run(&self, range: SlotRange) -> u64 {
        self.core.free_run(range)
    }

    /// Empty these slots, whatever their numbers of references. Returns how many held a page. Neighbours in one cluster are emptied
    /// together: sorted slots are the fastest. Calls no allocator.
    ///
    /// # Locks
    /// As [`free_run`](Self::free_run).
    pub fn free_many(&self, slots: &[Slot]) -> u64 {
        let cluster = |slot: &Slot| slot.0 / CLUSTER_SLOTS as u64;
        let parts = slots.chunk_by(|a, b| cluster(a) == cluster(b));
        parts.flat_map(|part| part.chunks(AT_ONCE)).map(|part| self.core.free_some(part.iter().copied())).sum()
    }

    /// Store a page in a slot that nobody has, and return the slot: for clients without numbers of their own. The slot is the
    /// caller's until its last reference is [put](Self::put), or it is [freed](Self::free), or a [`store`](Self::store) into
    /// it fails: then others may be given it, and its number must not be used again.
    ///
    /// # Errors
    /// As [`store`](Self::store), and [`swap::Error::TooManySlots`](crate::swap::Error::TooManySlots); then there is no slot.
    ///
    /// # Locks
    /// As [`store`](Self::store).
    ///
    /// # Examples
    /// ```
    /// # use zspool::units::{NodeId, Page};
    /// # use zspool::zswap::Zswap;
    /// # let zswap = Zswap::builder().build()?;
    /// let slot = zswap.store_new(&zswap.root(), NodeId(0), &Page::zeroed())?;
    /// zswap.load(slot, &mut Page::zeroed())?;
    /// assert_eq!(zswap.put(slot)?, 0); // the slot may be given to somebody else from here on
    /// # Ok::<(), zspool::zswap::Error>(())
    /// ```
    pub fn store_new(&self, memcg: &Memcg, node: NodeId, page: &[u8; PAGE_SIZE]) -> Result<Slot, Error> {
        let slot = self.core.claim_new()?;
        self.core.store_or_empty(slot, Payer { memcg, prepaid: None, unaided: false, poor: Poor::Kept }, node, page)?;
        Ok(slot)
    }
}

impl Core {
    /// A slot that nobody has. Until a page is in it, it holds one of zeroes; when a store into it fails it is empty again, and so nobody's.
    pub(super) fn claim_new(&self) -> Result<Slot, Error> {
        let word = SlotWord::new(Content::SameFilled(0)).expect("a small word fits");
        self.counters.enter(word);
        Ok(self.slots.claim(word).inspect_err(|_| self.counters.leave(word))?)
    }

    /// Store as many of the first pages as are same-filled and lie in one cluster, with one lock. None: the first is not.
    fn store_alike(&self, first: Slot, payer: Payer<'_>, pages: &[[u8; PAGE_SIZE]]) -> Result<usize, Error> {
        let in_cluster = CLUSTER_SLOTS - (first.0 % CLUSTER_SLOTS as u64) as usize;
        let word = |page| compress::same_filled(page).and_then(|word| SlotWord::new(Content::SameFilled(word)));
        let mut words = [SlotWord::EMPTY; AT_ONCE];
        let mut len = 0;
        for (to, page) in words.iter_mut().zip(pages.iter().take(in_cluster)) {
            let Some(word) = word(page) else { break };
            *to = word;
            len += 1;
        }
        // One page is no run.
        if len < 2 || !payer.memcg.tree().is(&self.tree) {
            return Ok(0);
        }
        sync::assert_no_lock_held("storing pages");
        payer.memcg.objcg()?;
        let mut guard = self.slots.lock_or_make(first)?;
        let mut held = HeldRun::EMPTY;
        for (&word, k) in words[..len].iter().zip(0..) {
            guard.go_to(first + k);
            held.take(self, &mut guard);
            guard.next_generation();
            self.counters.enter(word);
            guard.put(word);
        }
        drop(guard);
        held.give_back(self);
        Ok(len)
    }

    fn free_run(&self, range: SlotRange) -> u64 {
        self.slots.parts_of(range).map(|part| self.free_part(part)).sum()
    }

    /// Empty slots of one cluster.
    fn free_part(&self, part: SlotRange) -> u64 {
        let some = |k: u64| part.iter().skip(k as usize).take(AT_ONCE);
        (0..part.len()).step_by(AT_ONCE).map(|k| self.free_some(some(k))).sum()
    }

    /// Empty up to [`AT_ONCE`] slots of one cluster under its lock.
    fn free_some(&self, mut slots: impl Iterator<Item = Slot>) -> u64 {
        let Some(first) = slots.next() else { return 0 };
        let Some(mut guard) = self.slots.lock(first) else { return 0 };
        let mut held = HeldRun::EMPTY;
        held.take(self, &mut guard);
        for slot in slots {
            guard.go_to(slot);
            held.take(self, &mut guard);
        }
        drop(guard);
        held.give_back(self)
    }
}

// === impl HeldRun ===

impl HeldRun {
    const EMPTY: HeldRun = HeldRun { held: [(Owner(0), Held::EMPTY); AT_ONCE], len: 0 };

    /// Empty the slot of the guard.
    fn take(&mut self, core: &Core, guard: &mut SlotGuard<'_>) {
        if !guard.word().is_empty() {
            let held = core.take_out(guard);
            self.held[self.len] = (guard.owner(), held);
            self.len += 1;
        }
    }

    /// Give all of it back. Outside the cluster lock. Returns how many there were.
    fn give_back(self, core: &Core) -> u64 {
        for &(owner, held) in &self.held[..self.len] {
            core.give_back(owner, held);
        }
        self.len as u64
    }
}

// === impl Rest ===

impl Rest<'_> {
    /// What is left after so many were stored.
    fn after(self, stored: u64) -> Self {
        let rest = Rest { core: self.core, first: self.first + stored, len: self.len - stored };
        std::mem::forget(self);
        rest
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        if self.len > 0 && !self.core.planted.is(Bug::FailedStoreKeepsOlder) {
            self.core.free_run(SlotRange::new(self.first, self.len));
        }
    }
}
