//! Who pays for an object, on which node, and that nobody pays when it is refused.

use zspool::arena::{self, Arena, ArenaConfig, Topology};
use zspool::memcg::{Bytes4, Counter, Memcg, Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::{Frame, NodeId};
use zspool::zsmalloc::{Error, Geometry, Handle, HandleError, Pool, PoolConfig, TagSpace};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

fn arena(topology: Topology) -> Arc<Arena> {
    let config = ArenaConfig { address_space: 1 << 24, commit_ahead: 1, topology, ..ArenaConfig::default() };
    Arc::new(Arena::new(config).unwrap())
}

fn pool(arena: Arc<Arena>) -> (Pool, Memcg) {
    let tree = Tree::new(TreeConfig { nodes: arena.topology().len(), ..TreeConfig::default() });
    let vm = tree.root().mkdir("vm").unwrap();
    // Slots of 1632 bytes are among these.
    let geometry = Geometry::new(32, 32, 16).unwrap();
    let config = PoolConfig { geometry, accounting: Some(tree), ..PoolConfig::default() };
    (Pool::open(arena, config, &TagSpace::new()).unwrap(), vm)
}

fn put(pool: &Pool, memcg: &Memcg, len: usize, node: NodeId) -> Result<Handle, HandleError> {
    pool.draft_for(Some(memcg), len, node)?.write(&vec![len as u8; len])
}

fn bytes(compressed: u64, original: u64, payload: u64) -> Bytes4 {
    Bytes4 { compressed, original, payload, incompressible: 0 }
}

#[test]
fn an_object_on_two_nodes_is_split_where_it_lies() {
    let arena = arena(Topology::simulated(2));
    let (pool, vm) = pool(Arc::clone(&arena));
    let mut split = None;
    let mut handles = Vec::new();
    // 40 slots of 1632 bytes make a zspage; the third starts at 3264 and straddles frames 0 and 1.
    for n in 0..40 {
        if n == 1 {
            // As a kernel does whose node is full: frames that the zspage will use come to lie elsewhere.
            [1, 2, 6, 11].into_iter().for_each(|frame| arena.ensure(Frame(frame), 1, N1).unwrap());
        }
        let before = vm.numa_stat().unwrap();
        handles.push(put(&pool, &vm, 1610, N0).unwrap());
        let mut after = vm.numa_stat().unwrap();
        after.iter_mut().zip(before).for_each(|(after, before)| {
            after.compressed -= before.compressed;
            after.original -= before.original;
            after.payload -= before.payload;
            after.incompressible -= before.incompressible;
        });
        if after[1].compressed == 800 {
            assert_eq!(split.replace(after), None, "one object has 800 bytes in frame 1");
        }
    }
    assert_eq!(split, Some(vec![bytes(832, 2088, 832), bytes(800, 2008, 1610 - 832)]));
    assert_eq!(vm.usage(), 40 * 1632);
    pool.assert_valid();
    let on = |node: usize| vm.numa_stat().unwrap()[node].compressed;
    assert_eq!(on(0) + on(1), 40 * 1632);
    assert_eq!(on(1), 4 * 4096, "four frames of node 1 are full");
    // Compaction moves shares with objects.
    for (i, handle) in handles.into_iter().enumerate() {
        if i % 3 > 0 {
            pool.remove(handle).unwrap();
        }
    }
    let done = pool.compact(u64::MAX);
    assert!(done.frames_freed > 0, "{done:?}");
    assert_eq!((vm.usage(), on(0) + on(1)), (14 * 1632, 14 * 1632));
    pool.assert_valid();
}

#[test]
fn raw_pages_count_as_incompressible() {
    let (pool, vm) = pool(arena(Topology::simulated(1)));
    put(&pool, &vm, 4096, N0).unwrap();
    put(&pool, &vm, 4095, N0).unwrap();
    let mut expected = bytes(8192, 8192, 8191);
    expected.incompressible = 4096;
    assert_eq!(vm.numa_stat().unwrap(), [expected]);
}

#[test]
fn a_full_node_sends_objects_to_the_nearest_other() {
    let topology = Topology::simulated(3)
        .with_capacity(N0, 2 * 4096)
        .with_capacity(N1, 4096)
        .with_capacity(NodeId(2), 4096)
        .with_distance(N0, N1, 30)
        .with_distance(N0, NodeId(2), 20);
    let (pool, vm) = pool(arena(topology));
    let homes: Vec<u8> = (0..4)
        .map(|_| {
            let handle = put(&pool, &vm, 4096, N0).unwrap();
            pool.get(handle).unwrap().home_node().0
        })
        .collect();
    assert_eq!(homes, [0, 0, 2, 1]);
    let refused = put(&pool, &vm, 4096, N0).unwrap_err();
    let full =
        "no room is left on the nodes 0-2, where the pool has 16384 bytes of at most 16384; free something there";
    assert!(refused.to_string().starts_with(full), "{refused}");
    let on = |memcg: &Memcg| memcg.numa_stat().unwrap().iter().map(|node| node.compressed / 4096).collect::<Vec<_>>();
    assert_eq!(on(&vm), [2, 1, 1]);
    assert_eq!(pool.stats().objects, 4);
    pool.assert_valid();
    assert!(matches!(
        put(&pool, &vm, 1, NodeId(3)),
        Err(HandleError::Pool(Error::Arena(arena::Error::NoSuchNode { nodes: 3, .. })))
    ));
}

#[test]
fn what_is_refused_is_not_charged_and_leaves_nothing() {
    let arena = arena(Topology::simulated(1));
    let (pool, vm) = pool(Arc::clone(&arena));
    vm.set_zswap_max(2 * 4096).unwrap();
    put(&pool, &vm, 4000, N0).unwrap();
    let refused = put(&pool, &vm, 4096 + 1, N0).unwrap_err();
    assert!(matches!(refused, HandleError::Pool(Error::Length { len: 4097 })));

    arena.fail_commits_after(Some(0));
    let refused = put(&pool, &vm, 4000, N0).unwrap_err();
    assert!(matches!(refused, HandleError::Pool(Error::Arena(arena::Error::NoMemory { .. }))), "{refused}");
    assert_eq!((vm.usage(), pool.stats().objects), (4096, 1));
    pool.assert_valid();
    arena.fail_commits_after(None);

    let draft = pool.draft_for(Some(&vm), 4000, N0).unwrap();
    assert_eq!(vm.usage(), 8192, "a draft is charged");
    let refused = put(&pool, &vm, 1, N0).unwrap_err();
    assert!(
        matches!(refused, HandleError::Pool(Error::Limit(ref hit)) if hit.asked() == 32 && hit.memcg() == &vm),
        "{refused}"
    );
    drop(draft);
    assert_eq!(vm.usage(), 4096, "and gives the charge back");
    put(&pool, &vm, 1, N0).unwrap();
    pool.assert_valid();
}

#[test]
fn a_prepaid_object_that_does_not_come_to_be_leaves_the_page_charged() {
    let arena = arena(Topology::simulated(2));
    let (pool, vm) = pool(Arc::clone(&arena));
    let tree = vm.tree();
    let page = vm.objcg().unwrap();
    tree.charge(page.id(), Counter::Memory, 4096).unwrap();
    vm.set_max(Counter::Memory, 4096).unwrap();
    let charged = || (vm.usage(), vm.current(Counter::Memory), vm.stat().unwrap().resident);
    assert!(matches!(pool.malloc(Some(&vm), 1610, N0), Err(Error::Limit(hit)) if hit.counter() == Counter::Memory));

    let mut draft = pool.malloc_prepaid(&vm, 1610, N0, 4096).unwrap();
    draft.write(&[7; 1610]).unwrap();
    assert_eq!((charged(), draft.objcg()), ((1632, 4096, 4096 - 1632), page.id()), "the slot is of the page");
    vm.set_max(Counter::Memory, 0).unwrap();
    drop(draft);
    assert_eq!(charged(), (0, 4096, 4096), "no limit is asked on the way back");
    tree.assert_quiet();

    // The same for a zspage full of them, of which some lie on two nodes: see the first test.
    vm.set_max(Counter::Memory, 40 * 2048).unwrap();
    tree.charge(page.id(), Counter::Memory, 40 * 2048 - 4096).unwrap();
    let mut drafts = vec![pool.malloc_prepaid(&vm, 1610, N0, 2048).unwrap()];
    [1, 2, 6, 11].into_iter().for_each(|frame| arena.ensure(Frame(frame), 1, N1).unwrap());
    drafts.extend((1..40).map(|_| pool.malloc_prepaid(&vm, 1610, N0, 2048).unwrap()));
    assert_eq!(charged(), (40 * 1632, 40 * 2048, 40 * 416));
    assert_eq!(vm.numa_stat().unwrap()[1].compressed, 4 * 4096);
    tree.assert_quiet();
    drop(drafts);
    assert_eq!(charged(), (0, 40 * 2048, 40 * 2048));
    tree.uncharge(page.id(), Counter::Memory, 40 * 2048 - 4096);
    // Nor is anything lost on the way there.
    arena.fail_commits_after(Some(0));
    arena.flush();
    pool.malloc_prepaid(&vm, 4000, N0, 4096).unwrap_err();
    arena.fail_commits_after(None);
    let refused = pool.malloc_prepaid(&vm, 1610, N0, 1631).unwrap_err();
    let says = "an object of 1610 bytes needs a slot of 1632 and 1631 bytes were charged ahead; charge a whole page";
    assert_eq!(refused.to_string(), says);
    assert_eq!((charged(), vm.stat().unwrap().bytes), ((0, 4096, 4096), Bytes4::default()));
    tree.uncharge(page.id(), Counter::Memory, 4096);
    tree.assert_quiet();
    pool.assert_valid();
}

#[test]
fn objects_outlive_their_memcg_and_the_parent_pays() {
    let (pool, vm) = pool(arena(Topology::simulated(1)));
    let (tree, tenant) = (vm.tree(), vm.mkdir("guest").unwrap());
    let handle = put(&pool, &tenant, 100, N0).unwrap();
    tenant.offline().unwrap();
    pool.assert_valid();
    assert_eq!((vm.usage(), pool.get(handle).unwrap().len()), (128, 100));
    pool.remove(handle).unwrap();
    assert_eq!(tree.root().usage(), 0);
    pool.assert_valid();
}

#[test]
fn a_pool_dropped_with_objects_gives_their_charges_back() {
    let (pool, vm) = pool(arena(Topology::simulated(2)));
    for len in [1, 700, 4096] {
        put(&pool, &vm, len, N1).unwrap();
    }
    let handle = put(&pool, &vm, 5, N0).unwrap();
    pool.remove(handle).unwrap();
    assert!(vm.usage() > 4096);
    drop(pool);
    assert_eq!((vm.usage(), vm.stat().unwrap().bytes), (0, Bytes4::default()));
    vm.tree().assert_valid();
}

#[test]
fn without_accounting_nobody_is_charged() {
    let tree = Tree::new(TreeConfig { nodes: 1, ..TreeConfig::default() });
    let pool = Pool::open(arena(Topology::simulated(1)), PoolConfig::default(), &TagSpace::new()).unwrap();
    put(&pool, &tree.root(), 4096, N0).unwrap();
    assert_eq!((tree.root().usage(), pool.stats().objects), (0, 1));
    let mut nobody = true;
    pool.for_each_object(|object| nobody &= object.objcg.is_none());
    assert!(nobody);
}

#[test]
fn a_tree_with_other_nodes_is_refused() {
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let config = PoolConfig { accounting: Some(tree), ..PoolConfig::default() };
    let refused = Pool::open(arena(Topology::simulated(1)), config, &TagSpace::new()).unwrap_err();
    assert!(matches!(refused, HandleError::Pool(Error::Nodes { arena: 1, tree: 2 })));
}
