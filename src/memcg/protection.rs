//! `memory.low` and `memory.min`: bytes of a memcg that are left to it as long as, or whatever, others have.
//!
//! ```text
//!   reclaim of `top`        top has 100 M, low set to 60 M at a, and below it to 40 M at b and 40 M at c
//!       |
//!       a  uses 90, low 60          effective 60: a child of the one that is reclaimed has what it was set to
//!      / \
//!     b   c  each uses 45, low 40   80 claimed of 60: each effective 40 * 60 / 80 = 30
//! ```
//!
//! What is protected here is not what was written but the *effective* value, relative to the memcg that is reclaimed (it is
//! never protected from itself), by the rule of the kernel's `effective_protection`: no more than is used; claims of siblings
//! that come to more than their parent's effective value share that in proportion. (The option `memory_recursiveprot` is off:
//! what a parent has and no child claims protects nobody.)
//!
//! Usage is `memory.current`: resident and compressed bytes. Below its effective `memory.min` nothing of a memcg is reclaimed;
//! below its effective `memory.low` only when nobody else has anything left, and then
//! [`MemcgEvent::Low`](super::MemcgEvent::Low) is counted.

use super::counter::Counter;
use super::error::Error;
use super::handle::Memcg;
use super::hierarchy::Hierarchy;
use super::id::GroupIndex;
use super::tree::{Shared, Tree};
use crate::sync::atomic::Ordering;

/// What of a memcg is protected when some memcg above it is reclaimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Bytes charged to it and all below it.
    pub usage: u64,
    /// Effective `memory.low` in bytes.
    pub low: u64,
    /// Effective `memory.min` in bytes.
    pub min: u64,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Low,
    Min,
}

impl Tree {
    /// Whether any memcg has a `memory.low` or `memory.min`. Lock-free: who reclaims asks this first.
    #[inline]
    pub fn protects(&self) -> bool {
        self.shared().protecting.load(Ordering::Acquire) > 0
    }
}

impl Memcg {
    /// `memory.low` in bytes, 0 where nothing was set. Lock-free.
    pub fn low(&self) -> u64 {
        self.words().protection().0
    }

    /// `memory.min` in bytes, 0 where nothing was set. Lock-free.
    pub fn min(&self) -> u64 {
        self.words().protection().1
    }

    /// Set `memory.low` in bytes; [`NO_LIMIT`](super::NO_LIMIT): all it uses.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_low(&self, low: u64) -> Result<(), Error> {
        let _hierarchy = self.online()?;
        self.shared().protect(self.index(), low, self.min());
        Ok(())
    }

    /// Set `memory.min` in bytes; [`NO_LIMIT`](super::NO_LIMIT): all it uses.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_min(&self, min: u64) -> Result<(), Error> {
        let _hierarchy = self.online()?;
        self.shared().protect(self.index(), self.low(), min);
        Ok(())
    }

    /// What of it is protected when `scope` is reclaimed; nothing if that is itself or not above it.
    ///
    /// # Locks
    /// The tree lock, if anything is protected. Allocates nothing.
    pub fn protection(&self, scope: &Memcg) -> Protection {
        let usage = self.words().of(Counter::Memory).usage();
        if !self.tree().protects() || self == scope || !self.is_within(scope) {
            return Protection { usage, low: 0, min: 0 };
        }
        let Ok(hierarchy) = self.online() else { return Protection::default() };
        let effective = |kind| self.shared().effective(&hierarchy, self.index(), scope.group().depth(), kind);
        Protection { usage, low: effective(Kind::Low), min: effective(Kind::Min) }
    }
}

impl Shared {
    /// Set what a group protects. Under the tree lock.
    fn protect(&self, index: GroupIndex, low: u64, min: u64) {
        let group = self.group(index);
        let was = group.protection() != (0, 0);
        group.set_protection(low, min);
        match (was, (low, min) != (0, 0)) {
            (false, true) => _ = self.protecting.fetch_add(1, Ordering::AcqRel),
            (true, false) => _ = self.protecting.fetch_sub(1, Ordering::AcqRel),
            _ => {}
        }
    }

    /// A group is removed, under the tree lock: it protects nothing any more.
    pub(super) fn unprotect(&self, index: GroupIndex) {
        self.protect(index, 0, 0);
    }

    fn claim(&self, index: GroupIndex, kind: Kind) -> u64 {
        let (low, min) = self.group(index).protection();
        if kind == Kind::Low { low } else { min }
    }

