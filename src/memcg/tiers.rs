//! Tiers of devices, as memcgs see them: names, and which of them a memcg's pages may go to.
//!
//! ```text
//!   root    memory.swap.tiers       nvme 10, disk 0        the names, in words; whoever has devices says them
//!    |                              own mask   effective
//!   tenant  memory.swap.tiers.max   nvme max   nvme        a bit per tier: as set here, and that in every ancestor too
//!    |                              disk 0
//!   vm                              nvme max   nvme        its own file says `disk max`, and the tenant's 0 decides
//!                                   disk max
//! ```
//!
//! - **H8** The effective mask is the AND of the masks from the group to the root.
//!
//! What tiers are made of is not known here: a name, a number that stays the name's for good, and a priority to show.
//! An effective mask may be empty; then nothing is written back, as with `memory.zswap.writeback` at 0. What lies on a device
//! stays there when its tier is forbidden.

use super::error::Error;
use super::handle::Memcg;
use super::hierarchy::Hierarchy;
use super::id::{GroupIndex, GroupRef, ObjcgId};
use super::tree::{Shared, Tree};
use crate::units::TierMask;

/// A tier, as far as files show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierName {
    /// Its name: one word.
    pub name: String,
    /// The priority of its devices; `None` while it has none.
    pub priority: Option<i16>,
}

/// The tiers there were so far, under the tree lock.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By index.
    tiers: Vec<TierName>,
    /// Of what was told.
    version: u64,
}

impl Names {
    fn known(&self) -> String {
        self.tiers.iter().map(|tier| tier.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The index of a tier.
    fn find(&self, name: &str) -> Result<u8, Error> {
        match self.tiers.iter().position(|tier| tier.name == name) {
            Some(index) => Ok(index as u8),
            None => Err(Error::NoSuchTier { name: name.to_owned(), known: self.known() }),
        }
    }
}

impl Tree {
    /// Tell which tiers there are, by index; an index keeps its name. Of two lists the one of the higher version counts, in
    /// whatever order they are told.
    ///
    /// # Panics
    /// When an index has another name than before.
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_tiers(&self, version: u64, tiers: Vec<TierName>) {
        let names = &mut self.shared().lock().tiers;
        if version < names.version {
            return;
        }
        let kept = names.tiers.iter().zip(&tiers).all(|(old, new)| old.name == new.name);
        assert!(kept && tiers.len() >= names.tiers.len(), "a tier's index is its own for good");
        *names = Names { tiers, version };
    }

    /// The tiers there are, by index.
    ///
    /// # Locks
    /// The tree lock.
    pub fn tiers(&self) -> Vec<TierName> {
        self.shared().lock().tiers.tiers.clone()
    }

    /// The index of the tier with this name.
    ///
    /// # Errors
    /// [`Error::NoSuchTier`] with the names there are.
    ///
    /// # Locks
    /// The tree lock.
    pub fn tier(&self, name: &str) -> Result<u8, Error> {
        self.shared().lock().tiers.find(name)
    }

    /// The tiers that the pages of this group may go to; of a removed one, until its last handle is gone, what was allowed.
    /// Lock-free.
    #[inline]
    pub fn group_tiers(&self, group: GroupRef) -> TierMask {
        self.shared().group(group.index()).tiers()
    }

    /// The tiers that the owner's pages may go to. Lock-free.
    #[inline]
    pub fn allowed_tiers(&self, id: ObjcgId) -> TierMask {
        loop {
            let group = self.group_of(id);
            let allowed = self.group_tiers(group);
            // As in `writeback`.
            if self.is_current(id, group) {
                return allowed;
            }
        }
    }
}

impl Memcg {
    /// The tiers that it and all its ancestors allow. Lock-free.
    #[inline]
    pub fn tiers(&self) -> TierMask {
        self.words().tiers()
    }

    /// The tiers it allows itself: what `memory.swap.tiers.max` says.
    pub fn own_tiers(&self) -> TierMask {
        self.words().own_tiers()
    }

    /// Allow or forbid a tier, by name, here and, with the ancestors' leave, below. Batches that are under way go where they go;
    /// what lies there stays.
    ///
    /// # Errors
    /// [`Error::NoSuchTier`], [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn set_tier(&self, name: &str, allowed: bool) -> Result<(), Error> {
        let hierarchy = self.online()?;
        let index = hierarchy.tiers.find(name)?;
        self.words().set_own_tiers(self.own_tiers().with(index, allowed));
        self.shared().settle_tiers(&hierarchy, self.index());
        Ok(())
    }

    /// The tiers there are, highest priority first and those without devices last, and whether each is in the mask.
    pub(super) fn tiers_in(&self, mask: TierMask) -> Vec<(TierName, bool)> {
        let tiers = self.tree().tiers().into_iter().zip(0..);
        let mut tiers: Vec<_> = tiers.map(|(tier, index)| (tier, mask.contains(index))).collect();
        tiers.sort_by_key(|(tier, _)| std::cmp::Reverse(tier.priority));
        tiers
    }
}

impl Shared {
    /// What the groups above a group allow.
    pub(super) fn tiers_above(&self, hierarchy: &Hierarchy, index: GroupIndex) -> TierMask {
        match hierarchy.parent_of(index) {
            Some(parent) => self.group(parent).tiers(),
            None => TierMask::ALL,
        }
    }

