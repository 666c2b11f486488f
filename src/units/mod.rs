//! Newtypes for the things that are counted, indexed and named.
//!
//! | type | names or counts |
//! |---|---|
//! | [`Page`] | the bytes of one page of a client |
//! | [`Slot`], [`SlotRange`] | virtual swap slots: one per page a client can hand in |
//! | [`Owner`] | dense number of a handle cell: what an object's entry points back to |
//! | [`Frame`] | one 4096-byte page of pool memory |
//! | [`Location`] | where an object starts in pool memory, in 16-byte steps |
//! | [`TierMask`] | sets of tiers of devices |
//! | [`NodeId`], [`NodeMask`] | NUMA nodes, and sets of them |
//!
//! "Page" alone always means the client's uncompressed page.

mod frame;
mod node;
mod page;
mod slot;
mod tier;

pub use frame::{FRAME_SIZE, Frame, LOCATION_UNIT, Location};
pub use node::{MAX_NODES, NodeId, NodeListError, NodeMask};
pub use page::{PAGE_SIZE, Page};
pub use slot::{MAX_SLOTS_IN_USE, Owner, Slot, SlotRange};
pub use tier::{MAX_TIERS, TierMask};
