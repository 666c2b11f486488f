//! Compaction: gathering objects into fewer frames.
//!
//! ```text
//! before   | a b . . | c d . . | . . . . | e . . . |      zspage 0, a frame untouched: 3 frames
//!          | f . . . | . . . . | g . . h | . . i . |      zspage 1, the emptier one:   3 frames
//! empty 1  | a b f g | c d h i | . . . . | e . . . |      into free slots of touched frames, while there are any,
//!                                                         then into frames backed for it, if that wins some
//! pack 0   | a b f g | c d h i | e . . . | . . . . |      the last zspage is filled from its start
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `choose` | what to empty, and whether that wins a frame |
//! | `place` | where to put it |
//! | `moving` | moving one object |
//! | `totals` | what was done so far |
//!
//! Three goals, each with a frame to win, in this order:
//! - **empty** a zspage, the emptiest first, into the others, the fullest first. It may cost frames: destinations are
//!   opened one frame at a time, and only as long as fewer are needed than the zspage has. Whole zspages go, so that the
//!   slots that straddle between frames are of use in those that stay; at the end a class has one partly filled zspage.
//! - **pack** a zspage that touches more frames than its objects would, put side by side at its start.
//! - **frame**: one that is touched by no more objects than there are reusable slots elsewhere. This is what is left to
//!   do where nothing can be backed: at the limit.
//!
//! One object is moved per hold of the class lock, and a frame is only begun when all its objects can be moved: an
//! object that somebody holds, or that is being written or freed, makes the frame busy, and it is left alone.
//!
//! A frame is backed outside the lock. Meanwhile the slot that needs it is *reserved*, so nobody else takes it; the
//! object that was to go there may be read, freed or moved. So after the system call everything is looked at again:
//! another object may be moved there, or none, and then the slot is given back.
//!
//! ```text
//!   lock: goal, no free slot in touched frames ... reserve one of an untouched frame --> [ensure] --.
//!   lock: the goal is still one? an object of it can be moved? move it there; else give the slot back <--'
//! ```

mod choose;
mod moving;
mod place;
mod totals;

pub use totals::CompactionStats;
pub(super) use totals::Totals;

use super::entry::{Entry, State};
use super::geometry::ClassIndex;
use super::heap::Heap;
use super::pool::{Cells, Pool};
use super::zspage::ZspageIndex;
use crate::memcg::Memcg;
use crate::sync::atomic::Ordering;
use crate::units::{FRAME_SIZE, NodeId};
use moving::{Ready, Step, Work};
use std::collections::{HashMap, HashSet};

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
    /// Frames that were taken into use to put objects there.
    pub frames_backed: u64,
    /// Frames left alone because an object in them was held, or being written or freed.
    pub busy: u64,
    /// The budget ended it: there may be more to do.
    pub out_of_budget: bool,
}

/// Why a compaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// No frame can be won by moving objects.
    NothingToWin,
    /// Frames could be won, but objects in them are held, being written or freed: another try may do better.
    Busy,
    /// The budget was used up: there may be more to do.
    OutOfBudget,
}

impl Compacted {
    /// Frames that are touched no longer, less those that are now.
    pub fn frames_won(&self) -> u64 {
        self.frames_freed.saturating_sub(self.frames_backed)
    }

    /// Why it ended.
    pub fn end(&self) -> End {
        match self {
            Compacted { out_of_budget: true, .. } => End::OutOfBudget,
            Compacted { busy: 1.., .. } => End::Busy,
            _ => End::NothingToWin,
        }
    }
}

/// Zspages that may be emptied, by what they were when they were found.
type Scope = HashMap<(ClassIndex, NodeId), Vec<ZspageIndex>>;

/// A compaction under way.
struct Pass {
    /// What of the scope no class has looked at yet; `None`: all may be emptied.
    scope: Option<Scope>,
    budget: u64,
    /// No frame was refused yet.
    may_back: bool,
    sum: Compacted,
}

impl<C: Cells> Pool<C> {
    /// Move objects together until no frame can be won, or `budget_bytes` bytes of slots were moved; larger classes
    /// first. Any number of threads may compact.
    ///
    /// # Locks
    /// Takes `Class` for one object at a time; makes system calls: call it outside all locks.
    pub fn compact(&self, budget_bytes: u64) -> Compacted {
        self.compact_where(|_, _| true, None, budget_bytes)
    }

    /// The same for one size class.
    ///
    /// # Panics
    /// When there is no such class.
    ///
    /// # Locks
    /// As [`compact`](Self::compact).
    pub fn compact_class(&self, class: ClassIndex, budget_bytes: u64) -> Compacted {
        assert!((class.0 as usize) < self.heap.geometry.classes().len(), "the geometry has no {class:?} to compact");
        self.compact_where(|index, _| index == class, None, budget_bytes)
    }

    /// The same for the zspages whose home is `node`.
    ///
    /// # Locks
    /// As [`compact`](Self::compact).
    pub fn compact_node(&self, node: NodeId, budget_bytes: u64) -> Compacted {
        self.compact_where(|_, home| home == node, None, budget_bytes)
    }

