//! [`Pool`]: objects in slots, named by cells that live elsewhere.
//!
//! ```text
//!            cell (the client's)                 entry (ours)                    bytes
//!       +-----------------------+        +------------------------+        +-------------+
//!  ---> | location, length, ... | -----> | owner, objcg, pins, .. | - - -> | object      |
//!       +-----------------------+        +------------------------+        +-------------+
//!                   ^                         |
//!                   +------- owner -----------+      so that compaction finds the cell of what it moves
//! ```
//!
//! How the parties agree, none of them waiting for another's lock but for the class lock:
//!
//! - **store** takes a slot, backs and writes it alone, makes the entry live with a pin, stores the location in the
//!   cell, and only then unpins.
//! - **read** pins the entry if it is live and the owner's, then asks the cell again. A pin on a live entry keeps the
//!   slot: who frees or moves it later must leave the slot to the last unpin. Bytes of live objects never change, so a
//!   reader neither waits for a move nor stops one half-way.
//! - **free**: the client takes the location out of the cell by compare-exchange, then calls [`Pool::free`], which
//!   clears the entry, or dooms it while pins are left.
//! - **compaction** copies an object, makes the copy's entry live, and moves the cell by compare-exchange; if that
//!   fails, because the object is being freed, the copy goes. All under the class lock, so `free` comes before or
//!   after.

use super::cells::{Cells, Object};
use super::charge::Charge;
use super::compaction;
use super::entry::{Entry, State};
use super::error::Error;
use super::geometry::{ClassIndex, Geometry};
use super::guard::ReadGuard;
use super::handle_cells::HandleCells;
use super::heap::{Class, Heap, Spot, Taker};
use super::share::{Original, Owed};
use super::uncommitted::Uncommitted;
use crate::arena::{self, Arena};
use crate::memcg::{Event, Memcg, ObjcgId, Tree};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Arc, Bug, Mailbox, Planted};
use crate::units::{Location, NodeId, NodeMask, Owner};

/// How a [`Pool`] is made.
#[derive(Debug)]
pub struct PoolConfig {
    /// Sizes of slots.
    pub geometry: Geometry,
    /// Who is charged: a tree with as many nodes as the arena. `None`: nobody, and no counters.
    pub accounting: Option<Tree>,
    /// What counts as an object's original bytes.
    pub original: Original,
    /// The event that is counted for each object published.
    pub stored: Option<Event>,
    /// For models.
    #[doc(hidden)]
    pub planted: Planted,
}

impl Default for PoolConfig {
    /// Without accounting, each object standing for a page of 4096 bytes.
    fn default() -> Self {
        PoolConfig {
            geometry: Geometry::default(),
            accounting: None,
            original: Original::Fixed(crate::units::PAGE_SIZE as u64),
            stored: None,
            planted: Planted::NONE,
        }
    }
}

/// Why a pool kicks its [mailbox](Pool::mailbox): call [`Upkeep::tend`](super::Upkeep::tend). Clients have the other
/// bits.
pub const UPKEEP: u32 = 1;

/// An allocator of compressed objects; see the [layer](super).
///
/// Its cells say how objects are named: with [`HandleCells`] by [`Handle`](super::Handle)s of the pool's own (`insert`, `draft`,
/// `get`, `remove`, `close`), with a client's cells by owner (`malloc`, `read`, `free`). The rest is the same.
#[derive(Debug)]
pub struct Pool<C: Cells = HandleCells> {
    pub(super) heap: Heap,
    pub(super) cells: C,
    pub(super) accounting: Option<Tree>,
    pub(super) original: Original,
    pub(super) stored: Option<Event>,
    pub(super) planted: Planted,
    /// What compaction did so far.
    pub(super) compaction: compaction::Totals,
    /// Of the thread that looks after the pool.
    pub(super) mailbox: Arc<Mailbox>,
}

