//! Threads that pool, read and free at random while others compact: contents are verified all the time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::NodeId;
use zspool::zsmalloc::{Handle, Pool, PoolConfig, TagSpace};

/// A small generator; the seed says which run it was.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn check(bytes: &[u8]) {
    let seed = bytes[0];
    assert!(bytes.iter().enumerate().all(|(i, &b)| b == seed.wrapping_add((i % 253) as u8)), "{} bytes", bytes.len());
}

#[test]
fn contents_survive_threads_and_compaction() {
    let topology = Topology::simulated(2).with_capacity(NodeId(1), 100 * 4096);
    let config = ArenaConfig { address_space: 1 << 28, warm_frames: 16, topology, ..ArenaConfig::default() };
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let tenant = tree.root().mkdir("tenant").unwrap();
    let config =
        (Arc::new(Arena::new(config).unwrap()), PoolConfig { accounting: Some(tree.clone()), ..PoolConfig::default() });
    let pool = Pool::open(config.0, config.1, &TagSpace::new()).unwrap();
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    const LENS: [usize; 8] = [20, 100, 700, 1610, 2040, 3000, 3900, 4096];
    const OPS: usize = if cfg!(miri) { 60 } else { 6000 };

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    moved.fetch_add(pool.compact(u64::MAX).moved_objects, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        let workers: Vec<_> = (0..4u64)
            .map(|t| {
                let (pool, tenant) = (&pool, &tenant);
                scope.spawn(move || {
                    let mut random = Random(0x9e37_79b9_7f4a_7c15 + t);
                    let mut live: Vec<(Handle, usize)> = Vec::new();
                    for n in 0..OPS {
                        match random.below(10) {
                            0..4 if live.len() < 400 => {
                                let len = LENS[random.below(LENS.len())];
                                let draft = pool.draft_for(Some(tenant), len, NodeId(t as u8 % 2)).unwrap();
                                let bytes: Vec<u8> =
                                    (0..len).map(|i| (n as u8).wrapping_add((i % 253) as u8)).collect();
                                live.push((draft.write(&bytes).unwrap(), len));
                            }
                            4..7 if !live.is_empty() => {
                                let (handle, len) = live[random.below(live.len())];
                                let guard = pool.get(handle).unwrap();
                                assert_eq!(guard.len(), len);
                                check(&guard);
                            }
                            7 if !live.is_empty() => {
                                let (handle, _) = live.swap_remove(random.below(live.len()));
                                let guard = pool.get(handle).unwrap();
                                pool.remove(handle).unwrap();
                                check(&guard);
                            }
                            8..10 if !live.is_empty() => {
                                let (handle, _) = live.swap_remove(random.below(live.len()));
                                pool.remove(handle).unwrap();
                                assert!(pool.remove(handle).is_err());
                            }
                            _ => {}
                        }
                    }
                    live
                })
            })
            .collect();
        let live: Vec<(Handle, usize)> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        for &(handle, _) in &live {
            check(&pool.get(handle).unwrap());
        }
        for (handle, _) in live {
            pool.remove(handle).unwrap();
        }
    });
    assert!(cfg!(miri) || moved.load(Ordering::Relaxed) > 0, "compaction had something to do");
    pool.assert_valid();
    pool.flush();
    assert_eq!((pool.arena().backed_bytes(), tree.root().usage()), (0, 0));
    assert_eq!(pool.stats(), Default::default());
}
