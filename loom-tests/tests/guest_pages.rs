//! Races of guest pages: faults, taking out, compressing, discarding, pinning, unregistering, at one page.
//!
//! The real words and the real protocols; the guest range is simulated, each request to the kernel and each access of the guest's one
//! step, and what a page holds is a token. The store keeps tokens too, and says so when a slot is read that holds nothing or is stored
//! to while it holds something; one model has the real `Zswap`.
//!
//! | model | bug planted |
//! |---|---|
//! | `access_vs_take_out` | TakeOutOwnsLate |
//! | `access_vs_compress`, staged apart and in place | FrameDroppedUnderReader |
//! | `two_faults`, one of which goes on to write and to take out | InstallOwnsNothing |
//! | `left_vs_take_out`, `left_vs_first_write`: faults left to owners | EndForgetsLeft |
//! | `access_vs_stiff`, `discard_vs_stiff`: what does not shrink, staged apart and in place | StiffKeepsCharge |
//! | `again_vs_compress` | UntakeIgnoresThrough |
//! | `discard_vs_access` | DiscardOwnsLate |
//! | `discard_vs_compress` | DiscardEndsShadow |
//! | `discard_vs_compress_in_place` | DiscardPassesReader |
//! | `inherit_vs_compress` | HeirOwnsAsDropping |
//! | `removed_vs_compress` | RemovalPassesOver |
//! | `unregister_vs_take_out` | UnregisterLeavesExitOpen |
//! | `register_vs_access`: of memory in use | FindPassesOwned |
//! | `register_vs_late_fault`: of a page that was another region's | FaultBelievesGone |
//! | `pin_vs_take_out` | PinCountsLate |
//! | `write_vs_clean_page` | WriteKeepsCopy |
//! | `vanished_vs_take_out` | VanishedStaysCharged |
//! | `access_vs_compress_for_real`: the real store | LostKeepsSlot |
use loom_tests::{builder, catches, outcomes, outcomes_of_long, race};
use zspool::guest::model::{Model, ModelOptions};
use zspool::sync::{Arc, Bug, Planted};

const OPTIONS: ModelOptions =
    ModelOptions { pages: 1, in_place: false, kept_bytes: 0, around: 0, stiff_from: 0, planted: Planted::NONE };

fn model(planted: Planted) -> Arc<Model> {
    Arc::new(Model::new(ModelOptions { planted, ..OPTIONS }))
}

/// A page that holds 1, in the guest range.
fn resident(planted: Planted) -> Arc<Model> {
    let model = model(planted);
    model.write(0, 1).unwrap();
    model
}

/// A page that holds 1, staged.
fn staged(planted: Planted, in_place: bool) -> Arc<Model> {
    let model = Arc::new(Model::new(ModelOptions { planted, in_place, ..OPTIONS }));
    model.write(0, 1).unwrap();
    assert_eq!(model.stage(0, 1), (1, 0));
    model
}

/// A page that holds 1, in its slot.
fn stored(planted: Planted) -> Arc<Model> {
    let model = staged(planted, false);
    assert_eq!(model.compress(1), 1);
    model
}

/// Where the page is in the end.
fn place(model: &Model) -> &'static str {
    match model.check() {
        (0, 0, 0) => "absent",
        (1, 0, 0) => "resident",
        (0, 1, 0) => "staged",
        (0, 0, 1) => "stored",
        other => panic!("{other:?}"),
    }
}

// === taking out ===

fn access_vs_take_out(planted: Planted) -> (u32, &'static str) {
    let model = resident(planted);
    let (staged, ()) = race(&model, |model| model.stage(0, 1).0, |model| model.write(0, 2).unwrap());
    let place = place(&model);
    assert_eq!(model.read(0), Some(2), "a write was lost");
    (staged, place)
}

#[test]
fn a_page_that_is_written_while_it_leaves_has_what_was_written() {
    let seen = outcomes(|| access_vs_take_out(Planted::NONE));
    assert_eq!(seen, [(1, "resident"), (1, "staged")].into());
}

