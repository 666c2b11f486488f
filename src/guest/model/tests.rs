use super::*;
use crate::sync::thread;

/// Tokens from here on do not shrink.
const STIFF: u64 = 1 << 40;

fn model(in_place: bool, kept_bytes: u64, around: u32) -> Model {
    Model::new(ModelOptions { pages: 256, in_place, kept_bytes, around, stiff_from: STIFF, planted: Planted::NONE })
}

#[test]
fn pages_go_all_the_way_out_and_come_back() {
    for in_place in [false, true] {
        let model = model(in_place, 0, 0);
        for page in 0..100 {
            model.write(page, 1000 + u64::from(page)).unwrap();
        }
        assert_eq!(model.read(100), Some(0));
        model.set_busy(3, true);
        assert_eq!(model.stage(0, 64), (63, 0));
        assert_eq!(model.check(), (38, 63, 0));
        assert_eq!(model.read(7), Some(1007));
        assert_eq!(model.compress(64), 62);
        assert_eq!(model.check(), (39, 0, 62));
        (0..100).for_each(|page| assert_eq!(model.read(page), Some(1000 + u64::from(page))));
        assert_eq!(model.check(), (101, 0, 0));
        model.stage(64, 36);
        model.compress(10);
        assert_eq!(model.discard(60, 60).unwrap(), 41);
        assert_eq!(model.check(), (60, 0, 0));
        assert_eq!((model.read(59), model.read(64)), (Some(1059), Some(0)));
        model.set_busy(3, false);
        model.stage(0, 20);
        model.compress(10);
        model.unregister().unwrap();
        (0..60).for_each(|page| assert_eq!(model.read(page), Some(1000 + u64::from(page))));
        model.settle();
    }
}

#[test]
fn what_does_not_shrink_is_back_where_it_was() {
    for in_place in [false, true] {
        let model = model(in_place, 0, 0);
        // Runs of each kind, and singles.
        let token =
            |page: u32| if page < 20 || page.is_multiple_of(3) { STIFF + u64::from(page) } else { u64::from(page) };
        let stiff = |upto: u32| (0..upto).filter(|&page| token(page) >= STIFF).count() as u64;
        (0..100).for_each(|page| model.write(page, token(page)).unwrap());
        assert_eq!(model.stage(0, 64), (64, 0));
        assert_eq!(u64::from(model.compress(64)), 64 - stiff(64));
        assert_eq!(model.check(), (36 + stiff(64), 0, 64 - stiff(64)));
        assert_eq!(model.stiff(), stiff(64));
        // Staged again it is known still; thrown away, or shrunk, it is not.
        model.stage(0, 64);
        assert_eq!(model.stiff(), stiff(64));
        model.discard(0, 10).unwrap();
        assert_eq!(model.stiff(), stiff(64) - 10);
        model.write(10, 1).unwrap();
        model.stage(10, 1);
        model.compress(64);
        assert_eq!((model.stiff(), model.check().1), (stiff(64) - 11, 0));
        (11..100).for_each(|page| assert_eq!(model.read(page), Some(token(page))));
        // What cannot be put back now is staged still, and not forgotten.
        model.stage(11, 9);
        model.set_again(1);
        model.compress(9);
        model.compress(9);
        assert_eq!(model.check(), (89, 0, 1));
        // A codec that panics in the midst of it leaves everything staged.
        model.stage(0, 64);
        model.set_panic(2);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.compress(64)));
        assert!(panicked.is_err() && model.check().1 == 53);
        model.compress(64);
        assert_eq!(model.check().1, 0);
        model.unregister().unwrap();
        model.settle();
    }
}

#[test]
fn neighbours_that_went_together_come_together() {
    let model = model(false, 0, 16);
    (0..64).for_each(|page| model.write(page, 7).unwrap());
    model.stage(0, 64);
    assert_eq!(model.compress(64), 64);
    assert_eq!(model.read(20), Some(7));
    assert_eq!(model.check(), (16, 0, 48));
    assert_eq!(model.prefetch(0, 256), 48);
    assert_eq!(model.check(), (64, 0, 0));
    model.stage(0, 64);
    assert_eq!((model.compress(8), model.prefetch(0, 256)), (8, 64));
    model.stage(0, 64);
    model.compress(8);
    model.make_resident(0, 100).unwrap();
    assert_eq!(model.check(), (100, 0, 0));
}

