//! [`Turnstile`]: threads wait until another one has got something done.
//!
//! ```text
//!   who waits   ticket = number of turns --> look: is there room? --> no: wait until turns != ticket, or time is over
//!   who works   make room -----------------> turn: turns += 1, wake all
//! ```
//!
//! - **S1** What was done before a turn is seen by a look after the wait; a turn after the ticket was taken ends the wait. So
//!   with the ticket taken before the look no wake-up is lost.
//! - **S2** Nobody waits at a turnstile that is closed: nobody is there to turn it. Closing wakes all.

use super::{Bug, Condvar, Deadline, Mutex, Planted, Rank};
use std::time::Duration;

/// Where threads wait for another's progress. Closed at first.
#[derive(Debug)]
pub struct Turnstile {
    state: Mutex<State>,
    changed: Condvar,
    planted: Planted,
}

#[derive(Debug, Default)]
struct State {
    turns: u64,
    open: bool,
}

/// The number of turns at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Somebody got something done since the ticket was taken: look again.
    Turned,
    /// The time is over.
    TimedOut,
    /// Nobody is there who would turn it.
    Closed,
}

// === impl Turnstile ===

impl Turnstile {
    /// Closed.
    pub fn new(planted: Planted) -> Self {
        Turnstile { state: Mutex::new(Rank::Leaf, State::default()), changed: Condvar::new(), planted }
    }

    /// Somebody is there who turns it.
    pub fn open(&self) {
        self.state.lock().open = true;
    }

    /// Nobody is there any more.
    pub fn close(&self) {
        self.state.lock().open = false;
        self.changed.notify_all();
    }

    /// Take a ticket, *before* looking at what one would wait for. `None` if it is closed.
    ///
    /// # Locks
    /// A leaf, as all of these.
    pub fn ticket(&self) -> Option<Ticket> {
        let state = self.state.lock();
        state.open.then_some(Ticket(state.turns))
    }

    /// Something was got done.
    pub fn turn(&self) {
        self.state.lock().turns += 1;
        self.changed.notify_all();
    }

    /// Wait for a turn after that of the ticket, `at_most` this long.
    pub fn wait(&self, ticket: Ticket, at_most: Duration) -> Passed {
        let until = Deadline::after(at_most);
        let mut state = self.state.lock();
        let Ticket(seen) = if self.planted.is(Bug::TurnstileForgetsTicket) { Ticket(state.turns) } else { ticket };
        loop {
            if state.turns != seen {
                return Passed::Turned;
            }
            if !state.open {
                return Passed::Closed;
            }
            let left = until.left();
            if left.is_zero() {
                return Passed::TimedOut;
            }
            self.changed.wait_timeout(&mut state, left);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Arc, thread};
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    fn turnstile() -> Turnstile {
        let stile = Turnstile::new(Planted::NONE);
        stile.open();
        stile
    }

    #[test]
    fn a_turn_after_the_ticket_is_not_waited_for() {
        let stile = turnstile();
        let ticket = stile.ticket().unwrap();
        stile.turn();
        assert_eq!(stile.wait(ticket, LONG), Passed::Turned);
        let ticket = stile.ticket().unwrap();
        let began = Instant::now();
        assert_eq!(stile.wait(ticket, Duration::from_millis(5)), Passed::TimedOut);
        assert_eq!(stile.wait(ticket, Duration::ZERO), Passed::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn nobody_waits_where_nobody_is_there() {
        let stile = Arc::new(turnstile());
        let ticket = stile.ticket().unwrap();
        let other = Arc::clone(&stile);
        let closer = thread::spawn("closer", move || other.close()).unwrap();
        assert_eq!(stile.wait(ticket, LONG), Passed::Closed);
        assert_eq!(stile.ticket(), None);
        closer.join().unwrap();
    }
}
