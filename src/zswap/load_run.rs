//! Runs of pages: [`load_run`](Zswap::load_run) reads those that lie on devices together.
//!
//! ```text
//!   slots       0    1    2    3    4    5 ...           up to 64 at a time
//!   1. words    pool dev  dev  same dev  -               those on devices, by their words under the cluster lock
//!   2. devices       [========================]          sorted by place, several requests at once; each page verified by its
//!                                                        own slot, and decoded where it goes
//!   3. the rest X              X         X (!)           one by one, as ever; also what step 2 left, whatever the reason
//! ```
//!
//! An object that was read in step 2 was what the word named in step 1: that is a moment of the call, so nothing is looked at
//! again. What was not read may have been freed, moved or replaced meanwhile, or may be lost: a load of its own finds out.
//!
//! As in loads: no allocator, no lock held over client memory.

use super::Error;
use super::core::{Core, Zswap};
use super::payload::Payload;
use crate::memcg::{Objcg, ObjcgId};
use crate::swap::{Content, Place, ReadOne};
use crate::sync;
use crate::units::{NodeId, PAGE_SIZE, Slot};

/// Pages read together at most: the bits of a word, and about 5 KiB of stack.
pub(super) const TOGETHER: usize = 64;

impl Zswap {
    /// Read consecutive slots. Returns how many pages were read, from the first on: where it is fewer than `pages`, the error is
    /// that of the first that was not. Later ones may have been read or not; their contents are unspecified.
    ///
    /// Those that lie on devices are read together, 64 at a time. Uses about 12 KiB of stack.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    ///
    /// # Locks
    /// As [`load`](Self::load).
    pub fn load_run(&self, first: Slot, pages: &mut [[u8; PAGE_SIZE]]) -> (usize, Result<(), Error>) {
        for (k, pages) in pages.chunks_mut(TOGETHER).enumerate() {
            let before = k * TOGETHER;
            let (read, result) = self.core.load_together(first + before as u64, pages);
            if result.is_err() {
                return (before + read, result);
            }
        }
        (pages.len(), Ok(()))
    }
}

impl Core {
    /// As [`Zswap::load_run`], for up to [`TOGETHER`] pages.
    fn load_together(&self, first: Slot, pages: &mut [[u8; PAGE_SIZE]]) -> (usize, Result<(), Error>) {
        let read = self.read_together(first, pages);
        for (k, page) in pages.iter_mut().enumerate() {
            if read & 1 << k == 0
                && let Err(error) = self.load(first + k as u64, page, true)
            {
                return (k, Err(error));
            }
        }
        (pages.len(), Ok(()))
    }

    /// Read those that lie on devices, if there are several. Which were read, as bits.
    fn read_together(&self, first: Slot, pages: &mut [[u8; PAGE_SIZE]]) -> u64 {
        sync::assert_no_lock_held("loading pages");
        let nothing = Place { device: 0, block: 0, blocks: 0, generation: 0 };
        let mut wanted = [ReadOne { place: nothing, slot: 0, key: 0 }; TOGETHER];
        let mut payers = [ObjcgId::NONE; TOGETHER];
        let (mut n, mut waits) = (0, None);
        for (key, payer) in payers[..pages.len()].iter_mut().enumerate() {
            let slot = first + key as u64;
            if let Some((place, who)) = self.on_a_device(slot, &mut waits) {
                (wanted[n], *payer) = (ReadOne { place, slot: slot.0, key }, who);
                n += 1;
            }
        }
        let wanted = &mut wanted[..n];
        if n < 2 {
            return 0;
        }
        let stalled = waits.map(|objcg| self.tree.stall(objcg.id()));
        let mut read = 0u64;
        for (device, objects) in self.devices.of_each(wanted) {
            device.read_many(objects, |key, object| {
                if self.decode(first + key as u64, Payload::of(&object), &mut pages[key]).is_ok() {
                    self.note_swapin(payers[key], NodeId(object.label.node));
                    read |= 1 << key;
                }
            });
        }
        drop(stalled);
        read
    }

    /// Where the page of a slot lies, if that is a device, and who pays for the place; the first of these is taken for the one
    /// who waits, for they are neighbours.
    fn on_a_device(&self, slot: Slot, waits: &mut Option<Objcg>) -> Option<(Place, ObjcgId)> {
        let owner = self.slots.owner(slot)?;
        if !matches!(self.slots.word(owner).content(), Content::Physical(_)) {
            return None; // a guess; the load that follows does not rest on it
        }
        let guard = self.slots.lock(slot)?;
        match guard.word().content() {
            Content::Physical(place) => {
                // The lock keeps the place, and so the payer.
                let payer = ObjcgId::from_raw(self.devices.payer(place));
                if sync::TIMES_LOADS && waits.is_none() {
                    *waits = Some(self.tree.borrow(payer));
                }
                Some((place, payer))
            }
            _ => None,
        }
    }
}
