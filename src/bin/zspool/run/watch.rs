//! [`watch`]: until the program has ended: signals are passed on, the status is taken over.
//!
//! | signal | what is done |
//! |---|---|
//! | of the terminal (Ctrl-C, Ctrl-\) | nothing: the program has got it too |
//! | from a process (`kill`) | passed on |
//! | SIGTSTP (Ctrl-Z) | we stop as well; the shell's SIGCONT reaches both |

use super::launch::{Child, set_of, watched};
use super::samples::{Sample, Samples};
use crate::signals;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use zspool::guest::control::Place;

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    pub(crate) how: How,
    pub(crate) wall: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Most memory it had at once, children's not counted.
    pub(crate) peak_rss_bytes: u64,
    /// What its engine said last.
    pub(crate) sample: Option<Sample>,
    /// The signals that were blocked before.
    before: libc::sigset_t,
}

/// By itself or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Exited(u8),
    Signal(i32),
}

impl Ended {
    /// From now on a signal that asks us to end is ours: there is nobody to pass it on to.
    pub(crate) fn hear_signals(&self) {
        // SAFETY: the set is one that was found, and the number is a signal's.
        let was_heard = |signal: &i32| unsafe { libc::sigismember(&self.before, *signal) } == 0;
        let heard = set_of(signals::STOPPING.map(|(signal, _)| signal).into_iter().filter(was_heard));
        // SAFETY: the set is good for the call.
        unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &heard, std::ptr::null_mut()) };
    }

    /// End as the program did.
    pub(crate) fn imitate(&self) -> ExitCode {
        match self.how {
            How::Exited(code) => ExitCode::from(code),
            How::Signal(signal) => {
                self.die_by(signal);
                ExitCode::from(128 + signal as u8)
            }
        }
    }

    /// So that a shell sees what it would have seen. The program has left the core, if there is to be one.
    fn die_by(&self, signal: i32) {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is good for the call.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
        // SAFETY: the default does not run anything of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: the set is the one that was found; with it the signal is let through.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
        // SAFETY: it only sends a signal.
        unsafe { libc::raise(signal) };
    }
}

/// Wait for it to end.
pub(crate) fn watch(child: Child, place: &Place) -> Ended {
    let start = Instant::now();
    let Child { pid, before } = child;
    let samples = Samples::start(pid, place.clone());
    let (status, usage) = loop {
        if let Some(ended) = ended(pid) {
            break ended;
        }
        pass_on(pid);
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ended {
        pid,
        how: match libc::WIFSIGNALED(status) {
            true => How::Signal(libc::WTERMSIG(status)),
            false => How::Exited(libc::WEXITSTATUS(status) as u8),
        },
        wall: start.elapsed(),
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
        sample: samples.finish(pid, place),
        before,
    }
}

/// Its status, if it has ended.
fn ended(pid: u32) -> Option<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: plain numbers.
    let mut usage = unsafe { std::mem::zeroed() };
    // SAFETY: both are written; the child is ours.
    let found = unsafe { libc::wait4(pid as i32, &mut status, libc::WNOHANG, &mut usage) };
    // It would be waited for without end.
    assert!(found >= 0, "the program's end was told to somebody else ({})", std::io::Error::last_os_error());
    (found == pid as i32).then_some((status, usage))
}

/// Wait for a signal, and do with it what is right. An end that comes meanwhile is a signal too.
fn pass_on(pid: u32) {
    // SAFETY: plain numbers.
    let mut about: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // A while, in case somebody else's child was reported in place of ours.
    let while_ = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    // SAFETY: the set and the time are good for the call, and what is known about the signal is written.
    let signal = unsafe { libc::sigtimedwait(&watched(), &mut about, &while_) };
    let by_process = about.si_code <= 0;
    match signal {
        -1 | libc::SIGCHLD => (),
        libc::SIGTSTP if !by_process => {
            // SAFETY: it stops us; the shell lets us go on.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
        // The terminal's, or the shell's to the whole job.
        libc::SIGINT | libc::SIGQUIT if !by_process => (),
        signal => {
            // SAFETY: it only sends a signal, to a child of ours that was not waited for yet.
            unsafe { libc::kill(pid as i32, signal) };
        }
    }
}
