//! What the tree lock guards: names, children, which objcgs point to which group, free indexes and ids.
//!
//! ```text
//! node a (online)                    objcg lists: every objcg on the list of the group it points to
//!   children  {"b": node b, ..}        a: 2 <-> 9 <-> 7          2 is a's own, 9 and 7 were left by removed children
//!   objcgs -> 2 <-> 9 <-> 7
//! ```
//!
//! A removed memcg's node stays while a handle keeps its index, with its last path; objects keep only its objcg.
//!
//! Invariants:
//! - **H1** Every online group but the root is its parent's child under its name, and its parent is online.
//! - **H2** The map of ids holds the online groups and nothing else, each under its own id; ids only grow.
//! - **H3** Every objcg that is not free is on the list of exactly one online group, the one its pointer names.
//! - **H4** Every index is in use, free, or retired; every objcg id is in use or free. (In use until swept.)
//! - **H5** A group is listed if and only if its id is in its own set and in those of all its ancestors.
//! - **H6** The effective writeback flag is the AND of the flags from the group to the root.
//! - **H7** The effective node mask is the AND of the masks from the group to the root, and not empty.
//! - **H8** The effective mask of tiers is the AND of the masks from the group to the root (`tiers`).
//! - **Q1** At a quiet point: an online group is charged as Zswap the sum of `compressed` of the objcgs of its subtree, as
//!   Memory that and what is resident, as Swap the places on devices.
//!
//! Callers: `handle`, `tree`, `roster`, `files`, with the lock.

mod check;

pub use check::Census;

use super::error::Error;
use super::files;
use super::group::Group;
use super::handle::Memcg;
use super::id::{GroupIndex, GroupRef, MemcgId, ObjcgId};
use super::stat::Event;
use super::tiers::Names;
use super::tree::{Shared, Tree};
use crate::units::{NodeMask, TierMask};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Longest name in bytes, as of files.
pub(super) const NAME_MAX: usize = 255;

/// The locked half of a group; the other half is `group::Group`.
#[derive(Debug)]
pub(super) struct Node {
    /// This group, in this life.
    pub(super) me: GroupRef,
    /// Its id.
    pub(super) id: MemcgId,
    /// The last part of its path; empty for the root.
    name: Box<str>,
    /// The parent; the root's is itself.
    parent: GroupIndex,
    /// Online children by name.
    children: BTreeMap<Box<str>, GroupIndex>,
    /// Head of the list of objcgs that point here, or 0.
    objcgs: u32,
    /// Events of objcgs that are gone.
    pub(super) past: [u64; Event::COUNT],
    /// Those of this subtree that may have entries.
    pub(super) listed: BTreeSet<MemcgId>,
    /// The path it had, when it is offline.
    grave: Option<Box<str>>,
}

/// Neighbours of an objcg in its group's list; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    prev: u32,
    next: u32,
}

/// Everything under the tree lock.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// By [`GroupIndex`]; `None` where the index is free or retired.
    nodes: Vec<Option<Node>>,
    /// By objcg id; 0 is unused.
    links: Vec<Link>,
    /// Indexes to use again, with the generation to use. The last freed first, so that tables by index stay small.
    free_groups: Vec<(GroupIndex, u16)>,
    /// Indexes whose generation would wrap.
    retired: usize,
    /// Objcg ids to use again.
    free_objcgs: Vec<u32>,
    /// The online groups.
    online: BTreeMap<MemcgId, GroupIndex>,
    /// The next memcg's id.
    next_id: u64,
    /// Names of the tiers.
    pub(super) tiers: Names,
}

/// A memcg on its way out, under the tree lock, before its objcgs point to its parent.
pub struct Handover<'a> {
    shared: &'a Shared,
    hierarchy: &'a mut Hierarchy,
    child: GroupRef,
    parent: GroupRef,
}

/// Proof that [`Handover::switch`] was called.
#[derive(Debug)]
pub struct Switched(());

