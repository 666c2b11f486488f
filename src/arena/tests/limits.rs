//! The limit, and the capacities of nodes.

use super::*;
use crate::arena::Error;

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
fn a_full_node_takes_back_its_own_warm_frames_only() {
    let arena = arena(|c| c.topology = Topology::simulated(2).with_capacity(N1, FRAME));
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 0), 1, N0).unwrap();
    arena.ensure(frame(&arena, run, 1), 1, N1).unwrap();
    (0..2).for_each(|k| arena.release(frame(&arena, run, k)));
    arena.ensure(frame(&arena, run, 2), 1, N1).unwrap();
    assert_eq!([0, 1, 2].map(|k| arena.is_backed(frame(&arena, run, k))), [true, false, true]);
    arena.assert_valid();
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn on_real_nodes_frames_are_counted_where_they_lie() {
    // The kernel has a node 0, and no node 1000: what is asked of that comes to lie on the other.
    let arena = arena(|c| c.topology = Topology::claiming(&[1000, 0]));
    let run = arena.alloc_run().unwrap();
    arena.ensure(frame(&arena, run, 0), 2, N0).unwrap();
    arena.ensure(frame(&arena, run, 2), 3, N1).unwrap();
    arena.assert_valid();
    let mut told = 0;
    crate::arena::numa::locate(arena.address(), 5, |_, _| told += 1);
    if told == 0 {
        assert_eq!((arena.backed_on(N0), arena.backed_on(N1)), (2 * FRAME, 3 * FRAME));
        return println!("this kernel does not tell where pages lie: frames count where they were asked for");
    }
    assert_eq!(arena.node_of(frame(&arena, run, 0)), N1);
    assert_eq!((arena.backed_on(N0), arena.backed_on(N1)), (0, 5 * FRAME));
}
