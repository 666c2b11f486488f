//! Reading and freeing never call the global allocator: they run inside fault handlers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::NodeId;
use zspool::zsmalloc::{Handle, PoolConfig, Store, TagSpace};

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

struct Strict;

fn assert_allowed(what: &str) {
    // `replace`: the panic itself allocates.
    if FORBIDDEN.with(|forbidden| forbidden.replace(false)) {
        panic!("{what} where it is forbidden");
    }
}

// SAFETY: passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Strict {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        assert_allowed("an allocation");
        // SAFETY: the caller's promise is the one asked for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        assert_allowed("a deallocation");
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Strict = Strict;

#[test]
fn read_and_free_do_without_the_allocator() {
    let config = ArenaConfig {
        address_space: 1 << 26,
        warm_frames: 4,
        topology: Topology::simulated(2),
        ..ArenaConfig::default()
    };
    let tree = Tree::new(TreeConfig { nodes: 2, ..TreeConfig::default() });
    let vm = tree.root().mkdir("vm").unwrap();
    let config =
        (Arc::new(Arena::new(config).unwrap()), PoolConfig { accounting: Some(tree), ..PoolConfig::default() });
    let store = Store::open(config.0, config.1, &TagSpace::new()).unwrap();
    let put = |len: usize, node| {
        store.malloc_for(Some(vm.objcg().unwrap()), len, NodeId(node)).unwrap().write(&vec![len as u8; len]).unwrap()
    };
    // Every class, enough to empty frames, arrays of entries and their pages.
    let handles: Vec<Handle> = (1..=4096).flat_map(|len| [put(len, 0), put(len, 1)]).collect();
    vm.offline().unwrap();
    FORBIDDEN.with(|forbidden| forbidden.set(true));
    for &handle in &handles {
        let guard = store.read(handle).unwrap();
        let len = guard.len();
        assert!(guard.iter().all(|&b| b == len as u8));
        if len.is_multiple_of(5) {
            store.free(handle).unwrap(); // under the guard
        }
    }
    for &handle in &handles {
        let _ = store.free(handle);
    }
    FORBIDDEN.with(|forbidden| forbidden.set(false));
    assert_eq!(store.pool().stats().objects, 0);
    store.assert_valid();
}

#[test]
#[should_panic(expected = "an allocation")]
fn the_allocator_is_strict() {
    FORBIDDEN.with(|forbidden| forbidden.set(true));
    drop(std::hint::black_box(vec![1]));
}
