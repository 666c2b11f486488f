//! Models of interleavings found by reading.
//!
//! A reader with an old location pins an entry whose array has gone to another object of the same owner, which is then
//! freed: the reader's unpin returns that object's slot, and not the one it had been looking for.

use loom_tests::outcomes_of_costly;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::sync::Arc;
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{Cells, Geometry, Object, Pool, PoolConfig};

/// Cells of three owners: location and length, 0 for none.
#[derive(Debug, Default)]
struct Few([AtomicU64; 3]);

impl Few {
    fn name(&self, owner: Owner, object: Option<Object>) {
        let word = object.map_or(0, |object| object.location.raw() << 13 | object.len as u64);
        self.0[owner.0 as usize].store(word, Ordering::Release);
    }
}

impl Cells for Few {
    fn object(&self, owner: Owner) -> Option<Object> {
        let word = self.0[owner.0 as usize].load(Ordering::Acquire);
        (word != 0).then(|| Object { location: Location::from_raw(word >> 13), len: word as usize & 0x1fff })
    }
    fn relocate(&self, _owner: Owner, _from: Location, _to: Location) -> bool {
        unreachable!("nobody compacts")
    }
}

fn store(pool: &Pool<Few>, owner: Owner, len: usize) -> Object {
    let mut object = pool.malloc(None, len, NodeId(0)).unwrap();
    object.fill(|bytes| bytes[0] = len as u8);
    let published = object.publish(owner);
    let object = Object { location: published.location(), len };
    pool.cells().name(owner, Some(object));
    object
}

fn free(pool: &Pool<Few>, owner: Owner) {
    let object = pool.cells().object(owner).unwrap();
    pool.cells().name(owner, None);
    pool.free(owner, object.location, object.len);
}

#[test]
fn read_by_an_old_location_vs_free_store_free() {
    let seen = outcomes_of_costly(|| {
        let arena = ArenaConfig {
            address_space: 1 << 18,
            run_frames: 2,
            commit_ahead: 0,
            topology: Topology::simulated(1),
            ..ArenaConfig::default()
        };
        let config = PoolConfig { geometry: Geometry::new(1024, 16, 2).unwrap(), ..PoolConfig::default() };
        let pool = Arc::new(Pool::new(Arc::new(Arena::new(arena).unwrap()), Few::default(), config).unwrap());
        store(&pool, Owner(2), 1300); // keeps the page of arrays in use
        let old = store(&pool, Owner(1), 1024);
        // Two threads one after the other, so that their change costs no preemption.
        let replacing = {
            let pool = Arc::clone(&pool);
            loom::thread::spawn(move || {
                free(&pool, Owner(1));
                store(&pool, Owner(1), 1100);
            })
        };
        let freeing = {
            let pool = Arc::clone(&pool);
            loom::thread::spawn(move || {
                replacing.join().unwrap();
                free(&pool, Owner(1));
            })
        };
        let read = pool.read(Owner(1), old.location, old.len).is_some();
        freeing.join().unwrap();
        assert_eq!(pool.stats().objects, 1);
        pool.assert_valid();
        read
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [false, true]);
}
