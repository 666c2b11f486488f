//! The races of the memcg layer, on the real code with small trees.
//!
//! Each model returns its outcome; the set of outcomes is asserted, so that a race that is not explored fails too.
//! Each has a twin that is wrong on purpose and must fail: `catches` gives the message with which the explorer stops.
//!
//! | model | race |
//! |---|---|
//! | `charge_vs_reparent` | charge and uncharge, against removal and the index's next life |
//! | `two_charges_vs_one_limit` | two charges of which one fits, and who samples |
//! | `charge_vs_lower_limit` | a charge, against a limit being set below it |
//! | `charge_vs_rollback` | a charge that fits, against a reservation that will be rolled back |
//! | `put_last_vs_offline` | last put, new reference, removal and the id's next life |
//! | `enlist_vs_delist` | an entry coming, against a walker that found the list empty |
use loom_tests::{catches, outcomes, outcomes_of_costly};
use std::collections::BTreeSet;
use zspool::memcg::{Bytes4, Counter, Error, MemcgId, Objcg, Tree, TreeConfig};
use zspool::sync::{Arc, Bug, Mutex, Planted, Rank, thread};
use zspool::units::NodeId;

const NODE: NodeId = NodeId(0);

fn tree(patience: u32, planted: Planted) -> Tree {
    Tree::new(TreeConfig { nodes: 1, stripes: 1, patience, planted, ..TreeConfig::default() })
}

fn compressed(bytes: u64) -> Bytes4 {
    Bytes4 { compressed: bytes, ..Bytes4::default() }
}

fn store(objcg: &Objcg, tree: &Tree, bytes: u64) {
    objcg.try_charge(bytes).expect("there is no limit");
    tree.account(objcg.id(), NODE, compressed(bytes));
}

fn free(objcg: Objcg, tree: &Tree, bytes: u64) {
    let id = objcg.into_id();
    tree.unaccount(id, NODE, compressed(bytes));
    tree.uncharge(id, Counter::Zswap, bytes);
    tree.put(id);
}

// === charge_vs_reparent ===

/// The depths at which the owner was found before the charge and before the uncharge.
fn charge_vs_reparent(planted: Planted) -> (u16, u16) {
    let tree = tree(0, planted);
    let tenant = tree.root().mkdir("tenant").unwrap();
    let old = tenant.mkdir("old").unwrap();
    let index = old.index();
    let objcg = old.objcg().unwrap();
    let depths = Arc::new(Mutex::new(Rank::Leaf, (0, 0)));

    let charger = {
        let (tree, depths) = (tree.clone(), Arc::clone(&depths));
        thread::spawn("charger", move || {
            let before = tree.group_of(objcg.id()).depth();
            store(&objcg, &tree, 8);
            let after = tree.group_of(objcg.id()).depth();
            free(objcg, &tree, 8);
            *depths.lock() = (before, after);
        })
        .unwrap()
    };
    old.offline().unwrap();
    drop(old);
    // Elsewhere in the tree, so that a walker who takes the new one's parent for the old one's is found out.
    let new = tree.root().mkdir("new").unwrap();
    assert_eq!(new.index(), index, "the index is free as soon as no handle is left");
    // Charging the new one here as well would take twenty times the executions and find nothing else: that exchanges
    // do not lose each other's bytes is the next model's business.
    charger.join().unwrap();

    assert_eq!([Counter::Zswap, Counter::Memory].map(|counter| new.current(counter)), [0, 0], "the new memcg");
    assert_eq!(tenant.usage(), 0, "the parent");
    assert_eq!(tree.root().usage(), 0, "the root");
    tree.assert_quiet();
    let depths = *depths.lock();
    depths
}

#[test]
fn charge_vs_reparent_leaves_exact_sums() {
    let seen = outcomes_of_costly(|| charge_vs_reparent(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(2, 2), (2, 1), (1, 1)]));
}

