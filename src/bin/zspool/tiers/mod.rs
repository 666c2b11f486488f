//! Swapfiles in tiers: how they are named and shown.
//!
//! | file | holds |
//! |---|---|
//! | [`spec`] | what follows `--swapfile` |
//! | [`report`] | what the devices hold, as JSON has it |
//! | [`show`] | the same as tables |

pub(crate) mod report;
pub(crate) mod show;
pub(crate) mod spec;
