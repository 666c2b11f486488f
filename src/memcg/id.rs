//! Names of groups and objcgs, and the packed reference to a group that protocols compare.
//!
//! | name | bits | recycled |
//! |---|---|---|
//! | [`MemcgId`] | 64 | never: a cursor or a log line names one memcg for ever |
//! | [`GroupIndex`] | 32 | when the memcg is removed and no handle of it is left; dense, to index arrays with |
//! | [`ObjcgId`] | 24 | when nothing counts it any more; 0 is no objcg |
//!
//! ```text
//! GroupRef   63 ....... 48 | 47 ... 32 | 31 ............ 0
//!            generation    | depth     | group index          depth 0 is the root, and nothing else
//! ```

use std::fmt;

/// Name of a memcg, never used twice in a tree. Ids grow in the order of `mkdir`; the root's is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemcgId(pub u64);

impl fmt::Display for MemcgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Dense number of a group, the memcg's place in arrays. The root's is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub u32);

impl GroupIndex {
    /// As an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of an objcg: what an object's entry remembers of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjcgId(u32);

impl ObjcgId {
    /// Bits an id needs.
    pub const BITS: u32 = 24;
    /// No objcg: the object is charged to nobody.
    pub const NONE: ObjcgId = ObjcgId(0);
    /// The largest id, so also how many objcgs there can be.
    pub const MAX: u32 = (1 << Self::BITS) - 1;

    /// The id with this number; 0 is [`NONE`](Self::NONE).
    ///
    /// # Panics
    /// When it needs more than 24 bits.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        assert!(raw <= Self::MAX);
        ObjcgId(raw)
    }

    /// The number: 1 to 2^24 - 1, or 0 for none.
    #[inline]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether this is no objcg.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A group at one time of its index's life: equal references mean the same memcg.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupRef(u64);

impl GroupRef {
    pub(super) const ROOT: GroupRef = GroupRef(0);

    #[inline]
    pub(super) const fn new(index: GroupIndex, generation: u16, depth: u16) -> Self {
        GroupRef((generation as u64) << 48 | (depth as u64) << 32 | index.0 as u64)
    }

    #[inline]
    pub(super) const fn from_raw(raw: u64) -> Self {
        GroupRef(raw)
    }

    #[inline]
    pub(super) const fn raw(self) -> u64 {
        self.0
    }

    /// The group's index.
    #[inline]
    pub const fn index(self) -> GroupIndex {
        GroupIndex(self.0 as u32)
    }

    /// How often the index was recycled before.
    #[inline]
    pub const fn generation(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Steps up to the root.
    #[inline]
    pub const fn depth(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

impl fmt::Debug for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {} generation {} depth {}", self.index().0, self.generation(), self.depth())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reference_keeps_its_three_parts() {
        for (index, generation, depth) in [(0, 0, 0), (u32::MAX, 0, 1), (0, u16::MAX, 0), (7, 3, u16::MAX)] {
            let group = GroupRef::new(GroupIndex(index), generation, depth);
            assert_eq!((group.index().0, group.generation(), group.depth()), (index, generation, depth));
            assert_eq!(GroupRef::from_raw(group.raw()), group);
        }
        assert_eq!(GroupRef::new(GroupIndex(0), 0, 0), GroupRef::ROOT);
    }

    #[test]
    #[should_panic]
    fn an_objcg_id_of_25_bits_panics() {
        ObjcgId::from_raw(1 << 24);
    }
}
