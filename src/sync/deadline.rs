//! [`Deadline`]: until when somebody waits.

use super::now;
use std::time::{Duration, Instant};

/// A moment after which there is no waiting any more. Under loom, where time does not pass, it never comes unless it has come
/// from the start.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// `None`: it has come.
    at: Option<Instant>,
}

impl Deadline {
    /// The moment after this time from now; with no time, it has come.
    pub fn after(time: Duration) -> Self {
        // As good as never, where the clock does not count as far.
        const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let at = |now: Instant| now.checked_add(time).unwrap_or_else(|| now + FAR);
        Deadline { at: (!time.is_zero()).then(|| at(now())) }
    }

    /// Time until then.
    pub fn left(&self) -> Duration {
        match self.at {
            None => Duration::ZERO,
            Some(_) if cfg!(loom) => Duration::MAX,
            Some(at) => at.saturating_duration_since(now()),
        }
    }

    /// Whether it has come.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_may_be_further_away_than_clocks_count() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(!deadline.passed() && deadline.left() > Duration::from_secs(365 * 24 * 3600));
    }
}