// === impl Hierarchy ===

impl Hierarchy {
    pub(super) fn new() -> Self {
        Hierarchy {
            nodes: Vec::new(),
            links: vec![Link::default()],
            free_groups: Vec::new(),
            retired: 0,
            free_objcgs: Vec::new(),
            online: BTreeMap::new(),
            next_id: 1,
            tiers: Names::default(),
        }
    }

    pub(super) fn node(&self, index: GroupIndex) -> &Node {
        self.nodes[index.index()].as_ref().expect("a group in use has a node")
    }

    pub(super) fn node_mut(&mut self, index: GroupIndex) -> &mut Node {
        self.nodes[index.index()].as_mut().expect("a group in use has a node")
    }

    pub(super) fn find(&self, id: MemcgId) -> Option<GroupIndex> {
        self.online.get(&id).copied()
    }

    pub(super) fn by_path(&self, path: &str) -> Option<GroupIndex> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Some(GroupRef::ROOT.index());
        }
        path.split('/').try_fold(GroupRef::ROOT.index(), |at, name| self.node(at).children.get(name).copied())
    }

    pub(super) fn path(&self, index: GroupIndex) -> String {
        if let Some(path) = &self.node(index).grave {
            return path.to_string();
        }
        let names: Vec<&str> = self.ancestry(index).map(|node| &*node.name).collect();
        match names.len() {
            1 => "/".to_owned(),
            // The root's empty name makes the leading slash.
            _ => names.into_iter().rev().collect::<Vec<_>>().join("/"),
        }
    }

    /// The group and its ancestors, the root last. Of an online group.
    pub(super) fn ancestry(&self, index: GroupIndex) -> impl Iterator<Item = &Node> {
        std::iter::successors(Some(self.node(index)), |node| (node.me.depth() > 0).then(|| self.node(node.parent)))
    }

    /// The parent; `None` of the root.
    pub(super) fn parent_of(&self, index: GroupIndex) -> Option<GroupIndex> {
        let node = self.node(index);
        (node.me.depth() > 0).then_some(node.parent)
    }

    /// The children, in any order.
    pub(super) fn each_child(&self, index: GroupIndex) -> impl Iterator<Item = GroupIndex> {
        self.node(index).children.values().copied()
    }

    /// The children, oldest first.
    pub(super) fn children(&self, index: GroupIndex) -> Vec<GroupIndex> {
        let mut children: Vec<_> = self.node(index).children.values().copied().collect();
        children.sort_by_key(|&child| self.node(child).id);
        children
    }

    /// The group and its descendants in pre-order, older siblings first.
    pub(super) fn subtree(&self, index: GroupIndex) -> Vec<GroupIndex> {
        let (mut subtree, mut todo) = (Vec::new(), vec![index]);
        while let Some(at) = todo.pop() {
            subtree.push(at);
            todo.extend(self.children(at).into_iter().rev());
        }
        subtree
    }

    /// The first descendant of `index` above `after`, by id.
    pub(super) fn next_descendant(&self, index: GroupIndex, after: MemcgId) -> Option<GroupIndex> {
        // A descendant is younger than its ancestor.
        let after = after.max(self.node(index).id);
        let depth = self.node(index).me.depth();
        let mut younger = self.online.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        younger.find_map(|(_, &at)| {
            let ancestor = self.ancestry(at).take_while(|node| node.me.depth() >= depth).last()?;
            (ancestor.me.index() == index && ancestor.me.depth() == depth).then_some(at)
        })
    }

    /// The objcgs that point to the group.
    pub(super) fn objcgs(&self, index: GroupIndex) -> impl Iterator<Item = ObjcgId> {
        let some = |id: u32| (id != 0).then_some(id);
        std::iter::successors(some(self.node(index).objcgs), move |&id| some(self.links[id as usize].next))
            .map(ObjcgId::from_raw)
    }

    fn link(&mut self, index: GroupIndex, id: ObjcgId) {
        let head = std::mem::replace(&mut self.node_mut(index).objcgs, id.raw());
        self.links[id.raw() as usize] = Link { prev: 0, next: head };
        if head != 0 {
            self.links[head as usize].prev = id.raw();
        }
    }

    fn unlink(&mut self, index: GroupIndex, id: ObjcgId) {
        let Link { prev, next } = std::mem::take(&mut self.links[id.raw() as usize]);
        match prev {
            0 => self.node_mut(index).objcgs = next,
            _ => self.links[prev as usize].next = next,
        }
        if next != 0 {
            self.links[next as usize].prev = prev;
        }
    }
}

