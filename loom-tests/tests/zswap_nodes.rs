//! Races of strict node masks through the whole: an object and its LRU entry move to another node together.
//!
//! | model | race | bug planted |
//! |---|---|---|
//! | `free_vs_set_nodes` | free of a slot, against the move of its object and entry | RehomeOutsideTheLock |
//! | `store_vs_set_nodes` | a store over an older page, against narrowing | MallocTrustsFirstMask |
use loom_tests::{catches, outcomes, outcomes_of_costly, outcomes_of_long};
use std::collections::BTreeSet;
use zspool::arena::Topology;
use zspool::compress::{Codecs, Tagged};
use zspool::memcg::TreeConfig;
use zspool::sync::atomic::{AtomicBool, Ordering};
use zspool::sync::{Arc, Bug, Planted, thread};
use zspool::units::{NodeId, NodeMask, PAGE_SIZE, Slot};
use zspool::zsmalloc::Geometry;
use zspool::zswap::{Error, Zswap};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

/// A page that is not same-filled and that the stub codec makes two bytes of.
fn page(number: u8) -> Box<[u8; PAGE_SIZE]> {
    let mut page = Box::new([0; PAGE_SIZE]);
    page[0] = number;
    page
}

/// An instance of two nodes with a page on node 1, and its slot.
fn tiny(planted: Planted) -> (Arc<Zswap>, Slot) {
    let zswap = Zswap::builder()
        .codecs(Codecs::none().with(Tagged).unwrap())
        .codec("tagged")
        .compressing_threads(2)
        .pool_limit(1 << 20)
        .topology(Topology::simulated(2))
        .address_space(4 * 2 * 4096)
        .geometry(Geometry::new(2048, 2048, 2).unwrap())
        .warm_frames(0)
        .slots_in_use(4)
        .tree(TreeConfig { objcg_ids: 2, stripes: 1, patience: 0, ..TreeConfig::default() })
        .worker(false)
        .planted(planted)
        .build()
        .unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &zswap.root(), N1, &page(1)).unwrap();
    (Arc::new(zswap), slot)
}

/// Whether it was all done, with nothing left outside.
fn set_nodes(zswap: &Zswap) -> bool {
    match zswap.set_nodes(&zswap.root(), NodeMask::only(N0)) {
        Ok(()) => true,
        Err(Error::Busy { left_bytes, .. }) => {
            assert_eq!(left_bytes, 2048);
            false
        }
        Err(other) => panic!("{other}"),
    }
}

// === free_vs_set_nodes ===

/// Whether all was done, and whether the page was gone then.
fn free_vs_set_nodes(planted: Planted) -> (bool, bool) {
    let (zswap, slot) = tiny(planted);
    let freer = {
        let zswap = Arc::clone(&zswap);
        thread::spawn("freer", move || assert!(zswap.free(slot))).unwrap()
    };
    let done = set_nodes(&zswap);
    let freed = zswap.root().usage() == 0;
    freer.join().unwrap();
    assert_eq!(zswap.root().usage(), 0);
    zswap.assert_valid();
    (done, freed)
}

#[test]
fn a_free_and_a_move_of_an_entry_agree() {
    let seen = outcomes_of_costly(|| free_vs_set_nodes(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(true, true), (true, false)]));
}

#[test]
fn an_entry_that_moves_without_its_cluster_lock_is_caught() {
    let message = catches(|| outcomes(|| free_vs_set_nodes(Planted::bug(Bug::RehomeOutsideTheLock))));
    assert!(message.contains("L1"), "{message}");
}

// === store_vs_set_nodes ===

/// Whether all was done, and whether the store was over then.
fn store_vs_set_nodes(planted: Planted) -> (bool, bool) {
    let (zswap, slot) = tiny(planted);
    let stored = Arc::new(AtomicBool::new(false));
    let storer = {
        let (zswap, stored) = (Arc::clone(&zswap), Arc::clone(&stored));
        thread::spawn("storer", move || {
            zswap.store(slot, &zswap.root(), N1, &page(2)).unwrap();
            stored.store(true, Ordering::Relaxed);
        })
        .unwrap()
    };
    let done = set_nodes(&zswap);
    let over = stored.load(Ordering::Relaxed);
    storer.join().unwrap();
    let outside = zswap.pool().bytes_outside(&zswap.root());
    assert!(!done || outside == 0, "an object lies on a node after it was said that none does");
    let mut back = page(0);
    zswap.load(slot, &mut back).unwrap();
    assert_eq!(back[0], 2);
    zswap.assert_valid();
    (done, over)
}

#[test]
fn a_store_and_a_narrowed_mask_agree() {
    let seen = outcomes_of_long(|| store_vs_set_nodes(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(true, true), (true, false)]));
}

#[test]
fn a_store_that_trusts_its_first_look_at_the_mask_is_caught() {
    let message = catches(|| outcomes_of_long(|| store_vs_set_nodes(Planted::bug(Bug::MallocTrustsFirstMask))));
    assert!(message.contains("after it was said that none does"), "{message}");
}
