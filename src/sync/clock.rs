//! [`Clock`]: a cheap time for what is remembered in steps of a second; [`now`]: the time, for waits.
//!
//! Under loom time stands still, under shuttle it is [simulated](super::simulated).

use super::{Arc, Tally};
use std::time::Instant;

/// Milliseconds that never go back, a few of them late; or what a test sets. Under loom it stands still unless it is set.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    set: Option<Arc<Tally>>,
}

impl Clock {
    /// The system's: a read makes no system call.
    pub fn coarse() -> Self {
        Self::default()
    }

    /// One that stands at 0 until it is [set](Self::set). Clones show the same time.
    pub fn settable() -> Self {
        Clock { set: Some(Arc::default()) }
    }

    /// Set the time.
    ///
    /// # Panics
    /// When it is the system's.
    pub fn set(&self, millis: u64) {
        self.set.as_ref().expect("only a settable clock is set").set(millis);
    }

    /// Milliseconds since some moment in the past.
    #[inline]
    pub fn millis(&self) -> u64 {
        match &self.set {
            Some(set) => set.get(),
            None => system(),
        }
    }
}

/// The time, for how long something waits.
#[inline]
pub fn now() -> Instant {
    #[cfg(shuttle)]
    return super::simulated::now();
    #[cfg(not(shuttle))]
    Instant::now()
}

/// A moment, to the nanosecond, for how long something took. Under loom nothing takes any time.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    #[cfg(not(loom))]
    at: Instant,
}

impl Moment {
    /// This one.
    #[inline]
    pub fn now() -> Self {
        Moment {
            #[cfg(not(loom))]
            at: now(),
        }
    }

    /// Nanoseconds since.
    #[inline]
    pub fn nanoseconds(self) -> u64 {
        #[cfg(loom)]
        return 0;
        #[cfg(not(loom))]
        return now().saturating_duration_since(self.at).as_nanos() as u64;
    }
}

#[cfg(loom)]
fn system() -> u64 {
    0
}

#[cfg(shuttle)]
fn system() -> u64 {
    super::simulated::nanoseconds() / 1_000_000
}

#[cfg(not(any(loom, shuttle)))]
fn system() -> u64 {
    #[cfg(target_os = "linux")]
    const COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
    #[cfg(not(target_os = "linux"))]
    const COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes a timespec, and nothing else. It cannot fail for a clock that every kernel has; if it did, the time
    // would stand still, and ages would be young.
    unsafe { libc::clock_gettime(COARSE, &mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_is_set() {
        let clock = Clock::coarse();
        let began = clock.millis();
        while clock.millis() == began {
            std::thread::yield_now();
        }
        assert!(clock.millis() > began);
        let clock = Clock::settable();
        let same = clock.clone();
        clock.set(5);
        assert_eq!(same.millis(), 5);
    }
}
