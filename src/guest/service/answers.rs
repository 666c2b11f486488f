//! [`Answer`]: what became of a fault, as its thread sees it.

use super::last_words;
use crate::guest::pages::{Access, Pages, Served, Waiting};
use crate::guest::uffd::{Descriptor, Errno, Fault, Mode};
use crate::units::PAGE_SIZE;

/// What became of a fault, as its thread sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The access can be made again, at once or when the page's owner wakes it.
    Served,
    /// The mapping is changing: events first, then this again.
    Again,
    /// The page cannot be had.
    Poisoned,
    /// Of no region.
    Stranger,
}

/// Serve the fault of a page.
pub(super) fn answer(pages: &Pages, page: u32, access: Access, waiting: Waiting) -> Answer {
    match pages.fault(page, access, waiting) {
        Served::Installed(_) | Served::Left => Answer::Served,
        Served::Again => Answer::Again,
        Served::Poisoned => Answer::Poisoned,
        // Not registered with the kernel any more: whatever is there now is not ours.
        Served::Gone => Answer::Stranger,
        Served::Failed(errno) => failed(pages.address(page), errno),
    }
}

/// The kernel would not install a page. What passes (no memory for a frame) is tried again; the rest is a defect, and going on would
/// hang the thread.
fn failed(address: usize, errno: i32) -> Answer {
    match errno {
        libc::ENOMEM | libc::EINTR | libc::EAGAIN | libc::EBUSY => Answer::Again,
        errno => last_words::end(format_args!(
            "the kernel refuses to install the page at {address:#x} ({}): its thread would wait for ever, so the process ends",
            Errno(errno)
        )),
    }
}

/// A fault where the descriptor is registered and no region is: memory that `mremap` made longer, or moved. Zeroes, and writes go ahead.
/// False: later.
pub(super) fn stranger(descriptor: &Descriptor, fault: Fault) -> bool {
    let page = fault.address & !(PAGE_SIZE - 1);
    let range = page..page + PAGE_SIZE;
    let stopped = if fault.protected {
        descriptor.unprotect(range.clone(), Mode::empty()).err()
    } else {
        descriptor.zeropage(range.clone(), Mode::empty()).stopped
    };
    match stopped {
        None => true,
        Some(Errno::AGAIN | Errno::NO_MEMORY) => false,
        // There by now, or not registered any more: who waits is to look again.
        Some(_) => {
            let _ = descriptor.wake(range); // refused only for what is not a page
            true
        }
    }
}
