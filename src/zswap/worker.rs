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
//! progress, and then lets kicks wait for a moment, so it never spins. Its other work: compaction when too much is wasted and
//! warm frames when nothing happens (`zsmalloc/upkeep.rs`), memcgs whose limit was lowered, empty clusters; tiers that are
//! too full, sparse segments, and holes in swapfiles.

use super::Error;
use super::core::{Core, Zswap};
use super::effort::Room;
use super::excess::Excess;
use super::turns::Turns;
use super::walk::Budget;
use crate::sync::{Arc, Deadline, Turnstile, thread};
use crate::zsmalloc::Upkeep;
use std::time::Duration;

/// Bytes compaction may move in a round of the worker.
const COMPACT_PER_ROUND: u64 = 512 << 10;

/// After a run in vain, kicks wait so long: every store near the limit sends one.
const PAUSE: Duration = Duration::from_millis(20);

/// Swapfiles are cleaned, and holes punched in them, when nothing was written for so long: under pressure the next batch fills them
/// again, and they were a quarter of the worker's time on an idle disk, all of it on a busy one.
const CALM: Duration = Duration::from_millis(100);

/// What nobody waits for goes on so long though a memcg is above its mark: one that is full of resident pages is all the time, and nothing is to be
/// done about it.
const TIDYING: Duration = Duration::from_millis(10);

/// Why the worker is kicked: the pool is near its limit, or memcgs are above their marks. (The other reason is
/// [`UPKEEP`](crate::zsmalloc::UPKEEP).)
pub(super) const PRESSURE: u32 = 2;
pub(super) const EXCESS: u32 = 4;

/// The running thread; stops and joins when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    core: Arc<Core>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(core: &Arc<Core>) -> Result<Self, Error> {
        let mine = Arc::clone(core);
        assert!(core.arena.alarm().attend() && core.tree.on_excess().attend(), "an instance has one worker");
        let thread = thread::spawn("zspool-worker", move || {
            let _attendance = mine.kick.attend();
            let _open = Open::new(&mine.turnstile);
            let mut upkeep = Upkeep::new(mine.policy.waste_per_mille);
            let mut excess = Excess::default();
            let mut next = upkeep.tend(&mine.pool, || mine.kick.stopped());
            let mut calm = None; // from when on
            while let Some(reasons) = mine.kick.wait(next) {
                next = upkeep.tend(&mine.pool, || mine.kick.stopped());
                let run = mine.answer(reasons, &mut excess);
                if run.was_for_nothing(reasons) {
                    mine.kick.pause(PAUSE);
                }
                let began = reasons & EXCESS != 0 && calm.is_none();
                if run != Run::Idle || reasons & PRESSURE != 0 || began {
                    calm = Some(Deadline::after(CALM));
                }
                match calm.map(|calm| calm.left()).filter(|left| !left.is_zero()) {
                    Some(left) => next = Some(next.map_or(left, |next| next.min(left))),
                    None => {
                        if next.is_none() {
                            mine.tidy_memory();
                        }
                        if mine.tidy_devices_for_a_while() {
                            calm = None; // else it goes on after the next run
                        }
                    }
                }
            }
        })
        .map_err(Error::Worker)?;
        Ok(Worker { core: Arc::clone(core), thread: Some(thread) })
    }
}

impl Zswap {
    /// Be the worker of an instance that was made without one, until [`stop_work`](Self::stop_work): for models, where no time
    /// passes. It does not look after what is kept warm.
    #[doc(hidden)]
    pub fn work(&self) {
        let core = &*self.core;
        assert!(core.tree.on_excess().attend(), "an instance has one worker");
        let (_attendance, _open) = (core.kick.attend(), Open::new(&core.turnstile));
        let mut excess = Excess::default();
        while let Some(reasons) = core.kick.wait(None) {
            core.answer(reasons, &mut excess);
        }
        core.tree.on_excess().leave();
    }

    /// One run of the worker of an instance that was made without one, by this thread: for who says when it comes. Whether
    /// anything was got done, or nothing was to do.
    #[doc(hidden)]
    pub fn work_once(&self) -> bool {
        assert!(self.worker.is_none(), "an instance has one worker");
        self.core.answer(PRESSURE | EXCESS, &mut Excess::default()) != Run::Vain
    }

    /// Have [`work`](Self::work) return.
    #[doc(hidden)]
    pub fn stop_work(&self) {
        self.core.kick.stop();
    }

    /// Wait until the worker has nothing to do (or has panicked), then give back what is only kept for later: warm frames, empty
    /// clusters, holes in swapfiles. With no operation under way this is a quiet point.
    pub fn quiesce(&self) {
        if self.worker.is_some() {
            self.core.kick_if_high();
            self.core.kick.wait_until_idle();
        }
        self.core.pool.flush();
        self.core.tidy();
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Something was got done.
    Done,
    /// Nothing was to do.
    Idle,
    /// Nothing could be done.
    Vain,
}

impl Run {
    /// Whether kicks for these reasons are to wait a moment.
    fn was_for_nothing(self, reasons: u32) -> bool {
        match reasons & (PRESSURE | EXCESS) {
            0 => false,
            // A memcg whose resident pages fill it is noted with each of its charges, and each store after that kicks; its bytes
            // here are no reason to write anything (F4 of `excess.rs`).
            EXCESS => self != Run::Done,
            _ => self == Run::Vain,
        }
    }
}

/// While it lives, stores may wait for the worker.
struct Open<'a>(&'a Turnstile);

