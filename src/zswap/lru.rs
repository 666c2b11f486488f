//! [`Lru`]: which entries are cold, per memcg, node and kind.
//!
//! ```text
//!   group (memcg)  lock
//!     node 0   raw          head -> entry <-> entry <- tail              head: stored or seen longest ago
//!              compressed   head -> entry <-> entry <-> entry <- tail    tail: newest
//!     node 1   raw          ..
//!              compressed   ..
//! ```
//!
//! The words that chain entries are `links.rs`, one list is `list.rs`, and how long entries have lain is `ages.rs`.
//!
//! - **L1** An entry with an object in the pool is on exactly one list: that of the memcg its objcg points to, of its
//!   object's home node, and of its kind; others are on none.
//! - **L2** Links of a group's entries change under the group's lock; the referenced bit changes by anyone, and the codec
//!   under the cluster lock of the entry while it is on no list.
//! - **L3** Reparenting splices the lists while both groups are locked, and the objcgs are repointed in the same section:
//!   who holds a group's lock and finds that the objcg still points to it knows the entry's list (R-17, R-18).
//! - **L4** A list is in order of placement. An entry is placed when it is stored, rotated, or comes from another node.
//! - **L5** Who goes round a list sees no entry twice, whatever others take or rotate meanwhile (R-40).
//!
//! Second chance: an entry referenced since it was last seen is cleared and rotated instead of picked.

mod ages;
mod links;
mod list;
#[cfg(all(test, not(loom)))]
mod tests;

use self::ages::{Reach, Tick, tick};
use self::links::{Links, NEW, REFERENCED, link, owner};
use self::list::List;
use crate::memcg::{GroupRef, ObjcgId, Tree};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Bug, Clock, GrowTable, Mutex, MutexGuard, Planted, Rank};
use crate::units::{NodeId, Owner};
use std::io;
use std::ops::Range;
use std::time::Duration;

/// The LRU lists of one instance.
#[derive(Debug)]
pub(super) struct Lru {
    links: Links,
    groups: GrowTable<Group>,
    nodes: usize,
    clock: Clock,
    planted: Planted,
}

/// Which list of a memcg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Which {
    pub(super) node: NodeId,
    /// Pages kept as they are, which give back the most when they go.
    pub(super) raw: bool,
}

impl Which {
    fn index(self) -> usize {
        2 * self.node.index() + usize::from(!self.raw)
    }

    /// Those of a node.
    pub(super) fn of(node: NodeId) -> [Which; 2] {
        [true, false].map(|raw| Which { node, raw })
    }
}

/// The lists of one memcg; made when its first entry comes.
#[derive(Debug)]
struct Group {
    /// By [`Which::index`].
    lists: Mutex<Box<[List]>>,
    /// Walks over them. Relaxed: they take turns.
    walks: AtomicU64,
}

impl Default for Group {
    fn default() -> Self {
        Group { lists: Mutex::new(Rank::Lru, Box::default()), walks: AtomicU64::new(0) }
    }
}

type Lists<'a> = MutexGuard<'a, Box<[List]>>;

/// Once round a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lap {
    pub(super) which: Which,
    /// The list's length and moves when the lap began.
    began: Option<(u32, u32)>,
    /// Entries it has looked at.
    seen: u32,
    /// Of those, how many its owner has taken off since.
    taken: u32,
    /// A warm entry was met.
    over: bool,
}

/// How far a [`scan`](Lru::scan) goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Entries it may look at.
    pub(super) entries: usize,
    /// It ends with the picked entry whose length meets this.
    pub(super) bytes: u64,
    /// Only entries that have lain so long.
    pub(super) age: Option<Duration>,
    /// It ends before the first entry that has a second chance.
    pub(super) cold_only: bool,
}

/// What is to become of an entry that was not referenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is picked; its length in bytes.
    Pick(usize),
    /// It stays.
    Leave,
    /// It stays, and so does what comes after it on this lap: this is the list's warm part.
    Warm,
}

impl Lap {
    pub(super) fn of(which: Which) -> Self {
        Lap { which, began: None, seen: 0, taken: 0, over: false }
    }

    /// The lap's owner has taken so many of the entries off that it was given.
    pub(super) fn took(&mut self, entries: usize) {
        self.taken = self.taken.wrapping_add(entries as u32);
    }

    /// Whether a warm entry was met.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// How many entries are at the head that the lap has not seen. Every move took away at most one of those that were there
    /// when it began, and those taken off after they were seen are not counted twice.
    fn left(&mut self, list: &List, trusting: bool) -> u32 {
        let (there, moves) = *self.began.get_or_insert((list.len(), list.moves()));
        let moved = list.moves().wrapping_sub(moves).wrapping_sub(self.taken);
        there.saturating_sub(if trusting { self.seen } else { moved })
    }
}

