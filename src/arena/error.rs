//! What the arena refuses, and why.

use crate::units::NodeId;
use std::io;

/// A refusal of the arena. Nothing has changed that the caller could see, but for frames as [`Arena::ensure`] says.
///
/// [`Arena::ensure`]: super::Arena::ensure
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Even the smallest useful range of addresses could not be reserved.
    #[error(
        "{bytes} bytes of address space could not be reserved for the pool ({source}); raise `ulimit -v`, or allow the \
         reservation in /proc/sys/vm/overcommit_memory"
    )]
    Reserve {
        /// The smallest number of bytes that was tried.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// More address space was asked for than locations can name.
    #[error("{bytes} bytes of address space are more than an arena can name; ask for at most {max}")]
    AddressSpace {
        /// Bytes asked for.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
    /// Runs of this length are not supported.
    #[error("a run of {run_frames} frames is not possible; use a power of two from 1 to 64")]
    RunFrames {
        /// Frames asked for.
        run_frames: usize,
    },
    /// The machine's pages are not as large as frames.
    #[error("this machine has pages of {bytes} bytes, and zspool only runs where they have 4096")]
    PageSize {
        /// Size of the machine's pages in bytes.
        bytes: u64,
    },
    /// Every run is handed out.
    #[error("all {runs} runs of the pool's address space are in use; make the pool with a larger `address_space`")]
    NoRun {
        /// Runs there are.
        runs: u64,
    },
    /// The limit leaves no room.
    #[error("the pool has {backed} of at most {limit} bytes backed; free something or raise the limit")]
    Limit {
        /// Bytes backed when the call gave up.
        backed: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The node's capacity leaves no room.
    #[error("node {node} is full at {capacity} bytes; use another node or free something there")]
    NodeFull {
        /// The node asked for.
        node: NodeId,
        /// Its capacity in bytes.
        capacity: u64,
    },
    /// The topology has no such node.
    #[error("there is no node {node}; the pool was made for {nodes} nodes, numbered from 0")]
    NoSuchNode {
        /// The node asked for.
        node: NodeId,
        /// Nodes there are.
        nodes: usize,
    },
    /// The kernel has no memory to give.
    #[error("the kernel refused {bytes} bytes of memory for the pool ({source}); free memory on this machine")]
    NoMemory {
        /// Bytes asked of the kernel.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
}
