//! Objcgs: counted names of owners that outlive their memcg, and the counters that live in them.
//!
//! ```text
//! memcg a ----> objcg 2 (pointer, refs, events) ----> bytes on node 0, on node 1, ..     while a is online
//!                  ^  ^
//! entries of objects   pointer: group a, and after a was removed: group of a's parent (reparenting)
//! ```
//!
//! Counters are in the objcg and not in the group, so reparenting moves a pointer and never a number: an object's
//! bytes are added to and taken from the same words, whatever became of its memcg in between.
//!
//! Invariants:
//! - **O1** An id is recycled only at count 0. The memcg holds one reference while it is online, each object's entry
//!   one.
//! - **O2** The pointer names an online group, or one that is being taken offline under the tree lock right now; it
//!   only ever moves to the parent of where it points.
//! - **O3** At count 0 all byte counters are 0: an entry takes its bytes out before it drops its reference, and a stock settles
//!   changes before references. Above it they may be below 0 for a while (see `stock`).
//! - **O4** An objcg whose count reached 0 is on the dead stack, once, pushed by whoever dropped the last reference,
//!   until somebody with the tree lock sweeps it up. So dropping the last reference takes no lock and allocates
//!   nothing.
//!
//! Callers: anyone with a reference, without a lock; `hierarchy` under the tree lock (births, reparenting, sweeping).

use super::counter::Counter;
use super::id::{GroupRef, ObjcgId};
use super::stack::Stack;
use super::stat::{Bytes4, Event};
use super::tree::Tree;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{GrowTable, Tally};
use crate::units::NodeId;
use std::fmt;
use std::ops::AddAssign;

/// One objcg's words.
#[derive(Debug, Default)]
#[repr(align(64))] // objcgs of two memcgs do not share a cache line
struct Words {
    /// The [`GroupRef`] it points to. Written under the tree lock.
    group: AtomicU64,
    /// References; 0 while the id is free.
    refs: AtomicU64,
    /// Counted events, by [`Event`].
    events: [AtomicU64; Event::COUNT],
    /// Bytes charged as [`Counter::Memory`] alone.
    resident: Tally,
    /// Bytes charged as [`Counter::Swap`].
    places: Tally,
    /// Next on the dead stack; belongs to whoever pushed it.
    next_dead: AtomicU32,
}

/// One objcg's bytes on one node. Exact whenever no account is under way.
#[derive(Debug, Default)]
#[repr(align(32))]
struct NodeCounters {
    compressed: AtomicU64,
    original: AtomicU64,
    payload: AtomicU64,
    incompressible: AtomicU64,
}

/// All objcgs of a tree.
#[derive(Debug)]
pub(super) struct Objcgs {
    /// By id - 1.
    words: GrowTable<Words>,
    /// By (id - 1) * nodes + node.
    counters: GrowTable<NodeCounters>,
    /// NUMA nodes that bytes are counted on.
    nodes: usize,
    /// Ids whose count reached 0 (O4).
    dead: Stack,
}

/// What an objcg's counters are to change by: bytes on one node, and events. Differences wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// As the fields of [`Bytes4`].
    bytes: [u64; 4],
    events: [u64; Event::COUNT],
}

impl Changes {
    /// An object came, and with it perhaps an event.
    #[inline]
    pub(super) fn came(bytes: Bytes4, event: Option<Event>) -> Self {
        let Bytes4 { compressed, original, payload, incompressible } = bytes;
        let mut changes = Changes { bytes: [compressed, original, payload, incompressible], events: [0; Event::COUNT] };
        if let Some(event) = event {
            changes.events[event as usize] = 1;
        }
        changes
    }

    /// An object went.
    #[inline]
    pub(super) fn went(bytes: Bytes4) -> Self {
        let mut changes = Self::came(bytes, None);
        changes.bytes = changes.bytes.map(u64::wrapping_neg);
        changes
    }

    /// An event happened `n` times.
    #[inline]
    pub(super) fn count(&mut self, event: Event, n: u64) {
        let count = &mut self.events[event as usize];
        *count = count.wrapping_add(n);
    }

    /// Whether no bytes change, on whatever node.
    #[inline]
    pub(super) fn has_no_bytes(&self) -> bool {
        self.bytes == [0; 4]
    }
}

impl AddAssign for Changes {
    #[inline]
    fn add_assign(&mut self, other: Changes) {
        for (sum, more) in self.bytes.iter_mut().zip(other.bytes) {
            *sum = sum.wrapping_add(more);
        }
        for (sum, more) in self.events.iter_mut().zip(other.events) {
            *sum = sum.wrapping_add(more);
        }
    }
}

