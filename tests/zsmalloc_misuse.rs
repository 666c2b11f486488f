//! What a client can do wrong with handles, and what it is told.

use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::sync::Arc;
use zspool::zsmalloc::{Handle, PoolConfig, Store, StoreError, TagSpace};

fn store(tags: &TagSpace) -> Store {
    let config = ArenaConfig { address_space: 1 << 20, topology: Topology::simulated(1), ..ArenaConfig::default() };
    Store::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), tags).unwrap()
}

fn put(store: &Store, bytes: &[u8]) -> Handle {
    store.malloc(bytes.len()).unwrap().write(bytes).unwrap()
}

#[test]
fn a_freed_handle_is_stale_for_ever() {
    let store = store(&TagSpace::new());
    let mut old = Vec::new();
    for round in 0..50u8 {
        let handle = put(&store, &[round; 100]);
        for &stale in &old {
            let refused = store.read(stale).err();
            let now = 1 + u32::from(round);
            assert!(matches!(refused, Some(StoreError::Stale { handle, now: n }) if (handle, n) == (stale, now)));
            assert!(matches!(store.free(stale), Err(StoreError::Stale { .. })));
        }
        assert_eq!(&*store.read(handle).unwrap(), [round; 100]);
        store.free(handle).unwrap();
        let twice = store.free(handle).unwrap_err();
        assert!(twice.to_string().contains("was freed before"), "{twice}");
        old.push(handle);
    }
    store.assert_valid();
}

#[test]
fn a_handle_of_another_store_is_foreign() {
    let tags = TagSpace::new();
    let (ours, theirs) = (store(&tags), store(&tags));
    let handle = put(&theirs, b"theirs");
    put(&ours, b"ours");
    for refused in [ours.read(handle).err(), ours.free(handle).err()] {
        assert!(matches!(refused, Some(StoreError::ForeignHandle { theirs: 1, ours: 0, .. })), "{refused:?}");
    }
    assert_eq!(&*theirs.read(handle).unwrap(), b"theirs");
}

#[test]
fn tags_of_live_stores_never_meet() {
    let tags = TagSpace::new();
    let mut stores: Vec<Store> = (0..256).map(|_| store(&tags)).collect();
    let config = ArenaConfig { address_space: 1 << 20, topology: Topology::simulated(1), ..ArenaConfig::default() };
    let refused = Store::open(Arc::new(Arena::new(config).unwrap()), PoolConfig::default(), &tags);
    assert!(matches!(refused, Err(StoreError::NoTag { live: 256 })));
    stores.remove(3).close().unwrap();
    stores.push(store(&tags));
}

#[test]
fn numbers_that_were_never_handles_are_out_of_range() {
    let store = store(&TagSpace::new());
    put(&store, b"one");
    let [index, generation] = [32, 8];
    let never = [0, 1 << generation | 1 << index, 2 << generation, 5 << generation | 7 << index, u64::MAX << 8];
    for raw in never {
        let handle = Handle::from_raw(raw);
        let refused = [store.read(handle).err(), store.free(handle).err()];
        for error in refused {
            assert!(matches!(error, Some(StoreError::OutOfRange { made: 1, .. })), "{raw:#x}: {error:?}");
        }
    }
    store.assert_valid();
}

#[test]
fn a_guard_outlives_the_free() {
    let store = store(&TagSpace::new());
    let handle = put(&store, b"read me");
    let guards: Vec<_> = (0..63).map(|_| store.read(handle).unwrap()).collect();
    store.free(handle).unwrap();
    assert!(matches!(store.read(handle), Err(StoreError::Stale { .. })));
    // Its slot is nobody else's meanwhile.
    let others: Vec<Handle> = (0..300).map(|_| put(&store, b"another")).collect();
    assert!(guards.iter().all(|guard| &**guard == b"read me"));
    assert_eq!(store.pool().stats().objects, 301);
    drop(guards);
    assert_eq!(store.pool().stats().objects, 300);
    others.into_iter().for_each(|handle| store.free(handle).unwrap());
    store.close().unwrap();
}

#[test]
fn closing_with_objects_is_refused_and_says_how_many() {
    let store = store(&TagSpace::new());
    let handles = [put(&store, b"a"), put(&store, b"b")];
    let refused = store.close().unwrap_err();
    assert_eq!((refused.live, refused.to_string().contains("holds 2 objects")), (2, true));
    let store = refused.store;
    handles.into_iter().for_each(|handle| store.free(handle).unwrap());
    store.close().unwrap();
}

#[test]
fn a_full_arena_is_refused_and_works_on() {
    let store = store(&TagSpace::new());
    let mut handles = Vec::new();
    let refused = loop {
        match store.malloc(4096) {
            Ok(draft) => handles.push(draft.write(&[7; 4096]).unwrap()),
            Err(refused) => break refused,
        }
    };
    assert!(refused.to_string().contains("all 16 runs"), "{refused}");
    assert_eq!(handles.len(), 256);
    store.assert_valid();
    store.free(handles.pop().unwrap()).unwrap();
    put(&store, &[8; 4000]);
    store.assert_valid();
}

#[test]
fn the_table_has_the_kernels_columns() {
    let store = store(&TagSpace::new());
    put(&store, &[1; 3000]);
    put(&store, &[1; 100]);
    let table = store.pool().classes().to_string();
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
    let used: u64 = store.pool().classes().0.iter().map(|row| row.pages_used).sum();
    assert_eq!(used, 2);
}
