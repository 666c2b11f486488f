//! Many memcgs: what they cost those who charge, and what they leave behind.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use support::*;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use zspool::memcg::Memcg;
use zspool::memcg::{Bytes4, Census, Counter, Event, Tree, TreeConfig};
use zspool::units::{NodeId, Page};
use zspool::zswap::Zswap;

const NODE: NodeId = NodeId(0);

// === a charge climbs ===

/// Instructions that `f` takes in a process of its own, stepped one by one. `f` must not allocate: other threads of this one
/// may hold locks. Those around `f` are in it; they are always as many.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn instructions(f: impl FnOnce()) -> u64 {
    // SAFETY: the child makes system calls and runs `f`, which needs none of what other threads may have left locked.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        ptrace(libc::PTRACE_TRACEME, 0);
        stop();
        f();
        stop();
        // SAFETY: this process is a copy whose exit handlers are the original's.
        unsafe { libc::_exit(0) };
    }
    assert_eq!(signal_of(pid), libc::SIGSTOP);
    let mut steps = 0;
    loop {
        assert_eq!(ptrace(libc::PTRACE_SINGLESTEP, pid), 0, "{}", std::io::Error::last_os_error());
        match signal_of(pid) {
            libc::SIGTRAP => steps += 1,
            libc::SIGSTOP => break,
            signal => panic!("the stepped process got signal {signal}"),
        }
    }
    ptrace(libc::PTRACE_KILL, pid);
    // SAFETY: the child is ours, and no status is written.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    steps
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn ptrace(request: libc::c_uint, pid: libc::pid_t) -> libc::c_long {
    // SAFETY: none of the requests reads or writes memory of ours.
    unsafe { libc::ptrace(request, pid, 0, 0) }
}

/// Stop until the parent goes on.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn stop() {
    // SAFETY: a signal to ourselves, which nobody handles.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// The signal that the child has stopped with.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn signal_of(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the child is ours, and `status` is an int to write to.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFSTOPPED(status), "the stepped process ended: {status:#x}");
    libc::WSTOPSIG(status)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_charge_walks_up_and_costs_depth_not_the_size_of_the_tree() {
    let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
    let mut path = vec![tree.root()];
    for depth in 1..=6 {
        path.push(path[depth - 1].mkdir("below").unwrap());
    }
    let cost = |memcg: &Memcg| {
        let objcg = memcg.objcg().unwrap();
        let charge = || {
            objcg.try_charge(100).unwrap();
            objcg.uncharge(100);
        };
        charge(); // the peaks are raised once
        instructions(charge)
    };
    let costs = |path: &[Memcg]| path.iter().map(cost).collect::<Vec<_>>();
    let before = costs(&path);
    let level = before[2] - before[1];
    let expected: Vec<u64> = (0..=6).map(|depth| before[0] + depth * level).collect();
    assert_eq!(before, expected, "each level costs as much as the one above it");

    // Siblings at every level, each with a child.
    for memcg in &path {
        for n in 0..200 {
            memcg.mkdir(&format!("beside{n}")).unwrap().mkdir("below").unwrap();
        }
    }
    assert_eq!(tree.census().online, 7 + 7 * 400);
    assert_eq!(costs(&path), before, "the size of the tree costs nothing");
}

/// What is removed leaves its objects and places to its parent by pointers and spliced lists: no counter and no object is touched.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn taking_a_memcg_offline_costs_the_same_whatever_it_holds() {
    use zspool::swap::MemoryDevice;
    use zspool::zswap::Shrunk;
    let cost = |pages: u64| {
        let zswap = Zswap::builder()
            .pool_limit(16 << 20)
            .slots_in_use(1 << 14)
            .address_space(128 << 20)
            .worker(false)
            .device(MemoryDevice::new(8 << 20, 4096))
            .build()
            .unwrap();
        let vm = zswap.root().mkdir("parent").unwrap().mkdir("vm").unwrap();
        let slots = zswap.reserve(pages).unwrap();
        slots.iter().for_each(|slot| _ = zswap.store(slot, &vm, NODE, &page_of(Kind::Mixed(900), slot.0)).unwrap());
        // A half of them on the device.
        assert!(matches!(zswap.shrink_memcg(&vm, pages as usize / 2), Shrunk::Written(_)));
        zswap.offline(&zswap.root().mkdir("first").unwrap()).unwrap(); // what only the first call does
        let steps = instructions(|| zswap.offline(&vm).unwrap());
        // That was a child's memory; here the same, and it is true.
        let (usage, swap) = (vm.usage(), vm.current(Counter::Swap));
        zswap.offline(&vm).unwrap();
        let parent = zswap.root().children().into_iter().find(|child| child.path() == "/parent").unwrap();
        assert_eq!((parent.usage(), parent.current(Counter::Swap)), (usage, swap));
        assert!(usage > 0 && swap > 0);
        zswap.assert_valid();
        steps
    };
    let (few, many) = (cost(40), cost(4000));
    assert!(many < few + few / 10, "{few} instructions with 40 pages, {many} with 4000");
}

