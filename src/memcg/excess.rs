//! Excess: which memcgs are above their marks, for a worker who brings them back below.
//!
//! ```text
//! charge ends above the mark --\                        /-- off the stack, flag cleared, then the worker looks
//!                               > flag set? else stack -<
//! limit set below the usage ---/        | push          \-- what is charged after that finds the flag clear: noted again
//!                                       v
//!                                   alarm rings
//! ```
//!
//! Invariants:
//! - **E1** A group is on the stack once at most: who turns its flag from 0 to 1 pushes it, and who takes it off turns the
//!   flag back after reading the link.
//! - **E2** No excess is missed: a charger changes the usage and then the flag, the taker changes the flag and then looks at
//!   the usage. One change of the flag is first; the second sees what came before it.
//! - **E3** The note is of an index, not of a memcg: one that has another memcg by now is given out for that, which then
//!   has no excess.
//!
//! The cost is by what is noted, whatever the size of the tree.

use super::counter::Counter;
use super::handle::Memcg;
use super::id::{GroupIndex, GroupRef, ObjcgId};
use super::objcg::push;
use super::tree::{Shared, Tree};
use crate::sync::atomic::Ordering;
use crate::sync::{Alarm, Bug};

impl Shared {
    /// Put a group on the stack and ring, unless it is there. Atomics only.
    pub(super) fn note_excess(&self, index: GroupIndex) {
        let group = self.group(index);
        // AcqRel, here and in `take_excess`: E2.
        if group.noted.swap(1, Ordering::AcqRel) == 0 {
            push(&self.noted, index.0 + 1, &group.next_noted);
            self.on_excess.ring();
        }
    }

    /// After a charge that was notable somewhere on the way from `start`: raise peaks and note who is above its mark, from where
    /// the objcg points now, as an uncharge would go: every group that was charged and is still online is on that way.
    /// What is looked at is each group's own usage and mark, so that a look at one that was recycled does no harm.
    #[cold]
    pub(super) fn notice(&self, id: ObjcgId, start: GroupRef, what: &[Counter]) {
        let trusts = self.config.planted.is(Bug::NoticeTrustsStart);
        'pointer: loop {
            let mut at = if trusts { start } else { self.objcgs.group(id) };
            loop {
                let group = self.group(at.index());
                let parent = group.parent(); // before the generation is proved, by G2
                for &counter in what {
                    let words = group.of(counter);
                    words.raise_peak();
                    if words.excess() > 0 {
                        self.note_excess(at.index());
                    }
                }
                if group.of(what[0]).life() != at.generation() && !trusts {
                    continue 'pointer;
                }
                if at.depth() == 0 || parent.depth() >= at.depth() && trusts {
                    return;
                }
                at = parent;
            }
        }
    }
}

/// Groups taken off the stack. What is left of them when this is dropped goes back.
struct Noted<'a> {
    shared: &'a Shared,
    /// Index + 1 of the next, or 0.
    top: u32,
}

impl Noted<'_> {
    fn pop(&mut self) -> Option<GroupIndex> {
        let index = GroupIndex(self.top.checked_sub(1)?);
        // Relaxed: taking the stack acquired it.
        self.top = self.shared.group(index).next_noted.load(Ordering::Relaxed);
        Some(index)
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        while let Some(index) = self.pop() {
            push(&self.shared.noted, index.0 + 1, &self.shared.group(index).next_noted);
            self.shared.on_excess.ring();
        }
    }
}

impl Tree {
    /// Rung when a memcg is noted: [answer](Alarm::answer) it and [take](Self::take_excess) what was noted. Who charges may
    /// look at it afterwards, as with the other alarms, and kick whoever attends.
    pub fn on_excess(&self) -> &Alarm {
        &self.shared().on_excess
    }

    /// Give each memcg that was noted to `look`: once for all notes until then, and again for what comes after. It may have
    /// no [excess](Memcg::excess) any more. Costs by their number. Lock-free, but for what `look` does.
    pub fn take_excess(&self, mut look: impl FnMut(Memcg)) {
        let shared = self.shared();
        // Acquire pairs with the release of every push, as in `objcg::take`.
        let mut noted = Noted { shared, top: shared.noted.swap(0, Ordering::AcqRel) };
        let late = shared.config.planted.is(Bug::ExcessClearedLate);
        while let Some(index) = noted.pop() {
            let group = shared.group(index);
            let clear = || {
                group.noted.swap(0, Ordering::AcqRel);
            };
            if !late {
                clear();
            }
            if group.hold_any() {
                let memcg = Memcg::adopt(self.clone(), group.me());
                if memcg.is_online() {
                    look(memcg);
                }
            }
            if late {
                clear();
            }
        }
    }
}

impl Memcg {
    /// How many bytes it is above its mark, and in which counter: the one that is furthest. The mark of
    /// [`Counter::Zswap`] lies a 64th of the limit, at most 256 KiB, below it; that of [`Counter::Memory`] as far below
    /// its limit, or at `memory.high` if that is lower; [`Counter::Swap`] has none.
    ///
    /// What threads hold in stock is recalled, if it makes a difference: not for the handler of a signal or a fault.
    pub fn excess(&self) -> Option<(Counter, u64)> {
        if !self.is_online() {
            return None;
        }
        let furthest = || {
            let all = Counter::ALL.map(|counter| (counter, self.words().of(counter).excess()));
            all.into_iter().filter(|&(_, bytes)| bytes > 0).max_by_key(|&(_, bytes)| bytes)
        };
        furthest()?;
        self.shared().recall();
        furthest()
    }
}
