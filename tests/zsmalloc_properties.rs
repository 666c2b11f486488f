//! Properties of the allocator under random operations, against a plain list of objects:
//!
//! 1. A handle reads what was written, until it is freed; a guard reads it also after.
//! 2. Every invariant of the layer holds after each operation (`assert_valid`), among them: the sum over live objects
//!    equals every memcg's counters on every node.
//! 3. Compaction changes no object, and wins exactly the frames it says; a second one right after wins none.
//! 4. Without objects no frame is owned, and nothing is charged.
//! 5. A refused store changes nothing.

use proptest::prelude::*;
use proptest::sample::Index;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Memcg, Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::NodeId;
use zspool::zsmalloc::{Error, Geometry, Handle, HandleError, Original, Pool, PoolConfig, TagSpace};

#[derive(Clone, Debug)]
enum Op {
    Store { len: usize, who: usize, node: u8, seed: u8 },
    Free(Index),
    FreeUnderGuard(Index),
    Read(Index),
    Compact { budget: u64 },
    Abandon { len: usize, who: usize },
    Offline,
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    // A few sizes, so that classes fill up; around the edges of frames and of classes.
    let len = prop_oneof![
        3 => prop::sample::select(vec![1usize, 31, 97, 700, 1600, 1632, 2048, 3000, 3840, 3841, 4095, 4096]),
        1 => 1usize..=4096,
    ];
    let store = (len.clone(), 0usize..4, 0u8..2, any::<u8>());
    prop_oneof![
        12 => store.prop_map(|(len, who, node, seed)| Op::Store { len, who, node, seed }),
        7 => any::<Index>().prop_map(Op::Free),
        1 => any::<Index>().prop_map(Op::FreeUnderGuard),
        2 => any::<Index>().prop_map(Op::Read),
        1 => prop_oneof![Just(u64::MAX), 0u64..20_000].prop_map(|budget| Op::Compact { budget }),
        1 => (len, 0usize..4).prop_map(|(len, who)| Op::Abandon { len, who }),
        1 => Just(Op::Offline),
        1 => Just(Op::Flush),
    ]
}

struct World {
    pool: Pool,
    tree: Tree,
    /// Who is charged: two memcgs below one that has a limit, the root, and nobody.
    who: [Option<Memcg>; 4],
    born: usize,
    live: Vec<(Handle, Vec<u8>)>,
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| seed.wrapping_add((i % 241) as u8)).collect()
}

impl World {
    fn new(geometry: Geometry, original: Original) -> Self {
        // Node 1 is small, so that stores for it spill.
        let topology = Topology::simulated(2).with_capacity(NodeId(1), 30 * 4096);
        let config = ArenaConfig { address_space: 1 << 26, warm_frames: 8, topology, ..ArenaConfig::default() };
        let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
        let parent = tree.root().mkdir("tenant").unwrap();
        parent.set_zswap_max(150_000).unwrap();
        let who = [Some(parent.mkdir("0").unwrap()), Some(parent.mkdir("1").unwrap()), Some(tree.root()), None];
        let arena = Arc::new(Arena::new(config).unwrap());
        let config = PoolConfig { geometry, original, accounting: Some(tree.clone()), ..PoolConfig::default() };
        World { pool: Pool::open(arena, config, &TagSpace::new()).unwrap(), tree, who, born: 2, live: Vec::new() }
    }

