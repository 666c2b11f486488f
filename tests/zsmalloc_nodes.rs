//! Strict node masks, spilling and straddling in the allocator.
//!
//! 1. An object of a memcg with a mask lies on allowed nodes, whatever node was asked for, also in zspages with frames on
//!    several nodes; where none has room, the refusal has the numbers.
//! 2. After a mask was narrowed, `move_off` leaves nothing outside, or says how many bytes: those held, being written, or
//!    without room. Bytes, charges and names stay.
//! 3. An object on two nodes is split to the byte as the kernel's series has it, also after it was moved.
//! 4. After any operations, every memcg's counters on every node are the sum over a walk over the live objects, and nothing
//!    lies outside its mask (`counters_and_masks_hold_after_any_operations`).

use proptest::prelude::*;
use proptest::sample::Index;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Bytes4, Memcg, Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::{FRAME_SIZE, Frame, NodeId, NodeMask};
use zspool::zsmalloc::{Error, Geometry, Handle, HandleError, MovedOff, Pool, PoolConfig, TagSpace};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);
const FRAME: u64 = FRAME_SIZE as u64;

struct World {
    store: Pool,
    vm: Memcg,
}

fn mask(list: &str) -> NodeMask {
    list.parse().unwrap()
}

impl World {
    fn new(topology: Topology) -> Self {
        let nodes = topology.len();
        let config = ArenaConfig { address_space: 1 << 24, commit_ahead: 1, topology, ..ArenaConfig::default() };
        let tree = Tree::new(TreeConfig { nodes, ..TreeConfig::default() });
        let vm = tree.root().mkdir("vm").unwrap();
        // With slots of 1632 bytes, as in the worked example.
        let geometry = Geometry::new(32, 32, 16).unwrap();
        let config_ = PoolConfig { accounting: Some(tree), geometry, ..PoolConfig::default() };
        let store = Pool::open(Arc::new(Arena::new(config).unwrap()), config_, &TagSpace::new()).unwrap();
        World { store, vm }
    }

    fn pool(&self) -> &Pool {
        &self.store
    }

    fn put(&self, memcg: &Memcg, len: usize, node: NodeId, seed: u8) -> Result<Handle, Error> {
        let draft = self.store.draft_for(Some(memcg), len, node).map_err(|error| match error {
            HandleError::Pool(error) => error,
            other => panic!("{other}"),
        })?;
        Ok(draft.write(&pattern(len, seed)).unwrap())
    }

    fn check(&self, handle: Handle, len: usize, seed: u8) {
        assert!(*self.store.get(handle).unwrap() == pattern(len, seed), "{handle:?} is not what was written");
    }

    fn leave(&self, memcg: &Memcg, nodes: &str) -> MovedOff {
        memcg.set_nodes(mask(nodes)).unwrap();
        self.pool().move_off(memcg, |moving| moving.switch())
    }

    /// Compressed bytes by node.
    fn on(&self, memcg: &Memcg) -> Vec<u64> {
        memcg.numa_stat().unwrap().iter().map(|bytes| bytes.compressed).collect()
    }

    fn assert_valid(&self) {
        self.store.assert_valid();
        assert_eq!(walk(self.pool()), counted(self.pool()), "what is counted is what lies there");
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| seed.wrapping_add((i % 241) as u8)).collect()
}

/// Compressed and original bytes by memcg and node, from where each object's bytes lie: written down here once more.
fn walk<C: zspool::zsmalloc::Cells>(pool: &Pool<C>) -> Vec<Vec<(u64, u64)>> {
    let tree = pool.accounting().unwrap();
    let memcgs = tree.root().subtree();
    let mut sums = vec![vec![(0, 0); tree.nodes()]; memcgs.len()];
    pool.for_each_object(|object| {
        if object.objcg.is_none() {
            return;
        }
        let (start, size) = (object.location.offset(), object.slot_bytes);
        let mut on = vec![0u64; tree.nodes()];
        (start..start + size).step_by(16).for_each(|at| {
            on[pool.arena().node_of(Frame((at / FRAME_SIZE) as u32)).index()] += 16;
        });
        let first = pool.arena().node_of(Frame((start / FRAME_SIZE) as u32)).index();
        let first_original = 4096 * on[first] / size as u64;
        let owner = tree.get(tree.group_of(object.objcg)).unwrap();
        for (memcg, sums) in memcgs.iter().zip(&mut sums) {
            let mut up = Some(owner.clone());
            while up.as_ref().is_some_and(|up| up != memcg) {
                up = up.unwrap().parent();
            }
            if up.is_some() {
                for (node, &bytes) in on.iter().enumerate().filter(|&(_, &bytes)| bytes > 0) {
                    let original = if node == first { first_original } else { 4096 - first_original };
                    sums[node].0 += bytes;
                    sums[node].1 += original;
                }
            }
        }
    });
    sums
}

