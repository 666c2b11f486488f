//! Frames of the arena under threads: the real code, one run of two frames.
//!
//! Run time: under a second at bound 2.
//!
//! | model | race |
//! |---|---|
//! | `ensure_vs_ensure_of_the_neighbour` | a commit ahead of need meets the one who needs the frame |
//! | `ensure_vs_flush_and_ensure` | two claims of one frame, which one of them first gives back: both write to their part |
//! | `ensure_vs_release_and_flush` | a frame is given up and given back while its neighbour is being ensured |
//! | `at_the_limit_nobody_who_fits_is_refused` | room for one, frames in passing between two threads |

use loom::sync::Arc;
use std::collections::BTreeSet;
use std::sync::Mutex;
use zspool::arena::{Arena, ArenaConfig, Topology};
use zspool::units::{FRAME_SIZE, Frame, Location, NodeId};

const N0: NodeId = NodeId(0);

fn arena(limit_frames: u64, warm_frames: usize, commit_ahead: usize) -> Arc<Arena> {
    Arc::new(
        Arena::new(ArenaConfig {
            address_space: 2 * FRAME_SIZE,
            run_frames: 2,
            limit_bytes: limit_frames * FRAME_SIZE as u64,
            warm_frames,
            commit_ahead,
            topology: Topology::simulated(1),
            ..ArenaConfig::default()
        })
        .unwrap(),
    )
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(2));
    builder.max_branches = 20_000;
    builder.check(f);
}

/// Touch one half of a frame.
fn write_half(arena: &Arena, frame: Frame, half: usize) {
    let at = Location::from_offset(frame.offset() + half * FRAME_SIZE / 2);
    // SAFETY: inside the frame; the model reports accesses that race.
    arena.with_mut(at, 1, |p| unsafe { p.write(1) });
}

fn write(arena: &Arena, frame: Frame) {
    write_half(arena, frame, 0);
}

#[test]
fn ensure_vs_ensure_of_the_neighbour() {
    static SEEN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    model(|| {
        let arena = arena(2, 2, 2);
        let first = arena.first_frame(arena.alloc_run().unwrap());
        let other = {
            let arena = arena.clone();
            loom::thread::spawn(move || {
                arena.ensure(Frame(first.0 + 1), 1, N0).unwrap();
                write(&arena, Frame(first.0 + 1));
            })
        };
        arena.ensure(first, 1, N0).unwrap();
        SEEN.lock().unwrap().insert(arena.warm_frames() as u64);
        write(&arena, first);
        other.join().unwrap();
        arena.assert_valid();
        assert_eq!(arena.backed_bytes(), 2 * FRAME_SIZE as u64);
    });
    // Ahead of the other thread, and after it.
    assert_eq!(*SEEN.lock().unwrap(), BTreeSet::from([0, 1]));
}

#[test]
fn ensure_vs_flush_and_ensure() {
    static SEEN: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    model(|| {
        let arena = arena(2, 0, 1);
        let first = arena.first_frame(arena.alloc_run().unwrap());
        arena.ensure(first, 1, N0).unwrap();
        write_half(&arena, first, 1);
        arena.release(first);
        let other = {
            let arena = arena.clone();
            loom::thread::spawn(move || {
                let given = arena.flush();
                arena.ensure(first, 1, N0).unwrap();
                write_half(&arena, first, 0);
                given
            })
        };
        arena.ensure(first, 1, N0).unwrap();
        write_half(&arena, first, 1);
        SEEN.lock().unwrap().insert(other.join().unwrap());
        arena.assert_valid();
        assert_eq!(arena.backed_bytes(), FRAME_SIZE as u64);
    });
    assert_eq!(*SEEN.lock().unwrap(), BTreeSet::from([0, 1]));
}

#[test]
fn ensure_vs_release_and_flush() {
    static SEEN: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    model(|| {
        let arena = arena(2, 0, 1);
        let first = arena.first_frame(arena.alloc_run().unwrap());
        arena.ensure(first, 1, N0).unwrap();
        write(&arena, first);
        arena.release(first);
        let other = {
            let arena = arena.clone();
            loom::thread::spawn(move || arena.flush())
        };
        arena.ensure(first, 1, N0).unwrap();
        write(&arena, first);
        let given = other.join().unwrap();
        SEEN.lock().unwrap().insert(given);
        arena.assert_valid();
        assert_eq!(arena.backed_bytes(), FRAME_SIZE as u64);
    });
    assert_eq!(*SEEN.lock().unwrap(), BTreeSet::from([0, 1]));
}

#[test]
fn at_the_limit_nobody_who_fits_is_refused() {
    static SEEN: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    model(|| {
        let arena = arena(1, 1, 1);
        let first = arena.first_frame(arena.alloc_run().unwrap());
        arena.ensure(first, 1, N0).unwrap();
        arena.release(first);
        let other = {
            let arena = arena.clone();
            loom::thread::spawn(move || arena.flush())
        };
        // Whether the warm frame is still there, on its way, or gone.
        arena.ensure(Frame(first.0 + 1), 1, N0).unwrap();
        assert!(arena.backed_bytes() <= FRAME_SIZE as u64);
        SEEN.lock().unwrap().insert(other.join().unwrap() as u64);
        arena.assert_valid();
    });
    assert_eq!(*SEEN.lock().unwrap(), BTreeSet::from([0, 1]));
}
