//! Tests of the whole arena. Properties:
//!
//! 1. After any sequence of calls exactly the frames that were ensured and not released are Owned, on the node asked
//!    for, with the bytes written to them (`an_arena_does_what_its_model_does`).
//! 2. A call is refused exactly when its frames would not fit beside the owned ones.
//! 3. Whatever commit fails, every counter is exact, and the frames that were owned before still are.
//! 4. No thread ever sees more backed than the limit, and A1 to A4 hold at any moment.

use super::state::State;
use super::*;
use crate::units::{FRAME_SIZE, Frame, Location, NodeId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const FRAME: u64 = FRAME_SIZE as u64;
const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

/// Small: 64 runs of 8 frames, 2 nodes, no warm frames unless a test wants some.
fn config() -> ArenaConfig {
    ArenaConfig {
        address_space: 64 * 8 * FRAME_SIZE,
        run_frames: 8,
        limit_bytes: u64::MAX,
        warm_frames: 0,
        commit_ahead: 1,
        topology: Topology::simulated(2),
        fail_commits_after: None,
    }
}

fn arena(change: impl FnOnce(&mut ArenaConfig)) -> Arena {
    let mut config = config();
    change(&mut config);
    Arena::new(config).unwrap()
}

/// A run's frame `k`.
fn frame(arena: &Arena, run: Run, k: u32) -> Frame {
    Frame(arena.first_frame(run).0 + k)
}

fn write_stamp(arena: &Arena, frame: Frame, stamp: u64) {
    // SAFETY: the tests write to frames they own only, one thread at a time; a frame's start is aligned.
    arena.with_mut(Location::from_offset(frame.offset()), 8, |p| unsafe { p.cast::<u64>().write(stamp) });
}

fn stamp(arena: &Arena, frame: Frame) -> u64 {
    // SAFETY: as above.
    arena.with(Location::from_offset(frame.offset()), 8, |p| unsafe { p.cast::<u64>().read() })
}

#[test]
fn released_frames_stay_warm_and_come_back_without_a_commit() {
    let arena = arena(|c| c.fail_commits_after = Some(1));
    let first = arena.first_frame(arena.alloc_run().unwrap());
    arena.ensure(first, 2, N0).unwrap();
    arena.release(first);
    assert!(arena.is_backed(first));
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (2 * FRAME, 1));
    // The one commit that may succeed has.
    arena.ensure(first, 2, N0).unwrap();
    assert_eq!(arena.warm_frames(), 0);
    arena.assert_valid();
}

#[test]
fn release_leaves_what_is_not_owned_alone() {
    let arena = arena(|_| ());
    let first = arena.first_frame(arena.alloc_run().unwrap());
    arena.release(first);
    assert!(!arena.is_backed(first));
    arena.ensure(first, 1, N0).unwrap();
    arena.release(first);
    arena.release(first);
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (FRAME, 1));
    arena.assert_valid();
}

#[test]
fn runs_with_warm_frames_are_handed_out_first_then_the_last_freed_then_new_ones() {
    let arena = arena(|_| ());
    let runs: Vec<Run> = (0..4).map(|_| arena.alloc_run().unwrap()).collect();
    arena.ensure(arena.first_frame(runs[1]), 1, N0).unwrap();
    arena.release(arena.first_frame(runs[1]));
    for &run in &runs[..3] {
        arena.free_run(run);
        arena.assert_valid();
    }
    assert_eq!(arena.used_runs(), 1);
    let again: Vec<Run> = (0..4).map(|_| arena.alloc_run().unwrap()).collect();
    assert_eq!(again, [runs[1], runs[2], runs[0], Run(4)]);
}

#[test]
fn a_free_run_that_loses_its_warm_frames_is_an_ordinary_one() {
    let arena = arena(|_| ());
    let (a, b) = (arena.alloc_run().unwrap(), arena.alloc_run().unwrap());
    arena.ensure(arena.first_frame(a), 3, N0).unwrap();
    (0..3).for_each(|k| arena.release(frame(&arena, a, k)));
    arena.free_run(a);
    arena.free_run(b);
    assert_eq!(arena.flush(), 3);
    arena.assert_valid();
    assert_eq!(arena.backed_bytes(), 0);
    assert_eq!([arena.alloc_run().unwrap(), arena.alloc_run().unwrap()], [a, b]);
}

