//! The races of a memcg's three counters, on the real code with small trees.
//!
//! | model | race |
//! |---|---|
//! | `object_vs_page` | an object and a resident page, of which one fits: Zswap limited below, Memory above |
//! | `object_vs_rolled_back_object` | an object that fits, against one that takes its Zswap and is refused as Memory |
//! | `charge_vs_take_excess` | a charge above the mark, against who takes what was noted |
//! | `charge_vs_set_high` | a charge, against the mark being set below it |
//! | `excess_vs_recycling` | a charge that brings the parent above its mark, against the child's removal and its index's next life |
//! | `peak_vs_uncharge` | a charge that is more than ever, against an uncharge and who looks |
//! | `prepaid_vs_set_max` | a resident page becomes an object, against `memory.max` set below it |
//! | `prepaid_vs_offline` | a resident page becomes an object, against removal and the index's next life |
//! | `forced_vs_offline` | a charge that asks no limit, against removal and the index's next life |
//! | `forced_vs_charge` | the same, against one that asks and just fits |
use loom_tests::{catches, outcomes, outcomes_of_costly};
use std::collections::BTreeSet;
use zspool::memcg::{Bytes4, ChargeError, Counter, LimitHit, Memcg, ObjcgId, Tree, TreeConfig};
use zspool::sync::{Bug, Planted, thread};
use zspool::units::NodeId;

const NODE: NodeId = NodeId(0);

fn tree(patience: u32, planted: Planted) -> Tree {
    Tree::new(TreeConfig { nodes: 1, stripes: 1, patience, planted, ..TreeConfig::default() })
}

fn object(bytes: u64) -> Bytes4 {
    Bytes4 { compressed: bytes, ..Bytes4::default() }
}

fn currents(memcg: &Memcg) -> [u64; 2] {
    [Counter::Zswap, Counter::Memory].map(|counter| memcg.current(counter))
}

fn hit(refused: ChargeError) -> LimitHit {
    match refused {
        ChargeError::Limit(hit) => hit,
        other => panic!("{other} instead of a limit's refusal"),
    }
}

/// A page that the memcg is charged for as resident.
fn page(tree: &Tree, memcg: &Memcg, bytes: u64) -> ObjcgId {
    let objcg = memcg.objcg().unwrap();
    tree.charge(objcg.id(), Counter::Memory, bytes).unwrap();
    objcg.into_id()
}

// === object_vs_page ===

/// Who came through.
fn object_vs_page(planted: Planted) -> &'static str {
    let tree = tree(2, planted);
    let tenant = tree.root().mkdir("tenant").unwrap();
    let vm = tenant.mkdir("vm").unwrap();
    tenant.set_max(Counter::Memory, 10).unwrap();
    vm.set_max(Counter::Zswap, 8).unwrap();
    let page = {
        let (tree, objcg) = (tree.clone(), vm.objcg().unwrap());
        thread::spawn("page", move || tree.charge(objcg.id(), Counter::Memory, 6)).unwrap()
    };
    let object = tree.enter(&vm, NODE, object(6), None);
    assert!(tenant.current(Counter::Memory) <= 10, "above the limit");
    let page = page.join().unwrap();
    let refused = match (&page, object) {
        (Ok(()), Err(refused)) => hit(refused),
        (Err(hit), Ok(_)) => hit.clone(),
        both => panic!("one of two fits: {both:?}"),
    };
    assert_eq!((refused.memcg(), refused.counter()), (&tenant, Counter::Memory));
    assert_eq!((refused.usage(), refused.limit(), refused.asked()), (6, 10, 6));
    let zswap = if page.is_ok() { 0 } else { 6 };
    assert_eq!([&vm, &tenant].map(currents), [[zswap, 6]; 2], "what was refused is charged still");
    if page.is_ok() { "page" } else { "object" }
}

#[test]
fn object_vs_page_has_one_winner() {
    let seen = outcomes_of_costly(|| object_vs_page(Planted::NONE));
    assert_eq!(seen, BTreeSet::from(["object", "page"]));
}

#[test]
fn object_vs_page_catches_a_rollback_of_one_counter() {
    let message = catches(|| outcomes_of_costly(|| object_vs_page(Planted::bug(Bug::RollbackForgetsCounter))));
    assert!(message.contains("is charged still"), "{message}");
}

// === object_vs_rolled_back_object ===

