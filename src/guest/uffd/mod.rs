//! A thin layer over userfaultfd: descriptors, requests, events, and what the kernel says about pages.
//!
//! ```text
//!   Descriptor   open, handshake        features asked and found; an error names the ways out
//!     requests   register .. wake       every request that fills pages says how far it came, and errno
//!     events     read_events            faults, forks, remaps, removes, unmaps
//!   PageMap      scan, entries          present, swapped, written; by reading on kernels without a scan
//! ```
//!
//! It knows nothing of pages' states, and of no memory but addresses. Constants and structures are its own: nothing to generate, no libclang.
//! Requests allocate nothing, take no lock, and may be made in signal handlers; they change `errno`.

mod abi;
mod descriptor;
mod errno;
mod error;
mod events;
mod features;
mod pagemap;
mod requests;

pub use descriptor::{Ask, Descriptor, Fresh, Way};
pub use errno::{Done, Errno};
pub use error::Error;
pub use events::{Event, Fault, MOST_EVENTS};
pub use features::{Features, Ioctls, Modes};
pub use pagemap::{Categories, Entry, PageMap, Question};
pub use requests::Mode;
