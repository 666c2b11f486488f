//! [`ReadGuard`]: an object being read.

use super::cells::Cells;
use super::entry::Entry;
use super::heap::Spot;
use super::pool::Pool;
use crate::memcg::ObjcgId;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::{Location, NodeId};
use std::ops::Deref;

/// Keeps an object's bytes where they are. A count in the entry, not a lock: it may be held for any time and dropped
/// on any thread; at most 63 hold one object.
#[derive(Debug)]
pub struct ReadGuard<'a, C: Cells> {
    pool: &'a Pool<C>,
    spot: Spot,
    /// The slot's entry, where this guard has a pin.
    word: &'a AtomicU64,
    /// Payload length in bytes.
    len: usize,
}

impl<'a, C: Cells> ReadGuard<'a, C> {
    /// Guard the object in a slot whose entry the caller has pinned.
    #[inline]
    pub(super) fn new(pool: &'a Pool<C>, spot: Spot, word: &'a AtomicU64, len: usize) -> Self {
        ReadGuard { pool, spot, word, len }
    }

    /// Look at the bytes; under loom, the model sees how long.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        self.pool.heap.arena.with(self.spot.location, self.len, |bytes| {
            // SAFETY: the frames of a pinned object stay owned, and its bytes are not written while it is pinned: a
            // slot is written only between being taken and being published.
            f(unsafe { std::slice::from_raw_parts(bytes, self.len) })
        })
    }

    /// Where the object is while the guard lives.
    pub fn location(&self) -> Location {
        self.spot.location
    }

    /// Who is charged for it; [`ObjcgId::NONE`] for nobody, and once it was moved away meanwhile.
    pub fn objcg(&self) -> ObjcgId {
        // Acquire pairs with publishing, though the pin has seen it.
        Entry::from_raw(self.word.load(Ordering::Acquire)).objcg()
    }

    /// The object's home node.
    pub fn home_node(&self) -> NodeId {
        self.pool.home_node(self.spot.location)
    }
}

impl<C: Cells> Deref for ReadGuard<'_, C> {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        let bytes = self.pool.heap.arena.with(self.spot.location, self.len, |bytes| bytes);
        // SAFETY: as in `with`; the arena's mapping outlives the pool that `self` borrows.
        unsafe { std::slice::from_raw_parts(bytes, self.len) }
    }
}

impl<C: Cells> Drop for ReadGuard<'_, C> {
    #[inline]
    fn drop(&mut self) {
        if self.pool.unpin(&self.spot, self.word) {
            self.pool.attend();
        }
    }
}
