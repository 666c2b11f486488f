//! What accounting off means for a device: the same frames and entries as with it, no tree, and no counter written.

mod support;

use std::sync::Mutex;
use support::*;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::compress::{Codec, Compressed, Context, Lz4, same_filled};
use zspool::memcg::{Tree, TreeConfig};
use zspool::sync::Arc;
use zspool::units::{Location, NodeId, Owner, PAGE_SIZE};
use zspool::zram::Zram;
use zspool::zsmalloc::{Cells, Geometry, Object, Original, Pool, PoolConfig};

const BLOCKS: u64 = 2000;

/// Cells as plain as can be.
struct Plain(Mutex<Vec<Option<Object>>>);

impl Cells for Plain {
    fn object(&self, owner: Owner) -> Option<Object> {
        self.0.lock().unwrap()[owner.0 as usize]
    }

    fn relocate(&self, owner: Owner, from: Location, to: Location) -> bool {
        let cell = &mut self.0.lock().unwrap()[owner.0 as usize];
        match cell {
            Some(object) if object.location == from => object.location = to,
            _ => return false,
        }
        true
    }
}

/// The allocator below a device, with everything charged to one memcg.
struct Accounted {
    pool: Pool<Plain>,
    tree: Tree,
    context: Context,
}

impl Accounted {
    fn new(geometry: &Geometry) -> Self {
        let arena = Arena::new(ArenaConfig {
            address_space: 256 << 20,
            run_frames: geometry.max_chain().next_power_of_two(),
            warm_frames: 0,
            topology: Topology::simulated(1),
            ..ArenaConfig::default()
        });
        let tree = Tree::new(TreeConfig { nodes: 1, ..TreeConfig::default() });
        let config = PoolConfig {
            geometry: geometry.clone(),
            accounting: Some(tree.clone()),
            original: Original::Fixed(PAGE_SIZE as u64),
            ..PoolConfig::default()
        };
        let cells = Plain(Mutex::new(vec![None; BLOCKS as usize]));
        Accounted { pool: Pool::new(Arc::new(arena.unwrap()), cells, config).unwrap(), tree, context: Context::new() }
    }

    fn put(&mut self, block: u64, object: Option<Object>) {
        let old = std::mem::replace(&mut self.pool.cells().0.lock().unwrap()[block as usize], object);
        if let Some(Object { location, len }) = old {
            self.pool.free(Owner(block as u32), location, len);
        }
    }

    fn store(&mut self, block: u64, page: &[u8; PAGE_SIZE]) {
        if same_filled(page).is_some() {
            return self.put(block, None);
        }
        let huge_len = self.pool.geometry().huge_len();
        let bytes = match Lz4.compress(&mut self.context, page) {
            Compressed::Bytes(bytes) if bytes.len() < huge_len => bytes.to_vec(),
            _ => page.to_vec(),
        };
        let mut object = self.pool.malloc(Some(&self.tree.root()), bytes.len(), NodeId(0)).unwrap();
        object.write(&bytes).unwrap();
        let published = object.publish(Owner(block as u32));
        let named = Object { location: published.location(), len: bytes.len() };
        drop(published);
        self.put(block, Some(named));
    }
}

/// A random stream of stores, discards and compactions through both.
fn same_frames_with_and_without(geometry: Geometry) {
    let zram = Zram::builder()
        .disksize(BLOCKS * PAGE_SIZE as u64)
        .address_space(256 << 20)
        .topology(Topology::simulated(1))
        .geometry(geometry.clone())
        .warm_frames(0)
        .build()
        .unwrap();
    let mut accounted = Accounted::new(&geometry);
    let root = accounted.tree.root();
    let mut random = Random::new(7);
    for step in 0..6 {
        for _ in 0..BLOCKS {
            let block = random.below(BLOCKS);
            if random.below(3) == 0 {
                zram.discard(block).unwrap();
                accounted.put(block, None);
            } else {
                let page = any_page(random.next());
                zram.store(block, &page).unwrap();
                accounted.store(block, &page);
            }
        }
        if step % 2 == 1 {
            let (off, on) = (zram.compact(), accounted.pool.compact(u64::MAX));
            accounted.pool.flush(); // as the device does
            assert_eq!(off, on, "the same objects move");
        }
        assert_eq!(zram.pool().classes(), accounted.pool.classes(), "class by class, zspages and frames are the same");
        assert_eq!(zram.pool().stats(), accounted.pool.stats(), "and entries too: the objcg has its place in them");
        assert_eq!(zram.pool().arena().backed_bytes(), accounted.pool.arena().backed_bytes());
    }
    assert_eq!(root.usage(), accounted.pool.stats().slot_bytes, "the other pool was charged all the time");
    assert!(root.usage() > 0);
    zram.pool().for_each_object(|object| assert!(object.objcg.is_none(), "nobody pays for {:?}", object.owner));
    assert!(zram.pool().accounting().is_none());
}

#[test]
fn the_kernels_layout_has_the_same_frames_with_and_without_accounting() {
    same_frames_with_and_without(Geometry::kernel(8).unwrap());
}

#[test]
fn our_layout_has_the_same_frames_with_and_without_accounting() {
    same_frames_with_and_without(Geometry::default());
}
