//! Compaction as its callers see it: by class, node, memcg and budget; what it says when objects are held; at the limit; and
//! by itself, when too much is wasted or nothing happens.

use std::time::{Duration, Instant};
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Memcg, Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::units::{Location, NodeId, Owner};
use zspool::zsmalloc::{
    Cells, ClassIndex, ClassStats, Compactor, DEFAULT_WASTE_PER_MILLE, End, Object, Pool, PoolConfig, ReadGuard,
};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

/// Frames of a class that compaction leaves behind at most, although fewer would do: rests of frames in several zspages,
/// none of which wins a frame if it is emptied.
const LEFT_OVER: u64 = 2;

/// A word per owner: location and length.
struct Words(Vec<AtomicU64>);

impl Cells for Words {
    fn object(&self, owner: Owner) -> Option<Object> {
        let word = self.0[owner.0 as usize].load(Ordering::Acquire);
        let location = || Location::from_raw(word & ((1 << 36) - 1));
        (word != 0).then(|| Object { location: location(), len: (word >> 40) as usize })
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let moved = |word: u64| {
            let from_raw = word & ((1 << 36) - 1);
            (word != 0 && from_raw == from.raw()).then_some(word - from_raw + to.raw())
        };
        self.0[owner.0 as usize].fetch_update(Ordering::AcqRel, Ordering::Acquire, moved).is_ok()
    }
}

struct World {
    pool: Arc<Pool<Words>>,
    root: Memcg,
}

fn world(change: impl FnOnce(&mut ArenaConfig)) -> World {
    let mut config = ArenaConfig { address_space: 1 << 30, topology: Topology::simulated(2), ..ArenaConfig::default() };
    change(&mut config);
    let arena = Arc::new(Arena::new(config).unwrap());
    let tree = Tree::new(TreeConfig { nodes: arena.topology().len(), ..TreeConfig::default() });
    let words = Words((0..100_000).map(|_| AtomicU64::new(0)).collect());
    let root = tree.root();
    let config = PoolConfig { accounting: Some(tree), ..PoolConfig::default() };
    World { pool: Arc::new(Pool::new(arena, words, config).unwrap()), root }
}

fn pattern(owner: u32, len: usize) -> Vec<u8> {
    (0..len).map(|i| (owner as usize * 31 + i) as u8).collect()
}

impl World {
    fn put(&self, owner: u32, len: usize, memcg: &Memcg, node: NodeId) {
        let mut object = self.pool.malloc(Some(memcg), len, node).unwrap();
        object.write(&pattern(owner, len)).unwrap();
        let published = object.publish(Owner(owner));
        let word = published.location().raw() | (len as u64) << 40;
        self.pool.cells().0[owner as usize].store(word, Ordering::Release);
    }

    fn free(&self, owner: u32) {
        let Object { location, len } = self.pool.cells().object(Owner(owner)).expect("it was put");
        self.pool.cells().0[owner as usize].store(0, Ordering::Release);
        self.pool.free(Owner(owner), location, len);
    }

    fn read(&self, owner: u32) -> ReadGuard<'_, Words> {
        let Object { location, len } = self.pool.cells().object(Owner(owner)).expect("it was put");
        self.pool.read(Owner(owner), location, len).expect("nobody moves it")
    }

    /// Objects `owners` of `len` bytes, of which the last but every third go: that leaves a third in nearly every frame.
    fn sparse(&self, owners: std::ops::Range<u32>, len: usize, memcg: &Memcg, node: NodeId) {
        owners.clone().for_each(|owner| self.put(owner, len, memcg, node));
        owners.filter(|owner| owner % 3 > 0).for_each(|owner| self.free(owner));
    }

    fn class_of(&self, len: usize) -> ClassIndex {
        self.pool.geometry().class_of(len).unwrap()
    }

    fn row(&self, len: usize) -> ClassStats {
        self.pool.classes().0.into_iter().find(|row| row.class == self.class_of(len)).unwrap()
    }

    fn freeable(&self, len: usize) -> u64 {
        self.row(len).freeable
    }

    fn check(&self) {
        for owner in 0..self.pool.cells().0.len() as u32 {
            if let Some(Object { len, .. }) = self.pool.cells().object(Owner(owner)) {
                assert_eq!(&*self.read(owner), pattern(owner, len), "{owner}");
            }
        }
        self.pool.assert_valid();
    }
}

