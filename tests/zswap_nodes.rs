//! Strict node masks through the whole: stores, LRU lists, writeback, and threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use zspool::arena::Topology;
use zspool::swap::MemoryDevice;
use zspool::units::{FRAME_SIZE, NodeId, NodeMask, Page, Slot};
use zspool::zswap::{Builder, Error, Stored, Zswap};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);
const FRAME: u64 = FRAME_SIZE as u64;

fn mask(list: &str) -> NodeMask {
    list.parse().unwrap()
}

fn zswap(topology: Topology) -> Builder {
    Zswap::builder().pool_limit(64 << 20).address_space(1 << 28).slots_in_use(1 << 16).worker(false).topology(topology)
}

/// A page that compresses to about half.
fn page(seed: u64) -> Page {
    let mut page = Page::zeroed();
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in page[..2000].chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        chunk.copy_from_slice(&x.to_ne_bytes());
    }
    page
}

fn check(zswap: &Zswap, slot: Slot, seed: u64) {
    let mut back = Page::zeroed();
    zswap.load(slot, &mut back).unwrap();
    assert!(*back == *page(seed), "{slot:?} is not what was stored");
}

#[test]
fn set_nodes_moves_what_lies_outside() {
    let zswap = zswap(Topology::simulated(3)).build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let vm = tenant.mkdir("vm").unwrap();
    let slots = zswap.reserve(300).unwrap().base();
    for n in 0..300 {
        let stored = zswap.store(slots + n, [&tenant, &vm][n as usize % 2], NodeId((n % 3) as u8), &page(n)).unwrap();
        assert!(matches!(stored, Stored::Compressed { .. }));
    }
    let (usage, stat) = (tenant.usage(), tenant.stat().unwrap());
    zswap.set_nodes(&tenant, mask("1")).unwrap();
    zswap.assert_valid();
    let on = |node: usize| tenant.numa_stat().unwrap()[node];
    assert_eq!((on(0).compressed, on(1), on(2).compressed), (0, stat.bytes, 0));
    assert_eq!((tenant.usage(), zswap.pool().bytes_outside(&tenant)), (usage, 0));
    (0..300).for_each(|n| check(&zswap, slots + n, n));
    // By the file, and back again; what is stored now obeys.
    tenant.write_file("memory.zswap.nodes", "0,2").unwrap();
    zswap.store(slots, &vm, N1, &page(1000)).unwrap();
    assert_eq!((zswap.pool().bytes_outside(&tenant), on(1).compressed), (0, 0));
    zswap.assert_valid();
    check(&zswap, slots, 1000);
    // What a mask cannot be is refused and changes nothing.
    let refused = zswap.set_nodes(&tenant, mask("3")).unwrap_err().to_string();
    assert!(refused.contains("only those there are, which are 0-2"), "{refused}");
    assert!(matches!(zswap.set_nodes(&tenant, NodeMask::NONE), Err(Error::Memcg(_))));
    assert_eq!(tenant.nodes(), mask("0,2"));
    // What a removed memcg left stays within what its parent allows.
    zswap.set_nodes(&vm, mask("2")).unwrap();
    zswap.offline(&vm).unwrap();
    assert_eq!(zswap.pool().bytes_outside(&tenant), 0);
    zswap.set_nodes(&tenant, mask("1")).unwrap();
    (1..300).for_each(|n| check(&zswap, slots + n, n));
    zswap.assert_valid();
    (0..300).for_each(|n| assert!(zswap.free(slots + n)));
    assert_eq!(zswap.root().usage(), 0);
    zswap.assert_valid();
}

#[test]
fn a_store_whose_nodes_are_full_makes_room_there() {
    let topology = Topology::simulated(2).with_capacity(N0, 16 * FRAME);
    let zswap = zswap(topology).device(MemoryDevice::new(4 << 20, 4096)).scan(8, 8).build().unwrap();
    let (bound, free) = (zswap.root().mkdir("bound").unwrap(), zswap.root().mkdir("free").unwrap());
    zswap.set_nodes(&bound, mask("0")).unwrap();
    let slots = zswap.reserve(200).unwrap().base();
    for n in 0..100 {
        zswap.store(slots + n, &bound, N1, &page(n)).unwrap();
        zswap.store(slots + (100 + n), &free, N1, &page(100 + n)).unwrap();
    }
    let on = bound.numa_stat().unwrap();
    assert!(on[0].compressed > 8 * FRAME && on[1].compressed == 0, "{on:?}");
    assert!(zswap.arena().backed_on(N0) <= 16 * FRAME);
    assert!(bound.stat().unwrap().events(zspool::memcg::Event::ZswpWb) > 50);
    assert_eq!(free.stat().unwrap().events(zspool::memcg::Event::ZswpWb), 0, "what lies elsewhere is left alone");
    (0..200).for_each(|n| check(&zswap, slots + n, n));
    zswap.assert_valid();
    // Narrowing makes room in the same way.
    zswap.set_nodes(&free, mask("0")).unwrap();
    assert_eq!(zswap.pool().bytes_outside(&zswap.root()), 0);
    assert!(free.stat().unwrap().events(zspool::memcg::Event::ZswpWb) > 0);
    (0..200).for_each(|n| check(&zswap, slots + n, n));
    zswap.assert_valid();
}