#[test]
fn charge_vs_reparent_catches_an_uncharge_without_generation() {
    let message = catches(|| outcomes(|| charge_vs_reparent(Planted::bug(Bug::UnchargeSkipsGeneration))));
    assert!(message.contains("the new memcg"), "{message}");
}

// === two_charges_vs_one_limit ===

/// Who won.
fn two_charges_vs_one_limit(planted: Planted) -> &'static str {
    let tree = tree(2, planted);
    let tenant = tree.root().mkdir("tenant").unwrap();
    tenant.set_zswap_max(10).unwrap();
    let [a, b] = ["a", "b"].map(|name| tenant.mkdir(name).unwrap().objcg().unwrap());
    let wins = Arc::new(Mutex::new(Rank::Leaf, Vec::new()));
    let threads = [(a, "a"), (b, "b")].map(|(objcg, name)| {
        let wins = Arc::clone(&wins);
        thread::spawn(name, move || match objcg.try_charge(6) {
            Ok(()) => wins.lock().push(name),
            Err(hit) => assert_eq!((hit.usage(), hit.limit(), hit.asked()), (6, 10, 6)),
        })
        .unwrap()
    });
    for _ in 0..2 {
        assert!(tenant.usage() <= 10, "above the limit");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(tenant.usage() <= 10, "above the limit");
    assert_eq!((tenant.usage(), tree.root().usage()), (6, 6));
    let wins = wins.lock();
    assert_eq!(wins.len(), 1);
    wins[0]
}

#[test]
fn two_charges_vs_one_limit_has_one_winner() {
    let seen = outcomes(|| two_charges_vs_one_limit(Planted::NONE));
    assert_eq!(seen, BTreeSet::from(["a", "b"]));
}

#[test]
fn two_charges_vs_one_limit_catches_check_then_charge() {
    let message = catches(|| outcomes(|| two_charges_vs_one_limit(Planted::bug(Bug::CheckThenCharge))));
    assert!(message.contains("above the limit"), "{message}");
}

// === charge_vs_lower_limit ===

/// Whether the charge came through.
fn charge_vs_lower_limit(planted: Planted) -> bool {
    let tree = tree(0, planted);
    let vm = tree.root().mkdir("vm").unwrap();
    let objcg = vm.objcg().unwrap();
    let charger = thread::spawn("charger", move || {
        let _ = objcg.try_charge(6);
    })
    .unwrap();
    vm.set_zswap_max(5).unwrap();
    let usage = vm.usage();
    charger.join().unwrap();
    assert_eq!(vm.usage(), usage, "charged past the limit that was set");
    usage > 0
}

