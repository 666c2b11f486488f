//! The races of the allocator, on the real pool with tiny geometry: slots of multiples of 1024 bytes, so that one
//! tracked cell of memory belongs to one object, and zspages of two frames.
//!
//! Each model returns its outcome; the set of outcomes is asserted, so that a race that is not explored fails too.
//! Each has a twin with a bug planted that must fail: `catches` gives the message with which the explorer stops.
//!
//! | model | race | bugs planted |
//! |---|---|---|
//! | `read_vs_compaction` | a reader, against the move of its object and the next use of the slot | CompactionIgnoresPins |
//! | `read_vs_replace` | a reader with an old length, against free and store of the same owner | ReadSkipsRevalidation |
//! | `free_vs_compaction` | free, against the move of the object | CompactionIgnoresFree |
//! | `free_under_a_guard` | free and the next use of the slot, against a reader | FreeIgnoresPins |
//! | `publish_vs_free` | free of an object as soon as it is named, against its publisher | FreeIgnoresPins |
//! | `publish_vs_read` | a handle known too early, against its object being written | PublishBeforeWrite |
use loom_tests::{catches, outcomes};
use std::collections::BTreeSet;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Arc, Bug, Planted, thread};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{Cells, Geometry, Handle, HandleError, Object, Pool, PoolConfig, TagSpace};

/// Two slots of the class of 2048 bytes make a frame.
const LEN: usize = 2000;
const NODE: NodeId = NodeId(0);

/// Cells as zswap has them: a word per owner, location and length in it. 0 names nothing.
struct Words([AtomicU64; 4]);

