//! [`Tally`]: a statistic that orders nothing and decides nothing.

// Not loom's even under loom: a model would explore when others see it, which nobody may depend on.
use std::sync::atomic::{AtomicU64, Ordering};

/// A count for people to read. Whatever decides anything is an [`atomic`](super::atomic).
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// From zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add `n` and return what it was.
    #[inline]
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed)
    }

    /// Take `n` away.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Make it at least `n`. Writes only where it was less.
    #[inline]
    pub fn raise(&self, n: u64) {
        if self.get() < n {
            self.0.fetch_max(n, Ordering::Relaxed);
        }
    }

    /// Begin anew from `n`.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Begin anew from `n` and return what it was.
    #[inline]
    pub fn replace(&self, n: u64) -> u64 {
        self.0.swap(n, Ordering::Relaxed)
    }

    /// What it is. Exact when nobody counts.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
