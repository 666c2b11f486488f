//! What was seen of a VM: where its bytes are, faults by kind with their times, how soon pages come back, how cold they are.
//!
//! ```text
//!   pages --- Observer ---> Meter (a VM's: atomics, no lock, a few nanoseconds each) --- snapshot ---> VmStats
//!   words --- stamps -----> Ages: bytes in memory by how long they have not moved
//! ```
//!
//! Sums: a VM's resident and staged bytes are its memcg's `anon`, its compressed bytes its memcg's `zswap`; a group's are the sums over
//! its VMs ([`Engine::assert_valid`](super::Engine::assert_valid)).

mod ages;
mod histogram;
mod meter;
mod of_vm;
mod vm_stats;

pub use ages::Ages;
pub use histogram::Histogram;
pub(crate) use meter::Meter;
pub use vm_stats::{Faults, VmStats};

pub use crate::guest::pages::outcomes::FaultKind;
