//! Places on devices and who pays for them: [`PlaceCharge`].
//!
//! ```text
//!   launch    charge Swap, a reference to the objcg       refused: the entry stays in the pool
//!   write     the place's reverse word: the objcg's id
//!   land      the charge is the place's                   cancelled, failed: given back
//!   emptied   the place is freed, which says who paid; then uncharged, and the reference dropped
//! ```
//!
//! - **S1** The reverse word of a place that a slot's word names has the id of an objcg, which is charged the place's bytes as
//!   [`Counter::Swap`] and of which the place holds a reference.
//! - **S2** What a flight has charged ends with it: at the place, once a slot names that, or given back.
//!
//! A memcg that goes leaves its places to its parent with its objcgs: nothing is done for a place.

use super::core::Core;
use crate::memcg::{Counter, LimitHit, Memcg, MemcgEvent, Objcg, ObjcgId, Tree};
use crate::swap::{BLOCK_BYTES, Content, Geometry, Place};

/// Bytes of a place charged as Swap, and a reference to the objcg that pays; given back on drop unless a place takes it.
#[derive(Debug)]
pub(super) struct PlaceCharge<'a> {
    tree: &'a Tree,
    objcg: ObjcgId,
    bytes: u64,
}

/// Bytes that an object of so many takes on a device.
pub(super) fn place_bytes(payload: usize) -> u64 {
    (Geometry::blocks_for(payload) * BLOCK_BYTES) as u64
}

// === impl PlaceCharge ===

impl<'a> PlaceCharge<'a> {
    /// Charge the place of an object of `payload` bytes.
    ///
    /// # Errors
    /// When a `memory.swap.max` does not admit it.
    pub(super) fn take(tree: &'a Tree, objcg: Objcg, payload: usize) -> Result<Self, LimitHit> {
        let bytes = place_bytes(payload);
        tree.charge(objcg.id(), Counter::Swap, bytes)?;
        Ok(PlaceCharge { tree, objcg: objcg.into_id(), bytes })
    }

    /// What the place is charged to who its reverse word says pays; it is the caller's from now on.
    pub(super) fn of(tree: &'a Tree, payer: u32, place: Place) -> Self {
        PlaceCharge { tree, objcg: ObjcgId::from_raw(payer), bytes: place.len_bytes() as u64 }
    }

    /// Who pays.
    pub(super) fn objcg(&self) -> ObjcgId {
        self.objcg
    }

    /// How much.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Leave it to the place, whose reverse word names the payer. Under the cluster lock of the slot whose word is about to name
    /// the place, or does from now on.
    pub(super) fn leave_to(self, place: Place) {
        assert_eq!(self.bytes, place.len_bytes() as u64, "S1: the place's bytes are charged");
        std::mem::forget(self);
    }
}

impl Drop for PlaceCharge<'_> {
    fn drop(&mut self) {
        self.tree.uncharge(self.objcg, Counter::Swap, self.bytes);
        self.tree.put(self.objcg);
    }
}

/// A place was not to be had: at a `memory.swap.max`, or because no device has room.
pub(super) fn note_refused(memcg: &Memcg, at_limit: bool) {
    if at_limit {
        memcg.note(MemcgEvent::SwapMax);
    }
    memcg.note(MemcgEvent::SwapFail);
}

/// Handles on memcgs outlive the instance: what its places are charged is given back, as the pool does for its objects.
impl Drop for Core {
    fn drop(&mut self) {
        if self.counters.physical.get() == 0 {
            return;
        }
        self.slots.for_each(|_, _, word| {
            if let Content::Physical(place) = word.content() {
                let payer = self.devices.payer(place);
                drop(PlaceCharge::of(&self.tree, payer, place));
            }
        });
    }
}
