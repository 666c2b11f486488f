//! The race of a stall with the removal of the memcgs that it is counted in, on the real code.
//!
//! A stall is counted up to the root when it begins and ends, with no memory of its own for the way. So it must find the same
//! memcgs twice, also if all of them are removed in between and their indexes used again.
use loom_tests::{catches, outcomes};
use std::collections::BTreeSet;
use zspool::memcg::{StallTimes, Tree, TreeConfig};
use zspool::sync::{Bug, Planted, thread};

/// Whether the new memcg got the removed parent's index, and whether the stall was counted at the root.
fn stall_vs_removal(planted: Planted) -> (bool, bool) {
    let tree = Tree::new(TreeConfig { nodes: 1, stripes: 1, patience: 0, planted, ..TreeConfig::default() });
    let root = tree.root();
    let tenant = root.mkdir("tenant").unwrap();
    let vm = tenant.mkdir("vm").unwrap();
    let staller = {
        let vm = vm.clone();
        thread::spawn("staller", move || drop(vm.stall())).unwrap()
    };
    vm.offline().unwrap();
    tenant.offline().unwrap();
    let index = tenant.index();
    drop((vm, tenant));
    let new = root.mkdir("new").unwrap();
    staller.join().unwrap();
    let seen = (new.index() == index, root.stall_times() != StallTimes::default());
    assert_eq!(new.stall_times(), StallTimes::default(), "a stranger's stall");
    drop((root, new));
    tree.assert_quiet();
    let census = tree.census();
    assert_eq!((census.online, census.groups, census.objcgs), (2, 2, 2), "references");
    seen
}

#[test]
fn stall_vs_removal_counts_at_the_root_and_leaks_nothing() {
    let seen = outcomes(|| stall_vs_removal(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(false, true), (true, true)]));
}

#[test]
fn stall_vs_removal_catches_a_stall_that_holds_nothing() {
    let message = catches(|| outcomes(|| stall_vs_removal(Planted::bug(Bug::StallHoldsNothing))));
    assert!(message.contains("a stranger's stall"), "{message}");
}