#[test]
fn the_last_run_is_handed_out_and_then_none() {
    let arena = arena(|c| c.address_space = 3 * 8 * FRAME_SIZE);
    assert_eq!((arena.run_count(), arena.address_space()), (3, 3 * 8 * FRAME_SIZE));
    for k in 0..3 {
        assert_eq!(arena.alloc_run().unwrap(), Run(k));
    }
    let refused = arena.alloc_run().unwrap_err();
    assert!(matches!(refused, Error::NoRun { runs: 3 }));
    assert_eq!(
        refused.to_string(),
        "all 3 runs of the pool's address space are in use; make the pool with a larger `address_space`"
    );
    // The last frame of all can be used.
    let last = frame(&arena, Run(2), 7);
    arena.ensure(last, 1, N0).unwrap();
    write_stamp(&arena, last, 1);
}

#[test]
#[should_panic(expected = "freed but free already")]
fn freeing_a_run_twice_panics() {
    let arena = arena(|_| ());
    let run = arena.alloc_run().unwrap();
    arena.free_run(run);
    arena.free_run(run);
}

#[test]
#[should_panic(expected = "Owned")]
fn freeing_a_run_with_an_owned_frame_panics() {
    let arena = arena(|_| ());
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 7), 1, N0).unwrap();
    arena.free_run(run);
}

#[test]
#[should_panic(expected = "not of one run")]
fn frames_of_two_runs_panic() {
    let arena = arena(|_| ());
    let run = arena.alloc_run().unwrap();
    let _ = arena.ensure(frame(&arena, run, 7), 2, N0);
}

#[test]
fn commits_ahead_stay_in_the_run_and_within_the_warm_bound_and_the_limit() {
    // (frame asked for, warm frames allowed, limit in frames) -> warm afterwards, 4 a commit
    for (k, warm_frames, limit, ahead) in [
        (0, 100, 100, 3),
        (5, 100, 100, 2),
        (7, 100, 100, 0),
        (0, 2, 100, 2),
        (0, 0, 100, 0),
        (0, 100, 3, 2),
        (0, 9, 1, 0),
    ] {
        let arena = arena(|c| (c.commit_ahead, c.warm_frames, c.limit_bytes) = (4, warm_frames, limit * FRAME));
        let run = arena.alloc_run().unwrap();
        arena.ensure(frame(&arena, run, k), 1, N1).unwrap();
        arena.assert_valid();
        assert_eq!(arena.warm_frames(), ahead, "{k} {warm_frames} {limit}");
        assert_eq!(arena.backed_on(N1), (1 + ahead as u64) * FRAME);
        let backed: Vec<bool> = (0..8).map(|k| arena.is_backed(frame(&arena, run, k))).collect();
        assert_eq!(backed, (0..8).map(|at| at >= k && at <= k + ahead as u32).collect::<Vec<_>>());
    }
}

#[test]
fn commits_ahead_stop_at_a_frame_that_is_backed() {
    let arena = arena(|c| (c.commit_ahead, c.warm_frames) = (8, 100));
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 2), 1, N0).unwrap();
    assert_eq!(arena.warm_frames(), 5);
    arena.flush();
    arena.ensure(frame(&arena, run, 0), 1, N0).unwrap();
    assert_eq!(arena.warm_frames(), 1);
}

#[test]
fn maintain_gives_the_oldest_back_and_leaves_the_bound() {
    let arena = arena(|c| c.warm_frames = 8);
    let runs: Vec<Run> = (0..3).map(|_| arena.alloc_run().unwrap()).collect();
    for &run in &runs {
        arena.ensure(arena.first_frame(run), 4, N0).unwrap();
    }
    for &run in &runs {
        (0..4).for_each(|k| arena.release(frame(&arena, run, k)));
    }
    // 12 are warm: 4 above the bound, and a quarter of it as slack.
    assert_eq!(arena.maintain(), 6);
    let backed = |run| (0..4).map(|k| u32::from(arena.is_backed(frame(&arena, run, k)))).sum::<u32>();
    assert_eq!([backed(runs[0]), backed(runs[1]), backed(runs[2])], [0, 2, 4]);
    assert_eq!(arena.maintain(), 0);
    arena.assert_valid();
}

