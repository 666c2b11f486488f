//! Pages follow what the kernel says about mappings.
//!
//! | change | the pages there | then |
//! |---|---|---|
//! | `madvise` drops them | read as zeroes, once the kernel has emptied the range: slots, staged pages and charges go | |
//! | `munmap` | the same | the embedder is told: the region, or its part, holds nothing |
//! | `mremap` | those in memory have moved with it; those that are out are served at the new address | the embedder is told, and may register it anew, by another thread |
//! | `fork` | a child has a copy of all of them: [`children`](super::children) | |
//!
//! The kernel empties a range that `madvise` drops only when its thread runs again, after the event was read. A page whose word said Absent before
//! that could be taken for one that is there, leave, and come back: so that moment is waited for, with the range closed.
//!
//! A word that somebody owns is waited for: he owns it for one request, and gets EAGAIN meanwhile, or passes no gate. What of our own requests is
//! told as an event, he has made Dropping, and that is left alone; but not what a compressor is about to have stored.

use super::Change;
use super::running::{MappingChange, VmDesk};
use crate::guest::pages::word::MAX_BAN;
use crate::guest::uffd::{Descriptor, Errno, Mode};
use crate::sync::Moment;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::units::PAGE_SIZE;
use std::ops::Range;
use std::time::Duration;

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
            drop_pages(desk, range);
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
                desk.children.born(child, desk.shared(), desk.kept_regions());
                count(&counts.children, 1);
            }
        }
        None => {}
    }
    *change = None;
}

/// How long the kernel may take to empty a range. After that it never will: MADV_FREE is told as the same event, and leaves pages where they are.
const EMPTIED_IN: Duration = Duration::from_millis(500);

/// The same, in a program that has been seen to use MADV_FREE: each of its calls would hold up those who fault there.
const EMPTIED_SOON: Duration = Duration::from_millis(2);

/// Pages of a range read as zeroes as soon as the kernel has emptied it. What it leaves there stays what it is, and for a while where it is.
fn drop_emptied(desk: &VmDesk, range: &Range<usize>) {
    let (since, mut backoff) = (Moment::now(), Backoff::new());
    let most = if desk.counts.left_there.load(Ordering::Relaxed) > 0 { EMPTIED_SOON } else { EMPTIED_IN };
    let mut at = range.start;
    while let Some(there) = first_present(desk, at..range.end) {
        if since.nanoseconds() < most.as_nanos() as u64 {
            backoff.wait_for_io();
            continue;
        }
        desk.counts.left_there.fetch_add(1, Ordering::Relaxed);
        desk.regions_in(&there, |pages, there| there.for_each(|page| pages.word(page).set_ban(MAX_BAN)));
        drop_pages(desk, &(at..there.start));
        at = there.end;
    }
    drop_pages(desk, &(at..range.end));
}

/// The first run of a range's pages that the kernel still has there. Where it does not tell: none.
fn first_present(desk: &VmDesk, range: Range<usize>) -> Option<Range<usize>> {
    let mut first: Option<Range<usize>> = None;
    desk.regions_in(&range, |pages, there| {
        if first.is_none() {
            first = pages.first_present(there).map(|run| pages.address(run.start)..pages.address(run.end));
        }
    });
    first
}

/// Pages of a range read as zeroes from here on.
fn drop_pages(desk: &VmDesk, range: &Range<usize>) {
    desk.children.family().forget_relics(range);
    desk.regions_in(range, |pages, mut there| {
        let mut backoff = Backoff::new();
        while let Some(owned) = pages.removed(there.clone()) {
            there.start = owned;
            backoff.wait_for_io(); // its owner may be at a device
        }
    });
}

/// Pages of a range lie elsewhere: they are served there as what they are. To install them at once is not possible: the kernel says EAGAIN until
/// it has told all of the move, which comes as two events.
fn move_pages(desk: &VmDesk, range: &Range<usize>, to: usize) {
    let family = desk.children.family();
    family.move_relics(range.clone(), to);
    desk.regions_in(range, |pages, there| {
        let address = to + (pages.address(there.start) - range.start);
        family.take_relics(desk.own_descriptor(), pages, there, address);
    });
}

/// Install a page at an address of no region; one that cannot be read is poisoned. False: later.
pub(super) fn arrive(descriptor: &Descriptor, address: usize, bytes: Option<&[u8; PAGE_SIZE]>) -> bool {
    let done = match bytes {
        Some(bytes) => descriptor.copy(address, bytes.as_ptr(), PAGE_SIZE, Mode::empty()),
        None => descriptor.poison(address..address + PAGE_SIZE, Mode::empty()),
    };
    // There already, or gone again: nothing to be done about it. A kernel that cannot poison lets it read as zeroes, which must not be.
    match done.stopped {
        Some(Errno::AGAIN | Errno::NO_MEMORY) => false,
        Some(Errno::INVALID) if bytes.is_none() => super::last_words::end(format_args!(
            "the page that mremap moved to {address:#x} cannot be read back, and this kernel cannot mark it (it needs Linux 6.6): the \
             process ends, for the page must not read as zeroes"
        )),
        _ => true,
    }
}
