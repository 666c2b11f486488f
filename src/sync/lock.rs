//! Ranked locks: std's, loom's or shuttle's. A poisoned std lock is taken all the same, for a panic under a lock is a broken
//! invariant that the panicking thread has already reported, and loads must go on.

use super::rank::{self, Rank};
use std::ops::{Deref, DerefMut};

#[cfg(loom)]
use loom::sync as imp;
#[cfg(shuttle)]
use shuttle::sync as imp;
#[cfg(not(any(loom, shuttle)))]
use std::sync as imp;

fn unpoison<G>(result: Result<G, std::sync::PoisonError<G>>) -> G {
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A mutex with a place in the lock order.
#[derive(Debug)]
pub struct Mutex<T> {
    rank: Rank,
    inner: imp::Mutex<T>,
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T> {
    rank: Rank,
    // `None` only while a condition variable has it.
    inner: Option<imp::MutexGuard<'a, T>>,
    /// To be taken again after a wait.
    #[cfg(shuttle)]
    mutex: &'a imp::Mutex<T>,
}

impl<T> Mutex<T> {
    /// A mutex of this rank.
    #[cfg(not(loom))]
    pub const fn new(rank: Rank, value: T) -> Self {
        Mutex { rank, inner: imp::Mutex::new(value) }
    }

    /// A mutex of this rank. Loom makes none at compile time.
    #[cfg(loom)]
    pub fn new(rank: Rank, value: T) -> Self {
        Mutex { rank, inner: imp::Mutex::new(value) }
    }

    /// Wait for the lock. Every lock held must come before it in [`Rank`].
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        rank::acquire(self.rank, false);
        self.guard(unpoison(self.inner.lock()))
    }

    /// Wait for the lock while holding `held` of the same rank; the caller knows an order among the two
    /// (child before parent, lower index first).
    #[inline]
    #[track_caller]
    pub fn lock_after<U>(&self, held: &MutexGuard<'_, U>) -> MutexGuard<'_, T> {
        debug_assert_eq!(held.rank, self.rank);
        rank::acquire(self.rank, true);
        self.guard(unpoison(self.inner.lock()))
    }

    /// Take the lock if it is free.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = match self.inner.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        rank::acquire(self.rank, false);
        Some(self.guard(inner))
    }

    #[inline]
    fn guard<'a>(&'a self, inner: imp::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard {
            rank: self.rank,
            inner: Some(inner),
            #[cfg(shuttle)]
            mutex: &self.inner,
        }
    }

    /// The value; nobody else can have the lock.
    #[cfg(not(loom))]
    pub fn get_mut(&mut self) -> &mut T {
        unpoison(self.inner.get_mut())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("the guard is with a condition variable")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("the guard is with a condition variable")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.inner = None;
        rank::release(self.rank);
    }
}

/// A reader-writer lock with a place in the lock order.
#[derive(Debug)]
pub struct RwLock<T> {
    rank: Rank,
    inner: imp::RwLock<T>,
}

/// Holds an [`RwLock`] for reading.
pub struct RwLockReadGuard<'a, T> {
    rank: Rank,
    inner: Option<imp::RwLockReadGuard<'a, T>>,
}

/// Holds an [`RwLock`] for writing.
pub struct RwLockWriteGuard<'a, T> {
    rank: Rank,
    inner: Option<imp::RwLockWriteGuard<'a, T>>,
}

impl<T> RwLock<T> {
    /// A lock of this rank.
    pub fn new(rank: Rank, value: T) -> Self {
        RwLock { rank, inner: imp::RwLock::new(value) }
    }

    /// Wait for shared access.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        rank::acquire(self.rank, false);
        RwLockReadGuard { rank: self.rank, inner: Some(unpoison(self.inner.read())) }
    }

    /// Wait for sole access.
    #[inline]
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        rank::acquire(self.rank, false);
        RwLockWriteGuard { rank: self.rank, inner: Some(unpoison(self.inner.write())) }
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("held until dropped")
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.inner = None;
        rank::release(self.rank);
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("held until dropped")
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("held until dropped")
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.inner = None;
        rank::release(self.rank);
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar {
    #[cfg(not(shuttle))]
    inner: imp::Condvar,
    /// Shuttle's waits do not end with time.
    #[cfg(shuttle)]
    inner: super::simulated::Condvar,
}

impl Condvar {
    /// A condition nobody waits for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Give the lock back until notified; may wake without reason.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.inner.take().expect("held until dropped");
        #[cfg(not(shuttle))]
        let back = unpoison(self.inner.wait(inner));
        #[cfg(shuttle)]
        let back = self.inner.wait(guard.mutex, inner, None);
        guard.inner = Some(back);
    }

    /// The same for at most `timeout`. Under loom, time does not pass: a plain wait.
    pub fn wait_timeout<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: std::time::Duration) {
        let inner = guard.inner.take().expect("held until dropped");
        #[cfg(not(any(loom, shuttle)))]
        let back = unpoison(self.inner.wait_timeout(inner, timeout)).0;
        #[cfg(shuttle)]
        let back = self.inner.wait(guard.mutex, inner, Some(timeout));
        #[cfg(loom)]
        let back = {
            let _ = timeout;
            unpoison(self.inner.wait(inner))
        };
        guard.inner = Some(back);
    }

    /// Wake one waiter.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wake all waiters.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}
