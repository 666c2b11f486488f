//! Whether this library does anything in this process.
//!
//! ```text
//!   ASLEEP --start, in the process that is meant--> RUNNING --fork, in the child--> ASLEEP
//! ```

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Thread-locals and the allocator can be used, and mappings are noted.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Acquire)
}

pub(crate) fn run() {
    RUNNING.store(true, Release);
}

/// In a forked child: nothing of ours runs there.
pub(crate) fn sleep() {
    RUNNING.store(false, Release);
}
