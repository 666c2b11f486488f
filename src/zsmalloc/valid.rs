//! Checking a pool as a whole, at a quiet point: nobody stores, frees, moves or starts to read meanwhile.

use super::cells::Cells;
use super::entry::{Entry, State};
use super::fullness::Group;
use super::geometry::ClassIndex;
use super::heap::{Class, Spot};
use super::pool::Pool;
use super::share::Shares;
use super::zspage::ZspageIndex;
use crate::memcg::{Bytes4, GroupIndex, ObjcgId, Tree};
use crate::sync::atomic::Ordering;
use crate::units::NodeId;
use std::collections::HashMap;

impl<C: Cells> Pool<C> {
    /// Bytes by objcg and node, summed over the objects: what the memcg tree's counters must say.
    fn sums(&self, len_of: impl Fn(&Spot, Entry) -> usize) -> HashMap<(ObjcgId, NodeId), Bytes4> {
        let mut sums: HashMap<_, Bytes4> = HashMap::new();
        self.for_each_slot(|spot, entry, _| {
            let owes = match entry.state() {
                State::Live => true,
                State::Doomed => entry.owes().is_some(),
                State::Free | State::Reserved => false,
            };
            if owes && !entry.objcg().is_none() {
                let shares = Shares::of(&self.heap, spot, len_of(spot, entry), self.original);
                for (node, bytes) in shares.iter() {
                    *sums.entry((entry.objcg(), node)).or_default() += bytes;
                }
            }
        });
        sums
    }

    /// Check a zspage against Z1 to Z5 and return the frames it touches.
    fn check_zspage(&self, z: ZspageIndex, index: ClassIndex, node: NodeId, group: Group) -> u64 {
        let (zspage, shape) = (self.heap.zspage(z), self.heap.geometry.class(index));
        assert_eq!((zspage.class(), zspage.node()), (index, node), "{z:?} is in the list of its class and node");
        assert_eq!(zspage.group(), group.0, "{z:?} knows the list it is in");
        assert_eq!(group, Group::of(zspage.inuse(), zspage.reusable(), shape), "{z:?} is in the list it belongs to");
        assert!(zspage.array().is_some(), "Z1: {z:?} has entries");
        let (mut touching, mut starting, mut straddling) = (vec![0; shape.chain() + 1], vec![0; shape.chain()], 0u32);
        for slot in 0..shape.slots() {
            let spot = self.heap.spot(z, index, slot);
            // Acquire as in `movable`.
            if Entry::from_raw(self.heap.word(&spot).load(Ordering::Acquire)) != Entry::FREE {
                starting[spot.frame] += 1;
                touching[spot.frame] += 1;
                touching[spot.frame + 1] += usize::from(spot.straddles);
                straddling |= u32::from(spot.straddles) << spot.frame;
            }
        }
        let mut frames = 0;
        for f in 0..shape.chain() {
            assert_eq!(zspage.starting(f), starting[f], "Z1: {z:?} counts the objects that start in frame {f}");
            assert_eq!(zspage.touching(f), touching[f], "Z2: {z:?} counts the objects that touch frame {f}");
            let room = starting[f] - usize::from(straddling >> f & 1 == 1) < shape.inner(f) && touching[f] > 0;
            assert_eq!(zspage.room() >> f & 1 == 1, room, "Z2: {z:?} knows whether frame {f} has room");
            assert_eq!(
                zspage.straddling(f),
                straddling >> f & 1 == 1,
                "Z3: {z:?} knows whether one straddles from {f}"
            );
            let frame = self.heap.frame(z, f);
            assert!(touching[f] == 0 || self.heap.arena.is_backed(frame), "{frame:?} has objects, so it is backed");
            frames += u64::from(touching[f] > 0);
        }
        assert_eq!(zspage.frames() as u64, frames, "Z2: {z:?} counts the frames it touches");
        let inuse: usize = starting.iter().sum();
        assert!(inuse > 0 && inuse == zspage.inuse(), "Z4: {z:?} has objects and counts them");
        assert_eq!(zspage.reusable(), zspage.count_reusable(shape), "Z5: {z:?} counts its reusable slots");
        frames
    }

