//! What a client can do wrong with handles, and what it is told.

mod support;

use support::watched;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::sync::Arc;
use zspool::zsmalloc::{Handle, HandleError, Pool, PoolConfig, TagSpace};

fn pool(tags: &TagSpace) -> Pool {
    let config = ArenaConfig { address_space: 1 << 20, topology: Topology::simulated(1), ..ArenaConfig::default() };
    Pool::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), tags).unwrap()
}

fn put(pool: &Pool, bytes: &[u8]) -> Handle {
    pool.insert(bytes).unwrap()
}

#[test]
fn a_removed_handle_is_stale_for_ever() {
    let pool = pool(&TagSpace::new());
    let mut old = Vec::new();
    for round in 0..50u8 {
        let handle = put(&pool, &[round; 100]);
        for &stale in &old {
            let refused = pool.get(stale).err();
            let now = 1 + u32::from(round);
            assert!(matches!(refused, Some(HandleError::Stale { handle, now: n }) if (handle, n) == (stale, now)));
            assert!(matches!(pool.remove(stale), Err(HandleError::Stale { .. })));
        }
        assert_eq!(&*pool.get(handle).unwrap(), [round; 100]);
        pool.remove(handle).unwrap();
        let twice = pool.remove(handle).unwrap_err();
        assert!(twice.to_string().contains("was removed before"), "{twice}");
        old.push(handle);
    }
    pool.assert_valid();
}

#[test]
fn a_handle_of_another_pool_is_foreign() {
    let tags = TagSpace::new();
    let (ours, theirs) = (pool(&tags), pool(&tags));
    let handle = put(&theirs, b"theirs");
    put(&ours, b"ours");
    for refused in [ours.get(handle).err(), ours.remove(handle).err()] {
        assert!(matches!(refused, Some(HandleError::ForeignHandle { theirs: 1, ours: 0, .. })), "{refused:?}");
    }
    assert_eq!(&*theirs.get(handle).unwrap(), b"theirs");
}

#[test]
fn tags_of_live_pools_never_meet() {
    let tags = TagSpace::new();
    let mut pools: Vec<Pool> = (0..256).map(|_| pool(&tags)).collect();
    let config = ArenaConfig { address_space: 1 << 20, topology: Topology::simulated(1), ..ArenaConfig::default() };
    let refused = Pool::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), &tags);
    assert!(matches!(refused, Err(HandleError::NoTag { live: 256 })));
    pools.remove(3).close().unwrap();
    pools.push(pool(&tags));
}

#[test]
fn numbers_that_were_never_handles_are_out_of_range() {
    let pool = pool(&TagSpace::new());
    put(&pool, b"one");
    let [index, generation] = [32, 8];
    let never = [0, 1 << generation | 1 << index, 2 << generation, 5 << generation | 7 << index, u64::MAX << 8];
    for raw in never {
        let handle = Handle::from_raw(raw);
        let refused = [pool.get(handle).err(), pool.remove(handle).err()];
        for error in refused {
            assert!(matches!(error, Some(HandleError::OutOfRange { made: 1, .. })), "{raw:#x}: {error:?}");
        }
    }
    pool.assert_valid();
}

#[test]
fn a_guard_outlives_the_removal() {
    let pool = pool(&TagSpace::new());
    let handle = put(&pool, b"read me");
    let guards: Vec<_> = (0..63).map(|_| pool.get(handle).unwrap()).collect();
    pool.remove(handle).unwrap();
    assert!(matches!(pool.get(handle), Err(HandleError::Stale { .. })));
    // Its slot is nobody else's meanwhile.
    let others: Vec<Handle> = (0..300).map(|_| put(&pool, b"another")).collect();
    assert!(guards.iter().all(|guard| &**guard == b"read me"));
    assert_eq!(pool.stats().objects, 301);
    drop(guards);
    assert_eq!(pool.stats().objects, 300);
    others.into_iter().for_each(|handle| pool.remove(handle).unwrap());
    pool.close().unwrap();
}

#[test]
fn sixty_three_guards_hold_an_object_and_another_waits_for_one_to_go() {
    watched(|| {
        use std::sync::mpsc::{RecvTimeoutError, channel};
        use std::time::Duration;
        let pool = pool(&TagSpace::new());
        let handle = put(&pool, b"read me");
        let mut guards: Vec<_> = (0..63).map(|_| pool.get(handle).unwrap()).collect();
        std::thread::scope(|scope| {
            let (done, read) = channel();
            let pool = &pool;
            scope.spawn(move || done.send(pool.get(handle).unwrap().to_vec()).unwrap());
            assert_eq!(read.recv_timeout(Duration::from_millis(100)), Err(RecvTimeoutError::Timeout));
            guards.pop();
            assert_eq!(read.recv_timeout(Duration::from_secs(60)).as_deref(), Ok(&b"read me"[..]));
        });
        drop(guards);
        pool.remove(handle).unwrap();
        pool.close().unwrap();
    });
}

#[test]
fn closing_with_objects_is_refused_and_says_how_many() {
    let pool = pool(&TagSpace::new());
    let handles = [put(&pool, b"a"), put(&pool, b"b")];
    let refused = pool.close().unwrap_err();
    assert_eq!((refused.live, refused.to_string().contains("holds 2 objects")), (2, true));
    let pool = refused.pool;
    handles.into_iter().for_each(|handle| pool.remove(handle).unwrap());
    pool.close().unwrap();
}

#[test]
fn a_full_arena_is_refused_and_works_on() {
    let pool = pool(&TagSpace::new());
    let mut handles = Vec::new();
    let refused = loop {
        match pool.draft(4096) {
            Ok(draft) => handles.push(draft.write(&[7; 4096]).unwrap()),
            Err(refused) => break refused,
        }
    };
    assert!(refused.to_string().contains("all 16 runs"), "{refused}");
    assert_eq!(handles.len(), 256);
    pool.assert_valid();
    pool.remove(handles.pop().unwrap()).unwrap();
    put(&pool, &[8; 4000]);
    pool.assert_valid();
}

#[test]
fn the_table_has_the_kernels_columns() {
    let pool = pool(&TagSpace::new());
    put(&pool, &[1; 3000]);
    put(&pool, &[1; 100]);
    let table = pool.classes().to_string();
    let head = table.lines().next().unwrap();
    for column in [
        "class",
        "size",
        "10%",
        "99%",
        "100%",
        "obj_allocated",
        "obj_used",
        "pages_used",
        "pages_per_zspage",
        "freeable",
    ] {
        assert!(head.contains(column), "{head}");
    }
    let total: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((total[0], total[14]), ("Total", "2"), "obj_used: {total:?}");
    let used: u64 = pool.classes().0.iter().map(|row| row.pages_used).sum();
    assert_eq!(used, 2);
}
