//! [`Sampler`]: memory known not to shrink is sampled, not compressed in vain.
//!
//! ```text
//!   slot     | cluster: 2 MiB of a guest         | offset |
//!                  | hash
//!   cells    | tag 8 | state 8 |   4096 of them, 8 KiB in all
//!
//!   state    0 ......... after - 1     so many pages in a row did not shrink: the next goes to the codec
//!            after + phase             `phase` pages were stored raw unseen since the last that was tried;
//!                                      after `every - 1` of them the next goes to the codec
//!   shrank: state 0                    did not: one more, up to `after`
//! ```
//!
//! - **A1** A cell is a hint. What a page was stored as is recorded in its entry (length 4096 and codec 0 are raw), so a load
//!   asks nothing here, and the policy may change between store and load (R-29).
//! - **A2** A page that was not given to the codec is refused by no limit: it is compressed after all, and asked for again.
//! - **A3** Two clusters in one cell forget each other (the tag differs) and do not mislead, but for one pair in 256.
//!
//! Same-filled pages neither count nor reset: a page of zeroes among noise says nothing of its neighbours.

use super::Error;
use super::core::{Core, Zswap};
use super::payload::Payload;
use super::store::{Admission, Payer, Stored};
use crate::sync::atomic::{AtomicU16, Ordering};
use crate::sync::{CLUSTER_SLOTS, SAMPLED_CLUSTERS, Table, Tally};
use crate::units::{NodeId, PAGE_SIZE, Slot};
use std::io;

/// When pages are stored raw without asking the codec, and how often it is asked all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Pages of a cluster that have to be found incompressible in a row, at least 1.
    pub after: u8,
    /// From then on one page in so many goes to the codec, at least 2.
    pub every: u8,
}

/// Measured (bench `admission`, LZ4): where noise and other pages take turns or mix by chance, 8 in a row come often enough to
/// lose 1% of the bytes that are stored, 16 lose a tenth of that; where noise lies in regions, one page in 16 costs fewer
/// compressions in vain than one in 8 after 8. A compression in vain takes 0.8 us, a fifth of one that is not: sampling
/// saves a fifth of the time to store noise.
impl Default for Sampling {
    fn default() -> Self {
        Sampling { after: 16, every: 16 }
    }
}

impl Sampling {
    /// # Panics
    /// When its numbers make no sense.
    pub(super) fn check(self) {
        let Sampling { after, every } = self;
        assert!(after > 0, "sampling begins after one page in vain at least: one is how it learns");
        assert!(every > 1, "one page in `every` is compressed: from 2 on that leaves any out");
        assert!(
            after.checked_add(every).is_some(),
            "`after` and `every` are counted in one byte: at most 255 together"
        );
    }

    fn bits(this: Option<Self>) -> u16 {
        let Some(sampling) = this else { return 0 };
        sampling.check();
        let Sampling { after, every } = sampling;
        u16::from(after) << 8 | u16::from(every)
    }

    fn from_bits(bits: u16) -> Option<Self> {
        (bits != 0).then_some(Sampling { after: (bits >> 8) as u8, every: bits as u8 })
    }
}

/// What is known of the clusters' compressibility.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Tag and state. Relaxed throughout: hints, and a count lost to another thread is a page more to the codec or less.
    cells: Table<AtomicU16>,
    /// [`Sampling::bits`]; 0: off.
    sampling: AtomicU16,
    pub(super) passed_by: Tally,
    pub(super) in_vain: Tally,
}

/// A cell's content for one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    tag: u8,
    state: u8,
}

impl Cell {
    fn from_bits(bits: u16) -> Self {
        Cell { tag: (bits >> 8) as u8, state: bits as u8 }
    }

    fn bits(self) -> u16 {
        u16::from(self.tag) << 8 | u16::from(self.state)
    }
}

// === impl Sampler ===

