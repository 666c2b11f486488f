//! [`Errno`], and [`Done`]: how far a request came, and what ended it.

use std::{fmt, io};

/// An error number of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// EAGAIN: the mapping is changing, or (with bytes done) something lies behind them.
    pub const AGAIN: Errno = Errno(libc::EAGAIN);
    /// EBUSY: somebody else holds the page or the range.
    pub const BUSY: Errno = Errno(libc::EBUSY);
    /// EEXIST: there is a page already.
    pub const EXISTS: Errno = Errno(libc::EEXIST);
    /// EINVAL: what was asked has no meaning here.
    pub const INVALID: Errno = Errno(libc::EINVAL);
    /// ENOENT: nothing there, or the range spans two mappings.
    pub const NO_ENTRY: Errno = Errno(libc::ENOENT);
    /// ESRCH: the process is gone.
    pub const NO_PROCESS: Errno = Errno(libc::ESRCH);
    /// ENOMEM: no memory for a frame or a page table.
    pub const NO_MEMORY: Errno = Errno(libc::ENOMEM);
    /// EFAULT: an address that cannot be read or written; with CONTINUE, a page that is not in the file.
    pub const FAULT: Errno = Errno(libc::EFAULT);
    /// EPERM.
    pub const NOT_PERMITTED: Errno = Errno(libc::EPERM);
    /// ENOSYS.
    pub const NO_SYSTEM_CALL: Errno = Errno(libc::ENOSYS);

    /// What the last system call of this thread that failed said.
    pub fn last() -> Errno {
        Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) // allocates nothing
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({self})")
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::EAGAIN => "EAGAIN",
            libc::EBADF => "EBADF",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::EFAULT => "EFAULT",
            libc::EINTR => "EINTR",
            libc::EINVAL => "EINVAL",
            libc::EIO => "EIO",
            libc::EMFILE => "EMFILE",
            libc::ENFILE => "ENFILE",
            libc::ENODEV => "ENODEV",
            libc::ENOENT => "ENOENT",
            libc::ENOMEM => "ENOMEM",
            libc::ENOSPC => "ENOSPC",
            libc::ENOSYS => "ENOSYS",
            libc::ENOTTY => "ENOTTY",
            libc::EPERM => "EPERM",
            libc::ESRCH => "ESRCH",
            number => return write!(f, "errno {number}"),
        };
        f.write_str(name)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

/// How far a request over a range came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Done {
    /// Bytes done, from the start of the range.
    pub bytes: usize,
    /// What ended it; `None` when all was done. After some bytes this is EAGAIN whatever lies behind them: ask again from there to learn
    /// what it is. EAGAIN after none means that the mapping is changing: read the descriptor's events first.
    pub stopped: Option<Errno>,
}

impl Done {
    /// Whether the whole range was done.
    pub fn all(self) -> bool {
        self.stopped.is_none()
    }

    /// The count that a request of `asked` bytes left in `field`, and what the call returned.
    ///
    /// The field is an error number below zero where nothing was done: taken for a count, it would be a huge one.
    pub(super) fn from_kernel(asked: usize, field: i64, returned: Result<(), Errno>) -> Done {
        match returned {
            Ok(()) => Done { bytes: asked, stopped: None },
            Err(errno) => {
                Done { bytes: usize::try_from(field).map_or(0, |done| done.min(asked)), stopped: Some(errno) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_below_zero_is_no_progress() {
        let done = Done::from_kernel(8192, -i64::from(libc::EAGAIN), Err(Errno::AGAIN));
        assert_eq!(done, Done { bytes: 0, stopped: Some(Errno::AGAIN) });
        assert!(!done.all());
    }

    #[test]
    fn a_partial_count_is_kept_beside_the_error() {
        assert_eq!(Done::from_kernel(8192, 4096, Err(Errno::AGAIN)), Done { bytes: 4096, stopped: Some(Errno::AGAIN) });
        assert_eq!(Done::from_kernel(8192, 8192, Ok(())), Done { bytes: 8192, stopped: None });
    }

    #[test]
    fn numbers_have_names() {
        assert_eq!(Errno::EXISTS.to_string(), "EEXIST");
        assert_eq!(format!("{:?}", Errno(12345)), "Errno(errno 12345)");
    }
}
