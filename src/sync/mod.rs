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
//! | [`Region`] | reserved address space: object bytes; under loom, tracked cells |
//! | [`Table`] | an array of zero-born atomics over such space, backed where touched |
//! | [`GrowTable`] | an array that grows by doubling buckets and never moves |
//! | [`Tally`] | statistics that decide nothing, and that models leave out |
//! | [`Planted`] | bugs that models plant in the real code, to see that they are caught |
//! | [`thread`], [`Arc`] | threads and shared ownership |

pub mod atomic;
mod grow_table;
mod lock;
mod mailbox;
mod planted;
mod rank;
mod region;
mod table;
mod tally;
pub mod thread;

pub use grow_table::GrowTable;
pub use lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use mailbox::{Alarm, Attendance, Mailbox};
pub use planted::{Bug, Planted};
pub use rank::{Rank, assert_no_lock_held, assert_not_held};
pub use region::Region;
pub use table::{Table, Zeroed};
pub use tally::Tally;

#[cfg(loom)]
pub use loom::sync::Arc;
#[cfg(not(loom))]
pub use std::sync::Arc;

/// Slots in a cluster. Under loom, few: each is a tracked object.
pub const CLUSTER_SLOTS: usize = if cfg!(loom) { 4 } else { 512 };

/// The most frames a zspage has. Under loom, few, for the same reason.
pub const ZSPAGE_FRAMES: usize = if cfg!(loom) { 2 } else { 16 };
