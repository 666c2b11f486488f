//! What the segments of a device promise, one by one and against a plain model.

use super::*;
use crate::swap::rmap::Rmap;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Blocks of a page: 8.
const SHIFT: u32 = 3;
const PAGES: usize = 6;
const BLOCKS: u64 = (PAGES << SHIFT) as u64;

fn segments(count: u32) -> Segments {
    Segments::new(count, PAGES, SHIFT, Planted::NONE)
}

fn tenant(n: u32) -> Tenant {
    Tenant { owner: Owner(n), payer: n % 5 }
}

/// Fill an extent with objects of these sizes in blocks, as far as they fit, and commit it.
fn commit(segments: &Segments, extent: Extent, sizes: &[u8], first_tenant: u32) -> Vec<(Place, Tenant)> {
    let (mut words, mut objects, mut at) = (Vec::new(), Vec::new(), 0);
    let start = u64::from(extent.segment) * BLOCKS + (extent.first << SHIFT) as u64;
    for &blocks in sizes {
        if at + usize::from(blocks) > extent.pages << SHIFT {
            break;
        }
        let tenant = tenant(first_tenant + words.len() as u32);
        let place = Place { device: 0, block: start + at as u64, blocks, generation: extent.generation };
        at += usize::from(blocks);
        words.push(tenant.word((extent.first << SHIFT) + at - 1));
        objects.push((place, tenant));
    }
    match words.len() {
        0 => segments.give_back(extent),
        n => {
            let room = Rmap::room(extent.objects + n);
            segments.commit(extent, at.div_ceil(1 << SHIFT), &words, at, room);
        }
    }
    objects
}

fn written(segments: &Segments, pages: usize, sizes: &[u8]) -> Vec<Place> {
    let extent = segments.take(1, pages, Purpose::Filling).unwrap();
    commit(segments, extent, sizes, 0).into_iter().map(|(place, _)| place).collect()
}

fn filled(segments: &Segments) -> Vec<Place> {
    written(segments, PAGES, &[8; PAGES])
}

#[test]
fn the_shortest_tail_that_will_do_is_taken_then_a_free_segment_then_the_longest_tail() {
    let segments = segments(4);
    // Tails of 1, 3 and 2 pages.
    for pages in [5, 3, 4] {
        let extent = segments.take(PAGES, PAGES, Purpose::Filling).unwrap();
        commit(&segments, extent, &vec![8; pages], 0);
    }
    let take = |least, most| segments.take(least, most, Purpose::Filling).map(|e| (e.segment, e.first, e.pages));
    assert_eq!(take(1, 2), Some((2, 4, 2)));
    assert_eq!(take(1, 2), Some((1, 3, 2)));
    assert_eq!(take(1, 6), Some((0, 5, 1)), "the last free segment is kept, and the others are taken");
    segments.check();
}

#[test]
fn what_cleaning_leaves_of_the_last_free_segment_is_kept_for_cleaning() {
    let segments = segments(3);
    let (a, b) = (filled(&segments), filled(&segments));
    assert!(segments.take(1, 1, Purpose::Filling).is_none());
    let extent = segments.take(1, 2, Purpose::Cleaning).unwrap();
    commit(&segments, extent, &[8], 100);
    assert!(segments.take(1, 1, Purpose::Filling).is_none(), "five pages are left, for cleaning");
    assert_eq!(segments.take(1, 2, Purpose::Cleaning).map(|e| (e.segment, e.first)), Some((2, 1)));
    a.iter().for_each(|place| _ = segments.release(place));
    // A batch has it; once that is over, it is like the others.
    segments.give_back(Extent { segment: 2, first: 1, pages: 2, generation: 1, objects: 1 });
    assert_eq!(segments.take(1, 2, Purpose::Filling).map(|e| (e.segment, e.first)), Some((2, 1)));
    b.iter().for_each(|place| _ = segments.release(place));
    segments.check();
}

