//! Random calls against a plain model.

use super::*;
use crate::arena::Error;
use crate::arena::state::State;
use proptest::prelude::*;
use std::collections::BTreeMap;

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