impl Words {
    fn new() -> Self {
        Words(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn pack(object: Object) -> u64 {
        object.location.raw() | (object.len as u64) << 40
    }

    fn unpack(word: u64) -> Option<Object> {
        let location = || Location::from_raw(word & ((1 << 36) - 1));
        (word != 0).then(|| Object { location: location(), len: (word >> 40) as usize })
    }

    // A swap, for loom lets a read-modify-write miss a plain store that it races with.
    fn name(&self, owner: Owner, object: Object) {
        self.0[owner.0 as usize].swap(Self::pack(object), Ordering::AcqRel);
    }

    /// What a client does before it frees.
    fn take(&self, owner: Owner) -> Option<Object> {
        Self::unpack(self.0[owner.0 as usize].swap(0, Ordering::AcqRel))
    }
}

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        Self::unpack(self.0[owner.0 as usize].load(Ordering::Acquire))
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let word = &self.0[owner.0 as usize];
        let Some(object) = Self::unpack(word.load(Ordering::Acquire)).filter(|object| object.location == from) else {
            return false;
        };
        let (old, new) = (Self::pack(object), Self::pack(Object { location: to, ..object }));
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

type TinyPool = Pool<Words>;

fn arena() -> Arc<Arena> {
    let config = ArenaConfig {
        address_space: 4 * 8192,
        run_frames: 2,
        commit_ahead: 1,
        topology: Topology::simulated(1),
        ..ArenaConfig::default()
    };
    Arc::new(Arena::new(config).unwrap())
}

fn config(accounting: Option<Tree>, planted: Planted) -> PoolConfig {
    PoolConfig { geometry: Geometry::new(1024, 1024, 2).unwrap(), accounting, planted, ..PoolConfig::default() }
}

fn pool(accounting: Option<Tree>, planted: Planted) -> Arc<TinyPool> {
    Arc::new(Pool::new(arena(), Words::new(), config(accounting, planted)).unwrap())
}

/// Store an object whose bytes are `byte` and return where it is.
fn put(pool: &TinyPool, owner: Owner, len: usize, byte: u8) -> Location {
    let memcg = pool.accounting().map(|tree| tree.root());
    let mut object = pool.malloc(memcg.as_ref(), len, NODE).unwrap();
    object.write(&vec![byte; len]).unwrap();
    let published = object.publish(owner);
    pool.cells().name(owner, Object { location: published.location(), len });
    published.location()
}

/// Take an object out of its cell, if there is one, and free it.
fn remove(pool: &TinyPool, owner: Owner) -> Option<Location> {
    let Object { location, len } = pool.cells().take(owner)?;
    pool.free(owner, location, len);
    Some(location)
}

/// Read the owner's object until the cell names none: its length, where it was, and its bytes, all equal.
fn get(pool: &TinyPool, owner: Owner) -> Option<(Location, usize, u8)> {
    loop {
        let Object { location, len } = pool.cells().object(owner)?;
        if let Some(guard) = pool.read(owner, location, len) {
            let byte = guard.with(|bytes| {
                assert!(bytes.iter().all(|&byte| byte == bytes[0]), "{len} bytes are of two objects");
                bytes[0]
            });
            return Some((location, len, byte));
        }
    }
}

/// At the end of a model: nothing is lost, and nothing is left when all is freed.
fn finish(pool: &TinyPool) {
    pool.assert_valid();
    for owner in 0..4 {
        remove(pool, Owner(owner));
    }
    pool.assert_valid();
    assert_eq!(pool.stats().objects, 0, "every slot came back once");
}

/// Slots 0 (Z) and 2 (X) in use, so that X moves to slot 1, or, while somebody holds X, Z to slot 3.
fn sparse(pool: &TinyPool) -> (Owner, Location) {
    let [x, y, z] = [0, 1, 2].map(Owner);
    put(pool, z, LEN, 12);
    put(pool, y, LEN, 11);
    let location = put(pool, x, LEN, 10);
    remove(pool, y);
    (x, location)
}

// === read_vs_compaction ===

/// Whether the reader found the object where it was at first, and how many frames were busy.
fn read_vs_compaction(planted: Planted) -> (bool, u64) {
    let pool = pool(None, planted);
    let (x, old) = sparse(&pool);
    let found = Arc::new(AtomicU64::new(0));
    let reader = {
        let (pool, found) = (Arc::clone(&pool), Arc::clone(&found));
        thread::spawn("reader", move || {
            let (location, len, byte) = get(&pool, x).expect("nobody frees it");
            assert_eq!((len, byte), (LEN, 10), "what was stored is read");
            found.store(1 + u64::from(location == old), Ordering::Relaxed);
        })
        .unwrap()
    };
    let done = pool.compact(u64::MAX);
    // The next user of a slot that came free.
    put(&pool, Owner(3), LEN, 13);
    reader.join().unwrap();
    finish(&pool);
    (found.load(Ordering::Relaxed) == 2, done.busy)
}

#[test]
fn a_reader_and_a_move_agree() {
    let seen = outcomes(|| read_vs_compaction(Planted::NONE));
    // Read before, or pinned before the move and left alone, or pinned in the middle of it; or read after.
    assert_eq!(seen, BTreeSet::from([(true, 0), (true, 1), (false, 0)]));
}

#[test]
fn a_move_that_ignores_pins_is_caught() {
    let message = catches(|| outcomes(|| read_vs_compaction(Planted::bug(Bug::CompactionIgnoresPins))));
    assert!(message.contains("Causality violation"), "{message}");
}

// === read_vs_replace ===

/// What the reader saw: the old object, the new one, or none.
fn read_vs_replace(planted: Planted) -> u64 {
    let pool = pool(None, planted);
    let x = Owner(0);
    let old = put(&pool, x, LEN, 10);
    let seen = Arc::new(AtomicU64::new(0));
    let reader = {
        let (pool, seen) = (Arc::clone(&pool), Arc::clone(&seen));
        thread::spawn("reader", move || {
            let word = match get(&pool, x) {
                None => 0,
                Some((_, len, byte)) => {
                    assert!([(LEN, 10), (LEN - 100, 20)].contains(&(len, byte)), "{len} bytes of {byte}");
                    u64::from(byte)
                }
            };
            seen.store(word, Ordering::Relaxed);
        })
        .unwrap()
    };
    remove(&pool, x);
    let again = put(&pool, x, LEN - 100, 20);
    reader.join().unwrap();
    finish(&pool);
    seen.load(Ordering::Relaxed) + if again == old { 100 } else { 0 }
}

#[test]
fn a_reader_sees_the_old_object_or_the_new_one() {
    let seen = outcomes(|| read_vs_replace(Planted::NONE));
    // A guard on the old one makes the new one go elsewhere. Read before all of it, the slot is used again.
    assert_eq!(seen, BTreeSet::from([10, 110, 20, 120, 0, 100]));
}

#[test]
fn a_reader_that_does_not_look_again_is_caught() {
    let message = catches(|| outcomes(|| read_vs_replace(Planted::bug(Bug::ReadSkipsRevalidation))));
    assert!(message.contains("are of two objects"), "{message}");
}

// === free_vs_compaction ===

/// Whether the object was freed where it was at first, and objects moved.
fn free_vs_compaction(planted: Planted) -> (bool, u64) {
    let tree = Tree::new(TreeConfig { nodes: 1, stripes: 1, patience: 0, ..TreeConfig::default() });
    let pool = pool(Some(tree.clone()), planted);
    let (x, old) = sparse(&pool);
    let place = Arc::new(AtomicU64::new(0));
    let freer = {
        let (pool, place) = (Arc::clone(&pool), Arc::clone(&place));
        thread::spawn("freer", move || {
            let location = remove(&pool, x).expect("nobody else frees it");
            place.store(1 + u64::from(location == old), Ordering::Relaxed);
        })
        .unwrap()
    };
    let done = pool.compact(u64::MAX);
    freer.join().unwrap();
    finish(&pool);
    assert_eq!(tree.root().usage(), 0, "what was charged was given back once");
    (place.load(Ordering::Relaxed) == 2, done.moved_objects)
}

#[test]
fn a_free_and_a_move_agree() {
    let seen = outcomes(|| free_vs_compaction(Planted::NONE));
    // Freed after its move; or before, and nothing was left to move, or in the middle, and the other object moved.
    assert_eq!(seen, BTreeSet::from([(false, 1), (true, 0), (true, 1)]));
}

#[test]
fn a_move_that_ignores_a_free_is_caught() {
    let message = catches(|| outcomes(|| free_vs_compaction(Planted::bug(Bug::CompactionIgnoresFree))));
    assert!(message.contains("Owner(0) frees"), "{message}");
}

// === free_under_a_guard ===

/// Whether the reader saw the object, and whether the next one got its slot.
fn free_under_a_guard(planted: Planted) -> (bool, bool) {
    let pool = pool(None, planted);
    let (x, y) = (Owner(0), Owner(1));
    let old = put(&pool, x, LEN, 10);
    let seen = Arc::new(AtomicU64::new(0));
    let reader = {
        let (pool, seen) = (Arc::clone(&pool), Arc::clone(&seen));
        thread::spawn("reader", move || {
            if let Some((_, len, byte)) = get(&pool, x) {
                assert_eq!((len, byte), (LEN, 10), "a guard keeps what it reads");
                seen.store(1, Ordering::Relaxed);
            }
        })
        .unwrap()
    };
    remove(&pool, x);
    let next = put(&pool, y, LEN, 20);
    reader.join().unwrap();
    finish(&pool);
    (seen.load(Ordering::Relaxed) == 1, next == old)
}

#[test]
fn a_guard_keeps_a_freed_object() {
    let seen = outcomes(|| free_under_a_guard(Planted::NONE));
    // The slot is used again at once, or the guard had it.
    assert_eq!(seen, BTreeSet::from([(false, false), (false, true), (true, false), (true, true)]));
}

#[test]
fn a_free_that_ignores_pins_is_caught() {
    let message = catches(|| outcomes(|| free_under_a_guard(Planted::bug(Bug::FreeIgnoresPins))));
    assert!(message.contains("Causality violation"), "{message}");
}

// === publish_vs_free ===

/// Whether the object was freed by the other thread.
fn publish_vs_free(planted: Planted) -> bool {
    let pool = pool(None, planted);
    let x = Owner(0);
    let mut object = pool.malloc(None, LEN, NODE).unwrap();
    object.write(&[10; LEN]).unwrap();
    let freed = Arc::new(AtomicU64::new(0));
    let freer = {
        let (pool, freed) = (Arc::clone(&pool), Arc::clone(&freed));
        thread::spawn("freer", move || {
            freed.store(u64::from(remove(&pool, x).is_some()), Ordering::Relaxed);
        })
        .unwrap()
    };
    let published = object.publish(x);
    pool.cells().name(x, Object { location: published.location(), len: LEN });
    drop(published);
    freer.join().unwrap();
    let freed = freed.load(Ordering::Relaxed) == 1;
    assert_eq!(pool.stats().objects, u64::from(!freed), "the slot came back if it was freed");
    finish(&pool);
    freed
}

#[test]
fn an_object_can_be_freed_as_soon_as_it_is_named() {
    assert_eq!(outcomes(|| publish_vs_free(Planted::NONE)), BTreeSet::from([false, true]));
}

#[test]
fn a_free_that_ignores_the_publishers_pin_is_caught() {
    let message = catches(|| outcomes(|| publish_vs_free(Planted::bug(Bug::FreeIgnoresPins))));
    assert!(message.contains("E1: word 0 of page 1 is of no array"), "{message}");
}

// === publish_vs_read ===

/// Whether the handle was good already.
fn publish_vs_read(planted: Planted) -> bool {
    let pool = Arc::new(Pool::open(arena(), config(None, planted), &TagSpace::new()).unwrap());
    // What the first handle of a pool will be: index 0, generation 1, tag 0.
    let handle = Handle::from_raw(1 << 8);
    let draft = pool.draft(LEN).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let reader = {
        let (pool, seen) = (Arc::clone(&pool), Arc::clone(&seen));
        thread::spawn("reader", move || match pool.get(handle) {
            Ok(guard) => {
                guard.with(|bytes| assert_eq!(bytes, [10; LEN], "an object is read as it was written"));
                seen.store(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(matches!(error, HandleError::Stale { .. } | HandleError::OutOfRange { .. }), "{error}")
            }
        })
        .unwrap()
    };
    assert_eq!(draft.write(&[10; LEN]).unwrap(), handle);
    reader.join().unwrap();
    pool.assert_valid();
    pool.remove(handle).unwrap();
    pool.assert_valid();
    seen.load(Ordering::Relaxed) == 1
}

#[test]
fn a_handle_is_good_only_when_its_object_is_written() {
    assert_eq!(outcomes(|| publish_vs_read(Planted::NONE)), BTreeSet::from([false, true]));
}

#[test]
fn an_object_named_before_it_is_written_is_caught() {
    let message = catches(|| outcomes(|| publish_vs_read(Planted::bug(Bug::PublishBeforeWrite))));
    assert!(message.contains("Causality violation"), "{message}");
}