#[test]
fn what_leaves_the_segment_that_is_kept_for_cleaning_does_not_go_to_its_own_tail() {
    let segments = segments(3);
    let (_a, _b) = (filled(&segments), filled(&segments));
    let extent = segments.take(2, 2, Purpose::Cleaning).unwrap();
    let kept = commit(&segments, extent, &[8, 8], 100);
    segments.release(&kept[0].0);
    let id = segments.sparsest().unwrap();
    assert_eq!(id, SegmentId(2), "there is no other");
    let (_, generation, _) = segments.move_out(id).unwrap();
    assert!(segments.take(1, 1, Purpose::Cleaning).is_none(), "that would win nothing, and use up what is kept");
    segments.moved(id, generation);
    assert_eq!(segments.take(1, 1, Purpose::Cleaning).map(|e| (e.segment, e.first)), Some((2, 2)));
    segments.check();
}

#[test]
fn segments_being_punched_are_not_handed_out_but_waited_for() {
    let segments = segments(3);
    filled(&segments).iter().for_each(|place| _ = segments.release(place));
    let _kept = filled(&segments);
    assert_eq!(segments.stats().punchable_pages, 0, "it was used again");
    let places = filled(&segments);
    places.iter().for_each(|place| _ = segments.release(place));
    let hole = segments.punch_next().unwrap();
    assert_eq!((hole.segments.clone(), hole.dirty_pages), (1..2, PAGES as u64));
    assert!(segments.punch_next().is_none());
    segments.check();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| segments.take(1, PAGES, Purpose::Filling).map(|e| e.segment));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiter.is_finished(), "it waits for the segment that is being punched");
        segments.punched(&hole);
        assert!(waiter.join().unwrap().is_some());
    });
    segments.check();
}

#[test]
fn neighbours_are_punched_in_one_call() {
    let segments = segments(40);
    let all: Vec<_> = (0..30).map(|_| filled(&segments)).collect();
    for (n, places) in all.iter().enumerate() {
        if n != 20 {
            places.iter().for_each(|place| _ = segments.release(place));
        }
    }
    let (mut holes, mut pages) = (0, 0);
    while let Some(hole) = segments.punch_next() {
        holes += 1;
        pages += hole.dirty_pages;
        segments.punched(&hole);
    }
    assert_eq!((holes, pages), (2, 29 * PAGES as u64));
    assert_eq!(segments.stats().reverse_bytes, 8 + 8 * PAGES as u64, "those of the one that is used");
    segments.check();
}

#[test]
fn a_batch_whose_segment_empties_meanwhile_still_has_it() {
    let segments = segments(2);
    let places = written(&segments, 2, &[8, 8]);
    let extent = segments.take(1, 2, Purpose::Filling).unwrap();
    places.iter().for_each(|place| _ = segments.release(place));
    assert_eq!((segments.stats().objects, segments.stats().counts.open), (0, 1));
    segments.check();
    let (first, second) = (extent.first, commit(&segments, extent, &[3, 3], 7));
    assert_eq!((first, segments.stats().objects), (2, 2));
    for (place, tenant) in second {
        assert_eq!(segments.tenant(&place), Some(tenant));
        segments.release(&place);
    }
    assert_eq!(segments.stats().counts.free, 2);
    segments.check();
}

