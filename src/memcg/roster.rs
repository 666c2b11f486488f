//! The roster: which memcgs may have entries, so that walkers (writeback, shrinkers) skip the rest.
//!
//! ```text
//! root        listed {3, 5, 6}     * has entries, flag set
//! +- a (2)           {3, 5}
//! |  +- c (3) *      {3}
//! |  +- d (5) *      {5}
//! +- b (4)           {6}
//!    +- e (6) *      {6}
//! ```
//!
//! A [cursor](super::cursor) is a memcg id: next is the first listed id above it in the walker's own set, then the set's first
//! again. No reference is kept between two steps, so a memcg that goes meanwhile is just not there any more.
//!
//! Who adds an entry to a memcg's list does so under the list's lock, then reads [`Memcg::is_listed`] under it; when
//! it is false, [`Tree::enlist`] after the locks are dropped. Who finds the lists empty calls [`Memcg::delist_with`],
//! which clears the flag under the list's lock, after another look. So after the adder's steps the memcg is listed:
//! the flag it read was set with its entry on the list, and from then on the second look finds the entry.
//!
//! A listed memcg that is removed leaves its place to its parent. One that is to [stay](Memcg::stay_listed) is not taken off
//! before.

use super::error::Error;
use super::handle::Memcg;
use super::hierarchy::Hierarchy;
use super::id::{GroupIndex, GroupRef, MemcgId, ObjcgId};
use super::tree::{Shared, Tree};
use std::ops::Bound;

/// A memcg that is about to leave the roster, under the tree lock.
#[derive(Debug)]
pub struct Listing<'a> {
    memcg: &'a Memcg,
    cleared: &'a mut bool,
}

impl Listing<'_> {
    /// Take the memcg off. Call it under the lock of its lists, which are empty.
    pub fn clear(self) {
        self.memcg.words().set_listed(false);
        *self.cleared = true;
    }
}

impl Shared {
    fn list(&self, hierarchy: &mut Hierarchy, index: GroupIndex) {
        let id = hierarchy.node(index).id;
        let path: Vec<_> = hierarchy.ancestry(index).map(|node| node.me.index()).collect();
        for at in path {
            hierarchy.node_mut(at).listed.insert(id);
        }
        self.group(index).set_listed(true);
    }

    fn delist(&self, hierarchy: &mut Hierarchy, index: GroupIndex) {
        let id = hierarchy.node(index).id;
        let path: Vec<_> = hierarchy.ancestry(index).map(|node| node.me.index()).collect();
        for at in path {
            hierarchy.node_mut(at).listed.remove(&id);
        }
        self.group(index).set_listed(false);
    }

    /// A removed child's place goes to its parent.
    pub(super) fn relist(&self, hierarchy: &mut Hierarchy, child: GroupIndex, parent: GroupIndex) {
        if self.group(child).is_listed() {
            self.delist(hierarchy, child);
            self.list(hierarchy, parent);
        }
    }
}

impl Tree {
    /// Note that the memcg an objcg points to has entries. One atomic load when that is noted already.
    ///
    /// # Locks
    /// The tree lock, when it is not.
    pub fn enlist(&self, id: ObjcgId) {
        let group = self.group_of(id);
        // The index may be another memcg's by now: only if the objcg still points there was it the right flag.
        if self.shared().group(group.index()).is_listed() && self.is_current(id, group) {
            return;
        }
        let mut hierarchy = self.shared().lock();
        // Under the lock the pointer stands, and names an online group.
        let group: GroupRef = self.group_of(id);
        self.shared().list(&mut hierarchy, group.index());
    }
}

impl Memcg {
    /// Whether the memcg is on the roster. Lock-free.
    #[inline]
    pub fn is_listed(&self) -> bool {
        self.words().is_listed()
    }

    /// Take the memcg off the roster, unless `look` finds that its lists are not empty after all: under the lock of
    /// the lists it calls [`Listing::clear`] or drops the listing.
    ///
    /// # Locks
    /// The tree lock, also around `look`.
    pub fn delist_with(&self, look: impl FnOnce(Listing<'_>)) {
        let mut hierarchy = self.shared().lock();
        if !self.is_online() || !self.is_listed() || self.stays_listed() {
            return;
        }
        let mut cleared = false;
        look(Listing { memcg: self, cleared: &mut cleared });
        if cleared {
            self.shared().delist(&mut hierarchy, self.index());
        }
    }

    /// Put the memcg on the roster, and keep it there until it is removed: so that nobody who adds an entry has to, which would
    /// allocate.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn stay_listed(&self) -> Result<(), Error> {
        if self.stays_listed() && self.is_online() {
            return Ok(());
        }
        let mut hierarchy = self.online()?;
        self.shared().list(&mut hierarchy, self.index());
        self.words().stay_listed();
        Ok(())
    }

