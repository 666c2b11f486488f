//! [`Overshoot`]: a limit is about to be passed by what cannot be refused, and somebody may say what to do about it.
//!
//! ```text
//!   charge refused --> nothing left to evict --> callback --+-- Serve   charged past the limit, counted, served
//!                                                           +-- Again   the limit was raised, or room made: charge again
//!                                                           +-- Pause   the thread waits for room, then charges or asks again
//!                                                           +-- Poison  not served: the page raises SIGBUS (a fault only)
//! ```

use crate::memcg::Memcg;
use std::fmt;

/// What is about to pass a limit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Overshoot {
    /// The VM's memcg.
    pub vm: Memcg,
    /// The memcg whose limit would be passed: that one, or one above it.
    pub memcg: Memcg,
    /// Bytes charged to it.
    pub usage: u64,
    /// Its limit in bytes.
    pub limit: u64,
    /// Bytes that are to be charged.
    pub bytes: u64,
    /// How often the callback was asked for this charge before.
    pub asked: u32,
    /// Whether a page can be poisoned for it: a guest's thread waits for one page, and no caller for a range.
    pub can_poison: bool,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It is served: charged past the limit, and counted as overshoot. What happens when there is no callback.
    #[default]
    Serve,
    /// The callback has raised the limit, or made room: charge again. Asked in vain 64 times, it is served.
    Again,
    /// The thread that asks waits, up to ten milliseconds, for room; then it charges again, and asks again. As long as nothing
    /// changes it does not go on: the way to pause a VM's thread that wants more than there may be.
    Pause,
    /// The page is poisoned: who touches it gets SIGBUS. Where that cannot be, it is served.
    Poison,
}

/// Who is asked. It is called in the thread that faults, possibly in a signal handler: it must not touch guest memory, and may do
/// only what such a handler may (no allocation if the faulting thread may hold the allocator's lock).
pub type OnOvershoot = dyn Fn(&Overshoot) -> Verdict + Send + Sync;

/// # Locks
/// The tree lock, to spell the paths.
impl fmt::Display for Overshoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overshoot { vm, memcg, usage, limit, bytes, .. } = self;
        write!(
            f,
            "{bytes} bytes of VM {} would pass the memory.max of {}, which has {usage} of at most {limit} bytes and nothing left to \
             evict; raise the limit, give it a swapfile or a larger pool, or unpin memory",
            vm.path(),
            memcg.path()
        )
    }
}