fn counted<C: zspool::zsmalloc::Cells>(pool: &Pool<C>) -> Vec<Vec<(u64, u64)>> {
    let stats =
        |memcg: &Memcg| memcg.numa_stat().unwrap().iter().map(|b: &Bytes4| (b.compressed, b.original)).collect();
    pool.accounting().unwrap().root().subtree().iter().map(stats).collect()
}

#[test]
fn objects_lie_on_allowed_nodes_only() {
    let world = World::new(Topology::simulated(3).with_capacity(NodeId(2), 2 * FRAME));
    let other = world.vm.tree().root().mkdir("other").unwrap();
    world.vm.set_nodes(mask("1-2")).unwrap();
    for n in 0..8 {
        world.put(&world.vm, 2000, [N0, N1, NodeId(2)][n % 3], n as u8).unwrap();
        world.put(&other, 2000, N0, n as u8).unwrap();
    }
    assert_eq!((world.on(&world.vm)[0], world.on(&other)), (0, vec![8 * 2048, 0, 0]));
    assert_eq!(world.pool().bytes_outside(&world.vm), 0);
    // A child is bound by its parent's mask, and what a child left stays within the parent's.
    let child = world.vm.mkdir("child").unwrap();
    child.set_nodes(mask("0,2")).unwrap();
    let handles: Vec<_> = std::iter::from_fn(|| world.put(&child, 4096, N0, 1).ok()).collect();
    let refused = world.put(&child, 4096, N0, 1).unwrap_err();
    let text = "no room is left on the nodes 2, where the pool has 8192 bytes of at most 8192; free something there, or let \
                the memcg use more nodes (memory.zswap.nodes)";
    assert_eq!(refused.to_string(), text);
    assert!(!handles.is_empty() && world.on(&child)[..2] == [0, 0]);
    child.offline().unwrap();
    assert_eq!(world.pool().bytes_outside(&world.vm), 0);
    world.assert_valid();
}

#[test]
fn full_nodes_spill_by_distance_within_the_mask() {
    let topology = (0..4).fold(Topology::simulated(4), |t, node| t.with_capacity(NodeId(node), FRAME));
    let world = World::new(topology.with_distance(N0, NodeId(3), 12).with_distance(N0, NodeId(2), 15));
    world.vm.set_nodes(mask("0-2")).unwrap();
    let home = |handle| world.store.get(handle).unwrap().home_node().0;
    let homes: Vec<u8> = (0..3).map(|n| home(world.put(&world.vm, 4096, N0, n).unwrap())).collect();
    assert_eq!(homes, [0, 2, 1], "node 3 is nearer than 2, and not allowed");
    assert!(matches!(
        world.put(&world.vm, 4096, N0, 3),
        Err(Error::NodesFull { backed: 12288, capacity: Some(12288), .. })
    ));
    assert_eq!(world.on(&world.vm), [4096, 4096, 4096, 0]);
    assert_eq!(
        world.vm.read_file("memory.numa_stat").unwrap().lines().next(),
        Some("zswap N0=4096 N1=4096 N2=4096 N3=0")
    );
    assert_eq!(world.vm.usage(), 3 * 4096, "what is refused is not charged");
    world.put(&world.vm.tree().root(), 4096, N0, 3).unwrap();
    world.assert_valid();
}