impl<C: Cells> Pool<C> {
    /// An empty pool in an arena of its own.
    ///
    /// # Errors
    /// [`Error::ShortRuns`], [`Error::Nodes`] when the parts do not fit together, [`Error::Metadata`] without address
    /// space.
    pub fn new(arena: Arc<Arena>, cells: C, config: PoolConfig) -> Result<Self, Error> {
        let nodes = arena.topology().len();
        if let Some(tree) = config.accounting.as_ref().filter(|tree| tree.nodes() != nodes) {
            return Err(Error::Nodes { arena: nodes, tree: tree.nodes() });
        }
        let PoolConfig { geometry, accounting, original, stored, planted } = config;
        Ok(Pool {
            heap: Heap::new(arena, geometry)?,
            cells,
            accounting,
            original,
            stored,
            planted,
            compaction: compaction::Totals::default(),
            mailbox: Arc::new(Mailbox::new()),
        })
    }

    /// The cells.
    pub fn cells(&self) -> &C {
        &self.cells
    }

    /// The memory below.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.heap.arena
    }

    /// Where the thread that looks after the pool is told of work: a [`Compactor`](super::Compactor)'s, or one of the client,
    /// which attends to the [alarm of the arena](Arena::alarm) and may be kicked for reasons of its own too.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// The sizes of slots.
    pub fn geometry(&self) -> &Geometry {
        &self.heap.geometry
    }

    /// The tree that is charged.
    pub fn accounting(&self) -> Option<&Tree> {
        self.accounting.as_ref()
    }

    /// The home node of the object at this location: the node it was allocated for, whose class list it is in. Moving
    /// keeps it. The caller knows that the object is there (it has a pin on it, or took it out of its cell).
    pub fn home_node(&self, location: Location) -> NodeId {
        let run = self.heap.arena.run_of(location.frame());
        self.heap.zspage(super::zspage::ZspageIndex(run.0)).node()
    }

    /// Who is charged for the owner's object at this location; [`ObjcgId::NONE`] for nobody. `None` when it is not
    /// there: look at the cell again.
    pub fn objcg_at(&self, owner: Owner, location: Location) -> Option<ObjcgId> {
        let (_, word) = self.heap.find(location)?;
        // Acquire pairs with publishing.
        let entry = Entry::from_raw(word.load(Ordering::Acquire));
        entry.is_live_of(owner).then(|| entry.objcg())
    }

    /// Whether somebody is reading the owner's object at this location at this moment. A hint: it looks once.
    pub fn is_held(&self, owner: Owner, location: Location) -> bool {
        self.heap.find(location).is_some_and(|(_, word)| {
            let entry = Entry::from_raw(word.load(Ordering::Relaxed));
            entry.is_live_of(owner) && entry.pins() > 0
        })
    }

    /// Give memory back to the kernel that was freed: beyond the arena's warm frames, and entries' idle pages. Called
    /// by `malloc` and `free` already; for callers of [`free_under_lock`](Self::free_under_lock), after their locks.
    pub fn maintain(&self) {
        self.heap.arena.maintain();
        if self.heap.entries.wants_trim() {
            self.heap.entries.trim(0);
        }
    }

    /// Wake whoever looks after the pool, if there is something to do. Outside all locks.
    #[inline]
    pub(super) fn attend(&self) {
        if self.heap.arena.alarm().is_rung() {
            self.mailbox.kick(UPKEEP);
        }
    }

    /// Give everything back that is not in use, warm frames and idle pages of entries. Returns the number of frames.
    pub fn flush(&self) -> usize {
        self.heap.entries.trim(0);
        self.heap.arena.flush()
    }

    pub(super) fn pay(&self, owed: Option<Owed>) {
        if let (Some(tree), Some(owed)) = (&self.accounting, owed) {
            owed.pay(tree);
        }
    }

    /// End the life of a live entry: free if nobody holds it, else `doomed`. Returns it as it was if it is free now.
    pub(super) fn retire(&self, word: &AtomicU64, doomed: impl Fn(Entry) -> Entry, ignore_pins: bool) -> Option<Entry> {
        // Acquire pairs with the release of unpins: what was read under them comes before the slot's next life.
        let mut entry = Entry::from_raw(word.load(Ordering::Acquire));
        loop {
            debug_assert_eq!(entry.state(), State::Live);
            let free = entry.pins() == 0 || ignore_pins;
            let new = if free { Entry::FREE } else { doomed(entry) };
            match word.compare_exchange(entry.raw(), new.raw(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return free.then_some(entry),
                Err(now) => entry = Entry::from_raw(now),
            }
        }
    }

    /// End the life of an object where it was, now that its cell names a copy, which counts the payload: its slot goes at once, or
    /// with the last guard.
    pub(super) fn end_source(&self, class: &mut Class, from: &Spot, source: &AtomicU64, len: usize) {
        match self.retire(source, Entry::doomed_moved, self.planted.is(Bug::CompactionIgnoresPins)) {
            Some(_) => _ = self.heap.vacate(class, from, len),
            None => class.payload -= len as u64,
        }
    }

    /// Drop a pin; the last one of a doomed object returns its slot, and says so: there may be something to look after. May run anywhere: no
    /// system call, no allocator.
    pub(super) fn unpin(&self, spot: &Spot, word: &AtomicU64) -> bool {
        // Release: what was read comes before the slot's next life. Acquire: the last one sees the others' reads.
        let old = Entry::from_raw(word.fetch_sub(Entry::PIN, Ordering::AcqRel));
        debug_assert!(old.pins() > 0, "an unpin without a pin on {old:?}");
        if old.pins() != 1 || old.state() != State::Doomed {
            return false;
        }
        let mut class = self.heap.lock_of(spot);
        let (objcg, owes) = (old.objcg(), old.owes());
        let owed = owes.and_then(|len| Owed::new(&self.heap, spot, len, self.original, objcg));
        self.heap.free(&mut class, spot, owes.unwrap_or(0));
        drop(class);
        self.pay(owed);
        true
    }

    /// Drop a pin on an entry that is not where it was thought to be: between finding and pinning it, its array went to
    /// another frame, for another object of the same owner. If that was freed meanwhile and nobody else holds it, its slot
    /// is ours to return, and has to be searched for: rare enough. May run where [`unpin`](Self::unpin) may.
    pub(super) fn unpin_stray(&self, word: &AtomicU64) {
        let mut entry = Entry::from_raw(word.load(Ordering::Relaxed)); // the compare-exchange looks again
        // A doomed entry gets no new pins: if ours is the only one, it stays so.
        while (entry.pins(), entry.state()) != (1, State::Doomed) {
            // Orders as in `unpin`.
            let unpinned = entry.raw() - Entry::PIN;
            match word.compare_exchange(entry.raw(), unpinned, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => entry = Entry::from_raw(now),
            }
        }
        let spot = self.heap.search(word).expect("Z1: a pinned entry is in the array of some zspage");
        self.unpin(&spot, word);
    }
}