#[test]
fn more_than_a_batch_is_flushed_whole() {
    let arena = arena(|_| ());
    for _ in 0..20 {
        let run = arena.alloc_run().unwrap();
        arena.ensure(arena.first_frame(run), 8, N0).unwrap();
        (0..8).for_each(|k| arena.release(frame(&arena, run, k)));
    }
    assert_eq!(arena.flush(), 160);
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (0, 0));
}

#[test]
fn at_the_limit_warm_frames_make_room_and_owned_ones_do_not() {
    let arena = arena(|c| (c.limit_bytes, c.warm_frames) = (3 * FRAME + 4095, 100));
    let (a, b) = (arena.alloc_run().unwrap(), arena.alloc_run().unwrap());
    arena.ensure(arena.first_frame(a), 3, N0).unwrap();
    let refused = arena.ensure(arena.first_frame(b), 1, N0).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the pool has 12288 of at most 16383 bytes backed; free something or raise the limit"
    );
    arena.release(arena.first_frame(a));
    arena.ensure(arena.first_frame(b), 1, N0).unwrap();
    assert!(!arena.is_backed(arena.first_frame(a)));
    arena.assert_valid();
}

#[test]
fn a_refusal_leaves_warm_frames_that_could_not_have_helped() {
    let arena = arena(|c| (c.limit_bytes, c.warm_frames) = (3 * FRAME, 100));
    let (a, b) = (arena.alloc_run().unwrap(), arena.alloc_run().unwrap());
    arena.ensure(arena.first_frame(a), 3, N0).unwrap();
    arena.release(arena.first_frame(a));
    assert!(matches!(arena.ensure(arena.first_frame(b), 2, N0), Err(Error::Limit { backed: 12288, limit: 12288 })));
    assert!(arena.is_backed(arena.first_frame(a)));
}

#[test]
fn nothing_can_be_committed_under_a_limit_below_a_frame() {
    for limit in [0, 1, 4095] {
        let arena = arena(|c| (c.limit_bytes, c.commit_ahead, c.warm_frames) = (limit, 4, 100));
        let first = arena.first_frame(arena.alloc_run().unwrap());
        let refused = arena.ensure(first, 1, N0).unwrap_err();
        assert!(matches!(refused, Error::Limit { backed: 0, limit: l } if l == limit));
        assert!(refused.to_string().contains(&format!("at most {limit} bytes")));
        arena.ensure(first, 0, N0).unwrap();
        arena.set_limit(FRAME);
        arena.ensure(first, 1, N0).unwrap();
        arena.assert_valid();
    }
}

#[test]
fn a_limit_below_what_is_backed_takes_warm_frames_and_refuses_commits() {
    let arena = arena(|c| c.warm_frames = 100);
    let run = arena.alloc_run().unwrap();
    arena.ensure(arena.first_frame(run), 6, N0).unwrap();
    (0..3).for_each(|k| arena.release(frame(&arena, run, k)));
    arena.set_limit(5 * FRAME);
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (5 * FRAME, 2));
    arena.set_limit(0);
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (3 * FRAME, 0));
    assert!(matches!(arena.ensure(arena.first_frame(run), 1, N0), Err(Error::Limit { backed: 12288, limit: 0 })));
    // Owned frames are served still; released ones go at the next maintenance, whatever may stay warm.
    arena.ensure(frame(&arena, run, 3), 3, N0).unwrap();
    arena.release(frame(&arena, run, 3));
    assert_eq!(arena.maintain(), 1);
    assert_eq!(arena.backed_bytes(), 2 * FRAME);
    arena.assert_valid();
}