    /// The same for the zspages that hold, when the call begins, an object of `memcg` or of a memcg below it. Objects of
    /// others that lie in between are moved too. A memcg of another tree has nothing here.
    ///
    /// # Locks
    /// The tree lock for a moment, then as [`compact`](Self::compact).
    pub fn compact_memcg(&self, memcg: &Memcg, budget_bytes: u64) -> Compacted {
        let Some(tree) = self.accounting.as_ref().filter(|tree| memcg.tree().is(tree)) else {
            return Compacted::default();
        };
        let groups: HashSet<_> = memcg.subtree().iter().map(Memcg::index).collect();
        let holds = |entry: Entry| {
            let owned = matches!(entry.state(), State::Live | State::Doomed) && !entry.objcg().is_none();
            owned && groups.contains(&tree.group_of(entry.objcg()).index())
        };
        self.compact_where(|_, _| true, Some(self.heap.zspages_with(holds)), budget_bytes)
    }

    fn compact_where(
        &self,
        wanted: impl Fn(ClassIndex, NodeId) -> bool,
        scope: Option<Scope>,
        budget_bytes: u64,
    ) -> Compacted {
        let mut pass = Pass { scope: None, budget: budget_bytes, may_back: true, sum: Compacted::default() };
        loop {
            let won = pass.sum.frames_won();
            (pass.may_back, pass.sum.busy) = (true, 0);
            pass.scope = scope.clone();
            for (index, _) in self.heap.geometry.classes().rev() {
                for node in self.heap.arena.topology().nodes().filter(|&node| wanted(index, node)) {
                    self.run(index, node, &mut pass);
                }
            }
            // What was refused at first may be had now that frames were won.
            if pass.may_back || pass.sum.out_of_budget || pass.sum.frames_won() == won {
                break;
            }
        }
        self.compaction.note(&pass.sum);
        if pass.sum.frames_freed > 0 {
            self.maintain();
        }
        self.attend();
        pass.sum
    }

    /// Compact a class on a node.
    fn run(&self, index: ClassIndex, node: NodeId, pass: &mut Pass) {
        let shape = self.heap.geometry.class(index);
        // A densely packed class is not worth the rest. And what others put into frames while we empty them must not keep
        // us here for ever: no more moves than it takes to empty every frame. (That can be more than there are objects: one
        // may be moved to a frame that is emptied later.)
        let touching_a_frame = FRAME_SIZE / shape.size() + 2;
        let mut moves = {
            let class = self.heap.lock(index, node);
            if class.waste(shape) == 0 { 0 } else { class.frames * touching_a_frame as u64 }
        };
        let only = pass.scope.as_mut().map(|scope| scope.remove(&(index, node)).unwrap_or_default());
        let mut work = Work::new(index, node, only);
        while moves > 0 && work.busy.len() < MAX_BUSY {
            if pass.sum.moved_bytes + shape.size() as u64 > pass.budget {
                pass.sum.out_of_budget = true;
                break;
            }
            let mut class = self.heap.lock(index, node);
            let before = class.frames;
            let step = self.step(&mut class, &mut work, pass);
            let after = class.frames;
            drop(class);
            pass.sum.frames_freed += before.saturating_sub(after);
            pass.sum.frames_backed += after.saturating_sub(before);
            match step {
                Step::Next => continue,
                Step::Done => break,
                _ => moves -= 1,
            }
            match step {
                Step::Next | Step::Done => {}
                Step::Moved => {
                    pass.sum.moved_objects += 1;
                    pass.sum.moved_bytes += shape.size() as u64;
                }
                Step::Back(ready) => {
                    let (first, frames) =
                        (self.heap.frame(ready.to.zspage, ready.to.frame), 1 + usize::from(ready.to.straddles));
                    match self.heap.arena.ensure(first, frames, node) {
                        Ok(()) => work.ready = Some(ready),
                        Err(_) => {
                            pass.may_back = false;
                            self.give_ready_back(&ready, pass);
                        }
                    }
                }
                Step::GiveBack(ready) => self.give_ready_back(&ready, pass),
                Step::Busy(frame) => {
                    pass.sum.busy += 1;
                    work.busy.push(frame);
                    work.goal = None;
                }
            }
        }
        if let Some(ready) = work.ready.take() {
            self.give_ready_back(&ready, pass);
        }
    }

    /// Give back a place that nothing was moved to.
    fn give_ready_back(&self, ready: &Ready, pass: &mut Pass) {
        let mut class = self.heap.lock_of(&ready.to);
        let before = class.frames;
        self.heap.word(&ready.to).store(Entry::FREE.raw(), Ordering::Release); // as every store of an entry: see `zspage`
        self.heap.vacate(&mut class, &ready.to, 0);
        // They were counted when it was reserved.
        pass.sum.frames_backed -= (before - class.frames).min(pass.sum.frames_backed);
    }
}

impl Heap {
    /// The zspages with an entry of which `holds` is true. Takes no lock: what comes and goes meanwhile may be missed or
    /// found.
    fn zspages_with(&self, holds: impl Fn(Entry) -> bool) -> Scope {
        let mut found = Scope::new();
        for z in (0..self.arena.runs_ever_used() as u32).map(ZspageIndex) {
            let zspage = self.zspage(z);
            let shape = self.geometry.class(zspage.class());
            let array = zspage.array();
            if array.is_some_and(|array| (0..shape.slots()).any(|slot| holds(self.entries.entry(array, slot)))) {
                found.entry((zspage.class(), zspage.node())).or_default().push(z);
            }
        }
        found
    }
}
