//! [`Lru`]: which entries are cold, per memcg and node.
//!
//! ```text
//!   group (memcg)  lock
//!     node 0   head -> entry <-> entry <-> entry <- tail        head: stored or seen longest ago
//!     node 1   head -> entry <- tail                            tail: newest
//!
//!   link word of an entry, indexed by owner:
//!   bit  63    60 59   57   56   55                28 27                 0
//!       +--------+-------+-----+---------------------+--------------------+
//!       | codec  |  age  | ref |        next         |        prev        |    0 off the lists, END at an end,
//!       +--------+-------+-----+---------------------+--------------------+    else owner + 1
//! ```
//!
//! - **L1** An entry with an object in the pool is on exactly one list: that of the memcg its objcg points to and of its
//!   object's home node; others are on none.
//! - **L2** Links of a group's entries change under the group's lock; the referenced bit changes by anyone, and the codec
//!   under the cluster lock of the entry while it is on no list.
//! - **L3** Reparenting splices the lists while both groups are locked, and the objcgs are repointed in the same section:
//!   who holds a group's lock and finds that the objcg still points to it knows the entry's list (R-17, R-18).
//!
//! Second chance: an entry referenced since it was last seen is cleared and rotated instead of picked.

use crate::memcg::{GroupRef, ObjcgId, Tree};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Bug, GrowTable, Mutex, MutexGuard, Planted, Rank, Table};
use crate::units::{NodeId, Owner};
use std::io;
use std::ops::Range;

const LINK_BITS: u32 = 28;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
const OFF: u64 = 0;
const END: u64 = LINK_MASK;
const NEXT_SHIFT: u32 = LINK_BITS;
const LINKS: u64 = LINK_MASK | LINK_MASK << NEXT_SHIFT;
const REFERENCED: u64 = 1 << (2 * LINK_BITS);
const CODEC_SHIFT: u32 = 60;

/// The LRU lists of one instance.
#[derive(Debug)]
pub(super) struct Lru {
    /// Link words by owner.
    links: Table<AtomicU64>,
    groups: GrowTable<Group>,
    nodes: usize,
    planted: Planted,
}

/// The lists of one memcg, one per node; made when its first entry comes.
#[derive(Debug)]
struct Group {
    lists: Mutex<Box<[List]>>,
}

impl Default for Group {
    fn default() -> Self {
        Group { lists: Mutex::new(Rank::Lru, Box::default()) }
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    /// Owner plus one, or END.
    head: u64,
    tail: u64,
    len: u64,
}

const EMPTY: List = List { head: END, tail: END, len: 0 };

type Lists<'a> = MutexGuard<'a, Box<[List]>>;

impl Lru {
    /// Lists over owners below `owners`, for `nodes` nodes.
    pub(super) fn new(owners: usize, nodes: usize, planted: Planted) -> io::Result<Self> {
        Ok(Lru { links: Table::reserve(owners)?, groups: GrowTable::new(), nodes, planted })
    }

    // --- link words ---

    pub(super) fn word(&self, owner: Owner) -> &AtomicU64 {
        self.links.get(owner.0 as usize)
    }

    fn prev(&self, link: u64) -> u64 {
        self.links.get(link as usize - 1).load(Ordering::Relaxed) & LINK_MASK
    }

    fn next(&self, link: u64) -> u64 {
        self.links.get(link as usize - 1).load(Ordering::Relaxed) >> NEXT_SHIFT & LINK_MASK
    }

