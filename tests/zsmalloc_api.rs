//! The allocator as an author of a cache meets it: the builder, and the numbers that say where memory goes.

use zspool::arena::Topology;
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::NodeId;
use zspool::zsmalloc::{Compactor, Error, Geometry, Handle, HandleError, Original, Pool, TagSpace};

const N1: NodeId = NodeId(1);

/// A pool small enough for any machine.
fn pool() -> Pool {
    Pool::builder().limit(8 << 20).address_space(64 << 20).topology(Topology::simulated(2)).build().unwrap()
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed * 13) as u8).collect()
}

#[test]
fn the_builder_sets_what_it_is_told() {
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let vm = tree.root().mkdir("vm").unwrap();
    let pool = Pool::builder()
        .limit(1 << 20)
        .address_space(32 << 20)
        .topology(Topology::simulated(2))
        .geometry(Geometry::kernel(4).unwrap())
        .accounting(tree)
        .original(Original::Payload)
        .warm_frames(3)
        .tags(&TagSpace::new())
        .build()
        .unwrap();
    assert_eq!((pool.arena().limit(), pool.arena().address_space()), (1 << 20, 32 << 20));
    assert_eq!((pool.geometry().max_chain(), pool.arena().run_frames()), (4, 4), "B1: runs as long as the chains");
    let objcg = || Some(&vm);
    let handles: Vec<Handle> =
        (0..64).map(|n| pool.draft_for(objcg(), 4000, N1).unwrap().write(&bytes(4000, n)).unwrap()).collect();
    assert_eq!(vm.stat().unwrap().bytes.original, 64 * 4000, "original bytes are the payload");
    assert_eq!(pool.get(handles[0]).unwrap().home_node(), N1);
    handles.into_iter().for_each(|handle| pool.remove(handle).unwrap());
    assert_eq!((pool.arena().warm_frames(), vm.usage()), (3, 0));
    pool.close().unwrap();
}

#[test]
fn chains_that_are_no_power_of_two_get_runs_that_are() {
    let small = || Pool::builder().limit(1 << 20).address_space(16 << 20).topology(Topology::simulated(1));
    for chain in 1..=16 {
        let pool = small().geometry(Geometry::new(64, 64, chain).unwrap()).build().unwrap();
        assert!(pool.geometry().max_chain() <= pool.arena().run_frames(), "B1: {chain}");
        let handle = pool.insert(&[chain as u8; 3000]).unwrap();
        assert_eq!(&*pool.get(handle).unwrap(), [chain as u8; 3000]);
    }
}

#[test]
fn pools_of_a_process_tell_their_handles_apart_unless_told_otherwise() {
    let (one, two) = (pool(), pool());
    let handle = one.insert(b"one's").unwrap();
    two.insert(b"two's").unwrap();
    assert!(matches!(two.get(handle), Err(HandleError::ForeignHandle { .. })));
    assert!(matches!(two.remove(handle), Err(HandleError::ForeignHandle { .. })));
    assert!(TagSpace::process().live() >= 2);
    // With a space each, the first pools of both have tag 0.
    let of_its_own = || Pool::builder().limit(1 << 20).address_space(16 << 20).tags(&TagSpace::new()).build().unwrap();
    let (three, four) = (of_its_own(), of_its_own());
    let (a, b) = (three.insert(b"a").unwrap(), four.insert(b"b").unwrap());
    assert_eq!(a, b, "told apart by nobody: that is what spaces are for");
}

#[test]
fn many_threads_open_pools_with_different_tags() {
    let tags = TagSpace::new();
    let small = || Pool::builder().limit(1 << 20).address_space(1 << 20).topology(Topology::simulated(1)).tags(&tags);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..16).map(|_| small().build().unwrap()).map(|p| (p.insert(b"x").unwrap(), p)).collect::<Vec<_>>()
                })
            })
            .collect();
        let pools: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        // All handles are of index 0 and generation 1: only tags differ.
        let different: std::collections::HashSet<Handle> = pools.iter().map(|(handle, _)| *handle).collect();
        assert_eq!((different.len(), tags.live()), (64, 64));
    });
    assert_eq!(tags.live(), 0, "tags come back with their pools");
}

#[test]
fn a_tree_of_other_nodes_is_refused() {
    let tree = Tree::new(TreeConfig { nodes: 3, ..TreeConfig::default() });
    let refused = Pool::builder().limit(1 << 20).topology(Topology::simulated(2)).accounting(tree).build().unwrap_err();
    assert!(matches!(refused, HandleError::Pool(Error::Nodes { arena: 2, tree: 3 })));
    assert!(refused.to_string().contains("make both for the same number"), "{refused}");
}

