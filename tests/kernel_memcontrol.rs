//! The cases of the kernel's `test_memcontrol` that have a meaning here, by name, through the control files.
//!
//! Sizes are the kernel's, in builds without optimisation a quarter of them ([`M`]). A process that allocates is a [`Client`], its anonymous memory the client's pages; there are no files and so no page cache:
//! where a case fills that, pages that compress take its place, for they can be reclaimed too. After each case every
//! counter is exactly 0 ([`Case::end`]).
//!
//! Without a meaning here:
//! - `test_memcg_min`, `test_memcg_low`: protection comes with the guest layer, which has pages to protect.
//! - `test_memcg_high_work`, `_high_work_cpu_max`: the kernel postpones reclaim to a work item where a charger cannot do it,
//!   and throttles that by `cpu.max`; here each charger does it itself, and no controller of processor time is there.
//! - `test_memcg_sock`: there are no sockets whose buffers would be charged.
//! - `test_memcg_oom_group_leaf_events`, `_parent_events`, `_score_events`: which processes of a memcg are killed together.
//!   There are no processes; that a charge was refused is counted as `oom` (`test_memcg_oom_events`), and who charges decides.
//! - `test_memcg_inotify_delete_file`, `_dir`: what the file system says of its own files. The tree mounted through FUSE is the
//!   program's.

#[path = "support/cgroup.rs"]
#[allow(dead_code, unreachable_pub)]
mod cgroup;
#[path = "support/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;

use cgroup::*;
use client::{Client, Fault};
use std::sync::atomic::{AtomicBool, Ordering};
use zspool::memcg::{Cancel, ResidentError};

fn client(case: &Case, bytes: u64) -> Client {
    Client::new(&case.zswap, &case.memcg, pages(bytes)).unwrap()
}

/// Write all pages, and look at the memcg after each.
fn fill(client: &Client, pattern: &Pattern, mut look: impl FnMut()) {
    for k in 0..client.len() {
        client.write(k, &pattern.page(k)).unwrap();
        look();
    }
}

fn assert_intact(client: &Client, pattern: &Pattern) {
    (0..client.len()).for_each(|k| assert!(client.read(k).unwrap()[..] == pattern.page(k)[..], "page {k} is intact"));
}

#[test]
fn test_memcg_subtree_control() {
    let case = Case::new("test_memcg_subtree_control");
    set(&case.memcg, "cgroup.subtree_control", "+memory");
    let child = case.memcg.mkdir("child").unwrap();
    for memcg in [&case.memcg, &child] {
        assert_eq!(memcg.read_file("cgroup.controllers").unwrap(), "memory\n");
        assert_eq!(memcg.read_file("cgroup.subtree_control").unwrap(), "memory\n");
    }
    // In the kernel a parent can keep the controller from its children. Every memcg here has memory to count: refused.
    assert_eq!(write(&case.memcg, "cgroup.subtree_control", "-memory"), Err(libc::EOPNOTSUPP));
    assert_eq!(write(&case.memcg, "cgroup.subtree_control", "+cpu"), Err(libc::EINVAL));
    assert_eq!(number(&child, "memory.current"), 0);
    case.end();
}

#[test]
fn test_memcg_current_peak() {
    let case = Case::new("test_memcg_current_peak");
    let (file, peak) = (
        |name| case.memcg.open_file(name).unwrap(),
        |file: &zspool::memcg::OpenFile| file.read().unwrap().trim_end().parse::<u64>().unwrap(),
    );
    assert_eq!((number(&case.memcg, "memory.current"), number(&case.memcg, "memory.peak")), (0, 0));
    let [first, second, third] = ["memory.peak"; 3].map(file);
    let client = client(&case, 50 * M);
    let pattern = Pattern::new(64);
    fill(&client, &pattern, || {});
    assert_eq!(number(&case.memcg, "memory.current"), 50 * M, "exactly (in the kernel, within 3%)");
    assert_eq!([&first, &second, &third].map(peak), [50 * M; 3]);

    // Each reader begins anew for itself.
    drop(client);
    assert_eq!(number(&case.memcg, "memory.current"), 0);
    second.write("reset\n", &Cancel::new()).unwrap();
    assert_eq!([&first, &second, &third].map(peak), [50 * M, 0, 50 * M]);
    let client = self::client(&case, 20 * M);
    fill(&client, &pattern, || {});
    assert_eq!([&first, &second, &third].map(peak), [50 * M, 20 * M, 50 * M]);
    drop(client);
    third.write("reset\n", &Cancel::new()).unwrap();
    assert_eq!([&first, &second, &third].map(peak), [50 * M, 20 * M, 0]);
    assert_eq!(number(&case.memcg, "memory.peak"), 50 * M, "a reader that has reset nothing sees the most of all time");
    case.end();
}

