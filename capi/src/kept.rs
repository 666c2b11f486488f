//! [`Kept`]: something that borrows, together with what it borrows from.

use std::mem::ManuallyDrop;
use std::sync::Arc;

/// A guard `G` of an `O`, which lives at least as long.
pub(crate) struct Kept<G, O> {
    /// Dropped first.
    guard: ManuallyDrop<G>,
    /// Dropped after it.
    _owner: Arc<O>,
}

impl<G, O> Kept<G, O> {
    /// Borrow of the owner what `guard` says. It must keep the reference nowhere but in what it returns.
    pub(crate) fn new<E>(owner: &Arc<O>, guard: impl FnOnce(&'static O) -> Result<G, E>) -> Result<Self, E>
    where
        O: 'static,
    {
        let owner = Arc::clone(owner);
        // SAFETY: good as long as `_owner`, which outlives the guard: see `drop`. It is never handed out longer: only by `get`.
        let borrowed = unsafe { &*Arc::as_ptr(&owner) };
        Ok(Kept { guard: ManuallyDrop::new(guard(borrowed)?), _owner: owner })
    }

    /// The guard.
    pub(crate) fn get(&self) -> &G {
        &self.guard
    }
}

impl<G, O> Drop for Kept<G, O> {
    fn drop(&mut self) {
        // SAFETY: it is not used again. `_owner` is dropped after this.
        unsafe { ManuallyDrop::drop(&mut self.guard) };
    }
}
