//! [`Limited`]: no usage is above a limit, but where one was set below the usage, and by what overshoot has counted.
//!
//! ```text
//!   bytes   limit 1 ------+
//!                  usage  |~~~~~~~\__            above a limit that was set below it, usage only falls
//!           limit 2       +-----------\~~~~      and is at most the limit from then on
//! ```

use shuttle::sync::Mutex;
use zspool::memcg::{Counter, Memcg};

/// What one memcg may be charged.
#[derive(Debug, Default)]
pub struct Limited {
    /// Per counter: usage when the limit was set, where that was above it, and what had passed it until then. A lock of shuttle's: a
    /// limit is set and looked at as one.
    set: [Mutex<Set>; Counter::COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Set {
    usage: u64,
    overshoot: u64,
}

impl Limited {
    /// Set a limit as `how` does it. False where it refuses.
    pub fn set(&self, memcg: &Memcg, counter: Counter, how: impl FnOnce() -> bool) -> bool {
        let mut set = self.set[counter as usize].lock().expect("a failed check ends the execution");
        let overshoot = memcg.overshoot();
        let done = how();
        // From the moment when it was set, usage above it only falls: what it is now is the most it may be.
        *set = Set { usage: memcg.current(counter), overshoot };
        done
    }

    /// Compare all three; Memory only while it is quiet, for who passes a limit is counted a step after he has. How many of them are
    /// limited.
    ///
    /// # Panics
    /// When a usage is above its limit.
    pub fn check(&self, memcg: &Memcg, quiet: bool) -> u64 {
        let compared = Counter::ALL.iter().filter(|&&counter| quiet || counter != Counter::Memory);
        let limited = compared.filter(|&&counter| {
            let mut set = self.set[counter as usize].lock().expect("a failed check ends the execution");
            // In this order: overshoot that comes meanwhile is allowed for, not forgotten.
            let (limit, usage) = (memcg.max(counter), memcg.current(counter));
            let passed = if counter == Counter::Memory { memcg.overshoot() - set.overshoot } else { 0 };
            assert!(
                usage <= limit.max(set.usage).saturating_add(passed),
                "{} is charged {usage} bytes as {counter:?}, of {limit}; {} when that was set, and {passed} past it since",
                memcg.path(),
                set.usage
            );
            if usage <= limit {
                *set = Set { usage: 0, overshoot: memcg.overshoot().min(set.overshoot + passed) };
            }
            limit < u64::MAX
        });
        limited.count() as u64
    }
}
