//! [`Canary`]: a page by which a child of fork knows that it was not born just as its parent was killed.
//!
//! ```text
//!   parent: the page is registered, and never touched     child: wiped by the fork, registered
//!   parent's reader: reads of the fork --> ward sent --> COPY of ones into the child's page
//!   child, if it asks:   ones: it is under the guardian     zeroes: its descriptor has gone with its parent, and so has what is out
//! ```
//!
//! Between the read of an event and the sending of what it brought lie a few instructions. Whoever is killed there leaves a child whose memory nobody
//! holds: what is out of it reads as zeroes, and so does this page. (Killed before the read, there is no child: the fork is called off.)

use super::last_words;
use crate::guest::Error;
use crate::guest::uffd::{Descriptor, Errno, Mode, Modes};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::yield_now;
use crate::sync::{Arc, process_static};
use crate::units::PAGE_SIZE;
use std::io;
use std::ptr;

/// VMs that can have one at once; others do without.
const MOST: usize = 16;

/// How often a copy is tried while its mapping changes, or there is no memory.
const TRIES: u32 = 1000;

process_static! {
    /// Addresses of those that there are, 0 where there is none.
    CANARIES: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST]
}

/// A VM's.
#[derive(Debug)]
pub(super) struct Canary {
    page: usize,
    descriptor: Arc<Descriptor>,
}

/// A child was born, and is under the guardian: it is told.
pub(super) fn tell(child: &Descriptor) {
    let ones = [1u8; PAGE_SIZE];
    for canary in CANARIES.iter() {
        let page = canary.load(Ordering::Acquire);
        let mut tries = 0;
        // That of another VM is not registered with this one.
        while page != 0
            && tries < TRIES
            && matches!(
                child.copy(page, ones.as_ptr(), PAGE_SIZE, Mode::empty()).stopped,
                Some(Errno::AGAIN | Errno::NO_MEMORY)
            )
        {
            tries += 1;
            yield_now();
        }
    }
}

/// In a child: end it with a sentence if it was born as its parent was killed. Takes no lock; waits for who serves it, if it has to.
pub(super) fn look() {
    for canary in CANARIES.iter() {
        let page = canary.load(Ordering::Acquire);
        // SAFETY: the page stays mapped in children.
        if page != 0 && unsafe { ptr::with_exposed_provenance::<u8>(page).read_volatile() } == 0 {
            last_words::end(format_args!(
                "this child of fork was born as its parent was killed, who had pages of it out: they would read as zeroes, so it ends"
            ));
        }
    }
}

impl Canary {
    /// One for the VM with this descriptor. `None` where there are too many.
    ///
    /// # Errors
    /// When the system has no page.
    pub(super) fn new(descriptor: &Arc<Descriptor>) -> Result<Option<Canary>, Error> {
        let refused = |source| Error::Service {
            doing: "map the page by which children know that their parent serves them",
            source,
        };
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, wherever the kernel likes.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_SIZE, prot, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(refused(io::Error::last_os_error()));
        }
        // From here on it is unmapped in the end.
        let canary = Canary { page: page.expose_provenance(), descriptor: Arc::clone(descriptor) };
        // SAFETY: the mapping is ours.
        if unsafe { libc::madvise(page, PAGE_SIZE, libc::MADV_WIPEONFORK) } != 0 {
            return Err(refused(io::Error::last_os_error()));
        }
        // SAFETY: the mapping is ours, and nobody touches it but children.
        unsafe { descriptor.register(canary.page..canary.page + PAGE_SIZE, Modes::MISSING) }?;
        // Release pairs with the acquire of who looks: it is mapped and registered.
        let kept =
            |place: &AtomicUsize| place.compare_exchange(0, canary.page, Ordering::Release, Ordering::Relaxed).is_ok();
        Ok(CANARIES.iter().any(kept).then_some(canary))
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        if super::fork_mark::in_child() {
            return; // its parent's, and asked for still
        }
        for place in CANARIES.iter() {
            let _ = place.compare_exchange(self.page, 0, Ordering::AcqRel, Ordering::Relaxed); // another's stays
        }
        let _ = self.descriptor.unregister(self.page..self.page + PAGE_SIZE); // or goes with the mapping
        // SAFETY: ours, and of nobody's list any more. Who forks at this moment has its own copy.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.page), PAGE_SIZE) };
    }
}