#[test]
fn a_full_node_refuses_and_the_other_does_not() {
    let arena = arena(|c| c.topology = Topology::simulated(2).with_capacity(N0, 2 * FRAME + 100).with_capacity(N1, 0));
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 0), 2, N0).unwrap();
    let refused = arena.ensure(frame(&arena, run, 2), 1, N0).unwrap_err();
    assert_eq!(refused.to_string(), "node N0 is full at 8292 bytes; use another node or free something there");
    assert!(matches!(arena.ensure(frame(&arena, run, 2), 1, N1), Err(Error::NodeFull { node: N1, capacity: 0 })));
    assert!(matches!(
        arena.ensure(frame(&arena, run, 2), 1, NodeId(2)),
        Err(Error::NoSuchNode { node: NodeId(2), nodes: 2 })
    ));
    // A warm frame there makes room.
    arena.release(frame(&arena, run, 0));
    arena.ensure(frame(&arena, run, 2), 1, N0).unwrap();
    assert!(!arena.is_backed(frame(&arena, run, 0)));
    arena.assert_valid();
}

#[test]
fn a_warm_frame_of_another_node_is_committed_anew_where_it_was_asked_for() {
    let arena = arena(|c| c.topology = Topology::simulated(2).with_capacity(N1, FRAME));
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 0), 3, N0).unwrap();
    (0..2).for_each(|k| arena.release(frame(&arena, run, k)));
    arena.ensure(frame(&arena, run, 0), 1, N1).unwrap();
    assert_eq!([0, 2].map(|k| arena.node_of(frame(&arena, run, k))), [N1, N0]);
    // The node is full now: what is warm elsewhere stays warm.
    assert!(matches!(arena.ensure(frame(&arena, run, 1), 1, N1), Err(Error::NodeFull { .. })));
    assert_eq!((arena.warm_frames(), arena.backed_on(N0), arena.backed_on(N1)), (1, 2 * FRAME, FRAME));
    arena.assert_valid();
}

#[test]
fn on_real_nodes_frames_are_counted_where_they_lie() {
    // The kernel has a node 0, and no node 1000: what is asked of that comes to lie on the other.
    let arena = arena(|c| c.topology = Topology::claiming(&[1000, 0]));
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 0), 2, N0).unwrap();
    arena.ensure(frame(&arena, run, 2), 3, N1).unwrap();
    arena.assert_valid();
    let lies_on = arena.node_of(frame(&arena, run, 0));
    if lies_on == N0 {
        return println!("this kernel does not tell where pages lie; only the sums were tested");
    }
    assert_eq!((arena.backed_on(N0), arena.backed_on(N1)), (0, 5 * FRAME));
}

#[test]
fn whichever_commit_fails_the_counters_are_exact() {
    for k in 0.. {
        let arena = arena(|c| {
            (c.fail_commits_after, c.commit_ahead, c.warm_frames, c.limit_bytes) = (Some(k), 3, 6, 14 * FRAME)
        });
        let mut owned = Vec::new();
        let mut failures = 0;
        for step in 0..4 {
            let run = arena.alloc_run().unwrap();
            for (at, count) in [(0, 2), (5, 1), (1, 3)] {
                let first = frame(&arena, run, at);
                let wanted: Vec<Frame> = (first.0..first.0 + count).map(Frame).collect();
                match arena.ensure(first, count as usize, N0) {
                    Ok(()) => owned.extend(wanted),
                    Err(error) => {
                        failures += u32::from(matches!(error, Error::NoMemory { .. }));
                        wanted.iter().filter(|f| !owned.contains(f)).for_each(|&f| arena.release(f));
                    }
                }
                arena.assert_valid();
            }
            if step % 2 == 1 {
                owned.drain(..).for_each(|f| arena.release(f));
            }
            owned.sort();
            owned.dedup();
            let states = (0..64).map(Frame).filter(|&f| arena.frames.state(f) == State::Owned);
            assert_eq!(states.collect::<Vec<_>>(), owned, "at {k}, {step}");
        }
        arena.flush();
        assert_eq!(arena.backed_bytes(), owned.len() as u64 * FRAME, "at {k}");
        if failures == 0 {
            assert!(k > 4, "the scenario has commits to fail");
            break;
        }
        arena.fail_commits_after(None);
        arena.ensure(frame(&arena, Run(0), 0), 8, N0).unwrap();
    }
}