    /// Whether it stays there. Lock-free.
    #[inline]
    pub fn stays_listed(&self) -> bool {
        self.words().stays_listed()
    }

    /// The listed memcg with the smallest id above `after`, of this one and its descendants. `MemcgId(0)` begins, and
    /// begins again after `None`.
    ///
    /// # Locks
    /// The tree lock.
    pub fn next_listed(&self, after: MemcgId) -> Option<Memcg> {
        let hierarchy = self.shared().lock();
        if !self.is_online() {
            return None;
        }
        let mut above = hierarchy.node(self.index()).listed.range((Bound::Excluded(after), Bound::Unbounded));
        let &next = above.next()?;
        let at = hierarchy.find(next).expect("a listed memcg is online");
        Some(self.tree().handle(&hierarchy, at))
    }

    /// Of this one and its descendants: the listed memcg at `stands`, or above it (if its turn is `over`, above it in any
    /// case), and the first one again where there is none.
    pub(super) fn whose_turn(&self, stands: MemcgId, over: bool) -> Option<Memcg> {
        let hierarchy = self.shared().lock();
        if !self.is_online() {
            return None;
        }
        let listed = &hierarchy.node(self.index()).listed;
        let from = if over { Bound::Excluded(stands) } else { Bound::Included(stands) };
        let &next = listed.range((from, Bound::Unbounded)).next().or_else(|| listed.first())?;
        let at = hierarchy.find(next).expect("a listed memcg is online");
        Some(self.tree().handle(&hierarchy, at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TreeConfig;
    use super::*;

    fn listed(memcg: &Memcg) -> Vec<u64> {
        let mut cursor = MemcgId(0);
        std::iter::from_fn(|| {
            let next = memcg.next_listed(cursor)?;
            cursor = next.id();
            Some(cursor.0)
        })
        .collect()
    }

    #[test]
    fn a_listed_memcg_is_in_its_ancestors_sets_until_its_lists_are_empty() {
        let tree = Tree::new(TreeConfig::default());
        let a = tree.root().mkdir("a").unwrap();
        let b = tree.root().mkdir("b").unwrap();
        let c = a.mkdir("c").unwrap();
        for memcg in [&c, &b] {
            tree.enlist(memcg.objcg().unwrap().id());
            tree.enlist(memcg.objcg().unwrap().id());
        }
        assert_eq!((listed(&tree.root()), listed(&a), listed(&b)), (vec![3, 4], vec![4], vec![3]));
        c.delist_with(|_not_empty| ());
        assert!(c.is_listed());
        c.delist_with(|listing| listing.clear());
        assert_eq!((listed(&tree.root()), listed(&a)), (vec![3], vec![]));
        c.delist_with(|_| panic!("what is not listed needs no look"));
        tree.assert_valid();
    }

    #[test]
    fn a_memcg_that_is_to_stay_is_not_taken_off() {
        let tree = Tree::new(TreeConfig::default());
        let a = tree.root().mkdir("a").unwrap();
        assert!(!a.stays_listed());
        a.stay_listed().unwrap();
        a.stay_listed().unwrap();
        a.delist_with(|_| panic!("nobody has to look"));
        assert_eq!((a.is_listed(), listed(&tree.root())), (true, vec![2]));
        a.offline().unwrap();
        assert!(a.stay_listed().is_err());
        assert_eq!(listed(&tree.root()), [1], "its parent has its place, and may lose it");
        tree.root().delist_with(|listing| listing.clear());
        let again = tree.root().mkdir("b").unwrap();
        assert!(!again.stays_listed());
        tree.assert_valid();
    }

    #[test]
    fn a_removed_memcg_leaves_its_place_to_its_parent() {
        let tree = Tree::new(TreeConfig::default());
        let a = tree.root().mkdir("a").unwrap();
        let c = a.mkdir("c").unwrap();
        tree.enlist(c.objcg().unwrap().id());
        c.offline().unwrap();
        assert_eq!((listed(&tree.root()), listed(&a), listed(&c)), (vec![2], vec![2], vec![]));
        a.offline().unwrap();
        assert_eq!(listed(&tree.root()), [1]);
        tree.assert_valid();
    }
}
