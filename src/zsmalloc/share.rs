//! [`Shares`]: how an object's bytes fall to the nodes its frames lie on.
//!
//! ```text
//! slot of 1632 bytes at offset 3264 of a frame on node 0, the next frame on node 1, payload 1600, original 4096
//!
//!                3264      4096      4896
//!          frame |  832 B   |  800 B  |
//! compressed        832        800         where the slot's bytes lie
//! payload           832        768         where the payload's bytes lie
//! original         2088       2008         4096 * 832 / 1632, and the remainder
//! ```
//!
//! The sums are exact whatever the split.

use super::heap::{Heap, Spot};
use crate::memcg::{Bytes4, Event, ObjcgId, Tree};
use crate::units::{NodeId, PAGE_SIZE};

/// Bytes that count as original for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Original {
    /// The same for each: pages were compressed.
    Fixed(u64),
    /// The payload itself: nothing was.
    Payload,
}

/// An object's bytes by node: a part per frame, the second empty where the object lies in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares([(NodeId, Bytes4); 2]);

/// What is owed for an object that is gone, to be paid outside the class lock.
#[derive(Debug)]
#[must_use]
pub(super) struct Owed {
    objcg: ObjcgId,
    size: usize,
    shares: Shares,
}

// === impl Shares ===

/// What an object counts for.
#[inline]
pub(super) fn whole(size: usize, len: usize, original: Original) -> Bytes4 {
    Bytes4 {
        compressed: size as u64,
        original: match original {
            Original::Fixed(bytes) => bytes,
            Original::Payload => len as u64,
        },
        payload: len as u64,
        incompressible: if len == PAGE_SIZE { size as u64 } else { 0 },
    }
}

/// Split what an object of `size` bytes of slot and `len` of payload counts for, `first` bytes of the slot lying in its
/// first frame.
fn split(size: usize, len: usize, first: usize, original: Original) -> [Bytes4; 2] {
    let original = match original {
        Original::Fixed(bytes) => bytes,
        Original::Payload => len as u64,
    };
    let (size, len, first) = (size as u64, len as u64, first as u64);
    let incompressible = |bytes| if len == PAGE_SIZE as u64 { bytes } else { 0 };
    let one = Bytes4 {
        compressed: first,
        original: if first == size {
            original
        } else {
            (u128::from(original) * u128::from(first) / u128::from(size)) as u64
        },
        payload: first.min(len),
        incompressible: incompressible(first),
    };
    let two = Bytes4 {
        compressed: size - first,
        original: original - one.original,
        payload: len - one.payload,
        incompressible: incompressible(size - first),
    };
    [one, two]
}

impl Shares {
    /// Shares of the object in a slot in use, whose frames are owned.
    #[inline]
    pub(super) fn of(heap: &Heap, spot: &Spot, len: usize, original: Original) -> Self {
        let size = heap.geometry.class(spot.class).size();
        let [(one, first), (two, _)] = heap.parts(spot, size);
        let (node, other) = (heap.arena.node_of(one), heap.arena.node_of(two));
        // Both parts of most objects lie on one node: nothing to divide by.
        if node == other {
            return Shares::all_on(node, whole(size, len, original));
        }
        let [a, b] = split(size, len, first, original);
        Shares([(node, a), (other, b)])
    }

    /// The parts that are not empty.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, Bytes4)> + use<> {
        self.0.into_iter().filter(|(_, bytes)| *bytes != Bytes4::default())
    }

    /// The bytes of an object that lies on one node.
    pub(super) fn all_on(node: NodeId, bytes: Bytes4) -> Self {
        Shares([(node, bytes), (node, Bytes4::default())])
    }

    /// Count them in.
    pub(super) fn add(&self, tree: &Tree, objcg: ObjcgId) {
        for (node, bytes) in self.iter() {
            tree.account(objcg, node, bytes);
        }
    }

    /// Count them out. While the entry's reference is held.
    pub(super) fn remove(&self, tree: &Tree, objcg: ObjcgId) {
        for (node, bytes) in self.iter() {
            tree.unaccount(objcg, node, bytes);
        }
    }

    /// Count an object that has moved from here to `to`. Atomics only: under the class lock.
    pub(super) fn moved(&self, to: &Shares, tree: &Tree, objcg: ObjcgId) {
        if self == to {
            return;
        }
        // In before out: no counter is ever less than what lies there.
        to.add(tree, objcg);
        self.remove(tree, objcg);
    }
}

// === impl Owed ===

impl Owed {
    /// What is owed for the object in a slot in use, before the slot is given back.
    pub(super) fn new(heap: &Heap, spot: &Spot, len: usize, original: Original, objcg: ObjcgId) -> Option<Self> {
        if objcg.is_none() {
            return None;
        }
        let size = heap.geometry.class(spot.class).size();
        Some(Owed { objcg, size, shares: Shares::of(heap, spot, len, original) })
    }

    /// Take it out of every counter, and drop the entry's reference. Neither locks nor allocates.
    pub(super) fn pay(self, tree: &Tree) {
        let [(node, bytes), (other, rest)] = self.shares.0;
        if rest != Bytes4::default() {
            tree.unaccount(self.objcg, other, rest);
        }
        tree.leave(self.objcg, node, bytes, self.size as u64);
    }

    /// The same for an object that did not come to be, of memory that its owner was charged for before: that stays charged.
    pub(super) fn pay_sharing(self, tree: &Tree, event: Option<Event>) {
        // Where the bytes are counted does not matter to a charge, and what is charged is their sum.
        let [(node, mut bytes), (other, rest)] = self.shares.0;
        if other != node {
            tree.transfer(self.objcg, other, node, rest);
        }
        bytes += rest;
        tree.cancel_sharing(self.objcg, node, bytes, event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_series_splits_as_there() {
        let [a, b] = split(1632, 1600, 832, Original::Fixed(4096));
        assert_eq!(a, Bytes4 { compressed: 832, original: 2088, payload: 832, incompressible: 0 });
        assert_eq!(b, Bytes4 { compressed: 800, original: 2008, payload: 768, incompressible: 0 });
    }

    #[test]
    fn sums_are_exact_for_every_split() {
        for (size, len) in [(32, 1), (1632, 1601), (3840, 3840), (4096, 4096), (4096, 3900)] {
            for first in (16..=size).step_by(16) {
                for original in [Original::Fixed(4096), Original::Payload] {
                    let [mut a, b] = split(size, len, first, original);
                    a += b;
                    let whole = if original == Original::Payload { len as u64 } else { 4096 };
                    let raw = if len == 4096 { size as u64 } else { 0 };
                    let sum =
                        Bytes4 { compressed: size as u64, original: whole, payload: len as u64, incompressible: raw };
                    assert_eq!(a, sum, "{size} {len} {first}");
                }
            }
            assert_eq!(split(size, len, size, Original::Payload)[1], Bytes4::default());
        }
    }
}