    fn malloc(&self, len: usize, who: usize, node: u8) -> Result<zspool::zsmalloc::Draft<'_>, HandleError> {
        let objcg = self.who[who].as_ref();
        let before = (self.pool.stats(), self.tree.root().usage());
        let result = self.pool.draft_for(objcg, len, NodeId(node));
        if let Err(error) = &result {
            assert!(matches!(error, HandleError::Pool(Error::Limit(_))), "{error}");
            let after = (self.pool.stats(), self.tree.root().usage());
            assert_eq!(before.1, after.1, "5: a refused store is not charged");
            assert_eq!(before.0.objects, after.0.objects, "5: a refused store holds no slot");
        }
        result
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Store { len, who, node, seed } => {
                let bytes = pattern(len, seed);
                let handle = self.malloc(len, who, node).map(|draft| draft.write(&bytes).unwrap());
                self.live.extend(handle.map(|handle| (handle, bytes)));
            }
            Op::Abandon { len, who } => drop(self.malloc(len, who, 0)),
            Op::Free(which) if !self.live.is_empty() => {
                let (handle, _) = self.live.swap_remove(which.index(self.live.len()));
                self.pool.remove(handle).unwrap();
                assert!(matches!(self.pool.remove(handle), Err(HandleError::Stale { .. })));
                assert!(matches!(self.pool.get(handle), Err(HandleError::Stale { .. })));
            }
            Op::FreeUnderGuard(which) if !self.live.is_empty() => {
                let (handle, bytes) = self.live.swap_remove(which.index(self.live.len()));
                let objects = self.pool.stats().objects;
                let (one, two) = (self.pool.get(handle).unwrap(), self.pool.get(handle).unwrap());
                self.pool.remove(handle).unwrap();
                drop(one);
                self.pool.assert_valid();
                let _ = self.pool.compact(u64::MAX);
                assert_eq!((&*two, self.pool.stats().objects), (&bytes[..], objects), "1: a guard keeps its object");
                drop(two);
                assert_eq!(self.pool.stats().objects, objects - 1, "1: the last guard returns the slot");
            }
            Op::Read(which) if !self.live.is_empty() => {
                let (handle, bytes) = &self.live[which.index(self.live.len())];
                self.pool.get(*handle).unwrap().with(|read| assert_eq!(read, bytes, "1"));
            }
            Op::Compact { budget } => {
                let before = self.pool.stats();
                let done = self.pool.compact(budget);
                let after = self.pool.stats();
                assert_eq!(
                    before.frame_bytes + done.frames_backed * 4096,
                    after.frame_bytes + done.frames_freed * 4096,
                    "3: frames won"
                );
                assert!(done.moved_bytes <= budget && done.busy == 0, "3: {done:?}");
                self.read_all();
                if !done.out_of_budget {
                    assert_eq!(self.pool.compact(u64::MAX), Default::default(), "3: nothing is left to win");
                }
            }
            Op::Offline => {
                // The older of the two goes, its objects become the tenant's; another comes in its place.
                let old = self.who[self.born % 2].take().unwrap();
                let tenant = old.parent().unwrap();
                old.offline().unwrap();
                self.who[self.born % 2] = Some(tenant.mkdir(&self.born.to_string()).unwrap());
                self.born += 1;
            }
            Op::Flush => {
                self.pool.flush();
                let stats = self.pool.stats();
                assert_eq!(self.pool.arena().backed_bytes(), stats.frame_bytes, "frames are backed if touched");
            }
            Op::Free(_) | Op::FreeUnderGuard(_) | Op::Read(_) => {}
        }
        self.pool.assert_valid();
    }

    fn read_all(&self) {
        for (handle, bytes) in &self.live {
            assert_eq!(&*self.pool.get(*handle).unwrap(), bytes, "1");
        }
    }

    fn end(mut self) {
        self.read_all();
        for (handle, _) in self.live.drain(..) {
            self.pool.remove(handle).unwrap();
        }
        self.pool.assert_valid();
        self.pool.flush();
        assert_eq!(self.pool.arena().backed_bytes(), 0, "4");
        assert_eq!(self.pool.stats(), Default::default(), "4");
        assert_eq!(self.tree.root().usage(), 0, "4");
        self.pool.close().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_pool_does_what_a_list_does(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(Geometry::default(), Original::Fixed(4096));
        for op in ops {
            world.run(op);
        }
        world.end();
    }

    #[test]
    fn the_kernels_geometry_does_as_well(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new(Geometry::kernel(8).unwrap(), Original::Payload);
        for op in ops {
            world.run(op);
        }
        world.end();
    }
}
