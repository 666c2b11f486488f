//! [`Uncommitted`] and [`Published`]: the first steps of an object's life.
//!
//! ```text
//! malloc -> Uncommitted -- write --> Uncommitted -- publish --> Published -- drop --> an object like any other
//!               |                        |                          |
//!               +------- drop: slot and charge given back ----------+-- cancel: freed
//!
//! entry:     Reserved                 Reserved                  Live, a pin             Live
//! ```
//!
//! A prepaid one takes its share of a page that its owner is charged for as resident. The rest of the page stays charged
//! until `publish`, so that who drops it instead has the page's charge as it was, without asking a limit.

use super::cells::Cells;
use super::charge::Charge;
use super::entry::Entry;
use super::error::Error;
use super::heap::Spot;
use super::pool::Pool;
use super::share::{Owed, Shares};
use crate::memcg::{Counter, ObjcgId};
use crate::sync::atomic::Ordering;
use crate::units::{Location, NodeId, Owner};

/// A slot that is charged, counted and backed, and that only its holder knows.
#[derive(Debug)]
#[must_use = "dropped, it gives everything back"]
pub struct Uncommitted<'a, C: Cells> {
    pool: &'a Pool<C>,
    spot: Spot,
    len: usize,
    /// Who is charged. The reference and the bytes are an entry's once it is published.
    objcg: ObjcgId,
    /// Bytes that the owner was charged for as resident beyond the slot; `None` unless prepaid.
    rest: Option<u64>,
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
    /// `charge` is taken over. It is counted by now and not only when published: writing the payload waits for memory, and
    /// whatever changes a shared word waits for what was written before.
    #[inline]
    pub(super) fn new(pool: &'a Pool<C>, spot: Spot, len: usize, charge: Charge<'_>, rest: Option<u64>) -> Self {
        let objcg = charge.settle(|| Shares::of(&pool.heap, &spot, len, pool.original));
        Uncommitted { pool, spot, len, objcg, rest, written: false }
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
        self.objcg
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
    pub fn publish(self, owner: Owner) -> Published<'a, C> {
        let (pool, spot, len) = (self.pool, self.spot, self.len);
        self.go_live(owner, 1);
        Published { pool, spot, owner, len }
    }

    /// The same for an owner whose cell the caller alone changes until it names the object. Till then compaction finds an object
    /// that its cell does not name, takes it for one being freed, and leaves it to its freer.
    pub(super) fn publish_unpinned(self, owner: Owner) {
        self.go_live(owner, 0);
    }

    fn go_live(mut self, owner: Owner, pins: u32) {
        if !self.written {
            self.fill(|_| ());
        }
        // While the reference is ours.
        if let (Some(rest), Some(tree)) = (self.rest, &self.pool.accounting) {
            tree.uncharge(self.objcg, Counter::Memory, rest);
        }
        // Release pairs with the acquire of pins: bytes and descriptors come before.
        self.pool.heap.word(&self.spot).store(Entry::live(owner, self.objcg, pins).raw(), Ordering::Release);
        std::mem::forget(self); // the entry owns it now
    }
}

impl<C: Cells> Drop for Uncommitted<'_, C> {
    fn drop(&mut self) {
        let pool = self.pool;
        let owed = Owed::new(&pool.heap, &self.spot, self.len, pool.original, self.objcg);
        let released = pool.give_back(&self.spot, self.len);
        if let Some((tree, owed)) = pool.accounting.as_ref().zip(owed) {
            match self.rest {
                Some(_) => owed.pay_sharing(tree, pool.stored),
                None => {
                    pool.stored.inspect(|&event| tree.uncount(self.objcg, event));
                    owed.pay(tree);
                }
            }
        }
        if released {
            pool.maintain();
        }
        pool.attend();
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
