//! Compaction: emptying frames by moving the objects that touch them into free slots of frames that stay.
//!
//! ```text
//! before   | a b . . | c d e f | g . . h | . . i . |        4 frames, room for 7 in them
//! victim                                   ^ the frame the fewest objects touch, of the emptiest zspages
//! after    | a b . . | c d e f | g i . h |                  3 frames, room for 3
//! next       ^ 2 objects, and 1 slot elsewhere: stop
//! ```
//!
//! A class can give a frame up as long as some frame is touched by no more objects than there are reusable slots that do not
//! touch it. Nothing is ever committed for a move, so each emptied frame is won, and it ends.
//!
//! One object is moved per hold of the class lock, and a frame is only begun when all its objects can be moved: an object
//! that somebody holds, or that is being written or freed, makes the frame busy, and it is left alone.
//!
//! A move, under the class lock: copy the bytes to a reserved slot; make its entry live; let the cell name it; end the life of
//! the source, whose slot goes at once or with the last guard. If the cell does not name the source any more, the object is
//! being freed: the copy ends instead.

use super::entry::{Entry, State};
use super::fullness::Group;
use super::geometry::ClassIndex;
use super::heap::{Class, Spot};
use super::pool::{Cells, Object, Pool};
use super::share::Shares;
use super::zspage::ZspageIndex;
use crate::sync::Bug;
use crate::sync::atomic::Ordering;
use crate::units::{FRAME_SIZE, NodeId};

/// Zspages of a group that are looked at for the next victim, and for a place: the lock is held meanwhile.
const LOOK_AT: usize = 16;

/// Busy frames of one class and node before it is left alone.
const MAX_BUSY: usize = 16;

/// What a compaction has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Compacted {
    /// Objects moved.
    pub moved_objects: u64,
    /// Their slots' bytes.
    pub moved_bytes: u64,
    /// Frames that no object touches any more.
    pub frames_freed: u64,
    /// Frames left alone because an object in them was held, or being written or freed.
    pub busy: u64,
    /// The budget ended it: there may be more to do.
    pub out_of_budget: bool,
}

/// A frame being emptied.
type Victim = (ZspageIndex, usize);

/// What one hold of the class lock came to.
enum Step {
    /// One object was moved: bytes of its slot, and frames won.
    Moved { bytes: u64, frames: u64 },
    /// This frame cannot be emptied now.
    Busy(Victim),
    /// No frame can be won.
    Done,
}

impl<C: Cells> Pool<C> {
    /// Move objects together until no frame can be won, or `budget_bytes` bytes of slots were moved; larger classes first.
    /// Any number of threads may compact.
    ///
    /// # Locks
    /// Takes `Class` for one object at a time; makes system calls at the end: call it outside all locks.
    pub fn compact(&self, budget_bytes: u64) -> Compacted {
        let mut sum = Compacted::default();
        for (index, _) in self.heap.geometry.classes().rev() {
            for node in self.heap.arena.topology().nodes() {
                self.compact_class(index, node, budget_bytes, &mut sum);
            }
        }
        if sum.frames_freed > 0 {
            self.maintain();
        }
        sum
    }

    /// The same for the zspages whose home is `node`.
    ///
    /// # Locks
    /// As [`compact`](Self::compact).
    pub fn compact_node(&self, node: NodeId, budget_bytes: u64) -> Compacted {
        let mut sum = Compacted::default();
        for (index, _) in self.heap.geometry.classes().rev() {
            self.compact_class(index, node, budget_bytes, &mut sum);
        }
        if sum.frames_freed > 0 {
            self.maintain();
        }
        sum
    }

    fn compact_class(&self, index: ClassIndex, node: NodeId, budget: u64, sum: &mut Compacted) {
        let shape = self.heap.geometry.class(index);
        // An empty or densely packed class is not worth the rest. And what others put into frames while we empty them must
        // not keep us here for ever: no more moves than it takes to empty every frame. (That can be more than there are
        // objects: one may be moved to a frame that is emptied later.)
        let touching_a_frame = FRAME_SIZE / shape.size() + 2;
        let mut moves = {
            let class = self.heap.lock(index, node);
            if class.reusable == 0 { 0 } else { class.frames * touching_a_frame as u64 }
        };
        let mut victim = None;
        let mut busy: Vec<Victim> = Vec::new();
        while moves > 0 && busy.len() < MAX_BUSY {
            if sum.moved_bytes + shape.size() as u64 > budget {
                sum.out_of_budget = true;
                return;
            }
            let mut class = self.heap.lock(index, node);
            match self.compact_step(&mut class, index, node, &mut victim, &busy) {
                Step::Moved { bytes, frames } => {
                    sum.moved_objects += 1;
                    sum.moved_bytes += bytes;
                    sum.frames_freed += frames;
                    moves -= 1;
                }
                Step::Busy(frame) => {
                    sum.busy += 1;
                    busy.push(frame);
                    victim = None;
                }
                Step::Done => return,
            }
        }
    }

    /// Move one object off the victim, choosing one if there is none or it is done with.
    fn compact_step(
        &self,
        class: &mut Class,
        index: ClassIndex,
        node: NodeId,
        victim: &mut Option<Victim>,
        busy: &[Victim],
    ) -> Step {
        let chosen = victim.filter(|&frame| self.can_win(class, index, node, frame));
        let Some((z, f)) = chosen.or_else(|| self.choose_victim(class, index, busy)) else { return Step::Done };
        let Some(from) = self.movable(z, index, f, chosen.is_none()) else { return Step::Busy((z, f)) };
        *victim = Some((z, f));
        let moved = self.destination(class, index, (z, f)).and_then(|to| self.move_object(class, &from, &to));
        match moved {
            Some((bytes, frames)) => Step::Moved { bytes, frames },
            None => Step::Busy((z, f)),
        }
    }

