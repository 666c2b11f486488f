//! Store and load of pages: compressed in the pool, on a device when colder, within limits.
//!
//! ```text
//!            store                 load / take_with                    worker, limits
//!              |                         |                                  |
//!   same-filled? --word--> +-----------------------------+   cold end   +------------+
//!   compress               |  slots: one word per page   | <----------- | LRU lists  |
//!   charge, allocate ----> |  object in zsmalloc::Pool   |              | per memcg  |
//!   publish                |  or place on a device       | --writeback->| and node   |
//!                          +-----------------------------+    batches   +------------+
//! ```
//!
//! The only layer that knows both the allocator and the swap layer. Protocols, one file each:
//!
//! - [`store`](Zswap::store): `store.rs`. Compress outside all locks, charge, allocate, then publish in the slot and on the
//!   LRU in one section under the cluster lock. A failed store leaves no older copy behind (R-11).
//! - [`load`](Zswap::load), [`take_with`](Zswap::take_with), [`free`](Zswap::free): `load.rs`, `release.rs`. No allocator,
//!   no lazily made thread-local, no lock that is ever held over client memory: they run in handlers of faults on
//!   client memory (not of signals at any other moment, which may interrupt the holder of a lock).
//! - [`swap_out`](Zswap::swap_out): `swap_out.rs`. A store that takes over what its page was charged in memory.
//! - many slots at once, and slots for clients without numbers of their own: `runs.rs`; what slots cost: `metadata.rs`; what they
//!   hold: `holdings.rs`.
//! - writeback: `writeback.rs`; what is on its way to a device: `flights.rs`, with the records of `inflight.rs`.
//! - what lives on a device and is moved: `relocate.rs`, for segments that are sparse ([`clean`](Zswap::clean), `cleaning.rs`), tiers
//!   that are full ([`demote`](Zswap::demote), `demotion.rs`) and devices that leave ([`swapoff`](Zswap::swapoff), `swapoff.rs`).
//! - back into the pool without being asked for: [`prefetch`](Zswap::prefetch), with `promotion.rs`; many at once: `load_run.rs`.
//! - a page that cannot be read back: `lost.rs`.
//! - which pages are worth a compression: `sampling.rs`.
//! - devices and their tiers, and who may use which: `tiers.rs`.
//! - places on devices, and who pays for them: `places.rs`; what a page became, there or in the pool: `payload.rs`.
//! - which nodes a memcg's objects may lie on: `nodes.rs`.
//! - what goes when the system wants memory back: `shrinker.rs`, with the recent reads from the device of `swapins.rs`.
//! - what says that it does: `pressure.rs`.
//! - who is cold: `lru.rs`, `walk.rs`. Who makes room, and when: `reclaim.rs` (a store that was refused; how long it tries:
//!   `effort.rs`), `worker.rs` and `excess.rs` (ahead of that), `proactive.rs` (by request); memcgs in turn: `turns.rs`; common
//!   batches: `submission.rs`.

mod builder;
mod cells;
mod cleaning;
mod demotion;
mod effort;
mod error;
mod excess;
#[cfg(all(test, not(loom)))]
mod failing_steps;
mod flights;
mod holdings;
mod inflight;
mod load;
mod load_run;
mod lost;
mod lru;
mod metadata;
mod nodes;
mod payload;
mod places;
mod prefetch;
mod pressure;
mod proactive;
mod promotion;
mod reclaim;
mod release;
mod relocate;
mod reserve;
mod runs;
mod sampling;
mod shrinker;
mod stats;
mod store;
mod submission;
mod swap_out;
mod swapins;
mod swapoff;
mod tiers;
mod turns;
mod valid;
mod walk;
mod worker;
mod writeback;

mod core;

pub use self::core::Zswap;
pub use builder::{Builder, WRITEBACK_BATCH};
pub use cleaning::Cleaned;
pub use demotion::Demoted;
pub use error::{Error, Unwritable};
pub use holdings::Holdings;
pub use load::{Installed, LoadedFrom, Taken};
pub use metadata::Metadata;
pub use prefetch::Prefetched;
pub use pressure::{PressureError, PressureWatch, Trigger};
pub use sampling::Sampling;
pub use shrinker::{Scanned, Shrinker};
pub use stats::Stats;
pub use store::Stored;
pub use swap_out::{Help, SwapOutError};
#[doc(hidden)] // for its model
pub use swapins::Swapins;
pub use swapoff::{Progress, SwapoffError, SwapoffReport};
pub use walk::{Form, Shrunk};
