//! [`Memcg`]: a handle on a memcg.
//!
//! A handle keeps the memcg's index, not the memcg: it can be removed at any time (by another handle), and then
//! everything that would change it or read its sums says [`Error::Offline`], while id, index and path still answer.
//! The index is not recycled before the last handle is gone, so tables by index are safe to use with a handle at
//! hand.

use super::counter::{Counter, NO_LIMIT};
use super::error::Error;
use super::group::Group;
use super::hierarchy::{Handover, Hierarchy, Switched};
use super::id::{GroupIndex, GroupRef, MemcgId, ObjcgId};
use super::objcg::Objcg;
use super::stat::{Bytes4, Stat};
use super::tree::{Shared, Tree};
use crate::sync::{Bug, MutexGuard};
use crate::units::{NodeId, NodeMask};
use std::fmt;

/// A handle on a memcg. Clones are handles on the same one; equal handles are on the same one.
pub struct Memcg {
    tree: Tree,
    me: GroupRef,
}

// === names ===

impl Memcg {
    /// Wrap a reference to the group that was counted already.
    pub(super) fn adopt(tree: Tree, me: GroupRef) -> Self {
        Memcg { tree, me }
    }

    pub(super) fn shared(&self) -> &Shared {
        self.tree.shared()
    }

    #[inline]
    pub(super) fn words(&self) -> &Group {
        self.shared().group(self.me.index())
    }

    /// The tree it belongs to.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Its id, never used twice.
    pub fn id(&self) -> MemcgId {
        self.words().id()
    }

    /// Its index in tables, not recycled while a handle is there.
    #[inline]
    pub fn index(&self) -> GroupIndex {
        self.me.index()
    }

    /// What [`Tree::group_of`] says of objcgs that point here.
    #[inline]
    pub fn group(&self) -> GroupRef {
        self.me
    }

    /// Whether it has not been removed. Lock-free.
    #[inline]
    pub fn is_online(&self) -> bool {
        self.words().objcg() != 0
    }

    /// Its path from the root, `/` for the root; the last one it had when it was removed.
    ///
    /// # Locks
    /// The tree lock.
    pub fn path(&self) -> String {
        self.shared().lock().path(self.index())
    }

    /// The parent; none of the root, nor when it was removed and forgotten.
    pub fn parent(&self) -> Option<Memcg> {
        if self.me.depth() == 0 { None } else { self.tree.get(self.words().parent()) }
    }

    /// Whether it is `other` or was made somewhere below it. Of a memcg that was removed, only while its ancestors are there.
    /// Lock-free.
    pub fn is_within(&self, other: &Memcg) -> bool {
        self.tree().is(other.tree()) && other.is_above(self.group()).unwrap_or(false)
    }

    /// Whether what is charged through this objcg of the same tree is charged to it. Lock-free.
    #[inline]
    pub fn is_charged_by(&self, id: ObjcgId) -> bool {
        let mut group = self.tree().group_of(id);
        loop {
            let is_above = self.is_above(group);
            let now = self.tree().group_of(id);
            if is_above.is_some() || now == group {
                return is_above.unwrap_or(false); // nobody's, if it was let go by its last holder
            }
            group = now;
        }
    }

    /// `None`: one on the way was removed and forgotten; an objcg that pointed there points elsewhere by now.
    #[inline]
    fn is_above(&self, group: GroupRef) -> Option<bool> {
        let (shared, mut at) = (self.shared(), group);
        while at.depth() > self.group().depth() {
            let step = shared.group(at.index());
            let parent = step.parent();
            if step.of(Counter::Memory).life() != at.generation() {
                return None; // G2
            }
            at = parent;
        }
        Some(at == self.group())
    }
}

// === the tree ===

impl Memcg {
    /// Make a child: no limit, writeback as here.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::Exists`], [`Error::Offline`], [`Error::TooDeep`]; [`Error::OutOfIds`] when memcgs
    /// and objects of removed ones hold all objcg ids.
    ///
    /// # Locks
    /// The tree lock.
    pub fn mkdir(&self, name: &str) -> Result<Memcg, Error> {
        self.tree.mkdir_in(self.index(), name)
    }