    /// Whether the frame is in use by the class, and its objects have room elsewhere.
    fn can_win(&self, class: &Class, index: ClassIndex, node: NodeId, (z, f): Victim) -> bool {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(index));
        let ours = zspage.inuse() > 0 && zspage.class() == index && zspage.node() == node;
        ours && zspage.touching(f) > 0
            && zspage.touching(f) as u64 + zspage.reusable_touching(shape, f) as u64 <= class.reusable
    }

    /// The frame that the fewest objects touch, among the first zspages of the emptiest groups, if its objects have room
    /// elsewhere. A frame of a zspage in a fuller group is not easier to empty than the emptiest of all.
    fn choose_victim(&self, class: &Class, index: ClassIndex, busy: &[Victim]) -> Option<Victim> {
        let shape = self.heap.geometry.class(index);
        let node_of = |z| self.heap.zspage(z).node();
        for group in Group::with_room().rev().chain([Group::OPEN]) {
            let candidates = class.lists.iter(&self.heap.zspages, group).take(LOOK_AT);
            let frames = candidates.flat_map(|z| (0..shape.chain()).map(move |f| (z, f)));
            let best = frames
                .filter(|frame| !busy.contains(frame) && self.can_win(class, index, node_of(frame.0), *frame))
                .min_by_key(|&(z, f)| self.heap.zspage(z).touching(f));
            if best.is_some() {
                return best;
            }
        }
        None
    }

    /// The first object that touches the frame. `None` when it cannot be moved; with `all`, when one of them cannot.
    fn movable(&self, z: ZspageIndex, index: ClassIndex, f: usize, all: bool) -> Option<Spot> {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(index));
        let from_before = f.checked_sub(1).filter(|&before| zspage.straddling(before)).map(|_| shape.first(f) - 1);
        let starting = if zspage.starting(f) > 0 { shape.first(f)..shape.first(f + 1) } else { 0..0 };
        let mut first = None;
        for slot in from_before.into_iter().chain(starting) {
            let spot = self.heap.spot(z, index, slot);
            // Acquire pairs with publishing and with the release of unpins.
            let entry = Entry::from_raw(self.heap.word(&spot).load(Ordering::Acquire));
            match entry.state() {
                State::Free => continue,
                State::Live if entry.pins() == 0 || self.planted.is(Bug::CompactionIgnoresPins) => {}
                State::Live | State::Reserved | State::Doomed => return None,
            }
            first = first.or(Some(spot));
            if !all {
                break;
            }
        }
        first
    }

    /// A backed slot that does not touch the victim, reserved: of the fullest zspage that has one.
    fn destination(&self, class: &mut Class, index: ClassIndex, (z, f): Victim) -> Option<Spot> {
        let shape = self.heap.geometry.class(index);
        let spot = Group::with_room().find_map(|group| {
            class.lists.iter(&self.heap.zspages, group).take(LOOK_AT).find_map(|to| {
                let slot = self.heap.reusable_slot(to, shape, (to == z).then_some(f))?;
                let spot = self.heap.spot(to, index, slot);
                // A frame that somebody is just having backed is touched already.
                let [(one, _), (two, _)] = self.heap.parts(&spot, shape.size());
                (self.heap.arena.is_backed(one) && self.heap.arena.is_backed(two)).then_some(spot)
            })
        })?;
        // The entries of a frame that only the end of an object touched may be refused.
        self.heap.occupy(class, &spot, 0).ok()?;
        Some(spot)
    }

    /// Move a live object to a reserved slot. Returns its slot's bytes and the frames won; `None`, and the slot is free again, if
    /// the object is being freed.
    fn move_object(&self, class: &mut Class, from: &Spot, to: &Spot) -> Option<(u64, u64)> {
        let (source, target) = (self.heap.word(from), self.heap.word(to));
        let entry = Entry::from_raw(source.load(Ordering::Acquire)); // as in `movable`
        let owner = entry.owner().expect("a movable object is live, and stays so under the class lock");
        let Some(Object { len, .. }) = self.cells.object(owner).filter(|object| object.location == from.location)
        else {
            // Taken out of its cell: it will be freed as soon as we are gone.
            target.store(Entry::FREE.raw(), Ordering::Relaxed);
            self.heap.vacate(class, to, 0);
            return None;
        };
        let before = class.frames;
        self.heap.arena.unpoison(to.location, len);
        self.heap.copy(from, to, len);
        // Release: whoever finds the copy through the cell, finds its bytes.
        target.store(Entry::live(owner, entry.objcg(), 0).raw(), Ordering::Release);
        let moved = self.cells.relocate(owner, from.location, to.location);
        if !moved && !self.planted.is(Bug::CompactionIgnoresFree) {
            // Somebody may have pinned the copy by an old location, to find that the cell does not say so.
            if self.retire(target, Entry::doomed_moved, false).is_some() {
                self.heap.vacate(class, to, 0);
            }
            return None;
        }
        class.payload += len as u64; // the copy's; the source's goes here or in `vacate`
        if let Some(tree) = self.accounting.as_ref().filter(|_| !entry.objcg().is_none()) {
            let shares = |spot| Shares::of(&self.heap, spot, len, self.original);
            shares(from).moved(&shares(to), tree, entry.objcg());
        }
        match self.retire(source, Entry::doomed_moved, self.planted.is(Bug::CompactionIgnoresPins)) {
            Some(_) => {
                self.heap.vacate(class, from, len);
            }
            None => class.payload -= len as u64,
        }
        let bytes = self.heap.geometry.class(from.class).size() as u64;
        Some((bytes, before - class.frames))
    }
}
