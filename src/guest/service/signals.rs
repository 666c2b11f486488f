//! Threads on which no signal handler of the program's runs.

use std::{mem, ptr};

/// Run `f` with all signals blocked but those that say that this thread itself went wrong; threads that it starts are born so.
///
/// A handler of the program's on a thread of ours could touch guest memory while the thread owns a page, and wait for itself.
pub(crate) fn blocked<R>(f: impl FnOnce() -> R) -> R {
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

#[cfg(all(test, not(loom)))]
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
    fn threads_started_in_it_block_signals_and_the_starter_does_not_after_it() {
        let thread =
            blocked(|| std::thread::spawn(|| [libc::SIGALRM, libc::SIGUSR1, libc::SIGTERM, libc::SIGSEGV].map(blocks)));
        assert_eq!(thread.join().unwrap(), [true, true, true, false]);
        assert!(!blocks(libc::SIGALRM) && !blocks(libc::SIGTERM));
    }
}