#[test]
fn test_memcg_high() {
    let case = Case::new("test_memcg_high");
    assert_eq!(case.memcg.read_file("memory.high").unwrap(), "max\n");
    set(&case.memcg, "memory.high", 30 * M);
    let before = key(&case.memcg, "memory.events", "high");
    let below = client(&case, 29 * M);
    let pattern = Pattern::new(64);
    fill(&below, &pattern, || {});
    assert_eq!(key(&case.memcg, "memory.events", "high"), before, "below it nothing happens");
    assert_eq!((number(&case.memcg, "memory.current"), below.resident()), (29 * M, below.len()));
    let above = client(&case, 21 * M);
    fill(&above, &pattern, || {});
    assert!(key(&case.memcg, "memory.events", "high") > before);
    assert!(number(&case.memcg, "memory.current") <= 30 * M);
    assert_eq!(key(&case.memcg, "memory.events", "max"), 0, "nothing was refused");
    assert_intact(&below, &pattern);
    assert_intact(&above, &pattern);
    drop((below, above));
    case.end();
}

#[test]
fn test_memcg_high_sync() {
    // Who charges brings the memcg back below by itself: one page above at the most, at every look.
    let case = Case::new("test_memcg_high_sync");
    set(&case.memcg, "memory.high", 30 * M);
    let client = client(&case, 60 * M);
    let pattern = Pattern::new(64);
    let mut most = 0;
    fill(&client, &pattern, || most = number(&case.memcg, "memory.current").max(most));
    assert!(most <= 30 * M, "{most} after a charge");
    assert!(number(&case.memcg, "memory.peak") <= 30 * M + PAGE, "during one");
    assert!(key(&case.memcg, "memory.events", "high") > 0);
    // And so does who sets it.
    set(&case.memcg, "memory.high", 10 * M);
    assert!(number(&case.memcg, "memory.current") <= 10 * M, "{}", number(&case.memcg, "memory.current"));
    assert_intact(&client, &pattern);
    drop(client);
    case.end();
}

#[test]
fn test_memcg_max() {
    let case = Case::new("test_memcg_max");
    assert_eq!(case.memcg.read_file("memory.max").unwrap(), "max\n");
    set(&case.memcg, "memory.max", 30 * M);
    let client = client(&case, 50 * M);
    let pattern = Pattern::new(64);
    fill(&client, &pattern, || assert!(number(&case.memcg, "memory.current") <= 30 * M));
    assert!(key(&case.memcg, "memory.events", "max") > 0);
    assert_eq!(key(&case.memcg, "memory.events", "oom"), 0);
    assert!(number(&case.memcg, "memory.peak") <= 30 * M);
    assert_intact(&client, &pattern);
    // Below what is there: it is brought down, and what it holds stays.
    set(&case.memcg, "memory.max", 5 * M);
    assert!(number(&case.memcg, "memory.current") <= 5 * M);
    assert_intact(&client, &pattern);
    drop(client);
    case.end();
}

#[test]
fn test_memcg_reclaim() {
    let case = Case::new("test_memcg_reclaim");
    let client = client(&case, 50 * M);
    let pattern = Pattern::new(64);
    fill(&client, &pattern, || {});
    let (current, goal) = (number(&case.memcg, "memory.current"), 30 * M);
    assert_eq!(write(&case.memcg, "memory.reclaim", current - goal), Ok(()));
    let now = number(&case.memcg, "memory.current");
    assert!(now <= goal, "success only if it is true: {now}");
    assert!(goal - now <= goal * 3 / 100, "to the goal within 3%: {now}");
    // More than there is.
    assert_eq!(write(&case.memcg, "memory.reclaim", 60 * M), Err(libc::EAGAIN));
    assert_eq!(client.resident(), 0, "it tried all the same");
    assert_intact(&client, &pattern);
    drop(client);
    case.end();
}

