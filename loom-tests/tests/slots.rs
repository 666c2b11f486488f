//! Races of the table of slots: references, lookups without a lock, what is given back, single slots.
//!
//! | model | race | bug planted |
//! |---|---|---|
//! | `dup_vs_replace` | R-26: a reference that goes to the table of counts, against a new content | TakeKeepsCount |
//! | `dup_vs_put` | R-26: over the edge of the table, both ways | |
//! | `dup_vs_relocate` | R-26: against compaction, which changes the word without the lock | |
//! | `lookup_vs_reuse` | R-36: a cluster is taken back and its words become another's | LookupTrustsDirectory |
//! | `lookup_vs_growth` | R-36: the directory moves to a larger section | LookupTrustsMiss |
//! | `lookup_vs_removal` | R-36: an entry moves to where another was | LookupTrustsMiss |
//! | `tidy_vs_store` | links are given back while an entry comes | TidyTrustsQueue |
//! | `codec_vs_tidy` | a late reader of links that are given back | |
//! | `claim_vs_claim` | R-27: two allocate | ClaimInTwoSteps |
//! | `claim_vs_tidy` | R-27: the cluster allocated from is taken back | |
//! | `claim_vs_take` | R-27: a full cluster gets room while another is looked for | |
use loom_tests::{catches, outcomes, race};
use std::collections::BTreeSet;
use zspool::swap::{Content, Entry, Error, SlotWord, Slots};
use zspool::sync::atomic::Ordering;
use zspool::sync::{Arc, Bug, CLUSTER_SLOTS, Planted, Table, atomic::AtomicU64};
use zspool::units::{Location, Slot, SlotRange};

const N: u64 = CLUSTER_SLOTS as u64;

fn same(word: u64) -> SlotWord {
    SlotWord::new(Content::SameFilled(word)).unwrap()
}

fn entry(location: u64) -> SlotWord {
    let location = Location::from_raw(location);
    SlotWord::new(Content::Compressed(Entry { location, length: 100, generation: 1 })).unwrap()
}

/// Slots of so many clusters at once, and a range of four.
fn slots(clusters: u64, level: u32, planted: Planted) -> (Arc<Slots>, SlotRange) {
    let slots = Slots::with_directory(clusters * N, level, planted).unwrap();
    let range = slots.reserve(4 * N).unwrap();
    (Arc::new(slots), range)
}

fn put(slots: &Slots, slot: Slot, word: SlotWord) {
    slots.lock_or_make(slot).unwrap().put(word);
}

/// A slot with so many references.
fn shared(references: u32, word: SlotWord, planted: Planted) -> (Arc<Slots>, Slot) {
    let (slots, range) = slots(1, 1, planted);
    put(&slots, range.base(), word);
    let mut guard = slots.lock(range.base()).unwrap();
    (1..references).for_each(|_| assert!(guard.add_reference().is_some()));
    drop(guard);
    (slots, range.base())
}

fn dup(slots: &Slots, slot: Slot) -> u32 {
    slots.lock(slot).unwrap().add_reference().unwrap()
}

// === references ===

fn dup_vs_replace(planted: Planted) -> u32 {
    let (slots, slot) = shared(14, same(1), planted);
    race(
        &slots,
        move |slots| dup(slots, slot),
        move |slots| {
            let mut guard = slots.lock(slot).unwrap();
            assert_eq!(guard.take().content(), Content::SameFilled(1));
            guard.put(same(2));
        },
    );
    slots.assert_valid();
    slots.lock(slot).unwrap().references()
}

#[test]
fn references_end_with_the_content_they_are_to() {
    assert_eq!(outcomes(|| dup_vs_replace(Planted::NONE)), [1, 2].into());
}

#[test]
fn a_count_that_is_left_behind_is_seen() {
    let message = catches(|| outcomes(|| dup_vs_replace(Planted::bug(Bug::TakeKeepsCount))));
    assert!(message.contains("S2: shared slots"), "{message}");
}