// === births and burials ===

fn check_name(name: &str) -> Result<(), Error> {
    let why = match name {
        "" => "it is empty",
        "." | ".." => "it means a directory",
        _ if name.contains('/') => "it contains a '/'",
        _ if name.contains('\0') => "it contains a NUL",
        _ if name.len() > NAME_MAX => "it is too long",
        _ if name.contains('\n') => "it contains a line break",
        _ if files::is_file(name) => return Err(Error::FileName { name: name.to_owned() }),
        _ => return Ok(()),
    };
    Err(Error::BadName { name: name.to_owned(), why })
}

impl Shared {
    /// Make the root of a new tree.
    pub(super) fn plant(&self) {
        let mut hierarchy = self.lock();
        let root = self.birth(&mut hierarchy, None, "");
        let index = root.expect("a new tree has an objcg id left");
        // `birth` counts a handle, and there is none.
        let last = self.group(index).release();
        debug_assert!(!last);
    }

    /// Check that the group is online.
    pub(super) fn check_online(&self, group: &Group) -> Result<(), Error> {
        if group.objcg() == 0 { Err(Error::Offline { id: group.id() }) } else { Ok(()) }
    }

    /// A new group with its objcg, held once for being online and once for a handle.
    fn birth(&self, hierarchy: &mut Hierarchy, parent: Option<GroupIndex>, name: &str) -> Result<GroupIndex, Error> {
        let depth = parent.map_or(0, |parent| u32::from(hierarchy.node(parent).me.depth()) + 1);
        let depth = u16::try_from(depth).map_err(|_| Error::TooDeep { depth, most: u16::MAX })?;
        let limit = self.config.objcg_ids;
        let objcg = match hierarchy.free_objcgs.pop() {
            Some(id) => id,
            None if hierarchy.links.len() > limit as usize => {
                return Err(Error::OutOfIds { limit, online: hierarchy.online.len() });
            }
            None => {
                hierarchy.links.push(Link::default());
                hierarchy.links.len() as u32 - 1
            }
        };
        let objcg = ObjcgId::from_raw(objcg);
        let (index, life) = hierarchy.free_groups.pop().unwrap_or_else(|| {
            // At most one more than there are objcgs, retired ones aside: far from 2^32.
            hierarchy.nodes.push(None);
            (GroupIndex(hierarchy.nodes.len() as u32 - 1), 0)
        });
        let id = MemcgId(hierarchy.next_id);
        hierarchy.next_id += 1;
        let me = GroupRef::new(index, life, depth);
        let parent_index = parent.unwrap_or(index);
        hierarchy.nodes[index.index()] = Some(Node {
            me,
            id,
            name: name.into(),
            parent: parent_index,
            children: BTreeMap::new(),
            objcgs: 0,
            past: [0; Event::COUNT],
            listed: BTreeSet::new(),
            grave: None,
        });
        hierarchy.online.insert(id, index);
        hierarchy.link(index, objcg);
        let (mut parent_ref, mut writeback, mut nodes) = (me, true, NodeMask::first(self.config.nodes));
        let mut tiers = TierMask::ALL;
        if let Some(parent) = parent {
            hierarchy.node_mut(parent).children.insert(name.into(), index);
            parent_ref = hierarchy.node(parent).me;
            writeback = self.group(parent).writeback();
            nodes = self.group(parent).nodes();
            tiers = self.group(parent).tiers();
        }
        self.objcgs.prepare(objcg);
        let group = self.prepare_group(index);
        // The group first: who reads the objcg's pointer finds the group's words in it.
        group.birth(me, parent_ref, id, objcg.raw(), writeback, (nodes, tiers));
        self.objcgs.birth(objcg, me);
        Ok(index)
    }