#[test]
fn charge_vs_lower_limit_charges_nothing_after_it_is_set() {
    let seen = outcomes(|| charge_vs_lower_limit(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn charge_vs_lower_limit_catches_check_then_charge() {
    let message = catches(|| outcomes(|| charge_vs_lower_limit(Planted::bug(Bug::CheckThenCharge))));
    assert!(message.contains("charged past the limit"), "{message}");
}

// === charge_vs_rollback ===

/// Whether the charge that fits came through. The other one passes the tenant's limit and fails at the root's.
fn charge_vs_rollback(patience: u32) -> bool {
    let tree = tree(patience, Planted::NONE);
    tree.root().set_zswap_max(5).unwrap();
    let tenant = tree.root().mkdir("tenant").unwrap();
    tenant.set_zswap_max(8).unwrap();
    let objcg = tenant.objcg().unwrap();
    let too_much = {
        let objcg = objcg.clone();
        thread::spawn("too much", move || {
            assert!(objcg.try_charge(8).is_err(), "the root has room for 5");
        })
        .unwrap()
    };
    let fits = objcg.try_charge(2).is_ok();
    too_much.join().unwrap();
    let expected = if fits { 2 } else { 0 };
    assert_eq!((tenant.usage(), tree.root().usage()), (expected, expected));
    fits
}

#[test]
fn charge_vs_rollback_is_refused_by_nobody() {
    // Both orders end the same way: the twin shows that the other outcome is explored.
    let seen = outcomes(|| charge_vs_rollback(8));
    assert_eq!(seen, BTreeSet::from([true]));
}

#[test]
fn charge_vs_rollback_can_be_refused_without_patience() {
    let seen = outcomes(|| charge_vs_rollback(0));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

// === put_last_vs_offline ===

/// Whether a reference was got during the removal, and whether the next memcg got the old one's objcg id.
fn put_last_vs_offline(planted: Planted) -> (bool, bool) {
    let tree = tree(0, planted);
    let root = tree.root();
    let old = root.mkdir("old").unwrap();
    let object = old.objcg().unwrap().into_id();
    let got = Arc::new(Mutex::new(Rank::Leaf, false));

    let putter = {
        let tree = tree.clone();
        thread::spawn("putter", move || tree.put(object)).unwrap()
    };
    let getter = {
        let (tree, old, got) = (tree.clone(), old.clone(), Arc::clone(&got));
        thread::spawn("getter", move || match old.objcg() {
            Ok(objcg) => {
                let owner = tree.group_of(objcg.id());
                assert!(owner == old.group() || owner.depth() == 0, "a stranger's objcg");
                *got.lock() = true;
            }
            Err(error) => assert_eq!(error, Error::Offline { id: old.id() }),
        })
        .unwrap()
    };
    old.offline().unwrap();
    let new = root.mkdir("new").unwrap();
    putter.join().unwrap();
    getter.join().unwrap();
    let recycled = new.objcg().unwrap().id() == object;

    drop(old);
    tree.assert_quiet();
    let census = tree.census();
    assert_eq!((census.online, census.objcgs), (2, 2));
    let got = *got.lock();
    (got, recycled)
}

#[test]
fn put_last_vs_offline_frees_the_objcg_once() {
    let seen = outcomes(|| put_last_vs_offline(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(false, false), (false, true), (true, false), (true, true)]));
}

#[test]
fn put_last_vs_offline_catches_a_reference_without_second_look() {
    let message = catches(|| outcomes(|| put_last_vs_offline(Planted::bug(Bug::ObjcgSkipsSecondLook))));
    assert!(message.contains("a stranger's objcg"), "{message}");
}

// === enlist_vs_delist ===

/// Whether the walker took the memcg off the roster before the entry came. With `careless` it clears the flag after
/// it has dropped the list's lock.
fn enlist_vs_delist(careless: bool) -> bool {
    let tree = tree(0, Planted::NONE);
    let vm = tree.root().mkdir("vm").unwrap();
    let id = vm.objcg().unwrap().into_id();
    tree.enlist(id);
    let list = Arc::new(Mutex::new(Rank::Lru, 0));

    let adder = {
        let (tree, vm, list) = (tree.clone(), vm.clone(), Arc::clone(&list));
        thread::spawn("adder", move || {
            let mut entries = list.lock();
            *entries += 1;
            let listed = vm.is_listed();
            drop(entries);
            if !listed {
                tree.enlist(id);
            }
        })
        .unwrap()
    };
    let mut cleared = false;
    vm.delist_with(|listing| {
        let entries = list.lock();
        if *entries == 0 {
            if careless {
                drop(entries);
                listing.clear();
            } else {
                listing.clear();
                drop(entries);
            }
            cleared = true;
        }
    });
    adder.join().unwrap();
    assert_eq!(tree.root().next_listed(MemcgId(0)).as_ref(), Some(&vm), "an entry that no walker finds");
    tree.assert_valid();
    tree.put(id);
    cleared
}

#[test]
fn enlist_vs_delist_leaves_no_entry_unseen() {
    let seen = outcomes(|| enlist_vs_delist(false));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn enlist_vs_delist_catches_a_flag_cleared_too_late() {
    let message = catches(|| outcomes(|| enlist_vs_delist(true)));
    assert!(message.contains("an entry that no walker finds"), "{message}");
}
