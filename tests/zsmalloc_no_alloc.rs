//! Reading and freeing never call the global allocator: they run inside fault handlers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::NodeId;
use zspool::zsmalloc::{Handle, Pool, PoolConfig, TagSpace};

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
    let pool = Pool::open(config.0, config.1, &TagSpace::new()).unwrap();
    let put =
        |len: usize, node| pool.draft_for(Some(&vm), len, NodeId(node)).unwrap().write(&vec![len as u8; len]).unwrap();
    // Every class, enough to empty frames, arrays of entries and their pages.
    let handles: Vec<Handle> = (1..=4096).flat_map(|len| [put(len, 0), put(len, 1)]).collect();
    vm.offline().unwrap();
    FORBIDDEN.with(|forbidden| forbidden.set(true));
    for &handle in &handles {
        let guard = pool.get(handle).unwrap();
        let len = guard.len();
        assert!(guard.iter().all(|&b| b == len as u8));
        if len.is_multiple_of(5) {
            pool.remove(handle).unwrap(); // under the guard
        }
    }
    for &handle in &handles {
        let _ = pool.remove(handle);
    }
    FORBIDDEN.with(|forbidden| forbidden.set(false));
    assert_eq!(pool.stats().objects, 0);
    pool.assert_valid();
}

#[test]
#[should_panic(expected = "an allocation")]
fn the_allocator_is_strict() {
    FORBIDDEN.with(|forbidden| forbidden.set(true));
    drop(std::hint::black_box(vec![1]));
}
