//! [`Bell`]: ends threads that wait in a read of a descriptor, by faults of pages that are nobody's.
//!
//! ```text
//!   bell   [ page 0 | page 1 | .. ]   registered, never there, a page for each reader
//!             ^ touched by who stops      --> one reader reads the fault, fills the page, and ends
//! ```
//!
//! A read of a descriptor is ended by nothing but a fault or a signal, and a signal may come a moment before the read.

use crate::guest::Error;
use crate::guest::uffd::{Descriptor, Mode, Modes};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;
use std::ptr;

/// Pages to be touched.
#[derive(Debug)]
pub(crate) struct Bell {
    descriptor: Arc<Descriptor>,
    pages: Range<usize>,
}

impl Bell {
    /// For so many readers.
    ///
    /// # Errors
    /// When there is no address space, or the kernel does not register it.
    pub(crate) fn new(descriptor: &Arc<Descriptor>, readers: usize) -> Result<Bell, Error> {
        let bytes = readers * PAGE_SIZE;
        let refused =
            |source: io::Error| Error::Service { doing: "map the page that its handlers are ended by", source };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(refused(io::Error::last_os_error()));
        }
        let bell = Bell { descriptor: Arc::clone(descriptor), pages: start.addr()..start.addr() + bytes };
        // A child of fork has no readers, and its copy of the page would be registered with a descriptor of its own.
        // SAFETY: the mapping is ours.
        if unsafe { libc::madvise(start, bytes, libc::MADV_DONTFORK) } != 0 {
            return Err(refused(io::Error::last_os_error()));
        }
        // SAFETY: the mapping is ours, and nobody reads it but who rings.
        unsafe { descriptor.register(bell.pages.clone(), Modes::MISSING) }.map_err(|e| refused(io::Error::other(e)))?;
        Ok(bell)
    }

    /// Have one reader end. Returns when one was told, and hangs if there is none.
    pub(crate) fn ring(&self, page: usize) {
        let address = self.pages.start + page * PAGE_SIZE;
        debug_assert!(self.pages.contains(&address));
        // SAFETY: within the mapping, which is readable; its bytes are zeroes once somebody fills it.
        unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    }

    /// Whether a fault is a ring of it.
    pub(crate) fn is_at(&self, address: usize) -> bool {
        self.pages.contains(&address)
    }

    /// Answer: who rang goes on. False: not now, for a mapping is changing; its thread touches it again, and who reads that answers. So a reader
    /// that has not answered must not end: it may be the only one.
    pub(crate) fn answer(&self, address: usize) -> bool {
        let page = address & !(PAGE_SIZE - 1);
        let done = self.descriptor.zeropage(page..page + PAGE_SIZE, Mode::empty());
        if !done.all() {
            self.leave(address);
        }
        done.all()
    }

    /// Leave the ring to another reader.
    pub(crate) fn leave(&self, address: usize) {
        let page = address & !(PAGE_SIZE - 1);
        let _ = self.descriptor.wake(page..page + PAGE_SIZE); // refused only for what is not a page
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if super::fork_mark::in_child() {
            return; // not mapped here, and the descriptor is about the parent's memory
        }
        let _ = self.descriptor.unregister(self.pages.clone()); // unmapping does it too, with an event that nobody reads
        // SAFETY: ours, and nobody rings any more.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.pages.start), self.pages.len()) };
    }
}
