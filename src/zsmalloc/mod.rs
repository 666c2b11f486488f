//! A size-class allocator for compressed objects that knows, for every byte, who owns it and on which node it lies.
//!
//! ```text
//!   handles of the pool's own      zswap (its slot words)     zram
//!        |                              |                       |
//!        +----------- cells ------------+-----------------------+     where an object is, by owner
//!                       |
//!   Pool   malloc - write - publish - read - free - compact
//!                       |
//!   Heap   classes and home nodes, each with its lock and lists of zspages by fullness
//!            |
//!          Zspage   a run of frames cut into slots     descriptor: counts per frame, and an array of
//!            |                                         entries: a word per slot, who owns it
//!          arena    frames, backed where objects lie
//! ```
//!
//! | file | concept |
//! |---|---|
//! | `geometry` | sizes of slots, chains of frames |
//! | `entry`, `entries` | the word of a slot, and memory for arrays of them |
//! | `zspage`, `fullness` | descriptors; groups and lists |
//! | `heap` | taking a slot and giving it back |
//! | `cells` | where an object's name lies |
//! | `pool`, `uncommitted`, `guard` | the life of an object |
//! | `charge`, `share` | who pays, and for which node |
//! | `compaction` | emptying frames |
//! | `migration` | moving objects off nodes they may not lie on |
//! | `waste`, `upkeep`, `compactor` | compaction that starts by itself |
//! | `stats`, `usage`, `objects`, `valid` | numbers, where the bytes go, all objects, and whether all that is right |
//! | `handle`, `handle_cells`, `handles`, `builder` | handles of the pool's own |
//!
//! It does not know how objects are compressed, nor what an owner is.
//!
//! Locks: `Class`, then `Entries`, `Arena`. No system call happens under them. Readers take none, but for the last one
//! of an object that was freed under it, who returns the slot.

mod builder;
mod cells;
mod charge;
mod compaction;
mod compactor;
mod entries;
mod entry;
mod error;
mod fullness;
mod geometry;
mod guard;
mod handle;
mod handle_cells;
mod handles;
mod heap;
#[cfg(all(test, not(loom)))]
mod interleavings;
mod migration;
mod objects;
mod pool;
mod share;
mod stats;
mod uncommitted;
mod upkeep;
mod usage;
mod valid;
mod waste;
mod zspage;

pub use builder::Builder;
pub(crate) use builder::default_limit;
pub use cells::{Cells, Object};
pub use compaction::{Compacted, CompactionStats, End};
pub use compactor::Compactor;
pub use error::{Error, HandleError};
pub use fullness::Group;
pub use geometry::{ClassIndex, Geometry, SizeClass};
pub use guard::ReadGuard;
pub use handle::{Handle, TagSpace};
pub use handle_cells::HandleCells;
pub use handles::{Draft, StillInUse};
pub use migration::{MovedOff, Moving};
pub use objects::LiveObject;
pub use pool::{Pool, PoolConfig, UPKEEP};
pub use share::Original;
pub use stats::{ClassStats, ClassTotal, Classes, Stats};
pub use uncommitted::{Published, Uncommitted};
pub use upkeep::{DEFAULT_WASTE_PER_MILLE, Upkeep};
pub use usage::Usage;