    /// Check a class and return its zspages, each of which has an array.
    fn check_class(&self, class: &Class, index: ClassIndex, node: NodeId) -> u64 {
        let (mut zspages, mut frames, mut inuse, mut reusable) = (0, 0, 0, 0);
        for group in Group::all() {
            let mut in_group = 0;
            for z in class.lists.iter(&self.heap.zspages, group) {
                frames += self.check_zspage(z, index, node, group);
                in_group += 1;
                inuse += self.heap.zspage(z).inuse() as u64;
                reusable += self.heap.zspage(z).reusable() as u64;
            }
            assert_eq!(class.lists.len(group), in_group, "{index:?} on {node} counts its zspages in {group:?}");
            zspages += u64::from(in_group);
        }
        let counted = (class.zspages, class.frames, class.inuse, class.reusable);
        let found = (zspages, frames, inuse, reusable);
        assert_eq!(counted, found, "{index:?} on {node} counts zspages, frames, slots in use and reusable");
        let size = self.heap.geometry.class(index).size() as u64;
        assert!(class.payload <= class.inuse * size, "{index:?} on {node}: payload fits the slots");
        zspages
    }
}

impl<C: Cells> Pool<C> {
    /// Compare what is counted for every memcg, on each node, with the objects charged to it and to its descendants.
    fn check_counters(&self, tree: &Tree, sums: &HashMap<(ObjcgId, NodeId), Bytes4>) {
        let mut expected: HashMap<GroupIndex, Vec<Bytes4>> = HashMap::new();
        for (&(objcg, node), &bytes) in sums {
            let mut at = tree.get(tree.group_of(objcg));
            while let Some(memcg) = at {
                expected.entry(memcg.index()).or_insert_with(|| vec![Bytes4::default(); tree.nodes()])[node.index()] +=
                    bytes;
                at = memcg.parent();
            }
        }
        for memcg in tree.root().subtree() {
            let none = || vec![Bytes4::default(); tree.nodes()];
            let expected = expected.remove(&memcg.index()).unwrap_or_else(none);
            let charged: u64 = expected.iter().map(|bytes| bytes.compressed).sum();
            let counted = memcg.numa_stat().expect("a memcg of the tree is online at a quiet point");
            assert_eq!(counted, expected, "{} counts its objects' bytes on each node", memcg.path());
            assert_eq!(memcg.usage(), charged, "{} is charged its objects' slots", memcg.path());
        }
    }

