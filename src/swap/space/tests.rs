//! What the map of free space promises, page by page and against a plain model.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BLOCKS: usize = 8;

/// Fill an extent with objects of these sizes in blocks, as far as they fit.
fn fill(extent: &Extent, sizes: &[u8]) -> (Contents, Vec<Place>) {
    let mut contents = Contents { touching: [0; MAX_BATCH_PAGES], objects: 0, blocks: 0 };
    let mut places = Vec::new();
    let mut at = 0;
    for &blocks in sizes {
        if at + usize::from(blocks) > extent.pages * BLOCKS {
            break;
        }
        for page in at / BLOCKS..=(at + usize::from(blocks) - 1) / BLOCKS {
            contents.touching[page] += 1;
        }
        contents.objects += 1;
        contents.blocks += u64::from(blocks);
        let generation = extent.generations[at / BLOCKS];
        places.push(Place { device: 0, block: (extent.first * BLOCKS + at) as u64, blocks, generation });
        at += usize::from(blocks);
    }
    (contents, places)
}

fn written(space: &Space, pages: usize, sizes: &[u8]) -> Vec<Place> {
    let extent = space.take(1, pages).unwrap();
    let (contents, places) = fill(&extent, sizes);
    space.commit(&extent, &contents);
    places
}

#[test]
fn pages_are_handed_out_one_after_another_and_round_again() {
    let space = Space::new(10, BLOCKS);
    let firsts: Vec<_> = [4, 4, 4].map(|n| space.take(1, n).map(|e| (e.first, e.pages)).unwrap()).into();
    assert_eq!(firsts, [(0, 4), (4, 4), (8, 2)]);
    assert!(space.take(1, 4).is_none());
    space.assert_valid();
}

#[test]
fn a_run_that_the_cursor_cuts_is_found() {
    let space = Space::new(8, BLOCKS);
    let all = space.take(8, 8).unwrap();
    let (contents, places) = fill(&all, &[8; 8]);
    space.commit(&all, &contents);
    space.release(&places[3]);
    let _held = space.take(1, 1).unwrap(); // page 3, so the cursor is at 4 now
    space.release(&places[4]);
    space.release(&places[5]);
    let extent = space.take(2, 2).unwrap();
    assert_eq!((extent.first, extent.pages), (4, 2));
    space.assert_valid();
}

#[test]
fn a_fragmented_device_gives_shorter_runs_but_never_below_the_least() {
    let space = Space::new(9, BLOCKS);
    let places = written(&space, 9, &[8; 9]);
    for k in [0, 2, 3, 6] {
        space.release(&places[k]);
    }
    assert!(space.take(3, 8).is_none());
    let extent = space.take(1, 8).unwrap();
    assert_eq!((extent.first, extent.pages), (2, 2));
    assert!(space.take(2, 8).is_none());
    assert_eq!(space.take(1, 8).unwrap().pages, 1);
    space.assert_valid();
}

#[test]
fn a_page_comes_back_with_the_last_object_that_touches_it() {
    let space = Space::new(4, BLOCKS);
    let places = written(&space, 4, &[6, 6, 6]); // the second lies on pages 0 and 1, the third on 1 and 2
    assert_eq!((space.stats().occupied, space.stats().free), (3, 1));
    space.release(&places[0]);
    assert_eq!(space.stats().occupied, 3);
    space.release(&places[2]);
    assert_eq!(space.stats().occupied, 2);
    space.release(&places[1]);
    let stats = space.stats();
    assert_eq!((stats.occupied, stats.free, stats.unpunched, stats.objects, stats.live_blocks), (0, 4, 3, 0, 0));
    space.assert_valid();
}

#[test]
fn pages_being_punched_are_not_handed_out() {
    let space = Space::new(4, BLOCKS);
    for place in written(&space, 2, &[8, 8]) {
        space.release(&place);
    }
    let run = space.punch_next(0).unwrap();
    assert_eq!(run, 0..2);
    assert_eq!(space.take(1, 4).map(|e| (e.first, e.pages)), Some((2, 2)));
    space.assert_valid();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| space.take(1, 4).map(|e| (e.first, e.pages)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiter.is_finished(), "it waits for the pages that are being punched");
        space.punched(run);
        assert_eq!(waiter.join().unwrap(), Some((0, 2)));
    });
    assert!(space.punch_next(0).is_none());
    space.assert_valid();
}

#[test]
fn a_page_given_back_unwritten_keeps_what_is_behind_it() {
    let space = Space::new(2, BLOCKS);
    for place in written(&space, 2, &[8]) {
        space.release(&place);
    }
    let extent = space.take(2, 2).unwrap();
    assert_eq!(space.stats().unpunched, 0);
    space.give_back(&extent);
    assert_eq!(space.stats().unpunched, 1);
    space.assert_valid();
}

#[test]
fn bad_pages_are_not_handed_out_again() {
    let space = Space::new(3, BLOCKS);
    let places = written(&space, 1, &[4, 4]);
    assert!(space.condemn(&places[0]));
    assert_eq!(space.stats().bad, 0, "an object still lives there");
    space.release(&places[0]);
    space.release(&places[1]);
    assert!(!space.condemn(&places[0]), "nothing lives there");
    let extent = space.take(1, 2).unwrap();
    space.give_back_failed(&extent, 1, Some(extent.first));
    assert_eq!((space.stats().bad, space.stats().free), (2, 1));
    assert_eq!(space.take(1, 3).map(|e| (e.first, e.pages)), Some((2, 1)));
    space.assert_valid();
}

