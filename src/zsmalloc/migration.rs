//! Migration: moving objects off nodes on which their owners' memcgs may not have them.
//!
//! ```text
//! Memcg::set_nodes   the mask is a new one
//! move_off           every class lock once           whoever takes a slot from now on sees the new mask
//!                    frame by frame:
//!                      live, and outside             a slot where it may lie, backed -> [client's locks] switch
//!                      reserved, and outside         somebody writes it: wait
//! switch             source's class lock { copy; count on the new nodes; live with a pin; cell: source -> copy;
//!                                          count out on the old nodes; source ends }
//!                    unpin the copy
//! ```
//!
//! As compaction does, but the new place may have another home node, so that only the source's class lock is held: the pin
//! keeps the copy until everything is counted, also if it is freed as soon as its cell names it, and a reference of the
//! mover's own keeps the objcg. Nothing is charged: the slot is as large as before.
//!
//! An object that somebody holds is not begun with; one that is pinned in the middle is moved, and its old place goes with
//! the last guard. What cannot be moved stays where it is and is reported.
//!
//! The client says what is to change together with the cell (LRU lists by home node), by calling [`Moving::switch`] under
//! the locks that guard that.

use super::cells::{Cells, Object};
use super::entry::{Entry, State};
use super::error::Error;
use super::heap::{Class, Spot};
use super::pool::Pool;
use super::share::Shares;
use super::zspage::ZspageIndex;
use crate::memcg::{GroupRef, Memcg, ObjcgId};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Bug, MutexGuard, assert_no_lock_held};
use crate::units::{Location, NodeId, NodeMask, Owner};
use std::collections::HashSet;

/// What [`Pool::move_off`] has done.
#[derive(Debug, Default)]
#[must_use]
pub struct MovedOff {
    /// Objects moved.
    pub moved_objects: u64,
    /// Their slots' bytes.
    pub moved_bytes: u64,
    /// Bytes of slots that are left outside: their objects were held or being written all the time, or found no room.
    pub left_bytes: u64,
    /// Why the last one that found no room found none.
    pub refusal: Option<Error>,
}

/// An object about to be moved. Dropped, it stays where it is.
#[derive(Debug)]
#[must_use = "dropped, the object stays where it is"]
pub struct Moving<'a, C: Cells> {
    pool: &'a Pool<C>,
    owner: Owner,
    objcg: ObjcgId,
    from: Spot,
    /// Where it is to go; taken out by `switch`.
    to: Option<Spot>,
    len: usize,
}

/// A slot in use by an owner's object, or about to be.
struct Found {
    spot: Spot,
    objcg: ObjcgId,
}

/// What became of a found object.
enum Outcome {
    /// It was moved.
    Moved,
    /// It is gone, or lies where it may.
    Settled,
    /// It is held, or being written.
    Held,
    /// There is no room for it.
    NoRoom(Error),
}

