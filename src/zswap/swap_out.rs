//! [`swap_out`](Zswap::swap_out): a page that is charged as resident becomes its slot's content.
//!
//! ```text
//!                     resident page           in the pool                 on a device, or one repeated word
//!   memory.current        4096         ->     size of its slot      or          0
//!   zswap.current            0         ->     size of its slot      or          0
//! ```
//!
//! `memory.max` is not asked: what leaves memory never needs more of it. A store that asked for the object first and gave the page
//! back afterwards could not make room for a memcg at its limit.

use super::Error;
use super::core::{Core, Zswap};
use super::store::{Payer, Poor, Stored};
use crate::compress::CodecId;
use crate::memcg::{self, Memcg, Resident};
use crate::sync::atomic::Ordering;
use crate::sync::thread::Backoff;
use crate::units::{NodeId, PAGE_SIZE, Slot};

/// A page that could not be swapped out. It is charged as resident still.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct SwapOutError {
    /// What [`Zswap::store`] says.
    #[source]
    pub error: Error,
    /// The charge: all of it, through its memcg's own objcg.
    pub resident: Resident,
}

/// What may help a store [that is to win memory](Zswap::swap_out_to_win).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// Neither the allocator nor a device: inside the handler of a fault.
    None,
    /// A device, for a page that does not shrink. No room is made for those that do.
    Device,
    /// Whatever makes room.
    All,
}

impl Zswap {
    /// [`store`](Self::store) a page for the memcg that it is charged to as resident. The charge, of a page or more, goes over to
    /// what the page becomes; what that does not need is given back.
    ///
    /// When the memcg was removed, its parent has the charge by now, and the page.
    ///
    /// # Errors
    /// As [`store`](Self::store), but for limits of [`Counter::Memory`](memcg::Counter::Memory), which are not asked; and when less
    /// is charged than the page takes compressed. The error has the charge.
    ///
    /// # Locks
    /// As [`store`](Self::store).
    pub fn swap_out(
        &self,
        slot: Slot,
        resident: Resident,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
    ) -> Result<Stored, Box<SwapOutError>> {
        self.swap_out_with(Some(slot), resident, node, page, (false, Poor::Kept))
            .map(|(_, stored)| stored)
            .map_err(Box::new)
    }

    /// [`swap_out`](Self::swap_out) into a slot that nobody has, as [`store_new`](Self::store_new) does.
    ///
    /// # Errors
    /// As these two; then there is no slot.
    ///
    /// # Locks
    /// As [`store`](Self::store).
    #[cfg_attr(not(feature = "guest"), allow(dead_code, reason = "only memory that is served is moved elsewhere"))]
    pub(crate) fn swap_out_new(
        &self,
        resident: Resident,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
    ) -> Result<Slot, Box<SwapOutError>> {
        self.swap_out_with(None, resident, node, page, (false, Poor::Kept)).map(|(slot, _)| slot).map_err(Box::new)
    }

    /// [`swap_out`](Self::swap_out) that wins memory or is refused: a page that would not shrink by an eighth at least does not enter the
    /// pool. It is written to a device, or with [`Help::None`] refused at once.
    ///
    /// # Errors
    /// As [`swap_out`](Self::swap_out), or with less than [`Help::All`] as [`swap_out_unaided`](Self::swap_out_unaided); and
    /// [`Error::Incompressible`] for a page that hardly shrinks where no device takes it, or was asked ([`Unwritable::NotTried`]).
    ///
    /// # Locks
    /// As that one.
    ///
    /// [`Unwritable::NotTried`]: super::Unwritable::NotTried
    pub fn swap_out_to_win(
        &self,
        slot: Slot,
        resident: Resident,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
        help: Help,
    ) -> Result<Stored, SwapOutError> {
        let how = match help {
            Help::None => (true, Poor::Refused),
            Help::Device => (true, Poor::Written),
            Help::All => (false, Poor::Written),
        };
        self.swap_out_with(Some(slot), resident, node, page, how).map(|(_, stored)| stored)
    }

