//! One group's words: what threads that charge see of a memcg, without a lock.
//!
//! ```text
//! counters  one of each kind: usage with generation, limit, mark, peak (see `counter`)
//! refs      63 ....... 48 | 47 ............................. 0
//!           generation    | handles, plus one while online
//! flags     bit 0 writeback as set here   bit 1 writeback here and in every ancestor   bit 2 listed, bit 3 to stay so (see `roster`)
//! nodes     a bit per node that objects may lie on: as set here, and that in every ancestor too
//! tiers     63 .............................. 32 | 31 ............................... 0
//!           a bit per tier: here and in every ancestor | as set here
//! ```
//!
//! A group's memory is type-stable: its index is recycled, never unmapped, so a slow thread may come by with a
//! reference from an earlier life. Every word such a thread changes carries the generation, and every change is a
//! compare-exchange on it.
//!
//! Invariants (G1 and G4 are of `counter`):
//! - **G2** `parent` is written only before the group's birth is published, and every usage's generation is bumped before
//!   the next birth: who reads `parent` first and then finds its generation in a usage has read its own group's
//!   parent.
//! - **G3** `objcg` goes from 0 to an id at birth and back to 0 when the group goes offline, once each per generation.
//!
//! Callers: `charge` (counters, parent), `handle` (refs, flags), `hierarchy` under the tree lock (births and
//! burials).

use super::counter::{BELOW_GENERATION, Counter, NO_LIMIT, Words, born, generation};
use super::event::MemcgEvent;
use super::id::{GroupRef, MemcgId};
use crate::sync::Tally;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::units::{NodeMask, TierMask};

/// Writeback is allowed here, as set by `memory.zswap.writeback`.
const WRITEBACK: u32 = 1;
/// Writeback is allowed here and in every ancestor.
const EFFECTIVE: u32 = 2;
/// The memcg is in its ancestors' sets of those that may have entries.
const LISTED: u32 = 4;
/// It stays there.
const STAYS: u32 = 8;

/// The lock-free half of a memcg; the other half is `hierarchy::Node`.
#[derive(Debug, Default)]
#[repr(align(64))] // chargers of two memcgs do not share a cache line
pub(super) struct Group {
    /// By [`Counter`].
    counters: [Words; Counter::COUNT],
    /// The parent's [`GroupRef`]; unused in the root. Set at birth.
    parent: AtomicU64,
    /// Generation, and references that keep the index from being recycled.
    refs: AtomicU64,
    /// The [`MemcgId`]. Set at birth; stable while a reference is held.
    id: AtomicU64,
    /// This group's own [`GroupRef`]. Likewise.
    me: AtomicU64,
    /// `memory.high` in bytes, or [`NO_LIMIT`]. Set under the tree lock.
    high: AtomicU64,
    /// `memory.low` and `memory.min` in bytes. Set under the tree lock.
    protection: [AtomicU64; 2],
    /// The objcg's id, 0 when offline. Set under the tree lock.
    objcg: AtomicU32,
    /// Set under the tree lock, but LISTED, which is cleared under the LRU lock too.
    flags: AtomicU32,
    /// Nodes as set here. Set under the tree lock.
    own_nodes: AtomicU64,
    /// Nodes allowed here and in every ancestor; never empty while online. Set under the tree lock.
    nodes: AtomicU64,
    /// Tiers as set here, and those allowed here and in every ancestor. Set under the tree lock.
    tiers: AtomicU64,
    /// Next in the stack of groups whose last reference is gone (index + 1); belongs to whoever pushed it.
    pub(super) next_dead: AtomicU32,
    /// 1 from when somebody decides to push the group on the stack of those with excess, until it is taken off.
    pub(super) noted: AtomicU32,
    /// Next in that stack (index + 1); belongs to whoever set `noted`.
    pub(super) next_noted: AtomicU32,
    /// What happened here and below, by [`MemcgEvent`].
    pub(super) events: [Tally; MemcgEvent::COUNT],
    /// What happened here.
    pub(super) local_events: [Tally; MemcgEvent::COUNT],
    /// Bytes by which charges that could not be refused have passed its limits, added up.
    pub(super) overshoot: Tally,
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
        (nodes, tiers): (NodeMask, TierMask),
    ) {
        // The objcg's pointer, stored after these, publishes them to others.
        self.counters.iter().for_each(|words| words.birth(me.generation()));
        self.high.store(NO_LIMIT, Ordering::Release);
        self.set_protection(0, 0);
        self.events.iter().chain(&self.local_events).for_each(|event| event.set(0));
        self.overshoot.set(0);
        self.me.store(me.raw(), Ordering::Relaxed);
        self.parent.store(parent.raw(), Ordering::Release);
        self.id.store(id.0, Ordering::Relaxed);
        let effective = if writeback { EFFECTIVE } else { 0 };
        self.flags.store(WRITEBACK | effective, Ordering::Release);
        self.own_nodes.store(u64::MAX, Ordering::Release);
        self.nodes.store(nodes.bits(), Ordering::Release);
        self.tiers.store(pack(TierMask::ALL, tiers), Ordering::Release);
        self.objcg.store(objcg, Ordering::Release);
        // Release pairs with the acquire in `hold`.
        self.refs.store(born(me.generation(), 2), Ordering::Release);
    }

    /// End a life under the tree lock, nobody having a reference any more. The next life's generation, or `None` when
    /// the index must be retired because the number would wrap.
    pub(super) fn bury(&self) -> Option<u16> {
        let old = generation(self.refs.load(Ordering::Acquire));
        let next = old.checked_add(1)?;
        self.counters.iter().for_each(|words| words.bury(next));
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

    /// One more reference in whichever life, if the group has any.
    pub(super) fn hold_any(&self) -> bool {
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word & BELOW_GENERATION > 0).then(|| word + 1))
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

