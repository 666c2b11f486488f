use super::super::{Content, Entry};
use super::*;
use crate::units::Location;

fn same(word: u64) -> SlotWord {
    SlotWord::new(Content::SameFilled(word)).unwrap()
}

#[test]
fn ranges_are_never_handed_out_twice_and_share_no_cluster() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let a = slots.reserve(1).unwrap();
    let b = slots.reserve(1000).unwrap();
    assert_eq!(b.base().0 / CLUSTER_SLOTS as u64, a.base().0 / CLUSTER_SLOTS as u64 + 1);
    assert!(slots.reserve(0).is_err());
    assert!(slots.reserve(u64::MAX).is_err());
    assert!(slots.reserve(1 << 62).is_ok());
    assert!(slots.reserve(1 << 62).is_err(), "the numbers are used up");
}

#[test]
fn touched_clusters_cost_and_empty_ones_are_reaped() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let range = slots.reserve(1 << 40).unwrap();
    let far: Vec<Slot> = (0..100).map(|k| range.get(k << 33).unwrap()).collect();
    for (k, &slot) in far.iter().enumerate() {
        slots.lock_or_make(slot).unwrap().put(entry(k as u64));
    }
    assert_eq!(slots.touched(), 100);
    slots.assert_valid();
    for (k, &slot) in far.iter().enumerate() {
        assert_eq!(slots.lock(slot).unwrap().take(), entry(k as u64));
    }
    let mut emptied = Vec::new();
    assert_eq!(slots.tidy(|owners| emptied.push(owners)), 100);
    emptied.sort_by_key(|owners| owners.start);
    let expected: Vec<_> = (0..100).map(|k| k * CLUSTER_SLOTS..(k + 1) * CLUSTER_SLOTS).collect();
    assert_eq!(emptied, expected, "each cluster's owners are given once");
    assert_eq!(slots.touched(), 0);
    assert!(slots.lock(far[3]).is_none());
    slots.lock_or_make(far[3]).unwrap().put(same(1));
    slots.assert_valid();
}

#[test]
fn a_cluster_in_use_again_is_not_reaped() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let slot = slots.reserve(1).unwrap().base();
    let mut guard = slots.lock_or_make(slot).unwrap();
    guard.put(same(1));
    let _ = guard.take();
    guard.put(same(2));
    drop(guard);
    assert_eq!(slots.reap(), 0);
    assert_eq!(slots.lock(slot).unwrap().take(), same(2));
    assert_eq!(slots.reap(), 1);
    slots.assert_valid();
}

#[test]
fn slots_past_the_bound_are_refused_until_some_are_empty() {
    let slots = Slots::new(2 * CLUSTER_SLOTS as u64, Planted::NONE).unwrap();
    let n = CLUSTER_SLOTS as u64;
    let range = slots.reserve(4 * n).unwrap();
    for k in 0..2 {
        slots.lock_or_make(range.get(k * n).unwrap()).unwrap().put(same(k));
    }
    let third = range.get(2 * n).unwrap();
    assert!(matches!(slots.lock_or_make(third), Err(Error::TooManySlots { .. })));
    let _ = slots.lock(range.get(0).unwrap()).unwrap().take();
    slots.lock_or_make(third).unwrap().put(same(3));
    assert_eq!(slots.touched(), 2);
    slots.assert_valid();
}

