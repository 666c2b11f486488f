//! Pool memory: frames in one reserved range of addresses, backed one by one, each on a known node.
//!
//! ```text
//! run                0                        1                     r
//!         +------------------------+------------------------+-------------------+--
//! frame   | 0 | 1 | 2 | .. | n-1   | n | n+1 | ..           | rn | ..           |    n = run_frames
//!         +------------------------+------------------------+-------------------+--
//!           O   O   .        .       W    .                    .                   . reserved: addresses only
//!                                                                                  O owned, W warm: backed
//! ```
//!
//! A *run* is what a zspage lies in: adjacent frames, handed out without backing. Frames are backed by
//! [`Arena::ensure`] and given up by [`Arena::release`], which keeps them *warm*: still backed, to be taken again for
//! the price of an atomic store. [`Arena::maintain`] gives the oldest warm frames back to the kernel.
//!
//! What a frame can be (one byte; `backed` is the counter that the limit holds down):
//!
//! | state | memory behind it | counted in `backed` | who may touch its bytes |
//! |---|---|---|---|
//! | Unbacked | no | no | nobody |
//! | Committing | coming | yes | the thread that backs it |
//! | Owned | yes | yes | the owners of its objects |
//! | Warm | yes | yes | nobody |
//! | Discarding | going | yes | the thread that gives it back |
//!
//! Invariants:
//! - **A1** States, counters and lists change together under the arena lock, so they agree whenever it is free.
//! - **A2** `backed` = frames not Unbacked x 4096, the same per node, and a reservation never takes it above the limit.
//! - **A3** A frame is in its run's warm mask exactly if it is Warm; a run is in the warm list exactly if its mask is not 0.
//! - **A4** A free run has no Owned frame; it is in the list of warm free runs exactly if its warm mask is not 0.
//! - **A5** No system call happens under the arena lock.
//!
//! The arena does not know what lies in frames, and does not clear them: a warm frame comes back with its old bytes.

#[expect(clippy::module_inception, reason = "the concept that the layer is named after")]
mod arena;
mod commit;
mod config;
mod discard;
mod error;
mod numa;
#[cfg(feature = "poison")]
mod poison;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod topology;
mod warm;

pub use arena::Arena;
pub use config::{ArenaConfig, physical_memory};
pub use error::Error;
pub use run::Run;
pub use topology::Topology;
