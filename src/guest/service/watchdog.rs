//! [`Watchdog`]: notices that a thread has been at one fault for too long, and says which and why.
//!
//! ```text
//!   handler   step:  8 (idle)  9 (busy: page, phase)  10 (idle)  11 (busy) . . . . . . . . . .
//!   watchdog                         11?        11?        11? --> "at page 0x7f.. for 2.1 s: ..."
//! ```
//!
//! The handler only counts ([`Watch`]); time is looked at by the watchdog alone.

use super::Desk;
use super::last_words::LastWords;
use super::watch::{Phase, Watch};
use crate::guest::Error;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mailbox, thread};
use std::fmt;
use std::time::{Duration, Instant};

/// A handler that has been at one thing for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck {
    /// The address whose fault it serves; 0 while it follows a change of mappings.
    pub address: usize,
    /// For how long at least.
    pub time: Duration,
    /// In words: what it does, where the page is, and where the kernel has the thread wait.
    pub why: String,
    /// The handler's thread id.
    pub thread: u32,
}

/// Watches the handlers of one VM.
pub(crate) struct Watchdog {
    mailbox: Arc<Mailbox>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Told of a stuck handler.
pub(crate) type OnStuck = Arc<Box<dyn Fn(&Stuck) + Send + Sync>>;

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "handler thread {} has been at one thing for {:.1} s: {}",
            self.thread,
            self.time.as_secs_f64(),
            self.why
        )
    }
}

// === impl Watchdog ===

impl Watchdog {
    /// Look at these handlers, and tell of one that has been at the same thing for `limit`: once each time.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start<D: Desk + Send + Sync + 'static>(
        desk: Arc<D>,
        watches: Vec<Arc<Watch>>,
        limit: Duration,
        on_stuck: Option<OnStuck>,
    ) -> Result<Watchdog, Error> {
        let mailbox = Arc::new(Mailbox::new());
        let mine = Arc::clone(&mailbox);
        let thread = thread::spawn("zspool-watchdog", move || {
            let mut seen: Vec<(u64, Instant, bool)> = watches.iter().map(|_| (0, Instant::now(), false)).collect();
            // A quarter: it is told after at most so much more than the limit.
            while mine.wait(Some((limit / 4).max(Duration::from_millis(1)))).is_some() {
                for (watch, (step, since, told)) in watches.iter().zip(&mut seen) {
                    // Acquire: see `busy`.
                    let now = watch.step.load(Ordering::Acquire);
                    if now & 1 == 0 || now != *step {
                        (*step, *since, *told) = (now, Instant::now(), false);
                        continue;
                    }
                    if since.elapsed() < limit || *told {
                        continue;
                    }
                    *told = true;
                    let stuck = look(&*desk, watch, since.elapsed());
                    match &on_stuck {
                        Some(tell) => tell(&stuck),
                        None => LastWords::new(format_args!("{stuck}")).say(),
                    }
                }
            }
        })
        .map_err(|source| Error::Service { doing: "start its watchdog", source })?;
        Ok(Watchdog { mailbox, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Find out why.
fn look(desk: &dyn Desk, watch: &Watch, time: Duration) -> Stuck {
    let address = watch.address.load(Ordering::Relaxed);
    let thread = watch.thread.load(Ordering::Relaxed);
    let what = if watch.phase.load(Ordering::Relaxed) == Phase::Serving as u8 {
        format!("it serves the fault of page {address:#x}, which is {}", desk.state(address))
    } else {
        "its pages follow a change of mappings, and the owner of one does not give it back".to_owned()
    };
    let task = format!("/proc/self/task/{thread}");
    let wait = std::fs::read_to_string(format!("{task}/wchan")).unwrap_or_default();
    let state = std::fs::read_to_string(format!("{task}/stat")).unwrap_or_default();
    // The state stands behind the name, which is in brackets and may hold anything.
    let state = state.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    let kernel = match (state, wait.as_str()) {
        (Some('R'), _) => "it is running".to_owned(),
        (_, "" | "0") => "it sleeps".to_owned(),
        (Some('D'), wait) => format!("it waits in the kernel for a device or a lock ({wait})"),
        (_, wait) => format!("it sleeps in the kernel ({wait})"),
    };
    Stuck { address, time, why: format!("{what}; {kernel}"), thread }
}