    /// Remove the memcg: what is charged to it stays charged to the parent, its objects stay. Takes time by the
    /// number of its objcgs, not of objects.
    ///
    /// # Errors
    /// [`Error::HasChildren`], [`Error::Root`], and [`Error::Offline`] when that was done before.
    ///
    /// # Locks
    /// The tree lock.
    pub fn offline(&self) -> Result<(), Error> {
        self.offline_with(|handover| match self.shared().keeper() {
            Some(keeper) => keeper(handover),
            None => handover.switch(),
        })
    }

    /// [`offline`](Self::offline), with the caller choosing the moment when the objcgs change sides: `switch_with`
    /// runs under the tree lock, takes the locks of what belongs to the memcg (child before parent), hands that to
    /// the parent, and switches meanwhile. It must not call anything that takes the tree lock. New references to the
    /// memcg's objcg are refused from before it runs. A [keeper](super::Tree::kept) is left out.
    ///
    /// # Errors
    /// As `offline`; `switch_with` did not run then.
    ///
    /// # Locks
    /// The tree lock, also around `switch_with`.
    pub fn offline_with(&self, switch_with: impl FnOnce(Handover<'_>) -> Switched) -> Result<(), Error> {
        self.shared().offline(self.index(), switch_with)
    }

    /// The online children, oldest first; none of a removed memcg.
    ///
    /// # Locks
    /// The tree lock.
    pub fn children(&self) -> Vec<Memcg> {
        let hierarchy = self.shared().lock();
        hierarchy.children(self.index()).into_iter().map(|at| self.tree.handle(&hierarchy, at)).collect()
    }

    /// The memcg and its online descendants in pre-order, older siblings first; nothing of a removed memcg.
    ///
    /// # Locks
    /// The tree lock.
    pub fn subtree(&self) -> Vec<Memcg> {
        let hierarchy = self.shared().lock();
        if !self.is_online() {
            return Vec::new();
        }
        hierarchy.subtree(self.index()).into_iter().map(|at| self.tree.handle(&hierarchy, at)).collect()
    }

    /// The online descendant with the smallest id above `after`, the memcg itself excluded. `MemcgId(0)` begins.
    ///
    /// # Locks
    /// The tree lock.
    pub fn next_descendant(&self, after: MemcgId) -> Option<Memcg> {
        let hierarchy = self.shared().lock();
        if !self.is_online() {
            return None;
        }
        hierarchy.next_descendant(self.index(), after).map(|at| self.tree.handle(&hierarchy, at))
    }
}

// === objcg, limit, flag ===

impl Memcg {
    /// A counted reference to the memcg's objcg. Lock-free.
    ///
    /// # Errors
    /// [`Error::Offline`] once the removal has begun.
    #[inline]
    pub fn objcg(&self) -> Result<Objcg, Error> {
        let group = self.words();
        loop {
            let id = group.objcg();
            if id == 0 {
                return Err(Error::Offline { id: self.id() });
            }
            let id = ObjcgId::from_raw(id);
            // The removal may drop the last reference just now, and a mkdir elsewhere recycle the id: then the
            // reference got is to a stranger, and goes back. While our group names the id it holds a reference
            // itself, so a second look that finds it unchanged proves that the reference is ours (G3: an id does not
            // come back). Acquire in `try_get` makes the second look see a removal that came before it.
            if self.shared().objcgs.try_get(id) {
                let objcg = self.tree.adopt(id);
                if group.objcg() == id.raw() || self.shared().config.planted.is(Bug::ObjcgSkipsSecondLook) {
                    return Ok(objcg);
                }
            }
        }
    }

    /// Bytes charged as this counter to it and everything below it, reservations under way included; 0 of a removed memcg.
    /// What threads hold in stock is recalled first, for which this waits a moment: not for the handler of a signal or a
    /// fault.
    pub fn current(&self, counter: Counter) -> u64 {
        self.shared().recall();
        if self.is_online() { self.words().of(counter).usage() } else { 0 }
    }

    /// The limit in bytes, [`NO_LIMIT`] when there is none. Lock-free.
    #[inline]
    pub fn max(&self, counter: Counter) -> u64 {
        self.words().of(counter).limit()
    }