#[test]
fn a_page_taken_out_before_it_is_owned_is_seen() {
    let message = catches(|| outcomes(|| access_vs_take_out(Planted::bug(Bug::TakeOutOwnsLate))));
    assert!(message.contains("a write was lost") || message.contains("not where its word says"), "{message}");
}

// === compressing ===

fn access_vs_compress(planted: Planted, in_place: bool) -> (u32, &'static str) {
    let model = staged(planted, in_place);
    let (compressed, read) = race(&model, |model| model.compress(1), |model| model.read(0));
    assert_eq!(read, Some(1), "a page was read back wrong");
    let place = place(&model);
    assert_eq!(model.read(0), Some(1));
    model.discard(0, 1).unwrap();
    model.check();
    (compressed, place)
}

#[test]
fn a_page_that_is_touched_while_it_is_compressed_is_as_it_was() {
    for in_place in [false, true] {
        let seen = outcomes(move || access_vs_compress(Planted::NONE, in_place));
        assert_eq!(seen, [(0, "resident"), (1, "resident")].into());
    }
}

#[test]
fn a_frame_dropped_while_it_is_read_is_seen() {
    let message = catches(|| outcomes(|| access_vs_compress(Planted::bug(Bug::FrameDroppedUnderReader), false)));
    assert!(message.contains("a page was read back wrong"), "{message}");
}

/// A page that does not shrink, staged.
fn stiff(planted: Planted, in_place: bool) -> Arc<Model> {
    let model = Arc::new(Model::new(ModelOptions { planted, in_place, stiff_from: 1, ..OPTIONS }));
    model.write(0, 1).unwrap();
    assert_eq!(model.stage(0, 1), (1, 0));
    model
}

fn access_vs_stiff(planted: Planted, in_place: bool) -> (u64, &'static str) {
    let model = stiff(planted, in_place);
    let (compressed, read) = race(&model, |model| model.compress(1), |model| model.read(0));
    assert_eq!((compressed, read), (0, Some(1)), "a page was read back wrong");
    let seen = (model.stiff(), place(&model));
    // It can go on as if nothing had been.
    assert_eq!((model.read(0), model.stage(0, 1), model.compress(1)), (Some(1), (1, 0), 0));
    assert_eq!((model.read(0), place(&model)), (Some(1), "resident"));
    seen
}

#[test]
fn a_page_that_does_not_shrink_and_is_touched_meanwhile_is_back() {
    for in_place in [false, true] {
        let seen = outcomes(move || access_vs_stiff(Planted::NONE, in_place));
        // Found out, or taken away before.
        assert_eq!(seen, [(0, "resident"), (1, "resident")].into());
    }
}

fn discard_vs_stiff(planted: Planted, in_place: bool) -> (u64, &'static str) {
    let model = stiff(planted, in_place);
    let (_, discarded) = race(&model, |model| model.compress(1), |model| model.discard(0, 1));
    assert_eq!(discarded.unwrap(), 1);
    let seen = (model.stiff(), place(&model));
    model.write(0, 2).unwrap();
    assert_eq!((model.stage(0, 1), model.compress(1), model.read(0)), ((1, 0), 0, Some(2)));
    model.check();
    seen
}

#[test]
fn a_page_that_does_not_shrink_and_is_thrown_away_meanwhile_is_gone() {
    for in_place in [false, true] {
        let seen = outcomes(move || discard_vs_stiff(Planted::NONE, in_place));
        assert_eq!(seen, [(0, "absent")].into());
    }
}

#[test]
fn a_charge_kept_for_a_page_that_does_not_shrink_is_seen() {
    let bug = Planted::bug(Bug::StiffKeepsCharge);
    for in_place in [false, true] {
        let message = catches(move || outcomes(move || access_vs_stiff(bug, in_place)));
        assert!(message.contains("what is charged"), "{message}");
    }
    let message = catches(move || outcomes(move || discard_vs_stiff(bug, false)));
    assert!(message.contains("what is charged"), "{message}");
}

