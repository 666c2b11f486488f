//! [`TryLock`]: a lock that is held for a few instructions and tried rather than waited for.
//!
//! ```text
//! taken    0 --try_lock: exchange, acquire--> 1 --drop: store, release--> 0
//! ```
//!
//! One read-modify-write for a whole visit, where a mutex takes two: for words that nearly always belong to one thread. Who finds
//! it taken does the same work another way; only who must see everything ([`lock`](TryLock::lock)) waits.

use super::rank::{self, Rank};
use std::ops::{Deref, DerefMut};

/// A value that one thread at a time can look at. Its rank is [`Rank::Leaf`]: nothing is taken under it.
#[derive(Debug, Default)]
pub struct TryLock<T>(imp::TryLock<T>);

/// Holds a [`TryLock`]. Other threads may look at the value through it only if the value allows that:
///
/// ```compile_fail,E0277
/// # use std::cell::Cell;
/// let lock = zspool::sync::TryLock::new(Cell::new(0));
/// let guard = lock.lock();
/// std::thread::scope(|scope| {
///     scope.spawn(|| guard.set(1)); // `Cell<i32>` cannot be shared between threads safely
/// });
/// ```
#[derive(Debug)]
pub struct TryGuard<'a, T>(imp::TryGuard<'a, T>);

impl<T> TryLock<T> {
    /// A lock that is free.
    pub fn new(value: T) -> Self {
        TryLock(imp::TryLock::new(value))
    }

    /// Take the lock if it is free.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<TryGuard<'_, T>> {
        let guard = self.0.try_lock()?;
        rank::acquire(Rank::Leaf, false);
        Some(TryGuard(guard))
    }

    /// Wait for the lock. Not where a signal may have interrupted its holder.
    #[track_caller]
    pub fn lock(&self) -> TryGuard<'_, T> {
        let guard = self.0.lock();
        rank::acquire(Rank::Leaf, false);
        TryGuard(guard)
    }
}

impl<T> Deref for TryGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.0.get()
    }
}

impl<T> DerefMut for TryGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T> Drop for TryGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        rank::release(Rank::Leaf);
    }
}

#[cfg(not(loom))]
mod imp {
    use crate::sync::atomic::{AtomicBool, Ordering};
    use crate::sync::thread::Backoff;
    use std::cell::UnsafeCell;
    use std::marker::PhantomData;

    #[derive(Debug, Default)]
    pub(super) struct TryLock<T> {
        taken: AtomicBool,
        value: UnsafeCell<T>,
    }

    // SAFETY: the value is only reached through a guard, of which there is one at a time: `taken` goes from false to true by
    // one thread's exchange (acquire), and back when its guard is dropped (release).
    unsafe impl<T: Send> Sync for TryLock<T> {}

    /// As the exclusive reference that it stands for, it may be shared between threads only if the value may.
    #[derive(Debug)]
    pub(super) struct TryGuard<'a, T>(&'a TryLock<T>, PhantomData<&'a mut T>);

    impl<T> TryLock<T> {
        pub(super) fn new(value: T) -> Self {
            TryLock { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
        }

        #[inline]
        pub(super) fn try_lock(&self) -> Option<TryGuard<'_, T>> {
            // Not `then_some`: a guard that is made is dropped, and gives the lock back.
            (!self.taken.swap(true, Ordering::Acquire)).then(|| TryGuard(self, PhantomData))
        }

        pub(super) fn lock(&self) -> TryGuard<'_, T> {
            let mut backoff = Backoff::new();
            loop {
                // Looking does not take the line away from the holder.
                if !self.taken.load(Ordering::Relaxed)
                    && let Some(guard) = self.try_lock()
                {
                    return guard;
                }
                backoff.wait();
            }
        }
    }

    impl<T> TryGuard<'_, T> {
        #[inline]
        pub(super) fn get(&self) -> &T {
            // SAFETY: this guard is the only one (see `Sync`), and the reference does not outlive it.
            unsafe { &*self.0.value.get() }
        }

        #[inline]
        pub(super) fn get_mut(&mut self) -> &mut T {
            // SAFETY: as in `get`, and the guard is borrowed exclusively.
            unsafe { &mut *self.0.value.get() }
        }
    }

    impl<T> Drop for TryGuard<'_, T> {
        #[inline]
        fn drop(&mut self) {
            self.0.taken.store(false, Ordering::Release);
        }
    }
}

// Loom's mutex, so that who waits does not spin. Loom alone does not see that a `try_lock` depends on who holds the mutex, and leaves
// schedules out: so holders and those who try also change a word.
#[cfg(loom)]
mod imp {
    use super::super::atomic::{AtomicU32, Ordering};
    use loom::sync::{Mutex, MutexGuard};

    #[derive(Debug, Default)]
    pub(super) struct TryLock<T> {
        visits: AtomicU32,
        value: Mutex<T>,
    }

    #[derive(Debug)]
    pub(super) struct TryGuard<'a, T> {
        visits: &'a AtomicU32,
        value: MutexGuard<'a, T>,
    }

    impl<T> TryLock<T> {
        pub(super) fn new(value: T) -> Self {
            TryLock { visits: AtomicU32::new(0), value: Mutex::new(value) }
        }

        pub(super) fn try_lock(&self) -> Option<TryGuard<'_, T>> {
            self.visits.fetch_add(1, Ordering::Relaxed); // the mutex orders
            let value = self.value.try_lock().ok()?;
            Some(TryGuard { visits: &self.visits, value })
        }

        pub(super) fn lock(&self) -> TryGuard<'_, T> {
            let value = self.value.lock().expect("a panic ends the model");
            self.visits.fetch_add(1, Ordering::Relaxed); // as above
            TryGuard { visits: &self.visits, value }
        }
    }

    impl<T> TryGuard<'_, T> {
        pub(super) fn get(&self) -> &T {
            &self.value
        }

        pub(super) fn get_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    impl<T> Drop for TryGuard<'_, T> {
        fn drop(&mut self) {
            self.visits.fetch_add(1, Ordering::Relaxed); // as above
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_it_and_who_waits_gets_it() {
        let lock = TryLock::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for k in 0..2000 {
                        match lock.try_lock() {
                            Some(mut guard) if k % 2 == 0 => *guard += 1,
                            Some(guard) => drop(guard),
                            None if k % 2 == 0 => *lock.lock() += 1,
                            None => {}
                        }
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 4000);
        let held = lock.lock();
        for _ in 0..2 {
            assert!(lock.try_lock().is_none(), "who was refused does not give it back");
        }
        drop(held);
        assert!(lock.try_lock().is_some());
    }
}
