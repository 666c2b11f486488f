//! One group's words: what threads that charge see of a memcg, without a lock.
//!
//! ```text
//! usage   63 ....... 48 | 47 .. 42 | 41 .................. 0
//!         generation    | version  | bytes charged              version: bumped when the limit is set
//! refs    63 ....... 48 | 47 ............................. 0
//!         generation    | handles, plus one while online
//! flags   bit 0 writeback as set here   bit 1 writeback here and in every ancestor   bit 2 listed (see `roster`)
//! nodes   a bit per node that objects may lie on: as set here, and that in every ancestor too
//! ```
//!
//! A group's memory is type-stable: its index is recycled, never unmapped, so a slow thread may come by with a
//! reference from an earlier life. Every word such a thread changes carries the generation, and every change is a
//! compare-exchange on it.
//!
//! Invariants:
//! - **G1** `usage` never grows past the limit that is in force when it grows. The limit is a second word; a setter
//!   stores it and then bumps the version in `usage`, so that a compare-exchange that began under the old limit fails
//!   and looks again.
//! - **G2** `parent` is written only before the group's birth is published, and `usage`'s generation is bumped before
//!   the next birth: who reads `parent` first and then finds its generation in `usage` has read its own group's
//!   parent.
//! - **G3** `objcg` goes from 0 to an id at birth and back to 0 when the group goes offline, once each per generation.
//!
//! Callers: `charge` (usage, limit, parent), `handle` (refs, flags), `hierarchy` under the tree lock (births and
//! burials).

use super::id::{GroupRef, MemcgId};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Bug, Planted};
use crate::units::NodeMask;

/// Bits of a usage word that count bytes.
const BYTES_BITS: u32 = 42;
/// Bits below the generation. What is left of them counts settings of the limit: a charger would have to sleep
/// between its load and its compare-exchange through 64 settings, and the usage be the same again, to miss one.
const GENERATION_SHIFT: u32 = 48;
const BYTES: u64 = (1 << BYTES_BITS) - 1;
const VERSION_ONE: u64 = 1 << BYTES_BITS;
const BELOW_GENERATION: u64 = (1 << GENERATION_SHIFT) - 1;

/// The most bytes a group can be charged: 4 TiB less one, four times what the locations of one pool reach.
pub const MAX_USAGE: u64 = BYTES;

/// A limit that is none. (Usage ends at [`MAX_USAGE`] all the same.)
pub const NO_LIMIT: u64 = u64::MAX;

/// Writeback is allowed here, as set by `memory.zswap.writeback`.
const WRITEBACK: u32 = 1;
/// Writeback is allowed here and in every ancestor.
const EFFECTIVE: u32 = 2;
/// The memcg is in its ancestors' sets of those that may have entries.
const LISTED: u32 = 4;

fn generation(word: u64) -> u16 {
    (word >> GENERATION_SHIFT) as u16
}

fn born(generation: u16, count: u64) -> u64 {
    u64::from(generation) << GENERATION_SHIFT | count
}

/// Why a group does not take a charge.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The index belongs to another memcg by now, or to none.
    Stale,
    /// The limit forbids it.
    Over(Over),
}

/// A limit's refusal, with what is needed to tell whether it was somebody's transient reservation that caused it.
#[derive(Debug)]
pub(super) struct Over {
    /// Bytes charged when it refused.
    pub(super) usage: u64,
    /// Its limit in bytes then.
    pub(super) limit: u64,
    /// `rollbacks` before `usage` was read.
    pub(super) rollbacks: u32,
}

