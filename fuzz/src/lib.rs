//! Lists of operations against plain models: the fuzz targets, and what replays their findings without libFuzzer.
//!
//! ```text
//!   libFuzzer --bytes--> fuzz_targets/NAME.rs --+
//!                                               +--> NAME::run(Run) --> Reached      panics where model and crate differ
//!   tests/fuzz_regressions.rs --typed lists-----+                       what the list came upon, to see that it is worth it
//!                             --seeds/NAME/*
//! ```
//!
//! | file | runs on |
//! |---|---|
//! | `pool_ops` | the allocator, with its own handles and with cells of a client's, over memcgs and nodes |
//! | `zswap_ops` | a whole instance, with a device that fails on cue |
//! | `reclaim_ops` | a tree with all that reclaims from it: control files as raw texts, limits, pages in memory |
//! | `swapfile_bytes` | what lies on devices, changed by others between write and read; headers of files |
//! | `swap_table_ops` | slots with many references over devices in tiers that come, go and fail |
//! | `guest_ops` | guest memory over userfaultfd, with limits and devices that fail |
//! | `meddler` | that device: it also does other operations in the middle of its requests |
//!
//! A list decides everything: the same one runs the same way, but for random seeds and keys of what goes to devices.

#[cfg(all(feature = "guest", target_os = "linux"))]
pub mod guest_ops;
pub mod instance;
pub mod list;
pub mod meddler;
pub mod page;
pub mod pool_ops;
pub mod reached;
pub mod reclaim_ops;
pub mod subject;
pub mod swap_table_ops;
pub mod swapfile_bytes;
pub mod tree;
pub mod zswap_ops;

pub use reached::Reached;
