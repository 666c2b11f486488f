//! The races of strict node masks and of counting by node, on the real pool with tiny geometry and two nodes.
//!
//! Each model returns its outcome; the set of outcomes is asserted, so that a race that is not explored fails too.
//! Each has a twin with a bug planted that must fail: `catches` gives the message with which the explorer stops.
//!
//! | model | race | bug planted |
//! |---|---|---|
//! | `malloc_vs_set_nodes` | an object being allocated by the old mask, against narrowing and moving | MallocTrustsFirstMask |
//! | `malloc_of_stray_frames_vs_set_nodes` | the same with a frame that comes to lie elsewhere than its zspage's home | MallocTrustsFirstMask |
//! | `free_vs_move_off` | free, against the move of the object to another node (R-30, R-31) | MigrationCountsLate |
//! | `read_vs_move_off` | a reader, against the move and the next use of the slot (R-1) | CompactionIgnoresPins |
//! | `free_vs_compaction_across_nodes` | free, against a move between frames of two nodes (R-30) | CompactionIgnoresFree |
use loom_tests::{catches, outcomes, outcomes_of_costly, outcomes_of_long};
use std::collections::BTreeSet;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Bytes4, Memcg, Tree, TreeConfig};
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Arc, Bug, Planted, thread};
use zspool::units::{Location, NodeId, NodeMask, Owner};
use zspool::zsmalloc::{Cells, Error, Geometry, Object, Pool, PoolConfig};

/// Two slots of the class of 2048 bytes make a frame.
const LEN: usize = 2000;
const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

/// Cells as in the models of `zsmalloc`: a word per owner, location and length in it. 0 names nothing.
struct Words([AtomicU64; 4]);

fn pack(object: Object) -> u64 {
    object.location.raw() | (object.len as u64) << 40
}

fn unpack(word: u64) -> Option<Object> {
    let location = || Location::from_raw(word & ((1 << 36) - 1));
    (word != 0).then(|| Object { location: location(), len: (word >> 40) as usize })
}

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        unpack(self.0[owner.0 as usize].load(Ordering::Acquire))
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let word = &self.0[owner.0 as usize];
        let Some(object) = unpack(word.load(Ordering::Acquire)).filter(|object| object.location == from) else {
            return false;
        };
        let (old, new) = (pack(object), pack(Object { location: to, ..object }));
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

type TinyPool = Pool<Words>;

/// `patience`: how often `move_off` waits for an object that is held or being written.
fn pool(topology: Topology, patience: u32, planted: Planted) -> Arc<TinyPool> {
    let config =
        ArenaConfig { address_space: 4 * 8192, run_frames: 2, commit_ahead: 1, topology, ..ArenaConfig::default() };
    let tree = Tree::new(TreeConfig { nodes: 2, stripes: 1, stocks: 0, patience, ..TreeConfig::default() });
    let geometry = Geometry::new(2048, 2048, 2).unwrap();
    let config_ = PoolConfig { geometry, accounting: Some(tree), planted, ..PoolConfig::default() };
    let words = Words(std::array::from_fn(|_| AtomicU64::new(0)));
    Arc::new(Pool::new(Arc::new(Arena::new(config).unwrap()), words, config_).unwrap())
}

fn tree(pool: &TinyPool) -> &Tree {
    pool.accounting().unwrap()
}

/// Store an object near a node whose bytes are `byte` and return where it is.
fn put(pool: &TinyPool, owner: Owner, node: NodeId, byte: u8) -> Location {
    put_for(pool, &tree(pool).root(), owner, node, byte)
}

fn put_for(pool: &TinyPool, memcg: &Memcg, owner: Owner, node: NodeId, byte: u8) -> Location {
    let mut object = pool.malloc(Some(memcg), LEN, node).unwrap();
    object.write(&[byte; LEN]).unwrap();
    let published = object.publish(owner);
    let location = published.location();
    pool.cells().0[owner.0 as usize].swap(pack(Object { location, len: LEN }), Ordering::AcqRel);
    location
}

/// Take an object out of its cell, if there is one, and free it.
fn remove(pool: &TinyPool, owner: Owner) -> Option<Location> {
    let Object { location, len } = unpack(pool.cells().0[owner.0 as usize].swap(0, Ordering::AcqRel))?;
    pool.free(owner, location, len);
    Some(location)
}

/// Objects moved, and bytes left.
fn move_off(pool: &TinyPool) -> (u64, u64) {
    let done = pool.move_off(&tree(pool).root(), |moving| moving.switch());
    (done.moved_objects, done.left_bytes)
}

fn allow(pool: &TinyPool, node: NodeId) {
    tree(pool).root().set_nodes(NodeMask::only(node)).unwrap();
}

/// At the end of a model: every counter is right, and zero when all is freed.
fn finish(pool: &TinyPool) {
    pool.assert_valid();
    for owner in 0..4 {
        remove(pool, Owner(owner));
    }
    pool.assert_valid();
    assert_eq!(pool.stats().objects, 0, "every slot came back once");
    assert_eq!(tree(pool).root().usage(), 0, "what was charged was given back once");
    assert_eq!(tree(pool).root().numa_stat().unwrap(), [Bytes4::default(); 2]);
}

