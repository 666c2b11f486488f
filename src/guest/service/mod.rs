//! Who serves faults: the faulting thread, threads of ours, or a loop of the embedder.
//!
//! ```text
//!                    a thread touches a page that is out
//!                     |                               |
//!       InThread:  SIGBUS in it               an event of the descriptor
//!                     |                               |  read by
//!                     |                     Threads: handlers of ours     External: Vm::service()
//!                  sigbus.rs                  threads.rs, watchdog.rs          |
//!                     |                               +------- reader.rs ------+
//!                     |                                      |           |
//!                     +------> Pages::fault <----- faults ---+           +--- changes of mappings: gate.rs, changes.rs, fork.rs
//! ```
//!
//! | | serves | costs | needs |
//! |---|---|---|---|
//! | [`InThread`](crate::guest::Service::InThread) | the program's own loads and stores | least: no other thread runs | SIGBUS of the process; no permission |
//! | [`Threads`](crate::guest::Service::Threads) | system calls, KVM and vhost too, where permitted | two switches of threads more | a permission for the kernel's accesses |
//! | [`External`](crate::guest::Service::External) | the same | the loop's own | the same |
//!
//! 1. Nobody holds a lock while a page is loaded, decompressed or installed.
//! 2. A handler that panics is replaced; the word's guard has given the page back, and the fault is served again. Where nobody can serve, the
//!    process ends with a sentence: a thread that waits for ever helps nobody, and a page is never made up.

mod access;
mod actions;
pub(crate) mod answers;
#[doc(hidden)]
pub mod aside;
mod bell;
mod canary;
mod changes;
pub(crate) mod child;
mod child_desk;
pub(crate) mod children;
mod claim;
pub(crate) mod desk;
pub(crate) mod emptied;
pub(crate) mod family;
pub(crate) mod fork;
pub(crate) mod fork_mark;
pub(crate) mod gate;
pub(crate) mod gated;
mod guardian;
pub(crate) mod keeping;
pub(crate) mod last_words;
mod list;
mod lost;
mod matters;
mod nursery;
mod panics;
pub(crate) mod reader;
mod relics;
pub(crate) mod running;
pub mod sigbus;
pub(crate) mod source;
pub(crate) mod space;
mod stacks;
pub(crate) mod threads;
mod vm_desk;
mod wards;
pub(crate) mod watch;
mod watchdog;

pub use running::{Follow, MappingChange, ServiceStats};
pub use stacks::AlternateStack;
pub use threads::ThreadOptions;
pub use watchdog::Stuck;

use answers::Answer;
use bell::Bell;
use desk::{Change, Desk};
use gate::Gate;
pub(crate) use lost::say_poisoned;
use panics::Panics;

#[cfg(all(test, not(loom)))]
mod tests;
