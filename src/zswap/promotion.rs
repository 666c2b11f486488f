//! Promotion: the object of a place goes into the pool, compressed as it is.
//!
//! ```text
//!   malloc, write            charged to who pays for the place; no lock held
//!   cluster lock { word still names the place?  publish, LRU, word: place -> object }      no: the object is given back
//!   free the place           with what it was charged
//! ```
//!
//! - **P1** Whatever limit refuses the object, the page stays where it is: nothing is written back for it.
//! - **P2** References to the slot, codec and payer are those of the place.

use super::core::Core;
use super::flights::Replaced;
use super::payload::Payload;
use crate::memcg::{Memcg, ObjcgId};
use crate::swap::{Content, ObjectRef, Place, SlotGuard};
use crate::sync::{self, Bug, Step, StepFailed, thread::Backoff};
use crate::units::{NodeId, Owner};
use crate::zsmalloc;

/// What became of a promotion.
#[derive(Debug)]
#[must_use]
pub(super) enum Promoted {
    /// The page is in the pool.
    Done,
    /// The slot's word does not name the place any more.
    Overtaken,
    /// A limit, or a lack of memory, keeps it out of the pool.
    Refused(zsmalloc::Error),
    /// A fail point.
    Failed(StepFailed),
}

impl Core {
    /// Bring the object of `place`, which `owner`'s word named, into the pool.
    ///
    /// # Locks
    /// Those of an allocation; then cluster and LRU; then the device's.
    pub(super) fn promote(&self, owner: Owner, place: Place, object: &ObjectRef<'_>) -> Promoted {
        sync::assert_no_lock_held("bringing a page into the pool");
        let Some(memcg) = self.who_pays(owner, place) else { return Promoted::Overtaken };
        let (payload, bytes) = (Payload::of(object), object.bytes);
        let node = NodeId(object.label.node.min(self.tree.nodes() as u8 - 1));
        let mut uncommitted = match self.pool.malloc(Some(&memcg), bytes.len(), node) {
            Ok(uncommitted) => uncommitted,
            Err(refused) => return Promoted::Refused(refused),
        };
        if let Err(failed) = self.steps.reach(Step::PromotionAllocated) {
            return Promoted::Failed(failed);
        }
        uncommitted.write(bytes).expect("as many bytes as were just asked for");
        if let Err(failed) = self.steps.reach(Step::PromotionWritten) {
            return Promoted::Failed(failed);
        }
        let objcg = uncommitted.objcg();
        let trusting = self.planted.is(Bug::PromotionSkipsSecondLook);
        let Some(mut guard) = self.slots.lock_owner(owner).filter(|guard| trusting || names(guard, place)) else {
            return Promoted::Overtaken;
        };
        // Pinned until its word is in place: compaction would find a cell that does not name it yet.
        let published = uncommitted.publish(owner);
        let generation = guard.next_generation();
        let switched = self.make_entry(owner, objcg, payload, published.location(), generation);
        if guard.word().writeback() {
            self.inflight.cancel(owner); // it was on its way to another place
        }
        let old = Replaced::switch(self, &mut guard, switched);
        drop(guard);
        // After the locks: a walker that found the lists empty looks again under the tree lock before it passes by.
        self.tree.enlist(objcg);
        drop(published);
        self.steps.pass(Step::PromotionSwitched);
        drop(old);
        self.steps.pass(Step::PromotionFreed);
        Promoted::Done
    }

    /// The memcg that pays for the place, if the owner's word names it still: its parent's by the time that memcg is gone.
    fn who_pays(&self, owner: Owner, place: Place) -> Option<Memcg> {
        let mut backoff = Backoff::new();
        loop {
            let guard = self.slots.lock_owner(owner).filter(|guard| names(guard, place))?;
            // The place keeps the objcg while the lock keeps the place.
            let objcg = self.tree.borrow(ObjcgId::from_raw(self.devices.payer(place)));
            drop(guard);
            if let Some(memcg) = self.tree.get(self.tree.group_of(objcg.id())) {
                return Some(memcg);
            }
            backoff.wait(); // it is being removed
        }
    }
}

/// Whether the slot's word names the place.
pub(super) fn names(guard: &SlotGuard<'_>, place: Place) -> bool {
    guard.word().content() == Content::Physical(place)
}
