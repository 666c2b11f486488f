//! The arena's word about its memory against the kernel's: `/proc/self/pagemap` has a present bit per page.
//!
//! Properties, after any sequence of calls and after any commit that failed:
//!
//! 1. A frame is backed exactly if its page is present.
//! 2. `backed_bytes` is the number of present pages times 4096, and the sum over the nodes.
//! 3. A frame that came back from the kernel reads as zeroes; an owned one keeps its bytes.

#![cfg(all(target_os = "linux", not(loom)))]

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use zspool::arena::{Arena, ArenaConfig, Error, Run, Topology};
use zspool::units::{FRAME_SIZE, Frame, Location, NodeId};

const RUN_FRAMES: usize = 16;
const RUNS: usize = 8;
const FRAMES: usize = RUN_FRAMES * RUNS;

fn arena(limit_frames: u64, topology: Topology) -> Arena {
    Arena::new(ArenaConfig {
        address_space: FRAMES * FRAME_SIZE,
        run_frames: RUN_FRAMES,
        limit_bytes: limit_frames * FRAME_SIZE as u64,
        warm_frames: 12,
        commit_ahead: 4,
        topology,
        ..ArenaConfig::default()
    })
    .unwrap()
}

/// Which of the arena's frames the kernel has memory behind: bit 63, or bit 62 where it was swapped out.
fn present(arena: &Arena) -> Vec<bool> {
    let mut words = vec![0u8; FRAMES * 8];
    let at = arena.address() / FRAME_SIZE * 8;
    File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut words, at as u64).unwrap();
    words.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()) >> 62 != 0).collect()
}

fn assert_agrees(arena: &Arena) {
    arena.assert_valid();
    let present = present(arena);
    let backed: Vec<bool> = (0..FRAMES as u32).map(|n| arena.is_backed(Frame(n))).collect();
    assert_eq!(backed, present, "frames the arena has backed, and pages the kernel has present");
    let pages = present.iter().filter(|&&page| page).count() as u64;
    assert_eq!(arena.backed_bytes(), pages * FRAME_SIZE as u64);
    let on_nodes: u64 = arena.topology().nodes().map(|node| arena.backed_on(node)).sum();
    assert_eq!(on_nodes, arena.backed_bytes());
}

fn bytes(arena: &Arena, frame: Frame) -> [u8; FRAME_SIZE] {
    let at = Location::from_offset(frame.offset());
    arena.unpoison(at, FRAME_SIZE);
    // SAFETY: a whole owned frame, one thread; a byte array has no alignment.
    arena.with(at, FRAME_SIZE, |bytes| unsafe { bytes.cast::<[u8; FRAME_SIZE]>().read() })
}

fn fill(arena: &Arena, frame: Frame, byte: u8) {
    let at = Location::from_offset(frame.offset());
    arena.unpoison(at, FRAME_SIZE);
    // SAFETY: as above.
    arena.with_mut(at, FRAME_SIZE, |bytes| unsafe { bytes.write_bytes(byte, FRAME_SIZE) });
}

#[test]
fn the_kernel_tells_backed_frames_from_others() {
    let arena = arena(u64::MAX / 4096, Topology::simulated(1));
    let first = arena.first_frame(arena.alloc_run().unwrap());
    assert_eq!(present(&arena).iter().filter(|&&page| page).count(), 0);
    arena.ensure(first, 1, NodeId(0)).unwrap();
    assert_eq!(present(&arena).iter().filter(|&&page| page).count(), 4, "one asked for, three ahead");
    arena.flush();
    assert_eq!(present(&arena).iter().filter(|&&page| page).count(), 1);
}

#[test]
fn a_frame_that_was_given_back_reads_as_zeroes_and_a_warm_one_as_before() {
    let arena = arena(100, Topology::detect());
    let first = arena.first_frame(arena.alloc_run().unwrap());
    arena.ensure(first, 1, NodeId(0)).unwrap();
    fill(&arena, first, 0xa5);
    arena.release(first);
    arena.ensure(first, 1, NodeId(0)).unwrap();
    assert_eq!(bytes(&arena, first), [0xa5; FRAME_SIZE]);
    arena.release(first);
    arena.flush();
    arena.ensure(first, 1, NodeId(0)).unwrap();
    assert_eq!(bytes(&arena, first), [0; FRAME_SIZE]);
}