#[test]
fn a_refusal_of_the_kernel_names_the_bytes() {
    let arena = arena(|c| c.fail_commits_after = Some(0));
    let run = arena.alloc_run().unwrap();
    let refused = arena.ensure(arena.first_frame(run), 3, N0).unwrap_err().to_string();
    assert!(refused.starts_with("the kernel refused 12288 bytes of memory for the pool"), "{refused}");
}

#[test]
fn when_the_kernel_has_no_memory_warm_frames_go_first() {
    let arena = arena(|c| (c.warm_frames, c.fail_commits_after) = (100, Some(1)));
    let run = arena.alloc_run().unwrap();
    arena.ensure(arena.first_frame(run), 2, N0).unwrap();
    arena.release(arena.first_frame(run));
    assert!(matches!(arena.ensure(frame(&arena, run, 4), 1, N0), Err(Error::NoMemory { bytes: 4096, .. })));
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (FRAME, 0));
}

#[test]
fn of_two_threads_that_ensure_the_same_frames_one_commits() {
    for _ in 0..200 {
        let arena = arena(|c| c.fail_commits_after = Some(1));
        let first = arena.first_frame(arena.alloc_run().unwrap());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| arena.ensure(first, 3, N0).unwrap());
            }
        });
        assert_eq!(arena.backed_bytes(), 3 * FRAME);
        arena.assert_valid();
    }
}

/// Frames of a few runs with a count of claims each, as the allocator has them under its class lock.
struct Claims<'a> {
    arena: &'a Arena,
    counts: Mutex<BTreeMap<u32, u32>>,
}

impl Claims<'_> {
    /// Claim frames, have them backed, let go of them again; whether it went well.
    fn visit(&self, first: Frame, count: u32, node: NodeId) -> bool {
        let frames = || (first.0..first.0 + count).map(Frame);
        {
            let mut counts = self.counts.lock().unwrap();
            frames().for_each(|frame| *counts.entry(frame.0).or_default() += 1);
        }
        let done = self.arena.ensure(first, count as usize, node);
        match &done {
            Ok(()) => frames().for_each(|frame| assert_eq!(self.arena.frames.state(frame), State::Owned)),
            Err(Error::Limit { .. } | Error::NodeFull { .. } | Error::NoMemory { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let mut counts = self.counts.lock().unwrap();
        for frame in frames() {
            let count = counts.get_mut(&frame.0).unwrap();
            *count -= 1;
            if *count == 0 {
                self.arena.release(frame);
            }
        }
        done.is_ok()
    }
}

/// A small generator of one's own per thread.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    }
}

#[test]
fn four_threads_never_exceed_the_limit_and_lose_no_frame() {
    let limit = 10 * FRAME;
    let arena = arena(|c| {
        (c.limit_bytes, c.commit_ahead, c.warm_frames) = (limit, 3, 4);
        c.topology = Topology::simulated(2).with_capacity(N1, 4 * FRAME);
    });
    (0..3).for_each(|_| drop(arena.alloc_run().unwrap()));
    let claims = Claims { arena: &arena, counts: Mutex::default() };
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                assert!(arena.backed_bytes() <= limit);
                assert!(arena.backed_on(N1) <= 4 * FRAME);
                arena.assert_valid();
                std::thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..4)
            .map(|thread| {
                let (claims, arena) = (&claims, &arena);
                scope.spawn(move || {
                    let mut below = numbers(thread + 1);
                    let mut good = 0;
                    for _ in 0..3000 {
                        let (at, count) = (below(24), 1 + below(3));
                        let count = count.min(8 - at % 8);
                        good += u32::from(claims.visit(Frame(at as u32), count as u32, NodeId(below(2) as u8)));
                        match below(40) {
                            0 => drop(arena.flush()),
                            1..5 => drop(arena.maintain()),
                            5 => arena.fail_commits_after(Some(below(20))),
                            6..10 => arena.fail_commits_after(None),
                            _ => {}
                        }
                    }
                    good
                })
            })
            .collect();
        let good: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        running.store(false, Ordering::Relaxed);
        assert!(good > 1000, "only {good} of 12000 calls went well");
    });
    arena.assert_valid();
    arena.flush();
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (0, 0));
}

