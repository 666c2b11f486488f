//! Signals: an interrupted run cleans up, and a file size limit is an error of one write.
//!
//! ```text
//!   SIGINT, SIGTERM, SIGHUP --1st--> STOP --looked at between pages--> Stopped: swapfile removed, command ended
//!                           --2nd--> the default: ends us at once
//! ```

use std::io;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

/// The first of [`STOPPING`] that came, or 0. Only a flag that ends loops: relaxed.
static STOP: AtomicI32 = AtomicI32::new(0);

/// Signals that ask us to end.
pub(crate) const STOPPING: [(i32, &str); 3] =
    [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM"), (libc::SIGHUP, "SIGHUP")];

extern "C" fn stop(signal: i32) {
    STOP.store(signal, Relaxed);
}

/// The signal that asked us to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped(i32);

impl Stopped {
    /// What a shell would say: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.0 as u8
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(STOPPING.iter().find(|(signal, _)| *signal == self.0).map_or("a signal", |(_, name)| name))
    }
}

/// Arrange for signals to be met. Once, before any thread is started.
pub(crate) fn prepare() {
    // A write past `ulimit -f` must fail like one to a full disk (EFBIG), not end us: the page it was for is in the pool still.
    set(libc::SIGXFSZ, libc::SIG_IGN, 0);
    for (signal, _) in STOPPING {
        // What our parent has us ignore (nohup, a background job) stays ignored.
        if current(signal) != libc::SIG_IGN {
            arrange(signal);
        }
    }
}

fn arrange(signal: i32) {
    // SA_RESETHAND: the second one ends us if a page takes for ever. SA_RESTART: file I/O is not disturbed.
    set(signal, stop as extern "C" fn(i32) as libc::sighandler_t, libc::SA_RESETHAND | libc::SA_RESTART);
}

/// They end us like any other program: there is nothing to clean up.
#[cfg(feature = "guest")]
pub(crate) fn end_at_once() {
    for (signal, _) in STOPPING {
        if current(signal) != libc::SIG_IGN {
            set(signal, libc::SIG_DFL, 0);
        }
    }
}

/// Have the end of a child be told and its status kept, before it is started: who inherits SIGCHLD as ignored gets neither. Whether that
/// was so.
#[cfg(feature = "guest")]
pub(crate) fn hear_of_children() -> bool {
    let ignored = current(libc::SIGCHLD) == libc::SIG_IGN;
    if ignored {
        set(libc::SIGCHLD, libc::SIG_DFL, 0);
    }
    ignored
}

/// In a child before it becomes another program: what is ignored would stay so.
pub(crate) fn undo_in_child() {
    set(libc::SIGXFSZ, libc::SIG_DFL, 0);
}

/// In such a child, what [`hear_of_children`] has found: it is to inherit that as it would have without us.
#[cfg(feature = "guest")]
pub(crate) fn ignore_children() {
    set(libc::SIGCHLD, libc::SIG_IGN, 0);
}

/// Whether a signal asked us to end.
pub(crate) fn stopped() -> Option<Stopped> {
    match STOP.load(Relaxed) {
        0 => None,
        signal => Some(Stopped(signal)),
    }
}

/// Wait for Ctrl-C, or until `or`. A SIGINT is used up by that: another one interrupts the run as the first one would have.
/// Other signals stay what they are, and end the wait as well.
pub(crate) fn wait_for_one(or: impl Fn() -> bool) {
    while stopped().is_none() && !or() {
        std::thread::sleep(Duration::from_millis(20));
    }
    take_interrupt();
}

/// Whether somebody pressed Ctrl-C; it is used up by that, as by [`wait_for_one`].
pub(crate) fn take_interrupt() -> bool {
    let taken = STOP.compare_exchange(libc::SIGINT, 0, Relaxed, Relaxed).is_ok();
    if taken {
        arrange(libc::SIGINT);
    }
    taken
}

/// Whether Ctrl-C would do something: shells have jobs in the background ignore it.
pub(crate) fn hears_interrupts() -> bool {
    current(libc::SIGINT) != libc::SIG_IGN
}

fn current(signal: i32) -> libc::sighandler_t {
    // SAFETY: the struct is plain numbers and a null pointer, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `action` is written to and outlives the call; no new action is given.
    unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    action.sa_sigaction
}

fn set(signal: i32, handler: libc::sighandler_t, flags: i32) {
    // SAFETY: as above; a mask of zeroes is empty.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: `action` outlives the call, and `stop`, the only handler of ours, does one atomic store.
    let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    debug_assert_eq!(result, 0, "signal {signal}: {}", io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_run_says_by_what() {
        assert_eq!(
            (Stopped(libc::SIGTERM).to_string(), Stopped(libc::SIGINT).exit_code()),
            ("SIGTERM".to_owned(), 130)
        );
    }
}