    fn used(&self, index: GroupIndex) -> u64 {
        self.group(index).of(Counter::Memory).usage()
    }

    /// The effective value of a group that lies deeper than `depth`, where the one that is reclaimed is. From the top down, so
    /// that nothing is kept for each level.
    fn effective(&self, hierarchy: &Hierarchy, index: GroupIndex, depth: u16, kind: Kind) -> u64 {
        let mine = hierarchy.node(index).me.depth();
        let at = |depth: u16| {
            let mut path = hierarchy.ancestry(index);
            path.nth(usize::from(mine - depth)).expect("a path has a group at each depth").me.index()
        };
        let mut effective = self.claim(at(depth + 1), kind);
        for depth in depth + 2..=mine {
            let (parent, here) = (at(depth - 1), at(depth));
            let protected = |group| self.claim(group, kind).min(self.used(group));
            let claimed: u128 = hierarchy.each_child(parent).map(|child| u128::from(protected(child))).sum();
            let own = protected(here);
            effective = match claimed > u128::from(effective) {
                true => (u128::from(own) * u128::from(effective) / claimed) as u64,
                false => own,
            };
        }
        effective
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{NO_LIMIT, Tree, TreeConfig};
    use super::*;

    const M: u64 = 1 << 20;

    /// The memcg's bytes, charged for the rest of the test.
    fn hold(memcg: &Memcg, bytes: u64) -> crate::memcg::Resident {
        memcg.charge_resident(bytes).unwrap()
    }

    #[test]
    fn a_child_of_what_is_reclaimed_has_what_it_was_set_to() {
        let tree = Tree::new(TreeConfig::default());
        assert!(!tree.protects());
        let top = tree.root().mkdir("top").unwrap();
        let a = top.mkdir("a").unwrap();
        let _bytes = hold(&a, 90 * M);
        a.set_low(60 * M).unwrap();
        a.set_min(10 * M).unwrap();
        assert!(tree.protects());
        assert_eq!(a.protection(&top), Protection { usage: 90 * M, low: 60 * M, min: 10 * M });
        assert_eq!(a.protection(&a), Protection { usage: 90 * M, low: 0, min: 0 }, "never from itself");
        assert_eq!(a.protection(&top.mkdir("b").unwrap()).low, 0, "not above it");
        assert_eq!(a.protection(&tree.root()).low, 0, "top claims nothing, so nothing is left below it");
        top.set_low(NO_LIMIT).unwrap();
        assert_eq!(a.protection(&tree.root()).low, 60 * M);
        a.set_low(0).unwrap();
        a.set_min(0).unwrap();
        top.set_low(0).unwrap();
        assert!(!tree.protects());
    }

    #[test]
    fn claims_that_are_too_large_share_in_proportion() {
        let tree = Tree::new(TreeConfig::default());
        let top = tree.root().mkdir("top").unwrap();
        let a = top.mkdir("a").unwrap();
        let [b, c, d] = ["b", "c", "d"].map(|name| a.mkdir(name).unwrap());
        let _bytes = [hold(&b, 45 * M), hold(&c, 45 * M), hold(&d, M)];
        a.set_low(60 * M).unwrap();
        b.set_low(40 * M).unwrap();
        c.set_low(40 * M).unwrap();
        assert_eq!([&b, &c, &d].map(|memcg| memcg.protection(&top).low), [30 * M, 30 * M, 0]);
        d.set_low(40 * M).unwrap();
        assert_eq!(d.protection(&top).low, 60 * M / 81, "a claim counts as far as it is used");
        a.set_low(70 * M).unwrap();
        d.set_low(0).unwrap();
        c.set_low(10 * M).unwrap();
        assert_eq!([&b, &c].map(|memcg| memcg.protection(&top).low), [40 * M, 10 * M], "all of them fit");
        assert_eq!(b.protection(&a).low, 40 * M);
    }

    #[test]
    fn what_a_removed_memcg_protected_is_over() {
        let tree = Tree::new(TreeConfig::default());
        let a = tree.root().mkdir("a").unwrap();
        a.set_low(M).unwrap();
        a.offline().unwrap();
        assert!(!tree.protects());
        assert_eq!(a.protection(&tree.root()), Protection::default());
        assert!(a.set_low(M).is_err() && !tree.protects());
    }
}
