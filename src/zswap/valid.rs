//! [`Zswap::assert_valid`]: everything adds up to the byte.

use super::core::{Core, Zswap};
use super::lru::Which;
use crate::memcg::{Bytes4, Counter, GroupRef, ObjcgId};
use crate::swap::Content;
use crate::units::{Owner, PAGE_SIZE};
use std::collections::HashMap;

impl Zswap {
    /// Check every invariant of every layer at a quiet point: no operation may be under way. The worker is waited for, and kept
    /// from what it would do now and then.
    ///
    /// # Locks
    /// The worker's mailbox, before all others.
    ///
    /// # Panics
    /// With a sentence, when one is broken.
    pub fn assert_valid(&self) {
        match self.worker {
            Some(_) => self.core.kick.while_idle(|| self.core.assert_valid()),
            None => self.core.assert_valid(),
        }
    }
}

impl Core {
    pub(super) fn assert_valid(&self) {
        self.slots.assert_valid();
        self.arena.assert_valid();
        self.pool.assert_valid();
        self.tree.assert_valid();
        assert!(self.inflight.is_empty(), "no flight is under way at a quiet point");

        let mut entries: HashMap<Owner, (Which, ObjcgId)> = HashMap::new();
        let (mut same, mut patterns, mut compressed, mut raw, mut physical, mut lost) = (0, 0, 0, 0, 0, 0);
        let (mut places, mut paid) = (HashMap::new(), HashMap::<GroupRef, u64>::new());
        self.slots.for_each(|slot, owner, word| {
            assert!(!word.writeback(), "{slot:?} has its writeback bit set with no flight under way");
            match word.content() {
                Content::Empty => unreachable!("only slots that hold something are shown"),
                Content::SameFilled(_) => same += 1,
                Content::Pattern(_) => patterns += 1,
                Content::Compressed(entry) if entry.is_raw() => raw += 1,
                Content::Compressed(_) => compressed += 1,
                Content::Lost(_) => lost += 1,
                Content::Physical(place) => {
                    physical += 1;
                    let other = places.insert((place.device, place.block), (owner, place));
                    assert!(other.is_none(), "two slots name the block {place:?}");
                }
            }
            if let Some(entry) = word.entry() {
                let objcg =
                    self.pool.objcg_at(owner, entry.location).expect("the word names a live object of its slot");
                entries.insert(owner, (self.which_list(entry), objcg));
            }
        });
        let c = &self.counters;
        assert_eq!(
            [&c.same_filled, &c.patterns, &c.compressed, &c.incompressible, &c.physical, &c.lost]
                .map(|gauge| gauge.get()),
            [same, patterns, compressed, raw, physical, lost],
            "the gauges count the slots by what they hold"
        );
        assert_eq!(self.pool.stats().objects, entries.len() as u64, "every object of the pool belongs to a slot");
        self.devices.assert_valid();
        for device in self.devices.iter() {
            device.for_each(|place, tenant| {
                let named = places.remove(&(place.device, place.block));
                assert_eq!(named, Some((tenant.owner, place)), "the slot of a reverse word names its place");
                let payer = ObjcgId::from_raw(tenant.payer);
                assert!(!payer.is_none(), "S1: nobody pays for {place:?}");
                *paid.entry(self.tree.group_of(payer)).or_default() += place.len_bytes() as u64;
            });
        }
        assert!(places.is_empty(), "every place that a slot names has a reverse word: {places:?}");

        self.assert_places_valid(paid);
        let mut listed = 0;
        for memcg in self.tree.root().subtree() {
            for node in self.all_nodes().iter() {
                let before = listed;
                for which in Which::of(node) {
                    self.lru.for_each(memcg.group(), which, |owner| {
                        let (home, objcg) = entries.get(&owner).expect("L1: entries on a list have an object");
                        assert_eq!(*home, which, "L1: an entry is on the list of its object's home node and its kind");
                        assert!(self.tree.is_current(*objcg, memcg.group()), "L1: an entry is on its own memcg's list");
                        listed += 1;
                    });
                }
                let on_node = (listed - before) as u64;
                assert_eq!(self.lru.len(memcg.group(), node), on_node, "a list's length counts its entries");
            }
        }
        assert_eq!(listed, entries.len(), "L1: every entry with an object is on one list");

        // The pool has checked every objcg and node against its objects; here, the hierarchy's sum and the limit's count.
        let (root, pool) = (self.tree.root(), self.pool.stats());
        let bytes = root.stat().expect("the root is online").bytes;
        assert_eq!(
            bytes,
            Bytes4 {
                compressed: pool.slot_bytes,
                original: pool.objects * PAGE_SIZE as u64,
                payload: pool.payload_bytes,
                incompressible: raw * PAGE_SIZE as u64,
            },
            "the root's counters are the sum over all objects"
        );
        assert_eq!(root.usage(), bytes.compressed, "what is charged is what lies in the pool");
    }

