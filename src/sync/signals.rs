//! Threads on which no signal handler of the program's runs: those that [`spawn`](super::thread::spawn) starts.

use std::{mem, ptr};

/// Run `f` with all signals blocked but those that say that this thread itself went wrong; threads that it starts are born so.
///
/// A handler of the program's on a thread of ours could touch guest memory while the thread owns a page, and wait for itself; and a signal that
/// the program waits for in a thread of its own would be lost on one.
pub(super) fn blocked<R>(f: impl FnOnce() -> R) -> R {
    if cfg!(miri) {
        return f(); // it knows no signals
    }
    // SAFETY: all zeroes are good values.
    let mut all: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&mut all) };
    for own in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS] {
        // SAFETY: the set is ours.
        unsafe { libc::sigdelset(&mut all, own) };
    }
    // SAFETY: all zeroes are good values.
    let mut before: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: both sets are ours.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
    let result = f();
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(signal: i32) -> bool {
        // SAFETY: all zeroes are good values.
        let mut now: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: the set is ours.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut now) };
        // SAFETY: the set is ours.
        unsafe { libc::sigismember(&now, signal) == 1 }
    }

    #[test]
    fn threads_of_ours_block_signals_and_their_starter_does_not() {
        let signals = [libc::SIGALRM, libc::SIGUSR1, libc::SIGTERM, libc::SIGSEGV];
        let thread = crate::sync::thread::spawn("blocks", move || signals.map(blocks)).unwrap();
        assert_eq!(thread.join().unwrap(), [true, true, true, false]);
        assert!(!blocks(libc::SIGALRM) && !blocks(libc::SIGTERM));
    }
}