fn node_of(pool: &TinyPool, location: Location) -> NodeId {
    pool.arena().node_of(location.frame())
}

// === malloc_vs_set_nodes ===

/// Objects moved, whether any were left, and the node of the object in the end.
fn malloc_vs_set_nodes(planted: Planted) -> (u64, bool, u8) {
    let pool = pool(Topology::simulated(2), 1, planted);
    let x = Owner(0);
    let storer = {
        let pool = Arc::clone(&pool);
        thread::spawn("storer", move || {
            put(&pool, x, N1, 10);
        })
        .unwrap()
    };
    allow(&pool, N0);
    let (moved, left) = move_off(&pool);
    storer.join().unwrap();
    let outside = pool.bytes_outside(&tree(&pool).root());
    assert!(left > 0 || outside == 0, "an object lies on a node after it was said that none does");
    let location = pool.cells().object(x).unwrap().location;
    let node = node_of(&pool, location).0;
    // What was left moves now, for nobody holds it.
    assert_eq!((move_off(&pool), outside), ((u64::from(node == 1), 0), if node == 1 { 2048 } else { 0 }));
    finish(&pool);
    (moved, left > 0, node)
}

#[test]
fn no_object_comes_to_lie_outside_of_a_narrowed_mask() {
    let seen = outcomes_of_long(|| malloc_vs_set_nodes(Planted::NONE));
    // The new mask was seen; or the object was moved; or it was still being written, and said to be left.
    assert_eq!(seen, BTreeSet::from([(0, false, 0), (1, false, 0), (0, true, 1)]));
}

#[test]
fn a_malloc_that_trusts_its_first_look_at_the_mask_is_caught() {
    let message = catches(|| outcomes(|| malloc_vs_set_nodes(Planted::bug(Bug::MallocTrustsFirstMask))));
    assert!(message.contains("after it was said that none does"), "{message}");
}

// === malloc_of_stray_frames_vs_set_nodes ===

/// Whether the object was refused, objects moved, and whether any were left.
fn malloc_of_stray_frames_vs_set_nodes(planted: Planted) -> (bool, u64, bool) {
    // Node 0 has room for nothing: what is asked of it comes to lie on node 1, in zspages whose home is node 0.
    let pool = pool(Topology::simulated(2).with_capacity(N0, 0).with_fallback(), 0, planted);
    let refused = Arc::new(AtomicU64::new(0));
    let storer = {
        let (pool, refused) = (Arc::clone(&pool), Arc::clone(&refused));
        thread::spawn("storer", move || match pool.malloc(Some(&tree(&pool).root()), LEN, N0) {
            Ok(mut object) => {
                object.write(&[10; LEN]).unwrap();
                let published = object.publish(Owner(0));
                let object = Object { location: published.location(), len: LEN };
                pool.cells().0[0].swap(pack(object), Ordering::AcqRel);
            }
            Err(Error::NodesFull { nodes, .. }) => {
                assert_eq!(nodes, NodeMask::only(N0));
                refused.store(1, Ordering::Relaxed);
            }
            Err(other) => panic!("{other}"),
        })
        .unwrap()
    };
    allow(&pool, N0);
    let (moved, left) = move_off(&pool);
    storer.join().unwrap();
    let outside = pool.bytes_outside(&tree(&pool).root());
    assert!(left > 0 || outside == 0, "an object lies on a node after it was said that none does");
    finish(&pool);
    (refused.load(Ordering::Relaxed) == 1, moved, left > 0)
}

#[test]
fn no_object_comes_to_lie_in_a_frame_outside_of_a_narrowed_mask() {
    let seen = outcomes(|| malloc_of_stray_frames_vs_set_nodes(Planted::NONE));
    // Refused, the slot given back before it was looked at or after (and then it may have been said to be left); or stored
    // under the old mask, and said to be left, for there is no room for it.
    assert_eq!(seen, BTreeSet::from([(true, 0, false), (true, 0, true), (false, 0, true)]));
}

#[test]
fn a_malloc_that_trusts_where_its_frames_lay_is_caught() {
    let bug = Planted::bug(Bug::MallocTrustsFirstMask);
    let message = catches(|| outcomes(move || malloc_of_stray_frames_vs_set_nodes(bug)));
    assert!(message.contains("after it was said that none does"), "{message}");
}

// === free_vs_move_off ===

/// Whether the object was freed on its old node, and objects moved. Its memcg is removed, so that the objcg goes with the
/// object, and its id to the next memcg.
fn free_vs_move_off(planted: Planted) -> (bool, u64) {
    let pool = pool(Topology::simulated(2), 1, planted);
    let x = Owner(0);
    let old = tree(&pool).root().mkdir("old").unwrap();
    put_for(&pool, &old, x, N1, 10);
    old.offline().unwrap();
    drop(old);
    allow(&pool, N0);
    let place = Arc::new(AtomicU64::new(0));
    let freer = {
        let (pool, place) = (Arc::clone(&pool), Arc::clone(&place));
        thread::spawn("freer", move || {
            let location = remove(&pool, x).expect("nobody else frees it");
            place.store(1 + u64::from(node_of(&pool, location) == N1), Ordering::Relaxed);
            let next = tree(&pool).root().mkdir("next").unwrap();
            assert_eq!(next.numa_stat().unwrap(), [Bytes4::default(); 2], "a new memcg has nothing");
        })
        .unwrap()
    };
    let (moved, left) = move_off(&pool);
    freer.join().unwrap();
    // One that is being freed may be found outside and not be gone while we wait.
    assert!(left == 0 || moved == 0);
    finish(&pool);
    (place.load(Ordering::Relaxed) == 2, moved)
}