    /// Remove a memcg: `switch_with` must switch, and can do under the tree lock what must change with it.
    pub(super) fn offline(
        &self,
        index: GroupIndex,
        switch_with: impl FnOnce(Handover<'_>) -> Switched,
    ) -> Result<(), Error> {
        let mut hierarchy = self.lock();
        let group = self.group(index);
        self.check_online(group)?;
        let node = hierarchy.node(index);
        if node.me.depth() == 0 {
            return Err(Error::Root);
        }
        if !node.children.is_empty() {
            return Err(Error::HasChildren { path: hierarchy.path(index), children: node.children.len() });
        }
        let (me, id, parent, own_objcg) = (node.me, node.id, node.parent, group.objcg());
        let path = hierarchy.path(index);
        let parent_ref = hierarchy.node(parent).me;

        group.close();
        let Switched(()) =
            switch_with(Handover { shared: self, hierarchy: &mut hierarchy, child: me, parent: parent_ref });

        self.relist(&mut hierarchy, index, parent);
        self.unprotect(index);
        hierarchy.online.remove(&id);
        let node = hierarchy.node_mut(index);
        node.grave = Some(path.into());
        let name = std::mem::take(&mut node.name);
        let past = std::mem::take(&mut node.past);
        let heir = hierarchy.node_mut(parent);
        heir.children.remove(&name);
        for (sum, more) in heir.past.iter_mut().zip(past) {
            *sum += more;
        }
        self.objcgs.put(ObjcgId::from_raw(own_objcg));
        self.release_group(index);
        self.sweep(&mut hierarchy);
        Ok(())
    }

    /// Free the ids of objcgs and the indexes of groups that nobody counts any more.
    pub(super) fn sweep(&self, hierarchy: &mut Hierarchy) {
        self.recall(); // references in stock are nobody's
        for id in self.objcgs.take_dead() {
            let at = self.objcgs.group(id).index();
            let events = self.objcgs.take_events(id);
            for (sum, more) in hierarchy.node_mut(at).past.iter_mut().zip(events) {
                *sum += more;
            }
            hierarchy.unlink(at, id);
            hierarchy.free_objcgs.push(id.raw());
        }
        for index in self.take_dead_groups() {
            let node = hierarchy.nodes[index.index()].take();
            debug_assert!(node.is_some_and(|node| node.grave.is_some() && node.objcgs == 0));
            match self.group(index).bury() {
                Some(life) => hierarchy.free_groups.push((index, life)),
                None => hierarchy.retired += 1,
            }
        }
    }

    /// Derive the effective writeback flags of a subtree again.
    pub(super) fn settle_writeback(&self, hierarchy: &Hierarchy, index: GroupIndex) {
        for at in hierarchy.subtree(index) {
            let node = hierarchy.node(at);
            let parent_allows = node.me.depth() == 0 || self.group(node.parent).writeback();
            self.group(at).settle_writeback(parent_allows);
        }
    }

    /// What the groups above a group allow.
    fn nodes_above(&self, hierarchy: &Hierarchy, index: GroupIndex) -> NodeMask {
        let node = hierarchy.node(index);
        match node.me.depth() {
            0 => NodeMask::first(self.config.nodes),
            _ => self.group(node.parent).nodes(),
        }
    }

    /// Set a group's own nodes and derive the effective ones of its subtree, unless a group were left without any (H7).
    pub(super) fn set_nodes(&self, hierarchy: &Hierarchy, index: GroupIndex, mask: NodeMask) -> Result<(), Error> {
        let all = NodeMask::first(self.config.nodes);
        if mask.is_empty() || !all.covers(mask) {
            return Err(Error::Nodes { mask, all });
        }
        let subtree = hierarchy.subtree(index);
        // In pre-order, a parent's mask is known before its children's.
        let mut allowed: BTreeMap<GroupIndex, NodeMask> = BTreeMap::new();
        for &at in &subtree {
            let above = match at == index {
                true => self.nodes_above(hierarchy, at),
                false => allowed[&hierarchy.node(at).parent],
            };
            let own = if at == index { mask } else { self.group(at).own_nodes() };
            if (above & own).is_empty() {
                return Err(Error::NoNodeLeft { path: hierarchy.path(at), own, above });
            }
            allowed.insert(at, above & own);
        }
        self.group(index).set_own_nodes(mask);
        for &at in &subtree {
            self.group(at).settle_nodes(self.nodes_above(hierarchy, at));
        }
        Ok(())
    }
}

impl Memcg {
    /// Its online descendants, and how many removed ones are left as an objcg that something is charged through.
    pub(super) fn descendants(&self) -> Result<(u64, u64), Error> {
        let shared = self.shared();
        let mut hierarchy = shared.lock();
        shared.check_online(self.words())?;
        shared.sweep(&mut hierarchy);
        let subtree = hierarchy.subtree(self.index());
        let objcgs: usize = subtree.iter().map(|&at| hierarchy.objcgs(at).count()).sum();
        Ok((subtree.len() as u64 - 1, (objcgs - subtree.len()) as u64))
    }
}

impl Tree {
    /// A handle on a group that has a node.
    pub(super) fn handle(&self, hierarchy: &Hierarchy, index: GroupIndex) -> Memcg {
        let me = hierarchy.node(index).me;
        // Whoever drops the last reference of a removed group leaves its node until the sweep, so it may be at 0; an
        // online one never is, and only those are looked up.
        assert!(self.shared().group(index).hold(me.generation()), "an online group has no reference");
        Memcg::adopt(self.clone(), me)
    }

