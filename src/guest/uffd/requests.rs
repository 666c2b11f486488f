//! What a [`Descriptor`] is asked to do: register ranges, fill, move, protect, wake.
//!
//! ```text
//!   copy        bytes --------> missing page        mov        page of mine --> missing page (no copy)
//!   zeropage    zeros --------> missing page        continue_  page of a file -> missing entry of the page table
//!   poison      SIGBUS -------> missing page        protect    writes fault, or do not
//! ```
//!
//! All take addresses and lengths in whole pages. None allocates; all may be made in a signal handler. What fills a page wakes those who
//! wait for it, unless it is done [quietly](Mode::QUIET).

use super::descriptor::request;
use super::{Descriptor, Done, Errno, Error, Ioctls, Modes, abi};
use std::ops::Range;
use std::os::fd::AsFd;

bitflags::bitflags! {
    /// How a page is filled.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Mode: u64 {
        /// Wake nobody.
        const QUIET = 1;
        /// Write-protected from the start: COPY and CONTINUE, in a range registered for it.
        const PROTECTED = 1 << 1;
        /// Pages that are not there are passed over: MOVE.
        const OVER_HOLES = 1 << 2;
    }
}

fn span(range: &Range<usize>) -> abi::Span {
    abi::Span { start: range.start as u64, bytes: range.len() as u64 }
}

impl Descriptor {
    /// Have accesses in `range` fault as `modes` say. Returns which requests the range takes.
    ///
    /// # Safety
    /// Missing pages of the range no longer read as zero but wait for, or are signalled to, whoever serves the descriptor: the
    /// owner of the memory must agree.
    ///
    /// # Errors
    /// [`Taken`](Error::Taken) when another descriptor has part of it, [`Register`](Error::Register) when it is not such memory.
    pub unsafe fn register(&self, range: Range<usize>, modes: Modes) -> Result<Ioctls, Error> {
        let mut register = abi::Register { span: span(&range), mode: modes.bits(), ioctls: 0 };
        // SAFETY: the request's structure; the caller agreed to its effect.
        match unsafe { request(self.as_fd(), abi::REGISTER, &mut register) } {
            Ok(()) => Ok(Ioctls::from_bits_retain(register.ioctls)),
            Err(Errno::BUSY) => Err(Error::Taken { start: range.start, end: range.end }),
            Err(errno) => Err(Error::Register { start: range.start, end: range.end, modes, errno }),
        }
    }

    /// Have `range` fault no more, and wake who waits: missing pages read as zero again.
    ///
    /// # Errors
    /// When it is not such memory.
    pub fn unregister(&self, range: Range<usize>) -> Result<(), Errno> {
        let mut span = span(&range);
        // SAFETY: the request's structure; the kernel gives up a hold on memory.
        unsafe { request(self.as_fd(), abi::UNREGISTER, &mut span) }
    }

    /// Fill missing pages from `from` on with copies of `bytes` bytes at `from`.
    ///
    /// EEXIST: there is a page; it stays. ENOENT: not registered here, or in two mappings.
    pub fn copy(&self, to: usize, from: *const u8, bytes: usize, mode: Mode) -> Done {
        let mut copy = abi::Between {
            to: to as u64,
            from: from as u64,
            bytes: bytes as u64,
            mode: quiet(mode) | if mode.contains(Mode::PROTECTED) { abi::COPY_PROTECTED } else { 0 },
            done: 0,
        };
        // SAFETY: the request's structure; it fills pages that are missing in memory whose owner registered it here, and the kernel
        // checks what it reads.
        let returned = unsafe { request(self.as_fd(), abi::COPY, &mut copy) };
        Done::from_kernel(bytes, copy.done, returned)
    }

    /// Fill missing pages with zeros.
    ///
    /// Errors as for [`copy`](Self::copy).
    pub fn zeropage(&self, range: Range<usize>, mode: Mode) -> Done {
        self.over(abi::ZEROPAGE, range, quiet(mode))
    }

    /// Map missing pages to what their file has; with [`PROTECTED`](Mode::PROTECTED), write-protected.
    ///
    /// EEXIST: mapped already. EFAULT: the file has nothing there.
    pub fn continue_(&self, range: Range<usize>, mode: Mode) -> Done {
        let protected = if mode.contains(Mode::PROTECTED) { abi::CONTINUE_PROTECTED } else { 0 };
        self.over(abi::CONTINUE, range, quiet(mode) | protected)
    }

    /// Have accesses to missing pages end in SIGBUS.
    ///
    /// EEXIST: there is a page. EINVAL: the kernel cannot.
    pub fn poison(&self, range: Range<usize>, mode: Mode) -> Done {
        self.over(abi::POISON, range, quiet(mode))
    }

    fn over(&self, number: u64, range: Range<usize>, mode: u64) -> Done {
        let mut over = abi::Over { span: span(&range), mode, done: 0 };
        // SAFETY: the request's structure; it fills pages that are missing in memory whose owner registered it here.
        let returned = unsafe { request(self.as_fd(), number, &mut over) };
        Done::from_kernel(range.len(), over.done, returned)
    }

    /// Move pages of private anonymous memory from `from` to missing pages at `to`. No byte is copied: what is mapped there is mapped
    /// here afterwards, at once.
    ///
    /// EBUSY: the page is pinned or shared after a fork. EEXIST: there is a page at `to`. ENOENT: there is none at `from`. EINVAL: `to` is
    /// not registered here, the two differ in protection or locks, or a range spans two mappings.
    ///
    /// # Safety
    /// The pages at `from` are gone afterwards, and read as zero or fault: their owner must agree.
    pub unsafe fn mov(&self, to: usize, from: usize, bytes: usize, mode: Mode) -> Done {
        let holes = if mode.contains(Mode::OVER_HOLES) { abi::MOVE_OVER_HOLES } else { 0 };
        let mut between =
            abi::Between { to: to as u64, from: from as u64, bytes: bytes as u64, mode: quiet(mode) | holes, done: 0 };
        // SAFETY: the request's structure; the caller agreed to its effect.
        let returned = unsafe { request(self.as_fd(), abi::MOVE, &mut between) };
        Done::from_kernel(bytes, between.done, returned)
    }

    /// Have writes to `range` fault.
    ///
    /// # Errors
    /// ENOENT: not registered for it. EAGAIN: the mapping is changing.
    pub fn protect(&self, range: Range<usize>) -> Result<(), Errno> {
        self.write_protection(range, abi::PROTECT)
    }

    /// Have them fault no more, and wake who waits unless it is to be done quietly.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    pub fn unprotect(&self, range: Range<usize>, mode: Mode) -> Result<(), Errno> {
        self.write_protection(range, if mode.contains(Mode::QUIET) { abi::PROTECT_DONT_WAKE } else { 0 })
    }

    fn write_protection(&self, range: Range<usize>, mode: u64) -> Result<(), Errno> {
        let mut protect = abi::Protect { span: span(&range), mode };
        // SAFETY: the request's structure; it delays writes to memory whose owner registered it here.
        unsafe { request(self.as_fd(), abi::WRITEPROTECT, &mut protect) }
    }

    /// Wake who waits for a page of `range`: they access it again.
    ///
    /// # Errors
    /// EINVAL when the range is not in whole pages.
    pub fn wake(&self, range: Range<usize>) -> Result<(), Errno> {
        let mut span = span(&range);
        // SAFETY: the request's structure; it wakes threads.
        unsafe { request(self.as_fd(), abi::WAKE, &mut span) }
    }
}

fn quiet(mode: Mode) -> u64 {
    if mode.contains(Mode::QUIET) { abi::DONT_WAKE } else { 0 }
}
