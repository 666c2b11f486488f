//! [`Turns`]: memcgs are walked in turn, so that each gives an equal share.
//!
//! ```text
//!   roster   3          5            9          12                    (ids; cursor: 5, 24 of 64 used)
//!            |          |            |          |
//!   next:    .    40 more of 5 --> 64 of 9 --> nothing in 12: passed by --> 64 of 3 --> ...
//! ```
//!
//! - **N1** A turn is a batch of entries, whatever the budgets of the walkers that share it (`memcg/cursor.rs`).
//! - **N2** A memcg that had nothing to look at is neither an attempt nor a failure; a whole round of such memcgs is one.
//! - **N3** Nothing outside the memcg that is walked is touched.
//! - **N4** What stops all of them is found at the first: no device, writeback forbidden for the whole scope, a `memory.swap.max`
//!   at or above it. A store at such a limit does not pay for the size of the tree.
//! - **N5** A walk that ended early, for it had seen all there is or was stopped, ends the turn, and what is left of its share is
//!   lost: a memcg of one entry that cannot go would otherwise be walked 64 times in a row, and who asks give up on all others.

use super::core::Core;
use super::effort::Room;
use super::error::Unwritable;
use super::walk::{Budget, Walk};
use crate::memcg::{Claim, Cursor, Memcg, MemcgId, Rounds};
use crate::units::TierMask;

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
    /// A `memory.swap.max` admits no places for any memcg of the scope.
    full: bool,
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
            // What somebody would have to set up, no second look finds.
            Turn::Refused(why) | Turn::Nothing(why @ (Unwritable::NoDevice | Unwritable::Disabled)) => {
                Room::Hopeless(why)
            }
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
        Turns { core, scope, cursor, rounds: Rounds::new(), laps: 0, candidates: false, why, full: false }
    }

    /// Walk the memcg whose turn it is, as far as its share and the budget go, and pass those by that have nothing.
    pub(super) fn next(&mut self, budget: &Budget) -> Turn {
        self.walk(budget.entries, |entries| Budget { entries, ..*budget })
    }

    /// [`next`](Self::next), which counts the failures in a row. At the `most`th, everything is looked at twice before it is said to be in
    /// vain: where all was loaded lately, batches alone would take second chances away and write nothing.
    pub(super) fn insist(&mut self, budget: &Budget, failures: &mut usize, most: usize) -> Turn {
        let mut turn = self.next(budget);
        if let Turn::NoneWritten(_) = turn {
            *failures += 1;
            if *failures == most && !self.full {
                turn = self.search(budget);
            }
        }
        if let Turn::Written(_) = turn {
            *failures = 0;
        }
        turn
    }

    /// [`next`](Self::next) until something is written, with budgets that are not bound by shares: twice round everything, for
    /// what was referenced is passed over once. Entries of the budget do not count.
    pub(super) fn search(&mut self, budget: &Budget) -> Turn {
        let budget = Budget { entries: usize::MAX, until_written: true, ..*budget };
        // The round under way began somewhere: two whole ones are over after the third beginning.
        let end = self.laps + 3;
        loop {
            match self.walk(usize::MAX, |_| budget) {
                Turn::NoneWritten(_) if self.laps < end && !self.full => {}
                turn => return turn,
            }
        }
    }

    fn walk(&mut self, want: usize, budget: impl Fn(usize) -> Budget) -> Turn {
        if self.core.devices.is_empty() {
            return Turn::Nothing(Unwritable::NoDevice);
        }
        if !self.scope.writeback() {
            return Turn::Nothing(Unwritable::Disabled); // nor does anybody below it allow it
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
            let budget = budget(claim.entries());
            let walk = self.core.walk(claim.memcg(), &budget);
            let restricted = claim.memcg().tiers() != TierMask::ALL;
            if walk.scanned == 0 {
                self.pass_by(claim);
                continue;
            }
            let met = walk.bytes >= budget.bytes || budget.until_written && walk.bytes > 0;
            // The next entry of this memcg would be refused a place like this one.
            let refused = walk.at_limit.is_some() && walk.bytes == 0;
            if !refused && (met || walk.scanned >= claim.entries()) {
                claim.finish(walk.scanned);
            } else {
                claim.skip(); // N5
            }
            self.candidates = true;
            return match walk {
                Walk { bytes: bytes @ 1.., .. } => Turn::Written(bytes),
                Walk { refused: true, .. } => Turn::Refused(self.core.trouble()),
                Walk { at_limit: Some(whose), .. } => {
                    self.full = is_at_or_below(self.scope, whose);
                    Turn::NoneWritten(match self.core.trouble() {
                        why @ (Unwritable::DeviceFull | Unwritable::Shut) if restricted => why,
                        _ => Unwritable::SwapMax,
                    })
                }
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
        } else if memcg.is_listed() && !self.core.has_tier(memcg) {
            self.why = Unwritable::Shut;
        }
        claim.skip();
    }
}