    /// Set the limit in bytes, or [`NO_LIMIT`]. When this returns, nothing is charged past it any more; what is charged
    /// already stays, also above it, and then the memcg is [noted](super::Tree::take_excess).
    ///
    /// # Errors
    /// [`Error::Offline`]; [`Error::BelowPinned`] for memory, when more than that is pinned there and below: the limit is as it
    /// was.
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_max(&self, counter: Counter, limit: u64) -> Result<(), Error> {
        if counter == Counter::Memory && limit != NO_LIMIT {
            self.check_pinned(limit)?;
        }
        let hierarchy = self.online()?;
        let planted = self.shared().config.planted;
        self.words().of(counter).set_limit(limit, counter.mark(limit, self.words().high()), planted);
        self.look_for_excess(&hierarchy, counter);
        Ok(())
    }

    /// `memory.high` in bytes, [`NO_LIMIT`] when there is none. Lock-free.
    pub fn high(&self) -> u64 {
        self.words().high()
    }

    /// Set `memory.high` in bytes, or [`NO_LIMIT`]: nothing is refused above it, but the memcg is
    /// [noted](super::Tree::take_excess).
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_high(&self, high: u64) -> Result<(), Error> {
        let hierarchy = self.online()?;
        let memory = self.words().of(Counter::Memory);
        self.words().set_high(high);
        let mark = Counter::Memory.mark(memory.limit(), high);
        memory.set_limit(memory.limit(), mark, self.shared().config.planted);
        self.look_for_excess(&hierarchy, Counter::Memory);
        Ok(())
    }

    /// Note the memcg if it is above the mark that was just set.
    fn look_for_excess(&self, _hierarchy: &Hierarchy, counter: Counter) {
        self.shared().recall(); // what lies in stock is no usage
        if self.words().of(counter).excess() > 0 {
            self.shared().note_excess(self.index());
        }
    }

    /// The most bytes that were charged as this counter, to it and everything below it, since it was made or the peak
    /// [reset](Self::reset_peak): never less than what [`current`](Self::current) said meanwhile, reservations aside that were
    /// taken back, and never more than the limit was. What threads held in stock is in it (far from limits, 132 KiB each at
    /// most). Lock-free.
    pub fn peak(&self, counter: Counter) -> u64 {
        if self.is_online() { self.words().of(counter).peak() } else { 0 }
    }

    /// Begin the peak anew from what is charged now. [Readers](Self::peak_reader) keep theirs.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn reset_peak(&self, counter: Counter) -> Result<(), Error> {
        self.begin_peak(counter, None)
    }

    /// [`current`](Self::current) of [`Counter::Zswap`].
    pub fn usage(&self) -> u64 {
        self.current(Counter::Zswap)
    }

    /// [`max`](Self::max) of [`Counter::Zswap`]. Lock-free.
    #[inline]
    pub fn zswap_max(&self) -> u64 {
        self.max(Counter::Zswap)
    }

    /// [`set_max`](Self::set_max) of [`Counter::Zswap`].
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_zswap_max(&self, limit: u64) -> Result<(), Error> {
        self.set_max(Counter::Zswap, limit)
    }

    /// Whether it and all its ancestors allow writeback. Lock-free.
    #[inline]
    pub fn writeback(&self) -> bool {
        self.words().writeback()
    }

    /// Whether it allows writeback itself: what `memory.zswap.writeback` says.
    pub fn own_writeback(&self) -> bool {
        self.words().own_writeback()
    }