#[test]
fn spilling_goes_by_the_distance_from_the_node_asked_for_though_that_is_not_allowed() {
    let topology = (0..4).fold(Topology::simulated(4), |t, node| t.with_capacity(NodeId(node), FRAME));
    let topology = topology.with_distance(N0, NodeId(1), 11).with_distance(N0, NodeId(3), 12);
    let world = World::new(topology.with_distance(N0, NodeId(2), 15).with_distance(N1, NodeId(2), 11));
    world.vm.set_nodes(mask("1-3")).unwrap();
    let home = |handle| world.store.get(handle).unwrap().home_node().0;
    let homes: Vec<u8> = (0..3).map(|n| home(world.put(&world.vm, 4096, N0, n).unwrap())).collect();
    assert_eq!(homes, [1, 3, 2], "node 2 is nearer to 1, but nobody asked for that");
    assert_eq!(world.on(&world.vm), [0, 4096, 4096, 4096]);
    world.assert_valid();
}

#[test]
fn narrowing_moves_what_lies_outside() {
    let world = World::new(Topology::simulated(2));
    let child = world.vm.mkdir("child").unwrap();
    let stranger = world.vm.tree().root().mkdir("stranger").unwrap();
    let mut objects = Vec::new();
    for (n, len) in [33, 700, 1610, 2048, 3000, 4096].into_iter().cycle().take(120).enumerate() {
        let memcg = [&world.vm, &child, &stranger][n % 3];
        objects.push((world.put(memcg, len, [N0, N1][n % 2], n as u8).unwrap(), len, n as u8));
    }
    let (usage, apart) = (world.vm.usage(), world.on(&stranger));
    assert!(world.pool().bytes_outside(&world.vm) == 0 && world.on(&world.vm)[0] > 0);
    let outside = world.on(&world.vm)[0];
    world.vm.set_nodes(mask("1")).unwrap();
    assert_eq!(world.pool().bytes_outside(&world.vm), outside);
    let done = world.pool().move_off(&world.vm, |moving| moving.switch());
    assert_eq!((done.moved_bytes, done.left_bytes), (outside, 0), "{done:?}");
    assert_eq!((world.on(&world.vm), world.on(&stranger)), (vec![0, usage], apart));
    assert_eq!((world.vm.usage(), world.pool().bytes_outside(&world.vm)), (usage, 0));
    for &(handle, len, seed) in &objects {
        world.check(handle, len, seed);
    }
    world.assert_valid();
    assert_eq!(
        world.pool().move_off(&world.vm, |moving| moving.switch()).moved_objects,
        0,
        "there is nothing left to move"
    );
    objects.into_iter().for_each(|(handle, ..)| world.store.remove(handle).unwrap());
    assert_eq!((world.vm.usage(), world.on(&world.vm)), (0, vec![0, 0]));
    world.assert_valid();
    world.pool().flush();
    assert_eq!(world.pool().arena().backed_bytes(), 0);
}

#[test]
fn what_cannot_be_moved_is_reported_and_moves_later() {
    let world = World::new(Topology::simulated(2).with_capacity(N1, 2 * FRAME));
    let handles: Vec<_> = (0..5).map(|n| world.put(&world.vm, 2048, N0, n).unwrap()).collect();
    let guard = world.store.get(handles[0]).unwrap();
    let draft = world.store.draft_for(Some(&world.vm), 4096, N0).unwrap();
    // Two frames hold four of the five; one of them is held, and a sixth is being written.
    let done = world.leave(&world.vm, "1");
    assert_eq!((done.moved_objects, done.moved_bytes, done.left_bytes), (4, 4 * 2048, 2048 + 4096), "{done:?}");
    assert!(done.refusal.is_none());
    assert!(*guard == pattern(2048, 0));
    drop(guard);
    let sixth = draft.write(&pattern(4096, 5)).unwrap();
    let done = world.pool().move_off(&world.vm, |moving| moving.switch());
    assert_eq!((done.moved_objects, done.left_bytes), (0, 2048 + 4096), "{done:?}");
    assert!(matches!(done.refusal, Some(Error::NodesFull { backed: 8192, capacity: Some(8192), .. })), "{done:?}");
    assert_eq!(world.pool().bytes_outside(&world.vm), 2048 + 4096);
    world.assert_valid();
    // A client that does not switch leaves everything as it is, and nothing behind.
    let before = world.pool().stats();
    world.store.remove(sixth).unwrap();
    world.store.remove(handles[4]).unwrap();
    let _ = world.pool().move_off(&world.vm, |_| false);
    assert_eq!(world.pool().stats().objects, before.objects - 2);
    world.assert_valid();
    let done = world.pool().move_off(&world.vm, |moving| moving.switch());
    assert_eq!((done.moved_objects, done.left_bytes), (1, 0), "{done:?}");
    (0..4).for_each(|n| world.check(handles[n as usize], 2048, n));
    assert_eq!(world.on(&world.vm), [0, 4 * 2048]);
    world.assert_valid();
}

