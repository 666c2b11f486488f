//! What a caller registers, and what the kernel does for each kind of memory.
//!
//! ```text
//!   Memory -- inspect: refused by name, or fit --> Backer -- probes --> Backing
//!     Anonymous                                                           Shadowed    pages are moved to a shadow range
//!                                                                         Protected   pages are write-protected in place
//!     Memfd                                                               Filed       pages stay in the file, unmapped
//!                                                                       (Faulty       any of them, failing on cue)
//! ```
//!
//! It knows addresses and pages' numbers, and asks the kernel. It does not know pages' states: who may be asked about which page is the
//! caller's to see to, by the rules of [`backing`]. Locks: leaves alone, and only while memory is registered or unregistered.

#[doc(hidden)]
pub mod backer;
#[doc(hidden)]
pub mod backing;
mod claims;
#[doc(hidden)]
pub mod faulty;
mod frames;
mod guest_range;
mod inspection;
mod kind;
mod maps;
mod memfd;
mod proc_self;
mod protected;
mod refusal;
mod reserved;
mod shadowed;
pub(crate) mod simulated;

pub use inspection::Inspected;
pub use kind::{Kind, Memory, Method};
pub use refusal::Refusal;
