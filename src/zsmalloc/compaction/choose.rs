//! What to empty next: the next [`Goal`], which wins a frame.

use super::work::{Goal, LOOK_AT, Pass, Victim, Work};
use crate::zsmalloc::fullness::Group;
use crate::zsmalloc::heap::Class;
use crate::zsmalloc::zspage::ZspageIndex;
use crate::zsmalloc::{Cells, Pool};

impl<C: Cells> Pool<C> {
    /// Go on with what was begun if it still wins something, else begin something else.
    pub(super) fn next_goal(&self, class: &Class, work: &Work, pass: &Pass) -> Option<Goal> {
        let begun = work.goal.and_then(|goal| self.go_on(class, goal, work, pass));
        begun
            .or_else(|| self.choose_zspage(class, work, pass))
            .or_else(|| self.choose_pack(class, work, pass))
            .or_else(|| self.choose_frame(class, work))
    }

    /// What `choose` finds among the first zspages of one of these groups; or among those that are to be looked at now,
    /// where only some are to be emptied.
    fn among(
        &self,
        class: &Class,
        work: &Work,
        mut groups: impl Iterator<Item = Group>,
        mut choose: impl FnMut(&mut dyn Iterator<Item = ZspageIndex>) -> Option<Goal>,
    ) -> Option<Goal> {
        match &work.only {
            None => groups.find_map(|group| choose(&mut class.lists.iter(&self.heap.zspages, group).take(LOOK_AT))),
            Some(only) => {
                let now = only.iter().rev().copied().take(LOOK_AT);
                choose(&mut now.filter(|&z| self.is_ours(z, work) && self.heap.zspage(z).group() != Group::FULL.0))
            }
        }
    }

    /// Whether the zspage is of the class and node. Others may have used it for something else meanwhile.
    fn is_ours(&self, z: ZspageIndex, work: &Work) -> bool {
        let zspage = self.heap.zspage(z);
        zspage.inuse() > 0 && zspage.class() == work.index && zspage.node() == work.node
    }

    /// The same goal, with the frame that is next.
    fn go_on(&self, class: &Class, goal: Goal, work: &Work, pass: &Pass) -> Option<Goal> {
        let (z, f) = goal.victim();
        let zspage = self.heap.zspage(z);
        if !self.is_ours(z, work) {
            return None;
        }
        match goal {
            Goal::Empty(_) if self.can_empty(class, z, work, pass) => {
                let f = if zspage.touching(f) > 0 { Some(f) } else { self.first_frame(z, work) };
                Some(Goal::Empty((z, f?)))
            }
            Goal::Pack { .. } => self.pack_of(z, work, pass),
            Goal::Frame(victim) if self.can_win(class, victim, work) => Some(goal),
            _ => None,
        }
    }

    /// Whether emptying the zspage into others wins a frame: its objects have room in reusable slots, or those that have
    /// none fill fewer frames elsewhere than it has.
    fn can_empty(&self, class: &Class, z: ZspageIndex, work: &Work, pass: &Pass) -> bool {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(work.index));
        let reusable = class.reusable - zspage.reusable() as u64;
        // A place that is ready is one of ours.
        let placeless = (zspage.inuse() as u64).saturating_sub(reusable + u64::from(work.ready.is_some())) as usize;
        if placeless == 0 {
            return true;
        }
        let others = (class.zspages - 1) * shape.slots() as u64;
        let untouched = others - (class.inuse - zspage.inuse() as u64) - reusable;
        if !pass.may_back || placeless as u64 > untouched {
            return false;
        }
        let (mut places, mut frames) = (0, 0);
        for to in self.openable(class, z, shape) {
            let mut touched = self.touched(to);
            while places < placeless
                && frames + 1 < zspage.frames()
                && let Some((f, slots)) = self.widen(to, shape, touched)
            {
                touched |= 1 << f;
                places += slots;
                frames += 1;
            }
        }
        places >= placeless
    }

    /// The first frame of the zspage that has objects and is not busy.
    fn first_frame(&self, z: ZspageIndex, work: &Work) -> Option<usize> {
        let shape = self.heap.geometry.class(work.index);
        (0..shape.chain()).find(|&f| self.heap.zspage(z).touching(f) > 0 && !work.busy.contains(&(z, f)))
    }

    /// The zspage with the fewest objects a frame of the emptiest group, if it can be emptied.
    fn choose_zspage(&self, class: &Class, work: &Work, pass: &Pass) -> Option<Goal> {
        let density = |z: ZspageIndex| self.heap.zspage(z).inuse() * 1024 / self.heap.zspage(z).frames();
        self.among(class, work, Group::partly_filled().rev(), |candidates| {
            candidates
                .filter(|&z| !work.is_busy(z))
                .min_by_key(|&z| density(z))
                .filter(|&z| self.can_empty(class, z, work, pass))
                .and_then(|z| Some(Goal::Empty((z, self.first_frame(z, work)?))))
        })
    }

    /// How to pack the zspage, if that wins a frame.
    fn pack_of(&self, z: ZspageIndex, work: &Work, pass: &Pass) -> Option<Goal> {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(work.index));
        let keep = shape.frames_from_start(zspage.inuse());
        let possible = pass.may_back || (0..keep).all(|f| zspage.touching(f) > 0);
        if zspage.frames() <= keep || !possible || work.is_busy(z) {
            return None;
        }
        let last = (keep..shape.chain()).rev().find(|&f| zspage.touching(f) > 0)?;
        Some(Goal::Pack { victim: (z, last), keep })
    }

    fn choose_pack(&self, class: &Class, work: &Work, pass: &Pass) -> Option<Goal> {
        self.among(class, work, Group::partly_filled().rev(), |candidates| {
            let mut goals = candidates.filter_map(|z| self.pack_of(z, work, pass));
            goals.next()
        })
    }

    /// Whether the frame is in use, and its objects have room in reusable slots elsewhere.
    fn can_win(&self, class: &Class, (z, f): Victim, work: &Work) -> bool {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(work.index));
        let touching = zspage.touching(f);
        touching > 0 && (touching + zspage.reusable_touching(shape, f)) as u64 <= class.reusable
    }

    /// The frame that costs the fewest slots, objects to move and reusable slots that go with it, among the first
    /// zspages of the emptiest groups, if its objects have room elsewhere. That prefers neighbours of untouched frames,
    /// whose straddling slots are lost already: else every second frame would go, and halves of straddling slots lie
    /// waste in all that stay.
    fn choose_frame(&self, class: &Class, work: &Work) -> Option<Goal> {
        let shape = self.heap.geometry.class(work.index);
        self.among(class, work, Group::with_room().rev().chain(Group::open().rev()), |candidates| {
            candidates
                .flat_map(|z| (0..shape.chain()).map(move |f| (z, f)))
                .filter(|frame| !work.busy.contains(frame) && self.can_win(class, *frame, work))
                .min_by_key(|&(z, f)| {
                    let (zspage, touching) = (self.heap.zspage(z), self.heap.zspage(z).touching(f));
                    (touching + zspage.reusable_touching(shape, f), touching)
                })
                .map(Goal::Frame)
        })
    }
}
