//! [`Cells`]: where the names of objects live, in words of whoever names them.
//!
//! ```text
//!   owner 7 --> cell: an object at this location, of this length         the pool asks, and changes the location of what it moves
//!                ^
//!                +-- entry of the object: owner 7
//! ```
//!
//! `zswap` brings the words of its slots, `zram` those of its blocks; a pool with handles has
//! [`HandleCells`](super::HandleCells).

use crate::sync::Arc;
use crate::units::{Location, Owner};

/// Where the names of objects live. The pool asks while compacting and after pinning.
pub trait Cells: Send + Sync {
    /// The object that the owner's cell names: where it is and its payload length in bytes. `None` if it names none,
    /// and for an owner that has no cell. Acquire, to pair with the release that stored the location.
    fn object(&self, owner: Owner) -> Option<Object>;

    /// If the owner's cell names an object at `from`, let it name the same object at `to`, other bits of the cell kept
    /// (compare-exchange with release), and say whether it was done. Called under a class lock: atomics only.
    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool;

    /// Check the cells by themselves, at a quiet point at which `objects` objects are live:
    /// [`Pool::assert_valid`](super::Pool::assert_valid) asks. Does nothing unless there is something to check.
    ///
    /// # Panics
    /// When an invariant of the cells does not hold.
    fn assert_valid(&self, objects: u64) {
        let _ = objects;
    }

    /// Bytes of memory behind cells that were made for this pool alone: [`Pool::usage`](super::Pool::usage) asks. 0 where a
    /// client has them for other reasons too.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

impl<C: Cells> Cells for Arc<C> {
    fn object(&self, owner: Owner) -> Option<Object> {
        (**self).object(owner)
    }
    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        (**self).relocate(owner, from, to)
    }
    fn assert_valid(&self, objects: u64) {
        (**self).assert_valid(objects);
    }
    fn memory_bytes(&self) -> u64 {
        (**self).memory_bytes()
    }
}

/// What a cell says of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it starts.
    pub location: Location,
    /// Payload length in bytes, 1 to 4096.
    pub len: usize,
}