    /// Check every invariant of the layer at a quiet point, on which no object is being written:
    ///
    /// - each zspage is in the list of its class, node and fullness, and its counts are what its entries say (Z1 to
    ///   Z5);
    /// - frames are backed where objects lie, arrays of entries are there where objects start (E1 to E4);
    /// - every live object is what its owner's cell names, unless a guard holds it; the cells hold what they promise
    ///   ([`Cells::assert_valid`]);
    /// - payload per class is exact, and so is what every memcg is charged and counted for on every node, if the tree
    ///   serves this pool alone.
    ///
    /// # Panics
    /// When one does not hold, with a sentence that says which.
    ///
    /// # Locks
    /// Takes `Class`, `Entries` and `Arena`, one after the other.
    pub fn assert_valid(&self) {
        let mut arrays = 0;
        for (index, _) in self.heap.geometry.classes() {
            for node in self.heap.arena.topology().nodes() {
                arrays += self.check_class(&self.heap.lock(index, node), index, node);
            }
        }
        self.heap.entries.assert_valid(arrays);

        let len_of = |spot: &Spot, entry: Entry| {
            let named = || panic!("{entry:?} is at {:?} and its owner's cell names something else", spot.location);
            self.len_of(spot, entry).unwrap_or_else(named)
        };
        let mut objects = 0;
        let mut payload: HashMap<(ClassIndex, NodeId), u64> = HashMap::new();
        self.for_each_slot(|spot, entry, node| {
            assert_ne!(entry.state(), State::Reserved, "nobody writes an object at a quiet point");
            objects += u64::from(entry.state() == State::Live);
            if entry.state() != State::Free {
                *payload.entry((spot.class, node)).or_default() += len_of(spot, entry) as u64;
            }
        });
        for (index, _) in self.heap.geometry.classes() {
            for node in self.heap.arena.topology().nodes() {
                let found = payload.get(&(index, node)).copied().unwrap_or(0);
                assert_eq!(self.heap.lock(index, node).payload, found, "payload of {index:?} on {node}");
            }
        }
        if let Some(tree) = &self.accounting {
            self.check_counters(tree, &self.sums(len_of));
        }
        self.cells.assert_valid(objects);
        self.heap.arena.assert_valid();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::handle::Handle;
    use super::super::zspage::Zspage;
    use super::*;
    use crate::memcg::{Memcg, TreeConfig};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A pool with ten objects of 3000 bytes for `vm`, the third of which is gone.
    fn pool() -> (Pool, Memcg, Vec<Handle>) {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let pool = Pool::builder().limit(16 << 20).accounting(tree).build().unwrap();
        let mut handles: Vec<_> = (0..10).map(|_| pool.insert_for(Some(&vm), NodeId(0), &[7; 3000]).unwrap()).collect();
        pool.remove(handles.remove(2)).unwrap();
        pool.assert_valid();
        (pool, vm, handles)
    }

    /// The class of the objects, and a zspage of it with a free slot.
    fn class_of(pool: &Pool) -> (ClassIndex, ZspageIndex) {
        let index = pool.heap.geometry.class_of(3000).unwrap();
        let class = pool.heap.lock(index, NodeId(0));
        let z = Group::partly_filled().find_map(|group| class.lists.head(group)).unwrap();
        (index, z)
    }

    fn on_class(pool: &Pool, change: impl FnOnce(&mut Class)) {
        change(&mut pool.heap.lock(class_of(pool).0, NodeId(0)));
    }

    fn on_zspage(pool: &Pool, change: impl FnOnce(&Zspage)) {
        change(pool.heap.zspage(class_of(pool).1));
    }

    #[test]
    fn each_damage_is_found_and_named() {
        type Damage = fn(&Pool, &Memcg);
        let damages: [(&str, Damage); 15] = [
            ("counts zspages, frames, slots", |pool, _| on_class(pool, |class| class.zspages += 1)),
            ("counts zspages, frames, slots", |pool, _| on_class(pool, |class| class.inuse += 1)),
            ("counts zspages, frames, slots", |pool, _| on_class(pool, |class| class.reusable += 1)),
            ("counts zspages, frames, slots", |pool, _| on_class(pool, |class| class.frames += 1)),
            ("payload of", |pool, _| on_class(pool, |class| class.payload += 1)),
            ("payload fits the slots", |pool, _| on_class(pool, |class| class.payload += 1 << 20)),
            ("is in the list of its class and node", |pool, _| {
                on_zspage(pool, |zspage| zspage.set_class(zspage.class(), NodeId(1)));
            }),
            ("knows the list it is in", |pool, _| on_zspage(pool, |zspage| zspage.set_group(0))),
            ("Z1:", |pool, _| on_zspage(pool, |zspage| zspage.set_array(None))),
            ("Z5: ", |pool, _| {
                on_zspage(pool, |zspage| zspage.set_reusable(zspage.reusable() + 1));
            }),
            ("counts the objects that start in frame 0|is in the list it belongs to", |pool, _| {
                let shape = pool.heap.geometry.class(class_of(pool).0);
                on_zspage(pool, |zspage| _ = zspage.count_out(shape, 0, false));
            }),
            ("C2: a cell is free, retired or used", |pool, _| _ = pool.cells.take()),
            ("its owner's cell names something else", |pool, _| {
                let mut owner = None;
                pool.for_each_object(|object| owner = Some((object.owner, object.location)));
                let (owner, from) = owner.unwrap();
                assert!(pool.cells.relocate(owner, from, crate::units::Location::from_raw(from.raw() ^ 1)));
            }),
            ("is charged its objects' slots", |_, vm| {
                vm.objcg().unwrap().try_charge(1).unwrap();
            }),
            ("counts its objects' bytes on each node", |_, vm| {
                let bytes = Bytes4 { payload: 1, ..Bytes4::default() };
                vm.tree().enter(vm, NodeId(0), bytes, None).unwrap();
            }),
        ];
        for (expected, damage) in damages {
            let (pool, vm, handles) = pool();
            damage(&pool, &vm);
            let panic = catch_unwind(AssertUnwindSafe(|| pool.assert_valid())).expect_err(expected);
            let found = panic.downcast_ref::<String>().expect("a sentence with numbers in it");
            assert!(expected.split('|').any(|one| found.contains(one)), "{expected:?} was wanted: {found:?}");
            std::mem::forget((pool, vm, handles)); // nothing of it can be relied on
        }
    }

    #[test]
    fn an_object_is_shown_as_it_is() {
        let (pool, vm, handles) = pool();
        let guard = pool.get(handles[0]).unwrap();
        let (mut pins, mut objects) = (0, 0);
        pool.for_each_object(|object| {
            pins += object.pins;
            objects += 1;
            assert_eq!((object.objcg, object.slot_bytes), (vm.objcg().unwrap().id(), 3008));
            assert_eq!(object.home_node, NodeId(0));
        });
        assert_eq!((pins, objects), (1, 9));
        drop(guard);
    }
}