fn again_vs_compress(planted: Planted) -> (u32, &'static str) {
    let model = staged(planted, false);
    model.set_again(1);
    let (compressed, read) = race(&model, |model| model.compress(1), |model| model.read(0));
    assert_eq!(read, Some(1), "a page was read back wrong");
    (compressed, place(&model))
}

#[test]
fn a_page_that_cannot_be_installed_now_is_still_there() {
    let seen = outcomes(|| again_vs_compress(Planted::NONE));
    assert_eq!(seen, [(0, "resident"), (1, "resident")].into());
}

#[test]
fn a_page_given_back_to_a_compressor_that_knows_it_lost_it_is_seen() {
    let message = catches(|| outcomes(|| again_vs_compress(Planted::bug(Bug::UntakeIgnoresThrough))));
    assert!(message.contains("somebody is at it"), "{message}");
}

fn access_vs_compress_for_real(planted: Planted) -> (u32, u64) {
    let zswap = Arc::new(builder(Planted::NONE).build().unwrap());
    let options = ModelOptions { planted, ..OPTIONS };
    let model = Arc::new(Model::over(options, zswap.clone(), &zswap.root()));
    model.write(0, 1).unwrap();
    model.stage(0, 1);
    let (compressed, read) = race(&model, |model| model.compress(1), |model| model.read(0));
    assert_eq!(read, Some(1), "a page was read back wrong");
    let (resident, _, stored) = model.check();
    assert_eq!(resident + stored, 1);
    model.discard(0, 1).unwrap();
    zswap.assert_valid();
    (compressed, resident)
}

#[test]
fn the_real_store_keeps_a_page_that_is_touched_while_it_is_compressed() {
    let seen = outcomes_of_long(|| access_vs_compress_for_real(Planted::NONE));
    assert_eq!(seen, [(0, 1), (1, 1)].into());
}

#[test]
fn a_result_left_by_a_compressor_that_lost_its_page_is_seen() {
    let message = catches(|| outcomes_of_long(|| access_vs_compress_for_real(Planted::bug(Bug::LostKeepsSlot))));
    assert!(message.contains("its slot is not as its word says"), "{message}");
}

// === faults ===

fn two_faults(planted: Planted) -> (Option<u64>, &'static str) {
    let model = stored(planted);
    let (read, ()) = race(
        &model,
        |model| model.read(0),
        |model| {
            model.write(0, 2).unwrap();
            model.stage(0, 1);
            model.compress(1);
        },
    );
    let place = place(&model);
    assert_eq!(model.read(0), Some(2), "an older page came back");
    (read, place)
}

#[test]
fn a_page_that_came_in_and_left_again_is_not_overwritten_by_a_late_fault() {
    let seen = outcomes_of_long(|| two_faults(Planted::NONE));
    // Read before it was written; or afterwards, and it stays; or read while it left once more.
    assert_eq!(seen, [(Some(1), "stored"), (Some(2), "resident"), (Some(2), "stored")].into());
}

#[test]
fn a_fault_that_owns_nothing_is_seen() {
    let message = catches(|| outcomes_of_long(|| two_faults(Planted::bug(Bug::InstallOwnsNothing))));
    assert!(message.contains("not where its word says") || message.contains("an older page came back"), "{message}");
}

fn left_vs_take_out(planted: Planted) -> &'static str {
    let model = resident(planted);
    race(&model, |model| model.stage(0, 1), |model| model.write_and_be_served(0, 2).unwrap());
    let place = place(&model);
    assert_eq!(model.read(0), Some(2));
    place
}

fn left_vs_first_write(planted: Planted) -> u64 {
    let model = Arc::new(Model::new(ModelOptions { planted, kept_bytes: 1 << 20, ..OPTIONS }));
    model.write(0, 1).unwrap();
    model.stage(0, 1);
    model.compress(1);
    // Brought in write-protected, by the one; written by the other.
    race(&model, |model| model.read(0).unwrap(), |model| model.write_and_be_served(0, 2).unwrap());
    assert_eq!(model.read(0), Some(2));
    model.kept()
}

