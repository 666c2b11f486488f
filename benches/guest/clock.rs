//! [`Clock`]: how long a single short operation takes, the clock's own cost taken off.
//!
//! The time stamp counter where it is invariant (it ticks alike on all cores, whatever they do), else the system's clock.

use std::time::{Duration, Instant};

/// How long the counter is compared with the system's clock.
const CALIBRATION: Duration = Duration::from_millis(20);

pub(crate) struct Clock {
    ns_per_tick: f64,
    /// Ticks between two readings with nothing between.
    cost: u64,
    start: Instant,
    counter: bool,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let mut clock = Clock { ns_per_tick: 1.0, cost: 0, start: Instant::now(), counter: invariant() };
        if clock.counter {
            let (wall, from) = (Instant::now(), clock.now());
            while wall.elapsed() < CALIBRATION {}
            let (to, wall) = (clock.now(), wall.elapsed());
            clock.ns_per_tick = wall.as_nanos() as f64 / (to - from) as f64;
        }
        let mut costs: Vec<u64> = (0..1001).map(|_| clock.ticks(|| ())).collect();
        costs.sort_unstable();
        clock.cost = costs[costs.len() / 2];
        clock
    }

    pub(crate) fn name(&self) -> &'static str {
        if self.counter { "the invariant time stamp counter" } else { "the system's clock" }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        if self.counter { counter() } else { self.start.elapsed().as_nanos() as u64 }
    }

    #[inline(always)]
    fn ticks(&self, operation: impl FnOnce()) -> u64 {
        let from = self.now();
        operation();
        self.now() - from
    }

    /// Nanoseconds that `operation` takes.
    #[inline(always)]
    pub(crate) fn time(&self, operation: impl FnOnce()) -> f64 {
        self.ticks(operation).saturating_sub(self.cost) as f64 * self.ns_per_tick
    }
}

#[cfg(target_arch = "x86_64")]
fn invariant() -> bool {
    use std::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn counter() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every processor of this architecture has the three.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one reading, kept from moving")]
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn invariant() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}