#[test]
fn a_clean_page_leaves_without_the_store_and_a_written_one_does_not() {
    let model = model(false, 3 * 1024, 0);
    (0..4).for_each(|page| model.write(page, 7).unwrap());
    model.stage(0, 4);
    assert_eq!(model.compress(4), 4);
    (0..4).for_each(|page| assert_eq!(model.read(page), Some(7)));
    assert_eq!(model.kept(), 3, "for the fourth there is no room");
    model.write(1, 8).unwrap();
    assert_eq!(model.kept(), 2);
    model.stage(0, 4);
    assert_eq!(model.read(2), Some(7)); // back from staging: it can be written
    assert_eq!(model.kept(), 1);
    assert_eq!(model.compress(4), 3);
    assert_eq!(model.check(), (1, 0, 3));
    assert_eq!((0..4).map(|page| model.read(page).unwrap()).collect::<Vec<_>>(), [7, 8, 7, 7]);
    model.unregister().unwrap();
    model.settle();
}

#[test]
fn what_cannot_be_read_is_poisoned_and_can_be_had_later() {
    let model = model(false, 0, 16);
    (0..32).for_each(|page| model.write(page, 7).unwrap());
    model.stage(0, 32);
    assert_eq!(model.compress(32), 32);
    model.set_lost(vec![5, 20]);
    assert_eq!((model.read(5), model.read(5), model.read(6)), (None, None, Some(7)));
    assert!(matches!(model.unregister(), Err(Error::Unreadable { page: 5, .. })));
    assert_eq!((model.read(20), model.read(19)), (None, Some(7)));
    assert_eq!(model.check(), (30, 0, 0));
    model.set_lost(vec![]);
    model.unregister().unwrap();
    assert_eq!((model.read(5), model.read(20)), (Some(7), Some(7)));
    model.settle();
}

#[test]
fn a_changing_address_space_is_tried_again_and_loses_nothing() {
    let model = model(false, 0, 0);
    model.write(0, 7).unwrap();
    for round in 0..3 {
        model.stage(0, 1);
        if round > 0 {
            model.compress(1);
        }
        model.set_again(2);
        assert_eq!(model.read(0), Some(7));
    }
    model.check();
}

#[test]
fn what_is_back_when_a_mapping_changes_half_way_is_told_as_back() {
    for in_place in [false, true] {
        let model = model(in_place, 0, 0);
        (0..20).for_each(|page| model.write(page, STIFF + u64::from(page)).unwrap());
        assert_eq!(model.stage(0, 20), (20, 0));
        model.set_refused(7, 2);
        assert_eq!(model.compress(20), 0);
        assert_eq!(model.check(), (7, 13, 0));
        // They can be written from then on, without a fault that would tell.
        (0..7).for_each(|page| assert_eq!(model.backing.write(page, u64::from(page)), Ok(())));
        model.compress(64);
        (0..20).for_each(|page| assert_eq!(model.read(page), Some(u64::from(page) + if page < 7 { 0 } else { STIFF })));
        model.unregister().unwrap();
        model.settle();
    }
}

#[test]
fn a_frame_in_place_that_is_not_dropped_is_not_stored_either() {
    for kept_bytes in [0, 1 << 20] {
        let model = model(true, kept_bytes, 0);
        (0..20).for_each(|page| model.write(page, 7).unwrap());
        if kept_bytes > 0 {
            model.stage(0, 20);
            model.compress(20);
            (0..20).for_each(|page| assert_eq!(model.read(page), Some(7)));
            assert_eq!(model.kept(), 20);
        }
        assert_eq!(model.stage(0, 20), (20, 0));
        model.set_refused(7, 2);
        assert_eq!(model.compress(20), 19);
        assert_eq!(model.check(), (0, 1, 19));
        assert_eq!(model.compress(20), 1);
        (0..20).for_each(|page| assert_eq!(model.read(page), Some(7)));
        assert_eq!(model.check(), (20, 0, 0));
        model.unregister().unwrap();
        model.settle();
    }
}

#[test]
fn a_poisoned_page_whose_mark_is_gone_is_marked_again_and_nobody_sleeps() {
    let model = model(false, 0, 0);
    model.write(0, 7).unwrap();
    model.stage(0, 1);
    model.compress(1);
    model.set_lost(vec![0]);
    assert_eq!(model.read(0), None);
    model.backing.discard(0, 1).unwrap(); // the program's madvise, which takes the mark along
    assert!(model.backing.enqueue(0, false));
    model.set_again(1);
    // While the address space changes: later. It is no answer that wakes the thread.
    assert_eq!(model.pages.fault(0, Access::Read, Waiting::Leave), Served::Again);
    assert!(model.backing.is_waited_for(0));
    assert_eq!(model.pages.fault(0, Access::Read, Waiting::Leave), Served::Poisoned);
    assert!(!model.backing.is_waited_for(0) && model.backing.read(0) == Err(Trap::Poisoned));
}