#[test]
fn without_a_device_a_full_node_refuses_and_says_why() {
    let topology = Topology::simulated(2).with_capacity(N0, 4 * FRAME);
    let zswap = zswap(topology).build().unwrap();
    let (bound, free) = (zswap.root().mkdir("bound").unwrap(), zswap.root().mkdir("free").unwrap());
    zswap.set_nodes(&bound, mask("0")).unwrap();
    let slots = zswap.reserve(100).unwrap().base();
    let mut stored = 0;
    let refused = loop {
        match zswap.store(slots + stored, &bound, N0, &page(stored)) {
            Ok(_) => stored += 1,
            Err(refused) => break refused,
        }
    };
    assert!(stored >= 4 && matches!(refused, Error::NodesFull { .. }), "{stored}: {refused}");
    let text = "no room is left on the nodes 0, where the pool has 16384 bytes of at most 16384; ";
    assert!(refused.to_string().starts_with(text), "{refused}");
    assert!(refused.to_string().contains("there is no swap device"), "{refused}");
    // Others spill.
    for n in 50..60 {
        zswap.store(slots + n, &free, N0, &page(n)).unwrap();
    }
    let busy = zswap.set_nodes(&free, mask("0")).unwrap_err();
    let outside = zswap.pool().bytes_outside(&free);
    assert!(outside > 0);
    assert!(matches!(busy, Error::Busy { left_bytes, .. } if left_bytes == outside), "{busy}");
    assert!(
        busy.to_string().starts_with(&format!("{outside} bytes of /free lie outside of the nodes 0 still (")),
        "{busy}"
    );
    (0..stored).for_each(|n| check(&zswap, slots + n, n));
    (50..60).for_each(|n| check(&zswap, slots + n, n));
    zswap.assert_valid();
    (0..stored).for_each(|n| assert!(zswap.free(slots + n)));
    let left = zswap.set_nodes(&free, mask("0"));
    assert_eq!(left.is_ok(), zswap.pool().bytes_outside(&free) == 0);
    zswap.assert_valid();
}

#[test]
fn masks_hold_while_threads_store_load_free_and_compact() {
    const THREADS: u64 = 3;
    const SLOTS: u64 = 64;
    let topology = Topology::simulated(3).with_capacity(N1, 40 * FRAME).with_fallback();
    let zswap = zswap(topology).device(MemoryDevice::new(8 << 20, 4096)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(THREADS * SLOTS).unwrap().base();
    let (stop, checks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for t in 0..THREADS {
            let (zswap, vm, stop) = (&zswap, &vm, &stop);
            scope.spawn(move || {
                let mut held = [None; SLOTS as usize];
                let mut x = t + 1;
                while !stop.load(Ordering::Relaxed) {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let k = (x >> 33) % SLOTS;
                    let slot = slots + (t * SLOTS + k);
                    match (x >> 60, held[k as usize]) {
                        (0..8, _) => {
                            let stored = zswap.store(slot, vm, NodeId((x >> 40) as u8 % 3), &page(x));
                            held[k as usize] = stored.ok().map(|_| x);
                        }
                        (8..13, Some(seed)) => check(zswap, slot, seed),
                        (13..15, Some(_)) => held[k as usize] = zswap.free(slot).then_some(0).and(None),
                        (15, _) => _ = zswap.compact(64 << 10),
                        _ => {}
                    }
                }
                for (k, seed) in held.into_iter().enumerate() {
                    if let Some(seed) = seed {
                        check(zswap, slots + (t * SLOTS + k as u64), seed);
                    }
                }
            });
        }
        for round in 0..200u64 {
            let nodes = mask(["0", "1", "2", "0-1", "1-2", "0,2", "0-2"][(round * 5 % 7) as usize]);
            match zswap.set_nodes(&vm, nodes) {
                Ok(()) => {
                    // Others store, free and compact at this moment: nothing comes to lie outside all the same.
                    assert_eq!(zswap.pool().bytes_outside(&vm), 0, "round {round}: {nodes}");
                    checks.fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::Busy { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let checks = checks.into_inner();
    assert!(checks > 100, "only {checks} of 200 masks were ever obeyed");
    zswap.quiesce();
    zswap.assert_valid();
}