    /// Check S1: every memcg is charged the places of its slots and of those below it.
    fn assert_places_valid(&self, mut paid: HashMap<GroupRef, u64>) {
        let subtree = self.tree.root().subtree();
        // In pre-order, descendants come after their ancestors.
        for memcg in subtree.iter().rev() {
            let bytes = paid.remove(&memcg.group()).unwrap_or_default();
            assert_eq!(memcg.current(Counter::Swap), bytes, "S1: {} is charged its places", memcg.path());
            if let Some(parent) = memcg.parent() {
                *paid.entry(parent.group()).or_default() += bytes;
            }
        }
        assert!(paid.is_empty(), "S1: a removed memcg pays for places: {paid:?}");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memcg::Memcg;
    use crate::swap::{DeviceOptions, MemoryDevice};
    use crate::units::{NodeId, Page, SlotRange};
    use crate::zswap::Shrunk;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Twenty pages, some of which were written to a device.
    fn scene() -> (Zswap, Memcg, SlotRange) {
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).pool_limit(8 << 20).worker(false);
        let zswap = builder.build().unwrap();
        zswap.swapon(DeviceOptions::device(MemoryDevice::new(1 << 20, 4096))).unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(20).unwrap();
        for (k, slot) in slots.iter().enumerate() {
            let mut page = Page::zeroed();
            page[..64].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * (k + 3)) as u8);
            zswap.store(slot, &vm, NodeId(0), &page).unwrap();
        }
        while zswap.stats().physical_pages < 5 {
            assert_ne!(zswap.shrink_memcg(&vm, 5), Shrunk::NothingToScan);
        }
        zswap.assert_valid();
        (zswap, vm, slots)
    }

    /// Some slot whose page is in the pool, and its object's list and objcg.
    fn an_entry(core: &Core) -> (Owner, Which, ObjcgId) {
        let mut found = None;
        core.slots.for_each(|_, owner, word| {
            if let Some(entry) = word.entry() {
                found = Some((owner, core.which_list(entry), core.pool.objcg_at(owner, entry.location).unwrap()));
            }
        });
        found.expect("some pages are in the pool")
    }

    #[test]
    fn each_damage_is_found_and_named() {
        type Damage = fn(&Core, &Memcg);
        let damages: [(&str, Damage); 6] = [
            ("the gauges count the slots", |core, _| _ = core.counters.same_filled.add(1)),
            ("the gauges count the slots", |core, _| core.counters.physical.sub(1)),
            ("S1: /vm is charged its places", |core, vm| {
                core.tree.charge(vm.objcg().unwrap().id(), Counter::Swap, 4096).unwrap();
            }),
            ("L1: every entry with an object is on one list", |core, _| {
                let (owner, which, objcg) = an_entry(core);
                core.lru.del(owner, &core.tree, objcg, which);
            }),
            ("L1: an entry is on its own memcg's list", |core, _| {
                let (owner, which, objcg) = an_entry(core);
                core.lru.del(owner, &core.tree, objcg, which);
                core.lru.prepare(core.tree.root().group());
                let other = core.tree.root().objcg().unwrap();
                core.lru.add(owner, &core.tree, other.id(), which);
            }),
            ("is charged its objects' slots", |_, vm| vm.objcg().unwrap().try_charge(1).unwrap()),
        ];
        for (expected, damage) in damages {
            let (zswap, vm, slots) = scene();
            damage(&zswap.core, &vm);
            let panic = catch_unwind(AssertUnwindSafe(|| zswap.assert_valid())).expect_err(expected);
            let text = panic.downcast_ref::<String>().cloned();
            let found = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap();
            assert!(found.contains(expected), "{expected:?} was wanted: {found:?}");
            std::mem::forget((zswap, vm, slots)); // nothing of it can be relied on
        }
    }
}
