//! Newtypes for the things that are counted, indexed and named.
//!
//! | type | names or counts |
//! |---|---|
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
mod slot;
mod tier;

pub use frame::{FRAME_SIZE, Frame, LOCATION_UNIT, Location};
pub use node::{MAX_NODES, NodeId, NodeListError, NodeMask};
pub use slot::{MAX_SLOTS_IN_USE, Owner, Slot, SlotRange};
pub use tier::{MAX_TIERS, TierMask};

/// Size of a client's page in bytes. Other page sizes are refused.
pub const PAGE_SIZE: usize = 4096;

/// One page of a client, aligned as devices and vector loops want it.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

impl Page {
    /// A page of zeroes.
    pub const fn zeroed() -> Self {
        Page([0; PAGE_SIZE])
    }
}

impl std::ops::Deref for Page {
    type Target = [u8; PAGE_SIZE];
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Page {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Page({:02x?}..)", &self.0[..16])
    }
}