    /// Allow or forbid writeback here and, with the ancestors' leave, below.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_writeback(&self, on: bool) -> Result<(), Error> {
        let hierarchy = self.online()?;
        self.words().set_own_writeback(on);
        self.shared().settle_writeback(&hierarchy, self.index());
        Ok(())
    }

    /// The nodes its objects may lie on: those that it and all its ancestors allow. Lock-free.
    #[inline]
    pub fn nodes(&self) -> NodeMask {
        self.words().nodes()
    }

    /// The nodes it allows itself: what `memory.zswap.nodes` says. All there are until something is set.
    pub fn own_nodes(&self) -> NodeMask {
        self.words().own_nodes() & NodeMask::first(self.tree.nodes())
    }

    /// Allow nodes here and, with the ancestors' leave, below. When this returns, no object of it or of a descendant comes
    /// to lie elsewhere any more. What lies elsewhere already stays:
    /// [`Pool::move_off`](crate::zsmalloc::Pool::move_off) moves it, [`Zswap::set_nodes`](crate::zswap::Zswap::set_nodes)
    /// does both.
    ///
    /// # Errors
    /// [`Error::Nodes`] for an empty mask or one with nodes that are not there; [`Error::NoNodeLeft`] when this memcg or
    /// one below it would have no node left; [`Error::Offline`]. Nothing is changed then.
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_nodes(&self, nodes: NodeMask) -> Result<(), Error> {
        let hierarchy = self.online()?;
        self.shared().set_nodes(&hierarchy, self.index(), nodes)
    }

    /// Sums over it and everything below it. Exact when nobody stores or frees meanwhile.
    ///
    /// # Errors
    /// [`Error::Offline`]; the parent has the sums now.
    ///
    /// # Locks
    /// The tree lock.
    pub fn stat(&self) -> Result<Stat, Error> {
        self.shared().recall();
        let hierarchy = self.online()?;
        Ok(self.shared().stat(&hierarchy, self.index()))
    }

    /// The same sums of bytes by node, as many as the tree has.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn numa_stat(&self) -> Result<Vec<Bytes4>, Error> {
        self.shared().recall();
        let hierarchy = self.online()?;
        Ok(self.shared().numa_stat(&hierarchy, self.index()))
    }

    /// The same sums on one node, without what lies below it.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn own_bytes(&self, node: NodeId) -> Result<Bytes4, Error> {
        self.shared().recall();
        let hierarchy = self.online()?;
        Ok(self.shared().own_bytes(&hierarchy, self.index(), node))
    }

    /// The tree lock, if the memcg is online.
    pub(super) fn online(&self) -> Result<MutexGuard<'_, Hierarchy>, Error> {
        let hierarchy = self.shared().lock();
        self.shared().check_online(self.words())?;
        Ok(hierarchy)
    }
}

const _: () = assert!(NO_LIMIT == u64::MAX); // any number is a limit or none

impl Clone for Memcg {
    fn clone(&self) -> Self {
        self.words().hold_more();
        Memcg { tree: self.tree.clone(), me: self.me }
    }
}

/// Takes no lock and neither allocates nor frees, but for the last handle on the whole tree.
impl Drop for Memcg {
    fn drop(&mut self) {
        self.shared().release_group(self.me.index());
    }
}

impl PartialEq for Memcg {
    fn eq(&self, other: &Memcg) -> bool {
        self.tree.is(&other.tree) && self.me == other.me
    }
}

impl Eq for Memcg {}