/// The lock-free half of a memcg; the other half is `hierarchy::Node`.
#[derive(Debug, Default)]
#[repr(align(64))] // chargers of two memcgs do not share a cache line
pub(super) struct Group {
    /// Generation, version, bytes charged here and below.
    usage: AtomicU64,
    /// `memory.zswap.max` in bytes, or [`NO_LIMIT`]. Set under the tree lock.
    limit: AtomicU64,
    /// The parent's [`GroupRef`]; unused in the root. Set at birth.
    parent: AtomicU64,
    /// Generation, and references that keep the index from being recycled.
    refs: AtomicU64,
    /// The [`MemcgId`]. Set at birth; stable while a reference is held.
    id: AtomicU64,
    /// The objcg's id, 0 when offline. Set under the tree lock.
    objcg: AtomicU32,
    /// Set under the tree lock, but LISTED, which is cleared under the LRU lock too.
    flags: AtomicU32,
    /// Nodes as set here. Set under the tree lock.
    own_nodes: AtomicU64,
    /// Nodes allowed here and in every ancestor; never empty while online. Set under the tree lock.
    nodes: AtomicU64,
    /// Charges that were reserved here and taken back because a group further up refused.
    rollbacks: AtomicU32,
    /// Next in the stack of groups whose last reference is gone (index + 1); belongs to whoever pushed it.
    pub(super) next_dead: AtomicU32,
}

// === life ===

impl Group {
    /// Begin a life under the tree lock: online, with one reference for that and one for the caller's handle.
    pub(super) fn birth(
        &self,
        me: GroupRef,
        parent: GroupRef,
        id: MemcgId,
        objcg: u32,
        writeback: bool,
        nodes: NodeMask,
    ) {
        debug_assert_eq!(generation(self.usage.load(Ordering::Relaxed)), me.generation());
        // The objcg's pointer, stored after these, publishes them to others.
        self.limit.store(NO_LIMIT, Ordering::Release);
        self.parent.store(parent.raw(), Ordering::Release);
        self.id.store(id.0, Ordering::Relaxed);
        let effective = if writeback { EFFECTIVE } else { 0 };
        self.flags.store(WRITEBACK | effective, Ordering::Release);
        self.own_nodes.store(u64::MAX, Ordering::Release);
        self.nodes.store(nodes.bits(), Ordering::Release);
        self.objcg.store(objcg, Ordering::Release);
        // Release pairs with the acquire in `hold`.
        self.refs.store(born(me.generation(), 2), Ordering::Release);
    }

    /// End a life under the tree lock, nobody having a reference any more. The next life's generation, or `None` when
    /// the index must be retired because the number would wrap.
    pub(super) fn bury(&self) -> Option<u16> {
        let old = generation(self.refs.load(Ordering::Acquire));
        let next = old.checked_add(1)?;
        // Release pairs with the acquire of a charger that finds the generation changed: it then also sees that its
        // objcg points elsewhere.
        self.usage.swap(born(next, 0), Ordering::AcqRel);
        self.refs.store(born(next, 0), Ordering::Release);
        Some(next)
    }

    /// One more reference, if the group is still in this life and has any.
    pub(super) fn hold(&self, life: u16) -> bool {
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (generation(word) == life && word & BELOW_GENERATION > 0).then(|| word + 1)
            })
            .is_ok()
    }

    /// One more reference beside one that the caller has.
    pub(super) fn hold_more(&self) {
        // Relaxed: the reference at hand keeps the group.
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// One reference less. True for the last.
    #[must_use]
    pub(super) fn release(&self) -> bool {
        // AcqRel: what every holder did comes before what the last one's successor does.
        let old = self.refs.fetch_sub(1, Ordering::AcqRel);
        assert!(old & BELOW_GENERATION > 0, "a group's reference was dropped twice");
        old & BELOW_GENERATION == 1
    }

    /// References held, the tree's own included.
    pub(super) fn references(&self) -> u64 {
        self.refs.load(Ordering::Relaxed) & BELOW_GENERATION
    }
}

// === charging ===

