//! [`Tree`]: the memcgs of one pool or of several, and what is done with bare ids.
//!
//! ```text
//! Tree --Arc--> Shared +-- groups     by GroupIndex: words that chargers use            lock-free
//!                      +-- cursors, stalls, peaks   beside them, by GroupIndex          lock-free, leaves
//!                      +-- objcgs     by ObjcgId: pointers, counts, counters            lock-free
//!                      +-- climbs     charges under way                                 lock-free
//!                      +-- stocks     what threads keep beside those                    try-locks
//!                      +-- noted      groups above their marks, for a worker            lock-free
//!                      +-- hierarchy  names, children, lists of objcgs, free indexes    Rank::Tree
//!                      +-- hooks      reclaimers and movers of upper layers             leaf
//! ```
//!
//! A tree lives as long as any handle on it: [`Tree`], [`Memcg`], [`Objcg`](super::Objcg). A bare id does not keep it.

use super::charge::Climbs;
use super::cursor::Cursor;
use super::group::Group;
use super::handle::Memcg;
use super::hierarchy::{Handover, Hierarchy, Switched};
use super::hooks::Hooks;
use super::id::{GroupIndex, GroupRef, MemcgId, ObjcgId};
use super::objcg::{Changes, Objcg, Objcgs};
use super::peak::Peaks;
use super::stack::Stack;
use super::stall::Stalls;
use super::stat::Bytes4;
use super::stock::Stocks;
use crate::sync::atomic::AtomicU32;
use crate::sync::{self, Alarm, Arc, GrowTable, Mutex, MutexGuard, Planted, Rank};
use crate::units::{MAX_NODES, NodeId, NodeMask};
use std::fmt;

/// What a tree is made with.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// NUMA nodes that bytes are counted on: 1 to 64.
    pub nodes: usize,
    /// How many objcgs there can be: 1 (the root's) to 2^24 - 1.
    pub objcg_ids: u32,
    /// Stripes of the count of climbs under way; rounded up to a power of two. One cache line each.
    pub stripes: usize,
    /// How often a refused charge waits, in all, for climbs that may be rolled back (the first waits are a few spins,
    /// later ones yield). At 0 a charge can be refused for another one's transient reservation.
    pub patience: u32,
    /// Stocks of charge and counters, one of which a thread has to itself most of the time; rounded up to a power of two. 128 bytes
    /// each, and at most 132 KiB of a limit. 0: every charge and count goes to the shared words.
    pub stocks: usize,
    /// The bug that a model plants.
    pub planted: Planted,
}

impl Default for TreeConfig {
    fn default() -> Self {
        TreeConfig {
            nodes: 1,
            objcg_ids: ObjcgId::MAX,
            stripes: 16,
            patience: 64,
            stocks: sync::default_stocks(),
            planted: Planted::NONE,
        }
    }
}

/// A tree of memcgs. Clones are the same tree.
#[derive(Clone)]
pub struct Tree {
    shared: Arc<Shared>,
}

/// What all handles on a tree share.
pub(super) struct Shared {
    /// As given, checked.
    pub(super) config: TreeConfig,
    /// By [`GroupIndex`]. Never shrinks; indexes are recycled.
    groups: GrowTable<Group>,
    /// By [`GroupIndex`]: where walks of the group's subtree stand. Made with the group.
    cursors: GrowTable<Cursor>,
    /// Likewise: time that was lost.
    stalls: GrowTable<Stalls>,
    /// Likewise: the peaks of those who read them.
    peaks: GrowTable<Peaks>,
    /// Groups (index + 1) whose last reference is gone.
    dead_groups: Stack,
    /// Groups (index + 1) that are above their marks.
    pub(super) noted: Stack,
    /// Memcgs that have a `memory.low` or `memory.min`. Changed under the tree lock.
    pub(super) protecting: AtomicU32,
    /// Rung when a group is noted.
    pub(super) on_excess: Alarm,
    /// By [`ObjcgId`].
    pub(super) objcgs: Objcgs,
    /// Charges under way.
    pub(super) climbs: Climbs,
    /// What threads keep beside the words above.
    pub(super) stocks: Stocks,
    hierarchy: Mutex<Hierarchy>,
    /// What upper layers registered.
    pub(super) hooks: Hooks,
    /// Takes part in every removal.
    keeper: Option<Keeper>,
}

