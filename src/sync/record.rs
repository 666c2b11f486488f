//! [`Record`]: words for people to read that belong together, and decide nothing.

use super::rank::{self, Rank};
// Not loom's even under loom, as with `Tally`: nobody may depend on what is in it.
use std::sync::{Mutex, PoisonError};

/// A record behind a [leaf](Rank::Leaf) lock. Whatever decides anything is behind a [`Mutex`](super::Mutex).
#[derive(Debug, Default)]
pub struct Record<T>(Mutex<T>);

/// Gives the rank back, also when the visitor panics.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        rank::release(Rank::Leaf);
    }
}

impl<T> Record<T> {
    /// A record that begins like this.
    pub fn new(value: T) -> Self {
        Record(Mutex::new(value))
    }

    /// Look at it, or change it. `visit` takes no lock and touches no atomic: a model would not see it.
    #[inline]
    #[track_caller]
    pub fn with<R>(&self, visit: impl FnOnce(&mut T) -> R) -> R {
        rank::acquire(Rank::Leaf, false);
        let _held = Held;
        visit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
