//! Races of children of fork with their parent's stores: who has what lies in a slot that is about to be stored into anew.
//!
//! The real family, children, claims and store (`service/{family,child,claim,keeping}.rs` and `Zswap`); the memory of each is simulated, and what a
//! page holds is a token. A page of the parent's was 1 when its child was born, and is 2 by now, and staged.
//!
//! | model | bug planted |
//! |---|---|
//! | `fault_vs_store` | FillSkipsClaim |
//! | `birth_vs_store` of a child's child | HeirSkipsClaim |
//! | `move_vs_store` by a child's `mremap` | MovedClaimUncovered |
//! | `burial_vs_store` of another child | BurialUnnoted |
use loom_tests::{builder, catches, outcomes_of_long, race};
use zspool::guest::model::{Model, ModelChild, ModelOptions};
use zspool::sync::{Arc, Bug, Planted};
use zspool::zswap::Zswap;

struct Bed {
    zswap: Arc<Zswap>,
    model: Arc<Model>,
}

impl Bed {
    /// A region whose page holds 1, in its slot.
    fn new(planted: Planted) -> Bed {
        let zswap = Arc::new(builder(Planted::NONE).slots_in_use(8).build().unwrap());
        let options = ModelOptions { pages: 1, in_place: false, kept_bytes: 0, around: 0, stiff_from: 0, planted };
        let model = Arc::new(Model::with_children(options, zswap.clone(), &zswap.root()));
        model.write(0, 1).unwrap();
        assert_eq!((model.stage(0, 1), model.compress(1)), ((1, 0), 1));
        Bed { zswap, model }
    }

    /// A child.
    fn bear(&self) -> Arc<ModelChild> {
        Arc::new(self.model.bear())
    }

    /// The page is 2 from here on, and staged; its slot has what it was for children alone.
    fn write_anew(&self) {
        self.model.write(0, 2).unwrap();
        assert_eq!(self.model.stage(0, 1), (1, 0));
    }

    /// Each has its own, and nothing is left over.
    fn end(self, children: &[(&ModelChild, u32)]) {
        for &(child, page) in children {
            assert_eq!(self.model.read_of(child, page), 1, "a child reads what its parent has written since");
        }
        assert_eq!(self.model.read(0), Some(2), "the parent has something else");
        children.iter().for_each(|(child, _)| self.model.bury(child));
        self.model.discard(0, 1).unwrap();
        assert_eq!(self.model.check(), (0, 0, 0));
        self.zswap.assert_valid();
        assert_eq!(self.zswap.stats().compressed_pages, 0, "a slot is nobody's");
    }
}

fn fault_vs_store(planted: Planted) -> (u32, Option<u64>) {
    let bed = Bed::new(planted);
    let child = bed.bear();
    bed.write_anew();
    let theirs = child.clone();
    let (stored, read) = race(&bed.model, |model| model.compress(1), move |model| model.try_read_of(&theirs, 0));
    bed.end(&[(&*child, 0)]);
    (stored, read)
}

#[test]
fn a_child_that_faults_while_its_slot_is_stored_into_has_what_was_there() {
    let seen = outcomes_of_long(|| fault_vs_store(Planted::NONE));
    // Or is told to come again: a store of its parent's is at it.
    assert_eq!(seen, [(1, None), (1, Some(1))].into());
}

#[test]
fn a_fault_served_without_a_claim_is_seen() {
    let message = catches(|| outcomes_of_long(|| fault_vs_store(Planted::bug(Bug::FillSkipsClaim))));
    assert!(message.contains("written since"), "{message}");
}

fn birth_vs_store(planted: Planted) -> u32 {
    let bed = Bed::new(planted);
    let child = bed.bear();
    bed.write_anew();
    let parent = child.clone();
    let (stored, grandchild) = race(&bed.model, |model| model.compress(1), move |model| model.bear_of(&parent));
    bed.end(&[(&*child, 0), (&grandchild, 0)]);
    stored
}

#[test]
fn a_childs_child_born_while_the_slot_is_stored_into_has_what_was_there() {
    assert_eq!(outcomes_of_long(|| birth_vs_store(Planted::NONE)), [1].into());
}

#[test]
fn a_birth_without_a_claim_is_seen() {
    let message = catches(|| outcomes_of_long(|| birth_vs_store(Planted::bug(Bug::HeirSkipsClaim))));
    assert!(message.contains("written since"), "{message}");
}

fn move_vs_store(planted: Planted) -> u32 {
    let bed = Bed::new(planted);
    let child = bed.bear();
    bed.write_anew();
    let theirs = child.clone();
    let (stored, ()) = race(&bed.model, |model| model.compress(1), move |model| model.move_of(&theirs, 0));
    bed.end(&[(&*child, 1)]);
    stored
}

#[test]
fn a_page_that_a_child_moves_while_its_slot_is_stored_into_is_what_it_was() {
    assert_eq!(outcomes_of_long(|| move_vs_store(Planted::NONE)), [1].into());
}

#[test]
fn a_claim_that_is_moved_uncovered_is_seen() {
    let message = catches(|| outcomes_of_long(|| move_vs_store(Planted::bug(Bug::MovedClaimUncovered))));
    assert!(message.contains("written since"), "{message}");
}

fn burial_vs_store(planted: Planted) -> u32 {
    let bed = Bed::new(planted);
    let (first, second) = (bed.bear(), bed.bear());
    bed.write_anew();
    let (stored, ()) = race(&bed.model, |model| model.compress(1), move |model| model.bury(&first));
    bed.end(&[(&*second, 0)]);
    stored
}

#[test]
fn a_child_has_its_own_when_another_ends_while_the_slot_is_stored_into() {
    assert_eq!(outcomes_of_long(|| burial_vs_store(Planted::NONE)), [1].into());
}

#[test]
fn a_burial_that_is_not_noted_is_seen() {
    let message = catches(|| outcomes_of_long(|| burial_vs_store(Planted::bug(Bug::BurialUnnoted))));
    assert!(message.contains("written since"), "{message}");
}