// === fields ===

impl Group {
    /// The parent at the time of reading; see G2. Meaningless in the root.
    #[inline]
    pub(super) fn parent(&self) -> GroupRef {
        GroupRef::from_raw(self.parent.load(Ordering::Acquire))
    }

    /// The words of one counter.
    #[inline]
    pub(super) fn of(&self, counter: Counter) -> &Words {
        &self.counters[counter as usize]
    }

    /// `memory.high` in bytes, or [`NO_LIMIT`].
    pub(super) fn high(&self) -> u64 {
        self.high.load(Ordering::Acquire)
    }

    /// Set it, under the tree lock; the caller then sets the mark.
    pub(super) fn set_high(&self, high: u64) {
        self.high.store(high, Ordering::Release);
    }

    /// `memory.low` and `memory.min` in bytes.
    pub(super) fn protection(&self) -> (u64, u64) {
        (self.protection[0].load(Ordering::Acquire), self.protection[1].load(Ordering::Acquire))
    }

    /// Set them, under the tree lock.
    pub(super) fn set_protection(&self, low: u64, min: u64) {
        self.protection[0].store(low, Ordering::Release);
        self.protection[1].store(min, Ordering::Release);
    }

    /// This group in this life; the caller holds a reference.
    pub(super) fn me(&self) -> GroupRef {
        GroupRef::from_raw(self.me.load(Ordering::Relaxed))
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

    /// Tiers as set here; all there can be where nothing was set.
    pub(super) fn own_tiers(&self) -> TierMask {
        TierMask::from_bits(self.tiers.load(Ordering::Acquire) as u32)
    }

    /// Tiers allowed here and in every ancestor.
    #[inline]
    pub(super) fn tiers(&self) -> TierMask {
        TierMask::from_bits((self.tiers.load(Ordering::Acquire) >> u32::BITS) as u32)
    }

    /// Set what this group allows. Under the tree lock; the caller then settles the subtree.
    pub(super) fn set_own_tiers(&self, tiers: TierMask) {
        self.tiers.store(pack(tiers, self.tiers()), Ordering::Release);
    }

    /// Derive the allowed tiers from the parent's. Under the tree lock.
    pub(super) fn settle_tiers(&self, parent_allows: TierMask) {
        let own = self.own_tiers();
        self.tiers.store(pack(own, parent_allows & own), Ordering::Release);
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

    /// Whether it stays there.
    #[inline]
    pub(super) fn stays_listed(&self) -> bool {
        self.flags.load(Ordering::Acquire) & STAYS != 0
    }

    /// It does, until it is removed. Under the tree lock.
    pub(super) fn stay_listed(&self) {
        self.set_flag(STAYS, true);
    }

    fn set_flag(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!flag, Ordering::AcqRel);
        }
    }
}

/// The word of tiers.
fn pack(own: TierMask, effective: TierMask) -> u64 {
    u64::from(own.bits()) | u64::from(effective.bits()) << u32::BITS
}

#[cfg(test)]
mod tests {
    use super::super::id::GroupIndex;
    use super::*;

    #[test]
    fn a_buried_group_is_held_by_nobody() {
        let group = Group::default();
        group.birth(GroupRef::ROOT, GroupRef::ROOT, MemcgId(1), 1, true, (NodeMask::first(1), TierMask::ALL));
        assert!(!group.release() && group.release());
        assert_eq!(group.bury(), Some(1));
        assert!(!group.hold(0) && !group.hold(1) && !group.hold_any());
    }

    #[test]
    fn an_index_is_retired_before_its_generation_wraps() {
        let group = Group::default();
        for life in 0..=u16::MAX {
            group.birth(
                GroupRef::new(GroupIndex(3), life, 1),
                GroupRef::ROOT,
                MemcgId(1),
                1,
                true,
                (NodeMask::first(1), TierMask::ALL),
            );
            assert!(!group.release() && group.release());
            assert_eq!(group.bury(), life.checked_add(1));
        }
    }
}