#[test]
fn whichever_commit_fails_nothing_stays_behind_uncounted() {
    for k in 0.. {
        let arena = arena(40, Topology::detect());
        arena.fail_commits_after(Some(k));
        let mut failures = 0;
        for _ in 0..3 {
            let run = arena.alloc_run().unwrap();
            for (at, count) in [(0, 2), (9, 5), (1, 4), (13, 3)] {
                let first = Frame(arena.first_frame(run).0 + at);
                failures += u32::from(arena.ensure(first, count, NodeId(0)).is_err());
                assert_agrees(&arena);
            }
        }
        if failures == 0 {
            assert!(k >= 6, "the scenario has commits to fail");
            return;
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Ensure { run: u32, at: u32, count: u32, node: u8 },
    Release { frame: u32 },
    Recycle { run: u32 },
    Maintain,
    Flush,
    SetLimit { frames: u64 },
    Fail { after: Option<u64> },
}

fn op() -> impl Strategy<Value = Op> {
    let (runs, at) = (0..RUNS as u32, 0..RUN_FRAMES as u32);
    prop_oneof![
        10 => (runs.clone(), at, 1..6u32, 0..2u8).prop_map(|(run, at, count, node)| {
            Op::Ensure { run, at, count: count.min(RUN_FRAMES as u32 - at), node }
        }),
        8 => (0..FRAMES as u32).prop_map(|frame| Op::Release { frame }),
        2 => runs.prop_map(|run| Op::Recycle { run }),
        2 => Just(Op::Maintain),
        1 => Just(Op::Flush),
        1 => (0..FRAMES as u64).prop_map(|frames| Op::SetLimit { frames }),
        1 => prop::option::of(0..6u64).prop_map(|after| Op::Fail { after }),
    ]
}

fn run_ops(arena: &Arena, ops: Vec<Op>) {
    let mut runs: Vec<Run> = (0..RUNS).map(|_| arena.alloc_run().unwrap()).collect();
    // Owned frames and the byte they are filled with.
    let mut owned: BTreeMap<Frame, u8> = BTreeMap::new();
    for (step, op) in ops.into_iter().enumerate() {
        match op {
            Op::Ensure { run, at, count, node } => {
                let first = arena.first_frame(runs[run as usize]).0 + at;
                let node = NodeId(node % arena.topology().len() as u8);
                let done = arena.ensure(Frame(first), count as usize, node);
                for frame in (first..first + count).map(Frame).filter(|f| !owned.contains_key(f)).collect::<Vec<_>>() {
                    if done.is_ok() {
                        fill(arena, frame, step as u8);
                        owned.insert(frame, step as u8);
                    } else {
                        arena.release(frame);
                    }
                }
                assert!(!matches!(done, Err(Error::NoSuchNode { .. })));
            }
            Op::Release { frame } => {
                if owned.remove(&Frame(frame)).is_some() {
                    arena.release(Frame(frame));
                }
            }
            Op::Recycle { run } => {
                let run = runs.swap_remove(run as usize);
                for frame in (0..FRAMES as u32).map(Frame).filter(|&f| arena.run_of(f) == run) {
                    if owned.remove(&frame).is_some() {
                        arena.release(frame);
                    }
                }
                arena.free_run(run);
                runs.push(arena.alloc_run().unwrap());
            }
            Op::Maintain => _ = arena.maintain(),
            Op::Flush => _ = arena.flush(),
            Op::SetLimit { frames } => arena.set_limit(frames * FRAME_SIZE as u64),
            Op::Fail { after } => arena.fail_commits_after(after),
        }
        assert_agrees(arena);
        for (&frame, &byte) in &owned {
            assert_eq!(bytes(arena, frame), [byte; FRAME_SIZE], "{frame:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn simulated_nodes_agree_with_the_kernel(ops in prop::collection::vec(op(), 1..80), limit in 0..90u64) {
        let topology = Topology::simulated(2).with_capacity(NodeId(1), 30 * FRAME_SIZE as u64);
        run_ops(&arena(limit, topology), ops);
    }

    #[test]
    fn real_nodes_agree_with_the_kernel(ops in prop::collection::vec(op(), 1..80), limit in 0..90u64) {
        run_ops(&arena(limit, Topology::detect()), ops);
    }
}