#[test]
fn nobody_is_refused_who_fits() {
    // Two threads of 2 frames each at a limit of 4: between them, warm, passing and ahead frames come and go.
    let arena = arena(|c| (c.limit_bytes, c.commit_ahead, c.warm_frames) = (4 * FRAME, 4, 4));
    (0..8).for_each(|_| drop(arena.alloc_run().unwrap()));
    let claims = Claims { arena: &arena, counts: Mutex::default() };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (claims, mut below) = (&claims, numbers(thread + 7));
            scope.spawn(move || {
                for _ in 0..3000 {
                    let run = 2 * below(4) + thread;
                    assert!(claims.visit(Frame((8 * run + below(7)) as u32), 2, N0));
                }
            });
        }
    });
    arena.assert_valid();
}

/// Run this test binary again for `test` with a limit on its address space of `room` bytes more than it has.
fn in_limited_child(test: &str, room: u64, child: impl FnOnce()) {
    const VARIABLE: &str = "ZSPOOL_TEST_CHILD";
    if std::env::var_os(VARIABLE).is_some_and(|name| name == *test) {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let bytes = pages * FRAME + room;
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: reads the struct, which lives on.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        return child();
    }
    let path = format!("arena::tests::{test}");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &path, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn address_space_that_is_refused_is_halved() {
    in_limited_child("address_space_that_is_refused_is_halved", 200 << 20, || {
        let arena = Arena::new(ArenaConfig::default()).unwrap();
        assert_eq!(arena.address_space(), 128 << 20);
        assert_eq!(arena.run_count(), (128 << 20) / (16 * FRAME_SIZE));
        let first = arena.first_frame(arena.alloc_run().unwrap());
        arena.ensure(first, 16, N0).unwrap();
        arena.assert_valid();
    });
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn address_space_below_the_floor_is_refused_with_a_way_out() {
    in_limited_child("address_space_below_the_floor_is_refused_with_a_way_out", 10 << 20, || {
        let refused = Arena::new(ArenaConfig::default()).unwrap_err();
        assert!(matches!(refused, Error::Reserve { bytes: 16_777_216, .. }), "{refused:?}");
        let said = refused.to_string();
        assert!(said.starts_with("16777216 bytes of address space could not be reserved"), "{said}");
        assert!(said.contains("raise `ulimit -v`"), "{said}");
        // With a smaller limit on backed bytes the floor is lower.
        let small = Arena::new(ArenaConfig { limit_bytes: 1 << 20, ..ArenaConfig::default() }).unwrap();
        assert!((1 << 20..16 << 20).contains(&small.address_space()));
    });
}

#[derive(Clone, Debug)]
enum Op {
    Alloc,
    Free { run: usize },
    Ensure { run: usize, at: u32, count: u32, node: u8 },
    Release { run: usize, at: u32 },
    Maintain,
    Flush,
    SetLimit { frames: u64 },
    Fail { after: Option<u64> },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Alloc),
        2 => (0..6usize).prop_map(|run| Op::Free { run }),
        8 => (0..6usize, 0..8u32, 1..4u32, 0..2u8).prop_map(|(run, at, count, node)| {
            Op::Ensure { run, at, count: count.min(8 - at), node }
        }),
        6 => (0..6usize, 0..8u32).prop_map(|(run, at)| Op::Release { run, at }),
        2 => Just(Op::Maintain),
        1 => Just(Op::Flush),
        1 => (0..24u64).prop_map(|frames| Op::SetLimit { frames }),
        1 => prop::option::of(0..4u64).prop_map(|after| Op::Fail { after }),
    ]
}

/// Frames that the allocator of the test owns: node and the number written into each.
type Model = BTreeMap<Frame, (NodeId, u64)>;

const N1_FRAMES: u64 = 9;

