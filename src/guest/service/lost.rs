//! What is said about pages that cannot be had.

use super::last_words::LastWords;
use crate::guest::pages::Pages;
use crate::guest::registry::{self, Found};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::process_static;

process_static! {
    /// Sentences about pages of no region that cannot be had.
    SAID: AtomicU32 = AtomicU32::new(0)
}

/// So many of them.
const SAYINGS: u32 = 16;

/// Say that a page cannot be had: before it is poisoned, for its thread may end the process as soon as it is. Once for each region: a device that
/// is gone takes many pages along, and how many is said [when the region ends](say_how_many).
pub(crate) fn say_poisoned(address: usize) {
    let first = match registry::find(address) {
        Found::Page(pages, _) => pages.note_lost() == 0,
        _ => SAID.fetch_add(1, Ordering::Relaxed) < SAYINGS, // a child's, or one that was moved
    };
    if first {
        LastWords::new(format_args!(
            "the page at {address:#x} cannot be read back (its copy is damaged, or its device failed): who touches it gets a SIGBUS, which ends \
             the process unless it has a handler that knows better. make_resident() on it says more, and tries again"
        ))
        .say();
    }
}

/// Its region ends: say how many there were, if that was not said.
pub(super) fn say_how_many(pages: &Pages) {
    let (lost, there) = (pages.lost(), pages.addresses());
    if lost > 1 {
        LastWords::new(format_args!(
            "pages of the region {:#x}..{:#x} could not be read back {lost} times, of which the first was told",
            there.start, there.end
        ))
        .say();
    }
}