#[test]
fn a_free_and_a_move_to_another_node_agree() {
    let seen = outcomes_of_long(|| free_vs_move_off(Planted::NONE));
    assert_eq!(seen, BTreeSet::from([(true, 0), (false, 1)]));
}

#[test]
fn a_move_that_counts_too_late_is_caught() {
    let message = catches(|| outcomes(|| free_vs_move_off(Planted::bug(Bug::MigrationCountsLate))));
    assert!(message.contains("a new memcg has nothing"), "{message}");
}

// === read_vs_move_off ===

/// Whether the reader found the object on its old node, and whether it was moved.
fn read_vs_move_off(planted: Planted) -> (bool, bool) {
    let pool = pool(Topology::simulated(2), 0, planted);
    let x = Owner(0);
    let old = put(&pool, x, N1, 10);
    allow(&pool, N0);
    let found = Arc::new(AtomicU64::new(0));
    let reader = {
        let (pool, found) = (Arc::clone(&pool), Arc::clone(&found));
        thread::spawn("reader", move || {
            loop {
                let Object { location, len } = pool.cells().object(x).expect("nobody frees it");
                if let Some(guard) = pool.read(x, location, len) {
                    guard.with(|bytes| assert_eq!(bytes, [10; LEN], "what was stored is read"));
                    found.store(1 + u64::from(location == old), Ordering::Relaxed);
                    return;
                }
            }
        })
        .unwrap()
    };
    let (moved, left) = move_off(&pool);
    assert_eq!((moved == 1, left), (left == 0, (1 - moved) * 2048), "it is moved, or said to be left");
    // The next user of the slot, on the old node.
    tree(&pool).root().set_nodes(NodeMask::first(2)).unwrap();
    put(&pool, Owner(1), N1, 20);
    reader.join().unwrap();
    finish(&pool);
    (found.load(Ordering::Relaxed) == 2, moved == 1)
}

#[test]
fn a_reader_and_a_move_to_another_node_agree() {
    let seen = outcomes_of_costly(|| read_vs_move_off(Planted::NONE));
    // Read before or in the middle of the move, or after it; or held all the time.
    assert_eq!(seen, BTreeSet::from([(true, true), (false, true), (true, false)]));
}

#[test]
fn a_move_to_another_node_that_ignores_pins_is_caught() {
    let message = catches(|| outcomes(|| read_vs_move_off(Planted::bug(Bug::CompactionIgnoresPins))));
    assert!(message.contains("Causality violation"), "{message}");
}

// === free_vs_compaction_across_nodes ===

/// Whether the object was freed on node 1, where compaction takes it from, and objects moved.
fn free_vs_compaction_across_nodes(planted: Planted) -> (bool, u64) {
    // Node 0 has one frame: the second of the zspage comes to lie on node 1.
    let pool = pool(Topology::simulated(2).with_capacity(N0, 4096).with_fallback(), 1, planted);
    let near = put(&pool, Owner(0), N0, 10);
    put(&pool, Owner(1), N0, 11);
    let far = put(&pool, Owner(2), N0, 12);
    assert_eq!((node_of(&pool, near), node_of(&pool, far)), (N0, N1));
    remove(&pool, Owner(1));
    let place = Arc::new(AtomicU64::new(0));
    let freer = {
        let (pool, place) = (Arc::clone(&pool), Arc::clone(&place));
        thread::spawn("freer", move || {
            let location = remove(&pool, Owner(2)).expect("nobody else frees it");
            place.store(1 + u64::from(location == far), Ordering::Relaxed);
        })
        .unwrap()
    };
    let done = pool.compact(u64::MAX);
    freer.join().unwrap();
    finish(&pool);
    (place.load(Ordering::Relaxed) == 2, done.moved_objects)
}

#[test]
fn a_free_and_a_move_between_frames_of_two_nodes_agree() {
    let seen = outcomes(|| free_vs_compaction_across_nodes(Planted::NONE));
    // As in `free_vs_compaction`: freed after its move; or before, and nothing was left to move; or in the middle, and the
    // other one moved.
    assert_eq!(seen, BTreeSet::from([(false, 1), (true, 0), (true, 1)]));
}

#[test]
fn a_move_between_nodes_that_ignores_a_free_is_caught() {
    let message = catches(|| outcomes(|| free_vs_compaction_across_nodes(Planted::bug(Bug::CompactionIgnoresFree))));
    assert!(message.contains("frees"), "{message}");
}