fn ensure_as_the_model(
    arena: &Arena,
    model: &mut Model,
    first: Frame,
    count: u32,
    node: NodeId,
    next: u64,
    failing: bool,
) {
    let new: Vec<Frame> = (first.0..first.0 + count).map(Frame).filter(|f| !model.contains_key(f)).collect();
    let fits = |limit: u64, owned: usize| (owned + new.len()) as u64 * FRAME <= limit;
    let under_limit = fits(arena.limit(), model.len());
    let on_node = model.values().filter(|(on, _)| *on == node).count();
    let under_capacity = fits(arena.topology().capacity(node).unwrap_or(u64::MAX), on_node);
    match arena.ensure(first, count as usize, node) {
        Ok(()) => {
            for frame in new {
                assert_eq!(arena.node_of(frame), node);
                write_stamp(arena, frame, next + u64::from(frame.0));
                model.insert(frame, (node, next + u64::from(frame.0)));
            }
            return;
        }
        Err(Error::Limit { limit, .. }) => assert!(!under_limit && limit == arena.limit()),
        Err(Error::NodeFull { node: full, .. }) => assert!(!under_capacity && full == node),
        Err(Error::NoMemory { .. }) => assert!(failing),
        Err(error) => panic!("{error}"),
    }
    new.iter().for_each(|&frame| arena.release(frame));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_arena_does_what_its_model_does(ops in prop::collection::vec(op(), 1..120), commit_ahead in 0..5usize) {
        let arena = arena(|c| {
            (c.commit_ahead, c.warm_frames, c.limit_bytes, c.address_space) = (commit_ahead, 5, 20 * FRAME, 6 * 8 * 4096);
            c.topology = Topology::simulated(2).with_capacity(N1, N1_FRAMES * FRAME);
        });
        let mut runs: Vec<Run> = Vec::new();
        let mut model = Model::new();
        let (mut next, mut failing) = (0, false);
        for op in ops {
            next += 1000;
            match op {
                Op::Alloc => match arena.alloc_run() {
                    Ok(run) => { prop_assert!(!runs.contains(&run)); runs.push(run); }
                    Err(Error::NoRun { runs: 6 }) => prop_assert_eq!(runs.len(), 6),
                    Err(error) => panic!("{error}"),
                },
                Op::Free { run } if run < runs.len() => {
                    let run = runs.swap_remove(run);
                    for frame in (0..8).map(|k| frame(&arena, run, k)) {
                        if model.remove(&frame).is_some() { arena.release(frame); }
                    }
                    arena.free_run(run);
                }
                Op::Ensure { run, at, count, node } if run < runs.len() => {
                    let first = frame(&arena, runs[run], at);
                    ensure_as_the_model(&arena, &mut model, first, count, NodeId(node), next, failing);
                }
                Op::Release { run, at } if run < runs.len() => {
                    let frame = frame(&arena, runs[run], at);
                    model.remove(&frame);
                    arena.release(frame);
                }
                Op::Maintain => {
                    arena.maintain();
                    prop_assert!(arena.warm_frames() <= 5);
                    prop_assert!(arena.backed_bytes() <= arena.limit() || arena.warm_frames() == 0);
                }
                Op::Flush => { arena.flush(); prop_assert_eq!(arena.backed_bytes(), model.len() as u64 * FRAME); }
                Op::SetLimit { frames } => {
                    arena.set_limit(frames * FRAME);
                    prop_assert!(arena.backed_bytes() <= arena.limit() || arena.warm_frames() == 0);
                }
                Op::Fail { after } => { failing = after.is_some(); arena.fail_commits_after(after); }
                _ => {}
            }
            arena.assert_valid();
            prop_assert_eq!(arena.backed_bytes(), (model.len() + arena.warm_frames()) as u64 * FRAME);
            prop_assert_eq!(arena.used_runs(), runs.len());
            for frame in (0..6 * 8).map(Frame) {
                let owned = (arena.frames.state(frame) == State::Owned).then(|| (arena.node_of(frame), stamp(&arena, frame)));
                prop_assert_eq!(owned, model.get(&frame).copied(), "{:?}", frame);
            }
        }
    }
}