#[test]
fn who_left_a_fault_to_an_owner_is_woken() {
    assert_eq!(outcomes(|| left_vs_take_out(Planted::NONE)), ["resident", "staged"].into());
    assert_eq!(outcomes(|| left_vs_first_write(Planted::NONE)), [0].into());
}

#[test]
fn an_owner_who_forgets_whom_to_wake_is_seen() {
    let message = catches(|| outcomes(|| left_vs_take_out(Planted::bug(Bug::EndForgetsLeft))));
    assert!(message.contains("exceeded maximum number of branches"), "{message}");
}

// === discarding ===

fn discard_vs_access(planted: Planted) -> (u64, u64) {
    let model = stored(planted);
    let (discarded, read) = race(&model, |model| model.discard(0, 1).unwrap(), |model| model.read(0).unwrap());
    model.check();
    assert_eq!(model.read(0), Some(0), "it was thrown away");
    (discarded, read)
}

#[test]
fn a_page_thrown_away_while_it_is_touched_is_what_it_was_or_zeroes() {
    let seen = outcomes(|| discard_vs_access(Planted::NONE));
    assert_eq!(seen, [(1, 0), (1, 1)].into());
}

#[test]
fn a_slot_emptied_before_the_page_is_owned_is_seen() {
    let message = catches(|| outcomes(|| discard_vs_access(Planted::bug(Bug::DiscardOwnsLate))));
    assert!(message.contains("holds nothing") || message.contains("thrown away"), "{message}");
}

fn discard_vs_compress(planted: Planted) -> (u32, &'static str) {
    let model = staged(planted, false);
    let (compressed, ()) = race(
        &model,
        |model| model.compress(1),
        |model| {
            model.discard(0, 1).unwrap();
            model.write(0, 3).unwrap();
            model.stage(0, 1);
            model.compress(1);
        },
    );
    let place = place(&model);
    assert_eq!(model.read(0), Some(3), "a newer page was lost to a compressor of the older");
    (compressed, place)
}

#[test]
fn a_page_thrown_away_while_it_is_compressed_can_be_used_anew() {
    let seen = outcomes_of_long(|| discard_vs_compress(Planted::NONE));
    assert!(seen.contains(&(0, "resident")) || seen.contains(&(0, "stored")), "{seen:?}");
    assert!(seen.contains(&(1, "stored")), "{seen:?}");
}

#[test]
fn a_staging_place_taken_from_its_compressor_is_seen() {
    let message = catches(|| outcomes_of_long(|| discard_vs_compress(Planted::bug(Bug::DiscardEndsShadow))));
    assert!(message.contains("the shadow place of page 0 was not empty"), "{message}");
}

fn discard_vs_compress_in_place(planted: Planted) -> (u32, u64) {
    let model = staged(planted, true);
    let (compressed, ()) = race(
        &model,
        |model| model.compress(1),
        |model| {
            model.write(0, 3); // it may be back, and read still
            model.discard(0, 1).unwrap();
        },
    );
    (compressed, model.read(0).unwrap())
}

#[test]
fn a_page_that_is_read_in_place_stays_until_it_was_read() {
    let seen = outcomes(|| discard_vs_compress_in_place(Planted::NONE));
    assert_eq!(seen, [(0, 0), (1, 0)].into());
}

#[test]
fn a_page_thrown_away_while_it_is_read_in_place_is_seen() {
    let message = catches(|| outcomes(|| discard_vs_compress_in_place(Planted::bug(Bug::DiscardPassesReader))));
    assert!(message.contains("while it was read in place"), "{message}");
}

fn inherit_vs_compress(planted: Planted) -> (u32, &'static str) {
    let model = staged(planted, false);
    let (compressed, inherited) = race(&model, |model| model.compress(1), |model| model.inherit(0));
    assert_eq!(inherited, Some(1), "an heir has something else");
    let place = place(&model);
    assert_eq!(model.read(0), Some(1), "a page was lost to its heir");
    (compressed, place)
}

#[test]
fn a_page_inherited_while_it_is_compressed_is_the_childs_and_the_parents() {
    let seen = outcomes(|| inherit_vs_compress(Planted::NONE));
    assert_eq!(seen, [(0, "staged"), (1, "stored")].into());
}

