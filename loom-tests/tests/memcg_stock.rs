//! The races of the memcg layer's stocks: what threads keep beside the shared words, against those who must see all of it.
//!
//! | model | race |
//! |---|---|
//! | `refusal_vs_recall` | a charge that fits once a stock is settled, against somebody who is settling it |
//! | `leave_vs_lower_limit` | an object goes into a stock, against a limit being set below what is left |
//! | `leave_vs_sweep` | the last object of a removed memcg goes into a stock that is settled, against the id's next life |
//! | `lives_in_one_stock` | two threads whose objects share a stock, and who asks for the sums |
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

/// A limit that leaves room for a batch in stock, and all of it but a few bytes.
const LIMIT: u64 = 2 << 20;
const MOST: u64 = LIMIT - 10;

/// What the other one saw of the usage.
fn refusal_vs_recall(planted: Planted) -> u64 {
    let tree = tree(planted);
    let tenant = tree.root().mkdir("tenant").unwrap();
    tenant.set_zswap_max(LIMIT).unwrap();
    let [a, b] = ["a", "b"].map(|name| tenant.mkdir(name).unwrap());
    live(&tree, &a, 6).unwrap(); // its bytes lie in the stock now
    let other = {
        let tenant = tenant.clone();
        thread::spawn("other", move || tenant.usage()).unwrap()
    };
    let entered = tree.enter(&b, NODE, compressed(MOST), None);
    let seen = other.join().unwrap();
    let id = entered.expect("less than the limit fits, wherever the batch that nobody uses lies");
    assert_eq!(tenant.usage(), MOST);
    tree.leave(id, NODE, compressed(MOST), MOST);
    tree.assert_quiet();
    seen
}

#[test]
fn refusal_vs_recall_refuses_nobody() {
    let seen = outcomes(|| refusal_vs_recall(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([0, MOST]), "nobody sees the batch that is nobody's");
}

#[test]
fn refusal_vs_recall_catches_a_recall_that_does_not_wait() {
    let message = catches(|| outcomes(|| refusal_vs_recall(Planted::bug(Bug::RecallSkipsTaken))));
    assert!(message.contains("wherever the batch"), "{message}");
}

#[test]
fn refusal_vs_recall_catches_a_refusal_without_recall() {
    let message = catches(|| outcomes(|| refusal_vs_recall(Planted::bug(Bug::RefusalSkipsRecall))));
    assert!(message.contains("wherever the batch"), "{message}");
}

// === leave_vs_lower_limit ===

/// Whether the limit was asked for the next object all the same.
fn leave_vs_lower_limit(planted: Planted) -> bool {
    let tree = tree(planted);
    let vm = tree.root().mkdir("vm").unwrap();
    let [kept, going] = [100, 6].map(|bytes| tree.enter(&vm, NODE, compressed(bytes), None).unwrap());
    let setter = {
        let vm = vm.clone();
        thread::spawn("setter", move || vm.set_zswap_max(50).unwrap()).unwrap()
    };
    tree.leave(going, NODE, compressed(6), 6);
    setter.join().unwrap();
    let refused = tree.enter(&vm, NODE, compressed(6), None).is_err();
    assert!(refused, "a hundred of fifty bytes are charged: what left is room for nobody");
    tree.leave(kept, NODE, compressed(100), 100);
    tree.assert_quiet();
    refused
}

#[test]
fn leave_vs_lower_limit_makes_no_room() {
    let seen = outcomes(|| leave_vs_lower_limit(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([true]));
}

#[test]
fn leave_vs_lower_limit_catches_a_recall_that_does_not_wait() {
    let message = catches(|| outcomes(|| leave_vs_lower_limit(Planted::bug(Bug::RecallSkipsTaken))));
    assert!(message.contains("room for nobody"), "{message}");
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
