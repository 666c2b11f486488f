//! zspool's own code under shuttle: scenarios of many threads, and a simulation of the whole system from one seed.
//!
//! ```text
//!   seed --> Plan       geometry, memcgs, devices and their faults, who does how much of what
//!        --> schedule   which thread goes on at each of its steps: uniform, in bursts, or by priorities that change
//!
//!   System    clients ----------- slots ---+          administrators: limits, groups, devices, compaction, cleaning ...
//!             guests -- pages -- Engine ---+-- Zswap -- worker, evictor
//!                                                |
//!                                       devices in memory that go wrong by plan
//!
//!   Registers  what each slot and each page may hold, by who has written it and when: compared with every read
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `execution.rs` | one run: from a seed to a trace, or to what went wrong |
//! | `schedule.rs` | who goes on |
//! | `plan.rs` | what a run consists of; the scenarios |
//! | `system.rs` | the instance, its phases, and what holds at the quiet points between them |
//! | `client.rs`, `guest.rs`, `administrator.rs` | who does something |
//! | `device.rs` | devices in memory and their troubles |
//! | `limits.rs` | no usage is above a limit |
//! | `register.rs` | the model: what may be read |
//! | `paint.rs` | pages that follow from a number |
//! | `campaign.rs` | many seeds: what they came upon, and which failed |
//!
//! A seed decides everything, keys of ciphers and seeds of checksums excepted: a run that failed fails again. Atomics are sequentially
//! consistent here: which orderings suffice is shown by loom (`loom-tests`), which tries few threads and few steps.

#![cfg(shuttle)]

mod administrator;
pub mod campaign;
mod client;
mod device;
pub mod execution;
mod guest;
mod limits;
pub mod paint;
pub mod plan;
mod random;
mod register;
mod schedule;
mod system;
pub mod twins;

/// What runs came upon, as the fuzz targets count it.
#[path = "../../fuzz/src/reached.rs"]
pub mod reached;

/// What the integration tests share.
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../../tests/support/trouble.rs"]
mod trouble;

pub use random::Random;
