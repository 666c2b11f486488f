//! [`Previous`]: what the process did about SIGBUS before us, called as the kernel would call it.
//!
//! | it was | a fault that is not ours | sent by `kill` |
//! |---|---|---|
//! | SIG_DFL | becomes SIG_DFL again, and the access is made again: the process ends there, with a core | the same, by raising it again |
//! | SIG_IGN | as SIG_DFL, for the kernel ignores no fault | ignored |
//! | a function, with or without SA_SIGINFO | called with our arguments, its own signals blocked and ours not | the same |
//!
//! 1. It is written once, before our handler is installed, and never changed: reading it takes no lock.
//! 2. While it runs, blocked are the signals that were when the access was made, those of its mask, and SIGBUS itself unless it has
//!    SA_NODEFER: as without us.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::{io, mem, ptr};

/// The signal all of this is about.
const SIGNAL: libc::c_int = libc::SIGBUS;

/// The action for SIGBUS that ours replaced.
pub(super) struct Previous {
    handler: AtomicUsize,
    flags: AtomicUsize,
    /// The signals it blocks, as the kernel counts them: bit n-1 is signal n.
    mask: AtomicU64,
}

/// The process's action for SIGBUS.
///
/// # Errors
/// What the system says.
pub(super) fn current() -> io::Result<libc::sigaction> {
    // SAFETY: all zeroes are good values.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only asks.
    if unsafe { libc::sigaction(SIGNAL, ptr::null(), &mut action) } == 0 {
        Ok(action)
    } else {
        Err(io::Error::last_os_error())
    }
}

// === impl Previous ===

impl Previous {
    /// As if it had been SIG_DFL, until it is [kept](Self::keep).
    pub(super) const fn new() -> Self {
        Previous { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicUsize::new(0), mask: AtomicU64::new(0) }
    }

    /// Remember it. Before our handler is installed.
    pub(super) fn keep(&self, action: &libc::sigaction) {
        self.handler.store(action.sa_sigaction, Ordering::Relaxed);
        self.flags.store(action.sa_flags as usize, Ordering::Relaxed);
        // Relaxed, and so below: the system call that installs our handler comes after it, and the signal after that.
        self.mask.store(word(&action.sa_mask), Ordering::Relaxed);
    }

    /// Do what it would have done.
    ///
    /// # Safety
    /// In a handler of SIGBUS, with its own arguments.
    pub(super) unsafe fn call(&self, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        let handler = self.handler.load(Ordering::Relaxed);
        let flags = self.flags.load(Ordering::Relaxed) as libc::c_int;
        // SAFETY: the caller's promise.
        let sent = unsafe { (*info).si_code } <= 0;
        match handler {
            libc::SIG_IGN if sent => {}
            libc::SIG_DFL | libc::SIG_IGN => die(sent),
            handler => {
                // SAFETY: the caller's promise.
                let interrupted = unsafe { word(&(*context).uc_sigmask) };
                let own = if flags & libc::SA_NODEFER == 0 { 1 << (SIGNAL - 1) } else { 0 };
                let blocked = set(interrupted | self.mask.load(Ordering::Relaxed) | own);
                // SAFETY: all zeroes are good values.
                let mut ours: libc::sigset_t = unsafe { mem::zeroed() };
                // SAFETY: both sets are ours; it may be called from signal handlers.
                unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &blocked, &mut ours) };
                if flags & libc::SA_RESETHAND != 0 {
                    self.handler.store(libc::SIG_DFL, Ordering::Relaxed);
                }
                if flags & libc::SA_SIGINFO != 0 {
                    // SAFETY: a handler that was installed with SA_SIGINFO takes three arguments, and these are the kernel's.
                    let f = unsafe {
                        mem::transmute::<usize, extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t)>(
                            handler,
                        )
                    };
                    f(SIGNAL, info, context);
                } else {
                    // SAFETY: a handler that was installed without SA_SIGINFO takes one argument.
                    let f = unsafe { mem::transmute::<usize, extern "C" fn(i32)>(handler) };
                    f(SIGNAL);
                }
                // SAFETY: as above.
                unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &ours, ptr::null_mut()) };
            }
        }
    }
}

/// End the process as it would have ended without us: with the kernel's own action at the same access.
fn die(sent: bool) {
    // SAFETY: all zeroes are good values: SIG_DFL, no flags, nothing blocked.
    let default: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a good action.
    unsafe { libc::sigaction(SIGNAL, &default, ptr::null_mut()) };
    if sent {
        // It is blocked while our handler runs, and comes when that returns.
        // SAFETY: takes a number.
        unsafe { libc::raise(SIGNAL) };
    }
}

/// The set as the kernel has it: 64 bits at its start.
fn word(set: &libc::sigset_t) -> u64 {
    const { assert!(mem::size_of::<libc::sigset_t>() >= 8) };
    // SAFETY: a set is at least so large, and any bits are a number.
    unsafe { ptr::from_ref(set).cast::<u64>().read_unaligned() }
}

/// The set with these signals.
fn set(word: u64) -> libc::sigset_t {
    // SAFETY: all zeroes are good values.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: a set is at least so large.
    unsafe { (&raw mut set).cast::<u64>().write_unaligned(word) };
    set
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sets_are_words_with_a_bit_for_each_signal() {
        // SAFETY: all zeroes are good values.
        let mut some: libc::sigset_t = unsafe { mem::zeroed() };
        for signal in [1, libc::SIGBUS, 40] {
            // SAFETY: the set is ours.
            unsafe { libc::sigaddset(&mut some, signal) };
        }
        assert_eq!(word(&some), 1 | 1 << (libc::SIGBUS - 1) | 1 << 39);
        for signal in 1..=64 {
            // SAFETY: the set is ours.
            let member = unsafe { libc::sigismember(&set(word(&some)), signal) };
            assert_eq!(member == 1, [1, libc::SIGBUS, 40].contains(&signal), "{signal}");
        }
    }
}
