//! [`Mailbox`], where a background thread is told of work, and [`Alarm`], which tells callers that there is some.
//!
//! ```text
//!   under locks:  state passes a bound --ring--> [alarm]
//!   after locks:  is it rung? (a load) --kick--> [mailbox] --wait--> thread: take the alarm, look at the state, work
//! ```
//!
//! Neither allocates, and a kick blocks only for the moment in which the thread goes to sleep: both may be used in a
//! fault handler.

use super::atomic::{AtomicBool, AtomicU32, Ordering};
use super::{Bug, Condvar, Mutex, Planted, Rank, now};
use std::time::Duration;

/// Where a thread is told of work, by reasons: bits that the client gives a meaning. Kicks are not counted: one run
/// serves all that came before it.
#[derive(Debug)]
pub struct Mailbox {
    /// Reasons that no run has answered: lets kickers pass without the lock.
    kicked: AtomicU32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    kicked: u32,
    stop: bool,
    /// A run is under way.
    running: bool,
    /// The thread is gone: nobody answers any more.
    gone: bool,
    /// Runs begun: how often the thread was woken.
    runs: u64,
}

/// Something is to be done in the background. Rung only while somebody attends.
#[derive(Debug)]
pub struct Alarm {
    /// A thread attends.
    attended: AtomicBool,
    rung: AtomicBool,
}

/// Tells those who wait for the thread when it ends, also by a panic.
#[derive(Debug)]
pub struct Attendance<'a>(&'a Mailbox);

// === impl Mailbox ===

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Mailbox {
    /// Without a kick.
    pub fn new() -> Self {
        Mailbox {
            kicked: AtomicU32::new(0),
            state: Mutex::new(Rank::Worker, State::default()),
            changed: Condvar::new(),
        }
    }

    /// Have the thread run for this reason (a bit). Cheap while a kick for it is waiting.
    ///
    /// # Locks
    /// [`Rank::Worker`], before all others.
    pub fn kick(&self, reason: u32) {
        // AcqRel, here and in `wait`: of two exchanges one is first. Either we find the reason cleared, or the run that
        // clears it sees what we did before. A plain load could be early, and find a kick waiting that is being answered.
        if self.kicked.fetch_or(reason, Ordering::AcqRel) & reason != 0 {
            return;
        }
        let mut state = self.state.lock();
        state.kicked |= reason;
        self.changed.notify_all();
    }

    /// Whether a kick waits, for a thread that does what can wait. A hint: one that comes this moment may be missed.
    pub fn is_kicked(&self) -> bool {
        // Relaxed: `wait` sees it in any case.
        self.is_kicked_for(u32::MAX)
    }

    /// The same, for one of these reasons.
    pub fn is_kicked_for(&self, reasons: u32) -> bool {
        self.kicked.load(Ordering::Relaxed) & reasons != 0
    }

    /// Let another thread take the place of one that has ended.
    pub fn reopen(&self) {
        let mut state = self.state.lock();
        (state.stop, state.gone) = (false, false);
    }

    /// Have the thread end.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// Whether it is to end.
    pub fn stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Let kicks wait for a while, for the last run found nothing to do about them.
    pub fn pause(&self, time: Duration) {
        let until = now() + time;
        let mut state = self.state.lock();
        while !state.stop
            && let Some(left) = until.checked_duration_since(now())
        {
            self.changed.wait_timeout(&mut state, left);
        }
    }

    /// Wait until no kick is waiting and no run under way, or the thread is gone.
    pub fn wait_until_idle(&self) {
        self.while_idle(|| ());
    }

    /// Wait until it has nothing to do, and keep it from doing anything while `f` runs, which must not kick.
    ///
    /// # Locks
    /// [`Rank::Worker`], before all others, also around `f`.
    pub fn while_idle<R>(&self, f: impl FnOnce() -> R) -> R {
        let mut state = self.state.lock();
        // Not `state.kicked`: a kick that found its reason set is not there before the one who set it is. Relaxed: who has
        // kicked sees that, and it is cleared under the lock.
        while (self.kicked.load(Ordering::Relaxed) != 0 || state.running) && !state.gone {
            self.changed.wait(&mut state);
        }
        f()
    }

    /// For the thread: the last run is over. Wait for a kick, or for `at_most` if there is such a time, and return the
    /// reasons, none when the time is over. `None` when it is time to stop.
    pub fn wait(&self, at_most: Option<Duration>) -> Option<u32> {
        let until = at_most.map(|time| now() + time);
        let mut state = self.state.lock();
        state.running = false;
        self.changed.notify_all();
        while state.kicked == 0 && !state.stop {
            match until {
                None => self.changed.wait(&mut state),
                Some(until) => match until.checked_duration_since(now()) {
                    Some(left) => self.changed.wait_timeout(&mut state, left),
                    None => break,
                },
            }
        }
        // Cleared before the run: a kick that comes during it is answered by another.
        let reasons = std::mem::take(&mut state.kicked);
        state.running = !state.stop;
        state.runs += u64::from(!state.stop);
        if reasons != 0 {
            self.kicked.fetch_and(!reasons, Ordering::AcqRel);
        }
        (!state.stop).then_some(reasons)
    }

    /// How often the thread was woken, by a kick or because its time was over.
    ///
    /// # Locks
    /// [`Rank::Worker`], before all others.
    pub fn runs(&self) -> u64 {
        self.state.lock().runs
    }

    /// For the thread: until this is dropped, it is there.
    pub fn attend(&self) -> Attendance<'_> {
        Attendance(self)
    }
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.0.state.lock().gone = true;
        self.0.changed.notify_all();
    }
}

