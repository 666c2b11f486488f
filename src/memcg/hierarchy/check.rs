//! Checks of the whole tree, and a census of what exists in it: for tests, and for programs that doubt.
//!
//! The invariants are those of `hierarchy` (H1 to H8, Q1) and of `objcg` (O1, O3).

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

    /// Check H1 to H8, and O1 and O3 of objcgs that are free. Charges and frees may be under way; references must not be dropped meanwhile.
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::id::{GroupIndex, MemcgId};
    use super::super::super::stat::Event;
    use super::super::super::tree::Shared;
    use super::super::super::{Memcg, TreeConfig};
    use super::super::Hierarchy;
    use super::*;
    use crate::units::{NodeId, NodeMask, TierMask};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A root, `vm` and `vm/part`, each with an object; and one objcg that is free.
    fn tree() -> (Tree, [Memcg; 2]) {
        let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        let part = vm.mkdir("part").unwrap();
        let bytes = Bytes4 { compressed: 100, original: 4096, payload: 90, incompressible: 0 };
        for memcg in [&tree.root(), &vm, &part] {
            tree.enter(memcg, NodeId(1), bytes, Some(Event::ZswpOut)).unwrap();
        }
        tree.root().mkdir("gone").unwrap().offline().unwrap();
        tree.enlist(part.objcg().unwrap().id());
        tree.assert_quiet();
        (tree, [vm, part])
    }

    fn sentence(check: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("the check found nothing");
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap()
    }

    #[test]
    fn each_damage_is_found_and_named() {
        type Damage = fn(&Shared, &mut Hierarchy, [GroupIndex; 2]);
        let damages: [(&str, Damage); 18] = [
            ("H2: the map of ids names another", |_, all, [vm, _]| all.node_mut(vm).id = MemcgId(99)),
            ("H2: an id was given out before", |_, all, _| all.next_id = 2),
            ("H2: a removed group is in the map", |_, all, [vm, _]| all.node_mut(vm).grave = Some("/vm".into())),
            ("H1: the parent has no such child", |_, all, [vm, _]| all.node_mut(vm).children.clear()),
            ("H1: the parent's word names another", |tree, _, [_, part]| {
                let (group, root) = (tree.group(part), tree.group(GroupIndex(0)).me());
                group.birth(group.me(), root, group.id(), group.objcg(), true, (group.nodes(), group.tiers()));
            }),
            ("H6: the writeback flag", |tree, _, [vm, _]| tree.group(vm).settle_writeback(false)),
            ("H7: the nodes are not the AND", |tree, _, [vm, _]| tree.group(vm).set_own_nodes(NodeMask::first(1))),
            ("H8: the tiers are not the AND", |tree, _, [vm, _]| tree.group(vm).set_own_tiers(TierMask::from_bits(1))),
            ("H5: the flag and the group's own set", |_, all, [vm, _]| {
                let id = all.node(vm).id;
                all.node_mut(vm).listed.insert(id);
            }),
            ("H5: the parent's set lacks one", |_, all, [vm, _]| all.node_mut(vm).listed.clear()),
            ("H5: one from elsewhere is listed", |_, all, [vm, part]| {
                let id = all.node(vm).id;
                all.node_mut(part).listed.insert(id);
            }),
            ("H5: a removed memcg is listed", |_, all, [vm, _]| {
                let never = MemcgId(all.next_id);
                all.node_mut(vm).listed.insert(never);
            }),
            ("H3: an objcg is on another list", |tree, all, [vm, part]| {
                let id = ObjcgId::from_raw(tree.group(vm).objcg());
                tree.objcgs.reparent(id, all.node(part).me);
            }),
            ("H3: the group's own objcg is not", |tree, all, [vm, _]| {
                all.unlink(vm, ObjcgId::from_raw(tree.group(vm).objcg()));
            }),
            ("H3: an objcg in use is on no list", |_, all, _| all.links.push(Default::default())),
            ("H4: an index is neither used", |_, all, _| all.retired += 1),
            ("O3: bytes are left in a free objcg", |tree, all, _| {
                let more =
                    super::super::super::objcg::Changes::came(Bytes4 { compressed: 1, ..Bytes4::default() }, None);
                tree.objcgs.change(ObjcgId::from_raw(all.free_objcgs[0]), NodeId(1), &more);
            }),
            ("O3: bytes are charged to a free objcg", |tree, all, _| {
                tree.objcgs.hold_bytes(ObjcgId::from_raw(all.free_objcgs[0]), Counter::Swap, 1);
            }),
        ];
        for (expected, damage) in damages {
            let (tree, [vm, part]) = tree();
            damage(tree.shared(), &mut tree.shared().lock(), [vm.index(), part.index()]);
            let found = [sentence(|| tree.assert_valid()), sentence(|| tree.assert_quiet())];
            assert!(found.iter().all(|found| found.contains(expected)), "{expected:?} was wanted: {found:?}");
            std::mem::forget((tree, vm, part)); // nothing of it can be relied on
        }
    }

    #[test]
    fn what_is_charged_and_not_accounted_is_no_quiet_point() {
        for (counter, bytes) in [(Counter::Memory, 4096), (Counter::Swap, 1)] {
            let (tree, [vm, _]) = tree();
            let objcg = vm.objcg().unwrap();
            tree.charge_all(objcg.id(), counter.charged(), bytes).unwrap();
            tree.assert_valid();
            let found = sentence(|| tree.assert_quiet());
            assert!(found.contains(&format!("as {counter:?} than its objcgs hold")), "{found}");
        }
        let (tree, [vm, _]) = tree();
        let _climbing = tree.shared().climbs.begin(vm.objcg().unwrap().id());
        assert!(sentence(|| tree.assert_quiet()).contains("a charge is under way"));
    }

    #[test]
    fn what_a_memcg_has_itself_is_told_by_node_and_without_what_lies_below() {
        let (tree, [vm, part]) = tree();
        let more = Bytes4 { compressed: 48, original: 4096, payload: 40, incompressible: 0 };
        tree.enter(&vm, NodeId(0), more, None).unwrap();
        part.offline().unwrap();
        let part = Bytes4 { compressed: 200, original: 8192, payload: 180, incompressible: 0 };
        assert_eq!([0, 1].map(|node| vm.own_bytes(NodeId(node)).unwrap()), [more, part], "of both objcgs");
        assert_eq!(tree.root().own_bytes(NodeId(0)).unwrap(), Bytes4::default());
    }

    #[test]
    fn nodes_that_the_root_gave_up_can_be_allowed_again() {
        let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        for nodes in [NodeMask::first(1), NodeMask::first(2)] {
            tree.root().set_nodes(nodes).unwrap();
            assert_eq!((tree.root().nodes(), vm.nodes()), (nodes, nodes));
            tree.assert_valid();
        }
    }

    #[test]
    fn a_census_counts_what_there_is() {
        let (tree, [vm, part]) = tree();
        let first = Census { online: 3, groups: 3, objcgs: 3, group_indexes: 4, objcg_ids: 4 };
        assert_eq!(tree.census(), first);
        part.offline().unwrap();
        // A handle keeps its group and an object its objcg.
        assert_eq!(tree.census(), Census { online: 2, ..first });
        drop(part);
        assert_eq!(tree.census(), Census { online: 2, groups: 2, ..first });
        drop(vm);
    }
}
