//! One byte per frame: what it is. One more: on which node it lies.
//!
//! ```text
//!                 ensure            populated            release
//!      Unbacked ----------> Committing ----------> Owned -----------> Warm
//!          ^                    |    \               ^                | |
//!          |                    |     `--------------|--------------->| |   committed ahead
//!          |<-------------------'  refused           `----------------' |   ensure
//!          |                                                            v   maintain, flush, at the limit
//!          `------------------------------------------------------- Discarding
//! ```
//!
//! States change under the arena lock and are read anywhere. A state is stored with Release, so that who loads it with
//! Acquire also sees the frame's node, and that its bytes belong to the frame's new life.

use crate::sync::Table;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::units::{Frame, NodeId};
use std::io;

/// What a frame is; see the table in the layer's introduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Addresses only.
    Unbacked = 0,
    /// A thread is having it backed.
    Committing = 1,
    /// Backed, for objects.
    Owned = 2,
    /// Backed, for nobody yet.
    Warm = 3,
    /// A thread is giving it back.
    Discarding = 4,
}

/// State and node of every frame.
#[derive(Debug)]
pub(super) struct Frames {
    states: Table<AtomicU8>,
    nodes: Table<AtomicU8>,
}

impl Frames {
    /// All Unbacked.
    pub(super) fn reserve(count: usize) -> io::Result<Self> {
        Ok(Frames { states: Table::reserve(count)?, nodes: Table::reserve(count)? })
    }

    /// Frames there are.
    pub(super) fn count(&self) -> usize {
        self.states.capacity()
    }

    /// The frame's state. Acquire pairs with `set`.
    #[inline]
    pub(super) fn state(&self, frame: Frame) -> State {
        match self.states.get(frame.0 as usize).load(Ordering::Acquire) {
            0 => State::Unbacked,
            1 => State::Committing,
            2 => State::Owned,
            3 => State::Warm,
            4 => State::Discarding,
            other => unreachable!("frame {} has state {other}", frame.0),
        }
    }

    /// Change the state; under the arena lock. Release pairs with `state`.
    #[inline]
    pub(super) fn set(&self, frame: Frame, state: State) {
        self.states.get(frame.0 as usize).store(state as u8, Ordering::Release);
    }

    /// The node of a backed frame; the last one known where it is not backed.
    #[inline]
    pub(super) fn node(&self, frame: Frame) -> NodeId {
        // Ordered by the state, which the caller knows, or by the lock.
        NodeId(self.nodes.get(frame.0 as usize).load(Ordering::Relaxed))
    }

    /// Note the node; under the arena lock, before the state that tells of it.
    #[inline]
    pub(super) fn set_node(&self, frame: Frame, node: NodeId) {
        let noted = self.nodes.get(frame.0 as usize);
        // Only what differs: looking at a page of the table that nobody wrote to costs no memory, writing the 0 that is
        // there would. On one node the table stays untouched.
        if noted.load(Ordering::Relaxed) != node.0 {
            noted.store(node.0, Ordering::Relaxed);
        }
    }
}