    /// Change bits of a link word, whatever others do to its referenced bit.
    fn change(&self, link: u64, clear: u64, set: u64) -> u64 {
        let word = self.links.get(link as usize - 1);
        // Relaxed: the group's lock orders the links. `set_codec` orders the codec.
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old & !clear | set)).unwrap_or_else(|w| w)
    }

    fn set_prev(&self, link: u64, prev: u64) {
        self.change(link, LINK_MASK, prev);
    }

    fn set_next(&self, link: u64, next: u64) {
        self.change(link, LINK_MASK << NEXT_SHIFT, next << NEXT_SHIFT);
    }

    /// Prepare the word of an entry that is on no list, under its cluster lock and before its slot word is published.
    pub(super) fn set_codec(&self, owner: Owner, codec: u8, referenced: bool) {
        debug_assert!(codec < 16);
        let word = u64::from(codec) << CODEC_SHIFT | if referenced { REFERENCED } else { 0 };
        debug_assert_eq!(self.word(owner).load(Ordering::Relaxed) & LINKS, OFF, "L1: on a list");
        // Release pairs with the acquire in `codec`: a reader that sees this codec also sees that the slot was emptied before.
        self.word(owner).store(word, Ordering::Release);
    }

    /// The codec of an entry. Right if the slot word, read again afterwards, still names the object that was pinned before.
    #[inline]
    pub(super) fn codec(&self, owner: Owner) -> u8 {
        (self.word(owner).load(Ordering::Acquire) >> CODEC_SHIFT) as u8
    }

    /// Give back the memory of the words of owners that nobody has.
    pub(super) fn discard(&self, owners: Range<usize>) {
        // A refusal (locked memory) costs memory only: words off the lists are set before they are used.
        let _ = self.links.discard(owners);
    }

    /// The codec of the entry will be asked for.
    #[inline]
    pub(super) fn prefetch(&self, owner: Owner) {
        self.links.prefetch(owner.0 as usize);
    }

    /// The entry was loaded.
    #[inline]
    pub(super) fn mark_referenced(&self, owner: Owner) {
        let word = self.word(owner);
        // Most loads find the bit set: a plain load keeps the line shared. A hint: no order needed.
        if word.load(Ordering::Relaxed) & REFERENCED == 0 {
            word.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }

    /// Whether a word says that its entry is on no list.
    pub(super) fn is_off(&self, word: u64) -> bool {
        word >> NEXT_SHIFT & LINK_MASK == OFF
    }

    // --- lists ---

    fn lock(&self, group: GroupRef) -> Lists<'_> {
        self.groups.get_or_make(group.index().index()).lists.lock()
    }

    /// Lock the lists of the memcg the objcg points to (L3).
    fn lock_of<'a>(&'a self, tree: &Tree, objcg: ObjcgId) -> Lists<'a> {
        loop {
            let group = tree.group_of(objcg);
            let lists = self.lock(group);
            if tree.is_current(objcg, group) || self.planted.is(Bug::LruTrustsFirstLook) {
                return lists;
            }
        }
    }

    /// Put an entry at the warm end. Under its cluster lock. Allocates for a memcg's first entry.
    ///
    /// # Locks
    /// The group's.
    pub(super) fn add(&self, owner: Owner, tree: &Tree, objcg: ObjcgId, node: NodeId) {
        let mut lists = self.lock_of(tree, objcg);
        if lists.is_empty() {
            *lists = vec![EMPTY; self.nodes].into();
        }
        let list = &mut lists[node.index()];
        self.push_tail(list, u64::from(owner.0) + 1);
        list.len += 1;
    }

    /// Take an entry off its list if it is on one. Under its cluster lock.
    ///
    /// # Locks
    /// The group's.
    pub(super) fn del(&self, owner: Owner, tree: &Tree, objcg: ObjcgId, node: NodeId) {
        let mut lists = self.lock_of(tree, objcg);
        let link = u64::from(owner.0) + 1;
        if self.next(link) == OFF {
            return;
        }
        let list = &mut lists[node.index()];
        self.unlink(list, link);
        self.change(link, LINKS, OFF);
        list.len -= 1;
    }

    /// The entry's object moved to another home node: so does the entry, to the warm end there. Under its cluster lock.
    ///
    /// # Locks
    /// The group's.
    pub(super) fn rehome(&self, owner: Owner, tree: &Tree, objcg: ObjcgId, from: NodeId, to: NodeId) {
        let mut lists = self.lock_of(tree, objcg);
        let link = u64::from(owner.0) + 1;
        assert_ne!(self.next(link), OFF, "L1: an entry with an object is on a list");
        let list = &mut lists[from.index()];
        self.unlink(list, link);
        list.len -= 1;
        let list = &mut lists[to.index()];
        self.push_tail(list, link);
        list.len += 1;
    }

    fn push_tail(&self, list: &mut List, link: u64) {
        self.change(link, LINKS, list.tail | END << NEXT_SHIFT);
        match list.tail {
            END => list.head = link,
            tail => self.set_next(tail, link),
        }
        list.tail = link;
    }

    fn unlink(&self, list: &mut List, link: u64) {
        let (prev, next) = (self.prev(link), self.next(link));
        match prev {
            END => list.head = next,
            prev => self.set_next(prev, next),
        }
        match next {
            END => list.tail = prev,
            next => self.set_prev(next, prev),
        }
    }

    /// Entries on one list.
    pub(super) fn len(&self, group: GroupRef, node: NodeId) -> u64 {
        self.groups
            .get(group.index().index())
            .and_then(|group| group.lists.lock().get(node.index()).map(|list| list.len))
            .unwrap_or(0)
    }

    /// Run `f` under a group's lock if it has no entries.
    pub(super) fn if_empty(&self, group: GroupRef, f: impl FnOnce()) {
        let lists = self.lock(group);
        if lists.iter().all(|list| list.len == 0) {
            f();
        }
    }

    /// Look at up to `budget` entries from the cold end: each goes to the warm end, and those that were not referenced and
    /// for which `pick` says yes are given to the caller in `picked`. Returns entries looked at.
    ///
    /// The caller bounds its calls by the list's length at its start, so that no entry is seen twice (T1.4).
    ///
    /// # Locks
    /// The group's; `pick` runs under it and uses atomics only.
    pub(super) fn scan(
        &self,
        group: GroupRef,
        node: NodeId,
        budget: usize,
        pick: impl Fn(Owner) -> bool,
        picked: &mut Vec<Owner>,
    ) -> usize {
        let Some(group) = self.groups.get(group.index().index()) else { return 0 };
        let mut lists = group.lists.lock();
        let Some(list) = lists.get_mut(node.index()) else { return 0 };
        let mut scanned = 0;
        while scanned < budget && list.head != END {
            let link = list.head;
            let owner = Owner((link - 1) as u32);
            // Rotate before the lock is dropped: afterwards the entry may be freed by anyone (ZW-7).
            if list.len > 1 {
                self.unlink(list, link);
                self.push_tail(list, link);
            }
            scanned += 1;
            let referenced = self.change(link, REFERENCED, 0) & REFERENCED != 0;
            if !referenced && pick(owner) {
                picked.push(owner);
            }
        }
        scanned
    }

    /// Hand the lists of `child` to `parent` before the parent's cold ends, and run `switch`, which repoints the objcgs,
    /// in the same section (L3). Takes time by nodes, not by entries.
    ///
    /// # Locks
    /// The child's group, then the parent's.
    pub(super) fn reparent<R>(&self, child: GroupRef, parent: GroupRef, switch: impl FnOnce() -> R) -> R {
        let child = self.groups.get_or_make(child.index().index());
        let parent = self.groups.get_or_make(parent.index().index());
        let mut from = child.lists.lock();
        let mut to = parent.lists.lock_after(&from);
        if to.is_empty() && !from.is_empty() {
            *to = vec![EMPTY; self.nodes].into();
        }
        for (from, to) in from.iter_mut().zip(to.iter_mut()) {
            if from.len == 0 {
                continue;
            }
            match to.head {
                END => to.tail = from.tail,
                head => {
                    self.set_prev(head, from.tail);
                    self.set_next(from.tail, head);
                }
            }
            to.head = from.head;
            to.len += from.len;
            *from = EMPTY;
        }
        switch()
    }

    /// Call `f` with the owners on a group's list of one node, cold end first, and check that links, ends and length agree.
    /// For quiet points.
    ///
    /// # Panics
    /// When they do not.
    pub(super) fn for_each(&self, group: GroupRef, node: NodeId, mut f: impl FnMut(Owner)) {
        let Some(group) = self.groups.get(group.index().index()) else { return };
        let lists = group.lists.lock();
        let Some(list) = lists.get(node.index()) else { return };
        let (mut link, mut before, mut len) = (list.head, END, 0);
        while link != END {
            assert_eq!(self.prev(link), before, "an entry's prev is the one before it");
            f(Owner((link - 1) as u32));
            (before, link, len) = (link, self.next(link), len + 1);
        }
        assert_eq!(list.tail, before, "the tail is the last entry");
        assert_eq!(list.len, len, "the length counts the entries");
    }
}
