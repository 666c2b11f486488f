//! A kernel without memory, on cue.

use super::*;
use crate::arena::Error;
use crate::arena::state::State;

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
#[cfg(all(target_os = "linux", not(miri)))]
fn locked_frames_stay_warm_and_nobody_tries_without_end() {
    let arena = arena(|c| (c.limit_bytes, c.warm_frames) = (2 * FRAME, 100));
    let run = arena.alloc_run().unwrap();
    let first = arena.first_frame(run);
    arena.ensure(first, 2, N0).unwrap();
    let start = (arena.address() + first.offset()) as *const libc::c_void;
    // SAFETY: the arena's own mapping; locking changes no byte.
    if unsafe { libc::mlock(start, 2 * FRAME_SIZE) } != 0 {
        return println!("this user may lock no memory; nothing was tested");
    }
    (0..2).for_each(|k| arena.release(frame(&arena, run, k)));
    assert_eq!((arena.flush(), arena.warm_frames()), (0, 2));
    assert!(matches!(arena.ensure(frame(&arena, run, 4), 1, N0), Err(Error::Limit { .. })));
    // They cannot go to the node asked for, but they can be used.
    arena.ensure(first, 2, N1).unwrap();
    assert_eq!(arena.node_of(first), N0);
    arena.assert_valid();
    (0..2).for_each(|k| arena.release(frame(&arena, run, k)));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::munlock(start, 2 * FRAME_SIZE) }, 0);
    assert_eq!(arena.flush(), 2);
    arena.assert_valid();
}
