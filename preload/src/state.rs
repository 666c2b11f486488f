//! Whether this library does anything in this process.
//!
//! ```text
//!   ASLEEP --start, in the process that is meant--> RUNNING --fork, in the child--> ASLEEP
//!                                                      |
//!                                                      +--a fork that nobody tells of--> the mark is wiped
//! ```
//!
//! A child that was made without the C library's `fork` (by `_Fork`, by the system call) runs no handler. The mark tells it: a page that the kernel wipes
//! in children, and that one which shares its parent's memory (vfork) shares.

use crate::system::{self, PAGE};
use std::alloc::{Layout, alloc_zeroed};
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

/// Its first byte is 1 where we run. Null: asleep.
static MARK: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Thread-locals and the allocator can be used, and mappings are noted.
pub(crate) fn is_running() -> bool {
    let mark = MARK.load(Acquire);
    // SAFETY: the page stays mapped, also in children.
    !mark.is_null() && unsafe { mark.read_volatile() } == 1
}

/// It runs here, or did in the process of which this is a copy.
pub(crate) fn has_run() -> bool {
    !MARK.load(Acquire).is_null()
}

/// From here on.
///
/// # Errors
/// A sentence, when there is no page for the mark.
pub(crate) fn run() -> Result<(), &'static str> {
    let refused = "No page can be had by which a child of fork is told: see `ulimit -v`, and have Linux 4.14 or newer.";
    // Of our own memory, which is never registered.
    let page = Layout::from_size_align(PAGE, PAGE).map_err(|_| refused)?;
    // SAFETY: it is not empty.
    let mark = unsafe { alloc_zeroed(page) };
    if mark.is_null() || !system::wipe_in_children(mark.addr()..mark.addr() + PAGE) {
        return Err(refused);
    }
    // SAFETY: the page is ours, and writable.
    unsafe { mark.write(1) };
    MARK.store(mark, Release);
    Ok(())
}

/// In a forked child: nothing of ours runs there.
pub(crate) fn sleep() {
    MARK.store(null_mut(), Release);
}