#[test]
fn a_frame_given_back_while_an_heir_reads_it_is_seen() {
    let message = catches(|| outcomes(|| inherit_vs_compress(Planted::bug(Bug::HeirOwnsAsDropping))));
    assert!(message.contains("heir") || message.contains("staging place"), "{message}");
}

fn removed_vs_compress(planted: Planted) -> u32 {
    let model = staged(planted, false);
    let (compressed, ()) = race(&model, |model| model.compress(1), |model| model.removed(0));
    assert_eq!(place(&model), "absent", "what was thrown away came back");
    assert_eq!(model.read(0), Some(0));
    compressed
}

#[test]
fn a_page_thrown_away_behind_our_back_while_it_is_compressed_is_gone() {
    assert_eq!(outcomes(|| removed_vs_compress(Planted::NONE)), [0, 1].into());
}

#[test]
fn a_removal_that_is_passed_over_is_seen() {
    let message = catches(|| outcomes(|| removed_vs_compress(Planted::bug(Bug::RemovalPassesOver))));
    assert!(message.contains("came back"), "{message}");
}

// === registering, unregistering, pins, kept copies, pages that vanish ===

/// Pages 0 and 2 hold 1 and 3; page 1 is nowhere, and its neighbours may come with it. What was found, and what is in memory.
fn register_vs_access(planted: Planted) -> (u64, u64) {
    let model = Arc::new(Model::new(ModelOptions { pages: 3, around: 4, planted, ..OPTIONS }));
    model.occupy(0, 1);
    model.occupy(2, 3);
    let (found, read) = race(&model, |model| model.find_present(), |model| model.read(1).unwrap());
    assert_eq!((read, model.read(0), model.read(2)), (0, Some(1), Some(3)));
    let (resident, ..) = model.check();
    model.discard(0, 3).unwrap();
    assert_eq!(model.read(2), Some(0), "a page that was in use is there after it was thrown away");
    (found, resident)
}

#[test]
fn memory_in_use_is_found_whatever_is_touched_meanwhile() {
    // Found both, or one of them by a fault beside it, where that was first.
    let seen = outcomes(|| register_vs_access(Planted::NONE));
    assert_eq!(seen, [(2, 3)].into());
}

#[test]
fn a_page_that_was_owned_and_is_not_found_is_seen() {
    let message = catches(|| outcomes(|| register_vs_access(Planted::bug(Bug::FindPassesOwned))));
    assert!(message.contains("not where its word says: page 2, present"), "{message}");
}

/// The page is in memory, and a fault of it is from before. What was found, and what is in memory.
fn register_vs_late_fault(planted: Planted) -> (u64, u64) {
    let model = model(planted);
    model.anew();
    model.occupy(0, 1);
    let (found, ()) = race(
        &model,
        |model| {
            model.register();
            model.find_present()
        },
        |model| model.late_fault(0),
    );
    assert_eq!(model.read(0), Some(1));
    assert_eq!(model.stage(0, 1), (1, 0), "pages may leave from then on");
    assert_eq!(model.read(0), Some(1));
    (found, model.check().0)
}

#[test]
fn a_fault_from_before_a_region_is_made_again_or_finds_the_page() {
    // Found by its region, or by the fault.
    let seen = outcomes(|| register_vs_late_fault(Planted::NONE));
    assert_eq!(seen, [(0, 1), (1, 1)].into());
}

#[test]
fn a_region_that_is_taken_for_gone_before_it_is_there_is_seen() {
    let message = catches(|| outcomes(|| register_vs_late_fault(Planted::bug(Bug::FaultBelievesGone))));
    assert!(message.contains("came to Gone"), "{message}");
}

fn unregister_vs_take_out(planted: Planted) -> u32 {
    let model = resident(planted);
    let ((), staged) = race(
        &model,
        |model| model.unregister().unwrap(),
        |model| {
            let staged = model.stage(0, 1).0;
            model.compress(1);
            staged
        },
    );
    assert_eq!(model.read(0), Some(1), "a page was out when its region went");
    model.settle();
    staged
}

