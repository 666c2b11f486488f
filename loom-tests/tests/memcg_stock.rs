//! The races of the memcg layer's stocks: what threads keep beside the shared words, against those who must see all of it.
//!
//! | model | race |
//! |---|---|
//! | `refusal_vs_recall` | a charge that fits once a stock is settled, against somebody who is settling it |
//! | `leave_vs_sweep` | the last object of a removed memcg goes into a stock that is settled, against the id's next life |
//! | `lives_in_one_stock` | two threads whose objects share a stock, and who asks for the sums |
#![cfg(loom)]

use loom_tests::{catches, outcomes, outcomes_of_long};
use std::collections::BTreeSet;
use zspool::memcg::{Bytes4, ChargeError, Event, Memcg, Tree, TreeConfig};
use zspool::sync::{Bug, Planted, thread};
use zspool::units::NodeId;

const NODE: NodeId = NodeId(0);

/// A tree with one stock, which all threads of a model share.
fn tree(planted: Planted) -> Tree {
    Tree::new(TreeConfig { nodes: 1, stripes: 1, patience: 2, stocks: 1, planted, ..TreeConfig::default() })
}

fn compressed(bytes: u64) -> Bytes4 {
    Bytes4 { compressed: bytes, ..Bytes4::default() }
}

/// An object comes and goes.
fn live(tree: &Tree, memcg: &Memcg, bytes: u64) -> Result<(), ChargeError> {
    let id = tree.enter(memcg, NODE, compressed(bytes), Some(Event::ZswpOut))?;
    tree.leave(id, NODE, compressed(bytes), bytes);
    Ok(())
}

// === refusal_vs_recall ===

/// What the other one saw of the usage.
fn refusal_vs_recall(planted: Planted) -> u64 {
    let tree = tree(planted);
    let tenant = tree.root().mkdir("tenant").unwrap();
    tenant.set_zswap_max(10).unwrap();
    let [a, b] = ["a", "b"].map(|name| tenant.mkdir(name).unwrap());
    live(&tree, &a, 6).unwrap(); // its bytes lie in the stock now
    let other = {
        let tenant = tenant.clone();
        thread::spawn("other", move || tenant.usage()).unwrap()
    };
    let entered = tree.enter(&b, NODE, compressed(6), None);
    let seen = other.join().unwrap();
    let id = entered.expect("six of ten bytes fit, wherever the six that nobody uses lie");
    assert_eq!(tenant.usage(), 6);
    tree.leave(id, NODE, compressed(6), 6);
    tree.assert_quiet();
    seen
}

#[test]
fn refusal_vs_recall_refuses_nobody() {
    let seen = outcomes(|| refusal_vs_recall(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([0, 6]), "nobody sees the six that are nobody's");
}

#[test]
fn refusal_vs_recall_catches_a_recall_that_does_not_wait() {
    let message = catches(|| outcomes(|| refusal_vs_recall(Planted::bug(Bug::RecallSkipsTaken))));
    assert!(message.contains("wherever the six"), "{message}");
}

#[test]
fn refusal_vs_recall_catches_a_refusal_without_recall() {
    let message = catches(|| outcomes(|| refusal_vs_recall(Planted::bug(Bug::RefusalSkipsRecall))));
    assert!(message.contains("wherever the six"), "{message}");
}

// === leave_vs_sweep ===

/// Whether the new memcg got the id.
fn leave_vs_sweep(planted: Planted) -> bool {
    let tree = tree(planted);
    let old = tree.root().mkdir("old").unwrap();
    // Counted in the shared words, so that the stock's change is what takes it out again.
    let objcg = old.objcg().unwrap();
    objcg.try_charge(8).unwrap();
    let id = objcg.into_id();
    tree.account(id, NODE, compressed(8));
    old.offline().unwrap();
    drop(old);
    let leaver = {
        let tree = tree.clone();
        thread::spawn("leaver", move || {
            tree.leave(id, NODE, compressed(8), 8);
            tree.root().usage()
        })
        .unwrap()
    };
    let new = tree.root().mkdir("new").unwrap();
    let recycled = new.objcg().unwrap().id() == id;
    assert_eq!(leaver.join().unwrap(), 0, "nothing is charged after the last object");
    assert_eq!(new.stat().unwrap().bytes, Bytes4::default(), "the new memcg has no objects");
    tree.assert_quiet();
    recycled
}

#[test]
fn leave_vs_sweep_gives_the_id_on_clean() {
    let seen = outcomes(|| leave_vs_sweep(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn leave_vs_sweep_catches_references_dropped_first() {
    let message = catches(|| outcomes(|| leave_vs_sweep(Planted::bug(Bug::StockDropsReferencesFirst))));
    // The old object's bytes are taken from where its id points to now.
    assert!(message.contains("8 bytes uncharged of 0 charged"), "{message}");
}

// === lives_in_one_stock ===

/// What somebody saw of the bytes accounted while another object came and went, before its own went.
fn lives_in_one_stock(planted: Planted) -> u64 {
    let tree = tree(planted);
    let vm = tree.root().mkdir("vm").unwrap();
    let id = tree.enter(&vm, NODE, compressed(16), None).unwrap();
    let other = {
        let (tree, vm) = (tree.clone(), vm.clone());
        thread::spawn("other", move || live(&tree, &vm, 8).unwrap()).unwrap()
    };
    let seen = vm.stat().unwrap().bytes.compressed;
    tree.leave(id, NODE, compressed(16), 16);
    other.join().unwrap();
    let stat = vm.stat().unwrap();
    assert_eq!((stat.bytes, stat.events(Event::ZswpOut)), (Bytes4::default(), 1));
    assert_eq!(tree.root().usage(), 0, "nothing is left charged");
    tree.assert_quiet();
    seen
}

#[test]
fn lives_in_one_stock_leave_exact_sums() {
    let seen = outcomes_of_long(|| lives_in_one_stock(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([16, 24]), "its own object, and the other's while it lives");
}
