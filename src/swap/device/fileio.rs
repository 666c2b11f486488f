//! [`FileIo`]: requests to an open file or block device, past the page cache where the system allows it.
//!
//! ```text
//!   byte of the file    0          base                                        base + len
//!                       +----------+--------------------------------------------+
//!                       |  header  |  what requests reach                       |
//!                       +----------+--------------------------------------------+
//!   byte of the device             0                                            len
//! ```
//!
//! 1. Direct I/O is tried first; the first refusal turns it off for good.
//! 2. Without it, what was written is on the disk when the request is over, and nothing of it stays in the page cache: the
//!    cache is not to hold what was to leave memory.
//! 3. A request that the system does in parts is gone on with; one that it does not finish says how far it came.

use super::syscalls;
use super::{Cause, Failure, Op, Request};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::PAGE_SIZE;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// An open file or block device, and how it is read and written.
#[derive(Debug)]
pub(super) struct FileIo {
    file: File,
    /// Byte of the file that is byte 0 of the device.
    base: u64,
    /// Bytes after it.
    len: u64,
    /// Requests go past the page cache. Cleared, once, when the system refuses.
    direct: AtomicBool,
    /// Direct I/O was wished for.
    direct_wanted: bool,
}

// === impl FileIo ===

impl FileIo {
    /// Buffered, until [`try_direct`](Self::try_direct) is called.
    pub(super) fn new(file: File, base: u64, len: u64, direct_wanted: bool) -> Self {
        FileIo { file, base, len, direct: AtomicBool::new(false), direct_wanted }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that requests reach.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Go past the page cache from now on, if that is wished for and allowed.
    pub(super) fn try_direct(&self) {
        if self.direct_wanted {
            self.direct.store(syscalls::set_direct(&self.file, true).is_ok(), Ordering::Relaxed);
        }
    }

    /// Whether requests go past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        // Relaxed: it guards nothing; whoever sees the old value gets EINVAL and clears it again.
        self.direct.load(Ordering::Relaxed)
    }

    /// How it is read and written, for people.
    pub(super) fn describe(&self) -> &'static str {
        match (self.is_direct(), self.direct_wanted) {
            (true, _) => "direct I/O",
            (false, true) => "buffered I/O (the file system refuses direct I/O)",
            (false, false) => "buffered I/O",
        }
    }

    /// The file, and the byte of it that is byte 0 of the device.
    pub(super) fn place(&self) -> (&File, u64) {
        (&self.file, self.base)
    }

    /// Do a request that was started, and wait for it.
    pub(super) fn do_request(&self, request: &mut Request) -> Result<(), Failure> {
        let at = self.base + request.offset();
        match request.op() {
            Op::Read => self.read_all(at, request.bytes_mut()),
            Op::Write => self.write_all(at, request.bytes_mut()),
        }
    }

    /// Write at a byte of the device.
    pub(super) fn write_device(&self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.write_all(self.base + offset, bytes)
    }

    /// Give the storage behind bytes of the device back.
    pub(super) fn punch(&self, range: Range<u64>) -> io::Result<()> {
        if range.end > self.len || range.start > range.end {
            return Err(ErrorKind::InvalidInput.into());
        }
        if range.is_empty() {
            return Ok(());
        }
        syscalls::punch(&self.file, self.base + range.start..self.base + range.end)
    }

    /// Write at a byte of the file.
    pub(super) fn write_all(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.continued(bytes.len(), ErrorKind::WriteZero, |done| self.file.write_at(&bytes[done..], at + done as u64))?;
        if !self.is_direct() {
            let range = at..at + bytes.len() as u64;
            syscalls::write_out(&self.file, range.clone()).map_err(|e| Failure { cause: Cause::from(&e), done: 0 })?;
            syscalls::forget(&self.file, range);
        }
        Ok(())
    }

    /// Read at a byte of the file.
    pub(super) fn read_all(&self, at: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        self.continued(bytes.len(), ErrorKind::UnexpectedEof, |done| {
            self.file.read_at(&mut bytes[done..], at + done as u64)
        })?;
        if !self.is_direct() {
            syscalls::forget(&self.file, at..at + bytes.len() as u64);
        }
        Ok(())
    }

    /// Do `step` (bytes done so far: how many more it did) until all `len` bytes are done.
    fn continued(
        &self,
        len: usize,
        end: ErrorKind,
        mut step: impl FnMut(usize) -> io::Result<usize>,
    ) -> Result<(), Failure> {
        let mut done = 0;
        while done < len {
            let direct = self.is_direct();
            // Direct I/O goes on at a whole unit, doing a part of it again.
            let from = if direct { done / PAGE_SIZE * PAGE_SIZE } else { done };
            match step(from) {
                Ok(n) if from + n > done => done = from + n,
                Ok(_) => return Err(Failure { cause: Cause::Kind(end), done }),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) && self.fall_back().is_ok() => {}
                Err(e) => return Err(Failure { cause: Cause::from(&e), done }),
            }
        }
        Ok(())
    }

    /// The system takes no direct I/O after all.
    fn fall_back(&self) -> io::Result<()> {
        syscalls::set_direct(&self.file, false)?;
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }
}