impl Sampler {
    /// # Errors
    /// When there is no address space for its cells.
    pub(super) fn new(sampling: Option<Sampling>) -> io::Result<Self> {
        Ok(Sampler {
            cells: Table::reserve(SAMPLED_CLUSTERS)?,
            sampling: AtomicU16::new(Sampling::bits(sampling)),
            passed_by: Tally::new(),
            in_vain: Tally::new(),
        })
    }

    #[inline]
    fn sampling(&self) -> Option<Sampling> {
        Sampling::from_bits(self.sampling.load(Ordering::Relaxed))
    }

    /// The slot's cell, and what it says of the slot's cluster.
    #[inline]
    fn look(&self, slot: Slot) -> (&AtomicU16, u16, Cell) {
        // Fibonacci hashing: the high bits are the good ones.
        let hash = (slot.0 / CLUSTER_SLOTS as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (index, tag) = ((hash >> 32) as usize % self.cells.capacity(), (hash >> 56) as u8);
        let cell = self.cells.get(index);
        let bits = cell.load(Ordering::Relaxed);
        let known = Cell::from_bits(bits);
        (cell, bits, if known.tag == tag { known } else { Cell { tag, state: 0 } })
    }

    /// Whether a page for this slot is to be stored raw without asking the codec. Moves the phase.
    #[inline]
    pub(super) fn passes_by(&self, slot: Slot) -> bool {
        let Some(Sampling { after, every }) = self.sampling() else { return false };
        let (cell, bits, known) = self.look(slot);
        if known.state < after {
            return false;
        }
        let phase = known.state - after + 1;
        let passes = phase < every;
        let next = Cell { state: after + if passes { phase } else { 0 }, ..known };
        // Who loses a race has made his choice by the same phase as another: one page more or less.
        let _ = cell.compare_exchange(bits, next.bits(), Ordering::Relaxed, Ordering::Relaxed);
        passes
    }

    /// The codec was asked: whether the page shrank.
    #[inline]
    pub(super) fn learn(&self, slot: Slot, shrank: bool) {
        if !shrank {
            self.in_vain.add(1);
        }
        let Some(Sampling { after, .. }) = self.sampling() else { return };
        let (cell, bits, known) = self.look(slot);
        let state = match known.state {
            // Most pages shrink where pages do: nothing is written.
            0 if shrank => return,
            _ if shrank => 0,
            state if state < after => state + 1,
            _ => return,
        };
        let _ = cell.compare_exchange(bits, Cell { state, ..known }.bits(), Ordering::Relaxed, Ordering::Relaxed);
    }
}

// === impl Zswap, Core ===

impl Zswap {
    /// Change how incompressible memory is sampled from now on; `None`: every page goes to the codec. What is stored stays
    /// as it is.
    ///
    /// # Panics
    /// As [`Builder::sampling`](super::Builder::sampling).
    pub fn set_sampling(&self, sampling: Option<Sampling>) {
        self.core.sampler.sampling.store(Sampling::bits(sampling), Ordering::Relaxed);
    }