#[test]
fn test_memcg_swap_max_peak() {
    let case = Case::new("test_memcg_swap_max_peak");
    assert_eq!(case.memcg.read_file("memory.swap.max").unwrap(), "max\n");
    set(&case.memcg, "memory.zswap.max", "0"); // all that leaves memory goes to the device
    set(&case.memcg, "memory.max", 30 * M);
    set(&case.memcg, "memory.swap.max", 30 * M);
    let [never, reset] = ["memory.swap.peak"; 2].map(|name| case.memcg.open_file(name).unwrap());
    let peak = |file: &zspool::memcg::OpenFile| file.read().unwrap().trim_end().parse::<u64>().unwrap();
    let pattern = Pattern::new(4096);

    let fits = client(&case, 50 * M);
    fill(&fits, &pattern, || {});
    let swapped = number(&case.memcg, "memory.swap.current");
    assert!(number(&case.memcg, "memory.current") <= 30 * M);
    assert!(swapped >= 20 * M && peak(&never) >= swapped);
    let before = peak(&reset);
    drop(fits);
    assert_eq!(number(&case.memcg, "memory.swap.current"), 0);
    reset.write("reset\n", &Cancel::new()).unwrap();
    assert_eq!((peak(&never), peak(&reset)), (before, 0));

    // 100M in 30M and 30M: refused, and neither limit is passed.
    let too_large = client(&case, 100 * M);
    let refused = (0..too_large.len()).find_map(|k| too_large.write(k, &pattern.page(k)).err());
    assert!(matches!(refused, Some(Fault::Charge(ResidentError::NoRoom { .. }))), "{refused:?}");
    assert!(key(&case.memcg, "memory.events", "oom") > 0);
    assert!(key(&case.memcg, "memory.swap.events", "max") > 0);
    assert!(key(&case.memcg, "memory.swap.events", "fail") >= key(&case.memcg, "memory.swap.events", "max"));
    let most = peak(&reset);
    assert!((29 * M..=30 * M).contains(&most), "filled to the limit: {most}");
    assert!(peak(&never) <= 30 * M && number(&case.memcg, "memory.peak") <= 30 * M);
    drop(too_large);
    case.end();
}

#[test]
fn test_memcg_oom_events() {
    let case = Case::new("test_memcg_oom_events");
    set(&case.memcg, "memory.max", 30 * M);
    set(&case.memcg, "memory.swap.max", "0");
    let child = case.memcg.mkdir("child").unwrap();
    let client = Client::new(&case.zswap, &child, pages(100 * M)).unwrap();
    let pattern = Pattern::new(4096); // does not shrink, and may not go to the device: nothing can be reclaimed
    let (k, fault) = (0..client.len()).find_map(|k| Some((k, client.write(k, &pattern.page(k)).err()?))).unwrap();
    assert_eq!(k, pages(30 * M), "no page was refused that fits");
    let Fault::Charge(refused) = &fault else { panic!("{fault}") };
    assert_eq!(refused.errno(), libc::ENOMEM);
    assert!(fault.to_string().contains("memory.max"), "{fault}");
    // It is the memcg's whose limit it was.
    assert_eq!(key(&case.memcg, "memory.events", "oom"), 1);
    assert_eq!(key(&case.memcg, "memory.events.local", "oom"), 1);
    assert_eq!(key(&child, "memory.events", "oom"), 0);
    assert!(key(&case.memcg, "memory.events", "max") > 0);
    // What is there is there still. To come back, a page that reclaim has put aside in vain needs room beside itself.
    set(&case.memcg, "memory.max", 30 * M + PAGE);
    (0..k).for_each(|k| assert!(client.read(k).unwrap()[..] == pattern.page(k)[..], "page {k}"));
    drop(client);
    case.end();
}

#[test]
fn a_sampler_never_sees_memory_above_its_max() {
    // What `test_memcg_max` cannot see from one process: threads that fault at the limit all the time.
    let case = Case::new("threads_at_memory_max");
    set(&case.memcg, "memory.max", 2 * M);
    let client = client(&case, 8 * M);
    let (pattern, done) = (Pattern::new(64), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(number(&case.memcg, "memory.current") <= 2 * M);
                samples += 1;
            }
            samples
        });
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let (client, pattern) = (&client, &pattern);
                scope.spawn(move || {
                    for round in 0..3 {
                        for k in (t..client.len()).step_by(4) {
                            client.write(k, &pattern.page(k)).unwrap();
                            let other = (k * 7 + round) % client.len();
                            let page = client.read(other).unwrap();
                            assert!(page[0] == 0 || page[..] == pattern.page(other)[..], "page {other}");
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(sampler.join().unwrap() > 10, "the sampler ran");
        ends.into_iter().for_each(|end| end.unwrap());
    });
    assert_intact(&client, &pattern);
    assert_eq!(key(&case.memcg, "memory.events", "oom"), 0);
    drop(client);
    case.end();
}