#[test]
fn objects_fill_hardly_more_frames_than_side_by_side() {
    let world = world(|_| ());
    let lens = [500, 1300, 1480, 2700, 3000];
    for (k, len) in lens.into_iter().enumerate() {
        world.sparse(k as u32 * 1000..k as u32 * 1000 + 999, len, &world.root, N0);
    }
    let before = world.pool.stats();
    let done = world.pool.compact(u64::MAX);
    assert_eq!(done.end(), End::NothingToWin);
    assert!(done.frames_backed > 0, "slots in untouched frames were used: {done:?}");
    let after = world.pool.stats();
    assert_eq!(before.frame_bytes - after.frame_bytes, done.frames_won() * 4096);
    for row in world.pool.classes().0.into_iter().filter(|row| row.obj_used > 0) {
        assert!(row.freeable <= LEFT_OVER, "{row:?}");
    }
    world.check();
    let stats = world.pool.compaction_stats();
    assert_eq!((stats.calls, stats.moved_objects, stats.moved_bytes), (1, done.moved_objects, done.moved_bytes));
    assert_eq!((stats.pages_compacted, stats.busy, stats.automatic_passes), (done.frames_won(), 0, 0));
    assert!(stats.freeable <= lens.len() as u64 * LEFT_OVER, "{stats:?}");
    assert_eq!(world.pool.compact(u64::MAX), Default::default());
}

#[test]
fn a_class_is_compacted_alone() {
    let world = world(|_| ());
    world.sparse(0..300, 1300, &world.root, N0);
    world.sparse(300..600, 2700, &world.root, N0);
    let (ours, others) = (world.freeable(1300), world.freeable(2700));
    assert!(ours > 10 && others > 10);
    let done = world.pool.compact_class(world.class_of(1300), u64::MAX);
    assert!(done.frames_won() > 0);
    assert!(world.freeable(1300) <= LEFT_OVER, "{done:?}");
    assert_eq!(world.freeable(2700), others);
    world.check();
}

#[test]
#[should_panic(expected = "the geometry has no ClassIndex(9999) to compact")]
fn a_class_that_is_none_is_refused() {
    let _ = world(|_| ()).pool.compact_class(ClassIndex(9999), u64::MAX);
}

#[test]
fn a_node_is_compacted_alone() {
    let world = world(|_| ());
    world.sparse(0..300, 1300, &world.root, N0);
    world.sparse(300..600, 1300, &world.root, N1);
    let backed = |node| {
        world.pool.flush();
        world.pool.arena().backed_on(node)
    };
    let (zero, one) = (backed(N0), backed(N1));
    let done = world.pool.compact_node(N1, u64::MAX);
    assert!(done.frames_won() > 10, "{done:?}");
    assert_eq!((backed(N0), backed(N1)), (zero, one - done.frames_won() * 4096));
    world.check();
}

#[test]
fn a_memcg_is_compacted_with_those_below_it_and_others_stay() {
    let world = world(|_| ());
    let [a, b] = ["a", "b"].map(|name| world.root.mkdir(name).unwrap());
    let child = a.mkdir("child").unwrap();
    // All come before any goes, so that they have zspages of their own but for one.
    (0..480).for_each(|owner| world.put(owner, 1300, &child, N0));
    (480..960).for_each(|owner| world.put(owner, 1300, &b, N0));
    (0..960).filter(|owner| owner % 3 > 0).for_each(|owner| world.free(owner));
    let places = |owners: std::ops::Range<u32>| -> Vec<_> {
        owners.filter_map(|owner| world.pool.cells().object(Owner(owner))).collect()
    };
    let theirs = places(480..960);
    let ours = places(0..480);
    let done = world.pool.compact_memcg(&a, u64::MAX);
    assert!(done.frames_won() > 10, "{done:?}");
    assert_ne!(ours, places(0..480));
    let moved = theirs.iter().zip(places(480..960)).filter(|(old, new)| *old != new).count();
    assert!(moved <= 17, "at most those in the zspage that both are in, a third of 50: {moved}");
    world.check();
    assert_eq!(world.pool.compact_memcg(&a, u64::MAX).frames_won(), 0);
    let stranger = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() }).root();
    assert_eq!(world.pool.compact_memcg(&stranger, u64::MAX), Default::default());
    assert!(world.pool.compact_memcg(&b, u64::MAX).frames_won() > 10);
    world.check();
}

