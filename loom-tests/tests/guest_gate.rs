//! Races of guest pages with changes of their mappings: what is unmapped, dropped or forked, and what was written.
//!
//! The real gate with the real backing behind it, and the real reader, over a simulated range whose changes wait to be read, as the kernel's do. The
//! program's thread goes on as soon as its event was read.
//!
//! | model | bug planted |
//! |---|---|
//! | `unmap_vs_take_out` | GateLooksFirst, GateOpensEarly |
//! | `unmap_vs_find`: of a region that is new | FindBelievesLook |
//! | `drop_vs_access` of a stored page | GateOpensEarly |
//! | `drop_vs_round_trip` of one that is there | RemovalNotAwaited |
//! | `slow_drop_vs_take_out` | HoldForgotten |
//! | `move_vs_unmapping`, read by two | FollowsOutOfTurn |
//! | `fork_vs_take_out`, `fork_vs_access` | GateLooksFirst, GateOpensEarly |
//! | `fork_then_discard` | DiscardIgnoresGate |
//! | `dirty_vs_take_out` | LeavesNotedBefore, LeavingNotLookedFor |
//! | `dirty_vs_vanished`, also in place | LostMarksNotLookedFor, LostMarkNotNoted, LeavingNotLookedFor |
use loom_tests::{catches, outcomes, outcomes_of_long, race};
use zspool::guest::model::{Model, ModelOptions};
use zspool::sync::{Arc, Bug, Planted};

/// A page that holds 1, in the guest range.
fn resident(planted: Planted) -> Arc<Model> {
    let options = ModelOptions { pages: 1, in_place: false, kept_bytes: 0, around: 0, stiff_from: 0, planted };
    let model = Arc::new(Model::gated(options));
    model.write(0, 1).unwrap();
    model
}

/// A page that holds 1, in its slot.
fn stored(planted: Planted) -> Arc<Model> {
    let model = resident(planted);
    assert_eq!((model.stage(0, 1), model.compress(1)), ((1, 0), 1));
    model
}

/// The reader of the program's events on one thread, somebody else on another, and the program's thread once the reader has woken it: until then it
/// could do nothing.
fn race_of_three<A: 'static, B: 'static, C: 'static>(
    model: &Arc<Model>,
    reader: impl FnOnce(&Model, &mut dyn FnMut()) -> A + 'static,
    program: impl FnOnce(&Model) -> B + 'static,
    other: impl FnOnce(&Model) -> C + 'static,
) -> (A, B, C) {
    let goes_on = Arc::clone(model);
    let reads = move |model: &Model| {
        let (mut program, mut thread) = (Some((program, goes_on)), None);
        let followed = reader(model, &mut || {
            let (program, model) = program.take().expect("one event is read");
            thread = Some(loom::thread::spawn(move || program(&model)));
        });
        (followed, thread.expect("the event was read").join().unwrap())
    };
    let ((followed, program), other) = race(model, reads, other);
    (followed, program, other)
}

// === munmap ===

fn unmap_vs_take_out(planted: Planted) -> u32 {
    let model = resident(planted);
    let ((), (), staged) = race_of_three(
        &model,
        |model, woken| model.follow_unmapping(0, woken),
        |model| model.map_other(0, 9),
        |model| model.stage(0, 1).0,
    );
    assert_eq!(model.other(0), Some(9), "what is not registered was changed");
    assert_eq!(model.check(), (0, 0, 0), "what was unmapped is somewhere");
    staged
}

#[test]
fn nothing_is_taken_from_what_is_mapped_where_pages_were() {
    assert_eq!(outcomes(|| unmap_vs_take_out(Planted::NONE)), [0, 1].into());
}

#[test]
fn a_gate_that_does_not_hold_is_seen_when_other_memory_is_taken() {
    for bug in [Bug::GateLooksFirst, Bug::GateOpensEarly] {
        let message = catches(move || outcomes(move || unmap_vs_take_out(Planted::bug(bug))));
        assert!(message.contains("which is not registered"), "{bug:?}: {message}");
    }
}

