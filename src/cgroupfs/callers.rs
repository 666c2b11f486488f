//! [`Callers`]: who waits for a write just now, so that it ends when they are interrupted.
//!
//! ```text
//!  echo 1G > memory.reclaim      writes: a thread each      watcher, every 20 ms
//!       |  FUSE_WRITE, pid          enter(pid) -- Call -->  pid has a signal pending?
//!       |<---- EINTR ----------------- cancelled <---------- yes: cancel
//!    ^C |
//! ```
//!
//! The kernel tells a file system of an interrupted caller by `FUSE_INTERRUPT`, which fuser (0.18) does not pass on: it answers
//! `ENOSYS`, and the kernel does not ask again. But it leaves the signal pending while the caller waits, and `/proc` shows
//! that: a pending signal that is not blocked is just what would have ended the call with `EINTR` in the kernel. A signal for a
//! process of several threads is pending for a moment before one of them takes it, so it has to be seen twice.
//!
//! Callers of another pid namespace have no number here; they cannot interrupt.

use crate::memcg::Cancel;
use crate::sync::{Arc, Condvar, Mutex, Rank};
use std::fs;
use std::time::Duration;

/// How long an interrupted caller waits to be seen, about half of it: short for a person, long for a processor.
const INTERVAL: Duration = Duration::from_millis(20);

/// The writes under way.
#[derive(Debug)]
pub(super) struct Callers {
    state: Mutex<State>,
    /// Somebody came, the last one went, or no more are taken.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Waiting>,
    last: u64,
    closing: bool,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    caller: u32,
    /// A signal was pending when last looked.
    seen: bool,
    cancel: Cancel,
}

/// One write under way; over when dropped.
#[derive(Debug)]
pub(super) struct Call {
    callers: Arc<Callers>,
    number: u64,
    pub(super) cancel: Cancel,
}

impl Callers {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Callers { state: Mutex::new(Rank::Leaf, State::default()), changed: Condvar::new() }
    }

    /// A write by this thread (its number, or 0) begins; none when no more are taken.
    pub(super) fn enter(self: &Arc<Self>, caller: u32) -> Option<Call> {
        let cancel = Cancel::default();
        let mut state = self.state.lock();
        if state.closing {
            return None;
        }
        state.last += 1;
        let number = state.last;
        state.calls.push(Waiting { number, caller, seen: false, cancel: cancel.clone() });
        drop(state);
        self.changed.notify_all();
        Some(Call { callers: self.clone(), number, cancel })
    }

    /// Take no more, cancel those under way, and wait for their end.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.calls.iter().for_each(|waiting| waiting.cancel.cancel());
        self.changed.notify_all();
        while !state.calls.is_empty() {
            self.changed.wait(&mut state);
        }
    }

    /// What the watcher does, until [`close`](Self::close).
    pub(super) fn watch(&self) {
        loop {
            let mut state = self.state.lock();
            while state.calls.is_empty() && !state.closing {
                self.changed.wait(&mut state);
            }
            if state.closing {
                return;
            }
            let callers: Vec<_> = state.calls.iter().map(|waiting| (waiting.number, waiting.caller)).collect();
            // Not under the lock: `/proc` may take its time.
            drop(state);
            let interrupted: Vec<_> = callers.into_iter().filter(|&(_, caller)| is_interrupted(caller)).collect();
            let mut state = self.state.lock();
            for waiting in &mut state.calls {
                let now = interrupted.contains(&(waiting.number, waiting.caller));
                if now && waiting.seen {
                    waiting.cancel.cancel();
                }
                waiting.seen = now;
            }
            self.changed.wait_timeout(&mut state, INTERVAL);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.callers.state.lock();
        state.calls.retain(|waiting| waiting.number != self.number);
        drop(state);
        self.callers.changed.notify_all();
    }
}

/// Whether a signal waits for this thread that it has not blocked. Ignored ones do not wait.
fn is_interrupted(thread: u32) -> bool {
    thread != 0 && fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| has_pending(&status))
}

fn has_pending(status: &str) -> bool {
    let mask = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(value.trim(), 16).ok()
    };
    let masks = (mask("SigPnd:"), mask("ShdPnd:"), mask("SigBlk:"));
    matches!(masks, (Some(own), Some(shared), Some(blocked)) if (own | shared) & !blocked != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_counts_unless_it_is_blocked() {
        let status = |own: u64, shared: u64, blocked: u64| {
            has_pending(&format!(
                "Name:\tsh\nSigQ:\t1/63000\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\n",
                0x1000
            ))
        };
        assert!(!status(0, 0, 0) && !status(0, 0, 2));
        assert!(status(2, 0, 0) && status(0, 2, 0) && status(0, 3, 2));
        assert!(!status(0, 2, 2) && !status(2, 0, 3));
        assert!(!has_pending("") && !has_pending("SigPnd:\tffff\n"));
        assert!(!is_interrupted(0) && !is_interrupted(std::process::id()));
    }

    #[test]
    fn closing_cancels_and_waits() {
        let callers = Arc::new(Callers::new());
        let call = callers.enter(0).unwrap();
        let closer = std::thread::spawn({
            let callers = callers.clone();
            move || callers.close()
        });
        while !call.cancel.is_cancelled() {
            std::thread::yield_now();
        }
        assert!(!closer.is_finished(), "a write is under way");
        assert!(callers.enter(0).is_none());
        drop(call);
        closer.join().unwrap();
        callers.watch(); // returns at once
    }
}