    /// [`swap_out`](Self::swap_out) inside the handler of a fault: it neither calls the allocator nor waits for a device. Where a
    /// limit is reached it makes no room, but says so as soon as the page is compressed.
    ///
    /// # Errors
    /// As `swap_out`, and [`Error::Unprepared`] where the allocator would have to be called.
    ///
    /// # Locks
    /// As [`store`](Self::store); none that anybody holds while calling the allocator, but for the codec's context, of which there are
    /// as many as threads may compress at once.
    pub fn swap_out_unaided(
        &self,
        slot: Slot,
        resident: Resident,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
    ) -> Result<Stored, SwapOutError> {
        self.swap_out_with(Some(slot), resident, node, page, (true, Poor::Kept)).map(|(_, stored)| stored)
    }

    /// Without a slot, into a new one.
    fn swap_out_with(
        &self,
        into: Option<Slot>,
        resident: Resident,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
        (unaided, poor): (bool, Poor),
    ) -> Result<(Slot, Stored), SwapOutError> {
        let (mut resident, mut backoff) = (resident, Backoff::new());
        loop {
            let (memcg, objcg, bytes) = match resident.into_prepaid() {
                Ok(parts) => parts,
                Err(same) => {
                    resident = same; // its memcg is being removed: in a moment it is its parent's
                    backoff.wait();
                    continue;
                }
            };
            // Ours until an object has taken it over: a device that panics does not take it along.
            let charge = Resident::from_prepaid(objcg, bytes);
            // A new one with each attempt: when one fails, the slot may be given to somebody else.
            let slot = match into.map_or_else(|| self.core.claim_new(), Ok) {
                Ok(slot) => slot,
                Err(error) => return Err(SwapOutError { error, resident: charge }),
            };
            let payer = Payer { memcg: &memcg, prepaid: Some(bytes), unaided, poor };
            if unaided && !self.core.is_prepared(&memcg, slot) {
                self.core.free(slot); // as whatever else fails
                return Err(SwapOutError { error: Error::Unprepared { slot }, resident: charge });
            }
            return match self.core.store_or_empty(slot, payer, node, page) {
                Ok(stored @ (Stored::Compressed { .. } | Stored::Incompressible | Stored::Pattern { .. })) => {
                    charge.forget();
                    Ok((slot, stored))
                }
                Ok(stored @ (Stored::SameFilled | Stored::WrittenThrough)) => Ok((slot, stored)),
                Err(Error::Memcg(memcg::Error::Offline { .. })) => {
                    resident = charge;
                    backoff.wait();
                    continue;
                }
                Err(error) => Err(SwapOutError { error, resident: charge }),
            };
        }
    }

    /// Have there what [`swap_out_unaided`](Self::swap_out_unaided) needs for pages of this memcg: its lists, its place on the roster
    /// (for good), the codec's tables, and room in the table of clusters for some 30 000 more slots that were never stored to. May
    /// allocate. To be called when the memcg begins to be used so, when the codec was changed, and whenever a store says that it is
    /// [not prepared](Error::Unprepared).
    ///
    /// # Errors
    /// When the memcg was removed.
    ///
    /// # Locks
    /// The tree lock; LRU.
    pub fn prepare_stores(&self, memcg: &Memcg) -> Result<(), Error> {
        if !memcg.tree().is(&self.core.tree) {
            return Err(Error::ForeignMemcg { path: memcg.path() });
        }
        memcg.stay_listed()?;
        self.core.lru.prepare(memcg.group());
        self.core.slots.make_ahead();
        let codec = self.core.codecs.by_id(CodecId::new(self.core.codec.load(Ordering::Relaxed)));
        let codec = codec.expect("the current codec is in the registry");
        // Those that are in use have been used.
        self.core.contexts.each_free(|context| _ = codec.compress(context, &[0; PAGE_SIZE]));
        Ok(())
    }
}

impl Core {
    /// Whether a page of the memcg can be stored in this slot without the allocator.
    fn is_prepared(&self, memcg: &Memcg, slot: Slot) -> bool {
        memcg.stays_listed() && self.lru.is_prepared(memcg.group()) && self.slots.is_made_ahead(slot)
    }
}