fn unmap_vs_find(planted: Planted) -> (u64, u32) {
    let options = ModelOptions { pages: 1, in_place: false, kept_bytes: 0, around: 0, stiff_from: 0, planted };
    let model = Arc::new(Model::gated(options));
    model.occupy(0, 1);
    let ((), (), seen) = race_of_three(
        &model,
        |model, woken| model.follow_unmapping(0, woken),
        |model| model.map_other(0, 9),
        |model| {
            let found = model.find_present();
            (found, model.stage(0, 1).0)
        },
    );
    assert_eq!(model.other(0), Some(9), "what is not registered was changed");
    assert_eq!(model.check(), (0, 0, 0), "what was unmapped is somewhere");
    seen
}

#[test]
fn what_was_unmapped_while_its_region_was_looked_at_is_not_the_regions() {
    let seen = outcomes(|| unmap_vs_find(Planted::NONE));
    // Not found, or found and gone again, or taken out before it was unmapped.
    assert!(seen.contains(&(0, 0)) && seen.contains(&(1, 1)), "{seen:?}");
}

#[test]
fn a_look_that_is_believed_later_is_seen_when_other_memory_is_taken() {
    let message = catches(|| outcomes(|| unmap_vs_find(Planted::bug(Bug::FindBelievesLook))));
    assert!(message.contains("which is not registered") || message.contains("not where its word says"), "{message}");
}

// === madvise ===

fn drop_vs_access(planted: Planted) -> (Option<u64>, Option<u64>) {
    let model = stored(planted);
    let ((), after, meanwhile) = race_of_three(
        &model,
        |model, woken| model.follow_removal(0, woken),
        |model| {
            model.emptied(0);
            model.read_or_park(0)
        },
        |model| model.read_or_park(0),
    );
    assert!(matches!(after, None | Some(0)), "what was dropped came back");
    assert_eq!(model.read(0), Some(0), "what was dropped came back");
    assert_eq!(model.check(), (1, 0, 0));
    (after, meanwhile)
}

#[test]
fn a_stored_page_that_is_dropped_reads_as_zeroes() {
    let seen = outcomes_of_long(|| drop_vs_access(Planted::NONE));
    // Who reads meanwhile has what it was, or zeroes, or is parked; so is the program's own thread while its words have not followed.
    let meanwhile = seen.iter().map(|&(_, meanwhile)| meanwhile).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(meanwhile, [None, Some(0), Some(1)].into());
    assert!(
        seen.iter().any(|&(after, _)| after.is_none()) && seen.iter().any(|&(after, _)| after == Some(0)),
        "{seen:?}"
    );
}

#[test]
fn a_stored_page_that_comes_back_through_a_gate_opened_early_is_seen() {
    let message = catches(|| outcomes_of_long(|| drop_vs_access(Planted::bug(Bug::GateOpensEarly))));
    assert!(message.contains("came back"), "{message}");
}

fn drop_vs_round_trip(planted: Planted) -> u32 {
    let model = resident(planted);
    let ((), (), staged) = race_of_three(
        &model,
        |model, woken| model.follow_removal(0, woken),
        |model| model.emptied(0),
        |model| {
            // A page that its word calls absent is found there, and may be taken out then.
            model.serve_late_fault(0);
            model.stage(0, 1).0
        },
    );
    assert_eq!(model.read(0), Some(0), "what was dropped came back");
    model.check();
    staged
}

#[test]
fn a_page_that_is_dropped_does_not_come_back_by_way_of_the_staging_place() {
    assert_eq!(outcomes_of_long(|| drop_vs_round_trip(Planted::NONE)), [0, 1].into());
}

#[test]
fn words_that_follow_before_the_kernel_has_emptied_the_range_are_seen() {
    let message = catches(|| outcomes_of_long(|| drop_vs_round_trip(Planted::bug(Bug::RemovalNotAwaited))));
    assert!(message.contains("came back"), "{message}");
}

fn slow_drop_vs_take_out(planted: Planted) -> (u32, Option<u64>) {
    let model = resident(planted);
    let ((), (), staged) = race_of_three(
        &model,
        |model, woken| model.follow_removal_in_haste(0, woken),
        |model| model.emptied(0),
        |model| model.stage(0, 1).0,
    );
    let read = model.read(0);
    assert_eq!(read, Some(0), "what was dropped came back");
    model.check();
    (staged, read)
}

