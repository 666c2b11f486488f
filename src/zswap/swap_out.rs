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
use super::core::Zswap;
use super::store::{Payer, Stored};
use crate::memcg::{self, Resident};
use crate::sync::thread::Backoff;
use crate::units::{NodeId, PAGE_SIZE, Slot};

/// A page that could not be swapped out. It is charged as resident still.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct SwapOutError {
    /// What [`Zswap::store`] says.
    #[source]
    pub error: Error,
    /// The charge, untouched.
    pub resident: Resident,
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
            let payer = Payer { memcg: &memcg, prepaid: Some(bytes) };
            // Ours until an object has taken it over: a device that panics does not take it along.
            let charge = Resident::from_prepaid(objcg, bytes);
            return match self.core.store_or_empty(slot, payer, node, page) {
                Ok(stored @ (Stored::Compressed { .. } | Stored::Incompressible | Stored::Pattern { .. })) => {
                    charge.forget();
                    Ok(stored)
                }
                Ok(stored @ (Stored::SameFilled | Stored::WrittenThrough)) => Ok(stored),
                Err(Error::Memcg(memcg::Error::Offline { .. })) => {
                    resident = charge;
                    backoff.wait();
                    continue;
                }
                Err(error) => Err(Box::new(SwapOutError { error, resident: charge })),
            };
        }
    }
}