fn dup_vs_put() -> (u32, u32) {
    let (slots, slot) = shared(15, same(1), Planted::NONE);
    let seen = race(
        &slots,
        move |slots| dup(slots, slot),
        move |slots| {
            let mut guard = slots.lock(slot).unwrap();
            let left = guard.drop_reference();
            assert_eq!(guard.drop_reference(), left - 1);
            left - 1
        },
    );
    slots.assert_valid();
    assert_eq!(slots.lock(slot).unwrap().references(), 14);
    seen
}

#[test]
fn references_cross_the_edge_of_the_table_both_ways() {
    assert_eq!(outcomes(dup_vs_put), [(14, 13), (16, 14)].into());
}

fn dup_vs_relocate() -> bool {
    let (slots, slot) = shared(14, entry(5), Planted::NONE);
    let (_, moved) = race(
        &slots,
        move |slots| dup(slots, slot),
        move |slots| {
            let owner = slots.owner(slot).unwrap();
            let word = slots.word(owner);
            slots.exchange(owner, word, word.with_location(Location::from_raw(9))).is_ok()
        },
    );
    slots.assert_valid();
    let guard = slots.lock(slot).unwrap();
    assert_eq!(guard.references(), 15);
    assert_eq!(guard.word().entry().unwrap().location, Location::from_raw(if moved { 9 } else { 5 }));
    moved
}

#[test]
fn references_survive_a_move_of_the_object() {
    assert_eq!(outcomes(dup_vs_relocate), [false, true].into());
}

// === lookups ===

/// What a reader without a lock makes of a slot.
fn look(slots: &Slots, slot: Slot) -> Option<SlotWord> {
    let owner = slots.owner(slot)?;
    let word = slots.word(owner);
    (slots.is_owner(slot, owner) && !word.is_empty()).then_some(word)
}

fn lookup_vs_reuse(planted: Planted) -> bool {
    let (slots, range) = slots(1, 1, planted);
    let [a, b] = [0, N].map(|k| range.get(k).unwrap());
    put(&slots, a, same(1));
    let (seen, ()) = race(
        &slots,
        move |slots| look(slots, a),
        move |slots| {
            assert_eq!(slots.lock(a).unwrap().take(), same(1));
            slots.tidy(|_| ());
            put(slots, b, same(2));
        },
    );
    assert!(seen.is_none_or(|word| word == same(1)), "another slot's word was taken for this one's");
    assert!(slots.lock(a).is_none());
    assert_eq!(slots.lock(b).unwrap().word(), same(2));
    slots.assert_valid();
    seen.is_some()
}

#[test]
fn a_lookup_never_sees_another_slots_word() {
    assert_eq!(outcomes(|| lookup_vs_reuse(Planted::NONE)), [false, true].into());
}

#[test]
fn a_lookup_that_trusts_the_directory_is_seen() {
    let message = catches(|| outcomes(|| lookup_vs_reuse(Planted::bug(Bug::LookupTrustsDirectory))));
    assert!(message.contains("another slot's word"), "{message}");
}

fn lookup_vs_growth(planted: Planted) -> bool {
    let (slots, range) = slots(2, 1, planted);
    let [a, b] = [0, N].map(|k| range.get(k).unwrap());
    put(&slots, a, same(1));
    let (seen, other) = race(
        &slots,
        move |slots| (look(slots, a), look(slots, b).is_some()),
        move |slots| {
            put(slots, b, same(2));
            look(slots, a)
        },
    );
    assert_eq!((seen.0, other), (Some(same(1)), Some(same(1))), "a slot that is there is found");
    slots.assert_valid();
    seen.1
}

#[test]
fn a_slot_is_found_while_the_directory_grows() {
    assert_eq!(outcomes(|| lookup_vs_growth(Planted::NONE)), [false, true].into());
}