#[test]
fn references_go_to_the_table_and_back_and_end_with_the_content() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let slot = slots.reserve(1).unwrap().base();
    let mut guard = slots.lock_or_make(slot).unwrap();
    guard.put(same(1));
    for n in 2..=40 {
        assert_eq!((guard.add_reference(), guard.references()), (Some(n), n));
    }
    assert_eq!(guard.switch(same(2)).count(), MANY);
    assert_eq!((guard.references(), guard.word().content()), (40, Content::SameFilled(2)));
    for n in (10..40).rev() {
        assert_eq!((guard.drop_reference(), guard.references()), (n, n));
    }
    (11..=20).for_each(|n| assert_eq!(guard.add_reference(), Some(n)));
    let _ = guard.take();
    guard.put(same(3));
    assert_eq!(guard.references(), 1);
    assert_eq!(guard.drop_reference(), 0);
    assert_eq!(guard.word(), same(3), "who drops the last reference takes what is there");
    drop(guard);
    slots.assert_valid();
    assert_eq!(slots.memory().counts_bytes, 4096);
    assert_eq!(slots.tidy(|_| panic!("there are no links")), 0);
    assert_eq!(slots.memory().counts_bytes, 0);
    slots.assert_valid();
}

#[test]
fn references_end_at_their_limit() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let slot = slots.reserve(1).unwrap().base();
    let mut guard = slots.lock_or_make(slot).unwrap();
    guard.put(same(1));
    (2..=20).for_each(|n| assert_eq!(guard.add_reference(), Some(n)));
    slots.counts.set(guard.owner(), MAX_REFERENCES - 1);
    assert_eq!(guard.add_reference(), Some(MAX_REFERENCES));
    assert_eq!((guard.add_reference(), guard.references()), (None, MAX_REFERENCES));
    assert_eq!(guard.drop_reference(), MAX_REFERENCES - 1);
    let _ = guard.take();
    drop(guard);
    slots.assert_valid();
}

fn entry(k: u64) -> SlotWord {
    let location = Location::from_raw(k);
    SlotWord::new(Content::Compressed(Entry { location, length: 100, generation: 0 })).unwrap()
}

#[test]
fn links_go_with_the_last_entry_of_a_cluster() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let range = slots.reserve(2 * CLUSTER_SLOTS as u64).unwrap();
    let lock = |k| slots.lock_or_make(range.get(k).unwrap()).unwrap();
    for k in 0..10 {
        lock(k).put(if k < 3 { entry(k) } else { same(k) });
    }
    lock(CLUSTER_SLOTS as u64).put(entry(77));
    assert_eq!(slots.memory().linked_clusters, 2);
    let _ = lock(0).take();
    let _ = lock(1).switch(same(1));
    slots.tidy(|_| panic!("an entry is left"));
    let _ = lock(2).take();
    lock(2).put(entry(5)); // it was idle for a moment
    slots.tidy(|_| panic!("an entry is there"));
    let _ = lock(2).take();
    slots.assert_valid();
    let mut discarded = Vec::new();
    assert_eq!(slots.tidy(|owners| discarded.push(owners)), 0, "other slots of the cluster hold something");
    assert!(discarded.len() == 1 && discarded[0] == (0..CLUSTER_SLOTS), "{discarded:?}");
    assert_eq!(slots.memory().linked_clusters, 1);
    slots.tidy(|_| panic!("they were given back"));
    slots.assert_valid();
}

#[test]
fn single_slots_are_handed_out_once_and_used_again() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let n = CLUSTER_SLOTS as u64;
    let mine: Vec<Slot> = (0..4 * n).map(|k| slots.claim(same(k)).unwrap()).collect();
    let mut sorted = mine.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), mine.len());
    assert_eq!(slots.touched(), 4, "one thread fills a cluster before the next");
    for (k, &slot) in mine.iter().enumerate() {
        assert_eq!(slots.lock(slot).unwrap().word(), same(k as u64));
    }
    // Every third one goes, and as many new ones find room without another cluster, but for the one being filled.
    for &slot in mine.iter().step_by(3) {
        let _ = slots.lock(slot).unwrap().take();
    }
    for k in 0..mine.len().div_ceil(3) {
        slots.claim(same(k as u64)).unwrap();
    }
    assert_eq!(slots.touched(), 4);
    slots.assert_valid();
}