    pub(super) fn mkdir_in(&self, parent: GroupIndex, name: &str) -> Result<Memcg, Error> {
        check_name(name)?;
        let shared = self.shared();
        let mut hierarchy = shared.lock();
        shared.check_online(shared.group(parent))?;
        shared.sweep(&mut hierarchy);
        if let Some(&there) = hierarchy.node(parent).children.get(name) {
            return Err(Error::Exists { path: hierarchy.path(there) });
        }
        let index = shared.birth(&mut hierarchy, Some(parent), name)?;
        // `birth` counted this handle.
        Ok(Memcg::adopt(self.clone(), hierarchy.node(index).me))
    }
}

impl Handover<'_> {
    /// The memcg that is going.
    pub fn child(&self) -> GroupRef {
        self.child
    }

    /// Its parent, which takes over.
    pub fn parent(&self) -> GroupRef {
        self.parent
    }

    /// Point all objcgs of the child to the parent. Call it at the moment when whatever else belongs to the child
    /// becomes the parent's, under the locks that guard that.
    pub fn switch(self) -> Switched {
        let Handover { shared, hierarchy, child, parent } = self;
        let ids: Vec<ObjcgId> = hierarchy.objcgs(child.index()).collect();
        for id in ids {
            shared.objcgs.reparent(id, parent);
            hierarchy.unlink(child.index(), id);
            hierarchy.link(parent.index(), id);
        }
        Switched(())
    }
}

impl fmt::Debug for Handover<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Handover { child, parent, .. } = self;
        f.debug_struct("Handover").field("child", child).field("parent", parent).finish_non_exhaustive()
    }
}
