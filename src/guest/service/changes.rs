//! Pages follow what the kernel says about mappings.
//!
//! | change | the pages there | then |
//! |---|---|---|
//! | `madvise` drops them | read as zeroes, once the kernel has emptied the range ([`emptied`](super::emptied)): slots, staged pages and charges go | |
//! | `munmap` | the same | the embedder is told: the region, or its part, holds nothing |
//! | `mremap` | those in memory have moved with it; those that are out are served at the new address | the embedder is told, and may register it anew, by another thread |
//! | `fork` | a child has a copy of all of them: [`children`](super::children) | |

use super::desk::{Change, Desk};
use super::emptied::{Words, drop_emptied, drop_unmapped};
use super::gate::Gate;
use super::running::MappingChange;
use super::vm_desk::VmDesk;
use crate::guest::pages::Pages;
use crate::sync::atomic::{AtomicU64, Ordering};
use std::ops::Range;

/// Follow one change. It is taken when that is done: after a panic on the way it is followed again, which does no harm.
pub(super) fn follow(desk: &VmDesk, change: &mut Option<Change>) {
    let counts = &desk.counts;
    let count = |what: &AtomicU64, bytes: usize| what.fetch_add(bytes as u64, Ordering::Relaxed);
    match change {
        Some(Change::Removed(range)) => {
            drop_emptied(desk, range);
            count(&counts.discarded, range.len());
        }
        Some(Change::Unmapped(range)) => {
            drop_unmapped(desk, range);
            desk.children.family().drop_relics(range);
            count(&counts.unmapped, range.len());
            desk.tell(&MappingChange::Unmapped(range.clone()));
        }
        Some(Change::Moved { from, to, bytes }) => {
            let (range, to) = (*from..*from + *bytes, *to);
            move_pages(desk, &range, to);
            count(&counts.moved, range.len());
            desk.tell(&MappingChange::Moved { from: range, to });
        }
        Some(Change::Forked(_)) => {
            if let Some(Change::Forked(child)) = change.take() {
                desk.children.born(child, desk.shared(), desk.inherited_regions());
                count(&counts.children, 1);
            }
        }
        None => {}
    }
    *change = None;
}

impl Words for VmDesk {
    fn regions_in(&self, range: &Range<usize>, each: &mut dyn FnMut(&Pages, Range<u32>)) {
        VmDesk::regions_in(self, range, |pages, there| each(pages, there));
    }

    fn forget_moved(&self, range: &Range<usize>) {
        self.children.family().forget_relics(range);
    }

    fn gate(&self) -> Option<&Gate> {
        Desk::gate(self)
    }

    fn left_there(&self) -> &AtomicU64 {
        &self.counts.left_there
    }
}

/// Pages of a range lie elsewhere: they are served there as what they are. To install them at once is not possible: the kernel says EAGAIN until
/// it has told all of the move, which comes as two events.
fn move_pages(desk: &VmDesk, range: &Range<usize>, to: usize) {
    let family = desk.children.family();
    family.move_relics(range.clone(), to);
    VmDesk::regions_in(desk, range, |pages, there| {
        pages.depart(there.clone());
        let address = to + (pages.address(there.start) - range.start);
        family.take_relics(desk.here(), pages, there, address);
    });
}