impl Group {
    /// Add `bytes` in this life, if the limit allows.
    #[inline]
    pub(super) fn reserve(&self, life: u16, bytes: u64, planted: Planted) -> Result<(), Refusal> {
        let mut rollbacks = None;
        // Acquire pairs with `set_limit`'s bump (G1) and with `bury`.
        let mut word = self.usage.load(Ordering::Acquire);
        loop {
            if generation(word) != life {
                return Err(Refusal::Stale);
            }
            let usage = word & BYTES;
            // Acquire: a later life's limit is only seen together with its generation, by `birth` and `bury`.
            let limit = self.limit.load(Ordering::Acquire).min(MAX_USAGE);
            if bytes > limit || usage > limit - bytes {
                let Some(rollbacks) = rollbacks else {
                    // Note the rollbacks, then look again: one that ends after this is noticed by whoever waits for it.
                    // Acquire pairs with `roll_back`.
                    rollbacks = Some(self.rollbacks.load(Ordering::Acquire));
                    word = self.usage.load(Ordering::Acquire);
                    continue;
                };
                return Err(Refusal::Over(Over { usage, limit, rollbacks }));
            }
            if planted.is(Bug::CheckThenCharge) {
                self.usage.fetch_add(bytes, Ordering::AcqRel);
                return Ok(());
            }
            // Release: who sees this reservation also sees that we are climbing (`charge::Climbs`).
            match self.usage.compare_exchange_weak(word, word + bytes, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Take `bytes` away in this life. False when the life is over, and nothing was changed.
    ///
    /// # Panics
    /// When fewer are charged.
    #[inline]
    #[must_use]
    pub(super) fn give_back(&self, life: u16, bytes: u64, planted: Planted) -> bool {
        if planted.is(Bug::UnchargeSkipsGeneration) {
            let _ = self.usage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                Some(word & !BYTES | (word & BYTES).wrapping_sub(bytes) & BYTES)
            });
            return true;
        }
        // Acquire on failure pairs with `bury`: the caller then finds its objcg elsewhere.
        self.usage
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                if generation(word) != life {
                    return None;
                }
                assert!(word & BYTES >= bytes, "{bytes} bytes uncharged of {} charged", word & BYTES);
                Some(word - bytes)
            })
            .is_ok()
    }

    /// Note that a reservation was given back because a group further up refused.
    pub(super) fn note_rollback(&self) {
        // Release: who sees the number changed sees the bytes given back.
        self.rollbacks.fetch_add(1, Ordering::Release);
    }

    /// Rollbacks so far; only a change means something.
    pub(super) fn rollbacks(&self) -> u32 {
        self.rollbacks.load(Ordering::Acquire)
    }

    /// Bytes charged now.
    #[inline]
    pub(super) fn usage(&self) -> u64 {
        self.usage.load(Ordering::Acquire) & BYTES
    }

    /// The limit in bytes, or [`NO_LIMIT`].
    #[inline]
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Set the limit, under the tree lock. When this returns, nothing is charged past it any more.
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Release);
        // The bump makes every compare-exchange fail that began before it (G1); release publishes the limit to those
        // that begin after. A carry must not reach the generation.
        let _ = self.usage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let versions = BELOW_GENERATION & !BYTES;
            Some(word & !versions | word.wrapping_add(VERSION_ONE) & versions)
        });
    }
}

// === fields ===

impl Group {
    /// The parent at the time of reading; see G2. Meaningless in the root.
    #[inline]
    pub(super) fn parent(&self) -> GroupRef {
        GroupRef::from_raw(self.parent.load(Ordering::Acquire))
    }

    /// The memcg's id; the caller holds a reference.
    #[inline]
    pub(super) fn id(&self) -> MemcgId {
        MemcgId(self.id.load(Ordering::Relaxed))
    }

    /// The objcg's id, 0 when offline. Acquire: with the 0 comes the new word of the objcg.
    #[inline]
    pub(super) fn objcg(&self) -> u32 {
        self.objcg.load(Ordering::Acquire)
    }

    /// No new references to the objcg from here on (G3). Under the tree lock.
    pub(super) fn close(&self) {
        self.objcg.store(0, Ordering::Release);
    }

    /// Whether writeback is allowed here, as set here.
    pub(super) fn own_writeback(&self) -> bool {
        self.flags.load(Ordering::Acquire) & WRITEBACK != 0
    }

    /// Whether writeback is allowed here and in every ancestor.
    #[inline]
    pub(super) fn writeback(&self) -> bool {
        self.flags.load(Ordering::Acquire) & EFFECTIVE != 0
    }

