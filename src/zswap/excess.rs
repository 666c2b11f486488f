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
                match (self.noted.get_mut(&memcg.id()), Noted::new(&memcg)) {
                    // It is being written down: there may be more to do than there was. Its failures are what they were: F3.
                    (Some(known), Some(noted)) => known.target = known.target.min(noted.target),
                    (None, Some(noted)) => drop(self.noted.insert(memcg.id(), noted)),
                    (_, None) => {}
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
    use crate::swap::MemoryDevice;
    use crate::units::{NodeId, Page};
    use crate::zswap::Zswap;

    #[test]
    fn a_margin_is_a_64th_and_bounded() {
        assert_eq!([0, 63, 64, 6400].map(below), [0, 63, 63, 6300]);
        assert_eq!(below(MOST_MARGIN * 64), MOST_MARGIN * 63);
        assert_eq!(below(u64::MAX), u64::MAX - MOST_MARGIN);
    }

    #[test]
    fn a_memcg_of_which_nothing_can_be_written_is_left_alone_however_often_it_is_noted() {
        let builder = Zswap::builder().address_space(1 << 28).slots_in_use(1 << 14).pool_limit(64 << 20).worker(false);
        let zswap = builder.device(MemoryDevice::new(4 << 20, 4096)).build().unwrap();
        let core = &zswap.core;
        assert!(core.tree.on_excess().attend());
        let vm = zswap.root().mkdir("vm").unwrap();
        vm.set_zswap_max(1 << 20).unwrap();
        vm.set_max(Counter::Swap, 0).unwrap();
        let slots = zswap.reserve(8192).unwrap();
        let mut page = Page::zeroed();
        let mut store = |k: u64| {
            let mut random = k;
            for byte in &mut page[..1000] {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte = (random >> 56) as u8;
            }
            zswap.store(slots.get(k).unwrap(), &vm, NodeId(0), &page).unwrap();
        };
        let first_above = (0..8000).find(|&k| {
            store(k);
            vm.excess().is_some()
        });
        let mut excess = Excess::default();
        excess.look(core);
        let mut turns = 0;
        while !excess.is_over() {
            let _ = excess.turn(core);
            store(first_above.unwrap()); // it is noted anew
            excess.look(core);
            turns += 1;
            assert!(turns <= core.policy.max_failures, "it is walked again and again");
        }
        core.tree.on_excess().leave();
    }
}
