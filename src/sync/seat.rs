//! [`Seat`]: a place that a value takes, is used in by threads that are counted, and leaves when they are gone.
//!
//! ```text
//!            put                        take: no new users        the last user leaves
//!   empty ---------> taken (users: n) ----------------> closing ----------------------> empty, the value is the taker's
//!
//!   word   63 taken | 62 changing | 61 ............................. 0 users
//! ```
//!
//! - **E1** The value is reached only by who is counted in the word and found it taken *by the step that counted him*, and by
//!   who set `changing`, while it is not taken and nobody is counted.
//! - **E2** `get` takes no lock, allocates nothing and waits for nobody; `take` waits, for the users there are.
//!
//! A user who finds the seat empty is counted for a moment; that moment never reaches the value.

use super::atomic::{AtomicU64, Ordering};
use super::thread::Backoff;
use super::{Bug, Planted};
use std::fmt;
use std::ops::Deref;

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(not(loom))]
use std::cell::UnsafeCell;

/// The value may be used.
const TAKEN: u64 = 1 << 63;
/// Somebody puts a value in, or takes it out.
const CHANGING: u64 = 1 << 62;
/// Those who are counted.
const USERS: u64 = CHANGING - 1;

/// A place for one value that many threads use.
pub struct Seat<T> {
    word: AtomicU64,
    value: UnsafeCell<Option<T>>,
    planted: Planted,
}

/// One counted use of the value in a [`Seat`].
pub struct Seated<'a, T> {
    seat: &'a Seat<T>,
    /// Loom's note that the value is being read; given up before the count.
    #[cfg(loom)]
    seen: Option<loom::cell::ConstPtr<Option<T>>>,
}

// SAFETY: by E1 threads share the value only by reference (`Sync`), and who takes it out is alone with it, perhaps on another
// thread than who put it in (`Send`).
unsafe impl<T: Send + Sync> Sync for Seat<T> {}

impl<T> Seat<T> {
    /// Empty.
    pub fn new(planted: Planted) -> Self {
        Seat { word: AtomicU64::new(0), value: UnsafeCell::new(None), planted }
    }

    /// Use the value, if there is one. No lock, no allocation, no wait.
    #[inline]
    pub fn get(&self) -> Option<Seated<'_, T>> {
        if self.planted.is(Bug::SeatCountsLate) && self.word.load(Ordering::Acquire) & TAKEN == 0 {
            return None;
        }
        // Acquire pairs with the release in `put`: who finds it taken sees the value.
        let taken = self.word.fetch_add(1, Ordering::Acquire) & TAKEN != 0;
        if taken || self.planted.is(Bug::SeatCountsLate) {
            return Some(Seated {
                seat: self,
                #[cfg(loom)]
                seen: Some(self.value.get()),
            });
        }
        self.word.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Whether there is a value at this moment.
    #[inline]
    pub fn is_taken(&self) -> bool {
        self.word.load(Ordering::Acquire) & TAKEN != 0
    }

    /// Put a value in.
    ///
    /// # Errors
    /// Gives the value back where there is one, or somebody is at it.
    pub fn put(&self, value: T) -> Result<(), T> {
        let free = |word: u64| (word & (TAKEN | CHANGING) == 0).then_some(word | CHANGING);
        // Acquire pairs with the release of who emptied it.
        if self.word.fetch_update(Ordering::Acquire, Ordering::Relaxed, free).is_err() {
            return Err(value);
        }
        self.with_value(|there| *there = Some(value));
        self.change(|word| (word | TAKEN) & !CHANGING);
        Ok(())
    }