#[test]
fn a_page_that_is_emptied_late_is_not_taken_out_before() {
    assert_eq!(outcomes_of_long(|| slow_drop_vs_take_out(Planted::NONE)), [(0, Some(0)), (1, Some(0))].into());
}

#[test]
fn a_page_that_leaves_before_it_is_emptied_late_is_seen() {
    let message = catches(|| outcomes_of_long(|| slow_drop_vs_take_out(Planted::bug(Bug::HoldForgotten))));
    assert!(message.contains("came back"), "{message}");
}

// === mremap ===

/// What came along of a page that was out when it was moved.
fn move_vs_unmapping(planted: Planted) -> Option<u64> {
    let model = stored(planted);
    let [moved, unmapped] = model.read_a_move(0);
    let (came, nothing) = race(&model, |model| model.follow(moved), |model| model.follow(unmapped));
    assert_eq!(nothing, None);
    let came = came.expect("the move was followed");
    assert_eq!(came, Some(1), "what was out of what was moved is lost");
    assert_eq!(model.check(), (0, 0, 0), "it is still where it was");
    came
}

#[test]
fn what_is_moved_takes_along_what_is_out_whoever_follows_what_the_kernel_says_next() {
    assert_eq!(outcomes(|| move_vs_unmapping(Planted::NONE)), [Some(1)].into());
}

#[test]
fn changes_that_are_followed_out_of_turn_are_seen_when_what_was_moved_is_lost() {
    let message = catches(|| outcomes(|| move_vs_unmapping(Planted::bug(Bug::FollowsOutOfTurn))));
    assert!(message.contains("is lost"), "{message}");
}

// === fork ===

/// Where the child has the page from: it must have it once, as it was.
fn from((kernel, words): (Option<u64>, Option<u64>)) -> &'static str {
    match (kernel, words) {
        (Some(1), None) => "the kernel",
        (None, Some(1)) => "the words",
        (None, None) => panic!("the child has lost the page"),
        (Some(_), Some(_)) => panic!("the child has the page twice"),
        other => panic!("the child has something else: {other:?}"),
    }
}

fn fork_vs_take_out(planted: Planted) -> (u32, &'static str) {
    let model = resident(planted);
    let (child, written, staged) = race_of_three(
        &model,
        |model, woken| model.follow_fork(woken),
        |model| {
            model.forked();
            model.write_or_park(0, 2) // which the child must not see
        },
        |model| model.stage(0, 1).0,
    );
    assert_eq!(model.read(0), Some(if written.is_some() { 2 } else { 1 }), "a write was lost");
    model.check();
    (staged, from(child))
}

fn fork_vs_access(planted: Planted) -> &'static str {
    let model = stored(planted);
    let (child, (), read) = race_of_three(
        &model,
        |model, woken| model.follow_fork(woken),
        |model| model.forked(),
        |model| model.read_or_park(0),
    );
    assert!(matches!(read, None | Some(1)), "the parent has something else");
    assert_eq!((model.read(0), model.check()), (Some(1), (1, 0, 0)));
    from(child)
}

#[test]
fn a_page_that_leaves_while_its_process_forks_is_the_childs_once() {
    let seen = outcomes_of_long(|| fork_vs_take_out(Planted::NONE));
    // Left before and was copied from the staging place; left afterwards; could not leave meanwhile.
    assert_eq!(seen, [(0, "the kernel"), (1, "the kernel"), (1, "the words")].into());
}

#[test]
fn a_page_that_comes_in_while_its_process_forks_is_the_childs_once() {
    assert_eq!(outcomes(|| fork_vs_access(Planted::NONE)), ["the kernel", "the words"].into());
}

#[test]
fn a_gate_that_does_not_hold_is_seen_by_the_child() {
    for bug in [Bug::GateLooksFirst, Bug::GateOpensEarly] {
        let message = catches(move || outcomes(move || fork_vs_take_out(Planted::bug(bug))));
        assert!(message.contains("the child has"), "{bug:?}: {message}");
        let message = catches(move || outcomes(move || fork_vs_access(Planted::bug(bug))));
        assert!(message.contains("the child has"), "{bug:?}: {message}");
    }
}

