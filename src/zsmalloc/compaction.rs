//! Compaction: emptying frames by moving the objects that touch them into free slots of frames that stay.
//!
//! ```text
//! before   | a b . . | c d e f | g . . h | . . i . |        4 frames, room for 7 in them
//! victim                                   ^ the frame that costs the fewest slots, of the emptiest zspages
//! after    | a b . . | c d e f | g i . h |                  3 frames, room for 3
//! next       ^ 2 objects, and 1 slot elsewhere: stop
//! ```
//!
//! A zspage is emptied whole as long as its objects have room in the reusable slots of others, the emptiest first:
//! frames that stay then have neighbours, and the slots that straddle between them are of use. After that a class can
//! give single frames up that are touched by no more objects than there are reusable slots which do not touch them.
//! Nothing is ever committed for a move, so each emptied frame is won, and it ends.
//!
//! One object is moved per hold of the class lock, and a frame is only begun when all its objects can be moved: an
//! object that somebody holds, or that is being written or freed, makes the frame busy, and it is left alone.
//!
//! A move, under the class lock: copy the bytes to a reserved slot; make its entry live; let the cell name it; end the
//! life of the source, whose slot goes at once or with the last guard. If the cell does not name the source any more,
//! the object is being freed: the copy ends instead.

use super::entry::{Entry, State};
use super::fullness::Group;
use super::geometry::ClassIndex;
use super::heap::{Class, Spot};
use super::pool::{Cells, Object, Pool};
use super::share::Shares;
use super::zspage::ZspageIndex;
use crate::memcg::ObjcgId;
use crate::sync::Bug;
use crate::sync::atomic::Ordering;
use crate::units::{FRAME_SIZE, NodeId, NodeMask};

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

/// What is being emptied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// All frames of a zspage, one after the other; this one now.
    Zspage(ZspageIndex, usize),
    /// A frame.
    Frame(ZspageIndex, usize),
}

