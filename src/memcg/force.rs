//! Charging past limits, for what must be served although nothing can be evicted: a fault on memory that a guest has already.
//!
//! ```text
//!            usage                        charge         charge_anyway
//!   root     no limit                      +              +
//!    group   ######################|####   refused        + , 4 of these bytes are overshoot of the group    first passed: its event
//!     vm     ##########|                                  +
//! ```
//!
//! **G1 here**: `usage` passes a limit by this alone, and by how much it did is added up where it did. Nothing is ever rolled
//! back, so who is refused meanwhile is refused rightly. A step that finds another generation than it came for begins again
//! from where the objcg points then, as any charge: what it had charged below went with the groups there.
//!
//! Who calls it: `guest::limits`, once eviction has brought nothing.

use super::counter::Counter;
use super::event::MemcgEvent;
use super::handle::Memcg;
use super::id::{GroupRef, ObjcgId};
use super::tree::Tree;

/// Some memcg was charged past a limit of its own, because what was charged could not be refused.
#[derive(Clone, Debug)]
pub struct PastLimit {
    /// The memcg: the lowest whose limit was passed.
    pub memcg: Memcg,
    /// Bytes charged to it now.
    pub usage: u64,
    /// Its limit in bytes.
    pub limit: u64,
    /// How many of the bytes asked for lie above it.
    pub bytes: u64,
}

impl Tree {
    /// [`charge`](Self::charge) without asking limits. Where one is passed, the lowest such memcg is returned, its
    /// [`MemcgEvent::Overshoot`] counted, and the bytes added to the [overshoot](Memcg::overshoot) of each that was passed.
    /// Lock-free; neither allocates nor frees.
    ///
    /// # Panics
    /// When a memcg would be charged more than [`MAX_USAGE`](super::MAX_USAGE).
    pub fn charge_anyway(&self, id: ObjcgId, counter: Counter, bytes: u64) -> Option<PastLimit> {
        let (shared, what) = (self.shared(), counter.charged());
        let (start, passed, notable) = 'pointer: loop {
            let start = shared.objcgs.group(id);
            let (mut at, mut passed, mut notable) = (start, None::<(GroupRef, u64, u64, u64)>, false);
            loop {
                let group = shared.group(at.index());
                let parent = group.parent(); // before `force` proves the generation, by G2
                for &counter in what {
                    let Some(forced) = group.of(counter).force(at.generation(), bytes, shared.config.planted) else {
                        continue 'pointer;
                    };
                    notable |= forced.notable;
                    let over = forced.usage.saturating_sub(forced.limit).min(bytes);
                    if over > 0 {
                        group.overshoot.add(over);
                        passed = passed.or(Some((at, forced.usage, forced.limit, over)));
                    }
                }
                if at.depth() == 0 {
                    break 'pointer (start, passed, notable);
                }
                at = parent;
            }
        };
        shared.objcgs.hold_bytes(id, counter, bytes);
        if notable {
            shared.notice(id, start, what);
        }
        let (at, usage, limit, bytes) = passed?;
        // Removed since: then the limit is gone, and nobody is above it.
        let memcg = self.get(at)?;
        memcg.note(MemcgEvent::Overshoot);
        Some(PastLimit { memcg, usage, limit, bytes })
    }
}

impl Memcg {
    /// Bytes by which charges that could not be refused have passed its limits, added up since it was made. Lock-free.
    pub fn overshoot(&self) -> u64 {
        self.words().overshoot.get()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{MemcgEvent, Tree, TreeConfig};
    use super::*;

    #[test]
    fn a_forced_charge_is_counted_where_a_limit_is_passed_and_taken_back_as_any_other() {
        let tree = Tree::new(TreeConfig::default());
        let group = tree.root().mkdir("group").unwrap();
        let vm = group.mkdir("vm").unwrap();
        group.set_max(Counter::Memory, 10_000).unwrap();
        let id = vm.objcg().unwrap();
        assert!(tree.charge_anyway(id.id(), Counter::Memory, 8192).is_none(), "below the limit");
        let past = tree.charge_anyway(id.id(), Counter::Memory, 4096).unwrap();
        assert_eq!((past.memcg, past.usage, past.limit, past.bytes), (group.clone(), 12_288, 10_000, 2288));
        let past = tree.charge_anyway(id.id(), Counter::Memory, 4096).unwrap();
        assert_eq!(past.bytes, 4096, "all of it is above");
        assert_eq!([&vm, &group, &tree.root()].map(Memcg::overshoot), [0, 2288 + 4096, 0]);
        let counts = [&vm, &group, &tree.root()].map(|memcg| memcg.events(MemcgEvent::Overshoot));
        assert_eq!(counts, [0, 2, 2]);
        assert_eq!(group.local_events(MemcgEvent::Max), 0, "nothing was refused");
        tree.assert_valid();
        assert!(tree.charge(id.id(), Counter::Memory, 1).is_err(), "who may be refused is");
        tree.uncharge(id.id(), Counter::Memory, 16_384);
        assert_eq!(tree.root().current(Counter::Memory), 0);
        tree.assert_valid();
    }

    #[test]
    fn a_forced_charge_outlives_its_memcg() {
        let tree = Tree::new(TreeConfig::default());
        let group = tree.root().mkdir("group").unwrap();
        let vm = group.mkdir("vm").unwrap();
        let id = vm.objcg().unwrap();
        vm.set_max(Counter::Memory, 0).unwrap();
        assert_eq!(tree.charge_anyway(id.id(), Counter::Memory, 4096).unwrap().memcg, vm);
        vm.offline().unwrap();
        assert!(tree.charge_anyway(id.id(), Counter::Memory, 4096).is_none(), "the limit went with its memcg");
        assert_eq!(group.current(Counter::Memory), 8192);
        tree.uncharge(id.id(), Counter::Memory, 8192);
        assert_eq!(group.current(Counter::Memory), 0);
    }

    #[test]
    fn a_forced_charge_past_the_mark_is_noted_and_is_a_peak() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_max(Counter::Memory, 4096).unwrap();
        let id = vm.objcg().unwrap();
        tree.charge_anyway(id.id(), Counter::Memory, 8192);
        let mut noted = Vec::new();
        tree.take_excess(|memcg| noted.push(memcg.path()));
        assert_eq!(noted, ["/vm"]);
        tree.uncharge(id.id(), Counter::Memory, 8192);
        assert_eq!(vm.peak(Counter::Memory), 8192);
    }
}
