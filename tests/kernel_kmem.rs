//! The cases of the kernel's `test_kmem` that have a meaning here, by name, through the control files.
//!
//! Kernel memory that a memcg is charged for (dentries in the cases) is compressed memory here: what a memcg's pages became.
//! It outlives the memcg and is its parent's then. After each case every counter is exactly 0 ([`Case::end`]).
//!
//! Without a meaning here:
//! - `test_kmem_kernel_stacks`: threads have no stacks in this memory.
//! - `test_kmem_proc_kpagecgroup`: the kernel's table of who owns a physical page. The owner of a frame's objects is in the
//!   pool's entries, and [`Case::end`] has them compared with every counter.

#[path = "support/cgroup.rs"]
#[allow(dead_code, unreachable_pub)]
mod cgroup;
#[path = "support/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;

use cgroup::*;
use client::Client;
use std::sync::atomic::{AtomicUsize, Ordering};
use zspool::memcg::Memcg;

/// What `memory.stat` says that `memory.current` consists of.
fn parts(memcg: &Memcg) -> u64 {
    stat(memcg, "anon") + stat(memcg, "zswap")
}

fn write_all(client: &Client, pattern: &Pattern) {
    (0..client.len()).for_each(|k| client.write(k, &pattern.page(k)).unwrap());
}

/// Put every other page away.
fn page_half_out(client: &Client) {
    (0..client.len()).step_by(2).for_each(|k| assert!(client.page_out(k).unwrap() > 0));
}

#[test]
fn test_kmem_basic() {
    let case = Case::new("test_kmem_basic");
    let client = Client::new(&case.zswap, &case.memcg, pages(20 * M)).unwrap();
    let pattern = Pattern::new(2048);
    write_all(&client, &pattern);
    (0..client.len()).for_each(|k| assert!(client.page_out(k).unwrap() > 0));
    let slab = stat(&case.memcg, "zswap");
    assert_eq!((number(&case.memcg, "memory.current"), slab > 10 * M), (slab, true));
    set(&case.memcg, "memory.high", M);
    let now = number(&case.memcg, "memory.current");
    assert!(now <= M, "all above it (in the kernel, half of all): {now} of {slab}");
    assert!(stat(&case.memcg, "zswap") < slab / 2);
    (0..client.len()).for_each(|k| assert!(client.read(k).unwrap()[..] == pattern.page(k)[..], "page {k}"));
    drop(client);
    case.end();
}

#[test]
fn test_kmem_memcg_deletion() {
    let case = Case::new("test_kmem_memcg_deletion");
    let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    const GROUPS: usize = 100;
    // Threads make memcgs, use them, and remove them while their pages are still there, resident and compressed.
    let next = AtomicUsize::new(0);
    let use_and_remove = || {
        let mut left = Vec::new();
        while let Some(group) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&group| group < GROUPS) {
            let memcg = case.memcg.mkdir(&format!("child{group}")).unwrap();
            let client = Client::new(&case.zswap, &memcg, 20).unwrap();
            write_all(&client, &Pattern::new(100 + 30 * group));
            page_half_out(&client);
            memcg.offline().unwrap();
            left.push(client);
        }
        left
    };
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(use_and_remove)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((clients.len(), case.memcg.children().len()), (GROUPS, 0));
    let (current, sum) = (number(&case.memcg, "memory.current"), parts(&case.memcg));
    assert_eq!(current, sum, "to the byte (in the kernel, within a batch for each processor)");
    assert_eq!(stat(&case.memcg, "anon"), GROUPS as u64 * 10 * PAGE);
    assert_eq!(stat(&case.memcg, "zswap"), case.zswap.stats().pool.slot_bytes);
    assert_eq!(stat(&case.memcg, "zswapped"), GROUPS as u64 * 10 * PAGE);
    // It is the parent's in every way: the parent can be reclaimed from. Then clients go, in any order.
    let (bytes, _) = reclaim(&case.memcg, current);
    assert_eq!((bytes, number(&case.memcg, "memory.current")), (current, 0));
    drop(clients);
    case.end();
}

#[test]
fn test_kmem_dead_cgroups() {
    let case = Case::new("test_kmem_dead_cgroups");
    const GROUPS: u64 = 30;
    let pattern = Pattern::new(500);
    let clients: Vec<Client> = (0..GROUPS)
        .map(|group| {
            let memcg = case.memcg.mkdir(&format!("child{group}")).unwrap();
            let client = Client::new(&case.zswap, &memcg, 10).unwrap();
            write_all(&client, &pattern);
            page_half_out(&client);
            memcg.offline().unwrap();
            client
        })
        .collect();
    // What is left of them keeps their objcgs, and nothing else; when it is gone they are too, and nobody has to wait.
    let dying = || key(&case.memcg, "cgroup.stat", "nr_dying_descendants");
    assert_eq!((key(&case.memcg, "cgroup.stat", "nr_descendants"), dying()), (0, GROUPS));
    for (gone, client) in clients.into_iter().enumerate() {
        drop(client);
        assert_eq!(dying(), GROUPS - 1 - gone as u64);
    }
    case.end();
}

#[test]
fn test_percpu_basic() {
    const GROUPS: usize = 1000;
    // Slots come in clusters of 512, and each client has some of its own.
    let case = Case::with("test_percpu_basic", |builder| builder.slots_in_use(1 << 20));
    let pattern = Pattern::new(1000);
    let children: Vec<(Memcg, Client)> = (0..GROUPS)
        .map(|group| {
            let memcg = case.memcg.mkdir(&format!("child{group}")).unwrap();
            let client = Client::new(&case.zswap, &memcg, 2).unwrap();
            write_all(&client, &pattern);
            page_half_out(&client);
            (memcg, client)
        })
        .collect();
    assert_eq!(key(&case.memcg, "cgroup.stat", "nr_descendants"), GROUPS as u64);
    let current = number(&case.memcg, "memory.current");
    assert_eq!(current, parts(&case.memcg), "to the byte");
    assert_eq!(current, children.iter().map(|(memcg, _)| number(memcg, "memory.current")).sum::<u64>());
    // A memcg costs its parent nothing.
    drop(children.into_iter().map(|(memcg, _)| memcg).collect::<Vec<_>>());
    assert_eq!((number(&case.memcg, "memory.current"), number(&case.memcg, "memory.zswap.current")), (0, 0));
    case.end();
}
