//! The errors of the userfaultfd layer: each says what to do.

use super::{Errno, Features, Modes};
use std::io;

/// Why there is no descriptor, or why it did not do what was asked. Requests that resolve faults answer with [`Done`](super::Done).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EPERM for a descriptor that also serves faults of the kernel.
    #[error(
        "This process may not serve page faults that happen inside the kernel (userfaultfd: EPERM; /dev/userfaultfd: {device}). \
         Do one of these: run it as root or with CAP_SYS_PTRACE; or set `sysctl vm.unprivileged_userfaultfd=1`; or give its user \
         access to /dev/userfaultfd (for example `setfacl -m u:USER:rw /dev/userfaultfd`). Where only the program's own threads \
         touch the memory, and no system call, KVM or vhost does while a page is out, ask for faults in user mode only, which \
         needs no permission."
    )]
    NotPermitted {
        /// What opening the device said.
        device: io::Error,
    },
    /// EPERM for one in user mode only, which every process may have.
    #[error(
        "Even a descriptor for faults in user mode only was refused (userfaultfd: EPERM): a seccomp filter or a container's policy \
         does it. Allow the system call userfaultfd, and ioctl on what it returns; docs/embedding.md has the list."
    )]
    Filtered,
    /// ENOSYS.
    #[error(
        "There is no system call userfaultfd (ENOSYS): the kernel was built without CONFIG_USERFAULTFD, or a seccomp filter hides \
         it. Use a kernel from 5.11 on that has it, or allow the call."
    )]
    NoSystemCall,
    /// The device cannot be had.
    #[error(
        "/dev/userfaultfd cannot be used ({source}): give this user access to it, or open the descriptor by system call."
    )]
    Device {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel lacks features.
    #[error(
        "This kernel's userfaultfd lacks {missing}: use a newer kernel ({since} has all of it), or an option that does without."
    )]
    Missing {
        /// What was needed and is not there.
        missing: Features,
        /// The first version that has them.
        since: &'static str,
    },
    /// EPERM for fork events.
    #[error(
        "Events of forks need CAP_SYS_PTRACE, which this process lacks (EPERM): run it as root or with that capability, or keep the \
         memory out of children (the default), or bring everything in before a fork."
    )]
    ForkEvents,
    /// Too many files.
    #[error("No file descriptor is left for userfaultfd ({source}): raise `ulimit -n`, or close some.")]
    TooManyFiles {
        /// What the kernel said.
        source: io::Error,
    },
    /// Another descriptor has the range.
    #[error(
        "{start:#x} to {end:#x} is registered with another userfaultfd descriptor (EBUSY): unregister it there first, or leave it to \
         whoever serves it."
    )]
    Taken {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },
    /// The range cannot be registered so.
    #[error(
        "{start:#x} to {end:#x} cannot be registered for {modes} ({errno}): the range must be mapped, in whole pages, and private \
         anonymous memory or a memfd; MINOR is for memfd only."
    )]
    Register {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// What it was to be registered for.
        modes: Modes,
        /// What the kernel said.
        errno: Errno,
    },
    /// Anything else.
    #[error("{what} failed: {errno}.")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl Error {
    /// The error number behind it, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::NotPermitted { .. } | Error::Filtered | Error::ForkEvents => Some(Errno::NOT_PERMITTED),
            Error::NoSystemCall => Some(Errno::NO_SYSTEM_CALL),
            Error::Device { source } | Error::TooManyFiles { source } => source.raw_os_error().map(Errno),
            Error::Missing { .. } => None,
            Error::Taken { .. } => Some(Errno::BUSY),
            Error::Register { errno, .. } | Error::Failed { errno, .. } => Some(*errno),
        }
    }
}

/// The first kernel that has all of `features`.
pub(super) fn since(features: Features) -> &'static str {
    // Newest first.
    let versions = [
        (Features::MOVE, "6.8"),
        (Features::WP_ASYNC, "6.7"),
        (Features::POISON, "6.6"),
        (Features::WP_UNPOPULATED, "6.4"),
        (Features::WP_HUGETLBFS_SHMEM, "5.19"),
        (Features::EXACT_ADDRESS, "5.18"),
        (Features::MINOR_SHMEM, "5.14"),
        (Features::MINOR_HUGETLBFS, "5.13"),
        (Features::PAGEFAULT_FLAG_WP, "5.7"),
    ];
    if Features::all().contains(features) {
        versions.iter().find(|(feature, _)| features.intersects(*feature)).map_or("4.14", |(_, version)| version)
    } else {
        "none known to this library"
    }
}