/// Every byte that the arena has backed is in one part of the usage, and the parts are what the classes say.
fn assert_accounted(pool: &Pool) {
    pool.assert_valid();
    let (usage, stats, total) = (pool.usage(), pool.stats(), pool.classes().total());
    assert_eq!(usage.backed_bytes(), pool.arena().backed_bytes(), "{usage:?}");
    assert_eq!((usage.payload_bytes, usage.payload_bytes), (stats.payload_bytes, total.payload_bytes));
    assert_eq!(usage.payload_bytes + usage.rounding_bytes, stats.slot_bytes);
    assert_eq!(usage.backed_bytes() - usage.warm_bytes, stats.frame_bytes);
    assert_eq!(usage.entry_bytes + usage.descriptor_bytes, stats.metadata_bytes);
    assert_eq!(usage.total_bytes(), usage.backed_bytes() + usage.metadata_bytes());
    assert_eq!((total.obj_used, total.pages_used * 4096), (stats.objects, stats.frame_bytes));
    let free: u64 = pool.classes().0.iter().map(|row| (row.obj_allocated - row.obj_used) * row.size as u64).sum();
    assert_eq!(usage.free_slot_bytes, free);
    let by_node = [NodeId(0), N1].map(|node| pool.classes_on(node).total());
    assert_eq!(by_node[0].obj_used + by_node[1].obj_used, total.obj_used);
    assert_eq!(by_node[0].pages_used + by_node[1].pages_used, total.pages_used);
    let zspages = |k: usize| by_node[0].zspages[k] + by_node[1].zspages[k];
    assert!((0..total.zspages.len()).all(|k| zspages(k) == total.zspages[k]));
}

#[test]
fn usage_says_where_every_byte_goes() {
    let pool = pool();
    assert_eq!((pool.usage().backed_bytes(), pool.usage().total_bytes()), (0, 0));

    // One object: its slot is rounded, the rest of its frame is free slots, and a tail where those straddle out of it.
    let size = pool.geometry().class(pool.geometry().class_of(1000).unwrap()).size() as u64;
    let handle = pool.insert(&bytes(1000, 0)).unwrap();
    let usage = pool.usage();
    assert_eq!((usage.payload_bytes, usage.rounding_bytes), (1000, size - 1000));
    assert_eq!(usage.free_slot_bytes, (4096 / size - 1) * size);
    assert_eq!(usage.tail_bytes, 4096 % size);
    assert_eq!((usage.entry_bytes, usage.descriptor_bytes, usage.cell_bytes), (4096, 40, 12));
    assert_accounted(&pool);
    pool.remove(handle).unwrap();
    assert_eq!(pool.usage().backed_bytes(), pool.usage().warm_bytes);
    assert_accounted(&pool);

    // Many, on both nodes; half of them freed; packed.
    let mut handles: Vec<Handle> = (0..2000)
        .map(|n| {
            let len = 1 + n * 37 % 4096;
            pool.draft_for(None, len, NodeId(n as u8 % 2)).unwrap().write(&bytes(len, n)).unwrap()
        })
        .collect();
    assert_accounted(&pool);
    let mut n = 0;
    handles.retain(|&handle| {
        n += 1;
        let keep = n * 7 % 4 < 2;
        if !keep {
            pool.remove(handle).unwrap();
        }
        keep
    });
    assert_accounted(&pool);
    let sparse = pool.usage();
    let won = pool.compact(u64::MAX).frames_freed * 4096;
    assert_accounted(&pool);
    let packed = pool.usage();
    assert!(won > 0 && packed.free_slot_bytes < sparse.free_slot_bytes / 2, "{sparse:?}, {packed:?}");
    assert_eq!((packed.payload_bytes, packed.rounding_bytes), (sparse.payload_bytes, sparse.rounding_bytes));

    handles.into_iter().for_each(|handle| pool.remove(handle).unwrap());
    pool.flush();
    assert_accounted(&pool);
    let usage = pool.usage();
    assert_eq!((usage.backed_bytes(), usage.entry_bytes + usage.descriptor_bytes), (0, 0));
    pool.close().unwrap();
}