impl<'a> Open<'a> {
    fn new(turnstile: &'a Turnstile) -> Self {
        turnstile.open();
        Open(turnstile)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.core.kick.stop();
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was printed; a second panic while dropping would end the process.
            let _ = thread.join();
        }
        self.core.arena.alarm().leave();
        self.core.tree.on_excess().leave();
    }
}

impl Core {
    fn accept_threshold(&self, limit: u64) -> u64 {
        (u128::from(limit) * u128::from(self.policy.accept_threshold_percent) / 100) as u64
    }

    /// Kick the worker when the pool comes near its limit, or a memcg is above its mark.
    pub(super) fn kick_if_high(&self) {
        if self.tree.on_excess().is_rung() {
            self.kick.kick(EXCESS);
        }
        let limit = self.arena.limit(); // once: it may be set meanwhile
        let low = self.accept_threshold(limit);
        let high = low + (limit - low) / 2;
        if self.arena.backed_bytes() > high {
            self.kick.kick(PRESSURE);
        }
    }

    /// Do what the worker was kicked for.
    fn answer(&self, reasons: u32, excess: &mut Excess) -> Run {
        if reasons & EXCESS != 0 {
            excess.retry(self);
        }
        if reasons & (PRESSURE | EXCESS) != 0 { self.run_down(excess) } else { Run::Idle }
    }

    /// One run of the worker: a batch for the pool and one for each memcg above its mark, until all are where they should be
    /// or nothing can be done about it.
    fn run_down(&self, excess: &mut Excess) -> Run {
        let (root, budget) = (self.tree.root(), self.budget(self.policy.batch));
        let mut turns = Turns::with(self, &root, &self.cursor);
        let (mut pool, mut idle, mut got_done) = (Some(0), true, false);
        while !self.kick.stopped() {
            excess.look(self);
            let target = self.accept_threshold(self.arena.limit());
            if pool.is_some() && self.arena.backed_bytes() > target {
                self.arena.flush();
            }
            let failures = pool.filter(|_| self.arena.backed_bytes() > target);
            if failures.is_none() && excess.is_over() {
                break;
            }
            idle = false;
            if excess.turn(self) > 0 {
                got_done = true;
                self.progressed();
            }
            let Some(failures) = failures else { continue };
            pool = match self.run_down_once(&mut turns, &budget) {
                Room::Made => Some(0),
                Room::None(_) => Some(failures + 1).filter(|&failures| failures < self.policy.max_failures),
                // The next store that comes near the limit kicks again.
                Room::Hopeless(_) | Room::Late => None,
            };
            got_done |= pool == Some(0);
            if pool.is_none() {
                self.note_worker_gave_up();
            }
        }
        self.tidy_memory();
        match (got_done, idle) {
            (true, _) => Run::Done,
            (false, true) => Run::Idle,
            (false, false) => Run::Vain,
        }
    }

    /// A batch for the pool, and what can be gathered after it.
    fn run_down_once(&self, turns: &mut Turns<'_>, budget: &Budget) -> Room {
        let room = turns.next(budget).into();
        if room == Room::Made {
            self.progressed(); // the slots of what was written can be used, though no frame is free yet
        }
        if self.pool.compact(COMPACT_PER_ROUND).frames_won() == 0 {
            return room;
        }
        self.arena.flush();
        self.progressed();
        Room::Made
    }

    /// Give back what is only kept warm or not yet returned, in memory.
    pub(super) fn tidy_memory(&self) {
        self.pool.maintain();
        self.slots.tidy(|owners| self.lru.discard(owners));
    }

    /// The same, and on the devices.
    fn tidy(&self) {
        self.tidy_memory();
        self.tidy_devices(|| false);
    }

    /// The same on the devices alone, by the worker, as long as it is not wanted. Whether all was done.
    fn tidy_devices_for_a_while(&self) -> bool {
        let over = Deadline::after(TIDYING);
        let wanted =
            || self.kick.stopped() || self.kick.is_kicked_for(PRESSURE) || self.kick.is_kicked() && over.passed();
        self.tidy_devices(wanted);
        !wanted()
    }

    /// What is above a high mark goes to the next tier, sparse segments are cleaned, and holes are punched where nothing lives; as long as nobody
    /// wants us to stop.
    pub(super) fn tidy_devices(&self, stop: impl Fn() -> bool) {
        self.level(&stop);
        let _ = self.clean_until(u64::MAX, &stop);
        self.devices.maintain_until(stop);
    }
}
