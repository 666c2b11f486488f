//! [`Target`]: what a run needs of the compressed store.

use crate::tiers::report::Swap;
use crate::tiers::spec::Planned;
use serde::Serialize;
use std::path::Path;
use zspool::units::{PAGE_SIZE, Slot, SlotRange};

/// A refusal or failure of the store: what is said about it is all that matters here.
pub(crate) type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// How the store is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Bytes of backed frames at most; none for what the store takes by itself.
    pub(crate) pool_limit: Option<u64>,
    /// The codec for pages, by a name that is known to exist.
    pub(crate) codec: String,
    /// Swapfiles; the place of each in the list is its number.
    pub(crate) swapfiles: Vec<Planned>,
    /// Whether what is written to them is encrypted.
    pub(crate) encryption: bool,
    /// Threads that will store and load at once.
    pub(crate) threads: usize,
}

/// A store for pages with a memcg for each source. Shared by all workers.
pub(crate) trait Target: Sync {
    /// A memcg.
    type Group: Send + Sync;

    /// A memcg of this name below the root.
    fn mkdir(&self, name: &str) -> Result<Self::Group, Trouble>;

    /// Set its `memory.zswap.max`.
    fn set_limit(&self, group: &Self::Group, bytes: u64) -> Result<(), Trouble>;

    /// Slots for `pages` pages, at least one.
    fn reserve(&self, pages: u64) -> Result<SlotRange, Trouble>;

    /// Store a page. When refused, the slot is empty.
    fn store(&self, slot: Slot, group: &Self::Group, page: &[u8; PAGE_SIZE]) -> Result<(), Trouble>;

    /// Load a page that was stored; it stays stored.
    fn load(&self, slot: Slot, page: &mut [u8; PAGE_SIZE]) -> Result<(), Trouble>;

    /// Free a page that was stored.
    fn free(&self, slot: Slot) -> Result<(), Trouble>;

    /// Wait until what the stores set off in the background is done.
    fn settle(&self);

    /// What the memcg's counters say now. None: somebody removed it, and what it had is its parent's.
    fn group(&self, group: &Self::Group) -> Option<GroupStats>;

    /// What the counters of all memcgs together say now, what removed ones had included.
    fn all_groups(&self) -> GroupStats;

    /// The memcg's `memory.stat`, with the other zswap files' contents if that is worth a line.
    fn stat(&self, group: &Self::Group) -> String;

    /// What the pool's counters say now.
    fn pool(&self) -> PoolStats;

    /// The size classes in use, by size.
    fn classes(&self) -> Vec<ClassRow>;

    /// Where the slots' pages lie now, and the devices.
    fn swap(&self) -> Swap;

    /// Move everything off a device and take it off. `watch` is told every now and then how many objects were moved so far, and
    /// says whether to go on.
    fn swapoff(&self, number: u8, watch: &(dyn Fn(u64) -> bool + Sync)) -> Moved;

    /// Show the memcgs as files at this empty directory, for others to read and write.
    fn mount(&self, at: &Path) -> Result<Box<dyn Live>, Trouble>;
}

/// Memcgs that others can see and change; dropped, no longer.
pub(crate) trait Live: Sync {
    /// Where.
    fn path(&self) -> &Path;

    /// Whether nobody has unmounted them.
    fn is_mounted(&self) -> bool;

    /// Unmount them.
    fn unmount(self: Box<Self>) -> Result<(), Trouble>;
}

/// What a swapoff came to.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Objects that were moved.
    pub(crate) objects: u64,
    /// Those of them that went into the pool, where that is known.
    pub(crate) to_memory: Option<u64>,
    /// Pages that could not be read back.
    pub(crate) lost: u64,
    /// Whether the device is off; if not, why, or `None` if it was cancelled.
    pub(crate) off: Result<(), Option<Trouble>>,
}

/// A memcg's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct GroupStats {
    /// Pages kept raw in the pool.
    pub(crate) incompressible_pages: u64,
    /// Uncompressed size of what is in the pool.
    pub(crate) original_bytes: u64,
    /// Its compressed size.
    pub(crate) payload_bytes: u64,
    /// What it makes unusable in the pool: what is charged.
    pub(crate) slot_bytes: u64,
    /// Pages moved to the swapfile.
    pub(crate) written_back_pages: u64,
    /// Their compressed size.
    pub(crate) written_back_bytes: u64,
}

/// The pool's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    /// Backed frames, warm ones included.
    pub(crate) frame_bytes: u64,
    /// Memory of everything that is not a frame: words, links, entries, descriptors, tables.
    pub(crate) metadata_bytes: u64,
    pub(crate) payload_bytes: u64,
    /// Objects in the pool.
    pub(crate) objects: u64,
    /// Storage of the swapfiles that pages take.
    pub(crate) swapfile_bytes: u64,
}

/// One size class; the columns are those of the kernel's `zsmalloc/<pool>/classes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ClassRow {
    pub(crate) class: usize,
    /// Bytes of an object.
    pub(crate) size: usize,
    /// zspages by fullness: up to 10%, ..., 90%, 99%, and full.
    pub(crate) zspages: [u64; 11],
    pub(crate) obj_allocated: u64,
    pub(crate) obj_used: u64,
    pub(crate) pages_used: u64,
    pub(crate) pages_per_zspage: u64,
    /// Frames that compaction could free.
    pub(crate) freeable: u64,
}