#[test]
fn the_table_is_the_kernels() {
    let pool = pool();
    for n in 0..40 {
        pool.insert(&bytes(100 + n * 100, n)).unwrap();
    }
    let (classes, text) = (pool.classes(), pool.classes().to_string());
    let lines: Vec<&str> = text.lines().collect();
    let heads: Vec<&str> = lines[0].split_whitespace().collect();
    // The columns of the kernel's `zsmalloc/<pool>/classes`, and one more for what it does not have.
    assert_eq!(
        heads.join(" "),
        "class size 10% 20% 30% 40% 50% 60% 70% 80% 90% 99% 100% open obj_allocated obj_used pages_used \
         pages_per_zspage freeable"
    );
    assert_eq!(lines.len(), 1 + classes.0.len() + 2, "a line a class, an empty one, and the total");
    for (line, row) in lines[1..].iter().zip(&classes.0) {
        let cells: Vec<u64> = line.split_whitespace().map(|cell| cell.parse().unwrap()).collect();
        assert_eq!(cells[..2], [u64::from(row.class.0), row.size as u64]);
        assert_eq!(cells[2..14], row.zspages[1..]);
        assert_eq!(
            cells[14..],
            [row.obj_allocated, row.obj_used, row.pages_used, row.pages_per_zspage as u64, row.freeable]
        );
        assert_eq!(line.len(), lines[0].len(), "aligned: {line}");
        let slots: u64 = row.zspages.iter().sum::<u64>() * row.objs_per_zspage as u64;
        assert!(row.obj_used <= row.obj_allocated && row.obj_allocated <= slots);
        assert!(row.payload_bytes <= row.obj_used * row.size as u64);
    }
    let total: Vec<&str> = lines.last().unwrap().split_whitespace().collect();
    let sums = classes.total();
    let zspages: Vec<String> = sums.zspages[1..].iter().map(u64::to_string).collect();
    assert_eq!((total[0], &total[1..13]), ("Total", &zspages.iter().map(String::as_str).collect::<Vec<_>>()[..]));
    let numbers = [sums.obj_allocated, sums.obj_used, sums.pages_used, sums.freeable].map(|n| n.to_string());
    assert_eq!(total[13..], numbers.each_ref().map(String::as_str));
    assert_eq!((sums.obj_used, sums.payload_bytes), (40, (0..40).map(|n| 100 + n * 100).sum::<u64>()));
}

#[test]
fn groups_count_zspages_by_the_share_of_their_slots() {
    let pool = pool();
    let row = |group: usize| pool.classes().0.iter().map(|row| row.zspages[1 + group]).sum::<u64>();
    let zspages = || pool.classes().total().zspages.iter().sum::<u64>();
    // Slots of 1024 bytes, four to a frame and 64 to a zspage.
    let size = pool.geometry().class(pool.geometry().class_of(1024).unwrap()).size();
    assert_eq!(size, 1024, "4 to a frame");
    let mut handles: Vec<Handle> = (0..4).map(|n| pool.insert(&bytes(1024, n)).unwrap()).collect();
    let open = zspool::zsmalloc::Classes::GROUPS.iter().position(|&head| head == "open").unwrap();
    assert_eq!((row(open), zspages()), (1, 1), "the touched frame is full, others are not touched");
    handles.extend((4..64).map(|n| pool.insert(&bytes(1024, n)).unwrap()));
    assert_eq!((row(10), zspages()), (1, 1), "64 of 64");
    // One of four in each frame, then another.
    for (start, group) in [(0, 7), (1, 5), (2, 2)] {
        handles[start..].iter().step_by(4).for_each(|&handle| pool.remove(handle).unwrap());
        assert_eq!((row(group), zspages()), (1, 1), "{} of 64", 48 - 16 * start);
    }
    handles[3..].iter().step_by(4).for_each(|&handle| pool.remove(handle).unwrap());
    assert_eq!(zspages(), 0);
}

#[test]
fn freeable_is_what_compaction_wins() {
    let pool = pool();
    let handles: Vec<Handle> = (0..64).map(|n| pool.insert(&bytes(1024, n)).unwrap()).collect();
    assert_eq!(pool.classes().total().freeable, 0, "a full zspage has nothing to win");
    // One slot of four stays in each of 16 frames: they fit into 4.
    for (n, &handle) in handles.iter().enumerate().filter(|(n, _)| n % 4 > 0) {
        pool.remove(handle).unwrap_or_else(|refusal| panic!("{n}: {refusal}"));
    }
    let total = pool.classes().total();
    assert_eq!((total.obj_allocated, total.obj_used, total.pages_used, total.freeable), (64, 16, 16, 12));
    assert_eq!(pool.compact(u64::MAX).frames_freed, 12);
    let total = pool.classes().total();
    assert_eq!((total.obj_allocated, total.obj_used, total.pages_used, total.freeable), (16, 16, 4, 0));
}

/// Frames that the last guard of what was removed gives back are looked after, though nobody calls the pool again.
#[test]
fn an_idle_pool_gives_memory_back_that_guards_have_held() {
    let pool = Arc::new(Pool::builder().limit(64 << 20).address_space(1 << 26).build().unwrap());
    let _compactor = Compactor::start(&pool, Some(25)).unwrap();
    let handles: Vec<_> = (0..60).map(|k| pool.insert(&[k as u8; 3000]).unwrap()).collect();
    let guards: Vec<_> = handles.iter().map(|&handle| pool.get(handle).unwrap()).collect();
    handles.iter().for_each(|&handle| pool.remove(handle).unwrap());
    // Until nobody looks any more.
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert!(pool.arena().backed_bytes() > 60 * 3000);
    drop(guards);
    let since = std::time::Instant::now();
    while pool.arena().backed_bytes() > 0 {
        assert!(since.elapsed().as_secs() < 30, "{} bytes, {:?}", pool.arena().backed_bytes(), pool.stats());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
