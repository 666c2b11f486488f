//! [`Relief`]: memcgs above their marks are written down in the background, so that stores seldom meet a limit.
//!
//! ```text
//!   usage of a memcg            noted                          done
//!   limit  ---------------------------------------------------------
//!   mark   - - - - - - - - - - -/ - -\- - - - - - - - - - - - - - -     limit less a 64th, 256 KiB at most; or memory.high
//!                              /      \
//!   target - - - - - - - - - / - - - - \_ _ _ _ _ _ _ _/ _ _ _ _ _     as far below the mark as the mark below the limit
//! ```
//!
//! - **F1** It costs by the memcgs that were noted, whatever the size of the tree (`memcg/excess.rs`).
//! - **F2** Each gets a batch in turn, so that none waits for another's device time.
//! - **F3** One of which nothing can be written is left alone until the worker's next run, after as many failures as a
//!   reclaimer may have, however often it is noted meanwhile: the worker never spins.

use super::core::Core;
use super::turns::{Turn, Turns};
use super::walk::Budget;
use crate::memcg::{Counter, Memcg, MemcgEvent, MemcgId};
use std::collections::BTreeMap;

/// The most that a memcg is brought below its mark, as the mark lies below the limit.
const MOST_MARGIN: u64 = 256 << 10;

/// What is above its mark now.
#[derive(Default)]
pub(super) struct Relief {
    noted: BTreeMap<MemcgId, Noted>,
}

struct Noted {
    memcg: Memcg,
    counter: Counter,
    /// Bytes down to which it is brought.
    target: u64,
    failures: usize,
    /// Nothing more is tried in this run.
    hopeless: bool,
}

impl Relief {
    /// Take up those that were noted since the last call.
    pub(super) fn look(&mut self, core: &Core) {
        core.tree.on_excess().answer(core.planted, || {
            core.tree.take_excess(|memcg| {
                let known = self.noted.get(&memcg.id());
                if known.is_none_or(|known| !known.hopeless)
                    && let Some(noted) = Noted::new(memcg)
                {
                    // If it is being written down: there may be more to do than there was.
                    self.noted.insert(noted.memcg.id(), noted);
                }
            });
        });
    }

    /// Whether all is done that can be.
    pub(super) fn is_over(&self) -> bool {
        self.noted.values().all(|noted| noted.hopeless)
    }

    /// A batch of each. Payload bytes that were written.
    pub(super) fn turn(&mut self, core: &Core) -> u64 {
        let mut bytes = 0;
        self.noted.retain(|_, noted| noted.hopeless || noted.turn(core, &mut bytes));
        bytes
    }
}

impl Noted {
    fn new(memcg: Memcg) -> Option<Self> {
        let (counter, over) = memcg.excess()?;
        let mut limit = memcg.max(counter);
        if counter == Counter::Memory {
            limit = limit.min(memcg.high());
        }
        let now = memcg.current(counter);
        if counter == Counter::Memory && now > memcg.high() {
            memcg.note(MemcgEvent::High);
        }
        let target = now.saturating_sub(over + (limit / 64).min(MOST_MARGIN));
        Some(Noted { memcg, counter, target, failures: 0, hopeless: false })
    }

    /// A batch. Whether it is not yet where it should be.
    fn turn(&mut self, core: &Core, sum: &mut u64) -> bool {
        let over = self.memcg.current(self.counter).saturating_sub(self.target);
        if over == 0 {
            return false;
        }
        let budget = Budget { bytes: over, ..core.budget(core.policy.batch) };
        match Turns::of(core, &self.memcg).next(&budget) {
            Turn::Written(bytes) => {
                *sum += bytes;
                self.failures = 0;
            }
            Turn::NoneWritten => self.failures += 1,
            Turn::Refused(_) | Turn::Nothing(_) => self.hopeless = true,
        }
        self.hopeless |= self.failures >= core.policy.max_failures;
        true
    }
}
