//! [`Claim`]: which addresses of this process are spoken for, by regions and by memory of ours.
//!
//! The kernel refuses a range that another descriptor has, but not one that the same descriptor has already: two regions would then
//! take each other's pages out. And a region that held our own staging memory would page out what it pages out to.

use super::Refusal;
use crate::sync::{Rank, process_mutex};
use std::ops::Range;

process_mutex! {
    /// Ranges, in no order: registering looks at all of them, and nothing else does.
    CLAIMED: Vec<(Range<usize>, &'static str)> = Rank::Leaf, Vec::new()
}

/// A claim on a range, given up when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    range: Range<usize>,
}

impl Claim {
    /// Claim `range`, which is `what`.
    ///
    /// # Errors
    /// When part of it is claimed.
    pub(super) fn new(range: Range<usize>, what: &'static str) -> Result<Claim, Refusal> {
        let mut claimed = CLAIMED.lock();
        if let Some((other, what)) =
            claimed.iter().find(|(other, _)| other.start < range.end && range.start < other.end)
        {
            return Err(Refusal::Overlap {
                start: range.start,
                end: range.end,
                other_start: other.start,
                other_end: other.end,
                what,
            });
        }
        claimed.push((range.clone(), what));
        Ok(Claim { range })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = CLAIMED.lock();
        if let Some(at) = claimed.iter().position(|(range, _)| *range == self.range) {
            claimed.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_no_overlap_and_all_other_shapes_are() {
        let claim = Claim::new(0x5000..0x8000, "a test's").expect("nobody has it");
        let refused = |range: Range<usize>| match Claim::new(range.clone(), "another's") {
            Err(Refusal::Overlap { other_start: 0x5000, other_end: 0x8000, what: "a test's", .. }) => {}
            other => panic!("{range:#x?}: {other:?}"),
        };
        refused(0x5000..0x8000); // the same
        refused(0x4000..0x6000); // from below
        refused(0x7000..0x9000); // from above
        refused(0x6000..0x7000); // inside
        refused(0x4000..0x9000); // around
        drop(Claim::new(0x4000..0x5000, "below").expect("a neighbour"));
        drop(Claim::new(0x8000..0x9000, "above").expect("a neighbour"));
        drop(claim);
        drop(Claim::new(0x5000..0x8000, "again").expect("given up"));
    }
}