#[test]
#[should_panic(expected = "freed before")]
fn a_place_freed_twice_is_a_panic() {
    let space = Space::new(1, BLOCKS);
    let places = written(&space, 1, &[4]);
    space.release(&places[0]);
    space.release(&places[0]);
}

#[test]
#[should_panic(expected = "handed out again")]
fn a_place_freed_twice_is_a_panic_after_reuse_too() {
    let space = Space::new(1, BLOCKS);
    let places = written(&space, 1, &[4]);
    space.release(&places[0]);
    written(&space, 1, &[4]);
    space.release(&places[0]);
}

#[derive(Clone, Debug)]
enum Step {
    Write { least: usize, most: usize, sizes: Vec<u8> },
    Fail { most: usize, bad: bool },
    Cancel { most: usize },
    Free { which: usize },
    Condemn { which: usize },
    Punch,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1usize..4, 0usize..12, prop::collection::vec(1u8..=20, 0..30))
            .prop_map(|(least, more, sizes)| Step::Write { least, most: least + more, sizes }),
        1 => (1usize..12, prop::bool::weighted(0.1)).prop_map(|(most, bad)| Step::Fail { most, bad }),
        1 => (1usize..12).prop_map(|most| Step::Cancel { most }),
        12 => any::<prop::sample::Index>().prop_map(|i| Step::Free { which: i.index(1 << 16) }),
        1 => any::<prop::sample::Index>().prop_map(|i| Step::Condemn { which: i.index(1 << 16) }),
        1 => Just(Step::Punch),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Properties, against a map from block to object:
    /// - no two live objects share a block, and none lies on a page that was punched under it or is bad for new ones;
    /// - a page is occupied exactly while the model has an object on it;
    /// - a run is refused only if the model has none of that length;
    /// - the generation of a page grows with every hand-out, so no two places are ever equal.
    #[test]
    fn space_agrees_with_a_plain_model(steps in steps()) {
        const PAGES: usize = 24;
        let space = Space::new(PAGES, BLOCKS);
        let mut live: Vec<Place> = Vec::new();
        let mut owner: BTreeMap<u64, Place> = BTreeMap::new();
        let mut bad = [false; PAGES];
        let mut seen = std::collections::HashSet::new();
        for step in steps {
            let occupied: Vec<bool> = (0..PAGES)
                .map(|p| owner.range((p * BLOCKS) as u64..((p + 1) * BLOCKS) as u64).next().is_some())
                .collect();
            let longest = (0..PAGES)
                .map(|p| (p..PAGES).take_while(|&q| !occupied[q] && !bad[q]).count())
                .max()
                .unwrap();
            match step {
                Step::Write { least, most, sizes } => {
                    let extent = space.take(least, most);
                    prop_assert_eq!(extent.is_some(), longest >= least);
                    let Some(extent) = extent else { continue };
                    prop_assert_eq!(extent.pages, longest.min(most));
                    let (contents, places) = fill(&extent, &sizes);
                    space.commit(&extent, &contents);
                    for place in places {
                        prop_assert!(seen.insert(place), "{:?} was handed out before", place);
                        for block in place.block..place.block + u64::from(place.blocks) {
                            prop_assert!(!bad[block as usize / BLOCKS]);
                            prop_assert!(owner.insert(block, place).is_none());
                        }
                        live.push(place);
                    }
                }
                Step::Fail { most, bad: retire } => {
                    let Some(extent) = space.take(1, most) else { continue };
                    let page = retire.then_some(extent.first);
                    space.give_back_failed(&extent, extent.pages, page);
                    if let Some(page) = page {
                        bad[page] = true;
                    }
                }
                Step::Cancel { most } => {
                    let Some(extent) = space.take(1, most) else { continue };
                    space.give_back(&extent);
                }
                Step::Free { which } => {
                    if live.is_empty() {
                        continue;
                    }
                    let place = live.swap_remove(which % live.len());
                    space.release(&place);
                    for block in place.block..place.block + u64::from(place.blocks) {
                        prop_assert_eq!(owner.remove(&block), Some(place));
                    }
                }
                Step::Condemn { which } => {
                    if let Some(place) = live.get(which % live.len().max(1)) {
                        prop_assert!(space.condemn(place));
                        for page in space.pages_of(place) {
                            bad[page] = true;
                        }
                    }
                }
                Step::Punch => {
                    let mut at = 0;
                    while let Some(run) = space.punch_next(at) {
                        prop_assert!(run.clone().all(|p| !occupied[p]));
                        at = run.end;
                        space.punched(run);
                    }
                    prop_assert_eq!(space.stats().unpunched, 0);
                }
            }
            space.assert_valid();
            let stats = space.stats();
            let mut occupied: Vec<_> = owner.keys().map(|&b| b as usize / BLOCKS).collect();
            occupied.dedup();
            prop_assert_eq!(stats.occupied, occupied.len());
            prop_assert_eq!((stats.objects, stats.live_blocks), (live.len() as u64, owner.len() as u64));
        }
    }
}
