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
//! | file | holds |
//! |---|---|
//! | `bits.rs`, `word.rs` | what a page's word says, and each change of it |
//! | `owned.rs` | words that a thread owns |
//! | `pages.rs`, `regions.rs` | what a region has; the regions of a VM, and the queue in which staged pages wait |
//! | `fault.rs`, `around.rs` | a page that is touched comes in, and neighbours with it |
//! | `ahead.rs` | what calls bring in |
//! | `together.rs`, `bounces.rs` | how several come at once |
//! | `out.rs`, `compress.rs`, `kept.rs` | pages leave: staged, compressed, or without the codec |
//! | `discard.rs` | pages are thrown away |
//! | `pin.rs` | pages stay |
//! | `unregister.rs` | how a region begins and ends |
//! | `inherit.rs` | what a child of fork has of it |
//! | `left.rs`, `used.rs` | which left since somebody asked; which parts were ever used |
//! | `outcomes.rs` | what calls came to |
//! | `ports.rs` | what is needed from others |
//! | `valid.rs` | all of it against the kernel |
//!
//! 1. Who owns a word never waits for another word, holds no lock while it asks the kernel, the codec or a device, and gives the
//!    word back on every path.
//! 2. Who meets an owned word waits for it owning none, or leaves a fault to the owner.

mod ahead;
mod around;
pub(crate) mod bits;
mod bounces;
mod compress;
mod departed;
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
mod regions;
mod together;
mod unregister;
mod used;
mod valid;
mod word;

pub(crate) use inherit::Inherited;
pub(crate) use pages::{Access, Pages, Served, Shared, Waiting};