    /// Derive the effective masks of a subtree again.
    fn settle_tiers(&self, hierarchy: &Hierarchy, index: GroupIndex) {
        // In pre-order, a parent's mask is settled before its children's.
        for at in hierarchy.subtree(index) {
            self.group(at).settle_tiers(self.tiers_above(hierarchy, at));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{ReclaimRequest, TreeConfig};
    use super::*;

    fn named(names: &[(&str, Option<i16>)]) -> Vec<TierName> {
        names.iter().map(|&(name, priority)| TierName { name: name.to_owned(), priority }).collect()
    }

    #[test]
    fn tiers_are_those_allowed_all_the_way_up() {
        let tree = Tree::new(TreeConfig::default());
        let tenant = tree.root().mkdir("tenant").unwrap();
        let vm = tenant.mkdir("vm").unwrap();
        let read = |memcg: &Memcg, file: &str| memcg.read_file(file).unwrap();
        assert_eq!((read(&vm, "memory.swap.tiers"), read(&vm, "memory.swap.tiers.max")), Default::default());
        tree.set_tiers(1, named(&[("disk", Some(-2)), ("nvme", Some(10)), ("tape", None)]));
        assert_eq!(read(&vm, "memory.swap.tiers"), "nvme 10\ndisk -2\ntape -\n");
        assert_eq!(read(&vm, "memory.swap.tiers.max"), "nvme max\ndisk max\ntape max\n");

        tenant.write_file("memory.swap.tiers.max", "disk 0\n").unwrap();
        assert_eq!(read(&tenant, "memory.swap.tiers.max"), "nvme max\ndisk 0\ntape max\n");
        assert_eq!(read(&vm, "memory.swap.tiers.max"), "nvme max\ndisk max\ntape max\n", "its own");
        assert_eq!(read(&vm, "memory.swap.tiers.effective"), "nvme max\ndisk 0\ntape max\n", "the AND");
        let late = vm.mkdir("late").unwrap();
        assert!(!late.tiers().contains(0) && late.tiers().contains(1) && late.own_tiers() == TierMask::ALL);
        let objcg = late.objcg().unwrap();
        late.set_tier("nvme", false).unwrap();
        assert_eq!((tree.allowed_tiers(objcg.id()).contains(1), vm.tiers().contains(1)), (false, true));
        tree.assert_valid();

        // What a removed memcg left is its parent's.
        late.offline().unwrap();
        assert_eq!(tree.allowed_tiers(objcg.id()), vm.tiers());
        assert_eq!(late.set_tier("nvme", true), Err(Error::Offline { id: late.id() }));
        tenant.set_tier("disk", true).unwrap();
        assert_eq!(vm.tiers(), TierMask::ALL);
        // A memcg made where one was forgets what that one had set.
        drop((late, objcg));
        let again = vm.mkdir("late").unwrap();
        assert_eq!(again.tiers(), TierMask::ALL);
        tree.assert_valid();
    }

    #[test]
    fn what_names_no_tier_is_refused_with_those_there_are() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let refuse = |text: &str| {
            let error = vm.write_file("memory.swap.tiers.max", text).unwrap_err();
            assert_eq!(error.errno(), libc::EINVAL);
            error.to_string()
        };
        let none = "there is no tier \"disk\", nor any other: add a swap device first";
        assert!(refuse("disk 0").contains(none), "{}", refuse("disk 0"));
        tree.set_tiers(1, named(&[("nvme", Some(10)), ("disk", Some(0))]));
        for (text, says) in [
            ("", "nothing was written to memory.swap.tiers.max"),
            ("disk", "\"disk\": a tier is followed by max or 0"),
            ("disk 1", "\"1\": it is neither max nor 0"),
            ("disk 10M", "\"10M\": it is neither max nor 0"),
            ("disk 0 nvme 0", "\"nvme\": one tier at a time"),
            ("ssd 0", "\"ssd\": there is no tier \"ssd\"; the tiers are nvme, disk"),
            ("max", "\"max\": a tier is followed by max or 0"),
        ] {
            assert!(refuse(text).contains(says), "{text:?}: {}", refuse(text));
            assert!(refuse(text).ends_with("such as \"disk 0\""), "{}", refuse(text));
        }
        assert_eq!(vm.tiers(), TierMask::ALL);
        let request =
            |text: &str| vm.reclaim(&text.parse::<ReclaimRequest>().unwrap(), &Default::default()).unwrap_err();
        assert_eq!(request("1M to=ssd").to_string(), "there is no tier \"ssd\"; the tiers are nvme, disk");
        assert_eq!(request("1M to=ssd").errno(), libc::EINVAL);
    }

    #[test]
    fn the_newer_of_two_lists_counts() {
        let tree = Tree::new(TreeConfig::default());
        tree.set_tiers(2, named(&[("nvme", None)]));
        tree.set_tiers(1, named(&[("nvme", Some(1))]));
        assert_eq!(tree.tiers(), named(&[("nvme", None)]));
    }

    #[test]
    #[should_panic(expected = "its own for good")]
    fn an_index_keeps_its_name() {
        let tree = Tree::new(TreeConfig::default());
        tree.set_tiers(1, named(&[("nvme", None)]));
        tree.set_tiers(2, named(&[("disk", None)]));
    }
}
