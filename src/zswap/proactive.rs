//! Reclaim by request: what the memcg tree calls when somebody writes to `memory.reclaim`, charges at a limit, or sets nodes.
//!
//! ```text
//!   "10M source=zswap" --> Reclaimer::reclaim     a batch of the memcg whose turn it is, another one, ...
//!                            until  so many payload bytes were written, to the entry       Met
//!                                   16 batches in a row of which nothing was, nor when all was
//!                                   looked at twice; or the device refused                 Exhausted
//!                                   a whole round without an entry to look at              NothingToScan
//!                                   it was cancelled, asked before every batch (the look
//!                                   at all is part of the sixteenth)                       Cancelled
//! ```
//!
//! - **A1** Only the memcg and its online descendants are touched, in the turns of the memcg's own cursor: many small requests
//!   are as fair as a large one.
//! - **A2** What was asked for by name counts as `zswpwb_proactive_b` for each memcg that was written; ordinary reclaim does
//!   not.

use super::Error;
use super::core::Core;
use super::turns::{Turn, Turns};
use super::walk::Budget;
use crate::memcg::{Ask, End, Memcg, Mover, Reclaimed, Reclaimer, Registration, Source, To, Unmoved};
use crate::sync::Arc;
use crate::units::TierMask;
use std::time::Duration;

/// Serves requests of the tree, as long as it is registered.
struct Server(Arc<Core>);

/// Have the tree's requests served. To be dropped before the core: the tree would keep it alive.
pub(super) fn register(core: &Arc<Core>) -> [Registration; 2] {
    let server = || Box::new(Server(Arc::clone(core)));
    [core.tree.register(server()), core.tree.register_mover(server())]
}

impl Reclaimer for Server {
    fn source(&self) -> Source {
        Source::ZSWAP
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        self.0.reclaim(memcg, ask)
    }
}

impl Mover for Server {
    fn move_home(&self, memcg: &Memcg) -> Result<(), Unmoved> {
        match self.0.leave_nodes(memcg) {
            Err(Error::Busy { left_bytes, why, .. }) => Err(Unmoved { bytes: left_bytes, why }),
            done => {
                debug_assert!(done.is_ok(), "moving fails for what is left only");
                Ok(())
            }
        }
    }
}

impl Core {
    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        let stop = || ask.cancel.is_cancelled();
        let tiers = match ask.to {
            // What lies on a device has no age.
            Some(To { from_pool: false, .. }) if ask.age.is_some() => {
                return Reclaimed { bytes: 0, end: End::NothingToScan };
            }
            Some(To { tier, from_pool: false }) => return self.demote(memcg, tier, ask.bytes, &stop).into(),
            Some(To { tier, from_pool: true }) => TierMask::only(tier),
            None => TierMask::ALL,
        };
        self.write_to(memcg, ask.bytes, ask.age, ask.proactive, tiers, &stop)
    }

    /// Write so many payload bytes of what is in the pool to devices of these tiers.
    pub(super) fn write_to(
        &self,
        memcg: &Memcg,
        most_bytes: u64,
        age: Option<Duration>,
        proactive: bool,
        tiers: TierMask,
        stop: &dyn Fn() -> bool,
    ) -> Reclaimed {
        let mut turns = Turns::of(self, memcg);
        let (mut bytes, mut failures) = (0, 0);
        let end = loop {
            if bytes >= most_bytes {
                break End::Met;
            }
            if stop() {
                break End::Cancelled;
            }
            let whole = self.budget(self.policy.batch);
            let budget = Budget { bytes: most_bytes - bytes, age, proactive, tiers, ..whole };
            match turns.insist(&budget, &mut failures, self.policy.max_failures) {
                Turn::Written(some) => bytes += some,
                Turn::NoneWritten(_) if failures < self.policy.max_failures => {}
                Turn::NoneWritten(_) | Turn::Refused(_) => break End::Exhausted,
                Turn::Nothing(_) => break End::NothingToScan,
            }
        };
        if bytes > 0 {
            self.progressed();
        }
        Reclaimed { bytes, end }
    }
}