/// Hands over what somebody keeps per memcg when one is removed; see [`Memcg::offline_with`] for what it may do.
pub type Keeper = Box<dyn for<'a> Fn(Handover<'a>) -> Switched + Send + Sync>;

// === impl Shared ===

impl Shared {
    /// Who takes part in removals.
    pub(super) fn keeper(&self) -> Option<&Keeper> {
        self.keeper.as_ref()
    }

    #[inline]
    pub(super) fn group(&self, index: GroupIndex) -> &Group {
        self.groups.get(index.index()).expect("a group's memory is made before its index is given out")
    }

    pub(super) fn prepare_group(&self, index: GroupIndex) -> &Group {
        self.cursors.get_or_make(index.index()).reset();
        self.stalls.get_or_make(index.index()).reset();
        self.peaks.get_or_make(index.index()).reset();
        self.groups.get_or_make(index.index())
    }

    pub(super) fn cursor(&self, index: GroupIndex) -> &Cursor {
        self.cursors.get(index.index()).expect("a group's memory is made before its index is given out")
    }

    pub(super) fn stalls(&self, index: GroupIndex) -> &Stalls {
        self.stalls.get(index.index()).expect("a group's memory is made before its index is given out")
    }

    pub(super) fn peaks(&self, index: GroupIndex) -> &Peaks {
        self.peaks.get(index.index()).expect("a group's memory is made before its index is given out")
    }

    /// Lock the hierarchy.
    #[track_caller]
    pub(super) fn lock(&self) -> MutexGuard<'_, Hierarchy> {
        self.hierarchy.lock()
    }

    /// Drop one reference to a group; the last one's dropper puts it on the dead stack. No lock, no allocator.
    pub(super) fn release_group(&self, index: GroupIndex) {
        let group = self.group(index);
        if group.release() {
            self.dead_groups.push(index.0 + 1, &group.next_dead);
        }
    }

    /// The groups whose last reference is gone since the last sweep. Under the tree lock.
    pub(super) fn take_dead_groups(&self) -> impl Iterator<Item = GroupIndex> {
        self.dead_groups.take(|item| &self.group(GroupIndex(item - 1)).next_dead).map(|item| GroupIndex(item - 1))
    }
}

// === impl Tree ===

impl Tree {
    /// A tree with only its root, which has no limit and allows writeback.
    ///
    /// # Panics
    /// When the configuration asks for no node or more than 64, for no stripe, or for more objcgs than ids have bits.
    pub fn new(config: TreeConfig) -> Self {
        Self::make(config, None)
    }

    /// The same, for somebody who keeps lists of entries per memcg: whoever removes one, and by whatever handle, it is
    /// `keeper` that switches its objcgs, while it hands the lists over.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn kept(config: TreeConfig, keeper: Keeper) -> Self {
        Self::make(config, Some(keeper))
    }

    fn make(config: TreeConfig, keeper: Option<Keeper>) -> Self {
        assert!((1..=MAX_NODES).contains(&config.nodes), "a tree needs 1 to {MAX_NODES} nodes, not {}", config.nodes);
        assert!((1..=ObjcgId::MAX).contains(&config.objcg_ids), "{} objcg ids do not fit 24 bits", config.objcg_ids);
        assert!(config.stripes > 0, "a tree needs at least one stripe to count climbs in");
        let shared = Shared {
            groups: GrowTable::new(),
            cursors: GrowTable::new(),
            stalls: GrowTable::new(),
            peaks: GrowTable::new(),
            dead_groups: Stack::default(),
            noted: Stack::default(),
            protecting: AtomicU32::new(0),
            on_excess: Alarm::new(),
            objcgs: Objcgs::new(config.nodes),
            climbs: Climbs::new(config.stripes),
            stocks: Stocks::new(config.stocks),
            hierarchy: Mutex::new(Rank::Tree, Hierarchy::new()),
            hooks: Hooks::new(),
            config,
            keeper,
        };
        shared.plant();
        Tree { shared: Arc::new(shared) }
    }

    #[inline]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether both are the same tree.
    pub fn is(&self, other: &Tree) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// NUMA nodes that bytes are counted on.
    pub fn nodes(&self) -> usize {
        self.shared.config.nodes
    }

    /// How often who has to wait for another thread's short step waits, before it gives up.
    pub(crate) fn patience(&self) -> u32 {
        self.shared.config.patience
    }

    /// The root.
    pub fn root(&self) -> Memcg {
        self.shared.group(GroupRef::ROOT.index()).hold_more();
        Memcg::adopt(self.clone(), GroupRef::ROOT)
    }

    /// The memcg with this id, if it is online.
    ///
    /// # Locks
    /// The tree lock.
    pub fn find(&self, id: MemcgId) -> Option<Memcg> {
        let hierarchy = self.shared.lock();
        hierarchy.find(id).map(|index| self.handle(&hierarchy, index))
    }

    /// The memcg at a path such as `a/b` or `/a/b`, if it is online. `/` and the empty path are the root.
    ///
    /// # Locks
    /// The tree lock.
    pub fn by_path(&self, path: &str) -> Option<Memcg> {
        let hierarchy = self.shared.lock();
        hierarchy.by_path(path).map(|index| self.handle(&hierarchy, index))
    }

    /// A handle on a group, if it is online or a handle keeps it. Lock-free.
    pub fn get(&self, group: GroupRef) -> Option<Memcg> {
        let words = self.shared.groups.get(group.index().index())?;
        words.hold(group.generation()).then(|| Memcg::adopt(self.clone(), group))
    }
}