#[test]
fn movers_find_the_sparsest_the_oldest_and_the_next_segment() {
    let segments = segments(20);
    let mut all: Vec<_> = (0..12).map(|_| filled(&segments)).collect();
    assert_eq!(segments.sparsest(), None, "nothing would be won");
    for (n, keep) in [(3, 4), (7, 1), (9, 5)] {
        all[n].drain(keep..).for_each(|place| _ = segments.release(&place));
    }
    assert_eq!(segments.sparsest(), Some(SegmentId(7)));
    let (pages, generation, objects) = segments.move_out(SegmentId(7)).unwrap();
    assert_eq!((pages, objects.len(), objects[0].blocks), (PAGES, 1, 8));
    assert!(segments.move_out(SegmentId(7)).is_none(), "somebody moves it");
    assert_eq!(segments.sparsest(), Some(SegmentId(3)));
    segments.moved(SegmentId(7), generation);
    assert_eq!(segments.sparsest(), Some(SegmentId(7)));
    all[0].drain(..).for_each(|place| _ = segments.release(&place));
    all[5].drain(..).for_each(|place| _ = segments.release(&place));
    let again = filled(&segments)[0].block / BLOCKS;
    assert_eq!(again, 5, "the segment that was freed last is used first");
    let order = |next: fn(&Segments, Option<SegmentId>) -> Option<SegmentId>| {
        std::iter::successors(next(&segments, None), |&at| next(&segments, Some(at))).map(|id| id.0).collect::<Vec<_>>()
    };
    assert_eq!(order(Segments::oldest), [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 5]);
    let next = |segments: &Segments, at: Option<SegmentId>| segments.live_from(SegmentId(at.map_or(0, |at| at.0 + 1)));
    assert_eq!(order(next), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(segments.oldest(Some(SegmentId(0))), Some(SegmentId(1)), "nothing lives there any more");
    segments.check();
}

#[test]
fn an_open_segment_with_much_room_is_cleaned_last() {
    let segments = segments(8);
    let open = written(&segments, 2, &[1; 16]);
    open[1..].iter().for_each(|place| _ = segments.release(place));
    assert_eq!(segments.sparsest(), Some(SegmentId(0)), "there is no other");
    let full = segments.take(PAGES, PAGES, Purpose::Filling).unwrap();
    let full = commit(&segments, full, &[8; PAGES], 0);
    segments.release(&full[2].0);
    assert_eq!(segments.sparsest(), Some(SegmentId(1)));
    segments.check();
}

#[test]
fn a_tebibyte_costs_nothing_before_it_is_used_and_48_bytes_a_segment_then() {
    let segments = Segments::new(1 << 22, 64, 6, Planted::NONE);
    let before = segments.stats().descriptor_bytes;
    assert_eq!(before, (1 << 22) / 8, "a bit for each of 4 million segments");
    for _ in 0..5000 {
        let extent = segments.take(64, 64, Purpose::Filling).unwrap();
        let word = tenant(1).word(0);
        segments.commit(extent, 1, &[word], 1, Rmap::room(1));
    }
    let stats = segments.stats();
    let chunks = 5 * 1024;
    assert!(stats.descriptor_bytes - before <= chunks * 48 + 8 * 16, "{stats:?}");
    assert_eq!((stats.reverse_bytes, stats.counts.open), (5000 * 16, 5000));
    segments.check();
}

#[derive(Clone, Debug)]
enum Step {
    Write { least: usize, more: usize, sizes: Vec<u8>, cleaning: bool },
    Fail { most: usize, tried: usize, bad: bool, late: bool },
    Free { which: usize },
    Condemn { which: usize },
    Punch,
    Reinstate,
    Clean,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = || any::<prop::sample::Index>().prop_map(|i| i.index(1 << 16));
    let step = prop_oneof![
        6 => (1usize..3, 0usize..6, prop::collection::vec(1u8..=12, 0..12), prop::bool::weighted(0.1))
            .prop_map(|(least, more, sizes, cleaning)| Step::Write { least, more, sizes, cleaning }),
        1 => (1usize..6, 0usize..3, prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(most, tried, bad, late)| Step::Fail { most, tried, bad, late }),
        14 => index().prop_map(|which| Step::Free { which }),
        1 => index().prop_map(|which| Step::Condemn { which }),
        1 => Just(Step::Punch),
        1 => Just(Step::Reinstate),
        2 => Just(Step::Clean),
    ];
    prop::collection::vec(step, 1..160)
}

/// Blocks and their objects.
#[derive(Default)]
struct Model {
    live: Vec<(Place, Tenant)>,
    blocks: BTreeMap<u64, Place>,
    next_tenant: u32,
}

impl Model {
    fn add(&mut self, objects: Vec<(Place, Tenant)>) {
        for (place, tenant) in objects {
            for block in place.block..place.block + u64::from(place.blocks) {
                assert!(self.blocks.insert(block, place).is_none(), "two objects in block {block}");
            }
            self.live.push((place, tenant));
            self.next_tenant += 1;
        }
    }

    fn remove(&mut self, which: usize) -> (Place, Tenant) {
        let (place, tenant) = self.live.swap_remove(which % self.live.len());
        for block in place.block..place.block + u64::from(place.blocks) {
            assert_eq!(self.blocks.remove(&block), Some(place));
        }
        (place, tenant)
    }

    fn lives_in(&self, segment: u64) -> bool {
        self.blocks.range(segment * BLOCKS..(segment + 1) * BLOCKS).next().is_some()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Properties, against a map from block to object:
    /// - no two live objects share a block, and no place comes twice;
    /// - who has an object and who pays are what was said when it was written, whatever was freed, punched or moved meanwhile;
    /// - a segment is free exactly while nothing lives there and it is not bad, and a filling batch leaves one;
    /// - cleaning a segment that is said to be worth it wins pages, and there is always room for it.
    #[test]
    fn segments_agree_with_a_plain_model(steps in steps()) {
        const COUNT: u64 = 7;
        let segments = segments(COUNT as u32);
        let mut model = Model::default();
        let (mut seen, mut bad_reads, mut bad_writes) =
            (std::collections::HashSet::new(), std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for step in steps {
            match step {
                Step::Write { least, more, sizes, cleaning } => {
                    let purpose = if cleaning { Purpose::Cleaning } else { Purpose::Filling };
                    let Some(extent) = segments.take(least, (least + more).min(PAGES), purpose) else { continue };
                    prop_assert!(extent.pages >= least);
                    prop_assert!(!bad_reads.contains(&extent.segment) && !bad_writes.contains(&extent.segment));
                    prop_assert!(cleaning || segments.map.lock().free() > 0 || extent.objects > 0, "the last free one");
                    let objects = commit(&segments, extent, &sizes, model.next_tenant);
                    for (place, _) in &objects {
                        prop_assert!(seen.insert(*place), "{:?} was handed out before", place);
                    }
                    model.add(objects);
                }
                Step::Fail { most, tried, bad, late } => {
                    let Some(extent) = segments.take(1, most, Purpose::Filling) else { continue };
                    if late {
                        segments.mark_late(&extent);
                        segments.check();
                    }
                    if bad {
                        bad_writes.insert(extent.segment);
                    }
                    let tried = tried.min(extent.pages);
                    segments.give_back_failed(extent, tried, bad);
                }
                Step::Free { which } if !model.live.is_empty() => {
                    let (place, tenant) = model.remove(which);
                    prop_assert_eq!(segments.tenant(&place), Some(tenant));
                    prop_assert_eq!(segments.release(&place), tenant.payer);
                    prop_assert_eq!(segments.tenant(&place), None);
                }
                Step::Condemn { which } if !model.live.is_empty() => {
                    let place = model.live[which % model.live.len()].0;
                    prop_assert!(segments.condemn(&place));
                    bad_reads.insert((place.block / BLOCKS) as u32);
                }
                Step::Punch => {
                    while let Some(hole) = segments.punch_next() {
                        for segment in hole.segments.clone() {
                            prop_assert!(!model.lives_in(segment.into()));
                        }
                        segments.check();
                        segments.punched(&hole);
                    }
                    prop_assert_eq!(segments.stats().punchable_pages, 0);
                }
                Step::Reinstate => {
                    prop_assert_eq!(segments.reinstate(), bad_writes.len());
                    bad_writes.clear();
                }
                Step::Clean => {
                    let Some(id) = segments.sparsest() else { continue };
                    let before = segments.stats().used_pages;
                    let (_, generation, objects) = segments.move_out(id).unwrap();
                    let blocks: usize = objects.iter().map(|object| object.blocks).sum();
                    let pages = blocks.div_ceil(1 << SHIFT);
                    let extent = segments.take(pages, pages, Purpose::Cleaning);
                    let Some(extent) = extent else {
                        // Only where what was kept has gone bad, or cleaning was given up half way.
                        segments.moved(id, generation);
                        continue;
                    };
                    prop_assert!(extent.segment != id.0);
                    let sizes: Vec<u8> = objects.iter().map(|object| object.blocks as u8).collect();
                    let moved = commit(&segments, extent, &sizes, model.next_tenant);
                    prop_assert_eq!(moved.len(), objects.len());
                    for object in &objects {
                        let block = u64::from(id.0) * BLOCKS + object.first as u64;
                        let which = model.live.iter().position(|(place, _)| place.block == block).unwrap();
                        let (place, tenant) = model.remove(which);
                        prop_assert_eq!((place.generation, tenant), (generation, object.tenant));
                        segments.release(&place);
                    }
                    segments.moved(id, generation);
                    model.add(moved);
                    prop_assert!(segments.stats().used_pages < before);
                }
                Step::Free { .. } | Step::Condemn { .. } => {}
            }
            segments.check();
            let stats = segments.stats();
            let live = (0..COUNT).filter(|&segment| model.lives_in(segment)).count() as u64;
            bad_reads.retain(|&id| model.lives_in(id.into()) || segments.map.lock().segments[id].state == State::Bad);
            prop_assert_eq!(stats.counts.open + stats.counts.full, live);
            prop_assert_eq!(stats.counts.free + stats.counts.bad + live, COUNT);
            prop_assert_eq!((stats.objects, stats.live_blocks), (model.live.len() as u64, model.blocks.len() as u64));
        }
        let mut found = Vec::new();
        segments.for_each(|block, blocks, generation, tenant| {
            found.push((Place { device: 0, block, blocks: blocks as u8, generation }, tenant));
        });
        model.live.sort_by_key(|(place, _)| place.block);
        prop_assert_eq!(found, model.live);
    }
}

/// Everything that `check` promises to see: changes past [`Map::change`], each named by a sentence.
#[test]
fn each_damage_is_found_and_named() {
    use super::descriptor::Flags;
    type Damage = fn(&mut Map);
    let damages: [(&str, Damage); 13] = [
        ("(4) live blocks of segment 0", |map| map.segments[0].live_blocks += 1),
        ("(2) objects of segment 0 lie before its tail", |map| map.segments[0].append = 1),
        ("segment 0 was written, so it has storage", |map| map.segments[0].dirty = 1),
        ("segment 0 has no more pages than it has", |map| map.segments[0].dirty = PAGES as u8 + 1),
        ("(4) nothing lives in segment 1, which is used", |map| map.segments[1].state = State::Used),
        ("(4) segment 0 is used", |map| map.segments[0].state = State::Punching),
        ("(4) segment 0 is marked", |map| map.occupied.set(0, false)),
        ("a condemned segment is not free", |map| map.segments[1].flags = Flags::BAD_READ),
        ("(1) the sums are those of all segments", |map| map.sums.live_blocks += 1),
        ("(3) objects are counted", |map| map.objects += 1),
        ("(4) no other segment is marked", |map| map.occupied.set(3, true)),
        ("the list of segment", |map| {
            let chain = Home::AGES.chain();
            let last = map.lists.newest(Home::AGES).unwrap();
            map.segments[last].links[chain].prev = NIL;
        }),
        ("(6) nothing is kept for cleaning", |map| map.reserve = 0),
    ];
    for (expected, damage) in damages {
        let segments = segments(4);
        let _first = filled(&segments);
        // The second is empty again, the third half full.
        let second = filled(&segments);
        let _third = written(&segments, PAGES, &[8; 3]);
        second.iter().for_each(|place| _ = segments.release(place));
        segments.check();
        damage(&mut segments.map.lock());
        let check = std::panic::AssertUnwindSafe(|| segments.check());
        let panic = std::panic::catch_unwind(check).expect_err(expected);
        let text = panic.downcast_ref::<String>().cloned();
        let found = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap();
        assert!(found.contains(expected), "{expected:?} was wanted: {found:?}");
    }
}

#[test]
fn every_live_object_is_shown_with_its_place_and_tenant() {
    let segments = segments(4);
    let mut live = Vec::new();
    for (first, sizes) in [(0, [3u8, 8, 1].as_slice()), (10, &[8; PAGES]), (20, &[2, 2])] {
        let extent = segments.take(PAGES, PAGES, Purpose::Filling).unwrap();
        live.extend(commit(&segments, extent, sizes, first));
    }
    // One in the middle and a whole segment are gone.
    for (place, _) in live.extract_if(.., |(_, tenant)| tenant.owner.0 == 1 || tenant.owner.0 / 10 == 1) {
        _ = segments.release(&place);
    }
    let mut shown = Vec::new();
    segments.for_each(|block, blocks, generation, tenant| {
        shown.push((Place { device: 0, block, blocks: blocks as u8, generation }, tenant));
    });
    assert_eq!(shown, live);
}