    /// How incompressible memory is sampled.
    pub fn sampling(&self) -> Option<Sampling> {
        self.core.sampler.sampling()
    }
}

/// What became of a page that was to be stored raw unseen.
pub(super) enum Unseen {
    Stored(Stored),
    /// A limit refused a whole page, for this reason unless it never admits one: a smaller one may fit (A2).
    Refused(Option<Error>),
}

impl Core {
    /// Store a page raw, making room where there is none.
    pub(super) fn store_unseen(
        &self,
        slot: Slot,
        payer: Payer<'_>,
        node: NodeId,
        page: &[u8; PAGE_SIZE],
    ) -> Result<Unseen, Error> {
        match self.admit(payer, node, PAGE_SIZE, None) {
            Ok(Admission::Object(object)) => {
                self.put_object(slot, object, Payload::raw(page))?;
                self.sampler.passed_by.add(1);
                Ok(Unseen::Stored(Stored::Incompressible))
            }
            Ok(Admission::Never(_)) => Ok(Unseen::Refused(None)),
            Err(error @ (Error::Limit { .. } | Error::PoolFull { .. } | Error::NodesFull { .. })) => {
                Ok(Unseen::Refused(Some(error)))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SAMPLING: Sampling = Sampling { after: 3, every: 4 };

    /// What the sampler says of `n` pages of a slot's cluster whose pages shrink or do not; true: given to the codec.
    fn tried(sampler: &Sampler, slot: Slot, shrinks: &[bool]) -> Vec<bool> {
        let page = |&shrinks: &bool| {
            let tried = !sampler.passes_by(slot);
            if tried {
                sampler.learn(slot, shrinks);
            }
            tried
        };
        shrinks.iter().map(page).collect()
    }

    #[test]
    fn after_some_in_a_row_one_in_so_many_is_tried() {
        let sampler = Sampler::new(Some(SAMPLING)).unwrap();
        let (yes, no) = (true, false);
        let expected = [yes, yes, yes, no, no, no, yes, no, no, no, yes, no];
        assert_eq!(tried(&sampler, Slot(7), &[false; 12]), expected);
        assert_eq!(sampler.in_vain.get(), 5);
    }

    #[test]
    fn one_that_shrinks_resets() {
        let sampler = Sampler::new(Some(SAMPLING)).unwrap();
        tried(&sampler, Slot(7), &[false; 6]);
        assert_eq!(tried(&sampler, Slot(7), &[true, false, false, false, false]), [true, true, true, true, false]);
        // In a row means in a row.
        tried(&sampler, Slot(512), &[false, false, true, false, false]);
        assert!(!sampler.passes_by(Slot(512)));
    }

    #[test]
    fn a_neighbourhood_is_a_cluster() {
        let sampler = Sampler::new(Some(SAMPLING)).unwrap();
        let slots: Vec<_> = (0..4).map(|k| Slot(512 * 9 + k * 170)).collect();
        for &slot in &slots[..3] {
            tried(&sampler, slot, &[false]);
        }
        assert!(sampler.passes_by(slots[3]), "the last slot of the same cluster");
        assert!(!sampler.passes_by(Slot(512 * 9 - 1)) && !sampler.passes_by(Slot(512 * 10)), "the next clusters");
    }

    #[test]
    fn clusters_in_one_cell_forget_each_other_and_do_not_mislead() {
        let sampler = Sampler::new(Some(SAMPLING)).unwrap();
        let cell = |slot: Slot| std::ptr::from_ref(sampler.look(slot).0);
        let one = Slot(0);
        tried(&sampler, one, &[false; 5]);
        let others = (1..1 << 20).map(|cluster| Slot(cluster * 512));
        let other = others.clone().find(|&slot| cell(slot) == cell(one) && !sampler.passes_by(slot)).unwrap();
        tried(&sampler, other, &[true]);
        assert!(sampler.passes_by(one), "pages that shrink leave the other's state alone");
        tried(&sampler, other, &[false]);
        assert_eq!(tried(&sampler, one, &[false; 4]), [true, true, true, false], "forgotten, not mistaken");
        let sharing = others.filter(|&slot| cell(slot) == cell(one)).count();
        let misled = (1..1 << 20).map(|cluster| Slot(cluster * 512)).filter(|&slot| sampler.passes_by(slot)).count();
        assert!(sharing > 200 && misled <= 4, "{misled} of {sharing} have the same tag");
    }

    #[test]
    fn off_it_only_counts() {
        let sampler = Sampler::new(None).unwrap();
        assert!(tried(&sampler, Slot(0), &[false; 100]).iter().all(|&tried| tried));
        assert_eq!(sampler.in_vain.get(), 100);
    }

    #[test]
    #[should_panic(expected = "from 2 on")]
    fn trying_every_page_is_not_sampling() {
        let _ = Sampler::new(Some(Sampling { after: 1, every: 1 }));
    }
}
