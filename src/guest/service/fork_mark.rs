//! Whether this process is a child of fork of the one that made the engines.
//!
//! ```text
//!   parent   [ 1 . . . ]  --fork, MADV_WIPEONFORK-->  child   [ 0 . . . ]      a page of ours, mapped in both
//! ```
//!
//! A child has copies of all that engines are made of, and of descriptors whose requests are about its *parent's* memory: whoever is about to ask the
//! kernel for something, or to wait for a thread, asks here first.

use crate::guest::Error;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::process_static;
use crate::units::PAGE_SIZE;
use std::{io, ptr};

process_static! {
    /// Address of a page whose first byte is 1, and 0 in children; 0 before there is one.
    MARK: AtomicUsize = AtomicUsize::new(0)
}

/// Have the mark, before anything is registered.
///
/// # Errors
/// When the system has no page.
pub(super) fn make() -> Result<(), Error> {
    if MARK.load(Ordering::Acquire) != 0 {
        return Ok(());
    }
    let refused =
        || Error::Service { doing: "map the page that tells children of fork", source: io::Error::last_os_error() };
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, wherever the kernel likes.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_SIZE, prot, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(refused());
    }
    // SAFETY: the mapping is ours.
    if unsafe { libc::madvise(page, PAGE_SIZE, libc::MADV_WIPEONFORK) } != 0 {
        return Err(refused());
    }
    // SAFETY: the mapping is ours, and writable.
    unsafe { page.cast::<u8>().write(1) };
    // Release pairs with the acquire of who asks. Whoever is second leaves its page behind.
    let _ = MARK.compare_exchange(0, page.expose_provenance(), Ordering::Release, Ordering::Relaxed);
    Ok(())
}

/// Whether this process is a child, by fork, of the one that made the engines: they are its parent's.
pub(crate) fn in_child() -> bool {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: the page stays mapped, also in children.
    mark != 0 && unsafe { ptr::with_exposed_provenance::<u8>(mark).read_volatile() } == 0
}
