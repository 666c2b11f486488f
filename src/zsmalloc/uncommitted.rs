//! [`Uncommitted`] and [`Published`]: the first steps of an object's life.
//!
//! ```text
//! malloc -> Uncommitted -- write --> Uncommitted -- publish --> Published -- drop --> an object like any other
//!               |                        |                          |
//!               +------- drop: slot and charge given back ----------+-- cancel: freed
//!
//! entry:     Reserved                 Reserved                  Live, a pin             Live
//! ```

use super::charge::Charge;
use super::entry::Entry;
use super::error::Error;
use super::heap::Spot;
use super::pool::{Cells, Pool};
use super::share::Shares;
use crate::memcg::ObjcgId;
use crate::sync::atomic::Ordering;
use crate::units::{Location, NodeId, Owner};

/// A slot that is charged and backed, and that only its holder knows.
#[derive(Debug)]
#[must_use = "dropped, it gives everything back"]
pub struct Uncommitted<'a, C: Cells> {
    pool: &'a Pool<C>,
    spot: Spot,
    len: usize,
    /// Taken out when published.
    charge: Option<Charge<'a>>,
    /// Every byte of the payload was written, so that none of an earlier object is left.
    written: bool,
}

/// An object that is live, and that compaction leaves where it is until its cell names it.
#[derive(Debug)]
pub struct Published<'a, C: Cells> {
    pool: &'a Pool<C>,
    spot: Spot,
    owner: Owner,
    len: usize,
}

// === impl Uncommitted ===

impl<'a, C: Cells> Uncommitted<'a, C> {
    pub(super) fn new(pool: &'a Pool<C>, spot: Spot, len: usize, charge: Charge<'a>) -> Self {
        Uncommitted { pool, spot, len, charge: Some(charge), written: false }
    }

    /// Payload length in bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the object will be.
    pub fn location(&self) -> Location {
        self.spot.location
    }

    /// Its home node: the one asked for, or the nearest that had room.
    pub fn home_node(&self) -> NodeId {
        self.pool.home_node(self.spot.location)
    }

    /// Who is charged.
    pub fn objcg(&self) -> ObjcgId {
        self.charge.as_ref().map_or(ObjcgId::NONE, Charge::objcg)
    }

    /// Write the payload.
    ///
    /// # Errors
    /// [`Error::WrongLength`] unless there are exactly as many bytes as were asked for.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() != self.len {
            return Err(Error::WrongLength { written: bytes.len(), len: self.len });
        }
        self.pool.heap.write(self.spot.location, bytes);
        self.written = true;
        Ok(())
    }

    /// Write the payload in place. The bytes are zero before the first time, whatever lay here before.
    pub fn fill<R>(&mut self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let (len, written) = (self.len, self.written);
        self.written = true;
        self.pool.heap.arena.unpoison(self.spot.location, len);
        self.pool.heap.arena.with_mut(self.spot.location, len, |to| {
            if !written {
                // SAFETY: `to` is good for `len` bytes that only the holder of the reserved slot touches.
                unsafe { to.write_bytes(0, len) };
            }
            // SAFETY: as above, and initialised now or before.
            f(unsafe { std::slice::from_raw_parts_mut(to, len) })
        })
    }

    /// Make it an object of `owner`. The owner's cell must name it ([`Published::location`]) before the result is
    /// dropped, unless it is [cancelled](Published::cancel). What was not written is zero.
    pub fn publish(mut self, owner: Owner) -> Published<'a, C> {
        if !self.written {
            self.fill(|_| ());
        }
        let (pool, spot, len) = (self.pool, self.spot, self.len);
        let objcg = self.charge.take().map_or(ObjcgId::NONE, Charge::into_id);
        std::mem::forget(self); // an entry owns the rest now
        if let Some(tree) = pool.accounting.as_ref().filter(|_| !objcg.is_none()) {
            Shares::of(&pool.heap, &spot, len, pool.original).enter(tree, objcg, pool.stored);
        }
        // Release pairs with the acquire of pins: bytes, descriptors and counters come before.
        pool.heap.word(&spot).store(Entry::live(owner, objcg, 1).raw(), Ordering::Release);
        Published { pool, spot, owner, len }
    }
}

impl<C: Cells> Drop for Uncommitted<'_, C> {
    fn drop(&mut self) {
        if self.pool.give_back(&self.spot, self.len) {
            self.pool.maintain();
        }
    }
}

// === impl Published ===

impl<C: Cells> Published<'_, C> {
    /// Where the object is: what the owner's cell must say.
    pub fn location(&self) -> Location {
        self.spot.location
    }

    /// Payload length in bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its home node.
    pub fn home_node(&self) -> NodeId {
        self.pool.home_node(self.spot.location)
    }

    /// Free it, for its cell will not name it. Makes no system call: it may run under the locks of the caller.
    pub fn cancel(self) {
        self.pool.free_under_lock(self.owner, self.spot.location, self.len);
    }
}

impl<C: Cells> Drop for Published<'_, C> {
    #[inline]
    fn drop(&mut self) {
        let word = self.pool.heap.word(&self.spot);
        self.pool.unpin(&self.spot, word);
    }
}