fn fork_then_discard(planted: Planted, is_stored: bool) -> &'static str {
    let model = if is_stored { stored(planted) } else { resident(planted) };
    if !is_stored {
        model.stage(0, 1);
    }
    let (child, discarded, ()) = race_of_three(
        &model,
        |model, woken| model.follow_fork(woken),
        |model| {
            model.forked();
            model.discard(0, 1).unwrap()
        },
        |_| (),
    );
    assert_eq!((discarded, model.read(0)), (1, Some(0)), "it was thrown away");
    model.check();
    from(child)
}

#[test]
fn a_page_thrown_away_after_a_fork_is_the_childs() {
    for is_stored in [true, false] {
        let seen = outcomes_of_long(move || fork_then_discard(Planted::NONE, is_stored));
        assert_eq!(seen, ["the words"].into());
    }
}

#[test]
fn a_page_thrown_away_before_the_child_has_it_is_seen() {
    for is_stored in [true, false] {
        let bug = Planted::bug(Bug::DiscardIgnoresGate);
        let message = catches(move || outcomes_of_long(move || fork_then_discard(bug, is_stored)));
        assert!(message.contains("lost the page"), "{message}");
    }
}

// === what was written ===

fn dirty_vs_take_out(planted: Planted) -> (u64, &'static str) {
    let model = resident(planted);
    assert_eq!((model.take_dirty(), model.take_dirty()), (1, 0));
    // Each write is made by the one who asks then: so he is to be told. The first answer may take the first note along.
    race(
        &model,
        |model| {
            for token in [2, 3] {
                model.write(0, token).unwrap();
                assert_eq!(model.take_dirty(), 1, "a write was not told");
            }
        },
        |model| {
            model.stage(0, 1);
        },
    );
    let place = if model.check().0 == 1 { "resident" } else { "staged" };
    (model.take_dirty(), place)
}

#[test]
fn a_write_to_a_page_that_leaves_is_told() {
    assert_eq!(outcomes(|| dirty_vs_take_out(Planted::NONE)), [(0, "resident"), (0, "staged"), (1, "staged")].into());
}

#[test]
fn a_write_that_is_forgotten_with_its_mark_is_seen() {
    for bug in [Bug::LeavesNotedBefore, Bug::LeavingNotLookedFor] {
        let message = catches(move || outcomes(move || dirty_vs_take_out(Planted::bug(bug))));
        assert!(message.contains("a write was not told"), "{bug:?}: {message}");
    }
}

/// A page is thrown away behind our back, by the one who asks then; another touches it, or takes it out.
fn dirty_vs_vanished(planted: Planted, in_place: bool, touched: bool) -> (u64, u64) {
    let options = ModelOptions { pages: 1, in_place, kept_bytes: 0, around: 0, stiff_from: 0, planted };
    let model = Arc::new(Model::gated(options));
    model.write(0, 1).unwrap();
    assert_eq!((model.take_dirty(), model.take_dirty()), (1, 0));
    race(
        &model,
        |model| {
            model.vanish(0);
            assert_eq!(model.take_dirty(), 1, "what was thrown away was not told");
        },
        move |model| {
            if touched {
                model.read(0).unwrap();
            } else {
                model.stage(0, 1);
            }
        },
    );
    // Once more for who notes it late, or for a fresh mapping; then it has been told.
    let again = (model.take_dirty(), model.take_dirty());
    model.read(0).unwrap();
    model.check();
    again
}

#[test]
fn a_page_thrown_away_behind_our_back_is_told() {
    for in_place in [false, true] {
        let seen = outcomes(move || dirty_vs_vanished(Planted::NONE, in_place, true));
        assert_eq!(seen, [(0, 0), (1, 0)].into(), "in place: {in_place}");
        let seen = outcomes(move || dirty_vs_vanished(Planted::NONE, in_place, false));
        assert!(seen.iter().all(|(_, again)| *again == 0) && seen.contains(&(0, 0)), "in place: {in_place}: {seen:?}");
    }
}

#[test]
fn a_lost_mark_that_nobody_looks_for_is_seen() {
    for bug in [Bug::LostMarksNotLookedFor, Bug::LostMarkNotNoted, Bug::LeavingNotLookedFor] {
        let message = catches(move || outcomes(move || dirty_vs_vanished(Planted::bug(bug), false, true)));
        assert!(message.contains("what was thrown away was not told"), "{bug:?}: {message}");
    }
}