#[test]
fn single_slots_are_refused_only_when_all_are_in_use() {
    let slots = Slots::new(3 * CLUSTER_SLOTS as u64, Planted::NONE).unwrap();
    let all: Vec<Slot> = (0..slots.capacity()).map(|k| slots.claim(same(k as u64)).unwrap()).collect();
    assert!(matches!(slots.claim(same(0)), Err(Error::TooManySlots { .. })));
    let _ = slots.lock(all[700]).unwrap().take(); // too little to make its cluster roomy
    assert_eq!(slots.claim(same(1)).unwrap(), all[700]);
    assert!(slots.claim(same(0)).is_err());
    slots.assert_valid();
    all.iter().for_each(|&slot| assert!(!slots.lock(slot).unwrap().take().is_empty()));
    assert_eq!(slots.tidy(|_| ()), 3);
    slots.assert_valid();
    let again = slots.claim(same(2)).unwrap();
    assert!(!all.contains(&again), "numbers are not handed out again once their cluster was taken back");
}

#[test]
fn threads_that_claim_and_empty_slots_share_none() {
    let slots = Slots::new(1 << 14, Planted::NONE).unwrap();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let slots = &slots;
            s.spawn(move || {
                let mut mine = std::collections::VecDeque::new();
                for k in 0..6000u64 {
                    let word = same(t << 32 | k);
                    mine.push_back((slots.claim(word).unwrap(), word));
                    if mine.len() > 900 || k % 7 == 0 {
                        let (slot, word) = mine.pop_front().unwrap();
                        assert_eq!(slots.lock(slot).unwrap().take(), word);
                    }
                    if k % 500 == 0 {
                        slots.tidy(|_| ());
                    }
                }
                for (slot, word) in mine {
                    assert_eq!(slots.lock(slot).unwrap().take(), word);
                }
            });
        }
    });
    slots.tidy(|_| ());
    assert_eq!(slots.touched(), 0);
    slots.assert_valid();
}

#[test]
fn the_directory_costs_little_at_every_size() {
    let slots = Slots::new(1 << 26, Planted::NONE).unwrap();
    let range = slots.reserve(1 << 45).unwrap();
    for k in 1..40_000u64 {
        let slot = range.get(k.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 19).unwrap();
        let mut guard = slots.lock_or_make(slot).unwrap();
        if guard.word().is_empty() {
            guard.put(same(1));
        }
        drop(guard);
        let memory = slots.memory();
        // The pages that everything begins with: of entries, descriptors, and addresses of chunks of descriptors.
        assert!(memory.directory_bytes <= 64 * memory.touched_clusters + 3 * 4096, "{memory:?}");
    }
    slots.assert_valid();
}

#[test]
fn a_slot_never_handed_out_is_refused() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    assert!(matches!(slots.lock_or_make(Slot(0)), Err(Error::NotReserved { .. })));
    assert!(slots.lock(Slot(0)).is_none());
}

#[test]
fn threads_touching_one_cluster_agree_on_its_ordinal() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let range = slots.reserve(64 * CLUSTER_SLOTS as u64).unwrap();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let slots = &slots;
            s.spawn(move || {
                for round in 0..200u64 {
                    let slot = range.get((round * 7 % 64) * CLUSTER_SLOTS as u64 + t).unwrap();
                    let mut guard = slots.lock_or_make(slot).unwrap();
                    assert!(guard.take().is_empty());
                    guard.put(same(t + round));
                    drop(guard);
                    if round % 3 == 0 {
                        slots.reap();
                    }
                    assert_eq!(slots.lock(slot).unwrap().take(), same(t + round));
                }
            });
        }
    });
    slots.reap();
    slots.assert_valid();
    assert_eq!(slots.touched(), 0);
}

