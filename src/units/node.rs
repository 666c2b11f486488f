//! NUMA nodes.

use std::fmt;

/// Nodes a topology may have: a set of them fits in a `u64`.
pub const MAX_NODES: usize = 64;

/// A NUMA node, numbered densely from 0 within a topology. Below [`MAX_NODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

impl NodeId {
    /// As an array index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "N{}", self.0)
    }
}