#[test]
fn a_full_home_makes_objects_straddle_nodes_and_each_byte_counts_where_it_lies() {
    let world = World::new(Topology::simulated(2).with_capacity(N0, FRAME).with_fallback());
    let handles: Vec<_> = (0..3).map(|n| world.put(&world.vm, 1632, N0, n).unwrap()).collect();
    let bytes = |compressed, original, payload| Bytes4 { compressed, original, payload, incompressible: 0 };
    // Slots of 1632 bytes: two in frame 0 on node 0, the third at offset 3264, its end in frame 1 on node 1.
    assert_eq!(
        world.vm.numa_stat().unwrap(),
        [bytes(2 * 1632 + 832, 2 * 4096 + 2088, 2 * 1632 + 832), bytes(800, 2008, 800)]
    );
    world.assert_valid();
    // Freed, the split ones take the same out.
    world.store.remove(handles[2]).unwrap();
    assert_eq!(world.vm.numa_stat().unwrap(), [bytes(2 * 1632, 2 * 4096, 2 * 1632), bytes(0, 0, 0)]);
    // The slot that straddles is not for an owner of node 0: there is no other there.
    let strict = world.vm.tree().root().mkdir("strict").unwrap();
    strict.set_nodes(mask("0")).unwrap();
    let refused = world.put(&strict, 1632, N0, 9).unwrap_err();
    assert!(matches!(refused, Error::NodesFull { capacity: Some(4096), .. }), "{refused}");
    // But one in frame 0 is.
    world.store.remove(handles[1]).unwrap();
    let fits = world.put(&strict, 1632, N0, 9).unwrap();
    assert_eq!(world.on(&strict), [1632, 0]);
    // (Else a frame of its own would cost less than to give the warm one on node 1 back.)
    world.pool().flush();
    let split = world.put(&world.vm, 1632, N0, 2).unwrap();
    assert_eq!(world.on(&world.vm), [1632 + 832, 800]);
    // One that may only lie on node 1 leaves the shared frame, with the part that lay right too.
    let done = world.leave(&world.vm, "1");
    assert_eq!((done.moved_objects, done.left_bytes), (2, 0), "{done:?}");
    assert_eq!(world.on(&world.vm), [0, 2 * 1632]);
    world.check(handles[0], 1632, 0);
    world.check(split, 1632, 2);
    world.assert_valid();
    [handles[0], split, fits].into_iter().for_each(|handle| world.store.remove(handle).unwrap());
    assert_eq!(world.vm.tree().root().numa_stat().unwrap(), [Bytes4::default(); 2]);
    world.assert_valid();
}

#[test]
fn compaction_moves_shares_and_keeps_masks() {
    // Frames of one zspage alternate between full nodes.
    let world =
        World::new(Topology::simulated(3).with_capacity(N0, 6 * FRAME).with_capacity(N1, 5 * FRAME).with_fallback());
    let strict = world.vm.tree().root().mkdir("strict").unwrap();
    strict.set_nodes(mask("0")).unwrap();
    let mut live = Vec::new();
    for n in 0..60u8 {
        let memcg = if n % 4 == 0 { &strict } else { &world.vm };
        if let Ok(handle) = world.put(memcg, 1610, N0, n) {
            live.push((handle, n));
        }
    }
    assert!(world.on(&world.vm).iter().all(|&bytes| bytes > 0) && world.on(&strict)[0] > 0);
    let mut n = 0;
    live.retain(|&(handle, _)| {
        n += 1;
        if n % 3 == 0 { true } else { world.store.remove(handle).map(|()| false).unwrap() }
    });
    let before = world.vm.usage() + strict.usage();
    let done = world.store.compact(u64::MAX);
    assert!(done.frames_freed > 0, "{done:?}");
    assert_eq!(world.pool().bytes_outside(&world.vm.tree().root()), 0, "compaction obeys masks");
    assert_eq!(world.vm.usage() + strict.usage(), before);
    world.assert_valid();
    live.iter().for_each(|&(handle, seed)| world.check(handle, 1610, seed));
}