#[test]
fn parts_of_a_range_are_what_lies_in_touched_clusters() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let n = CLUSTER_SLOTS as u64;
    slots.reserve(3).unwrap(); // so that clusters and ordinals are not the same numbers
    let range = slots.reserve(10 * n).unwrap();
    let base = range.base().0;
    let touched = [7, 2, 3, 0];
    touched.iter().for_each(|k| slots.lock_or_make(range.get(k * n).unwrap()).unwrap().put(same(1)));
    // Few clusters are looked for one by one, many are found among those that are touched.
    for (start, end) in
        (0..=10 * n).step_by(128).flat_map(|start| (start..=10 * n).step_by(128).map(move |end| (start, end)))
    {
        for (start, end) in [(start, end), (start + 1, end), (start, end.saturating_sub(1))] {
            if start >= end {
                continue;
            }
            let parts = slots.parts_of(SlotRange::new(Slot(base + start), end - start));
            let mut parts: Vec<_> = parts.map(|part| (part.base().0 - base, part.len())).collect();
            parts.sort();
            let here = |k: u64| (start.max(k * n), end.min((k + 1) * n));
            let whole = (0..10).filter(|k| touched.contains(k)).map(here).filter(|(start, end)| start < end);
            assert_eq!(parts, whole.map(|(start, end)| (start, end - start)).collect::<Vec<_>>(), "{start}..{end}");
        }
    }
}

#[test]
fn what_is_made_ahead_is_there_when_clusters_are_touched() {
    let slots = Slots::new(300 * CLUSTER_SLOTS as u64, Planted::NONE).unwrap();
    let range = slots.reserve(301 * CLUSTER_SLOTS as u64).unwrap();
    let first_of = |k: usize| range.get((k * CLUSTER_SLOTS) as u64).unwrap();
    let touch = |k| slots.lock_or_make(first_of(k)).unwrap().put(same(1));
    assert!(!slots.is_made_ahead(first_of(0)));
    touch(0);
    assert!(slots.is_made_ahead(first_of(0)) && slots.is_made_ahead(first_of(1)), "descriptors come by the chunk");
    (1..50).for_each(touch);
    assert!(slots.is_made_ahead(first_of(49)), "it is touched");
    assert!(!slots.is_made_ahead(first_of(50)), "some others that come first would use the chunk up");
    for k in 50..300 {
        slots.make_ahead();
        assert!(slots.is_made_ahead(first_of(k)));
        for other in k..(k + OTHERS).min(300) {
            assert!(slots.clusters.get(other).is_some(), "the descriptor of {other} when {k} are touched");
        }
        touch(k);
    }
    slots.make_ahead();
    assert!(slots.is_made_ahead(first_of(300)), "it is refused, and that takes no memory");
    slots.assert_valid();
}

#[test]
fn contents_of_a_cluster_have_generations_of_their_own() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    let mut guard = slots.lock_or_make(slots.reserve(1).unwrap().base()).unwrap();
    let before = guard.stores();
    let generations: std::collections::BTreeSet<_> = (0..256).map(|_| guard.next_generation()).collect();
    assert_eq!((generations.len(), guard.stores()), (256, before + 256));
}

#[test]
fn memory_is_a_page_of_each_kind_per_cluster_that_has_it() {
    let slots = Slots::new(1 << 20, Planted::NONE).unwrap();
    assert_eq!(slots.memory(), SlotMemory::default());
    let range = slots.reserve(5 * CLUSTER_SLOTS as u64).unwrap();
    for k in 0..5 {
        let mut guard = slots.lock_or_make(range.get(k * CLUSTER_SLOTS as u64).unwrap()).unwrap();
        guard.put(if k < 3 { entry(k) } else { same(k) });
        if k > 2 {
            (2..=20).for_each(|n| assert_eq!(guard.add_reference(), Some(n)));
        }
    }
    let memory = slots.memory();
    assert_eq!((memory.touched_clusters, memory.linked_clusters), (5, 3));
    assert_eq!((memory.words_bytes, memory.links_bytes(), memory.counts_bytes), (5 * 4096, 3 * 4096, 2 * 4096));
    assert!(memory.directory_bytes >= 2 * 4096, "a page of entries, and one of descriptors at least: {memory:?}");
}
