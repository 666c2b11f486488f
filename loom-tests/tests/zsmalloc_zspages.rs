//! Races of whole zspages: the last objects go while others come, and two compactions at once.
//!
//! | model | race |
//! |---|---|
//! | `two_frees_vs_malloc` | frees of the last two objects of a zspage, against an allocation (R-3, R-4) |
//! | `two_compactions` | two threads compact the same class (R-8) |
//!
//! They have no twins: all of it happens in one section under one lock, and there is no step that a bug could leave out. Even
//! the end of an entry and its being counted out can be two sections without harm.
use loom_tests::outcomes;
use std::collections::BTreeSet;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Arc, thread};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{Cells, Geometry, Object, Pool, PoolConfig};

/// Two slots of the class of 2048 bytes make a frame, and two frames a zspage.
const LEN: usize = 2000;
const NODE: NodeId = NodeId(0);

/// A word per owner: where its object starts, plus one. 0 names nothing.
struct Words([AtomicU64; 5]);

fn object(word: u64) -> Option<Object> {
    word.checked_sub(1).map(|raw| Object { location: Location::from_raw(raw), len: LEN })
}

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        object(self.0[owner.0 as usize].load(Ordering::Acquire))
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let (old, new) = (from.raw() + 1, to.raw() + 1);
        self.0[owner.0 as usize].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

fn pool() -> Arc<Pool<Words>> {
    let config = ArenaConfig {
        address_space: 4 * 8192,
        run_frames: 2,
        commit_ahead: 1,
        topology: Topology::simulated(1),
        ..ArenaConfig::default()
    };
    let words = Words(std::array::from_fn(|_| AtomicU64::new(0)));
    let geometry = Geometry::new(2048, 2048, 2).unwrap();
    let config_ = PoolConfig { geometry, ..PoolConfig::default() };
    Arc::new(Pool::new(Arc::new(Arena::new(config).unwrap()), words, config_).unwrap())
}

fn put(pool: &Pool<Words>, owner: u32) -> Location {
    let mut object = pool.malloc(None, LEN, NODE).unwrap();
    object.write(&[owner as u8; LEN]).unwrap();
    let published = object.publish(Owner(owner));
    let location = published.location();
    pool.cells().0[owner as usize].swap(location.raw() + 1, Ordering::AcqRel);
    location
}

fn remove(pool: &Pool<Words>, owner: u32) {
    if let Some(Object { location, len }) = object(pool.cells().0[owner as usize].swap(0, Ordering::AcqRel)) {
        pool.free(Owner(owner), location, len);
    }
}

fn finish(pool: &Pool<Words>) {
    pool.assert_valid();
    (0..5).for_each(|owner| remove(pool, owner));
    pool.assert_valid();
    assert_eq!((pool.stats().objects, pool.arena().used_runs()), (0, 0), "every slot and run came back once");
}

// === two_frees_vs_malloc ===

/// Slot that the new object got.
fn two_frees_vs_malloc() -> usize {
    let pool = pool();
    put(&pool, 0);
    put(&pool, 1);
    let freer = {
        let pool = Arc::clone(&pool);
        thread::spawn("freer", move || remove(&pool, 0)).unwrap()
    };
    remove(&pool, 1);
    let location = put(&pool, 2);
    freer.join().unwrap();
    finish(&pool);
    location.offset() / 2048
}

#[test]
fn the_last_frees_of_a_zspage_and_a_malloc_agree() {
    let seen = outcomes(two_frees_vs_malloc);
    // Beside the one that is still there, or in its place, the zspage having gone or not.
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

// === two_compactions ===

/// Objects moved by each.
fn two_compactions() -> (u64, u64) {
    let pool = pool();
    for owner in 0..5 {
        put(&pool, owner);
    }
    remove(&pool, 1);
    let moved = Arc::new(AtomicU64::new(0));
    let other = {
        let (pool, moved) = (Arc::clone(&pool), Arc::clone(&moved));
        thread::spawn("other", move || {
            moved.store(pool.compact(u64::MAX).moved_objects, Ordering::Relaxed);
        })
        .unwrap()
    };
    let mine = pool.compact(u64::MAX).moved_objects;
    other.join().unwrap();
    pool.assert_valid();
    assert_eq!(pool.compact(u64::MAX).moved_objects, 0, "together they leave nothing to win");
    finish(&pool);
    (mine, moved.load(Ordering::Relaxed))
}

#[test]
fn two_compactions_share_the_work() {
    let seen = outcomes(two_compactions);
    assert_eq!(seen, BTreeSet::from([(1, 0), (0, 1)]));
}
