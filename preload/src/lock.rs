//! [`Lock`]: a lock that sleeps in the kernel, and uses nothing of the program's.
//!
//! ```text
//!   FREE --lock--> HELD --another wants it--> WAITED --unlock--> FREE, one sleeper is woken
//! ```
//!
//! 1. Whoever holds one touches no memory of the program's: a thread that serves faults may want it.
//! 2. Whoever holds one gets no signals ([`Inside`](crate::inside::Inside)): the program's handler could want it again.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody sleeps.
const WAITED: u32 = 2;

/// Looks before sleeping: what is done under our locks is short.
const SPINS: u32 = 100;

/// A value that one thread uses at a time.
pub(crate) struct Lock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the one who holds the lock only, and may be handed from thread to thread.
unsafe impl<T: Send> Sync for Lock<T> {}

/// What is locked; unlocked when dropped.
pub(crate) struct Locked<'a, T> {
    lock: &'a Lock<T>,
}

// === impl Lock ===

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Lock { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    pub(crate) fn lock(&self) -> Locked<'_, T> {
        for _ in 0..SPINS {
            // Acquire: pairs with the release of who had it.
            if self.state.compare_exchange_weak(FREE, HELD, Acquire, Relaxed).is_ok() {
                return Locked { lock: self };
            }
            std::hint::spin_loop();
        }
        while self.state.swap(WAITED, Acquire) != FREE {
            futex(&self.state, libc::FUTEX_WAIT, WAITED, None);
        }
        Locked { lock: self }
    }

    fn unlock(&self) {
        // Release: what was done under it is seen by the next.
        if self.state.swap(FREE, Release) == WAITED {
            futex(&self.state, libc::FUTEX_WAKE, 1, None);
        }
    }
}

/// The system call: sleep while `word` has `value` (for `timeout` at most), or wake so many.
pub(crate) fn futex(word: &AtomicU32, operation: libc::c_int, value: u32, timeout: Option<&libc::timespec>) {
    let timeout = timeout.map_or(std::ptr::null(), |timeout| timeout as *const libc::timespec);
    // SAFETY: the word and the time outlive the call; whether it was worth it is looked at by the callers.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation | libc::FUTEX_PRIVATE_FLAG, value, timeout) };
}

// === impl Locked ===

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: we hold the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: we hold the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        static COUNT: Lock<u64> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *COUNT.lock() += 1));
            }
        });
        assert_eq!(*COUNT.lock(), 40_000);
        let locked = COUNT.lock();
        assert_eq!(COUNT.state.load(Relaxed), HELD);
        drop(locked);
        drop(COUNT.lock());
    }
}
