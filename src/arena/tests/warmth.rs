//! Warm frames: how frames become warm, and how long they stay.

use super::*;
use crate::sync::Planted;

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
    // 12 are warm: 4 above the bound, and half of it so that the next call has nothing to do.
    assert_eq!(arena.maintain(), 8);
    let backed = |run| (0..4).map(|k| u32::from(arena.is_backed(frame(&arena, run, k)))).sum::<u32>();
    assert_eq!([backed(runs[0]), backed(runs[1]), backed(runs[2])], [0, 0, 4]);
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
fn warm_frames_are_a_share_of_what_is_backed() {
    let arena = arena(|c| (c.warm_frames, c.warm_share, c.commit_ahead) = (100, 4, 8));
    let runs: Vec<Run> = (0..16).map(|_| arena.alloc_run().unwrap()).collect();
    for &run in &runs {
        arena.ensure(arena.first_frame(run), 1, N0).unwrap();
    }
    // Ahead of need: a quarter of the 16 that any arena may have.
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (20 * FRAME, 4));
    for &run in &runs {
        arena.ensure(arena.first_frame(run), 8, N0).unwrap();
    }
    assert_eq!((arena.backed_bytes(), arena.warm_frames()), (128 * FRAME, 0));
    let mut most = 0;
    for &run in &runs {
        (0..8).for_each(|k| arena.release(frame(&arena, run, k)));
        arena.maintain();
        arena.assert_valid();
        let backed = (arena.backed_bytes() / FRAME) as usize;
        assert!(arena.warm_frames() <= (backed / 4).max(16), "{} of {backed}", arena.warm_frames());
        most = most.max(arena.warm_frames());
    }
    assert!(most > 16, "{most}");
}

#[test]
fn idle_frames_go_once_and_the_alarm_tells_of_the_next() {
    let arena = arena(|c| c.warm_frames = 8);
    assert!(arena.alarm().attend() && arena.alarm().is_rung());
    let mut turns = 0;
    let answer = |turns: &mut u64| arena.alarm().answer(Planted::NONE, || arena.flush_if_idle(turns));
    assert!(!answer(&mut turns), "nothing is warm");
    let run = arena.alloc_run().unwrap();
    arena.ensure(arena.first_frame(run), 2, N0).unwrap();
    arena.release(frame(&arena, run, 0));
    assert!(arena.alarm().is_rung());
    assert!(answer(&mut turns), "it has just become warm");
    arena.release(frame(&arena, run, 1));
    assert!(!arena.alarm().is_rung(), "who looks now and then need not be told");
    assert!(answer(&mut turns));
    assert!(!answer(&mut turns), "nothing has happened since");
    assert_eq!(arena.backed_bytes(), 0);
    arena.ensure(arena.first_frame(run), 1, N0).unwrap();
    arena.release(frame(&arena, run, 0));
    assert!(arena.alarm().is_rung());
    arena.assert_valid();
}
