//! [`Samples`]: what the program's engine said last, for when it ends without a word.
//!
//! ```text
//!   0.05  0.1  0.2  0.4  0.8   1.6   2.6   3.6 ...  seconds after the start
//!   ends in order: the library leaves PID.last in the control folder, and that is the last word
//! ```

use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use zspool::guest::control::{Client, Place};

const FIRST: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(1);

/// A program that is stopped does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the engine said, and how long before the end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// JSON.
    pub(crate) status: String,
    /// Zero: at the end.
    pub(crate) age: Duration,
}

/// Asks now and then.
pub(crate) struct Samples {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Whether the program has ended, and what was said last and when.
    state: Mutex<(bool, Option<(Instant, String)>)>,
    ended: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, (bool, Option<(Instant, String)>)> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Samples {
    /// Of that process.
    pub(crate) fn start(pid: u32, place: Place) -> Samples {
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            // Without a thread there is what the program leaves at its end.
            thread::Builder::new().spawn(move || take(pid, &place, &shared)).ok()
        };
        Samples { shared, thread }
    }

    /// The last word, and tidy up behind the process.
    pub(crate) fn finish(mut self, pid: u32, place: &Place) -> Option<Sample> {
        self.shared.state().0 = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let last = place.folder().join(format!("{pid}.last"));
        let left = fs::read_to_string(&last).ok();
        // A process that was killed leaves its socket.
        for file in [last, place.socket(pid)] {
            let _ = fs::remove_file(file);
        }
        match (left, self.shared.state().1.take()) {
            (Some(status), _) => Some(Sample { status, age: Duration::ZERO }),
            (None, Some((when, status))) => Some(Sample { status, age: when.elapsed() }),
            (None, None) => None,
        }
    }
}

fn take(pid: u32, place: &Place, shared: &Shared) {
    let (mut wait, mut client) = (FIRST, None);
    loop {
        let state = shared.state();
        let Ok((state, _)) = shared.ended.wait_timeout_while(state, wait, |(ended, _)| !*ended) else { return };
        if state.0 {
            return;
        }
        drop(state);
        // After an exec there is a new one at the same place, so a lost connection is not the end.
        let asked = client.take().or_else(|| Client::connect(&place.socket(pid)).ok()).and_then(|connected| {
            let mut connected = connected.patience(PATIENCE);
            let answer = connected.ask("status").ok()?;
            client = Some(connected);
            Some(answer)
        });
        if let Some(answer) = asked {
            shared.state().1 = Some((Instant::now(), answer));
        }
        wait = (wait * 2).min(LATER);
    }
}
