//! [`Cold`]: takes out what was not touched for a while, whatever the limits are.

use std::time::{Duration, Instant};
use zspool::guest::Vm;

/// Looks in the time after which a page is cold.
const LOOKS: u32 = 4;

/// Now and then.
pub(crate) struct Cold {
    vm: &'static Vm,
    after: Option<Duration>,
    looked: Instant,
}

// === impl Cold ===

impl Cold {
    pub(crate) fn new(vm: &'static Vm, after: Option<Duration>) -> Cold {
        Cold { vm, after, looked: Instant::now() }
    }

    /// Called often.
    pub(crate) fn tick(&mut self) {
        let Some(after) = self.after.filter(|after| self.looked.elapsed() >= *after / LOOKS) else { return };
        self.looked = Instant::now();
        self.vm.evict_older(after);
    }
}
