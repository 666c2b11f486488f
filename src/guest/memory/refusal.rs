//! [`Refusal`]: memory that cannot be registered, by name, and what to do about it.

use super::Method;
use crate::guest::uffd;
use std::io;

/// Why memory cannot be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    // --- the range
    /// No byte.
    #[error("There is nothing to register: the range at {start:#x} is empty. Give at least one page of 4096 bytes.")]
    Empty {
        /// Where.
        start: usize,
    },
    /// Not in whole pages.
    #[error("{start:#x} to {end:#x} is not in whole pages: begin and end at multiples of 4096.")]
    Unaligned {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },
    /// The machine's pages are of another size.
    #[error("Pages are of {found} bytes here, and only 4096 are supported: run a kernel with pages of 4096 bytes.")]
    PageSize {
        /// Bytes of a page.
        found: usize,
    },
    /// More pages than page numbers.
    #[error(
        "{bytes} bytes are too many for one region: register at most {most} at once, and the rest as further regions."
    )]
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
        /// Most bytes.
        most: usize,
    },
    /// Part of it is registered already, or is memory of this library's.
    #[error(
        "{start:#x} to {end:#x} overlaps {other_start:#x} to {other_end:#x}, which is {what}: register each byte once, and no memory \
         of this library's own."
    )]
    Overlap {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// First byte of the other.
        other_start: usize,
        /// Byte behind its last.
        other_end: usize,
        /// What the other is.
        what: &'static str,
    },
    /// Nothing is mapped there.
    #[error("{start:#x} to {end:#x} is not mapped: map it first, readable and writable, or leave it out.")]
    NotMapped {
        /// First byte that is not.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },

    // --- its protection
    /// No access at all.
    #[error(
        "{start:#x} to {end:#x} is mapped without any access (PROT_NONE): leave reserved and guard pages out, and register them when \
         they were made readable and writable."
    )]
    NoAccess {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },
    /// Not readable, or not writable.
    #[error(
        "{start:#x} to {end:#x} is mapped {access}: pages can only leave and return where they are readable and writable. Leave it \
         out, or mprotect it first."
    )]
    Protection {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// As in `/proc/self/maps`.
        access: String,
    },
    /// Locked by mlock.
    #[error(
        "{start:#x} to {end:#x} is locked in memory (mlock, mlockall or MAP_LOCKED), so none of it may leave: munlock it first, or leave \
         it out."
    )]
    Locked {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },

    // --- its kind
    /// A private mapping of a file.
    #[error(
        "{start:#x} to {end:#x} is a private mapping of {name}: only anonymous memory and memfd can be paged out here (the kernel \
         drops unwritten pages of a file by itself). Leave it out, or copy it to anonymous memory."
    )]
    FileBacked {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// The file.
        name: String,
    },
    /// A shared mapping that was said to be anonymous.
    #[error(
        "{start:#x} to {end:#x} is shared memory ({name}) and was registered as private: use `Memory::memfd` with its descriptor; \
         memory that was mapped MAP_SHARED | MAP_ANONYMOUS has none, so map a memfd instead."
    )]
    Shared {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// The name in `/proc/self/maps`.
        name: String,
    },
    /// A private mapping that was said to be a memfd.
    #[error(
        "{start:#x} to {end:#x} is not a shared mapping ({name}): map the memfd with MAP_SHARED, or register private anonymous memory \
         with `Memory::anonymous`."
    )]
    NotShared {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// The name in `/proc/self/maps`.
        name: String,
    },
    /// Huge pages of hugetlbfs.
    #[error(
        "{start:#x} to {end:#x} is memory of huge pages (hugetlb), which leave only as a whole and are not supported: map normal pages; \
         transparent huge pages (MADV_HUGEPAGE) are all right."
    )]
    Hugetlb {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
    },
    /// A stack, or memory of the kernel's.
    #[error("{start:#x} to {end:#x} is {name}, which the kernel manages: leave it out.")]
    Special {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// The name in `/proc/self/maps`.
        name: String,
    },

    // --- memfd
    /// The descriptor was not to be had.
    #[error(
        "The memfd's descriptor cannot be duplicated ({source}): pass an open one, and raise `ulimit -n` if none is left."
    )]
    Descriptor {
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a file of shared memory.
    #[error("The descriptor is not of a memfd or of a file on a tmpfs: create the memory with memfd_create.")]
    NotMemfd,
    /// Another file or another place in it.
    #[error(
        "{start:#x} to {end:#x} does not show the memfd from offset {offset} on ({found}): pass the descriptor and the offset that the \
         range was mapped with."
    )]
    OtherFile {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// The offset given.
        offset: u64,
        /// What is mapped there.
        found: String,
    },
    /// The file ends inside the range.
    #[error(
        "The memfd has {bytes} bytes and the range ends at {end} of it: make the file larger with ftruncate, or register less."
    )]
    FileTooShort {
        /// Bytes of the file.
        bytes: u64,
        /// Where in the file the range ends.
        end: u64,
    },
    /// Sealed against what has to be done to it.
    #[error("The memfd is sealed against writing ({seal}), so pages cannot leave it: create it without that seal.")]
    Sealed {
        /// The seal.
        seal: &'static str,
    },
    /// Somebody else has it mapped.
    #[error(
        "The memfd is also mapped by process {pid} ({name}), which would read zeroes where pages are out: unmap it there, keep that \
         process's part of the file out of the range, or use anonymous memory."
    )]
    MappedElsewhere {
        /// The process.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// This process has it mapped twice.
    #[error(
        "The same bytes of the memfd are mapped a second time in this process, at {other:#x}: whoever uses that mapping would read zeroes \
         where pages are out. Unmap it, or register memory that is mapped once."
    )]
    MappedTwice {
        /// Where else.
        other: usize,
    },

    // --- what is needed for it
    /// No address space.
    #[error(
        "{bytes} bytes of address space for pages on their way out could not be mapped ({source}): raise `ulimit -v`, or \
         vm.max_map_count, or allow overcommit (vm.overcommit_memory=0 or 1)."
    )]
    AddressSpace {
        /// Bytes asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel cannot do it in this way.
    #[error("Pages cannot be taken out by {method:?} here: {why}")]
    NoMethod {
        /// What was asked for.
        method: Method,
        /// What is missing and what to do.
        why: &'static str,
    },
    /// The kernel did not take an advice.
    #[error("The kernel refused {what} for {start:#x} to {end:#x} ({source}): unlock the range, or leave it out.")]
    Advice {
        /// First byte.
        start: usize,
        /// Byte behind the last.
        end: usize,
        /// The advice.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `/proc` is needed to look at it.
    #[error("{what} cannot be read ({source}): mount /proc, which says what memory a range is.")]
    Proc {
        /// Which file.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// userfaultfd refused.
    #[error(transparent)]
    Userfaultfd(#[from] uffd::Error),
}