#[test]
fn held_objects_make_it_busy_and_it_says_so() {
    let world = world(|_| ());
    assert_eq!(world.pool.compact(u64::MAX).end(), End::NothingToWin, "an empty pool");
    world.sparse(0..300, 1300, &world.root, N0);
    let guards: Vec<_> = (0..300).step_by(3).map(|owner| world.read(owner)).collect();
    let done = world.pool.compact(u64::MAX);
    assert_eq!((done.end(), done.moved_objects, done.frames_freed), (End::Busy, 0, 0), "{done:?}");
    assert!(done.busy > 0);
    drop(guards);
    let done = world.pool.compact(u64::MAX);
    assert_eq!((done.end(), done.busy), (End::NothingToWin, 0));
    assert!(done.frames_won() > 10);
    // Nothing to win is not busy, whoever holds what.
    let _guard = world.read(0);
    assert_eq!(world.pool.compact(u64::MAX), Default::default());
    world.pool.assert_valid();
}

#[test]
fn a_budget_ends_it_early() {
    let world = world(|_| ());
    world.sparse(0..900, 1300, &world.root, N0);
    let size = world.pool.geometry().class(world.class_of(1300)).size() as u64;
    let done = world.pool.compact(5 * size + size / 2);
    assert_eq!((done.end(), done.moved_objects, done.moved_bytes), (End::OutOfBudget, 5, 5 * size));
    let done = world.pool.compact(size - 1);
    assert_eq!((done.end(), done.moved_objects), (End::OutOfBudget, 0));
    world.check();
    let mut rounds = 0;
    while world.pool.compact(20 * size).end() == End::OutOfBudget {
        rounds += 1;
        world.pool.assert_valid();
    }
    assert!(rounds > 5);
    assert!(world.freeable(1300) <= LEFT_OVER);
    world.check();
}

#[test]
fn at_the_limit_nothing_is_backed_and_frames_are_won_all_the_same() {
    let world = world(|_| ());
    world.sparse(0..600, 2700, &world.root, N0);
    world.pool.flush();
    world.pool.arena().set_limit(world.pool.arena().backed_bytes());
    // The first frame won makes room to back others.
    let done = world.pool.compact(u64::MAX);
    assert!(done.frames_won() > 10 && done.end() == End::NothingToWin, "{done:?}");
    assert!(world.freeable(2700) <= LEFT_OVER, "{done:?} {:?}", world.row(2700));
    world.check();
}

#[test]
fn without_memory_it_moves_to_slots_that_are_there() {
    let world = world(|c| c.topology = Topology::simulated(1));
    world.sparse(0..600, 2700, &world.root, N0);
    world.pool.flush();
    world.pool.arena().fail_commits_after(Some(0));
    let done = world.pool.compact(u64::MAX);
    assert!(done.frames_won() > 0, "{done:?}");
    world.check();
    // What was reserved for a frame that was refused is free again: all of it can be taken.
    world.pool.arena().fail_commits_after(None);
    let done = world.pool.compact(u64::MAX);
    assert_eq!(done.end(), End::NothingToWin);
    assert!(world.freeable(2700) <= LEFT_OVER, "{done:?} {:?}", world.row(2700));
    world.check();
}

// === by itself ===

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn waste_is_compacted_by_itself_and_an_idle_pool_sleeps() {
    let world = world(|_| ());
    let compactor = Compactor::start(&world.pool, Some(DEFAULT_WASTE_PER_MILLE)).unwrap();
    world.sparse(0..6000, 1300, &world.root, N0);
    wait_for("compaction starts by itself", || world.freeable(1300) < 40);
    wait_for("warm frames go when nothing happens", || {
        world.pool.arena().backed_bytes() == world.pool.stats().frame_bytes
    });
    let stats = world.pool.compaction_stats();
    assert!(stats.automatic_passes > 0 && stats.automatic_time > Duration::ZERO, "{stats:?}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.pool.compaction_stats().automatic_passes, stats.automatic_passes, "nothing to do, nothing done");
    world.check();
    let refused = Compactor::start(&world.pool, None).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists, "{refused}");
    drop(compactor);
    drop(Compactor::start(&world.pool, None).unwrap());
}