#[test]
fn a_lookup_that_trusts_a_miss_while_the_directory_grows_is_seen() {
    let message = catches(|| outcomes(|| lookup_vs_growth(Planted::bug(Bug::LookupTrustsMiss))));
    assert!(message.contains("a slot that is there is found"), "{message}");
}

/// Clusters 0 and 2 have one home in a section of four.
fn lookup_vs_removal(planted: Planted) -> usize {
    let (slots, range) = slots(2, 2, planted);
    let [a, c] = [0, 2 * N].map(|k| range.get(k).unwrap());
    put(&slots, a, same(1));
    put(&slots, c, same(3));
    let (seen, given) = race(
        &slots,
        move |slots| look(slots, c),
        move |slots| {
            assert_eq!(slots.lock(a).unwrap().take(), same(1));
            slots.tidy(|_| ())
        },
    );
    assert_eq!(seen, Some(same(3)), "a slot that is there is found");
    slots.assert_valid();
    given
}

#[test]
fn a_slot_is_found_while_others_leave_the_directory() {
    assert_eq!(outcomes(|| lookup_vs_removal(Planted::NONE)), [1].into());
}

#[test]
fn a_lookup_that_trusts_a_miss_while_others_leave_is_seen() {
    let message = catches(|| outcomes(|| lookup_vs_removal(Planted::bug(Bug::LookupTrustsMiss))));
    assert!(message.contains("a slot that is there is found"), "{message}");
}

// === links ===

/// A table as the LRU's: a word by owner, set before the entry is put.
struct Linked {
    slots: Arc<Slots>,
    links: Table<AtomicU64>,
}

const LINK: u64 = 7;

impl Linked {
    /// With an entry in the first slot, and a second slot that holds something.
    fn new(planted: Planted) -> (Arc<Self>, Slot) {
        let (slots, range) = slots(1, 1, planted);
        let linked = Linked { slots, links: Table::reserve(N as usize).unwrap() };
        linked.store(range.base());
        put(&linked.slots, range.get(1).unwrap(), same(1));
        (Arc::new(linked), range.base())
    }

    fn link(&self, slot: Slot) -> &AtomicU64 {
        self.links.get(self.slots.owner(slot).unwrap().0 as usize)
    }

    fn store(&self, slot: Slot) {
        let mut guard = self.slots.lock_or_make(slot).unwrap();
        self.links.get(guard.owner().0 as usize).store(LINK, Ordering::Release);
        guard.put(entry(5));
    }

    fn tidy(&self) {
        assert_eq!(self.slots.tidy(|owners| self.links.discard(owners).unwrap()), 0);
    }
}

fn tidy_vs_store(planted: Planted) -> u64 {
    let (linked, slot) = Linked::new(planted);
    let _ = linked.slots.lock(slot).unwrap().take();
    race(&linked, |linked| linked.tidy(), move |linked| linked.store(slot));
    assert_eq!(linked.link(slot).load(Ordering::Relaxed), LINK, "the link of an entry was given back");
    linked.slots.assert_valid();
    linked.slots.memory().linked_clusters
}

#[test]
fn links_are_not_given_back_under_an_entry() {
    assert_eq!(outcomes(|| tidy_vs_store(Planted::NONE)), [1].into());
}

#[test]
fn links_given_back_without_a_second_look_are_seen() {
    let message = catches(|| outcomes(|| tidy_vs_store(Planted::bug(Bug::TidyTrustsQueue))));
    assert!(message.contains("the link of an entry was given back"), "{message}");
}

/// A load reads the codec between two looks at the word; `second`: it takes the second one.
fn codec_vs_tidy(second: bool) -> bool {
    let (linked, slot) = Linked::new(Planted::NONE);
    let (seen, ()) = race(
        &linked,
        move |linked| {
            let owner = linked.slots.owner(slot).unwrap();
            let first = linked.slots.word(owner);
            let codec = linked.links.get(owner.0 as usize).load(Ordering::Acquire);
            let named = linked.slots.word(owner) == first || !second;
            (!first.is_empty() && named).then_some(codec)
        },
        move |linked| {
            let _ = linked.slots.lock(slot).unwrap().take();
            linked.tidy();
        },
    );
    assert!(seen.is_none_or(|codec| codec == LINK), "a codec of links that were given back is used");
    linked.slots.assert_valid();
    seen.is_some()
}

