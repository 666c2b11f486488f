//! The states of pages, and everything that changes them.
//!
//! ```text
//!                     fault.rs                                  out.rs: 64 together, by MOVE
//!        Absent ------------------> Resident --------------------------------------> Staged
//!          ^                         ^   ^  ^                                          |  |
//!          |   discard.rs            |   |  +------------------ put back --------------+  |
//!          +----- from anywhere      |   |                                                | compress.rs: one after the other,
//!                                    |   +------- copied, if touched meanwhile -----------+ the frames given back together
//!                                    |                                                    v
//!                                    +----- fault.rs, ahead.rs: load, install --------- Stored
//! ```
//!
//! `word.rs` has the states and their invariants; `owned.rs` who owns them; `pages.rs` what a region has; `queue.rs` the order in
//! which staged pages are compressed; `kept.rs` copies of pages that came in and were not written; `ahead.rs` what comes before it is
//! asked for; `pin.rs`; `unregister.rs` how a region begins and ends; `inherit.rs` what a child of fork has of it; `left.rs` which left since somebody
//! asked; `used.rs` which parts a look at all words passes by; `outcomes.rs` what calls came to; `valid.rs` all of it against the kernel;
//! `ports.rs` what is needed from others.
//!
//! 1. Who owns a word never waits for another word, holds no lock while it asks the kernel, the codec or a device, and gives the
//!    word back on every path.
//! 2. Who meets an owned word waits for it owning none, or leaves a fault to the owner.

mod ahead;
mod compress;
mod discard;
mod fault;
mod inherit;
mod kept;
pub(crate) mod left;
mod out;
pub(super) mod outcomes;
mod owned;
#[expect(clippy::module_inception, reason = "the concept that the layer is named after")]
mod pages;
mod pin;
pub(crate) mod ports;
mod queue;
mod unregister;
mod used;
mod valid;
pub(crate) mod word;

pub(crate) use inherit::Inherited;
pub(crate) use pages::{Access, Kind, Pages, Served, Shared, Waiting};
