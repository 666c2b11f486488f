//! [`Inside`]: a thread does our work, and not the program's.
//!
//! 1. What is mapped inside is ours and is never registered ([`own`](crate::own)).
//! 2. No thread is cancelled inside: we wait and read there, and are not to be unwound.
//! 3. The program's signal handlers do not run inside: they could come back in, to a lock that their thread holds. A thread that
//!    is started inside is inside for all its life, and never runs one.

use libc::c_int;
use std::cell::Cell;
use std::mem::MaybeUninit;

thread_local! {
    /// How often this thread has gone inside.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE`.
const NOT_CANCELLED: c_int = 1;

/// This thread is inside while this lives.
pub(crate) struct Inside {
    /// The signals that were blocked before, and whether it could be cancelled; none when it was inside already.
    before: Option<(libc::sigset_t, c_int)>,
}

/// Whether this thread is inside.
pub(crate) fn is_inside() -> bool {
    DEPTH.get() > 0
}

// === impl Inside ===

impl Inside {
    pub(crate) fn enter() -> Self {
        let before = (DEPTH.get() == 0).then(|| {
            let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            // SAFETY: the set is written. The library's own signals (for setuid in all threads) are left out by it.
            unsafe { libc::sigfillset(all.as_mut_ptr()) };
            // SAFETY: `all` was filled; `before` is written.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
            let mut state = 0;
            // SAFETY: the state is written.
            unsafe { pthread_setcancelstate(NOT_CANCELLED, &raw mut state) };
            // SAFETY: it cannot fail with these arguments, so it is written.
            (unsafe { before.assume_init() }, state)
        });
        DEPTH.set(DEPTH.get() + 1);
        Inside { before }
    }

    /// For good: a thread of ours.
    pub(crate) fn stay(self) {
        std::mem::forget(self);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if let Some((before, state)) = &self.before {
            // SAFETY: it was that before.
            unsafe { pthread_setcancelstate(*state, std::ptr::null_mut()) };
            // SAFETY: the set is one the kernel gave.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        }
    }
}