#[test]
fn a_late_reader_of_links_sees_that_its_object_went() {
    assert_eq!(outcomes(|| codec_vs_tidy(true)), [false, true].into());
}

#[test]
fn a_late_reader_that_does_not_look_again_is_seen() {
    let message = catches(|| outcomes(|| codec_vs_tidy(false)));
    assert!(message.contains("links that were given back"), "{message}");
}

// === single slots ===

fn claim_vs_claim(planted: Planted) -> bool {
    let (slots, _) = slots(2, 2, planted);
    let (a, b) = race(&slots, |slots| slots.claim(same(1)).unwrap(), |slots| slots.claim(same(2)).unwrap());
    assert_ne!(a, b, "a slot is handed out twice");
    assert_eq!(slots.lock(a).unwrap().word(), same(1));
    assert_eq!(slots.lock(b).unwrap().word(), same(2));
    assert_eq!(slots.touched(), 1, "both share the stripe's cluster");
    slots.assert_valid();
    a < b
}

#[test]
fn two_who_allocate_get_two_slots() {
    assert_eq!(outcomes(|| claim_vs_claim(Planted::NONE)), [false, true].into());
}

#[test]
fn a_slot_claimed_in_two_steps_is_seen() {
    let message = catches(|| outcomes(|| claim_vs_claim(Planted::bug(Bug::ClaimInTwoSteps))));
    assert!(message.contains("a slot is handed out twice"), "{message}");
}

/// The cluster of the stripe is empty, and taken back; its ordinal goes to another.
fn claim_vs_tidy() -> (bool, usize) {
    let (slots, range) = slots(2, 2, Planted::NONE);
    let before = slots.claim(same(1)).unwrap();
    let _ = slots.lock(before).unwrap().take();
    let (mine, given) = race(
        &slots,
        |slots| slots.claim(same(2)).unwrap(),
        move |slots| {
            let given = slots.tidy(|_| ());
            put(slots, range.base(), same(3));
            given
        },
    );
    assert_eq!(slots.lock(mine).unwrap().word(), same(2), "what was claimed is kept");
    assert_eq!(slots.lock(range.base()).unwrap().word(), same(3));
    slots.assert_valid();
    (mine.0 / N == before.0 / N, given)
}

#[test]
fn a_claim_and_a_cluster_that_is_taken_back_agree() {
    // Taken back before the claim; claimed before it was looked at.
    assert_eq!(outcomes(claim_vs_tidy), [(false, 1), (true, 0)].into());
}

/// Both clusters are full, and one slot is emptied.
fn claim_vs_take() -> bool {
    let (slots, _) = slots(2, 2, Planted::NONE);
    let all: Vec<Slot> = (0..2 * N).map(|k| slots.claim(same(k)).unwrap()).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    let first = all[0];
    let (claimed, _) =
        race(&slots, |slots| slots.claim(same(9)), move |slots| assert!(!slots.lock(first).unwrap().take().is_empty()));
    let found = match claimed {
        Ok(slot) => {
            assert_eq!(slot, first, "the only one that is empty");
            true
        }
        Err(Error::TooManySlots { .. }) => {
            assert_eq!(slots.claim(same(9)).unwrap(), first);
            false
        }
        Err(other) => panic!("{other}"),
    };
    assert!(slots.claim(same(9)).is_err());
    slots.assert_valid();
    found
}

#[test]
fn a_slot_that_is_emptied_is_found_by_who_looks_for_one() {
    assert_eq!(outcomes(claim_vs_take), [false, true].into());
}
