//! Interleavings of two threads that need no two threads to be seen: one side's steps are called one by one.

use super::cells::{Cells, Object};
use super::entry::Entry;
use super::geometry::Geometry;
use super::heap::Taker;
use super::pool::{Pool, PoolConfig};
use crate::arena::{Arena, ArenaConfig, Topology};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, Rank};
use crate::units::{Location, NodeId, Owner};
use std::collections::HashMap;

#[derive(Debug)]
struct Map(Mutex<HashMap<Owner, Object>>);

impl Cells for Map {
    fn object(&self, owner: Owner) -> Option<Object> {
        self.0.lock().get(&owner).copied()
    }
    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        match self.0.lock().get_mut(&owner) {
            Some(object) if object.location == from => object.location = to,
            _ => return false,
        }
        true
    }
}

fn pool() -> Pool<Map> {
    let config = ArenaConfig { address_space: 1 << 24, topology: Topology::simulated(1), ..ArenaConfig::default() };
    let cells = Map(Mutex::new(Rank::Leaf, HashMap::new()));
    Pool::new(Arc::new(Arena::new(config).unwrap()), cells, PoolConfig::default()).unwrap()
}

fn store(pool: &Pool<Map>, owner: Owner, len: usize) -> Location {
    let mut object = pool.malloc(None, len, NodeId(0)).unwrap();
    object.fill(|bytes| bytes.fill(owner.0 as u8));
    let published = object.publish(owner);
    let location = published.location();
    pool.cells.0.lock().insert(owner, Object { location, len });
    location
}

fn free(pool: &Pool<Map>, owner: Owner) {
    let Object { location, len } = pool.cells.0.lock().remove(&owner).unwrap();
    pool.free(owner, location, len);
}

fn pin(word: &AtomicU64, owner: Owner) {
    let entry = Entry::from_raw(word.load(Ordering::Relaxed));
    assert!(entry.is_live_of(owner));
    word.store(entry.pinned().unwrap().raw(), Ordering::Relaxed);
}

#[test]
fn an_object_is_not_moved_to_a_frame_that_is_warm_still() {
    let pool = pool();
    let class = Geometry::default().class_of(2048).unwrap();
    store(&pool, Owner(1), 2048);
    store(&pool, Owner(2), 2048); // the first frame is full, those after it are warm
    // Another thread's `malloc`, between taking its slot and having the frame backed.
    let spot = pool.heap.take(&mut pool.heap.lock(class, NodeId(0)), class, NodeId(0), 2048, Taker::ANYBODY).unwrap();
    assert_eq!(spot.frame, 1);
    free(&pool, Owner(1));
    let _ = pool.compact(u64::MAX);
    pool.arena().flush();
    let Object { location, len } = pool.cells.object(Owner(2)).unwrap();
    assert_eq!(&*pool.read(Owner(2), location, len).unwrap(), &[2; 2048]);
    pool.give_back(&spot, 2048);
    pool.assert_valid();
}

#[test]
fn a_pin_by_a_stale_location_gives_back_the_slot_it_held() {
    let pool = pool();
    store(&pool, Owner(2), 2200); // keeps the page of arrays in use
    let old = store(&pool, Owner(1), 2048);
    // A reader, between finding the entry and pinning it ..
    let (_, word) = pool.heap.find(old).unwrap();
    free(&pool, Owner(1));
    let new = store(&pool, Owner(1), 3000);
    let (spot, same) = pool.heap.find(new).unwrap();
    assert!(std::ptr::eq(word, same), "the array went to a zspage of another class");
    assert_eq!(spot.class, Geometry::default().class_of(3000).unwrap());
    // .. and between pinning it and seeing that the cell does not name what it looked for.
    pin(word, Owner(1));
    free(&pool, Owner(1));
    assert_eq!(pool.stats().objects, 2, "the pin keeps the object");
    pool.unpin_stray(word);
    assert_eq!(pool.stats().objects, 1);
    pool.assert_valid();
}
