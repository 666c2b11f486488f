//! [`Excess`]: memcgs above their marks are written down in the background, so that stores seldom meet a limit.
//!
//! ```text
//!   compressed bytes            noted                          done
//!   limit  ---------------------------------------------------------
//!   mark   - - - - - - - - - - -/ - -\- - - - - - - - - - - - - - -     limit less a 64th, 256 KiB at most; or memory.high
//!                              /      \
//!   target - - - - - - - - - / - - - - \_ _ _ _ _ _ _ _/ _ _ _ _ _     as far below the mark as the mark below the limit
//! ```
//!
//! - **F1** It costs by the memcgs that were noted, whatever the size of the tree (`memcg/excess.rs`).
//! - **F2** Each gets a batch in turn, so that none waits for another's device time.
//! - **F3** One of which nothing can be written is left alone after as many failures as a reclaimer may have, however often it
//!   is noted meanwhile, until the worker is kicked again for such as it: the worker never spins, and forgets nobody.
//! - **F4** It is about compressed bytes alone, also where the limit is `memory.max` or `memory.high`: a memcg that is full of
//!   resident pages is brought down by who charges those, pages first. Compressed bytes written for them would all go, whenever
//!   resident pages stay near the limit, and that is where they are.

use super::core::Core;
use super::turns::{Turn, Turns};
use super::walk::Budget;
use crate::memcg::{Counter, Memcg, MemcgEvent, MemcgId};
use std::collections::BTreeMap;

/// The most that a memcg is brought below its mark, as the mark lies below the limit.
const MOST_MARGIN: u64 = 256 << 10;

/// What is above its mark now.
#[derive(Default)]
pub(super) struct Excess {
    /// By id, for a handle would keep a removed memcg's memory until the worker's next run.
    noted: BTreeMap<MemcgId, Noted>,
}

struct Noted {
    /// Compressed bytes down to which it is brought.
    target: u64,
    failures: usize,
    /// Nothing more is tried in this run.
    hopeless: bool,
    /// It is above its `memory.high`, and nothing was written for that yet.
    high: bool,
}

impl Excess {
    /// Take up those that were noted since the last call.
    pub(super) fn look(&mut self, core: &Core) {
        core.tree.on_excess().answer(core.planted, || {
            core.tree.take_excess(|memcg| {
                let known = self.noted.get(&memcg.id());
                if known.is_none_or(|known| !known.hopeless)
                    && let Some(noted) = Noted::new(&memcg)
                {
                    // If it is being written down: there may be more to do than there was.
                    self.noted.insert(memcg.id(), noted);
                }
            });
        });
    }

    /// Try again those of which nothing could be written.
    pub(super) fn retry(&mut self, core: &Core) {
        self.noted.retain(|&id, noted| {
            let still = core.tree.find(id).and_then(|memcg| Noted::new(&memcg));
            still.map(|still| *noted = still).is_some()
        });
    }

    /// Whether all is done that can be.
    pub(super) fn is_over(&self) -> bool {
        self.noted.values().all(|noted| noted.hopeless)
    }

    /// A batch of each. Payload bytes that were written.
    pub(super) fn turn(&mut self, core: &Core) -> u64 {
        let mut bytes = 0;
        self.noted.retain(|&id, noted| {
            noted.hopeless || core.tree.find(id).is_some_and(|memcg| noted.turn(core, &memcg, &mut bytes))
        });
        bytes
    }
}

impl Noted {
    fn new(memcg: &Memcg) -> Option<Self> {
        memcg.excess()?;
        let (high, now) = (memcg.high(), memcg.current(Counter::Zswap));
        let [zswap, memory] = [Counter::Zswap, Counter::Memory].map(|counter| below(memcg.max(counter)));
        let mark = zswap.min(memory).min(high);
        // F4
        (now > mark).then(|| Noted { target: below(mark), failures: 0, hopeless: false, high: now > high })
    }

    /// A batch. Whether it is not yet where it should be.
    fn turn(&mut self, core: &Core, memcg: &Memcg, sum: &mut u64) -> bool {
        let over = memcg.current(Counter::Zswap).saturating_sub(self.target);
        if over == 0 {
            return false;
        }
        let budget = Budget { bytes: over, ..core.budget(core.policy.batch) };
        match Turns::of(core, memcg).insist(&budget, &mut self.failures, core.policy.max_failures) {
            Turn::Written(bytes) => {
                if std::mem::take(&mut self.high) {
                    memcg.note(MemcgEvent::High);
                }
                *sum += bytes;
            }
            Turn::NoneWritten(_) => {}
            Turn::Refused(_) | Turn::Nothing(_) => self.hopeless = true,
        }
        self.hopeless |= self.failures >= core.policy.max_failures;
        true
    }
}

/// A margin below a limit, or below a mark.
fn below(limit: u64) -> u64 {
    limit - (limit / 64).min(MOST_MARGIN)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_a_64th_and_bounded() {
        assert_eq!([0, 63, 64, 6400].map(below), [0, 63, 63, 6300]);
        assert_eq!(below(MOST_MARGIN * 64), MOST_MARGIN * 63);
        assert_eq!(below(u64::MAX), u64::MAX - MOST_MARGIN);
    }
}
