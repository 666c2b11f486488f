//! Who serves faults: the faulting thread, threads of ours, or a loop of the embedder.
//!
//! ```text
//!                    a thread touches a page that is out
//!                     |                               |
//!       InThread:  SIGBUS in it               an event of the descriptor
//!                     |                               |  read by
//!                     |                     Threads: handlers of ours     External: Vm::service()
//!                  sigbus.rs                  threads.rs, watchdog.rs          |
//!                     |                               +------- reader.rs ------+
//!                     |                                      |           |
//!                     +------> Pages::fault <----- faults ---+           +--- changes of mappings: gate.rs, changes.rs, fork.rs
//! ```
//!
//! | | serves | costs | needs |
//! |---|---|---|---|
//! | [`InThread`](crate::guest::Service::InThread) | the program's own loads and stores | least: no other thread runs | SIGBUS of the process; no permission |
//! | [`Threads`](crate::guest::Service::Threads) | system calls, KVM and vhost too, where permitted | two switches of threads more | a permission for the kernel's accesses |
//! | [`External`](crate::guest::Service::External) | the same | the loop's own | the same |
//!
//! 1. Nobody holds a lock while a page is loaded, decompressed or installed.
//! 2. A handler that panics is replaced; the word's guard has given the page back, and the fault is served again. Where nobody can serve, the
//!    process ends with a sentence: a thread that waits for ever helps nobody, and a page is never made up.

mod access;
mod actions;
mod bell;
mod changes;
mod child;
mod child_desk;
pub(crate) mod children;
mod claim;
pub(crate) mod fork;
pub(crate) mod gate;
pub(crate) mod gated;
pub(crate) mod keeping;
pub(crate) mod last_words;
mod list;
mod matters;
mod nursery;
mod panics;
pub(crate) mod reader;
mod relics;
pub(crate) mod running;
pub mod sigbus;
pub(crate) mod signals;
mod stacks;
pub(crate) mod threads;
mod watchdog;

pub use running::{Follow, MappingChange, ServiceStats};
pub use stacks::AlternateStack;
pub use threads::ThreadOptions;
pub use watchdog::Stuck;

pub(crate) use bell::Bell;
pub(crate) use gate::Gate;
pub(crate) use panics::Panics;

use crate::guest::pages::{Access, Pages, Served, Waiting};
use crate::guest::registry::{self, Found};
use crate::guest::uffd::{Descriptor, Errno, Fault, Mode};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::process_static;
use crate::units::PAGE_SIZE;
use gate::Closed;
use last_words::LastWords;
use reader::Parking;
use std::ops::Range;
use std::os::fd::AsRawFd;

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

/// What the kernel says about mappings.
#[derive(Debug)]
pub(crate) enum Change {
    /// Pages are dropped by `madvise`: they are to read as zeroes.
    Removed(Range<usize>),
    /// A range was unmapped.
    Unmapped(Range<usize>),
    /// A range was moved by `mremap`, with its pages and its registration.
    Moved {
        /// From this address.
        from: usize,
        /// To this one.
        to: usize,
        /// So many bytes.
        bytes: usize,
    },
    /// The process forked: this serves the child's memory.
    Forked(Descriptor),
}

/// Whose descriptor a reader reads: what it needs of a VM.
pub(crate) trait Desk: Send + Sync {
    /// The descriptor.
    fn descriptor(&self) -> &Descriptor;
    /// The gate, where mappings change behind our back or several threads read.
    fn gate(&self) -> Option<&Gate>;
    /// Serve a fault.
    fn answer(&self, fault: Fault) -> Answer;
    /// Have words follow a change, or hand it on to who does, with what it has closed. False: later. Must not allocate where another thread of this
    /// process may fork.
    fn follow(&self, change: &mut Option<Change>, closed: &mut [Option<Closed>; 2]) -> bool;
    /// A fault of an address that no region has. False: again later.
    fn stranger(&self, fault: Fault) -> bool;
    /// How many of its readers have something parked.
    fn parking(&self) -> &Parking;
    /// Where a page is, in words.
    fn state(&self, address: usize) -> &'static str;
}

/// Serve the fault of a page.
fn answer(pages: &Pages, page: u32, access: Access, waiting: Waiting) -> Answer {
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

process_static! {
    /// Sentences about pages of no region that cannot be had.
    SAID: AtomicU32 = AtomicU32::new(0)
}

/// So many of them.
const SAYINGS: u32 = 16;

/// Say that a page cannot be had: before it is poisoned, for its thread may end the process as soon as it is. Once for each region: a device that
/// is gone takes many pages along, and how many is said [when the region ends](say_lost).
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
pub(crate) fn say_lost(pages: &Pages) {
    let (lost, there) = (pages.lost(), pages.addresses());
    if lost > 1 {
        LastWords::new(format_args!(
            "pages of the region {:#x}..{:#x} could not be read back {lost} times, of which the first was told",
            there.start, there.end
        ))
        .say();
    }
}

/// A fault where the descriptor is registered and no region is: memory that `mremap` made longer, or moved. Zeroes, and writes go ahead.
/// False: later.
fn stranger(descriptor: &Descriptor, fault: Fault) -> bool {
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

/// Have reads of the descriptor wait, or not.
fn set_nonblocking(descriptor: &Descriptor, yes: bool) {
    let fd = descriptor.as_raw_fd();
    // SAFETY: asks for flags.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let wanted = if yes { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if flags >= 0 && wanted != flags {
        // SAFETY: sets flags.
        unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
