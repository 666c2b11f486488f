//! [`Holdings`]: what a range of slots holds, by where it is: for who owns the range, as a guest's memory does.

use super::core::Zswap;
use crate::swap::Content;
use crate::units::SlotRange;

/// Slots of a range by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holdings {
    /// One repeated word that is kept in the slot and takes nothing.
    pub same_filled: u64,
    /// Bytes in the pool: compressed, as they are, or a repeated word that takes an object.
    pub pool: u64,
    /// Bytes on a device.
    pub device: u64,
    /// Nothing any more: the page could not be read back.
    pub lost: u64,
}

impl Zswap {
    /// Count what a range of slots holds. Takes time by clusters that were touched; exact where nobody stores or frees meanwhile.
    ///
    /// # Locks
    /// One cluster after the other. Allocates nothing.
    pub fn holdings(&self, range: SlotRange) -> Holdings {
        let mut holdings = Holdings::default();
        for part in self.core.slots.parts_of(range) {
            let Some(mut guard) = self.core.slots.lock(part.base()) else { continue };
            for slot in part.iter() {
                guard.go_to(slot);
                match guard.word().content() {
                    Content::Empty => {}
                    Content::SameFilled(_) => holdings.same_filled += 1,
                    Content::Pattern(_) | Content::Compressed(_) => holdings.pool += 1,
                    Content::Physical(_) => holdings.device += 1,
                    Content::Lost(_) => holdings.lost += 1,
                }
            }
        }
        holdings
    }
}

impl std::ops::AddAssign for Holdings {
    fn add_assign(&mut self, other: Holdings) {
        self.same_filled += other.same_filled;
        self.pool += other.pool;
        self.device += other.device;
        self.lost += other.lost;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::units::{NodeId, Page};

    #[test]
    fn slots_are_counted_by_what_they_hold() {
        let zswap = Zswap::builder().pool_limit(4 << 20).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let [range, other] = [0; 2].map(|_| zswap.reserve(2000).unwrap());
        let mut page = Page::zeroed();
        for k in 0..700u64 {
            page[..8].copy_from_slice(&k.to_ne_bytes());
            page[9] = 1;
            zswap.store(range.base() + k * 2, &vm, NodeId(0), &page).unwrap();
        }
        zswap.store(range.base() + 1, &vm, NodeId(0), &Page::zeroed()).unwrap();
        zswap.store(other.base(), &vm, NodeId(0), &page).unwrap();
        let all = Holdings { same_filled: 1, pool: 700, ..Holdings::default() };
        assert_eq!(zswap.holdings(range), all);
        assert_eq!(zswap.holdings(SlotRange::new(range.base() + 1, 3)), Holdings { same_filled: 1, pool: 1, ..all });
        zswap.free(range.base());
        assert_eq!(zswap.holdings(range).pool, 699);
        assert_eq!(zswap.holdings(SlotRange::new(other.base() + 1, 1999)), Holdings::default());
    }

    #[test]
    fn ranges_are_added_up_by_what_they_hold() {
        let times = |n| Holdings { same_filled: n, pool: 10 * n, device: 100 * n, lost: 1000 * n };
        let mut sum = times(3);
        sum += times(4);
        assert_eq!(sum, times(7));
    }
}
