//! Several threads at once.

use super::*;
use crate::arena::Error;
use crate::arena::state::State;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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
    (0..3).for_each(|_| _ = arena.alloc_run().unwrap());
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
                            0 => _ = arena.flush(),
                            1..5 => _ = arena.maintain(),
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
    (0..8).for_each(|_| _ = arena.alloc_run().unwrap());
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