#[test]
fn runs_that_are_longer_than_any_zspage_are_no_trouble_when_objects_move_off() {
    let topology = Topology::simulated(2);
    let config = ArenaConfig { address_space: 1 << 24, run_frames: 64, topology, ..ArenaConfig::default() };
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let vm = tree.root().mkdir("vm").unwrap();
    let config_ = PoolConfig { accounting: Some(tree), ..PoolConfig::default() };
    let pool = Pool::open(Arc::new(Arena::new(config).unwrap()), config_, &TagSpace::new()).unwrap();
    let stays = pool.insert_for(None, N0, &[2; 1000]).unwrap();
    let moves = pool.insert_for(Some(&vm), N0, &[1; 1000]).unwrap();
    vm.set_nodes(mask("1")).unwrap();
    assert_eq!(pool.move_off(&vm, |moving| moving.switch()).moved_objects, 1);
    assert_eq!((&*pool.get(stays).unwrap(), &*pool.get(moves).unwrap()), (&[2; 1000][..], &[1; 1000][..]));
    pool.assert_valid();
}

#[test]
fn classes_are_listed_by_home_node() {
    let world = World::new(Topology::simulated(2));
    for n in 0..6 {
        world.put(&world.vm, 4096, [N0, N1][n as usize / 4], n).unwrap();
    }
    let rows = world.pool().classes();
    let row = rows.0.last().unwrap();
    assert_eq!((row.obj_used, row.pages_used), (6, 6));
    // Compaction of a node looks at its lists only: node 1's two full frames stay as they are.
    let _ = world.pool().compact_node(N1, u64::MAX);
    assert_eq!(world.on(&world.vm), [4 * 4096, 2 * 4096]);
    world.assert_valid();
}

// === 4 ===

#[derive(Clone, Debug)]
enum Op {
    Store { len: usize, who: usize, node: u8, seed: u8 },
    Free(Index),
    FreeUnderGuard(Index),
    Compact,
    CompactNode(u8),
    Nodes { who: usize, bits: u64 },
    Hold { who: usize, bits: u64, which: Index },
    Offline { who: usize },
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![
        4 => prop::sample::select(vec![31usize, 700, 1610, 2048, 3000, 3840, 4096]),
        1 => 1usize..=4096,
    ];
    prop_oneof![
        14 => (len, 0..4usize, 0..3u8, any::<u8>()).prop_map(|(len, who, node, seed)| Op::Store { len, who, node, seed }),
        7 => any::<Index>().prop_map(Op::Free),
        1 => any::<Index>().prop_map(Op::FreeUnderGuard),
        1 => Just(Op::Compact),
        1 => (0..3u8).prop_map(Op::CompactNode),
        3 => (0..4usize, 0..9u64).prop_map(|(who, bits)| Op::Nodes { who, bits }),
        1 => (0..4usize, 1..8u64, any::<Index>()).prop_map(|(who, bits, which)| Op::Hold { who, bits, which }),
        1 => (1..4usize).prop_map(|who| Op::Offline { who }),
        1 => Just(Op::Flush),
    ]
}

