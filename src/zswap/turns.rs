//! [`Turns`]: memcgs are walked in turn, so that each gives an equal share.
//!
//! ```text
//!   roster   3          5            9          12                    (ids; cursor: 5, 24 of 64 used)
//!            |          |            |          |
//!   next:    .    40 more of 5 --> 64 of 9 --> nothing in 12: passed by --> 64 of 3 --> ...
//! ```
//!
//! - **N1** A turn is a batch of entries, whatever the budgets of the walkers that share it (`memcg/cursor.rs`).
//! - **N2** A memcg that had nothing to look at is neither an attempt nor a failure; a whole round of such memcgs is one (T1.8).
//! - **N3** Nothing outside the memcg that is walked is touched.

use super::core::Core;
use super::effort::Room;
use super::error::Unwritable;
use super::walk::{Budget, Walk};
use crate::memcg::{Claim, Cursor, Memcg, Rounds};

/// A walk over a memcg and those below it, for as long as one caller needs.
pub(super) struct Turns<'a> {
    core: &'a Core,
    scope: &'a Memcg,
    /// `None`: the memcg's own, for what is asked for this memcg.
    cursor: Option<&'a Cursor>,
    rounds: Rounds,
    /// Rounds that are over.
    laps: usize,
    /// Somebody had something to look at in the round under way.
    candidates: bool,
    /// Why nobody had.
    why: Unwritable,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// So many payload bytes were written.
    Written(u64),
    /// Everything that was looked at was referenced or in flight, and another look may find some; or its memcg may have no
    /// place on a device.
    NoneWritten(Unwritable),
    /// The device had no room or failed: no other batch will do better now.
    Refused(Unwritable),
    /// There is nothing to look at, for this reason.
    Nothing(Unwritable),
}

impl From<Turn> for Room {
    fn from(turn: Turn) -> Self {
        match turn {
            Turn::Written(_) => Room::Made,
            Turn::Refused(why) => Room::Hopeless(why),
            Turn::NoneWritten(why) | Turn::Nothing(why) => Room::None(why),
        }
    }
}

impl<'a> Turns<'a> {
    /// In the turns of the memcg's own cursor.
    pub(super) fn of(core: &'a Core, scope: &'a Memcg) -> Self {
        Self::new(core, scope, None)
    }

    /// In the turns of this cursor, which is for this memcg only.
    pub(super) fn with(core: &'a Core, scope: &'a Memcg, cursor: &'a Cursor) -> Self {
        Self::new(core, scope, Some(cursor))
    }

    fn new(core: &'a Core, scope: &'a Memcg, cursor: Option<&'a Cursor>) -> Self {
        let why = Unwritable::NothingThere;
        Turns { core, scope, cursor, rounds: Rounds::new(), laps: 0, candidates: false, why }
    }

    /// Walk the memcg whose turn it is, as far as its share and the budget go, and pass those by that have nothing.
    pub(super) fn next(&mut self, budget: &Budget) -> Turn {
        self.walk(budget.entries, |entries| Budget { entries, ..*budget })
    }

    /// The same until something is written, with budgets that are not bound by shares: twice round everything, for
    /// what was referenced is passed over once. Entries of the budget do not count.
    pub(super) fn search(&mut self, budget: &Budget) -> Turn {
        let budget = Budget { entries: usize::MAX, until_written: true, ..*budget };
        // The round under way began somewhere: two whole ones are over after the third beginning.
        let end = self.laps + 3;
        loop {
            match self.walk(usize::MAX, |_| budget) {
                Turn::NoneWritten(_) if self.laps < end => {}
                turn => return turn,
            }
        }
    }

    fn walk(&mut self, want: usize, budget: impl Fn(usize) -> Budget) -> Turn {
        if self.core.area.is_none() {
            return Turn::Nothing(Unwritable::NoDevice);
        }
        let quantum = self.core.policy.batch;
        loop {
            let claim = match self.cursor {
                Some(cursor) => cursor.claim(self.scope, quantum, want),
                None => self.scope.claim(quantum, want),
            };
            let Some(claim) = claim else { return Turn::Nothing(self.why) };
            if self.rounds.over(&claim) {
                self.laps += 1;
                if !std::mem::take(&mut self.candidates) {
                    claim.finish(0);
                    return Turn::Nothing(self.why);
                }
                self.why = Unwritable::NothingThere;
            }
            let walk = self.core.walk(claim.memcg(), &budget(claim.entries()));
            if walk.scanned == 0 {
                self.pass_by(claim);
                continue;
            }
            match walk.at_limit && walk.bytes == 0 {
                true => claim.skip(), // the next entry of this memcg would be refused a place like this one
                false => claim.finish(walk.scanned),
            }
            self.candidates = true;
            return match walk {
                Walk { bytes: bytes @ 1.., .. } => Turn::Written(bytes),
                Walk { refused: true, .. } => Turn::Refused(self.core.trouble()),
                Walk { at_limit: true, .. } => Turn::NoneWritten(Unwritable::SwapMax),
                _ => Turn::NoneWritten(Unwritable::Busy),
            };
        }
    }

    fn pass_by(&mut self, claim: Claim<'_>) {
        let memcg = claim.memcg();
        // Off the roster, if it has no entries.
        memcg.delist_with(|listing| self.core.lru.if_empty(memcg.group(), || listing.clear()));
        if memcg.is_listed() && !memcg.writeback() {
            self.why = Unwritable::Disabled;
        }
        claim.skip();
    }
}
