//! The store that commands put pages into.
//!
//! | file | holds |
//! |---|---|
//! | [`interface`] | [`Target`]: what a run needs of a store |
//! | [`zswap`] | the store of the crate; the tests of `squeeze` have a model |

mod interface;
pub(crate) mod zswap;

pub(crate) use interface::{ClassRow, GroupStats, Live, Moved, PoolStats, Settings, Target, Trouble};