#[test]
fn a_page_that_stays_staged_while_its_turn_comes_gets_another_turn() {
    let model = model(false, 0, 0);
    model.write(0, 7).unwrap();
    model.stage(0, 1);
    // The compressor meets the page while an heir looks at it.
    let told = model.pages.inherit(0, &mut |_| {
        assert_eq!(model.compress(1), 0);
        true
    });
    assert!(told);
    assert_eq!((model.compress(1), model.check()), (1, (0, 0, 1)), "nobody would ever compress it");
}

#[test]
fn a_page_that_is_protected_and_not_said_to_be_can_be_written() {
    let model = model(true, 0, 0);
    model.write(0, 7).unwrap();
    // As one is that was not taken out after all, and could not be unprotected.
    for access in [Access::Unknown, Access::Write] {
        model.backing.protect(0, 1).unwrap();
        assert!(matches!(model.pages.fault(0, access, Waiting::Wait), Served::Installed(_)));
        assert_eq!(model.backing.write(0, 8), Ok(()), "its thread would fault for ever");
    }
}

#[test]
fn pins_hold_and_end() {
    let model = model(false, 0, 0);
    (0..10).for_each(|page| model.write(page, 7).unwrap());
    model.stage(0, 10);
    model.compress(5);
    model.pin(2, 6).unwrap();
    model.pin(3, 1).unwrap();
    assert_eq!(model.stage(0, 10), (0, 0));
    assert!(matches!(model.discard(0, 10), Err(Error::Pinned { page: 2 })));
    model.unpin(2, 6);
    assert_eq!(model.stage(2, 6), (5, 0));
    model.unpin(3, 1);
    assert_eq!(model.stage(3, 1), (1, 0));
}

#[test]
fn a_codec_that_panics_leaves_every_page_where_it_can_be_had() {
    for in_place in [false, true] {
        let model = model(in_place, 0, 0);
        (0..10).for_each(|page| model.write(page, 7).unwrap());
        model.stage(0, 10);
        model.set_panic(4);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.compress(10)));
        assert!(caught.is_err());
        assert_eq!(model.check(), (0, 10, 0));
        assert_eq!(model.read(3), Some(7));
        assert_eq!(model.compress(10), 9, "the run is in the queue again");
        (0..10).for_each(|page| assert_eq!(model.read(page), Some(7)));
        model.unregister().unwrap();
        model.settle();
    }
}

/// Threads write versions to pages of their own, and read them back, while others do everything else to the pages.
#[test]
fn no_write_is_lost_whatever_happens_to_the_pages() {
    for (in_place, kept) in [(false, 0), (true, 0), (false, 1 << 20)] {
        let model = Arc::new(model(in_place, kept, 8));
        let writers: Vec<_> = (0..3u32)
            .map(|t| {
                let model = model.clone();
                thread::spawn("writer", move || {
                    let mut version = [0u64; 64];
                    for round in 0..20_000u32 {
                        let k = (round.wrapping_mul(2_654_435_761) >> 7) as usize % 64;
                        let page = t * 64 + k as u32;
                        if round % 3 == 0 {
                            version[k] += 1;
                            model.write(page, version[k] << 8 | u64::from(t)).unwrap();
                        } else {
                            let expected = if version[k] == 0 { 0 } else { version[k] << 8 | u64::from(t) };
                            assert_eq!(model.read(page), Some(expected), "page {page}");
                        }
                    }
                })
                .unwrap()
            })
            .collect();
        let meddlers: Vec<_> = (0..2u32)
            .map(|t| {
                let model = model.clone();
                thread::spawn("meddler", move || {
                    for round in 0..3_000u32 {
                        let at = round.wrapping_mul(40_503) % 192;
                        match (round + t) % 7 {
                            0..3 => drop(model.stage(at, 64)),
                            3 => drop(model.compress(40)),
                            4 => drop(model.prefetch(at, 32)),
                            5 => {
                                model.pin(at, 3).unwrap();
                                model.unpin(at, 3);
                            }
                            _ => drop(model.discard(192, 64)),
                        }
                    }
                })
                .unwrap()
            })
            .collect();
        writers.into_iter().chain(meddlers).for_each(|thread| thread.join().unwrap());
        model.check();
        model.unregister().unwrap();
        model.settle();
    }
}