fn add(counter: &AtomicU64, change: u64) {
    // Relaxed, as all counters: nothing is inferred from them. Exact sums are read when whoever changed them has been
    // joined or has dropped its reference. They wrap: what belongs together may come in any order (see `stock`).
    if change != 0 {
        counter.fetch_add(change, Ordering::Relaxed);
    }
}

// === impl Objcgs ===

impl Objcgs {
    pub(super) fn new(nodes: usize) -> Self {
        Objcgs { words: GrowTable::new(), counters: GrowTable::new(), nodes, dead: Stack::default() }
    }

    #[inline]
    fn words(&self, id: ObjcgId) -> &Words {
        assert!(!id.is_none(), "no objcg was asked for its words");
        self.words.get(id.raw() as usize - 1).expect("an objcg's memory is made before its id is given out")
    }

    #[inline]
    fn counters(&self, id: ObjcgId, node: NodeId) -> &NodeCounters {
        assert!(!id.is_none() && node.index() < self.nodes, "{node} of {} nodes, objcg {}", self.nodes, id.raw());
        let index = (id.raw() as usize - 1) * self.nodes + node.index();
        self.counters.get(index).expect("an objcg's memory is made before its id is given out")
    }

    /// Make the memory of `id`, which may be allocated here.
    pub(super) fn prepare(&self, id: ObjcgId) {
        let index = id.raw() as usize - 1;
        self.words.get_or_make(index);
        for node in 0..self.nodes {
            self.counters.get_or_make(index * self.nodes + node);
        }
    }

    /// Begin a life, with one reference: the memcg's.
    pub(super) fn birth(&self, id: ObjcgId, group: GroupRef) {
        let words = self.words(id);
        // Release pairs with the acquire in `group`.
        words.group.store(group.raw(), Ordering::Release);
        // Release pairs with the acquire in `try_get`: who gets a reference to this life sees that the last one is
        // over.
        words.refs.store(1, Ordering::Release);
    }

    /// Point `id` to another group. Under the tree lock.
    pub(super) fn reparent(&self, id: ObjcgId, parent: GroupRef) {
        self.words(id).group.store(parent.raw(), Ordering::Release);
    }

    /// The group it points to now. Acquire: with the pointer come the group's words.
    #[inline]
    pub(super) fn group(&self, id: ObjcgId) -> GroupRef {
        GroupRef::from_raw(self.words(id).group.load(Ordering::Acquire))
    }

    /// One more reference beside one that the caller has.
    #[inline]
    pub(super) fn get(&self, id: ObjcgId) {
        // Relaxed: the reference at hand keeps it.
        let old = self.words(id).refs.fetch_add(1, Ordering::Relaxed);
        assert!(old > 0, "a reference was taken of an objcg that nobody holds");
    }