impl Lru {
    /// Lists over owners below `owners`, for `nodes` nodes.
    pub(super) fn new(owners: usize, nodes: usize, clock: Clock, planted: Planted) -> io::Result<Self> {
        Ok(Lru { links: Links::new(owners)?, groups: GrowTable::new(), nodes, clock, planted })
    }

    // --- words of entries ---

    /// Prepare the word of an entry that is on no list, under its cluster lock and before its slot word is published. `new`: it
    /// gets a second chance for being new.
    pub(super) fn set_codec(&self, owner: Owner, codec: u8, new: bool) {
        self.links.prepare(owner, codec, new);
    }

    /// The codec of an entry. Right if the slot word, read again afterwards, still names the object that was pinned before.
    #[inline]
    pub(super) fn codec(&self, owner: Owner) -> u8 {
        self.links.codec(owner)
    }

    /// Where the words lie in this process.
    pub(super) fn addresses(&self) -> Range<usize> {
        self.links.addresses()
    }

    /// Give back the memory of the words of owners that nobody has.
    pub(super) fn discard(&self, owners: Range<usize>) {
        self.links.discard(owners);
    }

    /// The codec of the entry will be asked for.
    #[inline]
    pub(super) fn prefetch(&self, owner: Owner) {
        self.links.prefetch(owner);
    }

    #[inline]
    pub(super) fn prefetch_neighbours(&self, owner: Owner) {
        self.links.prefetch_neighbours(owner);
    }

    /// The entry was loaded.
    #[inline]
    pub(super) fn mark_referenced(&self, owner: Owner) {
        self.links.mark_referenced(owner);
    }

    #[cfg(test)]
    pub(super) fn is_referenced(&self, owner: Owner) -> bool {
        self.links.word(link(owner)).has(REFERENCED)
    }

