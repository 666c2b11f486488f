//! What threads share, in one place: std in production, loom under `cfg(loom)`, shuttle under `cfg(shuttle)`.
//!
//! No other file of the crate names `std::sync`'s atomics and locks, `std::thread`, `cfg(loom)` or `cfg(shuttle)`, so that
//! every protocol runs under the model checkers as the real code. Loom tries all orders of few steps, and knows the orderings of
//! atomics; shuttle samples orders of many threads and many steps, sequentially consistent, with memory as in production and time
//! that is simulated (`simulated.rs`). Each has blind spots that the other has not.
//!
//! | here | for |
//! |---|---|
//! | [`atomic`] | atomics; under loom each carries a token (see there) |
//! | [`Mutex`], [`RwLock`], [`Condvar`] | ranked locks; [`Rank`] is the lock order of the crate |
//! | [`Mailbox`], [`Alarm`] | waking a background thread |
//! | [`Convoy`] | common batches of what several threads want done |
//! | [`Turnstile`], [`Deadline`] | waiting for what another thread gets done, and how long |
//! | [`TryLock`] | a lock that is tried rather than waited for |
//! | [`Region`] | reserved address space: object bytes; under loom, tracked cells |
//! | [`Table`] | an array of zero-born atomics over such space, backed where touched |
//! | [`GrowTable`] | an array that grows by doubling buckets and never moves |
//! | [`ChunkTable`] | one that grows by small chunks, up to an end that is known |
//! | [`Seat`] | a value that is used without a lock and removed when nobody does |
//! | [`Clock`], [`now`] | a cheap time, and the time for waits; under loom it stands still |
//! | [`Tally`], [`Record`] | statistics that decide nothing, and that models leave out |
//! | [`Planted`] | bugs that models plant in the real code, to see that they are caught |
//! | [`Steps`] | fail points of protocols, for unit tests |
//! | `process_mutex`, `process_static` | a lock, and other things, that the process has once |
//! | [`thread`], [`Arc`] | threads, on which no signal handler of the program runs, and shared ownership |
//! | [`CLUSTER_SLOTS`] and others | numbers that are smaller in models |

pub mod atomic;
mod chunk_table;
mod clock;
mod convoy;
mod deadline;
mod grow_table;
mod lock;
mod mailbox;
pub mod parking;
mod planted;
mod process;
mod rank;
mod record;
mod region;
mod scale;
mod seat;
#[cfg(not(any(loom, shuttle)))]
mod signals;
#[cfg(shuttle)]
mod simulated;
#[cfg(not(loom))]
mod space;
mod steps;
mod table;
mod tally;
pub mod thread;
mod try_lock;
mod turnstile;

pub use chunk_table::ChunkTable;
pub use clock::{Clock, Moment, now};
pub use convoy::Convoy;
pub use deadline::Deadline;
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
pub use scale::{
    CLUSTER_SLOTS, DEVICES, ENCRYPTS, FETCHES_AHEAD, FLIGHTS, HEADROOM, SAMPLED_CLUSTERS, TIMES_LOADS, ZSPAGE_FRAMES,
    default_stocks,
};
pub use seat::{Seat, Seated};
#[cfg(shuttle)]
pub use simulated::quietly;
#[cfg(test)]
pub use steps::{How, Times};
pub use steps::{Step, StepFailed, Steps};
pub use table::{Table, Zeroed};
pub use tally::Tally;
pub use try_lock::{TryGuard, TryLock};
pub use turnstile::{Passed, Ticket, Turnstile};

#[cfg(loom)]
pub use loom::sync::Arc;
/// As loom's: it has none.
#[cfg(loom)]
pub use std::sync::Weak;
#[cfg(not(loom))]
pub use std::sync::{Arc, Weak};