impl Goal {
    fn victim(self) -> Victim {
        let (Goal::Zspage(z, f) | Goal::Frame(z, f)) = self;
        (z, f)
    }
}

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
    /// Move objects together until no frame can be won, or `budget_bytes` bytes of slots were moved; larger classes
    /// first. Any number of threads may compact.
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
        let mut goal = None;
        let mut busy: Vec<Victim> = Vec::new();
        while moves > 0 && busy.len() < MAX_BUSY {
            if sum.moved_bytes + shape.size() as u64 > budget {
                sum.out_of_budget = true;
                return;
            }
            let mut class = self.heap.lock(index, node);
            match self.compact_step(&mut class, index, node, &mut goal, &busy) {
                Step::Moved { bytes, frames } => {
                    sum.moved_objects += 1;
                    sum.moved_bytes += bytes;
                    sum.frames_freed += frames;
                    moves -= 1;
                }
                Step::Busy(frame) => {
                    sum.busy += 1;
                    busy.push(frame);
                    goal = None;
                }
                Step::Done => return,
            }
        }
    }

    /// Move one object off the frame that is being emptied, choosing one if there is none or it is done with.
    fn compact_step(
        &self,
        class: &mut Class,
        index: ClassIndex,
        node: NodeId,
        goal: &mut Option<Goal>,
        busy: &[Victim],
    ) -> Step {
        let old = *goal;
        // Others may have used the zspage for something else meanwhile.
        let ours = |z| {
            let zspage = self.heap.zspage(z);
            zspage.inuse() > 0 && zspage.class() == index && zspage.node() == node
        };
        *goal = match old.filter(|goal| ours(goal.victim().0)) {
            Some(Goal::Zspage(z, f)) if self.can_go(class, z) => match self.heap.zspage(z).touching(f) {
                0 => self.next_frame(z, index, busy).map(|f| Goal::Zspage(z, f)),
                _ => old,
            },
            Some(Goal::Frame(z, f)) if self.can_win(class, index, (z, f)) => old,
            _ => None,
        };
        *goal =
            goal.or_else(|| self.choose_zspage(class, index, busy)).or_else(|| self.choose_frame(class, index, busy));
        let Some(now) = *goal else { return Step::Done };
        let (z, f) = now.victim();
        let Some(from) = self.movable(z, index, f, old != *goal) else { return Step::Busy((z, f)) };
        let within = self.within(Entry::from_raw(self.heap.word(&from).load(Ordering::Acquire)).objcg()); // as in `movable`
        let moved = self.destination(class, index, now, within).and_then(|to| self.move_object(class, &from, &to));
        match moved {
            Some((bytes, frames)) => Step::Moved { bytes, frames },
            None => Step::Busy((z, f)),
        }
    }

    /// Whether the zspage's objects have room in others.
    fn can_go(&self, class: &Class, z: ZspageIndex) -> bool {
        let zspage = self.heap.zspage(z);
        (zspage.inuse() + zspage.reusable()) as u64 <= class.reusable
    }

    /// Whether the frame is in use, and its objects have room elsewhere.
    fn can_win(&self, class: &Class, index: ClassIndex, (z, f): Victim) -> bool {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(index));
        let touching = zspage.touching(f);
        touching > 0 && (touching + zspage.reusable_touching(shape, f)) as u64 <= class.reusable
    }

    /// The first frame of the zspage that has objects and is not busy.
    fn next_frame(&self, z: ZspageIndex, index: ClassIndex, busy: &[Victim]) -> Option<usize> {
        let shape = self.heap.geometry.class(index);
        (0..shape.chain()).find(|&f| self.heap.zspage(z).touching(f) > 0 && !busy.contains(&(z, f)))
    }

    /// The emptiest zspage that can go, by the share of its frames' bytes in use.
    fn choose_zspage(&self, class: &Class, index: ClassIndex, busy: &[Victim]) -> Option<Goal> {
        let density = |z: ZspageIndex| self.heap.zspage(z).inuse() * 1024 / self.heap.zspage(z).frames();
        Group::with_room().rev().find_map(|group| {
            let candidates = class.lists.iter(&self.heap.zspages, group).take(LOOK_AT);
            candidates
                .filter(|&z| self.can_go(class, z) && !busy.iter().any(|&(other, _)| other == z))
                .min_by_key(|&z| density(z))
                .and_then(|z| Some(Goal::Zspage(z, self.next_frame(z, index, busy)?)))
        })
    }

    /// The frame that costs the fewest slots, objects to move and reusable slots that go with it, among the first
    /// zspages of the emptiest groups, if its objects have room elsewhere. That prefers neighbours of untouched frames,
    /// whose straddling slots are lost already: else every second frame would go, and halves of straddling slots lie
    /// waste in all that stay.
    fn choose_frame(&self, class: &Class, index: ClassIndex, busy: &[Victim]) -> Option<Goal> {
        let shape = self.heap.geometry.class(index);
        Group::with_room().rev().chain([Group::OPEN]).find_map(|group| {
            let candidates = class.lists.iter(&self.heap.zspages, group).take(LOOK_AT);
            candidates
                .flat_map(|z| (0..shape.chain()).map(move |f| (z, f)))
                .filter(|frame| !busy.contains(frame) && self.can_win(class, index, *frame))
                .min_by_key(|&(z, f)| {
                    let (zspage, touching) = (self.heap.zspage(z), self.heap.zspage(z).touching(f));
                    (touching + zspage.reusable_touching(shape, f), touching)
                })
                .map(|(z, f)| Goal::Frame(z, f))
        })
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

    /// A slot in owned frames outside of what is being emptied, and on the nodes of the owner, reserved: of the fullest
    /// zspage that has one.
    fn destination(&self, class: &mut Class, index: ClassIndex, goal: Goal, within: Option<NodeMask>) -> Option<Spot> {
        let shape = self.heap.geometry.class(index);
        let spot = Group::with_room().find_map(|group| {
            class.lists.iter(&self.heap.zspages, group).take(LOOK_AT).find_map(|to| {
                let avoid = match goal {
                    Goal::Zspage(z, _) if z == to => return None,
                    Goal::Frame(z, f) if z == to => Some(f),
                    _ => None,
                };
                let avoided = avoid.map_or(0, |f| 1 << f) | self.heap.frames_outside(to, shape, within);
                let slot = self.heap.reusable_slot(to, shape, avoided)?;
                let spot = self.heap.spot(to, index, slot);
                // A frame that somebody is just having backed is touched already: warm or not, it is not ours to fill.
                let [(one, _), (two, _)] = self.heap.parts(&spot, shape.size());
                (self.heap.arena.is_owned(one) && self.heap.arena.is_owned(two)).then_some(spot)
            })
        })?;
        // The entries of a frame that only the end of an object touched may be refused.
        self.heap.occupy(class, &spot, 0, ObjcgId::NONE).ok()?;
        Some(spot)
    }

    /// Move a live object to a reserved slot. Returns its slot's bytes and the frames won; `None`, and the slot is
    /// free again, if the object is being freed.
    fn move_object(&self, class: &mut Class, from: &Spot, to: &Spot) -> Option<(u64, u64)> {
        let (source, target) = (self.heap.word(from), self.heap.word(to));
        let entry = Entry::from_raw(source.load(Ordering::Acquire)); // as in `movable`
        let owner = entry.owner().expect("a movable object is live, and stays so under the class lock");
        let Some(Object { len, .. }) = self.cells.object(owner).filter(|object| object.location == from.location)
        else {
            // Taken out of its cell: it will be freed as soon as we are gone.
            target.store(Entry::FREE.raw(), Ordering::Release); // as every store of an entry: see `zspage`
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
