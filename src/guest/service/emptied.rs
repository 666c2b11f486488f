//! What `madvise` drops reads as zeroes, as soon as the kernel has emptied it.
//!
//! ```text
//!   madvise(R) --event--> [ read, R closed ] . . . . . . . . . . words of R follow, R opened
//!      |                                     ^ awaited ------------+ what is there still: held, and left what it is (MADV_FREE)
//!      +-- goes on, empties R ---------------+
//! ```
//!
//! The kernel empties a range that `madvise` drops only when its thread runs again, after the event was read. A page whose word said Absent before
//! that could be taken for one that is there, leave, and come back: so that moment is waited for, with the range closed.
//!
//! A word that somebody owns is waited for: he owns it for one request, and gets EAGAIN meanwhile, or passes no gate. What of our own requests is
//! told as an event, he has made Dropping, and that is left alone; but not what a compressor is about to have stored.

use super::gate::Gate;
use crate::guest::pages::Pages;
use crate::guest::pages::bits::MAX_BAN;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Bug, Moment};
use std::ops::Range;
use std::time::Duration;

/// Whose words follow: those of a VM's regions, or of a model's.
pub(crate) trait Words {
    /// Each region that lies in a range, with its pages there.
    fn regions_in(&self, range: &Range<usize>, each: &mut dyn FnMut(&Pages, Range<u32>));
    /// What `mremap` has moved into the range is not there any more.
    fn forget_moved(&self, range: &Range<usize>);
    /// The gate.
    fn gate(&self) -> Option<&Gate>;
    /// Runs of pages that the kernel left in a range of which it told that it is dropped.
    fn left_there(&self) -> &AtomicU64;
}

/// How long the kernel may take to empty a range. After that it never will: MADV_FREE is told as the same event, and leaves pages where they are.
const EMPTIED_IN: Duration = Duration::from_millis(500);

/// The same, in a program that has been seen to use MADV_FREE: each of its calls would hold up those who fault there.
const EMPTIED_SOON: Duration = if cfg!(loom) { Duration::ZERO } else { Duration::from_millis(2) };

/// Pages of a range read as zeroes as soon as the kernel has emptied it. What it leaves there stays what it is, and for a while where it is: it may
/// have been slow, and empty the place still, where a page that is out would come back.
pub(crate) fn drop_emptied(words: &dyn Words, range: &Range<usize>) {
    if words.gate().is_some_and(|gate| gate.planted().is(Bug::RemovalNotAwaited)) {
        return drop_pages(words, range);
    }
    let (since, mut backoff) = (Moment::now(), Backoff::new());
    let most = if words.left_there().load(Ordering::Relaxed) > 0 { EMPTIED_SOON } else { EMPTIED_IN };
    let mut at = range.start;
    while let Some(there) = first_present(words, at..range.end) {
        if since.nanoseconds() < most.as_nanos() as u64 {
            backoff.wait_for_io();
            continue;
        }
        words.left_there().fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = words.gate() {
            gate.hold(there.clone(), EMPTIED_IN);
        }
        words.regions_in(&there, &mut |pages, there| there.for_each(|page| pages.word(page).set_ban(MAX_BAN)));
        drop_pages(words, &(at..there.start));
        at = there.end;
    }
    drop_pages(words, &(at..range.end));
}

/// The first run of a range's pages that the kernel still has there. Where it does not tell: none.
fn first_present(words: &dyn Words, range: Range<usize>) -> Option<Range<usize>> {
    let mut first: Option<Range<usize>> = None;
    words.regions_in(&range, &mut |pages, there| {
        if first.is_none() {
            first = pages.first_present(there).map(|run| pages.address(run.start)..pages.address(run.end));
        }
    });
    first
}

/// A range was unmapped: its pages are gone, and what is mapped there from here on is something else.
pub(crate) fn drop_unmapped(words: &dyn Words, range: &Range<usize>) {
    words.regions_in(range, &mut |pages, there| pages.depart(there));
    drop_pages(words, range);
}

/// Pages of a range read as zeroes from here on.
pub(crate) fn drop_pages(words: &dyn Words, range: &Range<usize>) {
    words.forget_moved(range);
    words.regions_in(range, &mut |pages, mut there| {
        let mut backoff = Backoff::new();
        while let Some(owned) = pages.removed(there.clone()) {
            there.start = owned;
            backoff.wait_for_io(); // its owner may be at a device
        }
    });
}
