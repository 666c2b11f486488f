//! Tests of the whole arena, by what they are about. Properties:
//!
//! 1. After any sequence of calls exactly the frames that were ensured and not released are Owned, on the node asked
//!    for, with the bytes written to them (`model`).
//! 2. A call is refused exactly when its frames would not fit beside the owned ones (`model`, `limits`).
//! 3. Whatever commit fails, every counter is exact, and the frames that were owned before still are (`failures`).
//! 4. No thread ever sees more backed than the limit, and A1 to A4 hold at any moment (`threads`).

mod address_space;
mod failures;
mod limits;
mod model;
mod threads;
mod warmth;
#[cfg(all(target_os = "linux", not(miri)))]
mod without_numa;

use super::{Arena, ArenaConfig, Run, Topology};
use crate::units::{FRAME_SIZE, Frame, Location, NodeId};

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
        warm_share: 1,
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
    arena.unpoison(Location::from_offset(frame.offset()), 8);
    // SAFETY: the tests write to frames they own only, one thread at a time; a frame's start is aligned.
    arena.with_mut(Location::from_offset(frame.offset()), 8, |p| unsafe { p.cast::<u64>().write(stamp) });
}

fn stamp(arena: &Arena, frame: Frame) -> u64 {
    // SAFETY: as above.
    arena.with(Location::from_offset(frame.offset()), 8, |p| unsafe { p.cast::<u64>().read() })
}
