//! What the allocator refuses, and why.

use super::handle::Handle;
use crate::units::NodeMask;
use crate::{arena, memcg};
use std::io;

/// A refusal of a [`Pool`](super::Pool). Nothing has changed that the caller could see.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Classes cannot be made from these numbers.
    #[error(
        "slots from {min} bytes in steps of {step} with chains of up to {max_chain} frames are not possible; use \
         multiples of 16 up to 4096, at least 32 for the smallest, and 1 to 16 frames"
    )]
    Geometry {
        /// Smallest slot in bytes.
        min: usize,
        /// Distance of sizes in bytes.
        step: usize,
        /// Longest chain in frames.
        max_chain: usize,
    },
    /// Runs of the arena are too short for the zspages of the geometry.
    #[error(
        "a zspage may take {chain} frames and a run of the arena has {run_frames}; make the arena with longer runs"
    )]
    ShortRuns {
        /// Longest chain in frames.
        chain: usize,
        /// Frames in a run.
        run_frames: usize,
    },
    /// The memcg tree counts on fewer nodes than the arena has.
    #[error("the arena has {arena} nodes and the memcg tree counts on {tree}; make both for the same number")]
    Nodes {
        /// Nodes of the arena.
        arena: usize,
        /// Nodes of the tree.
        tree: usize,
    },
    /// Address space for descriptors and entries could not be reserved.
    #[error(
        "address space for the pool's metadata could not be reserved ({0}); raise `ulimit -v` or use a smaller arena"
    )]
    Metadata(#[source] io::Error),
    /// An object of this length is not possible.
    #[error("an object of {len} bytes is not possible; ask for 1 to 4096 bytes")]
    Length {
        /// Bytes asked for.
        len: usize,
    },
    /// What was written is not as long as what was asked for.
    #[error("{written} bytes were written into an object of {len}; write exactly as many as were asked for")]
    WrongLength {
        /// Bytes written.
        written: usize,
        /// Length of the object in bytes.
        len: usize,
    },
    /// The bytes that were charged ahead for the object do not pay for its slot.
    #[error(
        "an object of {len} bytes needs a slot of {size} and {prepaid} bytes were charged ahead; charge a whole page"
    )]
    Prepaid {
        /// Length of the object in bytes.
        len: usize,
        /// Size of its slot in bytes.
        size: usize,
        /// Bytes charged ahead.
        prepaid: u64,
    },
    /// A memcg is at its limit.
    #[error(transparent)]
    Limit(memcg::LimitHit),
    /// The memcg that was to be charged was removed.
    #[error(transparent)]
    Memcg(memcg::Error),
    /// The memcg that was to be charged is not of the tree that the pool was made with.
    #[error("{path} is a memcg of another tree; use one of the tree that the pool was made with")]
    ForeignMemcg {
        /// Its path there.
        path: String,
    },
    /// The arena has no frame or run to give.
    #[error(transparent)]
    Arena(#[from] arena::Error),
    /// Every node that the owner's objects may lie on is full.
    #[error("no room is left on the nodes {nodes}, where the pool has {backed} bytes{}; {}", at_most(.capacity), ADVICE)]
    NodesFull {
        /// The nodes.
        nodes: NodeMask,
        /// Bytes backed there.
        backed: u64,
        /// Bytes they have room for together; `None` where the kernel decides.
        capacity: Option<u64>,
    },
    /// There is no room for the entries of another zspage.
    #[error(
        "the table of entries is full with {bytes} bytes in use; free objects or make the pool with a larger arena"
    )]
    Entries {
        /// Bytes in use.
        bytes: u64,
    },
}

const ADVICE: &str = "free something there, or let the memcg use more nodes (memory.zswap.nodes)";

fn at_most(capacity: &Option<u64>) -> String {
    capacity.map_or(String::new(), |bytes| format!(" of at most {bytes}"))
}

impl From<memcg::ChargeError> for Error {
    fn from(refused: memcg::ChargeError) -> Self {
        match refused {
            memcg::ChargeError::Limit(hit) => Error::Limit(hit),
            memcg::ChargeError::Offline(error) => Error::Memcg(error),
            memcg::ChargeError::Foreign { path } => Error::ForeignMemcg { path },
        }
    }
}

/// A refusal of a [`Pool`](super::Pool) with handles of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The pool has no room, or cannot hold such an object.
    #[error(transparent)]
    Pool(#[from] Error),
    /// The handle is of another pool.
    #[error("{handle:?} is of the pool with tag {theirs} and this one has tag {ours}; ask the pool that made it")]
    ForeignHandle {
        /// The handle.
        handle: Handle,
        /// Its tag.
        theirs: u8,
        /// This pool's tag.
        ours: u8,
    },
    /// The handle's index was never given out.
    #[error("{handle:?} was never made by this pool: it has made {made} indexes; check where the handle came from")]
    OutOfRange {
        /// The handle.
        handle: Handle,
        /// Indexes given out so far.
        made: u32,
    },
    /// The handle's object was removed, and its index is free or another object's.
    #[error(
        "{handle:?} was removed before (its index is at generation {now}); drop handles when removing their objects"
    )]
    Stale {
        /// The handle.
        handle: Handle,
        /// Generation of the index now.
        now: u32,
    },
    /// Every index is in use or retired.
    #[error("all {indexes} handles of the pool are in use or retired; remove objects or open another pool")]
    NoHandle {
        /// Indexes there are.
        indexes: u32,
    },
    /// All tags belong to live pools.
    #[error("{live} pools are open and tags only tell that many apart; close one first")]
    NoTag {
        /// Pools open.
        live: usize,
    },
}
