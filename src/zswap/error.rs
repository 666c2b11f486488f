//! What can go wrong with a page. The caller's page is never touched by a refusal.

use crate::units::{NodeMask, Slot};
use crate::{arena, compress, memcg, swap, zsmalloc};

/// Why an operation of [`Zswap`](super::Zswap) was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A load, `take_with`, `dup` or `put` of a slot that holds nothing.
    #[error("slot {} holds no page: store one there first", .slot.0)]
    NotStored {
        /// The slot.
        slot: Slot,
    },
    /// [`try_load`](super::Zswap::try_load) of a page that lies on a device.
    #[error("the page of slot {} lies on a device: load it where waiting is allowed", .slot.0)]
    NeedsIo {
        /// The slot.
        slot: Slot,
    },
    /// What is stored for the slot does not decompress to a page: memory was overwritten.
    #[error("the stored bytes of slot {} are not what was written: the page is lost, free the slot or store it again", .slot.0)]
    Corrupt {
        /// The slot.
        slot: Slot,
    },
    /// The page could not be read back from its device. The slot keeps it: another try may succeed.
    #[error("the page of slot {} could not be read back: {source}", .slot.0)]
    Read {
        /// The slot.
        slot: Slot,
        /// What the device layer found.
        source: swap::Error,
    },
    /// The page was on a device and cannot be had any more. The slot says so, without asking the device again, until it is
    /// stored again or freed.
    #[error("the page of slot {} is lost: {loss}; store it again or free the slot", .slot.0)]
    Lost {
        /// The slot.
        slot: Slot,
        /// What became of it, and where.
        loss: swap::Loss,
    },
    /// A limit of a memcg is reached and nothing below it could be written back.
    #[error("{source}; nothing there could be written back ({reason})")]
    Limit {
        /// Which limit, with its numbers.
        source: memcg::LimitHit,
        /// Why writeback did not help.
        reason: Unwritable,
    },
    /// The pool limit is reached and nothing could be written back.
    #[error("the pool is full ({source}) and nothing could be written back ({reason})")]
    PoolFull {
        /// The limit with its numbers.
        source: zsmalloc::Error,
        /// Why writeback did not help.
        reason: Unwritable,
    },
    /// The nodes that the memcg's objects may lie on are full and nothing there could be written back.
    #[error("{source}; nothing there could be written back ({reason})")]
    NodesFull {
        /// Which nodes, with their numbers.
        source: zsmalloc::Error,
        /// Why writeback did not help.
        reason: Unwritable,
    },
    /// The memcg's nodes were narrowed, and not everything could be moved off the others. What is stored from now on
    /// obeys all the same.
    #[error("{left_bytes} bytes of {path} lie outside of the nodes {nodes} still ({why}); set its nodes again later")]
    Busy {
        /// Path of the memcg.
        path: String,
        /// Where its objects may lie.
        nodes: NodeMask,
        /// Bytes of slots outside.
        left_bytes: u64,
        /// What kept them there.
        why: String,
    },
    /// A slot that has as many references as a slot can have.
    #[error(
        "slot {} has {} references, which is as many as a slot can have: store the page in another one", .slot.0,
        swap::MAX_REFERENCES
    )]
    TooManyReferences {
        /// The slot.
        slot: Slot,
    },
    /// A memcg of another instance's tree: it could be charged, but nothing here would know whom to give back to.
    #[error("the memcg {path} belongs to another instance: make memcgs below this one's root")]
    ForeignMemcg {
        /// Its path there.
        path: String,
    },
    /// A page of which the pool would win next to nothing, in a store that is to win memory; and it is not on a device.
    #[error("the page of slot {} hardly shrinks: it is as well off in memory ({reason})", .slot.0)]
    Incompressible {
        /// The slot.
        slot: Slot,
        /// Why it was not written to a device.
        reason: Unwritable,
    },
    /// A store that may not call the allocator would have to.
    #[error(
        "storing a page in slot {} would call the allocator: call Zswap::prepare_stores first, and again now and then", .slot.0
    )]
    Unprepared {
        /// The slot.
        slot: Slot,
    },
    /// The memcg was taken offline.
    #[error(transparent)]
    Memcg(#[from] memcg::Error),
    /// The slot layer refused: never reserved, too many in use.
    #[error(transparent)]
    Swap(#[from] swap::Error),
    /// The allocator refused.
    #[error(transparent)]
    Pool(#[from] zsmalloc::Error),
    /// No memory to be had from the system, or none on an allowed node.
    #[error(transparent)]
    Arena(#[from] arena::Error),
    /// No such codec.
    #[error(transparent)]
    Codec(#[from] compress::Error),
    /// The worker's thread could not be started.
    #[error(
        "the background worker could not be started ({0}): raise `ulimit -u` (threads) or `ulimit -v` (their stacks), or \
         make the instance with `worker(false)`"
    )]
    Worker(std::io::Error),
    /// No address space for the LRU's links.
    #[error(
        "cannot reserve {bytes} bytes of address space for LRU links: raise `ulimit -v` or allow fewer slots in use"
    )]
    AddressSpace {
        /// Bytes asked for.
        bytes: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Why writeback could not make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unwritable {
    /// There is no device.
    NoDevice,
    /// No device that may be used has a free place.
    DeviceFull,
    /// No device of the tiers that may be used takes writes.
    Shut,
    /// `memory.zswap.writeback` is 0 for those who have something there to be written, or for one above them.
    Disabled,
    /// Nothing that could be written back is counted there.
    NothingThere,
    /// Room was made, and other stores took it, for as long as a store waits.
    Slow,
    /// A `memory.swap.max` admits no more places on devices.
    SwapMax,
    /// Writes to the devices fail.
    WriteFailed,
    /// Everything there is in use this moment.
    Busy,
    /// The store was not to wait.
    NotTried,
}

impl Unwritable {
    /// Why no batch could be begun.
    pub(super) fn of(error: &swap::Error) -> Self {
        match error {
            swap::Error::NoDevice => Unwritable::NoDevice,
            swap::Error::Shut
            | swap::Error::Hung { .. }
            | swap::Error::Forked
            | swap::Error::NoncesExhausted { .. } => Unwritable::Shut,
            _ => Unwritable::DeviceFull,
        }
    }
}

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unwritable::NoDevice => "there is no swap device: add one, or raise the limit",
            Unwritable::DeviceFull => "the swap devices are full: add one, or raise the limit",
            Unwritable::Shut => {
                "no swap device that may be used takes writes: see which are retired, hung or being removed, and what \
                 memory.swap.tiers.max says, or raise the limit"
            }
            Unwritable::Disabled => "memory.zswap.writeback is 0: set it to 1, or raise the limit",
            Unwritable::NothingThere => "there is no entry to write: free something, or raise the limit",
            Unwritable::Slow => {
                "for 100 ms other stores took what room was made: store with fewer threads, use a faster swap device, or \
                 raise the limit"
            }
            Unwritable::SwapMax => "memory.swap.max is reached: raise it, or raise the limit",
            Unwritable::WriteFailed => {
                "writes to the swap device fail: check the disk and the space on its file system, or raise the limit"
            }
            Unwritable::NotTried => "the store was not to wait: store where waiting is allowed, or raise the limit",
            Unwritable::Busy => "every entry is in use: try again, or raise the limit",
        })
    }
}

impl Error {
    /// A refusal of the allocator's, about which nothing may be done.
    pub(super) fn unaided(refused: zsmalloc::Error) -> Self {
        let reason = Unwritable::NotTried;
        match refused {
            zsmalloc::Error::Limit(source) => Error::Limit { source, reason },
            source @ zsmalloc::Error::Arena(arena::Error::Limit { .. }) => Error::PoolFull { source, reason },
            source @ zsmalloc::Error::NodesFull { .. } => Error::NodesFull { source, reason },
            zsmalloc::Error::Memcg(removed) => removed.into(),
            other => other.into(),
        }
    }
}