// === impl Alarm ===

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Alarm {
    /// Silent, and unattended.
    pub fn new() -> Self {
        Alarm { attended: AtomicBool::new(false), rung: AtomicBool::new(false) }
    }

    /// Say that there is something to do, if anybody cares. Atomics only: under any lock.
    pub fn ring(&self) {
        if self.is_attended() {
            // AcqRel, here and in `take`: of two exchanges one is first, so that who takes the alarm sees why it was rung,
            // or it is rung again.
            self.rung.swap(true, Ordering::AcqRel);
            // Whoever has left meanwhile silenced it before or after that: if before, the swap shows that nobody attends.
            if !self.is_attended() {
                self.take();
            }
        }
    }

    /// Whether there may be something to do: a hint, to kick the thread that does it.
    #[inline]
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }

    /// For the thread: silence it, and then look at what there is to do. What `look` does not see, rings again.
    pub fn answer<R>(&self, planted: Planted, look: impl FnOnce() -> R) -> R {
        if planted.is(Bug::AlarmSilencedLate) {
            let seen = look();
            self.take();
            return seen;
        }
        self.take();
        look()
    }

    fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether anybody cares.
    pub fn is_attended(&self) -> bool {
        self.attended.load(Ordering::Relaxed)
    }

    /// A thread cares from now on, unless one does already. Rings once, for what there is to do already.
    #[must_use]
    pub fn attend(&self) -> bool {
        let first = !self.attended.swap(true, Ordering::AcqRel);
        if first {
            self.ring();
        }
        first
    }

    /// It does no longer.
    pub fn leave(&self) {
        self.attended.store(false, Ordering::Release);
        self.take();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Arc, thread};
    use super::*;

    #[test]
    fn reasons_add_up_until_a_run_begins() {
        let mailbox = Mailbox::new();
        [1, 4, 1].into_iter().for_each(|reason| mailbox.kick(reason));
        assert_eq!(mailbox.wait(None), Some(5));
        mailbox.kick(4);
        assert_eq!(mailbox.wait(Some(Duration::ZERO)), Some(4));
        assert_eq!(mailbox.wait(Some(Duration::from_millis(1))), Some(0), "time is over");
        mailbox.stop();
        assert_eq!(mailbox.wait(None), None);
    }

    #[test]
    fn a_thread_that_is_gone_is_not_waited_for() {
        let mailbox = Arc::new(Mailbox::new());
        mailbox.kick(1);
        let mine = Arc::clone(&mailbox);
        let thread = thread::spawn("gone", move || drop(mine.attend())).unwrap();
        mailbox.wait_until_idle();
        thread.join().unwrap();
    }

    #[test]
    fn an_alarm_is_rung_only_if_somebody_attends() {
        let alarm = Alarm::new();
        alarm.ring();
        assert!(!alarm.is_rung());
        assert!(alarm.attend() && !alarm.attend());
        assert!(alarm.take() && !alarm.take(), "what there is already");
        alarm.ring();
        assert!(alarm.is_rung());
        alarm.leave();
        assert!(!alarm.is_rung());
    }
}
