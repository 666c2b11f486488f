//! A store of fixed-size blocks in compressed memory, as the kernel's zram is: the allocator's client without owners.
//!
//! ```text
//!   store(block, page)          load(block, page)          discard(block)
//!         |                           |                          |
//!   Zram  | same-filled? ------------ word ----------------------+      nothing in the pool
//!         | compress -> malloc, write, publish -> word; old one freed
//!         v                           v
//!   cells   [word][word][word]...   a word per block: empty, a repeated word, or an object (location, length)
//!         |                           |
//!   Pool<ZramCells>   zsmalloc with accounting off
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `word` | the word of a block |
//! | `cells` | all words: how stores, loads and compaction agree; the pool's cells |
//! | `device` | [`Zram`]: store, load, discard, compact, reset |
//! | `builder` | [`Builder`]: how one is made |
//! | `stat` | [`MmStat`]: the nine numbers of the kernel's `mm_stat` |
//!
//! # What the kernel's zram does, and this
//!
//! | | kernel (6.18) | here |
//! |---|---|---|
//! | a block never stored, or discarded | reads as zeroes | the same |
//! | a page of one repeated 8-byte word | no memory, counted in `same_pages` | the same |
//! | compressed to [`huge_len`](crate::zsmalloc::Geometry::huge_len) or more | kept as it is, counted in `huge_pages` | the same |
//! | a store that is refused (`mem_limit`) | the block keeps what it held: memory for the new page is taken before the old page's is given back | the same, and for the same reason: until the word changes nothing is lost, and a load meanwhile sees the old page or the new one, never zeroes |
//! | above `mem_limit` | refuses whatever needs memory, also if it would fit in pages there are; `mem_used_max` has seen the attempt | refuses what needs a frame more; the limit is never exceeded |
//! | reset | needs that nobody has the device open | needs `&mut` |
//!
//! # Accounting off
//!
//! The pool has no memcg tree: no objcg is looked up, nothing is charged, and no counter of any group or node is written. Each
//! object still has its entry of 8 bytes, for two things that have nothing to do with accounting: the owner (32 bits, here the
//! number of the block), by which compaction finds the word to change, and guards and state (8 bits), by which a load keeps
//! the object where it is. The 24 bits of the objcg's id are zero and save nothing by being absent: a shorter entry would be
//! no power of two. So frames and entries are the same as with accounting on, and what is saved is the work.
//!
//! Locks: none of its own. A store or discard of a block waits for another of the same block only where that one stores a
//! repeated word that is too wide for the block's word (two atomic operations). [`Zram::load`] and [`Zram::discard`] never
//! call the global allocator; a load takes no lock, and holds a count, no lock, over client memory.

mod builder;
mod cells;
mod device;
mod error;
mod stat;
mod word;

pub use builder::Builder;
pub use cells::ZramCells;
pub use device::{Stored, Zram};
pub use error::Error;
pub use stat::MmStat;