fn is_at_or_below(memcg: &Memcg, id: MemcgId) -> bool {
    std::iter::successors(Some(memcg.clone()), Memcg::parent).any(|above| above.id() == id)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memcg::Counter;
    use crate::swap::MemoryDevice;
    use crate::units::{NodeId, Page};
    use crate::zswap::{Error, Zswap};

    /// A tenant with 200 memcgs of a page each.
    fn tenant() -> (Zswap, Memcg) {
        let builder = Zswap::builder().address_space(1 << 26).slots_in_use(1 << 12).worker(false);
        let zswap = builder.device(MemoryDevice::new(4 << 20, 4096)).build().unwrap();
        let tenant = zswap.root().mkdir("tenant").unwrap();
        for (k, slot) in zswap.reserve(200).unwrap().iter().enumerate() {
            store(&zswap, slot, &tenant.mkdir(&k.to_string()).unwrap(), k as u64).unwrap();
        }
        (zswap, tenant)
    }

    fn store(zswap: &Zswap, slot: crate::units::Slot, memcg: &Memcg, k: u64) -> Result<(), Error> {
        let mut page = Page::zeroed();
        page[..8].copy_from_slice(&(k + 1).to_ne_bytes());
        page[100] = 1;
        zswap.store(slot, memcg, NodeId(0), &page).map(drop)
    }

    #[test]
    fn a_store_that_a_swap_limit_keeps_out_does_not_look_at_every_memcg() {
        let (zswap, tenant) = tenant();
        zswap.set_zswap_max(&tenant, tenant.usage()).unwrap();
        let slots = zswap.reserve(2).unwrap();
        let some = tenant.children().remove(7);
        for (k, full) in [tenant.clone(), zswap.root().mkdir("other").unwrap(), some.clone()].iter().enumerate() {
            full.set_max(Counter::Swap, 0).unwrap();
            let before = zswap.stats().shrinks;
            let stored = store(&zswap, slots.get(k as u64 % 2).unwrap(), &some, 1000);
            let walks = zswap.stats().shrinks - before;
            match (k, stored) {
                (0, Err(Error::Limit { reason: Unwritable::SwapMax, .. })) => assert!(walks <= 40, "{walks}"),
                (1.., Ok(())) => assert!(walks < 4, "others have room: {walks}"),
                (_, other) => panic!("{k}: {other:?}"),
            }
            full.set_max(Counter::Swap, u64::MAX).unwrap();
        }
        zswap.assert_valid();
    }

    #[test]
    fn where_writeback_is_forbidden_for_all_nobody_is_asked() {
        let (zswap, tenant) = tenant();
        let cursor = Cursor::new();
        let mut turns = Turns::with(&zswap.core, &tenant, &cursor);
        tenant.set_writeback(false).unwrap();
        assert_eq!(turns.next(&zswap.core.budget(1)), Turn::Nothing(Unwritable::Disabled));
        tenant.set_writeback(true).unwrap();
        let first = tenant.children()[0].id();
        let claim = cursor.claim(&tenant, 64, 1).unwrap();
        assert_eq!((claim.memcg().id(), claim.began()), (first, true), "the cursor was not moved");
    }
}
