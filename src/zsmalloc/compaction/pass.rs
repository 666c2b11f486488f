//! One call of compaction: class by class, the largest first, an object for each hold of a class lock.

use super::moving::Step;
use super::totals::Compacted;
use super::work::{Pass, Ready, Scope, Work};
use crate::memcg::Memcg;
use crate::units::{FRAME_SIZE, NodeId};
use crate::zsmalloc::entry::{Entry, State};
use crate::zsmalloc::geometry::ClassIndex;
use crate::zsmalloc::heap::Heap;
use crate::zsmalloc::zspage::ZspageIndex;
use crate::zsmalloc::{Cells, Pool};
use std::collections::HashSet;

/// Busy frames of one class and node before it is left alone.
const MAX_BUSY: usize = 16;

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
        self.heap.free(&mut class, &ready.to, 0);
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
