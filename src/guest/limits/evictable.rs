//! What limits and policies see of a VM and of its regions: two small traits, which `pages` and tests implement.
//!
//! ```text
//!   Evictable (a VM) --- regions in order ---> Clocked (a region: words of pages 0, 1, 2, ...)
//!      | compress_staged: the oldest staged        | look, spend_chance, spend_ban: the clock hand
//!      v                                           v stage: pages out of the guest's range, by runs
//! ```
//!
//! Everything here is called with no lock held, also in faults: no allocator, no wait for a page's owner.

use super::account::Account;
use super::policy::Look;
use crate::guest::pages::outcomes::{Compressed, Staged};

/// Pages of a VM by where they are. Each is charged 4096 bytes but those that are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// In memory, staged ones included.
    pub(crate) resident: u64,
    /// Of those, taken out of the guest's range and not compressed yet.
    pub(crate) staged: u64,
    /// Of those in memory, pinned: they cannot go.
    pub(crate) pinned: u64,
}

/// A VM as the evictor sees it.
pub(crate) trait Evictable: Send + Sync {
    /// What it is charged through.
    fn account(&self) -> &Account;

    /// Where its pages are. A few loads; exact when nobody moves any.
    fn counts(&self) -> Counts;

    /// Show regions with numbers of at least `from`, in their order, until `each` says `false`. A region that is shown stays until
    /// `each` returns.
    fn regions(&self, from: u32, each: &mut dyn FnMut(u32, &dyn Clocked) -> bool);

    /// Compress up to `pages` staged pages, those first that were staged first. The store makes no room: it refuses; and where it would
    /// have to call the allocator, or a device, it refuses in a fault (not `ahead` of one).
    fn compress_staged(&self, pages: u32, ahead: bool) -> Compressed;
}

/// A region as policies see it: pages by number.
pub(crate) trait Clocked {
    /// How many pages it has.
    fn pages(&self) -> u32;

    /// The first page from this one on that may have been in memory ever, or how many there are: what lies between is not looked at.
    fn next_used(&self, page: u32) -> u32 {
        page
    }

    /// What the page's word says now.
    fn look(&self, page: u32) -> Look;

    /// The page is not referenced any more: it used its second chance up.
    fn spend_chance(&self, page: u32);

    /// The page is referenced, if it is in memory.
    fn give_chance(&self, page: u32);

    /// One of the passes for which the page is left alone is over.
    fn spend_ban(&self, page: u32);

    /// Give the page this stamp, if it is not owned and has that one still.
    fn restamp(&self, page: u32, from: u8, to: u8);

    /// Take consecutive pages out. Those that are not takeable any more stay.
    fn stage(&self, first: u32, pages: u32) -> Staged;

    /// Pages that the kernel called busy, as a child shared them that has ended, are made the process's own again. Writes to memory as the
    /// guest does, and may wait for whoever serves its faults: not from a fault.
    fn unshare(&self) {}

    /// Runs of pages written since this was asked last, if the kernel tells (WP_ASYNC). False where it does not.
    fn written(&self, each: &mut dyn FnMut(std::ops::Range<u32>)) -> bool {
        let _ = each;
        false
    }
}
