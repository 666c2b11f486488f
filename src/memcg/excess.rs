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

use super::counter::{Counter, margin};
use super::handle::Memcg;
use super::id::{GroupIndex, GroupRef, ObjcgId};
use super::tree::{Shared, Tree};
use crate::sync::atomic::Ordering;
use crate::sync::{Alarm, Bug};

impl Shared {
    /// Put a group on the stack and ring, unless it is there. Atomics only.
    pub(super) fn note_excess(&self, index: GroupIndex) {
        let group = self.group(index);
        // AcqRel, here and in `take_excess`: E2.
        if group.noted.swap(1, Ordering::AcqRel) == 0 {
            self.noted.push(index.0 + 1, &group.next_noted);
            self.on_excess.ring();
        }
    }

    /// After a charge that was notable somewhere on the way from `start`: raise peaks and note who is above its mark, from
    /// where the objcg points now, as an uncharge would go: every group that was charged and is still online is on that way.
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
struct Noted<'a, I: Iterator<Item = GroupIndex>> {
    shared: &'a Shared,
    left: I,
}

impl<I: Iterator<Item = GroupIndex>> Drop for Noted<'_, I> {
    fn drop(&mut self) {
        for index in self.left.by_ref() {
            self.shared.noted.push(index.0 + 1, &self.shared.group(index).next_noted);
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
        let group = |item: u32| GroupIndex(item - 1);
        let left = shared.noted.take(|item| &shared.group(group(item)).next_noted).map(group);
        let mut noted = Noted { shared, left };
        let late = shared.config.planted.is(Bug::ExcessClearedLate);
        for index in noted.left.by_ref() {
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

    /// Whether a charge of `bytes` more as this counter would bring some memcg from the objcg's up to the root above its mark:
    /// its `memory.high`, or a 64th below its limit (at most 256 KiB). A hint: nothing is reserved, and bytes in stock are
    /// taken for charged. Lock-free; a few loads per level.
    #[inline]
    pub fn would_pass_mark(&self, id: ObjcgId, counter: Counter, bytes: u64) -> bool {
        let shared = self.shared();
        let mut at = shared.objcgs.group(id);
        loop {
            let group = shared.group(at.index());
            let words = group.of(counter);
            if words.usage().saturating_add(bytes) > words.mark() {
                return true;
            }
            if at.depth() == 0 {
                return false;
            }
            at = group.parent();
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

    /// Bytes charged above its mark, and how far below the mark it should be brought so that the next charge does not pass it
    /// again: as far as the mark lies below a limit. A hint: bytes in stock are taken for charged. Lock-free.
    pub fn above_mark(&self, counter: Counter) -> (u64, u64) {
        let words = self.words().of(counter);
        let mark = words.mark();
        (words.usage().saturating_sub(mark), margin(mark))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::TreeConfig;
    use super::*;
    use crate::sync::Planted;

    fn taken(tree: &Tree) -> Vec<String> {
        let mut taken = Vec::new();
        tree.take_excess(|memcg| taken.push(memcg.path()));
        taken.sort();
        taken
    }

    #[test]
    fn a_memcg_above_its_mark_is_noted_once_and_says_by_how_much() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let high = 100 << 10;
        assert!(tree.on_excess().attend());
        tree.on_excess().answer(Planted::NONE, || ());
        vm.set_high(high).unwrap();
        let at_the_mark = vm.charge_resident(high).unwrap();
        assert_eq!((vm.excess(), taken(&tree)), (None, vec![]));
        assert!(!tree.on_excess().is_rung());
        let above = [1, 4096].map(|bytes| vm.charge_resident(bytes).unwrap());
        assert!(tree.on_excess().is_rung());
        tree.on_excess().answer(Planted::NONE, || ());
        assert_eq!(vm.excess(), Some((Counter::Memory, 4097)));
        assert_eq!((taken(&tree), taken(&tree)), (vec!["/vm".to_owned()], vec![]));
        // Noted again by what comes after, and by a limit: of two counters above their marks the one that is further says how
        // far.
        vm.set_zswap_max(1 << 20).unwrap();
        let objcg = vm.objcg().unwrap();
        objcg.try_charge(1 << 20).unwrap();
        let mark = Counter::Zswap.mark(1 << 20, high);
        assert!(vm.excess() == Some((Counter::Memory, (1 << 20) + 4097)) && mark < 1 << 20);
        vm.set_high(u64::MAX).unwrap();
        assert_eq!(vm.excess(), Some((Counter::Zswap, (1 << 20) - mark)));
        assert_eq!(taken(&tree), ["/vm"]);
        objcg.uncharge(1 << 20);
        drop((at_the_mark, above, objcg));
        vm.offline().unwrap();
        assert_eq!(vm.excess(), None);
    }

    #[test]
    fn a_limit_set_to_the_usage_notes_nobody_where_no_mark_is_passed() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let _resident = vm.charge_resident(64 << 10).unwrap();
        vm.set_high(64 << 10).unwrap();
        assert_eq!(taken(&tree), Vec::<String>::new());
        vm.set_high((64 << 10) - 1).unwrap();
        assert_eq!(taken(&tree), ["/vm"]);
    }

    #[test]
    fn what_a_look_that_panics_leaves_is_noted_still() {
        let tree = Tree::new(TreeConfig::default());
        let vms = ["a", "b", "c"].map(|name| tree.root().mkdir(name).unwrap());
        let _resident = vms.each_ref().map(|vm| {
            vm.set_high(4096).unwrap();
            vm.charge_resident(8192).unwrap()
        });
        assert!(tree.on_excess().attend());
        tree.on_excess().answer(Planted::NONE, || ());
        let mut first = None;
        let look = std::panic::AssertUnwindSafe(|| {
            tree.take_excess(|memcg| {
                first = Some(memcg.path());
                panic!("the first look fails");
            });
        });
        std::panic::catch_unwind(look).unwrap_err();
        assert!(tree.on_excess().is_rung(), "there is more to look at");
        let mut all = taken(&tree);
        all.extend(first);
        all.sort();
        assert_eq!(all, ["/a", "/b", "/c"]);
        assert_eq!(taken(&tree), Vec::<String>::new());
    }

    #[test]
    fn a_memcg_that_went_is_not_given_out() {
        let tree = Tree::new(TreeConfig::default());
        let [kept, gone] = ["kept", "gone"].map(|name| tree.root().mkdir(name).unwrap());
        for vm in [&kept, &gone] {
            vm.set_high(0).unwrap();
            drop(vm.charge_resident(1).unwrap());
        }
        kept.offline().unwrap(); // a handle keeps its group
        gone.offline().unwrap();
        drop(gone);
        assert_eq!(taken(&tree), Vec::<String>::new());
        tree.assert_valid();
    }

    #[test]
    fn a_mark_is_seen_before_it_is_passed() {
        let tree = Tree::new(TreeConfig::default());
        let group = tree.root().mkdir("group").unwrap();
        let vm = group.mkdir("vm").unwrap();
        let id = vm.objcg().unwrap().id();
        let would = |bytes| tree.would_pass_mark(id, Counter::Memory, bytes);
        assert!(!would(1 << 40));
        group.set_max(Counter::Memory, 1 << 20).unwrap();
        let mark = (1 << 20) - (1 << 14);
        assert!(!would(mark) && would(mark + 1));
        vm.set_high(4096).unwrap();
        assert!(!would(4096) && would(4097));
    }
}