#[test]
fn without_a_share_only_warm_frames_go_by_themselves() {
    let world = world(|_| ());
    let _compactor = Compactor::start(&world.pool, None).unwrap();
    world.sparse(0..6000, 1300, &world.root, N0);
    wait_for("warm frames go when nothing happens", || {
        world.pool.arena().backed_bytes() == world.pool.stats().frame_bytes
    });
    assert!(world.freeable(1300) > 100);
    assert_eq!(world.pool.compaction_stats().calls, 0);
}

#[test]
fn frames_that_a_compaction_frees_go_by_themselves() {
    let world = world(|_| ());
    let at_rest = || {
        wait_for("warm frames go when nothing happens", || {
            world.pool.arena().backed_bytes() == world.pool.stats().frame_bytes
        });
    };
    let _compactor = Compactor::start(&world.pool, None).unwrap();
    world.sparse(0..6000, 1300, &world.root, N0);
    at_rest();
    std::thread::sleep(Duration::from_millis(300)); // now nobody wakes up by himself
    assert!(world.pool.compact(u64::MAX).frames_won() > 100);
    at_rest();
    // As well if a store that is not completed or a guard is all that happens.
    std::thread::sleep(Duration::from_millis(300));
    drop(world.pool.malloc(None, 4096, N0).unwrap());
    at_rest();
}

#[test]
fn what_was_held_is_tried_again() {
    let world = world(|_| ());
    let _compactor = Compactor::start(&world.pool, Some(DEFAULT_WASTE_PER_MILLE)).unwrap();
    (0..6000).for_each(|owner| world.put(owner, 1300, &world.root, N0));
    let guards: Vec<_> = (0..6000).step_by(3).map(|owner| world.read(owner)).collect();
    (0..6000).filter(|owner| owner % 3 > 0).for_each(|owner| world.free(owner));
    wait_for("a pass finds all of it held", || world.pool.compaction_stats().busy > 0);
    drop(guards);
    wait_for("and a later one does not", || world.freeable(1300) < 40);
}

#[test]
fn a_compactor_stops_in_the_middle_of_work() {
    for _ in 0..10 {
        let world = world(|_| ());
        let compactor = Compactor::start(&world.pool, Some(1)).unwrap();
        world.sparse(0..3000, 1300, &world.root, N0);
        drop(compactor);
        world.check();
    }
}

#[test]
fn an_instance_compacts_by_itself_unless_told_not_to() {
    use zspool::units::Page;
    use zspool::zswap::Zswap;
    let run = |share| {
        let builder = Zswap::builder().pool_limit(64 << 20).address_space(1 << 30).slots_in_use(1 << 16);
        let zswap = builder.automatic_compaction(share).build().unwrap();
        let base = zswap.reserve(12_000).unwrap().base();
        let root = zswap.root();
        let mut page = Page::zeroed();
        for k in 0..12_000u64 {
            // Bytes of noise, and zeroes: about 1300 bytes compressed.
            let mut noise = k + 1;
            for byte in &mut page[..1300] {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (noise >> 56) as u8;
            }
            zswap.store(base + k, &root, N0, &page).unwrap();
        }
        for k in (0..12_000).filter(|k| k % 3 > 0) {
            assert!(zswap.free(base + k));
        }
        (zswap, base)
    };
    let (zswap, base) = run(Some(DEFAULT_WASTE_PER_MILLE));
    let overhead = || {
        let stats = zswap.stats();
        stats.backed_bytes as f64 / stats.pool.payload_bytes as f64
    };
    wait_for("the worker compacts", || overhead() < 1.1);
    wait_for("it counts that when it is through", || zswap.pool().compaction_stats().automatic_passes > 0);
    // All freed, and nothing asked for.
    (0..12_000).step_by(3).for_each(|k| assert!(zswap.free(base + k)));
    wait_for("an idle instance gives frames back", || zswap.stats().backed_bytes == 0);
    let (zswap, _) = run(None);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(zswap.pool().compaction_stats().calls, 0);
}
