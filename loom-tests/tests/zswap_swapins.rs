//! the count of recent reads from the device, which fault handlers add to and several who count take from at once.
//!
//! | model | race |
//! |---|---|
//! | `take_vs_take_vs_note` | two take more than there is together, while one more is noted |
//! | `prepare_vs_prepare_vs_note` | two make the words of a memcg that inherits the index of another, while its first read is noted |
use loom_tests::{catches, outcomes};
use std::collections::BTreeSet;
use zspool::memcg::{GroupRef, Tree, TreeConfig};
use zspool::sync::{Arc, Bug, Planted, thread};
use zspool::units::NodeId;
use zspool::zswap::Swapins;

const N0: NodeId = NodeId(0);

/// Two references to groups with one index, the second of a later generation.
fn groups() -> [GroupRef; 2] {
    let tree = Tree::new(TreeConfig { objcg_ids: 4, stripes: 1, ..TreeConfig::default() });
    ["before", "after"].map(|name| {
        let memcg = tree.root().mkdir(name).unwrap();
        memcg.offline().unwrap();
        memcg.group()
    })
}

fn run<T: Send + 'static>(
    swapins: &Arc<Swapins>,
    f: impl FnOnce(&Swapins) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let mine = Arc::clone(swapins);
    thread::spawn("one", move || f(&mine)).unwrap()
}

/// What each of the two took, of two reads and one that comes meanwhile.
fn take_vs_take_vs_note(planted: Planted) -> (u64, u64) {
    let [group, _] = groups();
    let swapins = Arc::new(Swapins::new(1, planted));
    swapins.prepare(group);
    (0..2).for_each(|_| swapins.note(group, N0));
    let one = run(&swapins, move |swapins| swapins.take(group, N0, 2));
    let other = run(&swapins, move |swapins| swapins.take(group, N0, 2));
    swapins.note(group, N0);
    let taken = (one.join().unwrap(), other.join().unwrap());
    let left = swapins.take(group, N0, u64::MAX);
    assert_eq!(taken.0 + taken.1 + left, 3, "each read is taken once, and none that was not noted");
    taken
}

#[test]
fn a_read_is_taken_once() {
    let seen = outcomes(|| take_vs_take_vs_note(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(2, 0), (0, 2), (2, 1), (1, 2)]));
}

#[test]
fn taking_in_two_steps_is_seen() {
    let message = catches(|| outcomes(|| take_vs_take_vs_note(Planted::bug(Bug::SwapinsTakenInTwoSteps))));
    assert!(message.contains("each read is taken once"), "{message}");
}

/// How many of three reads that the memcg before had noted, and one of the memcg after, are taken for the one after.
fn prepare_vs_prepare_vs_note() -> u64 {
    let [before, after] = groups();
    assert_eq!(before.index(), after.index());
    let swapins = Arc::new(Swapins::new(1, Planted::NONE));
    swapins.prepare(before);
    (0..3).for_each(|_| swapins.note(before, N0));
    let one = run(&swapins, move |swapins| swapins.prepare(after));
    let other = run(&swapins, move |swapins| swapins.note(after, N0));
    swapins.prepare(after);
    one.join().unwrap();
    other.join().unwrap();
    assert_eq!(swapins.take(before, N0, 9), 0);
    swapins.take(after, N0, 9)
}

#[test]
fn a_memcg_begins_with_its_own_reads() {
    // Noted before anybody had prepared it, the read is lost.
    assert_eq!(outcomes(prepare_vs_prepare_vs_note), BTreeSet::from([0, 1]));
}