    /// Set what this group allows. Under the tree lock; the caller then settles the subtree.
    pub(super) fn set_own_writeback(&self, on: bool) {
        self.set_flag(WRITEBACK, on);
    }

    /// Derive the effective flag from the parent's. Under the tree lock.
    pub(super) fn settle_writeback(&self, parent_allows: bool) {
        self.set_flag(EFFECTIVE, parent_allows && self.own_writeback());
    }

    /// Nodes as set here; all there can be where nothing was set.
    pub(super) fn own_nodes(&self) -> NodeMask {
        NodeMask::from_bits(self.own_nodes.load(Ordering::Acquire))
    }

    /// Nodes allowed here and in every ancestor.
    #[inline]
    pub(super) fn nodes(&self) -> NodeMask {
        NodeMask::from_bits(self.nodes.load(Ordering::Acquire))
    }

    /// Set what this group allows. Under the tree lock; the caller then settles the subtree.
    pub(super) fn set_own_nodes(&self, nodes: NodeMask) {
        self.own_nodes.store(nodes.bits(), Ordering::Release);
    }

    /// Derive the allowed nodes from the parent's. Under the tree lock.
    pub(super) fn settle_nodes(&self, parent_allows: NodeMask) {
        self.nodes.store((parent_allows & self.own_nodes()).bits(), Ordering::Release);
    }

    /// Whether the memcg is in its ancestors' sets.
    #[inline]
    pub(super) fn is_listed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & LISTED != 0
    }

    /// Note whether it is. Under the tree lock.
    pub(super) fn set_listed(&self, on: bool) {
        self.set_flag(LISTED, on);
    }

    fn set_flag(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!flag, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::GroupIndex;
    use super::*;

    fn group() -> Group {
        let group = Group::default();
        group.birth(GroupRef::ROOT, GroupRef::ROOT, MemcgId(1), 1, true, NodeMask::first(1));
        group
    }

    fn fits(group: &Group, bytes: u64) -> bool {
        group.reserve(0, bytes, Planted::NONE).is_ok()
    }

    #[test]
    fn the_largest_usage_fits_and_one_byte_more_does_not() {
        let group = group();
        assert!(fits(&group, MAX_USAGE));
        assert!(!fits(&group, 1));
        assert!(group.give_back(0, MAX_USAGE, Planted::NONE));
        assert!(!fits(&group, MAX_USAGE + 1));
        assert!(!fits(&group, u64::MAX));
        assert_eq!(group.usage(), 0);
    }

    #[test]
    fn versions_wrap_without_touching_bytes_or_generation() {
        let group = group();
        assert!(fits(&group, 5));
        for limit in 0..200 {
            group.set_limit(limit);
            assert_eq!((group.usage(), group.limit()), (5, limit));
        }
        assert!(fits(&group, 194));
        assert!(!fits(&group, 1));
    }

    #[test]
    fn a_buried_group_takes_and_gives_nothing() {
        let group = group();
        assert!(fits(&group, 5));
        assert!(!group.release() && group.release());
        assert_eq!(group.bury(), Some(1));
        assert!(matches!(group.reserve(0, 1, Planted::NONE), Err(Refusal::Stale)));
        assert!(!group.give_back(0, 1, Planted::NONE));
        assert!(!group.hold(0) && !group.hold(1));
        assert_eq!(group.usage(), 0);
    }

    #[test]
    fn an_index_is_retired_before_its_generation_wraps() {
        let group = Group::default();
        for life in 0..=u16::MAX {
            group.birth(GroupRef::new(GroupIndex(3), life, 1), GroupRef::ROOT, MemcgId(1), 1, true, NodeMask::first(1));
            assert!(!group.release() && group.release());
            assert_eq!(group.bury(), life.checked_add(1));
        }
    }

    #[test]
    #[should_panic(expected = "3 bytes uncharged of 2 charged")]
    fn uncharging_more_than_was_charged_panics() {
        let group = group();
        assert!(fits(&group, 2));
        let _ = group.give_back(0, 3, Planted::NONE);
    }
}
