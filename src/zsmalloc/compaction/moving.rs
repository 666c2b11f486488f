//! Moving one object, under the class lock: copy the bytes to a reserved slot; make its entry live; let the cell name it;
//! end the life of the source, whose slot goes at once or with the last guard. If the cell does not name the source any
//! more, the object is being freed: the copy ends instead.

use super::work::{Goal, Pass, Ready, Victim, Work};
use crate::sync::Bug;
use crate::sync::atomic::Ordering;
use crate::zsmalloc::entry::{Entry, State};
use crate::zsmalloc::geometry::ClassIndex;
use crate::zsmalloc::heap::{Class, Spot};
use crate::zsmalloc::share::Shares;
use crate::zsmalloc::{Cells, Object, Pool};

/// What one hold of the class lock came to.
pub(super) enum Step {
    /// One object was moved.
    Moved,
    /// This slot was reserved, and its frames have to be backed.
    Back(Ready),
    /// This slot is of no use any more.
    GiveBack(Ready),
    /// This frame cannot be emptied now.
    Busy(Victim),
    /// No frame can be won of the zspages looked at now.
    Next,
    /// No frame can be won.
    Done,
}

impl<C: Cells> Pool<C> {
    /// Move one object towards the goal, choosing one if there is none or it is done with.
    pub(super) fn step(&self, class: &mut Class, work: &mut Work, pass: &Pass) -> Step {
        let shape = self.heap.geometry.class(work.index);
        let old = work.goal;
        work.goal = self.next_goal(class, work, pass);
        let ready = work.ready.take();
        let Some(goal) = work.goal else {
            return match ready {
                Some(ready) => Step::GiveBack(ready),
                None if work.look_on() => Step::Next,
                None => Step::Done,
            };
        };
        if let Some(ready) = ready.filter(|ready| !self.suits(ready, goal)) {
            return Step::GiveBack(ready);
        }
        let victim = goal.victim();
        let trusting = self.planted.is(Bug::CompactionTrustsPlan);
        let from = match ready {
            Some(ready) if trusting => Some(ready.from),
            _ => self.movable(victim, work.index, old.is_none_or(|old| old.victim() != victim)),
        };
        let Some(from) = from else {
            // The place, if there is one, is for the next goal.
            work.ready = ready;
            return Step::Busy(victim);
        };
        // Acquire as in `movable`. Under the lock, which `move_off` takes after the mask was set.
        let owner = Entry::from_raw(self.heap.word(&from).load(Ordering::Acquire)).objcg();
        let within = self.within(owner);
        if let Some(ready) = ready {
            if within.is_some_and(|mask| self.heap.is_outside(&ready.to, mask)) {
                work.busy.push(victim);
                work.goal = None;
                return Step::GiveBack(ready);
            }
            return if self.move_object(class, &from, &ready.to) { Step::Moved } else { Step::Busy(victim) };
        }
        if let Some(to) = self.place(class, shape, goal, within) {
            let moved = self.reserve(class, to).is_some_and(|to| self.move_object(class, &from, &to));
            return if moved { Step::Moved } else { Step::Busy(victim) };
        }
        let to = if pass.may_back { self.place_to_back(class, shape, goal) } else { None };
        let to = to.filter(|&to| self.may_be_backed(to, shape, within));
        match to.and_then(|to| self.reserve(class, to)) {
            Some(to) => Step::Back(Ready { from, to }),
            None => {
                // Nobody is at it: its memcg may not have frames here, or there are none.
                work.busy.push(victim);
                work.goal = None;
                Step::Next
            }
        }
    }

    /// Whether the place is one for what the goal moves.
    fn suits(&self, ready: &Ready, goal: Goal) -> bool {
        let (to, (z, _)) = (&ready.to, goal.victim());
        match goal {
            Goal::Empty(_) => to.zspage != z,
            Goal::Pack { keep, .. } => {
                to.zspage == z && to.slot < self.heap.geometry.class(to.class).slots_within(keep)
            }
            Goal::Frame(_) => false,
        }
    }

    /// The first object that touches the frame. `None` when it cannot be moved; with `all`, when one of them cannot.
    fn movable(&self, (z, f): Victim, index: ClassIndex, all: bool) -> Option<Spot> {
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

    /// Move a live object to a reserved slot. Returns whether it was; if not, for it is being freed, the slot is free
    /// again.
    fn move_object(&self, class: &mut Class, from: &Spot, to: &Spot) -> bool {
        let (source, target) = (self.heap.word(from), self.heap.word(to));
        let entry = Entry::from_raw(source.load(Ordering::Acquire)); // as in `movable`
        let owner = entry.owner().expect("a movable object is live, and stays so under the class lock");
        let Some(Object { len, .. }) = self.cells.object(owner).filter(|object| object.location == from.location)
        else {
            // Taken out of its cell: it will be freed as soon as we are gone.
            self.heap.free(class, to, 0);
            return false;
        };
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
            return false;
        }
        class.payload += len as u64; // the copy's; the source's goes with it
        if let Some(tree) = self.accounting.as_ref().filter(|_| !entry.objcg().is_none()) {
            let shares = |spot| Shares::of(&self.heap, spot, len, self.original);
            shares(from).moved(&shares(to), tree, entry.objcg());
        }
        self.end_source(class, from, source, len);
        true
    }
}