    #[cfg(test)]
    pub(super) fn is_new(&self, owner: Owner) -> bool {
        self.links.word(link(owner)).has(NEW)
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

    /// The tick for what is placed. Under the lock of its list: who waited for that since would be placed too early, and taken
    /// to be older than it is.
    fn now(&self) -> Tick {
        tick(self.clock.millis())
    }

    fn make(&self) -> Box<[List]> {
        vec![List::EMPTY; 2 * self.nodes].into()
    }

    /// Have the lists of a memcg there. Allocates.
    pub(super) fn prepare(&self, group: GroupRef) {
        let made = self.make(); // before the lock
        let mut lists = self.lock(group);
        if lists.is_empty() {
            *lists = made;
        }
    }

    /// Whether they are there.
    pub(super) fn is_prepared(&self, group: GroupRef) -> bool {
        self.groups.get(group.index().index()).is_some_and(|group| !group.lists.lock().is_empty())
    }

    /// Put an entry at the warm end. Under its cluster lock. Allocates for a memcg's first entry.
    ///
    /// # Locks
    /// The group's.
    pub(super) fn add(&self, owner: Owner, tree: &Tree, objcg: ObjcgId, which: Which) {
        let mut lists = self.lock_of(tree, objcg);
        let now = self.now();
        if lists.is_empty() {
            *lists = self.make();
        }
        lists[which.index()].place(&self.links, link(owner), now, 0);
    }

    /// Take an entry off its list if it is on one. Under its cluster lock.
    ///
    /// # Locks
    /// The group's.
    pub(super) fn del(&self, owner: Owner, tree: &Tree, objcg: ObjcgId, which: Which) {
        let mut lists = self.lock_of(tree, objcg);
        if self.links.word(link(owner)).is_listed() {
            lists[which.index()].remove(&self.links, link(owner));
        }
    }

    /// The entry's object moved to another home node: so does the entry, to the warm end there. Under its cluster lock.
    ///
    /// # Locks
    /// The group's.
    pub(super) fn rehome(&self, owner: Owner, tree: &Tree, objcg: ObjcgId, from: Which, to: NodeId) {
        let mut lists = self.lock_of(tree, objcg);
        let now = self.now();
        assert!(self.links.word(link(owner)).is_listed(), "L1: an entry with an object is on a list");
        lists[from.index()].remove(&self.links, link(owner));
        lists[Which { node: to, ..from }.index()].place(&self.links, link(owner), now, 0);
    }

    /// The number of this walk over the memcg's lists. Each memcg's are counted on their own: where two are walked by turns, with
    /// one count the one would always come upon even numbers.
    pub(super) fn next_walk(&self, group: GroupRef) -> u64 {
        self.groups.get(group.index().index()).map_or(0, |group| group.walks.fetch_add(1, Ordering::Relaxed))
    }

    /// Entries of a memcg on one node.
    pub(super) fn len(&self, group: GroupRef, node: NodeId) -> u64 {
        let Some(group) = self.groups.get(group.index().index()) else { return 0 };
        let lists = group.lists.lock();
        Which::of(node).into_iter().filter_map(|which| lists.get(which.index())).map(|list| u64::from(list.len())).sum()
    }

    /// Entries on one list.
    pub(super) fn list_len(&self, group: GroupRef, which: Which) -> u64 {
        let Some(group) = self.groups.get(group.index().index()) else { return 0 };
        group.lists.lock().get(which.index()).map_or(0, |list| u64::from(list.len()))
    }

    /// Run `f` under a group's lock if it has no entries.
    pub(super) fn if_empty(&self, group: GroupRef, f: impl FnOnce()) {
        let lists = self.lock(group);
        if lists.iter().all(|list| list.len() == 0) {
            f();
        }
    }

    /// Look at entries from the cold end that this lap has not seen: each goes to the warm end, and those that were not
    /// referenced and for which `look` says so are put into `picked`. Returns entries looked at; 0 ends the lap.
    ///
    /// With an age, a new entry is not spared for being new: it has lain that long.
    ///
    /// # Locks
    /// The group's; `look` runs under it and uses atomics only.
    pub(super) fn scan(
        &self,
        group: GroupRef,
        lap: &mut Lap,
        limits: &Limits,
        mut look: impl FnMut(Owner) -> Look,
        picked: &mut Vec<Owner>,
    ) -> usize {
        let Some(group) = self.groups.get(group.index().index()) else { return 0 };
        let mut lists = group.lists.lock();
        let now = self.clock.millis();
        let Some(list) = lists.get_mut(lap.which.index()) else { return 0 };
        let left = lap.left(list, self.planted.is(Bug::LapCountsOnlyItself));
        let young = match limits.age {
            None => None,
            Some(age) => {
                let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                match now.checked_sub(age).map_or(Reach::Nothing, |since| list.ages().reach(tick(since))) {
                    Reach::All => None,
                    Reach::Before(first) => Some(first),
                    Reach::Nothing => return 0,
                }
            }
        };
        let (spared, cleared) = match limits.age {
            None => (REFERENCED | NEW, REFERENCED | NEW),
            Some(_) => (REFERENCED, REFERENCED | NEW),
        };
        let (mut seen, mut bytes) = (0, 0);
        while seen < limits.entries.min(left as usize) && !lap.over && bytes < limits.bytes {
            let Some(head) = list.head().filter(|&head| Some(head) != young) else { break };
            if limits.cold_only && self.links.word(head).has(spared) {
                break;
            }
            // Rotate before the lock is dropped: afterwards the entry may be freed by anyone.
            let was = list.rotate(&self.links, head, tick(now), cleared);
            seen += 1;
            lap.seen += 1;
            if was.has(spared) {
                continue;
            }
            match look(owner(head)) {
                Look::Pick(len) => {
                    picked.push(owner(head));
                    bytes += len as u64;
                }
                Look::Leave => {}
                Look::Warm => lap.over = true,
            }
        }
        seen
    }

    /// Hand the lists of `child` to `parent`, and run `switch`, which repoints the objcgs, in the same section (L3). Entries
    /// stay in order of placement as far as ages are known; where they are not, the child's come first. Takes time by nodes,
    /// not by entries.
    ///
    /// # Locks
    /// The child's group, then the parent's.
    pub(super) fn reparent<R>(&self, child: GroupRef, parent: GroupRef, switch: impl FnOnce() -> R) -> R {
        let child = self.groups.get_or_make(child.index().index());
        let parent = self.groups.get_or_make(parent.index().index());
        let mut from = child.lists.lock();
        let mut to = parent.lists.lock_after(&from);
        if to.is_empty() && !from.is_empty() {
            *to = self.make();
        }
        for (from, to) in from.iter_mut().zip(to.iter_mut()) {
            from.splice_into(to, &self.links);
        }
        switch()
    }

    /// Call `f` with the owners on one list of a group, cold end first, and check that links, ends, length and ages agree. For
    /// quiet points.
    ///
    /// # Panics
    /// When they do not.
    pub(super) fn for_each(&self, group: GroupRef, which: Which, mut f: impl FnMut(Owner)) {
        let Some(group) = self.groups.get(group.index().index()) else { return };
        let lists = group.lists.lock();
        if let Some(list) = lists.get(which.index()) {
            list.for_each(&self.links, |link| f(owner(link)));
        }
    }
}