// === ten thousand memcgs under load ===

/// Makes memcgs one after the other, stores a page in each, charges a page and a place, and removes them; what they leave is
/// freed before the removal, after it, or a few memcgs later.
fn make_and_remove(zswap: &Zswap, name: &str, rounds: u64) {
    let tree = zswap.tree();
    let top = zswap.root().mkdir(name).unwrap();
    let slots = zswap.reserve(8).unwrap();
    let slots: Vec<_> = slots.iter().collect();
    for round in 0..rounds {
        let slot = slots[round as usize % slots.len()];
        if round % 3 == 2 {
            zswap.free(slot); // else the store replaces what is there, of a memcg that is gone
        }
        let vm = top.mkdir("vm").unwrap();
        zswap.store(slot, &vm, NODE, &page_of(Kind::Mixed(200 + (round % 1000) as usize), round)).unwrap();
        let objcg = vm.objcg().unwrap();
        tree.charge(objcg.id(), Counter::Memory, 4096).unwrap();
        tree.charge(objcg.id(), Counter::Swap, 64).unwrap();
        let uncharge = || {
            tree.uncharge(objcg.id(), Counter::Memory, 4096);
            tree.uncharge(objcg.id(), Counter::Swap, 64);
        };
        if round % 2 == 0 {
            uncharge();
            vm.offline().unwrap();
        } else {
            vm.offline().unwrap();
            uncharge();
        }
    }
    slots.iter().for_each(|&slot| _ = zswap.free(slot));
    top.offline().unwrap();
}

#[test]
fn ten_thousand_memcgs_made_and_removed_under_load_leave_nothing() {
    const MAKERS: u64 = 2;
    const EACH: u64 = 5_000;
    let zswap = Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 12).address_space(128 << 20).build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    tenant.set_max(Counter::Zswap, 300 << 10).unwrap(); // refusals and excess too
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS)
            .map(|n| {
                let zswap = &zswap;
                scope.spawn(move || make_and_remove(zswap, &format!("maker{n}"), EACH))
            })
            .collect();
        let (zswap, tenant, done) = (&zswap, &tenant, &done);
        scope.spawn(move || {
            let slots = zswap.reserve(400).unwrap();
            let (mut random, mut page) = (Random::new(1), Page::zeroed());
            while !done.load(Ordering::Relaxed) {
                let slot = slots.iter().nth(random.below(400) as usize).unwrap();
                match random.below(3) {
                    0 => _ = zswap.free(slot),
                    1 => _ = zswap.load(slot, &mut page),
                    _ => _ = zswap.store(slot, tenant, NODE, &page_of(Kind::Mixed(1500), slot.0)),
                }
                assert!(tenant.current(Counter::Zswap) <= 300 << 10);
            }
            slots.iter().for_each(|slot| _ = zswap.free(slot));
        });
        let joined: Vec<_> = makers.into_iter().map(|maker| maker.join()).collect();
        done.store(true, Ordering::Relaxed);
        joined.into_iter().for_each(|maker| maker.unwrap());
    });
    tenant.offline().unwrap();
    drop(tenant);
    zswap.assert_valid();
    let tree = zswap.tree();
    tree.assert_quiet();
    let root = tree.root();
    assert_eq!(Counter::ALL.map(|counter| root.current(counter)), [0; 3]);
    let stat = root.stat().unwrap();
    assert_eq!((stat.bytes.compressed, stat.resident, stat.places), (0, 0, 0));
    assert!(stat.events(Event::ZswpOut) >= MAKERS * EACH, "{stat:?}");
    let census = tree.census();
    let Census { group_indexes, objcg_ids, .. } = census;
    assert_eq!(census, Census { online: 1, groups: 1, objcgs: 1, group_indexes, objcg_ids });
    // Root, tenant and, of each maker, its own, the one that it has, and one that somebody may still have a handle on; objcgs
    // of the objects in eight slots and one on its way.
    assert!(group_indexes <= 2 + 4 * MAKERS as usize, "{census:?}");
    assert!(objcg_ids <= 2 + 12 * MAKERS as usize, "{census:?}");
}

/// It would be met later, by who settles what lies in stock, and take that along.
#[test]
#[should_panic(expected = "of a tree that counts on 1 nodes")]
fn a_node_that_a_tree_does_not_count_on_is_refused_where_it_is_named() {
    let tree = Tree::new(TreeConfig { nodes: 1, ..TreeConfig::default() });
    let bytes = Bytes4 { compressed: 1000, original: 4096, payload: 1000, incompressible: 0 };
    let _ = tree.enter(&tree.root(), NodeId(5), bytes, None);
}
