//! [`Worker`]: the thread that keeps the pool below its limit, so that stores need not.
//!
//! ```text
//!   store: frames above the high mark --kick--> [mailbox] --> run down to the accept threshold
//!                                                              batch of the next memcg, gather, again
//!   0        accept threshold    high mark    limit
//!   +---------------|----------------|----------|   frames backed
//! ```
//!
//! It wakes before the limit is reached (half way between threshold and limit), gives up after a number of rounds without
//! progress, and then lets kicks wait for a moment, so it never spins. Its other work: memcgs whose limit was lowered, empty clusters,
//! warm frames, holes in the swapfile.

use super::Error;
use super::core::{Core, Zswap};
use super::reclaim::Next;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, Mutex, Rank, thread};
use std::time::{Duration, Instant};

/// Bytes compaction may move in a round of the worker.
const COMPACT_PER_ROUND: u64 = 512 << 10;

/// After a run in vain, kicks wait so long: every store near the limit sends one.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the worker is told of work. Kicks are not counted: one run serves all that came before it.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// A kick came that no run has answered: lets kickers pass without the lock.
    kicked: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    kicked: bool,
    stop: bool,
    /// A run is under way.
    running: bool,
    /// The worker panicked: nobody answers any more.
    gone: bool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Mailbox {
            kicked: AtomicBool::new(false),
            state: Mutex::new(Rank::Worker, State::default()),
            changed: Condvar::new(),
        }
    }

    /// Have the worker run. Cheap while a kick is waiting.
    pub(super) fn kick(&self) {
        // AcqRel, here and in `wait`: of two swaps one is first. Either we find the flag cleared, or the run that clears it
        // sees what we did before. A plain load could be early, and find a kick waiting that is being answered.
        if self.kicked.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.state.lock();
        state.kicked = true;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Let kicks wait for a while, for the last run found nothing to do about them.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.stop
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            self.changed.wait_timeout(&mut state, left);
        }
    }

    fn stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Wait until no kick is waiting and no run under way, or the worker is gone.
    fn wait_until_idle(&self) {
        let mut state = self.state.lock();
        while (state.kicked || state.running) && !state.gone {
            self.changed.wait(&mut state);
        }
    }

    /// The last run is over. Wait for a kick; `false` when it is time to stop.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        state.running = false;
        self.changed.notify_all();
        while !state.kicked && !state.stop {
            self.changed.wait(&mut state);
        }
        // Cleared before the run: a kick that comes during it is answered by another.
        state.kicked = false;
        state.running = !state.stop;
        self.kicked.swap(false, Ordering::AcqRel);
        !state.stop
    }
}

/// Tells those who wait for the worker when it unwinds.
struct Attendance<'a>(&'a Mailbox);

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.0.state.lock().gone = true;
        self.0.changed.notify_all();
    }
}

/// The running thread; stops and joins when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    core: Arc<Core>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(core: &Arc<Core>) -> Result<Self, Error> {
        let mine = Arc::clone(core);
        let thread = thread::spawn("zspool-worker", move || {
            let _attendance = Attendance(&mine.kick);
            while mine.kick.wait() {
                if !mine.run_down() {
                    mine.kick.pause(PAUSE);
                }
            }
        })
        .map_err(Error::Worker)?;
        Ok(Worker { core: Arc::clone(core), thread: Some(thread) })
    }
}

impl Zswap {
    /// Wait until the worker has nothing to do (or has panicked), then give back what is only kept for later: warm frames, empty clusters, holes
    /// in the swapfile. With no operation under way this is a quiet point.
    pub fn quiesce(&self) {
        if self.worker.is_some() {
            self.core.kick.wait_until_idle();
        }
        self.core.pool.flush();
        self.core.tidy();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.core.kick.stop();
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was printed; a second panic while dropping would end the process.
            let _ = thread.join();
        }
    }
}

impl Core {
    fn accept_threshold(&self, limit: u64) -> u64 {
        (u128::from(limit) * u128::from(self.policy.accept_threshold_percent) / 100) as u64
    }

    /// Kick the worker when the pool comes near its limit.
    pub(super) fn kick_if_high(&self) {
        let limit = self.arena.limit(); // once: it may be set meanwhile
        let low = self.accept_threshold(limit);
        let high = low + (limit - low) / 2;
        if self.arena.backed_bytes() > high {
            self.kick.kick();
        }
    }

    /// One run of the worker. Whether the pool is where it should be, or came nearer.
    fn run_down(&self) -> bool {
        let stopped = || self.kick.stopped();
        self.shrink_those_above_their_limit(stopped);
        let target = self.accept_threshold(self.arena.limit());
        let before = self.arena.backed_bytes();
        let mut failures = 0;
        while self.arena.backed_bytes() > target && failures < self.policy.max_failures && !stopped() {
            self.arena.flush();
            if self.arena.backed_bytes() <= target {
                break;
            }
            let compacted = self.pool.compact(COMPACT_PER_ROUND);
            failures = match self.shrink_next(self.policy.batch, self.all_nodes()) {
                _ if compacted.frames_freed > 0 => 0,
                Next::Written => 0,
                Next::NoneWritten => failures + 1,
                // The next store that comes near the limit kicks again.
                Next::Refused => break,
            };
        }
        self.tidy();
        let now = self.arena.backed_bytes();
        now <= target || now < before
    }

    /// Give back what is only kept warm or not yet returned.
    pub(super) fn tidy(&self) {
        self.pool.maintain();
        self.slots.reap_with(|owners| self.lru.discard(owners));
        if let Some(area) = &self.area {
            area.maintain();
        }
    }
}
