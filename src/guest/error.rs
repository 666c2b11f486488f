//! What can go wrong with guest memory: whole sentences that say what to do.

use super::memory::Refusal;
use super::uffd;
use crate::{memcg, zswap};
use std::io;
use std::ops::Range;

/// Why an operation on guest memory was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range lies in one that is registered already, or the other way round.
    #[error(
        "{range:#x?} overlaps {other:#x?}, which is registered already: unregister that first, or register what lies beside it"
    )]
    Overlap {
        /// The addresses that were to be registered.
        range: Range<usize>,
        /// Those that are.
        other: Range<usize>,
    },
    /// A range of zero bytes, or one that does not begin and end with a page.
    #[error("{range:#x?} does not begin and end with a page of 4096 bytes: round it to whole pages")]
    Unaligned {
        /// The addresses, or the offsets in the region.
        range: Range<usize>,
    },
    /// More pages than a region can have.
    #[error("{pages} pages are more than the {most} that one region can have: register it in parts")]
    TooLarge {
        /// Pages of the range.
        pages: u64,
        /// The most there can be.
        most: u64,
    },
    /// A range that is not inside the region, or the addresses are of no region of this VM.
    #[error("{range:#x?} is outside of what is registered, which is {inside:#x?}: ask for what lies inside")]
    Outside {
        /// What was asked for.
        range: Range<usize>,
        /// What there is.
        inside: Range<usize>,
    },
    /// No address space for a region's tables or its shadow.
    #[error("cannot reserve {bytes} bytes of address space for {what}: raise `ulimit -v` or register less")]
    AddressSpace {
        /// Bytes asked for.
        bytes: u64,
        /// What they are for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a request about the region's memory.
    #[error("the kernel refused to {doing} page {page} of the region at {address:#x}: {source}")]
    Kernel {
        /// What was asked for.
        doing: &'static str,
        /// Number of the page in its region.
        page: u32,
        /// Address of the page.
        address: usize,
        /// What it said.
        source: io::Error,
    },
    /// The range was unmapped, or the process that has it is gone.
    #[error(
        "the memory at {address:#x} is not registered with the kernel any more (unmapped, or its process ended): drop the region"
    )]
    Gone {
        /// Address of the first page that is gone.
        address: usize,
    },
    /// A page's content cannot be had. It stays poisoned: who touches it gets a SIGBUS.
    #[error(
        "page {page} of the region at {address:#x} cannot be read back: {source}; discard it, or try again if the device comes back"
    )]
    Unreadable {
        /// Number of the page in its region.
        page: u32,
        /// Address of the page.
        address: usize,
        /// What the store says.
        source: zswap::Error,
    },
    /// A page that is pinned cannot be discarded.
    #[error("page {page} is pinned: drop its pins before it is discarded")]
    Pinned {
        /// Number of the page in its region.
        page: u32,
    },
    /// As many pins as a page can have.
    #[error(
        "page {page} is pinned {most} times, which is as often as a page can be: pin a range once and share the pin"
    )]
    TooManyPins {
        /// Number of the page in its region.
        page: u32,
        /// The most there can be.
        most: u32,
    },
    /// Guest addresses that have memory already.
    #[error(
        "the guest has memory at {other:#x?} already, and {range:#x?} overlaps it: unplug that first, or use other addresses"
    )]
    GuestOverlap {
        /// The guest addresses that were to be registered.
        range: Range<u64>,
        /// Those that are.
        other: Range<u64>,
    },
    /// Guest addresses that have no registered memory.
    #[error("some of the guest addresses {range:#x?} have no registered memory: ask for what the map's regions hold")]
    NoGuestMemory {
        /// The guest addresses.
        range: Range<u64>,
    },
    /// Memory of huge pages.
    #[error(
        "the guest's memory at {range:#x?} lies in huge pages of hugetlbfs, which leave only as a whole and are not supported: map normal \
         pages (transparent huge pages are all right)"
    )]
    HugeGuestMemory {
        /// The guest addresses.
        range: Range<u64>,
    },
    /// Memory that a monitor cannot show at an address of this process.
    #[error(
        "the guest's memory at {range:#x?} has no host address ({reason}): only memory that is mapped here can be registered"
    )]
    NoHostAddress {
        /// The guest addresses.
        range: Range<u64>,
        /// What its collection says.
        reason: String,
    },
    /// Two options exclude each other.
    #[error("{what}: {instead}")]
    Options {
        /// What does not go together.
        what: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// The kernel has no userfaultfd that does what is needed, or does not permit it.
    #[error(transparent)]
    Userfaultfd(#[from] uffd::Error),
    /// Memory of a kind, or in a state, that cannot be registered.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The memcg is of another tree than the engine's.
    #[error("memcg {path} is not of this engine's tree: make it below Engine::root")]
    ForeignMemcg {
        /// Its path there.
        path: String,
    },
    /// The system refused a thread.
    #[error("cannot start a thread for {what}: raise `ulimit -u`, or the pids limit of the cgroup ({source})")]
    NoThread {
        /// What it was for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// What serves faults could not be set up.
    #[error("a service of page faults could not {doing}: {source}")]
    Service {
        /// What it was at.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The process's handler of SIGBUS is not the one that serves faults.
    #[error(
        "another part of the process has installed a handler of SIGBUS after the one that serves faults in their threads: make the first \
         VM after it is installed; or have it call service::sigbus::handle() first, and say so by service::sigbus::adopt(); or serve \
         faults by Service::Threads"
    )]
    SigbusTaken,
    /// `mremap` has moved a range there, or is moving it away, and its pages have not followed yet.
    #[error("{range:#x?} was just moved by mremap, or is being moved: try again in a moment")]
    Moving {
        /// The addresses.
        range: Range<usize>,
    },
    /// Something else may be mapped there by now.
    #[error("{range:#x?} is not what it was when it was found, and was not registered: look again")]
    Changed {
        /// The addresses.
        range: Range<usize>,
    },
    /// A limit, a memcg.
    #[error(transparent)]
    Memcg(#[from] memcg::Error),
    /// The store.
    #[error(transparent)]
    Zswap(#[from] zswap::Error),
}
