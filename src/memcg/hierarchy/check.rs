//! Checks of the whole tree, and a census of what exists in it: for tests, and for programs that doubt.
//!
//! The invariants are those of `hierarchy` (H1 to H7, Q1) and of `objcg` (O1, O3).

use super::super::counter::Counter;
use super::super::id::ObjcgId;
use super::super::stat::Bytes4;
use super::super::tree::Tree;
use crate::units::NodeMask;

/// How much of a tree exists: what a leak would make grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Memcgs there are, the root included.
    pub online: usize,
    /// Group indexes in use: those, and removed ones that a handle keeps.
    pub groups: usize,
    /// Objcgs in use: the memcgs' own, and those that objects of removed memcgs keep.
    pub objcgs: usize,
    /// Group indexes ever made: the size of tables by index.
    pub group_indexes: usize,
    /// Objcg ids ever made.
    pub objcg_ids: usize,
}

impl Tree {
    /// How much of the tree exists.
    ///
    /// # Locks
    /// The tree lock.
    pub fn census(&self) -> Census {
        let mut hierarchy = self.shared().lock();
        self.shared().sweep(&mut hierarchy);
        Census {
            online: hierarchy.online.len(),
            groups: hierarchy.nodes.iter().flatten().count(),
            objcgs: hierarchy.links.len() - 1 - hierarchy.free_objcgs.len(),
            group_indexes: hierarchy.nodes.len(),
            objcg_ids: hierarchy.links.len() - 1,
        }
    }

    /// Check H1 to H7 and O3. Charges and frees may be under way; references must not be dropped meanwhile.
    ///
    /// # Panics
    /// When one does not hold.
    ///
    /// # Locks
    /// The tree lock.
    pub fn assert_valid(&self) {
        let shared = self.shared();
        let mut hierarchy = shared.lock();
        shared.sweep(&mut hierarchy);
        let hierarchy = &*hierarchy;
        let mut listed_objcgs = 0;
        for (&id, &index) in &hierarchy.online {
            let (node, group) = (hierarchy.node(index), shared.group(index));
            assert_eq!((node.id, node.me.index()), (id, index), "H2: the map of ids names another group");
            assert_eq!(group.id(), id, "H2: the group's word has another id");
            assert!(id.0 < hierarchy.next_id, "H2: an id was given out before its turn");
            assert!(node.grave.is_none() && group.objcg() != 0, "H2: a removed group is in the map of ids");
            assert!(group.references() > 0, "H4: an online group has no reference");
            let parent = hierarchy.node(node.parent);
            let is_root = node.me.depth() == 0;
            if !is_root {
                assert_eq!(parent.children.get(&node.name), Some(&index), "H1: the parent has no such child");
                assert_eq!(hierarchy.find(parent.id), Some(node.parent), "H1: the parent is offline");
                assert_eq!(node.me.depth(), parent.me.depth() + 1, "H1: the depth is not one more than the parent's");
                assert_eq!(group.parent(), parent.me, "H1: the parent's word names another group");
            }
            let allowed = group.own_writeback() && (is_root || shared.group(node.parent).writeback());
            assert_eq!(group.writeback(), allowed, "H6: the writeback flag is not the AND of the path");
            let above = if is_root { NodeMask::first(shared.config.nodes) } else { shared.group(node.parent).nodes() };
            assert_eq!(group.nodes(), above & group.own_nodes(), "H7: the nodes are not the AND of the path");
            assert!(!group.nodes().is_empty(), "H7: a group has no node left");
            let above = shared.tiers_above(hierarchy, index);
            assert_eq!(group.tiers(), above & group.own_tiers(), "H8: the tiers are not the AND of the path");
            assert_eq!(group.is_listed(), node.listed.contains(&id), "H5: the flag and the group's own set differ");
            for &listed in &node.listed {
                let at = hierarchy.find(listed).expect("H5: a removed memcg is listed");
                assert!(hierarchy.ancestry(at).any(|above| above.id == id), "H5: one from elsewhere is listed");
            }
            if !is_root {
                assert!(node.listed.is_subset(&parent.listed), "H5: the parent's set lacks one");
            }
            let mut own = false;
            for objcg in hierarchy.objcgs(index) {
                listed_objcgs += 1;
                own |= objcg.raw() == group.objcg();
                assert_eq!(shared.objcgs.group(objcg), node.me, "H3: an objcg is on another list than it points to");
                assert!(shared.objcgs.references(objcg) > 0, "H4: an objcg without references was not swept");
            }
            assert!(own, "H3: the group's own objcg is not on its list");
        }
        let in_use = hierarchy.links.len() - 1 - hierarchy.free_objcgs.len();
        assert_eq!(listed_objcgs, in_use, "H3: an objcg in use is on no list");
        let nodes = hierarchy.nodes.iter().flatten().count();
        let free = hierarchy.free_groups.len() + hierarchy.retired;
        assert_eq!(nodes + free, hierarchy.nodes.len(), "H4: an index is neither used, free nor retired");
        for &id in &hierarchy.free_objcgs {
            let id = ObjcgId::from_raw(id);
            assert_eq!(shared.objcg_bytes(id), Bytes4::default(), "O3: bytes are left in a free objcg");
            assert_eq!(shared.objcgs.held_bytes(id), (0, 0), "O3: bytes are charged to a free objcg");
            assert_eq!(shared.objcgs.references(id), 0, "O1: a free objcg is counted");
        }
    }

    /// [`assert_valid`](Self::assert_valid), and Q1: nothing is charged that is not accounted to an objcg. Holds when
    /// no thread is between its charge and its account.
    ///
    /// # Panics
    /// When it does not.
    ///
    /// # Locks
    /// The tree lock.
    pub fn assert_quiet(&self) {
        self.assert_valid();
        assert_eq!(self.shared().climbs.under_way(), 0, "a charge is under way, so this is no quiet point");
        let hierarchy = self.shared().lock();
        for (&id, &index) in &hierarchy.online {
            let group = self.shared().group(index);
            let stat = self.shared().stat(&hierarchy, index);
            let sums = [stat.bytes.compressed, stat.bytes.compressed + stat.resident, stat.places];
            for (counter, sum) in Counter::ALL.into_iter().zip(sums) {
                let (usage, path) = (group.of(counter).usage(), hierarchy.path(index));
                assert_eq!(
                    usage, sum,
                    "Q1: {path} (id {id}) is charged another sum as {counter:?} than its objcgs hold"
                );
            }
        }
    }
}
