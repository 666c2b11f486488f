//! Free, `dup` and `put`: what a slot held is given back.
//!
//! In two steps, so that nothing slow happens under the cluster lock: [`take_out`](Core::take_out) empties the slot under the
//! lock, which makes what was in it the caller's; [`give_back`](Core::give_back) returns object or place, with what was charged for it, afterwards.
//!
//! No allocator, no thread-local with a destructor: these run in handlers of faults on client memory.

use super::Error;
use super::core::{Core, Zswap};
use super::lru::Which;
use super::places::Held;
use crate::memcg::ObjcgId;
use crate::swap::{Content, Entry, SlotGuard, SlotWord};
use crate::units::{Owner, Slot};

impl Zswap {
    /// Empty a slot, whatever its number of references. Returns whether it held a page.
    ///
    /// # Locks
    /// Cluster and LRU; then class and arena, or the device's map.
    pub fn free(&self, slot: Slot) -> bool {
        self.core.free(slot)
    }

    /// One more reference to a slot (a fork shares its pages). Returns how many there are.
    ///
    /// # Errors
    /// [`Error::NotStored`] for an empty slot, [`Error::TooManyReferences`] past 2^32 - 1.
    ///
    /// # Locks
    /// The cluster.
    pub fn dup(&self, slot: Slot) -> Result<u32, Error> {
        let mut guard = self.core.slots.lock(slot).ok_or(Error::NotStored { slot })?;
        if guard.word().is_empty() {
            return Err(Error::NotStored { slot });
        }
        guard.add_reference().ok_or(Error::TooManyReferences { slot })
    }

    /// References to a slot; 0 where nothing is stored. A hint where others change them.
    pub fn references(&self, slot: Slot) -> u32 {
        self.core.slots.lock(slot).map_or(0, |guard| guard.references())
    }

    /// One reference less; the last one empties the slot. Returns how many are left.
    ///
    /// # Errors
    /// [`Error::NotStored`] for an empty slot.
    ///
    /// # Locks
    /// As [`free`](Self::free).
    pub fn put(&self, slot: Slot) -> Result<u32, Error> {
        let guard = self.core.slots.lock(slot).ok_or(Error::NotStored { slot })?;
        if guard.word().is_empty() {
            return Err(Error::NotStored { slot });
        }
        Ok(self.core.put(guard))
    }
}

impl Core {
    pub(super) fn free(&self, slot: Slot) -> bool {
        let Some(mut guard) = self.slots.lock(slot) else { return false };
        let owner = guard.owner();
        let old = self.take_out(&mut guard);
        drop(guard);
        self.give_back(owner, old);
        !old.is_empty()
    }

    /// One reference less to what the slot holds; the last one empties it. Returns how many are left.
    pub(super) fn put(&self, mut guard: SlotGuard<'_>) -> u32 {
        let left = guard.drop_reference();
        if left > 0 {
            return left;
        }
        let owner = guard.owner();
        let old = self.take_out(&mut guard);
        drop(guard);
        self.give_back(owner, old);
        0
    }

    /// Empty the slot: off the LRU, its flight cancelled. What was in it now belongs to the caller.
    #[must_use = "give it back"]
    pub(super) fn take_out(&self, guard: &mut SlotGuard<'_>) -> Held {
        let old = guard.take();
        let payer = match old.content() {
            Content::Physical(_) => self.lru.take_payer(guard.owner()),
            _ => ObjcgId::NONE,
        };
        if old.writeback() {
            self.inflight.cancel(guard.owner());
        }
        self.off_the_lru(guard.owner(), old);
        self.counters.leave(old);
        Held { word: old, payer }
    }

    /// Take the entry of a word that was just taken out off its list. Under the cluster lock, so that the slot's next entry
    /// cannot be meant.
    pub(super) fn off_the_lru(&self, owner: Owner, old: SlotWord) {
        if let Some(entry) = old.entry() {
            let objcg = self.pool.objcg_at(owner, entry.location).expect("an object out of its cell stays where it is");
            self.lru.del(owner, &self.tree, objcg, self.which_list(entry));
        }
    }

    /// The list of its memcg that an entry belongs on.
    pub(super) fn which_list(&self, entry: Entry) -> Which {
        Which { node: self.pool.home_node(entry.location), raw: entry.is_raw() && self.policy.raw_first }
    }
}
