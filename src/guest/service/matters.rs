//! [`Matters`]: changes of mappings on their way from who reads them to who follows them, in order.
//!
//! ```text
//!   reader --put--> [ fork | unmap | remove | .. ] --first--> the thread of the VM's children: follows, then opens what was closed
//! ```
//!
//! Putting one allocates nothing: see `Desk::follow`.

use super::desk::Change;
use super::gate::Closed;
use crate::sync::{Mutex, Rank};
use std::collections::VecDeque;

/// There is room for so many: each comes from a thread that waited until it was read, and then did the next.
const ROOM: usize = 1024;

/// One of them.
pub(super) struct Matter {
    pub(super) change: Change,
    pub(super) closed: [Option<Closed>; 2],
}

/// Those that wait.
pub(super) struct Matters(Mutex<Waiting>);

struct Waiting {
    queue: VecDeque<Matter>,
    /// One was taken, and is being followed.
    under_way: bool,
}

impl Matters {
    /// None.
    pub(super) fn new() -> Self {
        Matters(Mutex::new(Rank::Guest, Waiting { queue: VecDeque::with_capacity(ROOM), under_way: false }))
    }

    /// Whether all were followed.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.0.lock();
        waiting.queue.is_empty() && !waiting.under_way
    }

    /// Put one, with what it has closed. False, and nothing is taken, while there is no room.
    pub(super) fn put(&self, change: &mut Option<Change>, closed: &mut [Option<Closed>; 2]) -> bool {
        let mut waiting = self.0.lock();
        if waiting.queue.len() == ROOM {
            return false;
        }
        if let Some(change) = change.take() {
            waiting.queue.push_back(Matter { change, closed: std::mem::take(closed) });
        }
        true
    }

    /// The next, which is under way until it is [done](Self::done).
    pub(super) fn first(&self) -> Option<Matter> {
        let mut waiting = self.0.lock();
        let first = waiting.queue.pop_front();
        waiting.under_way = first.is_some();
        first
    }

    /// It was followed.
    pub(super) fn done(&self) {
        self.0.lock().under_way = false;
    }
}
