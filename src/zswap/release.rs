//! Free, `dup` and `put`: what a slot held is given back.
//!
//! In two steps, so that nothing slow happens under the cluster lock: [`take_out`](Core::take_out) empties the slot under the
//! lock, which makes what was in it the caller's; [`give_back`](Core::give_back) returns object or place afterwards, with what was
//! charged for it.
//!
//! No allocator, no thread-local with a destructor: these run in handlers of faults on client memory.

use super::Error;
use super::core::{Core, Zswap};
use super::lru::Which;
use super::places::PlaceCharge;
use crate::swap::{Content, Entry, SlotGuard, SlotWord};
use crate::sync::Bug;
use crate::units::{Owner, Slot};

/// What a slot held, that is now the caller's to give back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) word: SlotWord,
}

impl Held {
    /// Nothing.
    pub(super) const EMPTY: Held = Held { word: SlotWord::EMPTY };

    pub(super) fn is_empty(&self) -> bool {
        self.word.is_empty()
    }
}

impl Zswap {
    /// Empty a slot, whatever its number of references. Returns whether it held a page.
    ///
    /// # Locks
    /// Cluster and LRU; then class and arena, or the device's segments.
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
        if old.writeback() {
            self.inflight.cancel(guard.owner());
        }
        self.off_the_lru(guard.owner(), old);
        self.counters.leave(old);
        Held { word: old }
    }

    /// Return what a slot held. Outside the cluster lock.
    pub(super) fn give_back(&self, owner: Owner, held: Held) {
        match held.word.content() {
            Content::Compressed(entry) | Content::Pattern(entry) => self.pool.free(owner, entry.location, entry.length),
            Content::Physical(place) => {
                let payer = self.devices.free(place);
                if !self.planted.is(Bug::PlaceKeepsCharge) {
                    drop(PlaceCharge::of(&self.tree, payer, place));
                }
            }
            Content::SameFilled(_) | Content::Lost(_) | Content::Empty => {}
        }
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
