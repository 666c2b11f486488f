//! Which pages go: a trait, and the policies there are.
//!
//! ```text
//!   hand ---v                                                the hand goes round all pages of all regions of a VM
//!   words   . R R r R . b R R R R R R P . .                  R takeable   r came back from staging: passed by once
//!               ~~~     ~~~~~~~~~~~~~                        b banned     P pinned   . not in memory
//!               run        run of up to 64 -> staged
//! ```
//!
//! | policy | chooses |
//! |---|---|
//! | [`StagedFifo`] | the next under the hand; what comes back from staging has a second chance, what came back soon from its slot is left alone for 1 to 3 passes |
//! | [`PlainFifo`] | the next under the hand, whatever came back |
//! | [`Random`] | anything: the floor that others are compared with |
//! | [`WrittenAges`] | the next under the hand that was not written of late, where the kernel tells that (WP_ASYNC) |
//!
//! Callers: `limits::Limits`, with no lock held, also in faults: a policy neither allocates nor locks.

mod fifo;
mod random;
mod view;
mod written;

#[cfg(all(test, not(loom)))]
mod simulation;

pub use super::account::CameFrom;
pub use fifo::{PlainFifo, StagedFifo};
pub use random::Random;
pub use view::{Look, View};
pub use written::WrittenAges;

/// Decides which pages of a VM go, and what becomes of those that come back.
pub trait Policy: Send + Sync {
    /// What it is called in statistics.
    fn name(&self) -> &'static str;

    /// Take pages out of a region, from where the hand is to the region's end, until the view wants no more. Called again for the next
    /// region, and after all of them again from the first, a few times, as long as a pass changes something.
    fn victims(&self, view: &mut View<'_>);

    /// A page was touched that had left.
    fn on_back(&self, back: &Back) -> Treatment {
        back.rest()
    }

    /// Now and then, on a thread of the engine's, with the hand at the region's beginning: look at what was written.
    fn on_scan(&self, view: &mut View<'_>) {
        let _ = view;
    }
}

/// A page was touched that had left.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Back {
    /// Where it was.
    pub from: CameFrom,
    /// Pages of its VM that have left since it did, a few percent inexact; `None`: it left longer ago than is remembered.
    pub distance: Option<u64>,
    /// Pages that its VM has in memory.
    pub resident: u64,
}

/// How a page is treated that came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// It is hot: the hand passes it by once.
    pub referenced: bool,
    /// So many passes of the hand leave it alone, 0 to 3.
    pub ban: u8,
}

impl Back {
    /// Whether it came back so soon that it would still be there if the VM had so much more memory, in pages.
    pub fn is_soon(&self, more: u64) -> bool {
        self.from == CameFrom::Staged || self.distance.is_some_and(|distance| distance <= more)
    }

    /// The rule of the built-in policies: what comes back from staging has a second chance; what comes back from its slot is left alone
    /// for three passes, two or one, if no more pages left meanwhile than an eighth of those in memory, a quarter or half of them. (Twice
    /// and half as much, and so on, were worse on the traces of docs/benchmarks.md: too many bans spend each other.)
    pub fn rest(&self) -> Treatment {
        let ban = match (self.from, self.distance) {
            (CameFrom::Stored, Some(distance)) if distance <= self.resident / 8 => 3,
            (CameFrom::Stored, Some(distance)) if distance <= self.resident / 4 => 2,
            (CameFrom::Stored, Some(distance)) if distance <= self.resident / 2 => 1,
            _ => 0,
        };
        Treatment { referenced: self.from == CameFrom::Staged, ban }
    }
}
