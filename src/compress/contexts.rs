//! [`Contexts`]: a bounded set of contexts that threads share.
//!
//! ```text
//! shelf    0          1          2          3
//!       +----------+----------+----------+----------+
//!       | context  |   out    | context  |   out    |   out: a guard has it; some wait at the shelf
//!       +----------+----------+----------+----------+
//!            ^ a thread starts looking at its own place (by the address of its stack), so that it
//!              finds the tables that are in its core's cache
//! ```
//!
//! 1. A context is on its shelf or with one guard.
//! 2. A shelf's lock is held to take or put the box, never while compressing: guards hold no lock, so that what a codec
//!    wrote can go into the pool under the pool's locks.
//! 3. Whoever waits does so at one shelf, counted there, and is woken when that shelf's context comes back.
//!
//! A thread that has a context must not ask for another: two such threads could wait for each other.

use super::Context;
use crate::sync::{Condvar, Mutex, Rank, assert_no_lock_held, thread};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A bounded set of [`Context`]s shared by threads, without thread-locals.
pub struct Contexts {
    /// One per context.
    shelves: Box<[Shelf]>,
}

struct Shelf {
    state: Mutex<State>,
    /// Signalled when the context comes back and somebody waits.
    returned: Condvar,
}

struct State {
    /// The context, unless it is with a guard.
    context: Option<Box<Context>>,
    /// Threads that wait for it.
    waiting: usize,
}

/// A context in use; it goes back when dropped.
pub struct ContextGuard<'a> {
    shelf: &'a Shelf,
    // `None` only in `drop`.
    context: Option<Box<Context>>,
}

// === impl Contexts ===

impl Contexts {
    /// A set of `count` contexts; as many threads can compress at once. About 21 KiB each once LZ4 has used it.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn new(count: usize) -> Self {
        assert!(count > 0, "nobody could ever compress without a context");
        let shelves = (0..count)
            .map(|_| Shelf {
                state: Mutex::new(Rank::Leaf, State { context: Some(Box::default()), waiting: 0 }),
                returned: Condvar::new(),
            })
            .collect();
        Contexts { shelves }
    }

    /// How many contexts there are.
    pub fn count(&self) -> usize {
        self.shelves.len()
    }

    /// A context; waits for one if all are in use.
    ///
    /// # Locks
    /// Takes one of [`Rank::Leaf`] for a moment; the guard holds none. The caller holds no lock at all.
    pub fn checkout(&self) -> ContextGuard<'_> {
        assert_no_lock_held("asking for a codec's context");
        let home = thread::hint() % self.shelves.len();
        let (before, after) = self.shelves.split_at(home);
        for shelf in after.iter().chain(before) {
            if let Some(mut state) = shelf.state.try_lock()
                && let Some(context) = state.context.take()
            {
                return ContextGuard { shelf, context: Some(context) };
            }
        }
        let shelf = &self.shelves[home];
        let mut state = shelf.state.lock();
        state.waiting += 1;
        let context = loop {
            match state.context.take() {
                Some(context) => break context,
                None => shelf.returned.wait(&mut state),
            }
        };
        state.waiting -= 1;
        drop(state);
        ContextGuard { shelf, context: Some(context) }
    }

    /// Give each context that nobody has to `f`, one after the other.
    pub fn each_free(&self, mut f: impl FnMut(&mut Context)) {
        for shelf in &self.shelves {
            let context = shelf.state.lock().context.take();
            if let Some(context) = context {
                f(&mut ContextGuard { shelf, context: Some(context) });
            }
        }
    }

    /// Check the invariants, at a point where nobody has or wants a context.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn assert_valid(&self) {
        for (at, shelf) in self.shelves.iter().enumerate() {
            let state = shelf.state.lock();
            assert!(state.context.is_some(), "the context of shelf {at} did not come back");
            assert_eq!(state.waiting, 0, "somebody is counted as waiting for shelf {at}");
        }
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts").field("count", &self.count()).finish_non_exhaustive()
    }
}

// === impl ContextGuard ===

impl Deref for ContextGuard<'_> {
    type Target = Context;
    fn deref(&self) -> &Context {
        self.context.as_ref().expect("held until dropped")
    }
}

impl DerefMut for ContextGuard<'_> {
    fn deref_mut(&mut self) -> &mut Context {
        self.context.as_mut().expect("held until dropped")
    }
}

impl Drop for ContextGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.shelf.state.lock();
        state.context = self.context.take();
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            self.shelf.returned.notify_one();
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn at_most_count_contexts_are_out_and_waiters_get_theirs() {
        let contexts = Contexts::new(2);
        let (out, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    for round in 0..200 {
                        let mut context = contexts.checkout();
                        most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        context.output()[0] = round as u8;
                        std::thread::yield_now();
                        assert_eq!(context.output()[0], round as u8, "two threads have one context");
                        out.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 2);
        contexts.assert_valid();
    }

    #[test]
    fn a_guard_holds_no_lock() {
        let contexts = Contexts::new(1);
        let _guard = contexts.checkout();
        let outermost = Mutex::new(Rank::Worker, ());
        drop(outermost.lock());
    }
}
