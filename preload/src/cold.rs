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
        // Classes of ages are coarse: what is in the youngest that are older for certain.
        let mut from = Duration::ZERO;
        let mut cold = 0;
        for (end, resident, _) in self.vm.ages().classes() {
            cold += if from >= after { resident } else { 0 };
            from = end.unwrap_or(Duration::MAX);
        }
        if cold > 0 {
            // Those that have not moved for longest go first: a page that is in use comes back from staging, and is young again.
            self.vm.evict(cold);
        }
    }
}
