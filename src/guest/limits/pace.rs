//! [`Pace`]: how much is taken from each VM, so that those whose memory is cold give most.
//!
//! ```text
//!   taken   128 pages ----+          cold = 1 - back / taken, both of the last few hundred pages (halved each 512 taken)
//!   back     96 of them --+--> cold = 1/4     weight = max(cold, 1/16)^3 * share of the memory       = 1/64 * ...
//!
//!   finish   pages / weight is added for what was taken: whoever has the smallest goes next
//! ```
//!
//! What comes back is what would still be there if the VM had all the memory of those that it was taken with: measured by what it has itself, one that
//! came late has so little that nothing ever comes back, and gives it all.
//!
//! It is stride scheduling (Waldspurger and Weihl, 1995) with weights that are measured: an idle VM's pages stay away, so its weight
//! is 1 and it is asked again and again; a busy one's come back, so it is asked seldom, and only to see whether it still is.
//!
//! The numbers steer and decide no more than whose turn it is: they are read and written without order.

use super::policy::Back;
use crate::sync::Tally;

/// Taken pages after which both counts are halved: what was long ago counts little.
const MEMORY: u64 = 512;

/// The least share of cold pages that is assumed: a VM is never left alone for ever.
const LEAST_COLD: u64 = 16;

/// What finishes count in: pages times this over the weight.
const SCALE: u64 = 1 << 12;

/// One VM's.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    taken: Tally,
    back: Tally,
    finish: Tally,
    /// What it and those it was taken with have in memory.
    all: Tally,
}

impl Pace {
    /// Pages were staged, `pages` of them, of a VM that has `resident`; `others` is what all VMs together have.
    pub(super) fn took(&self, pages: u64, resident: u64, all: u64) {
        if self.taken.add(pages) + pages > MEMORY {
            self.taken.set(self.taken.get() / 2);
            self.back.set(self.back.get() / 2);
        }
        self.pass(pages, resident, all);
    }

    /// Its turn is over, and cost as much as `pages`.
    pub(super) fn pass(&self, pages: u64, resident: u64, all: u64) {
        self.all.set(all);
        let share = (resident.max(1) * SCALE / all.max(1)).clamp(1, SCALE); // of SCALE
        let cold = self.cold();
        let weight = (cold * cold * cold / (LEAST_COLD * LEAST_COLD) * share / LEAST_COLD).max(1);
        self.finish.add(pages.max(1) * SCALE * SCALE / weight);
    }

    /// A page came back.
    pub(super) fn came_back(&self, back: &Back) {
        if back.is_soon(self.all.get()) {
            self.back.add(1);
        }
    }

    /// How cold what was taken was, 1 to [`LEAST_COLD`] sixteenths.
    pub(super) fn cold(&self) -> u64 {
        let (taken, back) = (self.taken.get(), self.back.get());
        if taken < 64 {
            return LEAST_COLD; // nothing is known
        }
        (LEAST_COLD * taken.saturating_sub(back) / taken).clamp(1, LEAST_COLD)
    }

    /// Who has the smallest goes next.
    pub(super) fn finish(&self) -> u64 {
        self.finish.get()
    }

    /// It joins, or was left out for a while: it cannot claim what it did not take meanwhile.
    pub(super) fn catch_up(&self, finish: u64) {
        self.finish.raise(finish);
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::CameFrom;
    use super::*;

    /// Take 64 pages a turn from whoever goes next; of those of VM k, `back[k]` come back.
    fn taken(back: [u64; 3], turns: usize) -> [u64; 3] {
        let paces: [Pace; 3] = Default::default();
        let mut taken = [0; 3];
        for _ in 0..turns {
            let next = (0..3).min_by_key(|&vm| paces[vm].finish()).unwrap();
            paces[next].took(64, 1000, 3000);
            let back_soon = Back { from: CameFrom::Staged, distance: None, resident: 1000 };
            (0..back[next]).for_each(|_| paces[next].came_back(&back_soon));
            taken[next] += 64 - back[next];
        }
        taken
    }

    #[test]
    fn equals_give_the_same_and_the_idle_gives_most() {
        let even = taken([8; 3], 300);
        assert!(even.iter().max().unwrap() - even.iter().min().unwrap() <= 64, "{even:?}");
        let [idle, busy, busier] = taken([0, 32, 60], 300);
        assert!(idle > 5 * (busy + busier) && busy > busier && busier > 0, "{idle} {busy} {busier}");
    }

    #[test]
    fn a_larger_vm_gives_more() {
        let [large, small] = [Pace::default(), Pace::default()];
        let mut taken = [0, 0];
        for _ in 0..200 {
            let next = usize::from(large.finish() > small.finish());
            [&large, &small][next].took(64, [3000, 1000][next], 4000);
            taken[next] += 1;
        }
        assert!((145..=155).contains(&taken[0]), "{taken:?}");
    }

    #[test]
    fn who_joins_late_takes_no_arrears() {
        let [old, new] = [Pace::default(), Pace::default()];
        (0..1000).for_each(|_| old.took(64, 1, 2));
        new.catch_up(old.finish());
        assert_eq!(new.finish(), old.finish());
    }
}
