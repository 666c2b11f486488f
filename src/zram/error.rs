//! What a device refuses, and why.

use crate::{arena, zsmalloc};
use std::io;

/// A refusal of [`Zram`](super::Zram). The caller's page is untouched, and every block holds what it held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device without blocks.
    #[error("a device of 0 bytes has no blocks; give `disksize` at least 4096 bytes")]
    ZeroSize,
    /// More blocks than an object's entry can name.
    #[error("a device of {bytes} bytes has more blocks than can be numbered; ask for at most {max} bytes")]
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
    /// The device has no such block.
    #[error("there is no block {block}; the device has {blocks} blocks, numbered from 0")]
    OutOfRange {
        /// The block asked for.
        block: u64,
        /// Blocks there are.
        blocks: u64,
    },
    /// No memory for the page: the device's limit, or the machine's.
    #[error("the page was not stored, and block {block} keeps what it held: {source}")]
    Refused {
        /// The block.
        block: u64,
        /// What there was not enough of, with its numbers.
        source: zsmalloc::Error,
    },
    /// What is stored for the block does not decompress to a page: memory was overwritten.
    #[error("the stored bytes of block {block} are not what was written: the page is lost; discard or store the block")]
    Corrupt {
        /// The block.
        block: u64,
    },
    /// Address space for the words of blocks could not be reserved.
    #[error(
        "cannot reserve {bytes} bytes of address space for the block table ({source}); raise `ulimit -v` or make the device smaller"
    )]
    Table {
        /// Bytes asked for.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pool could not be made.
    #[error(transparent)]
    Pool(#[from] zsmalloc::Error),
    /// The arena could not be made.
    #[error(transparent)]
    Arena(#[from] arena::Error),
}