/// What entries do with the bare id of a reference they hold. All of it is lock-free and neither allocates nor frees,
/// and all of it panics when the id is none or was never given out.
impl Tree {
    /// The group that the objcg points to now. It may be another one at once: [`is_current`](Self::is_current) tells.
    #[inline]
    pub fn group_of(&self, id: ObjcgId) -> GroupRef {
        self.shared.objcgs.group(id)
    }

    /// Whether the objcg still points to `group`.
    #[inline]
    pub fn is_current(&self, id: ObjcgId, group: GroupRef) -> bool {
        self.shared.objcgs.group(id) == group
    }

    /// Add an object's bytes on `node`.
    #[inline]
    pub fn account(&self, id: ObjcgId, node: NodeId, bytes: Bytes4) {
        self.shared.objcgs.change(id, node, &Changes::came(bytes, None));
    }

    /// Take an object's bytes on `node` away again.
    #[inline]
    pub fn unaccount(&self, id: ObjcgId, node: NodeId, bytes: Bytes4) {
        self.shared.objcgs.change(id, node, &Changes::went(bytes));
    }

    /// Move an object's bytes from one node to another; nothing is charged.
    #[inline]
    pub fn transfer(&self, id: ObjcgId, from: NodeId, to: NodeId, bytes: Bytes4) {
        if from != to {
            self.account(id, to, bytes);
            self.unaccount(id, from, bytes);
        }
    }

    /// Whether the owner and all its ancestors allow writeback now.
    #[inline]
    pub fn writeback(&self, id: ObjcgId) -> bool {
        loop {
            let group = self.shared.objcgs.group(id);
            let allowed = self.shared.group(group.index()).writeback();
            // Had the index been recycled, the flag read would have brought the moved pointer with it.
            if self.is_current(id, group) {
                return allowed;
            }
        }
    }

    /// The nodes that the owner's objects may lie on.
    #[inline]
    pub fn allowed_nodes(&self, id: ObjcgId) -> NodeMask {
        loop {
            let group = self.shared.objcgs.group(id);
            let allowed = self.shared.group(group.index()).nodes();
            // As in `writeback`.
            if self.is_current(id, group) {
                return allowed;
            }
        }
    }

    /// Drop a reference. The last one of a removed memcg's objcg only leaves a note for the next `mkdir` or removal.
    #[inline]
    pub fn put(&self, id: ObjcgId) {
        self.shared.objcgs.put(id);
    }

    /// Another reference beside the one that the caller knows to be held.
    #[inline]
    pub fn borrow(&self, id: ObjcgId) -> Objcg {
        self.shared.objcgs.get(id);
        Objcg::adopt(self.clone(), id)
    }

    /// A reference, unless nobody holds one any more. The id may be another owner's by then: look again whether what it was
    /// read from still says so.
    #[inline]
    pub fn try_borrow(&self, id: ObjcgId) -> Option<Objcg> {
        self.shared.objcgs.try_get(id).then(|| Objcg::adopt(self.clone(), id))
    }

    /// The reference that [`Objcg::into_id`] left in an id, as a value again.
    #[inline]
    pub fn adopt(&self, id: ObjcgId) -> Objcg {
        debug_assert!(self.shared.objcgs.references(id) > 0, "an id without a reference was adopted");
        Objcg::adopt(self.clone(), id)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