impl<C: Cells> Pool<C> {
    /// Move the objects of `memcg` and its descendants that lie on nodes they may not lie on, after
    /// [`Memcg::set_nodes`]. `around` is called for each without a lock held, and calls [`Moving::switch`] under the locks
    /// of the client; it says whether that was done.
    ///
    /// If nothing is left, then none of their objects lies on a node that was not allowed when this was called, and none will
    /// come there while the mask stays. Objects of memcgs that are removed meanwhile are their parents', and not looked at
    /// unless those are of the subtree. Guards that were taken while an object moved keep its old bytes until they go.
    ///
    /// Takes time by the frames of the pool. Waits a little for objects that are held or being written.
    ///
    /// # Locks
    /// Takes the tree lock, `Class` and `Arena`; makes system calls: call it outside all locks.
    pub fn move_off(&self, memcg: &Memcg, around: impl Fn(Moving<'_, C>) -> bool) -> MovedOff {
        assert_no_lock_held("moving objects off nodes");
        let mut sum = MovedOff::default();
        if self.accounting.as_ref().is_none_or(|tree| !tree.is(memcg.tree())) || self.heap.nodes() == 1 {
            return sum;
        }
        // Handles, so that no group's index is recycled meanwhile.
        let subtree = memcg.subtree();
        let groups: HashSet<GroupRef> = subtree.iter().map(Memcg::group).collect();
        self.pass_every_class();
        let mut found = Vec::new();
        for z in (0..self.heap.arena.runs_ever_used()).map(|z| ZspageIndex(z as u32)) {
            for frame in 0..self.heap.arena.run_frames() {
                self.find_outside(z, frame, &groups, &mut found);
                for found in found.drain(..) {
                    let bytes = self.heap.geometry.class(found.spot.class).size() as u64;
                    match self.move_one(&found, &groups, &around) {
                        Outcome::Moved => {
                            sum.moved_objects += 1;
                            sum.moved_bytes += bytes;
                        }
                        Outcome::Settled => {}
                        Outcome::Held => sum.left_bytes += bytes,
                        Outcome::NoRoom(error) => {
                            sum.left_bytes += bytes;
                            sum.refusal = Some(error);
                        }
                    }
                }
            }
        }
        self.maintain();
        self.attend();
        sum
    }

    /// Bytes of slots of `memcg`'s and its descendants' objects that lie, at least in part, on nodes they may not lie on. Exact
    /// while nobody stores, frees or moves.
    ///
    /// # Locks
    /// Takes the tree lock and `Class`.
    pub fn bytes_outside(&self, memcg: &Memcg) -> u64 {
        let subtree = memcg.subtree();
        let groups: HashSet<GroupRef> = subtree.iter().map(Memcg::group).collect();
        let mut bytes = 0;
        self.for_each_slot(|spot, entry, _| {
            if entry.state() == State::Live && self.may_not_stay(spot, entry, &groups) {
                bytes += self.heap.geometry.class(spot.class).size() as u64;
            }
        });
        bytes
    }

    /// Take every class lock once: what was taken before by an older mask is seen from here on, and who takes afterwards sees
    /// what was done before this.
    fn pass_every_class(&self) {
        for (index, _) in self.heap.geometry.classes() {
            for node in self.heap.arena.topology().nodes() {
                drop(self.heap.lock(index, node));
            }
        }
    }

    /// The mask of the entry's owner, if it is of these groups and may not use every node.
    fn mask_of(&self, objcg: ObjcgId, groups: &HashSet<GroupRef>) -> Option<NodeMask> {
        let tree = self.accounting.as_ref()?;
        self.within(objcg).filter(|_| groups.contains(&tree.group_of(objcg)))
    }

    /// Whether the slot is an owner's whose mask forbids where it lies, or would if it were backed there.
    fn may_not_stay(&self, spot: &Spot, entry: Entry, groups: &HashSet<GroupRef>) -> bool {
        let Some(mask) = self.mask_of(entry.objcg(), groups) else { return false };
        match entry.state() {
            State::Live => self.heap.is_outside(spot, mask),
            // Its frames may be about to be backed. Where they are not yet, who has it done will see the mask: see `allot`.
            State::Reserved => {
                let parts = self.heap.parts(spot, self.heap.geometry.class(spot.class).size());
                parts.into_iter().any(|(frame, bytes)| {
                    let node = self.heap.arena.settled_node(frame);
                    bytes > 0 && node.is_some_and(|node| !mask.contains(node))
                })
            }
            State::Free | State::Doomed => false,
        }
    }

    /// Note the slots that start in a frame of a zspage and may not stay there.
    fn find_outside(&self, z: ZspageIndex, frame: usize, groups: &HashSet<GroupRef>, found: &mut Vec<Found>) {
        loop {
            let zspage = self.heap.zspage(z);
            // What concerns us was there before we passed its class, so it is seen without the lock.
            if zspage.array().is_none() {
                return;
            }
            let (index, node) = (zspage.class(), zspage.node());
            let _class = self.heap.lock(index, node);
            // The array first: who sees the next owner's sees its class too.
            let Some(array) = zspage.array() else { return };
            if (zspage.class(), zspage.node()) != (index, node) {
                continue; // another's by now: look again
            }
            let shape = self.heap.geometry.class(index);
            if frame >= shape.chain() {
                return; // a run may have more frames than its zspage has
            }
            for slot in shape.first(frame)..shape.first(frame + 1) {
                let spot = self.heap.spot(z, index, slot);
                // Acquire as in `movable`.
                let entry = Entry::from_raw(self.heap.entries.word(array, slot).load(Ordering::Acquire));
                if self.may_not_stay(&spot, entry, groups) {
                    found.push(Found { spot, objcg: entry.objcg() });
                }
            }
            return;
        }
    }

    /// Move one object, waiting a little if it is held.
    fn move_one(&self, found: &Found, groups: &HashSet<GroupRef>, around: &impl Fn(Moving<'_, C>) -> bool) -> Outcome {
        let mut patience = self.accounting.as_ref().map_or(0, |tree| tree.patience());
        let mut backoff = Backoff::new();
        loop {
            match self.try_move(found, groups, around) {
                Outcome::Held if patience > 0 => {
                    patience -= 1;
                    backoff.wait();
                }
                outcome => return outcome,
            }
        }
    }

    fn try_move(&self, found: &Found, groups: &HashSet<GroupRef>, around: &impl Fn(Moving<'_, C>) -> bool) -> Outcome {
        let from = found.spot;
        // What another class has there by now was taken with the new mask known.
        let Some((class, word, home)) = self.lock_slot(&from) else { return Outcome::Settled };
        let entry = Entry::from_raw(word.load(Ordering::Acquire)); // as in `movable`
        drop(class);
        if entry.objcg() != found.objcg || !self.may_not_stay(&from, entry, groups) {
            return Outcome::Settled;
        }
        let ignore_pins = self.planted.is(Bug::CompactionIgnoresPins);
        let Some(owner) = entry.owner().filter(|_| entry.pins() == 0 || ignore_pins) else { return Outcome::Held };
        let Some(Object { len, .. }) = self.cells.object(owner).filter(|object| object.location == from.location)
        else {
            return Outcome::Held; // being freed, or just being named
        };
        // A reference of our own, so that the objcg stays who it is while its object may go.
        let tree = self.accounting.as_ref().expect("only with accounting are objects moved off nodes");
        let Some(objcg) = tree.try_borrow(found.objcg) else { return Outcome::Settled };
        let objcg = Some(objcg).filter(|_| !self.planted.is(Bug::MigrationCountsLate));
        match self.allot(from.class, len, home, found.objcg) {
            Ok(to) => {
                let moving = Moving { pool: self, owner, objcg: found.objcg, from, to: Some(to), len };
                let moved = around(moving);
                drop(objcg);
                if moved { Outcome::Moved } else { Outcome::Held }
            }
            Err(error) => Outcome::NoRoom(error),
        }
    }

    /// Lock the class of a slot that was in use some time ago: its entry and home node, unless its frame is another's by now or
    /// nobody's.
    fn lock_slot(&self, spot: &Spot) -> Option<(MutexGuard<'_, Class>, &AtomicU64, NodeId)> {
        let zspage = self.heap.zspage(spot.zspage);
        let node = zspage.node();
        let class = self.heap.lock(spot.class, node);
        let array = zspage.array()?; // first, as in `find_outside`
        ((zspage.class(), zspage.node()) == (spot.class, node))
            .then(|| (class, self.heap.entries.word(array, spot.slot), node))
    }

    /// End a copy that no cell names: it goes with the pin that its maker holds, or with that of a reader who came by with an
    /// old location.
    fn disown(&self, to: &Spot, target: &AtomicU64, len: usize) {
        let mut entry = Entry::from_raw(target.load(Ordering::Acquire));
        while let Err(now) =
            target.compare_exchange(entry.raw(), entry.doomed_copy(len).raw(), Ordering::AcqRel, Ordering::Acquire)
        {
            entry = Entry::from_raw(now);
        }
        self.unpin(to, target);
    }
}

// === impl Moving ===

impl<C: Cells> Moving<'_, C> {
    /// Whose object it is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Who is charged for it.
    pub fn objcg(&self) -> ObjcgId {
        self.objcg
    }

    /// Where it lies: what its cell says, unless it is being freed.
    pub fn from(&self) -> Location {
        self.from.location
    }

    /// Its home node so far, and the one it will have.
    pub fn homes(&self) -> (NodeId, NodeId) {
        let to = self.to.as_ref().expect("only `switch` takes it out");
        (self.pool.home_node(self.from.location), self.pool.home_node(to.location))
    }

    /// Move it. Whether it was moved: not if it is held or being freed. Makes no system call.
    ///
    /// # Locks
    /// Takes `Class`, and below.
    pub fn switch(mut self) -> bool {
        let (pool, owner, from, len) = (self.pool, self.owner, self.from, self.len);
        let to = self.to.expect("only `switch` takes it out");
        let heap = &pool.heap;
        let Some((mut class, source, _)) = pool.lock_slot(&from) else { return false };
        // Acquire pairs with publishing and with the release of unpins.
        let entry = Entry::from_raw(source.load(Ordering::Acquire));
        let ignore_pins = pool.planted.is(Bug::CompactionIgnoresPins);
        let free = entry.pins() == 0 || ignore_pins;
        let ours = entry.is_live_of(owner) && free && entry.objcg() == self.objcg;
        let object = Object { location: from.location, len };
        if !ours || pool.cells.object(owner) != Some(object) {
            drop(class);
            return false;
        }
        self.to = None; // ours from here on
        let target = heap.word(&to);
        heap.arena.unpoison(to.location, len);
        heap.copy(&from, &to, len);
        let tree = pool.accounting.as_ref().expect("only with accounting are objects moved off nodes");
        let (out, into) = (Shares::of(heap, &from, len, pool.original), Shares::of(heap, &to, len, pool.original));
        let late = pool.planted.is(Bug::MigrationCountsLate);
        if !late {
            into.add(tree, entry.objcg());
        }
        // Release: whoever finds the copy through the cell, finds its bytes and its counters.
        target.store(Entry::live(owner, entry.objcg(), 1).raw(), Ordering::Release);
        if !pool.cells.relocate(owner, from.location, to.location) {
            drop(class);
            if !late {
                into.remove(tree, entry.objcg());
            }
            pool.disown(&to, target, len);
            return false;
        }
        if !late {
            out.remove(tree, entry.objcg());
        }
        pool.end_source(&mut class, &from, source, len);
        drop(class);
        pool.unpin(&to, target);
        if late {
            into.add(tree, entry.objcg());
            out.remove(tree, entry.objcg());
        }
        true
    }
}

impl<C: Cells> Drop for Moving<'_, C> {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            self.pool.give_back(&to, self.len);
        }
    }
}
