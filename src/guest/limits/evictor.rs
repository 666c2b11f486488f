//! [`Evictor`]: the thread that brings memcgs below their marks before a fault has to.
//!
//! ```text
//!   charge ends above a mark --kick--> mailbox --> round (evict, write back, stage ahead) --> turn: those who wait look again
//!   a second is over ----------------------------> tick (epochs, what was written)
//! ```
//!
//! A round ends when a tick is due, and goes on after it: under a load that never ends stamps would grow too old.
//!
//! A round that finds nothing to take, with memcgs above their marks still, is followed by a pause: who faults then is served past the limit
//! by itself. A panic in a round (a codec's, a device's) is told once and does not end the thread.

use super::limits::Limits;
use crate::guest::service::fork_mark::in_child;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Arc, Tally};
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Time between ticks.
const TICK: Duration = Duration::from_secs(1);

/// Pause after a round in vain.
const PAUSE: Duration = Duration::from_millis(5);

/// The thread. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Evictor {
    limits: Arc<Limits>,
    thread: Option<JoinHandle<()>>,
}

impl Evictor {
    /// Start it.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(limits: Arc<Limits>) -> io::Result<Self> {
        let theirs = Arc::clone(&limits);
        limits.room().open();
        let spawned = thread::spawn("zspool-evictor", move || run(&theirs));
        let thread = spawned.inspect_err(|_| limits.room().close())?;
        Ok(Evictor { limits, thread: Some(thread) })
    }

    /// Wait until it has nothing to do.
    pub(crate) fn quiesce(&self) {
        self.limits.mailbox().wait_until_idle();
    }
}

/// Nobody waits for a thread that is gone.
struct Open<'a>(&'a Limits);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.room().close();
    }
}

fn run(limits: &Limits) {
    let mailbox = Arc::clone(limits.mailbox());
    let _attendance = mailbox.attend();
    let _open = Open(limits);
    let (ticked, panics) = (Cell::new(limits.now()), Tally::new());
    let is_due = || limits.now().saturating_sub(ticked.get()) >= TICK.as_millis() as u64;
    while mailbox.wait(Some(TICK)).is_some() {
        if limits.is_held() {
            continue;
        }
        let round = || {
            if is_due() {
                ticked.set(limits.now());
                limits.tick();
            }
            let met = limits.round(&|| mailbox.stopped() || is_due());
            if is_due() {
                limits.wake(); // it may have ended for the next tick, and goes on after that
            }
            met || is_due()
        };
        let met = catch_unwind(AssertUnwindSafe(round)).unwrap_or_else(|_| {
            if panics.add(1) == 0 {
                eprintln!("zspool: the evictor panicked and goes on; faults evict by themselves meanwhile");
            }
            false
        });
        limits.room().turn();
        if !met {
            mailbox.pause(PAUSE);
        }
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        if in_child() {
            std::mem::forget(self.thread.take()); // it is the parent's
            return;
        }
        self.limits.mailbox().stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panics were told
        }
    }
}