fn topology() -> impl Strategy<Value = Topology> {
    (0..20u64, 4..30u64, any::<bool>()).prop_map(|(a, b, falls_back)| {
        let topology = Topology::simulated(3).with_capacity(N0, a * FRAME).with_capacity(N1, b * FRAME);
        let topology = topology.with_capacity(NodeId(2), 60 * FRAME).with_distance(N0, NodeId(2), 15);
        if falls_back { topology.with_fallback() } else { topology }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn counters_and_masks_hold_after_any_operations(
        topology in topology(),
        ops in prop::collection::vec(op(), 1..160),
    ) {
        let world = World::new(topology);
        let root = world.vm.tree().root();
        let parent = world.vm.clone();
        // A parent, two children of it, and one beside.
        let mut who = [parent.clone(), parent.mkdir("a").unwrap(), parent.mkdir("b").unwrap(), root.mkdir("c").unwrap()];
        let mut live: Vec<(Handle, usize, u8)> = Vec::new();
        // Bytes that a `move_off` has left outside: more there cannot be.
        let mut left = 0;
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Store { len, who: w, node, seed } => match world.put(&who[w], len, NodeId(node), seed) {
                    Ok(handle) => live.push((handle, len, seed)),
                    Err(Error::NodesFull { nodes, backed, capacity }) => {
                        prop_assert_eq!(nodes, who[w].nodes());
                        prop_assert!(backed <= capacity.unwrap());
                    }
                    Err(other) => panic!("{other}"),
                },
                Op::Free(which) if !live.is_empty() => {
                    let (handle, len, seed) = live.swap_remove(which.index(live.len()));
                    world.check(handle, len, seed);
                    world.store.remove(handle).unwrap();
                }
                Op::FreeUnderGuard(which) if !live.is_empty() => {
                    let (handle, len, seed) = live.swap_remove(which.index(live.len()));
                    let guard = world.store.get(handle).unwrap();
                    world.store.remove(handle).unwrap();
                    let _ = world.pool().move_off(&root, |moving| moving.switch());
                    prop_assert!(*guard == pattern(len, seed));
                }
                Op::Compact => _ = world.store.compact(u64::MAX),
                Op::CompactNode(node) => _ = world.pool().compact_node(NodeId(node), u64::MAX),
                Op::Nodes { who: w, bits } => {
                    let (before, asked) = (who.clone().map(|memcg| memcg.nodes()), NodeMask::from_bits(bits));
                    match who[w].set_nodes(asked) {
                        Ok(()) => {
                            let done = world.pool().move_off(&who[w], |moving| moving.switch());
                            prop_assert_eq!(done.left_bytes, world.pool().bytes_outside(&who[w]));
                            prop_assert_eq!(done.left_bytes > 0, done.refusal.is_some(), "only for want of room is anything left");
                        }
                        Err(_) => prop_assert_eq!(before, who.clone().map(|memcg| memcg.nodes()), "a refusal changes nothing"),
                    }
                    left = world.pool().bytes_outside(&root);
                }
                Op::Hold { who: w, bits, which } if !live.is_empty() => {
                    let (handle, len, seed) = live[which.index(live.len())];
                    let guard = world.store.get(handle).unwrap();
                    if who[w].set_nodes(NodeMask::from_bits(bits)).is_ok() {
                        let done = world.pool().move_off(&who[w], |moving| moving.switch());
                        prop_assert_eq!(done.left_bytes, world.pool().bytes_outside(&who[w]));
                    }
                    prop_assert!(*guard == pattern(len, seed));
                    left = world.pool().bytes_outside(&root);
                }
                Op::Offline { who: w } => {
                    who[w].offline().unwrap();
                    let above = if w == 3 { &root } else { &parent };
                    who[w] = above.mkdir(&format!("again{n}")).unwrap();
                }
                Op::Flush => _ = world.pool().flush(),
                Op::Free(_) | Op::FreeUnderGuard(_) | Op::Hold { .. } => {}
            }
            let outside = world.pool().bytes_outside(&root);
            prop_assert!(outside <= left, "{} bytes lie outside, and {} were left there", outside, left);
            left = outside;
            world.assert_valid();
        }
        live.iter().for_each(|&(handle, len, seed)| world.check(handle, len, seed));
        live.into_iter().for_each(|(handle, ..)| world.store.remove(handle).unwrap());
        world.assert_valid();
        prop_assert_eq!(root.numa_stat().unwrap(), [Bytes4::default(); 3]);
        prop_assert_eq!(root.usage(), 0);
        world.pool().flush();
        prop_assert_eq!(world.pool().arena().backed_bytes(), 0);
    }
}