/// Whether the object that fits came through, and which counter refused the other one.
fn object_vs_rolled_back_object(patience: u32) -> (bool, Counter) {
    let tree = tree(patience, Planted::NONE);
    let tenant = tree.root(); // a level more takes twice the executions and finds nothing else
    let vm = tenant.mkdir("vm").unwrap();
    // Room for 4 as Memory in the tenant, for 8 as Zswap in the vm: 6 pass the vm and fail at the tenant.
    page(&tree, &tenant, 6);
    tenant.set_max(Counter::Memory, 10).unwrap();
    vm.set_max(Counter::Zswap, 8).unwrap();
    let too_much = {
        let objcg = vm.objcg().unwrap();
        thread::spawn("too much", move || objcg.try_charge(6).expect_err("the tenant has room for 4").counter())
            .unwrap()
    };
    let fits = vm.objcg().unwrap().try_charge(4).is_ok();
    let counter = too_much.join().unwrap();
    let object = if fits { 4 } else { 0 };
    assert_eq!([&vm, &tenant].map(currents), [[object, object], [object, 6 + object]]);
    (fits, counter)
}

#[test]
fn object_vs_rolled_back_object_is_refused_by_nobody() {
    let seen = outcomes_of_costly(|| object_vs_rolled_back_object(8));
    assert_eq!(seen, BTreeSet::from([(true, Counter::Zswap), (true, Counter::Memory)]));
}

#[test]
fn object_vs_rolled_back_object_can_be_refused_without_patience() {
    let seen = outcomes_of_costly(|| object_vs_rolled_back_object(0));
    assert_eq!(seen, BTreeSet::from([(true, Counter::Zswap), (true, Counter::Memory), (false, Counter::Memory)]));
}

// === charge_vs_take_excess ===

/// What was seen of the excess, each time the memcg was given out.
fn charge_vs_take_excess(planted: Planted) -> Vec<u64> {
    let tree = tree(0, planted);
    let vm = tree.root().mkdir("vm").unwrap();
    vm.set_high(5).unwrap();
    vm.objcg().unwrap().try_charge(6).unwrap(); // noted
    let charger = {
        let objcg = vm.objcg().unwrap();
        thread::spawn("charger", move || objcg.try_charge(1).unwrap()).unwrap()
    };
    let mut seen = Vec::new();
    let mut take = || tree.take_excess(|memcg| seen.push(memcg.excess().map_or(0, |(_, bytes)| bytes)));
    take();
    charger.join().unwrap();
    take();
    assert_eq!(seen.last(), Some(&2), "an excess that nobody is told of");
    seen
}