    /// Take the value out: nobody begins to use it from here on, and those who do are waited for. `None` where there is none,
    /// or somebody else takes it.
    ///
    /// Not to be called by a thread that uses it: it would wait for itself.
    pub fn take(&self) -> Option<T> {
        let close = |word: u64| (word & TAKEN != 0).then_some((word | CHANGING) & !TAKEN);
        self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, close).ok()?;
        let mut backoff = Backoff::new();
        // Acquire pairs with the release of each user who left.
        while self.word.load(Ordering::Acquire) & USERS > 0 && !self.planted.is(Bug::SeatTakenInUse) {
            backoff.wait_for_io();
        }
        let value = self.with_value(Option::take);
        self.change(|word| word & !CHANGING);
        value
    }

    /// Access to the value for who set `changing`.
    fn with_value<R>(&self, f: impl FnOnce(&mut Option<T>) -> R) -> R {
        #[cfg(loom)]
        // SAFETY: by E1 nobody else reaches the value now; loom checks that.
        return self.value.with_mut(|there| f(unsafe { &mut *there }));
        #[cfg(not(loom))]
        // SAFETY: by E1 nobody else reaches the value now: it is not taken, and `changing` is ours.
        return f(unsafe { &mut *self.value.get() });
    }

    fn change(&self, to: impl Fn(u64) -> u64) {
        // Release: what was done to the value comes before.
        let _ = self.word.fetch_update(Ordering::Release, Ordering::Relaxed, |word| Some(to(word)));
    }
}

impl<T: fmt::Debug> fmt::Debug for Seat<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(seated) => f.debug_tuple("Seat").field(&*seated).finish(),
            None => f.write_str("Seat(empty)"),
        }
    }
}

// === impl Seated ===

impl<'a, T> Seated<'a, T> {
    /// The value for as long as the seat is borrowed, for what is kept beside the count.
    ///
    /// # Safety
    /// The reference must not be used once this count is dropped.
    #[inline]
    pub unsafe fn unbound(&self) -> &'a T {
        #[cfg(loom)]
        // SAFETY: by E1 nobody changes the value while this is counted, which the caller promises to outlive.
        let value = unsafe { self.seen.as_ref().expect("given up when dropped").deref() };
        #[cfg(not(loom))]
        // SAFETY: by E1 nobody changes the value while this is counted, which the caller promises to outlive.
        let value = unsafe { &*self.seat.value.get() };
        #[cfg(loom)]
        // SAFETY: as above; loom's pointer borrows itself, not the seat.
        let value = unsafe { &*std::ptr::from_ref(value) };
        value.as_ref().expect("E1: a seat that is taken has a value")
    }
}

impl<T> Deref for Seated<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the reference borrows `self`, and so ends before this count.
        unsafe { self.unbound() }
    }
}

impl<T> Drop for Seated<'_, T> {
    #[inline]
    fn drop(&mut self) {
        #[cfg(loom)]
        drop(self.seen.take());
        // Release: what we read comes before what the taker does.
        self.seat.word.fetch_sub(1, Ordering::Release);
    }
}

impl<T: fmt::Debug> fmt::Debug for Seated<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Arc, thread};
    use super::*;

    #[test]
    fn a_value_is_used_until_it_is_taken() {
        let seat = Seat::new(Planted::NONE);
        assert!(seat.get().is_none() && seat.take().is_none());
        seat.put("one".to_owned()).unwrap();
        assert_eq!(seat.put("two".to_owned()), Err("two".to_owned()));
        assert_eq!(*seat.get().unwrap(), "one");
        assert_eq!(seat.take().as_deref(), Some("one"));
        assert!(seat.get().is_none() && !seat.is_taken());
        seat.put("three".to_owned()).unwrap();
        assert_eq!(*seat.get().unwrap(), "three");
    }

    #[test]
    fn who_takes_waits_for_who_uses() {
        let seat = Arc::new(Seat::new(Planted::NONE));
        seat.put(vec![7; 100]).unwrap();
        let user = seat.get().unwrap();
        let taker = {
            let seat = Arc::clone(&seat);
            thread::spawn("taker", move || seat.take().unwrap().len()).unwrap()
        };
        while seat.is_taken() {
            thread::yield_now();
        }
        assert!(seat.get().is_none(), "nobody begins while it is being taken");
        assert_eq!(user[99], 7);
        drop(user);
        assert_eq!(taker.join().unwrap(), 100);
    }
}