impl fmt::Debug for Memcg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memcg").field("id", &self.id().0).field("group", &self.me).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::TreeConfig;
    use super::*;

    #[test]
    fn a_memcg_lies_within_itself_and_its_ancestors() {
        let tree = Tree::new(TreeConfig::default());
        let [a, b] = ["a", "b"].map(|name| tree.root().mkdir(name).unwrap());
        let deep = a.mkdir("c").unwrap().mkdir("d").unwrap();
        assert!(deep.is_within(&deep) && deep.is_within(&a) && deep.is_within(&tree.root()));
        let id = deep.objcg().unwrap();
        assert!(a.is_charged_by(id.id()) && deep.is_charged_by(id.id()) && !b.is_charged_by(id.id()));
        assert!(!deep.is_within(&b) && !a.is_within(&deep) && !a.is_within(&b));
        assert!(!deep.is_within(&Tree::new(TreeConfig::default()).root()), "another tree's");
    }

    #[test]
    fn a_removed_memcg_is_not_within_who_has_its_parents_index_now() {
        let tree = Tree::new(TreeConfig::default());
        let [a, b] = ["a", "b"].map(|name| tree.root().mkdir(name).unwrap());
        let p = a.mkdir("p").unwrap();
        let x = p.mkdir("x").unwrap();
        x.offline().unwrap();
        assert!(x.is_within(&p) && x.is_within(&a));
        p.offline().unwrap();
        let index = p.index();
        drop(p);
        assert_eq!(b.mkdir("n").unwrap().index(), index);
        assert!(!x.is_within(&b));
    }

    #[test]
    fn a_peak_begins_anew_from_what_is_charged() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let kept = vm.charge_resident(100).unwrap();
        drop(vm.charge_resident(1000).unwrap());
        assert_eq!(vm.peak(Counter::Memory), 1100);
        vm.reset_peak(Counter::Memory).unwrap();
        assert_eq!((vm.peak(Counter::Memory), tree.root().peak(Counter::Memory)), (100, 1100));
        drop(kept);
        assert_eq!(vm.peak(Counter::Memory), 100);
    }

    #[test]
    fn a_name_that_cannot_be_says_why_by_its_number() {
        let root = Tree::new(TreeConfig::default()).root();
        let errno = |name: &str| root.mkdir(name).map(|_| ()).map_err(|error| error.errno());
        assert_eq!(errno(&"x".repeat(255)), Ok(()));
        assert_eq!(errno(&"x".repeat(256)), Err(libc::ENAMETOOLONG));
        for name in ["", ".", "..", "a/b", "a\nb", "a\0b"] {
            assert_eq!(errno(name), Err(libc::EINVAL), "{name:?}");
        }
        assert_eq!(
            errno(&format!("{}/", "x".repeat(254))),
            Err(libc::EINVAL),
            "as long as can be, and wrong otherwise"
        );
        assert_eq!(errno("memory.max"), Err(libc::EEXIST));
    }

    #[test]
    fn events_of_a_memcg_outlive_it_and_its_last_object() {
        use crate::memcg::{Bytes4, Event};
        use crate::units::NodeId;
        for stocks in [0, 4] {
            let tree = Tree::new(TreeConfig { stocks, ..TreeConfig::default() });
            let top = tree.root().mkdir("top").unwrap();
            let bytes = Bytes4 { compressed: 64, original: 4096, payload: 60, incompressible: 0 };
            for n in 1..=3 {
                let vm = top.mkdir("vm").unwrap();
                let id = tree.enter(&vm, NodeId(0), bytes, Some(Event::ZswpOut)).unwrap();
                vm.offline().unwrap();
                drop(vm);
                assert_eq!(top.stat().unwrap().events(Event::ZswpOut), n);
                tree.leave(id, NodeId(0), bytes, 64);
                assert_eq!(tree.census().objcgs, 2, "its objcg is gone too");
                assert_eq!(top.stat().unwrap().events(Event::ZswpOut), n);
            }
        }
    }

    #[test]
    fn an_index_whose_lives_are_used_up_is_not_used_again() {
        let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
        for _ in 0..=u16::MAX {
            tree.root().mkdir("vm").unwrap().offline().unwrap();
        }
        assert_eq!(tree.census().group_indexes, 2);
        tree.root().mkdir("vm").unwrap();
        assert_eq!((tree.census().group_indexes, tree.census().groups), (3, 2));
        tree.assert_valid();
    }

    #[test]
    fn what_is_protected_reads_back_and_is_set_one_by_one() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_min(1000).unwrap();
        vm.set_low(2000).unwrap();
        assert_eq!((vm.min(), vm.low()), (1000, 2000));
        vm.set_min(500).unwrap();
        assert_eq!((vm.min(), vm.low()), (500, 2000));
    }

    #[test]
    fn memcgs_are_found_by_id_while_they_are_online() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        assert_eq!((tree.find(vm.id()).as_ref(), tree.find(tree.root().id())), (Some(&vm), Some(tree.root())));
        vm.offline().unwrap();
        assert_eq!(tree.find(vm.id()), None);
    }

    #[test]
    fn a_reference_is_borrowed_only_while_somebody_holds_one() {
        let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        let id = vm.objcg().unwrap().id();
        assert_eq!(tree.try_borrow(id).map(|objcg| objcg.id()), Some(id));
        vm.offline().unwrap();
        assert!(tree.try_borrow(id).is_none(), "the memcg's was the last");
        tree.census();
        assert!(tree.try_borrow(id).is_none());
    }

    #[test]
    fn a_tree_says_what_its_owners_may_and_how_long_it_waits() {
        let tree = Tree::new(TreeConfig { patience: 77, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        let id = vm.objcg().unwrap();
        assert_eq!((tree.patience(), tree.writeback(id.id())), (77, true));
        tree.root().set_writeback(false).unwrap();
        assert!(!tree.writeback(id.id()));
    }
}
