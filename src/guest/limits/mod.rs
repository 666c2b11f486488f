//! What a VM is charged, who leaves when a limit is reached, and who decides it.
//!
//! ```text
//!   fault --> Account::charge -- fits ---------------------------------------------------------> Within
//!                 |   ^             above a mark: the evictor is woken                             ^
//!         refused |   |                                                                            |
//!                 v   |  a page or two compressed (64 staged first)       nothing left to evict    |
//!             Limits::make_room ------------------------------------------> Overshoot: the callback's verdict
//!                 |                                                              serve | pause | poison
//!   roster of VMs:  whose turn (pace), what may go (protection, policy)
//!                 |
//!   evictor thread: keeps every memcg below its mark and a few pages staged, so that the above is rare
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `account` | `Account`: one VM's charges: never refused in a fault |
//! | `evictable` | what the rest here sees of a VM and its regions |
//! | `limits` | what all VMs of an engine share; making room for a charge |
//! | `roster` | the VMs there are, found without a lock; whose turn it is |
//! | `pace` | how much of a VM's memory that was taken stays away |
//! | `epochs` | 8-bit stamps on pages, and what they mean in time and in evictions |
//! | `overshoot` | what is said when a limit is passed, and what can be answered |
//! | `evict` | bringing a memcg down: who, how much, until when |
//! | `evictor` | the thread that does it ahead of faults |
//! | `tenant` | a VM as its pages see it, and as limits see it |
//! | `policy` | which pages go |
//!
//! Invariants:
//! - **L1** In a fault nothing here calls the allocator or takes a lock that anybody holds while guest memory is touched or the kernel
//!   is asked for anything.
//! - **L2** Every page that is in memory is charged 4096 bytes to its VM's memcg and all ancestors, exactly, from before it is
//!   installed until after it is gone. No limit is passed but by an overshoot, which is counted where it happened.
//! - **L3** Who waits here for room waits for the evictor, which waits for no page's owner.

mod account;
mod epochs;
mod evict;
mod evictable;
mod evictor;
#[expect(clippy::module_inception, reason = "the concept that the layer is named after")]
mod limits;
mod overshoot;
mod pace;
pub mod policy;
mod roster;
mod tenant;

#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use account::Account;
pub(crate) use evict::Anon;
pub(crate) use evictor::Evictor;
pub(crate) use limits::{Limits, LimitsConfig, Membership};
pub use overshoot::{OnOvershoot, Overshoot, Verdict};
pub(crate) use tenant::{Evictee, Tenant};
