//! What threads share, in one place: std in production, loom under `cfg(loom)`.
//!
//! No other file of the crate names `std::sync`'s atomics and locks, `std::thread` or `cfg(loom)`, so that
//! every protocol runs under the model checker as the real code.
//!
//! | here | for |
//! |---|---|
//! | [`atomic`] | atomics; under loom each carries a token (see there) |
//! | [`Mutex`], [`RwLock`], [`Condvar`] | ranked locks; [`Rank`] is the lock order of the crate |
//! | [`Mailbox`], [`Alarm`] | waking a background thread |
//! | [`Convoy`] | common batches of what several threads want done |
//! | [`Turnstile`] | waiting for what another thread gets done |
//! | [`TryLock`] | a lock that is tried rather than waited for |
//! | [`Region`] | reserved address space: object bytes; under loom, tracked cells |
//! | [`Table`] | an array of zero-born atomics over such space, backed where touched |
//! | [`GrowTable`] | an array that grows by doubling buckets and never moves |
//! | [`ChunkTable`] | one that grows by small chunks, up to an end that is known |
//! | [`Seat`] | a value that is used without a lock and removed when nobody does |
//! | [`Clock`] | a cheap time; under loom it stands still |
//! | [`Tally`], [`Record`] | statistics that decide nothing, and that models leave out |
//! | [`Planted`] | bugs that models plant in the real code, to see that they are caught |
//! | [`Steps`] | fail points of protocols, for unit tests |
//! | `process_mutex`, `process_static` | a lock, and other things, that the process has once |
//! | [`thread`], [`Arc`] | threads and shared ownership |

pub mod atomic;
mod chunk_table;
mod clock;
mod convoy;
mod grow_table;
mod lock;
mod mailbox;
pub mod parking;
mod planted;
mod process;
mod rank;
mod record;
mod region;
mod seat;
mod steps;
mod table;
mod tally;
pub mod thread;
mod try_lock;
mod turnstile;

pub use chunk_table::ChunkTable;
pub use clock::{Clock, Moment};
pub use convoy::Convoy;
pub use grow_table::GrowTable;
pub use lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use mailbox::{Alarm, Attendance, Mailbox};
pub use planted::{Bug, Planted};
#[cfg_attr(not(feature = "guest"), allow(unused_imports))]
pub(crate) use process::{modelled, unmodelled};
pub(crate) use process::{process_mutex, process_static};
pub use rank::{Rank, assert_no_lock_held, assert_not_held};
pub use record::Record;
pub use region::{Region, prefetch};
pub use seat::{Seat, Seated};
#[cfg(test)]
pub use steps::{How, Times};
pub use steps::{Step, StepFailed, Steps};
pub use table::{Table, Zeroed};
pub use tally::Tally;
pub use try_lock::{TryGuard, TryLock};
pub use turnstile::{Deadline, Passed, Ticket, Turnstile};

#[cfg(loom)]
pub use loom::sync::Arc;
/// As loom's: it has none.
#[cfg(loom)]
pub use std::sync::Weak;
#[cfg(not(loom))]
pub use std::sync::{Arc, Weak};

/// Slots in a cluster. Under loom, few: each is a tracked object.
pub const CLUSTER_SLOTS: usize = if cfg!(loom) { 4 } else { 512 };

/// Devices an instance can have at once. Under loom, few, for the same reason.
pub const DEVICES: usize = if cfg!(loom) { 2 } else { 32 };

/// Slots that may be on their way to a device at once: as many as a segment of the smallest objects has. Under loom, few, for the
/// same reason.
pub const FLIGHTS: usize = if cfg!(loom) { 8 } else { 4096 };

/// Clusters whose compressibility is remembered at once: 2 bytes each. Under loom one, for the same reason.
pub const SAMPLED_CLUSTERS: usize = if cfg!(loom) { 1 } else { 4096 };

/// Stocks of charge and counters a memcg tree has unless told otherwise: several for each core. Under loom none: what is modelled is the
/// shared words, and stocks where a model asks for them.
pub fn default_stocks() -> usize {
    if cfg!(loom) { 0 } else { (4 * thread::available_parallelism()).clamp(8, 1024) }
}

/// Whether loads that read a device note the time. Not under loom: what they hold for it has a model of its own, and those of loads
/// would take hours with it.
pub const TIMES_LOADS: bool = !cfg!(loom);

/// Whether words are looked at only to have others fetched. Not under loom, to which each look is a step.
pub const FETCHES_AHEAD: bool = !cfg!(loom);

/// Whether what goes to devices is encrypted unless told otherwise. Not under loom or Miri: the cipher is machine code, which
/// neither sees into, and its key lies in memory of the kernel's.
pub const ENCRYPTS: bool = !cfg!(any(loom, miri));

/// Bytes of address space to leave to the global allocator and to stacks of threads. Under loom none: a region is memory of the
/// allocator there, zeroed in every run of a model.
pub const HEADROOM: usize = if cfg!(loom) { 0 } else { 16 << 20 };

/// The most frames a zspage has. Under loom, few, for the same reason.
pub const ZSPAGE_FRAMES: usize = if cfg!(loom) { 2 } else { 16 };