    /// One more reference, unless there is none.
    #[inline]
    pub(super) fn try_get(&self, id: ObjcgId) -> bool {
        // Acquire pairs with `birth`, and on failure with the last `put`.
        self.words(id)
            .refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| (refs > 0).then(|| refs + 1))
            .is_ok()
    }

    /// One reference less; the last one's dropper puts the id on the dead stack (O4).
    #[inline]
    pub(super) fn put(&self, id: ObjcgId) {
        self.put_many(id, 1);
    }

    /// `n` more references beside one that the caller has.
    pub(super) fn get_many(&self, id: ObjcgId, n: u32) {
        // Relaxed: the reference at hand keeps it.
        let old = self.words(id).refs.fetch_add(n.into(), Ordering::Relaxed);
        assert!(old > 0, "references were taken of an objcg that nobody holds");
    }

    /// `n` references less; the last one's dropper puts the id on the dead stack (O4).
    #[inline]
    pub(super) fn put_many(&self, id: ObjcgId, n: u32) {
        if n == 0 {
            return;
        }
        let words = self.words(id);
        // AcqRel: what every holder did comes before the sweep.
        let old = words.refs.fetch_sub(n.into(), Ordering::AcqRel);
        assert!(old >= n.into(), "a reference to an objcg was dropped twice");
        if old == u64::from(n) {
            self.dead.push(id.raw(), &words.next_dead);
        }
    }

    /// References held.
    pub(super) fn references(&self, id: ObjcgId) -> u64 {
        self.words(id).refs.load(Ordering::Acquire)
    }

    /// The ids whose count has reached 0 since the last sweep. Under the tree lock.
    pub(super) fn take_dead(&self) -> impl Iterator<Item = ObjcgId> {
        self.dead.take(|id| &self.words(ObjcgId::from_raw(id)).next_dead).map(ObjcgId::from_raw)
    }

    /// Change the counters on the node, and count the events.
    pub(super) fn change(&self, id: ObjcgId, node: NodeId, changes: &Changes) {
        if !changes.has_no_bytes() {
            let counters = self.counters(id, node);
            let all = [&counters.compressed, &counters.original, &counters.payload, &counters.incompressible];
            all.into_iter().zip(changes.bytes).for_each(|(counter, change)| add(counter, change));
        }
        let events = &self.words(id).events;
        events.iter().zip(changes.events).for_each(|(counter, n)| add(counter, n));
    }

    /// Bytes on one node; none where what was taken out is known and what came in lies in a stock.
    pub(super) fn bytes(&self, id: ObjcgId, node: NodeId) -> Bytes4 {
        let counters = self.counters(id, node);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned();
        Bytes4 {
            compressed: read(&counters.compressed),
            original: read(&counters.original),
            payload: read(&counters.payload),
            incompressible: read(&counters.incompressible),
        }
    }

    /// Note what was charged for no object. (Objects are accounted.)
    #[inline]
    pub(super) fn hold_bytes(&self, id: ObjcgId, counter: Counter, bytes: u64) {
        match counter {
            Counter::Zswap => {}
            Counter::Memory => _ = self.words(id).resident.add(bytes),
            Counter::Swap => _ = self.words(id).places.add(bytes),
        }
    }

    /// It is not any more.
    #[inline]
    pub(super) fn release_bytes(&self, id: ObjcgId, counter: Counter, bytes: u64) {
        match counter {
            Counter::Zswap => {}
            Counter::Memory => self.words(id).resident.sub(bytes),
            Counter::Swap => self.words(id).places.sub(bytes),
        }
    }

    /// What is charged for no object, as [`Counter::Memory`] and as [`Counter::Swap`].
    pub(super) fn held_bytes(&self, id: ObjcgId) -> (u64, u64) {
        (self.words(id).resident.get(), self.words(id).places.get())
    }

    #[inline]
    pub(super) fn count(&self, id: ObjcgId, event: Event, n: u64) {
        add(&self.words(id).events[event as usize], n);
    }

    /// Events so far; none where what was taken back is known and what happened lies in a stock.
    pub(super) fn events(&self, id: ObjcgId) -> [u64; Event::COUNT] {
        let read = |event: &AtomicU64| event.load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned();
        self.words(id).events.each_ref().map(read)
    }

    /// Events so far of an objcg that nobody holds; they are zero afterwards. Under the tree lock.
    pub(super) fn take_events(&self, id: ObjcgId) -> [u64; Event::COUNT] {
        std::array::from_fn(|event| self.words(id).events[event].swap(0, Ordering::Relaxed))
    }
}

// === Objcg ===

/// A counted reference to an objcg: who holds it can charge and account to it. Clone for another.
///
/// An object's entry holds one as a bare [`ObjcgId`]: [`into_id`](Self::into_id) keeps the count, and
/// [`Tree::put`] drops it.
pub struct Objcg {
    tree: Tree,
    /// None only while `into_id` has taken the reference out.
    id: ObjcgId,
}

impl Objcg {
    /// Wrap a reference that was counted already.
    pub(super) fn adopt(tree: Tree, id: ObjcgId) -> Self {
        Objcg { tree, id }
    }

    /// Its id; the reference stays here.
    #[inline]
    pub fn id(&self) -> ObjcgId {
        self.id
    }

    /// Its id, with the reference in it: whoever gets it must [`put`](Tree::put) it, or [`adopt`](Tree::adopt) it
    /// again.
    #[must_use = "the reference is lost unless the id is put back"]
    #[inline]
    pub fn into_id(mut self) -> ObjcgId {
        std::mem::replace(&mut self.id, ObjcgId::NONE)
    }

    /// The tree it belongs to.
    #[inline]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Clone for Objcg {
    fn clone(&self) -> Self {
        self.tree.shared().objcgs.get(self.id);
        Objcg { tree: self.tree.clone(), id: self.id }
    }
}

impl Drop for Objcg {
    #[inline]
    fn drop(&mut self) {
        if !self.id.is_none() {
            self.tree.shared().objcgs.put(self.id);
        }
    }
}

impl fmt::Debug for Objcg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objcg").field("id", &self.id.raw()).finish_non_exhaustive()
    }
}