#[test]
fn nothing_is_out_when_a_region_goes() {
    let seen = outcomes(|| unregister_vs_take_out(Planted::NONE));
    assert_eq!(seen, [0, 1].into());
}

#[test]
fn a_gate_left_open_is_seen() {
    let message = catches(|| outcomes(|| unregister_vs_take_out(Planted::bug(Bug::UnregisterLeavesExitOpen))));
    assert!(message.contains("out when its region went"), "{message}");
}

fn unregister_vs_access(planted: Planted) -> u64 {
    let model = stored(planted);
    let ((), ()) = race(&model, |model| model.unregister().unwrap(), |model| model.write(0, 2).unwrap());
    let read = model.read(0).unwrap();
    model.settle();
    read
}

#[test]
fn a_write_while_a_region_goes_is_there_afterwards() {
    assert_eq!(outcomes(|| unregister_vs_access(Planted::NONE)), [2].into());
}

fn pin_vs_take_out(planted: Planted) -> (u32, &'static str) {
    let model = resident(planted);
    let ((), staged) = race(&model, |model| model.pin(0, 1).unwrap(), |model| model.stage(0, 1).0);
    let place = place(&model);
    assert_eq!(place, "resident", "a pinned page left");
    model.unpin(0, 1);
    assert_eq!(model.stage(0, 1), (1, 0));
    (staged, place)
}

#[test]
fn a_pinned_page_stays() {
    assert_eq!(outcomes(|| pin_vs_take_out(Planted::NONE)), [(0, "resident"), (1, "resident")].into());
}

#[test]
fn a_pin_counted_after_a_look_is_seen() {
    let message = catches(|| outcomes(|| pin_vs_take_out(Planted::bug(Bug::PinCountsLate))));
    assert!(message.contains("a pinned page left") || message.contains("somebody is at it"), "{message}");
}

fn write_vs_clean_page(planted: Planted) -> &'static str {
    let model = Arc::new(Model::new(ModelOptions { planted, kept_bytes: 1 << 20, ..OPTIONS }));
    model.write(0, 1).unwrap();
    model.stage(0, 1);
    model.compress(1);
    assert_eq!((model.read(0), model.kept()), (Some(1), 1));
    race(
        &model,
        |model| model.write(0, 2).unwrap(),
        |model| {
            model.stage(0, 1);
            model.compress(1);
        },
    );
    let place = place(&model);
    assert_eq!(model.read(0), Some(2), "an older copy came back");
    place
}

#[test]
fn a_write_ends_the_copy_that_was_kept() {
    let seen = outcomes_of_long(|| write_vs_clean_page(Planted::NONE));
    assert_eq!(seen, ["resident", "stored"].into());
}

#[test]
fn a_copy_that_outlives_a_write_is_seen() {
    let message = catches(|| outcomes_of_long(|| write_vs_clean_page(Planted::bug(Bug::WriteKeepsCopy))));
    assert!(message.contains("an older copy came back"), "{message}");
}

fn vanished_vs_take_out(planted: Planted) -> ((u32, u32), u64) {
    let model = resident(planted);
    let (staged, read) = race(
        &model,
        |model| model.stage(0, 1),
        |model| {
            model.vanish(0);
            model.read(0).unwrap()
        },
    );
    model.check();
    (staged, read)
}

#[test]
fn a_page_that_vanished_is_zeroes_and_not_charged() {
    let seen = outcomes(|| vanished_vs_take_out(Planted::NONE));
    // Taken out before; found gone; zeroes by then, taken out or not.
    assert!(seen.contains(&((1, 0), 1)) && seen.contains(&((0, 1), 0)) && seen.contains(&((1, 0), 0)), "{seen:?}");
}

#[test]
fn a_vanished_page_that_stays_charged_is_seen() {
    let message = catches(|| outcomes(|| vanished_vs_take_out(Planted::bug(Bug::VanishedStaysCharged))));
    assert!(message.contains("what is charged"), "{message}");
}
