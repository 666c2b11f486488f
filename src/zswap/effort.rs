//! [`Effort`]: how long a store that was refused goes on trying, and what it says when it gives up.
//!
//! ```text
//!   refused --> make room --> Made            try again
//!                             None(why)       a failure: 16 in a row are enough
//!                             Hopeless(why)   2 in a row are enough
//!                             Late            room was made for 100 ms, and others took it all: enough
//! ```

use super::core::Policy;
use super::error::Unwritable;
use crate::sync::thread::Backoff;
use crate::sync::{Deadline, Ticket};
use std::time::Duration;

/// What an attempt to make room came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Some, by us or by others: worth another look.
    Made,
    /// None, for this reason; another attempt may make some.
    None(Unwritable),
    /// None, for this reason: the device refused, or who tried longer than we would has given up.
    Hopeless(Unwritable),
    /// Others took what was made for as long as a store waits.
    Late,
}

/// A store gives up when there was no hope so often in a row. More than once, for what another thread's batch has set aside
/// may be free again; not as often as where entries were only busy, for each try writes a batch in vain.
const MAX_HOPELESS: usize = 2;

/// A store gives up after so many rounds even if each made room that others took: far more than are ever needed.
const MAX_TRIES: usize = 4096;

/// How long a store waits for others to make room, in all, and in the pool at a time.
const WAIT_IN_ALL: Duration = Duration::from_millis(100);
pub(super) const WAIT: Duration = Duration::from_millis(20);

/// And at least so often: where threads wait for a core for longer than that, time says little.
const FEWEST_WAITS: usize = 5;

/// Batches that it then writes itself before it gives up. Who waits is overtaken by those who need not be woken; what it has
/// made itself is there when it looks next.
const LAST_TRIES: usize = 4;

/// Whether a store that was refused should try again.
#[derive(Debug)]
pub(super) struct Effort {
    failures: usize,
    hopeless: usize,
    max_failures: usize,
    tries: usize,
    backoff: Backoff,
    why: Unwritable,
    /// From the moment before the last look at the pool.
    pub(super) ticket: Option<Ticket>,
    /// From the first wait on.
    deadline: Option<Deadline>,
    /// Waits, and tries after those.
    waits: usize,
    last_tries: usize,
}

impl Effort {
    pub(super) fn new(policy: &Policy) -> Self {
        Effort {
            failures: 0,
            hopeless: 0,
            max_failures: policy.max_failures,
            tries: 0,
            backoff: Backoff::new(),
            why: Unwritable::Slow,
            ticket: None,
            deadline: None,
            waits: 0,
            last_tries: 0,
        }
    }

    /// Note whether room was made; whether to go on.
    pub(super) fn goes_on(&mut self, room: Room) -> bool {
        self.tries += 1;
        match room {
            Room::Made => (self.failures, self.hopeless) = (0, 0),
            Room::None(why) | Room::Hopeless(why) => {
                self.failures += 1;
                self.hopeless += usize::from(matches!(room, Room::Hopeless(_)));
                self.why = why;
                self.backoff.wait();
            }
            Room::Late => {}
        }
        if matches!(room, Room::Made | Room::Late) {
            self.why = Unwritable::Slow;
        }
        let hope = self.failures < self.max_failures && self.hopeless < MAX_HOPELESS;
        hope && self.tries < MAX_TRIES && room != Room::Late
    }

    /// Why no room was made, when it does not go on.
    pub(super) fn why(&self) -> Unwritable {
        self.why
    }

    /// Whether it has waited long enough.
    pub(super) fn is_late(&self) -> bool {
        self.waits >= FEWEST_WAITS && self.deadline.is_some_and(|deadline| deadline.passed())
    }

    /// Whether one of the last tries is left, which is taken.
    pub(super) fn last_try(&mut self) -> bool {
        self.last_tries += 1;
        self.last_tries <= LAST_TRIES
    }

    /// Note that it waits for others once more.
    pub(super) fn wait(&mut self) {
        self.waits += 1;
        self.deadline.get_or_insert_with(|| Deadline::after(WAIT_IN_ALL));
    }

    /// Wait a moment for what is on its way to devices.
    pub(super) fn wait_for_writes(&mut self) {
        self.wait();
        self.backoff.wait_for_io();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::Zswap;
    use super::*;

    fn effort() -> Effort {
        let zswap = Zswap::builder().pool_limit(1 << 20).build().unwrap();
        assert_eq!(zswap.core.policy.max_failures, 16);
        Effort::new(&zswap.core.policy)
    }

    #[test]
    fn it_ends_with_sixteen_failures_or_two_without_hope_in_a_row() {
        let (busy, full) = (Room::None(Unwritable::Busy), Room::Hopeless(Unwritable::DeviceFull));
        let rounds = |one: Room| {
            let mut effort = effort();
            ((1..).find(|_| !effort.goes_on(one)).unwrap(), effort.why())
        };
        assert_eq!(rounds(busy), (16, Unwritable::Busy));
        assert_eq!(rounds(full), (2, Unwritable::DeviceFull));
        assert_eq!(rounds(Room::Late), (1, Unwritable::Slow));
        assert_eq!(rounds(Room::Made), (MAX_TRIES, Unwritable::Slow), "others take it each time");
        // What brings something begins both counts anew.
        let mut effort = effort();
        for _ in 0..3 {
            assert!((0..14).all(|_| effort.goes_on(busy)) && effort.goes_on(full));
            assert!(effort.goes_on(Room::Made));
        }
        assert!(effort.goes_on(full) && !effort.goes_on(full));
    }

    #[test]
    fn it_waits_five_times_and_for_a_tenth_of_a_second_at_least() {
        let mut effort = effort();
        let began = std::time::Instant::now();
        assert!(!effort.is_late(), "it has not waited");
        for _ in 1..FEWEST_WAITS {
            effort.wait();
        }
        while began.elapsed() < WAIT_IN_ALL + Duration::from_millis(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!effort.is_late(), "four waits are too few, however long");
        effort.wait();
        assert!(effort.is_late());
        let mut quick = super::tests::effort();
        let began = std::time::Instant::now();
        (0..FEWEST_WAITS).for_each(|_| quick.wait());
        assert!(!quick.is_late() || began.elapsed() >= WAIT_IN_ALL, "five waits that took no time");
        let tries: Vec<bool> = (0..6).map(|_| quick.last_try()).collect();
        assert_eq!(tries, [true, true, true, true, false, false]);
    }
}