#[test]
fn charge_vs_take_excess_tells_of_every_byte() {
    let seen = outcomes(|| charge_vs_take_excess(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([vec![1, 2], vec![2], vec![2, 2]]));
}

#[test]
fn charge_vs_take_excess_catches_a_flag_cleared_too_late() {
    let message = catches(|| outcomes(|| charge_vs_take_excess(Planted::bug(Bug::ExcessClearedLate))));
    assert!(message.contains("nobody is told of"), "{message}");
}

// === charge_vs_set_high ===

/// How many found the memcg above its mark.
fn charge_vs_set_high(planted: Planted) -> usize {
    let tree = tree(0, planted);
    let vm = tree.root().mkdir("vm").unwrap();
    let charger = {
        let (tree, objcg) = (tree.clone(), vm.objcg().unwrap());
        thread::spawn("charger", move || {
            objcg.try_charge(6).unwrap();
            taken(&tree)
        })
        .unwrap()
    };
    vm.set_high(5).unwrap();
    let noted = taken(&tree) + charger.join().unwrap() + taken(&tree);
    assert!(noted > 0, "an excess that nobody is told of");
    noted
}

fn taken(tree: &Tree) -> usize {
    let mut taken = 0;
    tree.take_excess(|_| taken += 1);
    taken
}

#[test]
fn charge_vs_set_high_is_noted_by_one_of_them() {
    let seen = outcomes(|| charge_vs_set_high(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

#[test]
fn charge_vs_set_high_catches_a_mark_set_too_late() {
    let message = catches(|| outcomes(|| charge_vs_set_high(Planted::bug(Bug::MarkSetLate))));
    assert!(message.contains("nobody is told of"), "{message}");
}

// === excess_vs_recycling ===

/// Whether the charge began before the removal.
fn excess_vs_recycling(planted: Planted) -> bool {
    let tree = tree(0, planted);
    let tenant = tree.root().mkdir("tenant").unwrap();
    let old = tenant.mkdir("old").unwrap();
    let index = old.index();
    tenant.set_high(5).unwrap();
    let charger = {
        let (tree, objcg) = (tree.clone(), old.objcg().unwrap());
        thread::spawn("charger", move || {
            let before = tree.group_of(objcg.id()).depth() == 2;
            objcg.try_charge(6).unwrap();
            before
        })
        .unwrap()
    };
    old.offline().unwrap();
    drop(old);
    let new = tree.root().mkdir("new").unwrap();
    assert_eq!(new.index(), index);
    let before = charger.join().unwrap();
    let mut noted = Vec::new();
    tree.take_excess(|memcg| noted.push(memcg));
    assert!(noted.contains(&tenant), "an excess that nobody is told of");
    assert_eq!(tenant.peak(Counter::Memory), 6);
    before
}

#[test]
fn excess_vs_recycling_is_noted_whoever_has_the_index() {
    let seen = outcomes_of_costly(|| excess_vs_recycling(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn excess_vs_recycling_catches_a_second_walk_from_where_the_first_began() {
    let message = catches(|| outcomes(|| excess_vs_recycling(Planted::bug(Bug::NoticeTrustsStart))));
    assert!(message.contains("nobody is told of"), "{message}");
}

// === peak_vs_uncharge ===

/// What was charged when somebody looked.
fn peak_vs_uncharge(planted: Planted) -> u64 {
    let tree = tree(0, planted);
    let root = tree.root();
    let id = page(&tree, &root, 3);
    let spawn = |name, step: fn(&Tree, ObjcgId)| {
        let tree = tree.clone();
        thread::spawn(name, move || step(&tree, id)).unwrap()
    };
    let charger = spawn("charger", |tree, id| tree.charge(id, Counter::Memory, 2).unwrap());
    let freer = spawn("freer", |tree, id| tree.uncharge(id, Counter::Memory, 1));
    let current = root.current(Counter::Memory);
    charger.join().unwrap();
    freer.join().unwrap();
    assert!(root.peak(Counter::Memory) >= current, "somebody saw more than the peak");
    current
}

#[test]
fn peak_vs_uncharge_is_all_that_anybody_saw() {
    let seen = outcomes(|| peak_vs_uncharge(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([2, 3, 4, 5]));
}

#[test]
fn peak_vs_uncharge_catches_one_that_only_chargers_raise() {
    let message = catches(|| outcomes(|| peak_vs_uncharge(Planted::bug(Bug::UnchargeSkipsPeak))));
    assert!(message.contains("more than the peak"), "{message}");
}

// === prepaid_vs_set_max ===

/// What was charged as Memory once the limit was set.
fn prepaid_vs_set_max(planted: Planted) -> u64 {
    let tree = tree(2, planted);
    let vm = tree.root().mkdir("vm").unwrap();
    let id = page(&tree, &vm, 8);
    let storer = {
        let (tree, vm) = (tree.clone(), vm.clone());
        thread::spawn("storer", move || tree.enter_prepaid(&vm, NODE, object(3), None, 8).map(drop)).unwrap()
    };
    vm.set_max(Counter::Memory, 2).unwrap();
    let memory = vm.current(Counter::Memory);
    tree.charge(id, Counter::Memory, 1).expect_err("more than there may be is charged already");
    storer.join().unwrap().expect("no memory.max refuses what is charged already");
    assert_eq!(currents(&vm), [3, 3]);
    assert_eq!(taken(&tree), 1, "the limit was set below what is charged");
    tree.put(id); // the page's
    tree.assert_quiet();
    memory
}

#[test]
fn prepaid_vs_set_max_is_refused_by_nobody() {
    let seen = outcomes(|| prepaid_vs_set_max(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([3, 8]));
}

#[test]
fn prepaid_vs_set_max_catches_an_object_charged_anew() {
    let message = catches(|| outcomes(|| prepaid_vs_set_max(Planted::bug(Bug::PrepaidChargesAnew))));
    assert!(message.contains("no memory.max refuses"), "{message}");
}

// === prepaid_vs_offline ===

/// Whether the object came to be.
fn prepaid_vs_offline(planted: Planted) -> bool {
    let tree = tree(0, planted);
    let old = tree.root().mkdir("old").unwrap();
    let id = page(&tree, &old, 8);
    let storer = {
        // The handle keeps the index as long as it is there.
        let (tree, old) = (tree.clone(), old.clone());
        thread::spawn("storer", move || match tree.enter_prepaid(&old, NODE, object(3), None, 8) {
            Ok(stored) => {
                assert_eq!(stored, id, "the object is another owner's than the page");
                drop(old);
                tree.leave(stored, NODE, object(3), 3);
                true
            }
            Err(error) => {
                assert!(matches!(error, ChargeError::Offline(_)), "{error}");
                drop(old);
                tree.uncharge(id, Counter::Memory, 8);
                false
            }
        })
        .unwrap()
    };
    old.offline().unwrap();
    drop(old);
    let new = tree.root().mkdir("new").unwrap();
    let stored = storer.join().unwrap();
    assert_eq!(currents(&new), [0, 0], "the new memcg");
    assert_eq!(currents(&tree.root()), [0, 0], "the root");
    tree.put(id); // the page's
    tree.assert_quiet();
    stored
}

#[test]
fn prepaid_vs_offline_pays_once() {
    let seen = outcomes(|| prepaid_vs_offline(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn prepaid_vs_offline_catches_an_uncharge_without_generation() {
    let message = catches(|| outcomes(|| prepaid_vs_offline(Planted::bug(Bug::UnchargeSkipsGeneration))));
    assert!(message.contains("the new memcg") || message.contains("the root"), "{message}");
}

// === forced_vs_offline ===

/// Whether a limit was passed.
fn forced_vs_offline(planted: Planted) -> bool {
    let tree = tree(0, planted);
    let old = tree.root().mkdir("old").unwrap();
    old.set_max(Counter::Memory, 4).unwrap();
    let objcg = old.objcg().unwrap();
    let charger = {
        let tree = tree.clone();
        thread::spawn("charger", move || {
            let passed = tree.charge_anyway(objcg.id(), Counter::Memory, 8);
            tree.uncharge(objcg.id(), Counter::Memory, 8);
            passed.map(|past| assert_eq!((past.limit, past.bytes), (4, 4))).is_some()
        })
        .unwrap()
    };
    old.offline().unwrap();
    drop(old);
    let new = tree.root().mkdir("new").unwrap();
    let passed = charger.join().unwrap();
    assert_eq!(currents(&new), [0, 0], "the new memcg");
    assert_eq!(currents(&tree.root()), [0, 0], "the root");
    tree.assert_quiet();
    passed
}

#[test]
fn forced_vs_offline_leaves_exact_sums() {
    // Charged in its own memcg it passed the limit, unless that was gone before it could be said, or before it was charged.
    assert_eq!(outcomes_of_costly(|| forced_vs_offline(Planted::NONE)), BTreeSet::from([false, true]));
}

#[test]
fn forced_vs_offline_catches_one_that_charges_any_life() {
    let message = catches(|| outcomes(|| forced_vs_offline(Planted::bug(Bug::ForceSkipsGeneration))));
    assert!(message.contains("the new memcg") || message.contains("the root"), "{message}");
}

// === forced_vs_charge ===

/// Whether the one that asks came through; by how much the other passed the limit.
fn forced_vs_charge(planted: Planted) -> (bool, u64) {
    let tree = tree(0, planted);
    let vm = tree.root().mkdir("vm").unwrap();
    vm.set_max(Counter::Memory, 10).unwrap();
    let objcg = vm.objcg().unwrap();
    let forcer = {
        let (tree, objcg) = (tree.clone(), objcg.clone());
        thread::spawn("forcer", move || tree.charge_anyway(objcg.id(), Counter::Memory, 6).map_or(0, |past| past.bytes))
            .unwrap()
    };
    let came = tree.charge(objcg.id(), Counter::Memory, 6).is_ok();
    let past = forcer.join().unwrap();
    assert_eq!(vm.current(Counter::Memory), if came { 12 } else { 6 });
    assert_eq!(vm.overshoot(), past);
    assert_eq!(past > 0, came, "the one that asks is let in above the limit, or refused below it");
    tree.uncharge(objcg.id(), Counter::Memory, if came { 12 } else { 6 });
    drop(objcg);
    tree.assert_quiet();
    (came, past)
}

#[test]
fn forced_vs_charge_passes_the_limit_by_what_is_forced() {
    assert_eq!(outcomes_of_costly(|| forced_vs_charge(Planted::NONE)), BTreeSet::from([(false, 0), (true, 2)]));
}

#[test]
fn forced_vs_charge_catches_a_limit_that_is_checked_and_then_charged() {
    let message = catches(|| outcomes(|| forced_vs_charge(Planted::bug(Bug::CheckThenCharge))));
    assert!(message.contains("is let in above the limit"), "{message}");
}
