//! [`Features`], [`Modes`], [`Ioctls`]: what a descriptor can do, what a range is registered for, which requests it takes.

use std::fmt;

/// Lets a set of bits name its members: `EVENT_FORK, MOVE`.
macro_rules! named_bits {
    ($set:ident) => {
        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut first = true;
                for (name, _) in self.iter_names() {
                    f.write_str(if first { "" } else { ", " })?;
                    f.write_str(name)?;
                    first = false;
                }
                let unnamed = self.bits() & !Self::all().bits();
                match (first, unnamed) {
                    (true, 0) => f.write_str("none"),
                    (_, 0) => Ok(()),
                    (true, bits) => write!(f, "{bits:#x}"),
                    (false, bits) => write!(f, ", {bits:#x}"),
                }
            }
        }
    };
}

bitflags::bitflags! {
    /// `UFFD_FEATURE_*`: what a userfaultfd descriptor was asked for, or what the kernel has.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u64 {
        /// Write faults of protected anonymous memory (5.7).
        const PAGEFAULT_FLAG_WP = 1;
        /// An event for each fork, with the child's descriptor. Needs CAP_SYS_PTRACE.
        const EVENT_FORK = 1 << 1;
        /// An event for each `mremap`.
        const EVENT_REMAP = 1 << 2;
        /// An event for each `madvise` that drops pages; whoever drops them waits until it was read.
        const EVENT_REMOVE = 1 << 3;
        /// Missing pages of hugetlbfs.
        const MISSING_HUGETLBFS = 1 << 4;
        /// Missing pages of shared memory.
        const MISSING_SHMEM = 1 << 5;
        /// An event for each `munmap`.
        const EVENT_UNMAP = 1 << 6;
        /// No fault events: SIGBUS in the thread that faults (4.14).
        const SIGBUS = 1 << 7;
        /// Fault events carry the thread's id.
        const THREAD_ID = 1 << 8;
        /// Faults on pages of hugetlbfs that are in the file and not mapped (5.13).
        const MINOR_HUGETLBFS = 1 << 9;
        /// The same for shared memory (5.14).
        const MINOR_SHMEM = 1 << 10;
        /// Fault events carry the address to the byte (5.18).
        const EXACT_ADDRESS = 1 << 11;
        /// Write protection of shared memory and hugetlbfs (5.19).
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Write protection of anonymous pages that are not there (6.4).
        const WP_UNPOPULATED = 1 << 13;
        /// POISON (6.6).
        const POISON = 1 << 14;
        /// Writes to protected pages are noted and not waited for; no write faults then (6.7).
        const WP_ASYNC = 1 << 15;
        /// MOVE (6.8).
        const MOVE = 1 << 16;
    }

    /// `UFFDIO_REGISTER_MODE_*`: which accesses of a range fault.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Modes: u64 {
        /// To pages that are nowhere.
        const MISSING = 1;
        /// Writes to protected pages.
        const PROTECT = 1 << 1;
        /// To pages that are in the file and not mapped; shared memory only.
        const MINOR = 1 << 2;
    }

    /// The requests a registered range takes, as the kernel says when it is registered.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Ioctls: u64 {
        /// `UFFDIO_WAKE`.
        const WAKE = 1 << 2;
        /// `UFFDIO_COPY`.
        const COPY = 1 << 3;
        /// `UFFDIO_ZEROPAGE`.
        const ZEROPAGE = 1 << 4;
        /// `UFFDIO_MOVE`.
        const MOVE = 1 << 5;
        /// `UFFDIO_WRITEPROTECT`.
        const WRITEPROTECT = 1 << 6;
        /// `UFFDIO_CONTINUE`.
        const CONTINUE = 1 << 7;
        /// `UFFDIO_POISON`.
        const POISON = 1 << 8;
    }
}

named_bits!(Features);
named_bits!(Modes);
named_bits!(Ioctls);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_name_their_members() {
        assert_eq!((Features::MOVE | Features::EVENT_FORK).to_string(), "EVENT_FORK, MOVE");
        assert_eq!(Features::empty().to_string(), "none");
        assert_eq!(Features::from_bits_retain(1 << 40 | 1 << 16).to_string(), "MOVE, 0x10000000000");
        assert_eq!(Modes::from_bits_retain(1 << 9).to_string(), "0x200");
    }
}
