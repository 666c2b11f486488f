//! The system calls on files that std has no name for: direct I/O, holes, and the page cache.
//!
//! Each takes a borrowed file and numbers, so none can break memory; where a system lacks one, it says `Unsupported` or
//! does without. Swapfiles and block devices call this, and who looks at the file system of one.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

#[cfg(target_os = "linux")]
mod imp {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    fn check(result: libc::c_int) -> io::Result<libc::c_int> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    fn offsets(range: &Range<u64>) -> (libc::off_t, libc::off_t) {
        (range.start as libc::off_t, (range.end - range.start) as libc::off_t)
    }

    pub(in super::super) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
        // SAFETY: `file` is open for the whole call, and F_GETFL takes no pointer.
        let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
        let flags = if direct { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
        // SAFETY: as above; F_SETFL takes an int.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
    }

    pub(in super::super) fn unnamed(folder: &Path, mode: u32) -> io::Result<File> {
        // O_EXCL: nobody can give it a name later.
        let flags = libc::O_TMPFILE | libc::O_EXCL | libc::O_CLOEXEC;
        let file = File::options().read(true).write(true).mode(mode).custom_flags(flags).open(folder);
        file.map_err(|e| match e.raw_os_error() {
            // What file systems and kernels say that have none.
            Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL) => io::ErrorKind::Unsupported.into(),
            _ => e,
        })
    }

    pub(in super::super) fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
        let (start, len) = offsets(&range);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        loop {
            // SAFETY: `file` is open for the whole call, which takes no pointer.
            match check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) }) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                other => return other.map(drop),
            }
        }
    }

    pub(in super::super) fn sector_bytes(file: &File) -> io::Result<usize> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: `file` is open for the whole call, which writes an int to `bytes`.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET as _, &raw mut bytes) })?;
        usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub(in super::super) fn write_out(file: &File, range: Range<u64>) -> io::Result<()> {
        let (start, len) = offsets(&range);
        let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        loop {
            // SAFETY: `file` is open for the whole call, which takes no pointer.
            match check(unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, how) }) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE)) => return Ok(()),
                other => return other.map(drop),
            }
        }
    }

    pub(in super::super) fn forget(file: &File, range: Range<u64>) {
        let (start, len) = offsets(&range);
        // SAFETY: `file` is open for the whole call, which takes no pointer. A refusal leaves pages in the cache, no
        // worse.
        let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, libc::POSIX_FADV_DONTNEED) };
    }

    pub(in super::super) fn free_bytes(file: &File) -> io::Result<u64> {
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `file` is open for the whole call, which writes to the struct alone.
        check(unsafe { libc::fstatvfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
        // SAFETY: zeroes are such a struct, and so is what the call has written.
        let stat = unsafe { stat.assume_init() };
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(in super::super) fn expect_random(file: &File) {
        // SAFETY: as in `forget`. A refusal leaves read-ahead on, no worse.
        let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::*;

    pub(in super::super) fn set_direct(_file: &File, direct: bool) -> io::Result<()> {
        if direct { Err(io::Error::from_raw_os_error(libc::EINVAL)) } else { Ok(()) }
    }

    pub(in super::super) fn unnamed(_folder: &Path, _mode: u32) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn punch(_file: &File, _range: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn sector_bytes(_file: &File) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn write_out(file: &File, _range: Range<u64>) -> io::Result<()> {
        file.sync_data()
    }

    pub(in super::super) fn forget(_file: &File, _range: Range<u64>) {}

    pub(in super::super) fn free_bytes(_file: &File) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn expect_random(_file: &File) {}
}

/// Turn direct I/O on or off. `EINVAL` where the file system has none.
pub(in crate::swap) fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    imp::set_direct(file, direct)
}

/// A new file without a name, in a folder. `Unsupported` where there are none.
pub(in crate::swap) fn unnamed(folder: &Path, mode: u32) -> io::Result<File> {
    imp::unnamed(folder, mode)
}

/// Give the storage of a range back; the file keeps its length. `Unsupported` where that cannot be.
pub(in crate::swap) fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    imp::punch(file, range)
}

/// Bytes of a sector of a block device.
pub(in crate::swap) fn sector_bytes(file: &File) -> io::Result<usize> {
    imp::sector_bytes(file)
}

/// Write cached pages of a range to the disk and wait, so that they can be forgotten and that errors are seen.
pub(in crate::swap) fn write_out(file: &File, range: Range<u64>) -> io::Result<()> {
    imp::write_out(file, range)
}

/// Drop the clean cached pages of a range.
pub(in crate::swap) fn forget(file: &File, range: Range<u64>) {
    imp::forget(file, range);
}

/// Bytes that are free on the file's file system for those without privileges. `Unsupported` where nobody tells.
pub(in crate::swap) fn free_bytes(file: &File) -> io::Result<u64> {
    imp::free_bytes(file)
}

/// Say that no read tells which comes next.
pub(in crate::swap) fn expect_random(file: &File) {
    imp::expect_random(file);
}