/// Objects go with their pool; what was charged for them is given back. The arena is not looked at: it goes too.
impl<C: Cells> Drop for Pool<C> {
    fn drop(&mut self) {
        if self.accounting.is_none() {
            return;
        }
        self.for_each_slot(|spot, entry, _| {
            // An object that its cell does not name any more was leaked by its client; its payload is not known.
            if entry.state() == State::Live
                && let Some(len) = self.len_of(spot, entry)
            {
                self.pay(Owed::new(&self.heap, spot, len, self.original, entry.objcg()));
            }
        });
    }
}

impl<C: Cells> Pool<C> {
    /// Take a slot for `len` bytes near `node`, charged to `memcg` if the pool counts, to be written and published. The charge
    /// and the slot are given back if the result is dropped.
    ///
    /// When `node` has no room left, other nodes are tried in order of their distance; of those, only nodes that the owner's
    /// memcg and its ancestors [allow](crate::memcg::Memcg::set_nodes).
    ///
    /// # Errors
    /// [`Error::Length`]; [`Error::Limit`] when a memcg is at its limit; [`Error::Memcg`] when it was removed;
    /// [`Error::NodesFull`] when no allowed node has room; [`Error::Arena`] when the arena is at its limit;
    /// [`Error::Entries`].
    ///
    /// # Locks
    /// Takes `Class`, and below; makes system calls: call it outside all locks.
    pub fn malloc(&self, memcg: Option<&Memcg>, len: usize, node: NodeId) -> Result<Uncommitted<'_, C>, Error> {
        self.malloc_with(memcg, len, node, None)
    }

    /// [`malloc`](Self::malloc) for a page that `memcg` is charged for already: `prepaid` bytes as
    /// [`Counter::Memory`](crate::memcg::Counter::Memory) through its objcg, enough for the slot. `memory.max` is not asked again.
    /// The slot takes over its share, and the rest is uncharged when the object is published; if the result is dropped
    /// instead, or nothing comes of it, the page is charged as before. A pool that counts for nobody leaves the charge alone.
    ///
    /// # Errors
    /// [`Error::Prepaid`], and as `malloc`.
    ///
    /// # Locks
    /// As `malloc`.
    pub fn malloc_prepaid(
        &self,
        memcg: &Memcg,
        len: usize,
        node: NodeId,
        prepaid: u64,
    ) -> Result<Uncommitted<'_, C>, Error> {
        self.malloc_with(Some(memcg), len, node, Some(prepaid))
    }

    #[inline]
    fn malloc_with(
        &self,
        memcg: Option<&Memcg>,
        len: usize,
        node: NodeId,
        prepaid: Option<u64>,
    ) -> Result<Uncommitted<'_, C>, Error> {
        let class = self.heap.geometry.class_of(len).ok_or(Error::Length { len })?;
        let nodes = self.heap.arena.topology();
        if node.index() >= nodes.len() {
            return Err(arena::Error::NoSuchNode { node, nodes: nodes.len() }.into());
        }
        let size = self.heap.geometry.class(class).size();
        let rest = match prepaid {
            Some(prepaid) => Some(prepaid.checked_sub(size as u64).ok_or(Error::Prepaid { len, size, prepaid })?),
            None => None,
        };
        let object = (size, len, self.original);
        // Counted before it is known where the object will lie: at least nowhere where it may not.
        let counted = match memcg {
            Some(memcg) if nodes.len() > 1 && self.accounting.is_some() => {
                let allowed = memcg.nodes();
                nodes.by_distance(node).iter().copied().find(|&near| allowed.contains(near)).unwrap_or(node)
            }
            _ => node,
        };
        let charge = Charge::take(self.accounting.as_ref(), memcg, object, counted, self.stored, rest.is_some())?;
        let spot = self.allot(class, len, node, charge.objcg())?;
        self.attend();
        Ok(Uncommitted::new(self, spot, len, charge, rest))
    }

    /// The nodes the owner's objects may lie on; `None`: all there are.
    #[inline]
    pub(super) fn within(&self, objcg: ObjcgId) -> Option<NodeMask> {
        let nodes = self.heap.nodes();
        // Nodes that do not differ cost one predictable branch.
        if nodes == 1 || objcg.is_none() {
            return None;
        }
        let allowed = self.accounting.as_ref()?.allowed_nodes(objcg);
        (!allowed.covers(NodeMask::first(nodes))).then_some(allowed)
    }

    /// Take a slot near `node` where the owner's objects may lie, and have it backed.
    ///
    /// That a mask which is narrowed meanwhile is obeyed, is agreed with [`move_off`](Self::move_off), which begins after
    /// the mask was set. The mask is asked for again when the frames are backed. `move_off` takes every class lock once:
    /// if our slot was taken before that, it finds it reserved for this owner, else we see the new mask here. Of a
    /// reserved slot it asks the arena, under its lock, where the frames lie: if they are backed it waits for us, else they
    /// are backed after that, and again we see the new mask.
    pub(super) fn allot(&self, class: ClassIndex, len: usize, node: NodeId, objcg: ObjcgId) -> Result<Spot, Error> {
        let arena = &self.heap.arena;
        let trusting = self.planted.is(Bug::MallocTrustsFirstMask);
        'again: loop {
            let within = self.within(objcg);
            let allowed = within.unwrap_or(NodeMask::first(self.heap.nodes()));
            for &near in arena.topology().by_distance(node).iter().filter(|&&near| allowed.contains(near)) {
                let taker = Taker { objcg, within };
                let spot = self.heap.take(&mut self.heap.lock(class, near), class, near, len, taker)?;
                let frames = 1 + usize::from(spot.straddles);
                arena.prefetch_for_write(spot.location, len);
                match arena.ensure(self.heap.frame(spot.zspage, spot.frame), frames, near) {
                    Ok(()) => {
                        let now = if trusting { within } else { self.within(objcg) };
                        if now.is_none_or(|mask| !self.heap.is_outside(&spot, mask)) {
                            return Ok(spot);
                        }
                        // The kernel had no room on the node, or the mask was narrowed.
                        if self.give_back(&spot, len) {
                            self.maintain();
                        }
                        if now != within {
                            continue 'again;
                        }
                    }
                    Err(error) => {
                        self.give_back(&spot, len);
                        if !matches!(error, arena::Error::NodeFull { .. }) {
                            return Err(error.into());
                        }
                    }
                }
            }
            let backed = allowed.iter().map(|node| arena.backed_on(node)).sum();
            let capacity = allowed.iter().map(|node| arena.topology().capacity(node)).sum();
            return Err(Error::NodesFull { nodes: allowed, backed, capacity });
        }
    }

    /// Undo the taking of a reserved slot. Returns whether a frame became warm.
    pub(super) fn give_back(&self, spot: &Spot, len: usize) -> bool {
        self.heap.free(&mut self.heap.lock_of(spot), spot, len)
    }

    /// Read the owner's object of `len` bytes at `location`, as its cell said. `None` means that the cell says
    /// something else by now: look at it again.
    ///
    /// The object stays readable while the guard lives, also when it is freed or moved meanwhile. What else the cell
    /// says (a codec) belongs to the bytes only if the cell is still the same when this has returned.
    ///
    /// Never allocates; waits only if 63 guards hold the object.
    #[inline]
    pub fn read(&self, owner: Owner, location: Location, len: usize) -> Option<ReadGuard<'_, C>> {
        // Descriptor, entry and bytes would be fetched one after the other: pinning does not look at the bytes.
        self.heap.arena.prefetch(location, len);
        let (spot, word) = self.heap.find(location)?;
        let mut backoff = Backoff::new();
        // Acquire, also where the object is found gone: what its cell says by now is then seen, and the caller who
        // looks again does not look in vain.
        let mut entry = Entry::from_raw(word.load(Ordering::Acquire));
        loop {
            if !entry.is_live_of(owner) {
                return None;
            }
            let Some(pinned) = entry.pinned() else {
                backoff.wait();
                entry = Entry::from_raw(word.load(Ordering::Acquire));
                continue;
            };
            // Acquire pairs with publishing: the bytes, and the descriptors for `same`.
            match word.compare_exchange(entry.raw(), pinned.raw(), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => entry = Entry::from_raw(now),
            }
        }
        let trusting = self.planted.is(Bug::ReadSkipsRevalidation);
        if !trusting && !self.heap.same(&spot, word) {
            self.unpin_stray(word);
            return None;
        }
        let guard = ReadGuard::new(self, spot, word, len);
        (trusting || self.cells.object(owner) == Some(Object { location, len })).then_some(guard)
    }

    /// Free the owner's object of `len` bytes at `location`, which its cell must not name any more. Under guards it
    /// stays until the last one goes, charged as long.
    ///
    /// Never allocates. May make a system call.
    ///
    /// # Panics
    /// When the owner has no object there: it was freed twice, or freed while the cell still named it.
    ///
    /// # Locks
    /// Takes `Class`, and below; call it outside all locks, or use [`free_under_lock`](Self::free_under_lock).
    pub fn free(&self, owner: Owner, location: Location, len: usize) {
        if self.free_under_lock(owner, location, len) {
            self.maintain();
        }
        self.attend();
    }

    /// As [`free`](Self::free) without system calls, for callers with locks. Returns whether
    /// [`maintain`](Self::maintain) may have something to do.
    ///
    /// # Panics
    /// As [`free`](Self::free).
    ///
    /// # Locks
    /// Takes `Class`, and below.
    pub fn free_under_lock(&self, owner: Owner, location: Location, len: usize) -> bool {
        let (spot, word) = self.heap.find(location).expect("an object is freed where it is");
        let mut class = self.heap.lock_of(&spot);
        let entry = Entry::from_raw(word.load(Ordering::Relaxed)); // `retire` looks again
        assert!(entry.is_live_of(owner), "{owner:?} frees {location:?}, which is {entry:?}");
        debug_assert_eq!(self.heap.geometry.class_of(len), Some(spot.class), "an object of {len} bytes is freed");
        let ignore_pins = self.planted.is(Bug::FreeIgnoresPins);
        let Some(entry) = self.retire(word, |entry| entry.doomed(len), ignore_pins) else { return false };
        let owed = Owed::new(&self.heap, &spot, len, self.original, entry.objcg());
        let released = self.heap.vacate(&mut class, &spot, len);
        drop(class);
        self.pay(owed);
        released
    }
}
