//! [`Reserved`]: address space of ours beside the guest's, for pages on their way.
//!
//! Private anonymous memory that holds nothing until pages are moved into it. It is kept out of children and core dumps, has no huge
//! pages, and is never locked, as pages are moved only between memory of equal locks: under `mlockall(MCL_FUTURE)` a new mapping would be
//! locked and filled at once, so it is mapped without access first.

use super::Refusal;
use super::claims::Claim;
use std::io;
use std::ops::Range;

/// How often a place is looked for that nobody claims: a caller may have unmapped a range that is registered still, and the kernel likes
/// to give out such a place again.
const TRIES: u32 = 16;

/// Map `bytes` bytes without access where nobody claims them.
fn place(bytes: usize, tries: u32) -> Result<(*mut libc::c_void, Claim), Refusal> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping wherever the kernel likes; it replaces none.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(Refusal::AddressSpace { bytes, source: io::Error::last_os_error() });
    }
    match Claim::new(start as usize..start as usize + bytes, "memory of this library's own") {
        Ok(claim) => Ok((start, claim)),
        Err(refusal) => {
            // This place is held until another one was found.
            let found = if tries > 0 { place(bytes, tries - 1) } else { Err(refusal) };
            // SAFETY: the mapping was made above, and nobody knows of it.
            unsafe { libc::munmap(start, bytes) };
            found
        }
    }
}

/// A mapping of ours, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    start: usize,
    bytes: usize,
    claim: Option<Claim>,
}

impl Reserved {
    /// `bytes` bytes, readable and writable.
    ///
    /// # Errors
    /// When there is no address space for it.
    pub(super) fn new(bytes: usize) -> Result<Reserved, Refusal> {
        let (start, claim) = place(bytes, TRIES)?;
        let reserved = Reserved { start: start as usize, bytes, claim: Some(claim) };
        // SAFETY: our own mapping. A mapping that is not locked is unlocked without complaint.
        unsafe { libc::munlock(start, bytes) };
        reserved.protect(0..bytes, false)?;
        for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: advice about our own mapping that changes no content. A kernel without huge pages refuses the first, rightly.
            unsafe { libc::madvise(start, bytes, advice) };
        }
        Ok(reserved)
    }

    /// Make part of it, in bytes from its start, executable or not: pages are moved only between memory of equal protection.
    ///
    /// # Errors
    /// When the kernel has no mapping left.
    pub(super) fn protect(&self, part: Range<usize>, execute: bool) -> Result<(), Refusal> {
        let access = libc::PROT_READ | libc::PROT_WRITE | if execute { libc::PROT_EXEC } else { 0 };
        let address = (self.start + part.start) as *mut libc::c_void;
        // SAFETY: part of our own mapping, which holds nothing yet.
        if unsafe { libc::mprotect(address, part.len(), access) } != 0 {
            return Err(Refusal::AddressSpace { bytes: self.bytes, source: io::Error::last_os_error() });
        }
        Ok(())
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }

    /// Give back the frames of part of it, in bytes from its start: what is there is lost. May be called in a signal handler.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn empty(&self, part: Range<usize>) -> io::Result<()> {
        debug_assert!(part.end <= self.bytes);
        let address = (self.start + part.start) as *mut libc::c_void;
        // SAFETY: part of our own mapping, and the caller no longer needs what is there.
        if unsafe { libc::madvise(address, part.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Before it is unmapped: after that the place may be somebody else's, who registers it.
        drop(self.claim.take());
        // SAFETY: our own mapping; those who hold pointers into it hold it too.
        unsafe { libc::munmap(self.start as *mut libc::c_void, self.bytes) };
    }
}
