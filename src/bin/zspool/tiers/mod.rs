//! Swapfiles in tiers: how they are named, shown, and taken off.
//!
//! | file | holds |
//! |---|---|
//! | [`spec`] | what follows `--swapfile` |
//! | [`report`] | what the devices hold, as JSON has it |
//! | [`show`] | the same as tables |
//! | [`drain`] | a swapoff with a bar, which Ctrl-C cancels |

pub(crate) mod drain;
pub(crate) mod report;
pub(crate) mod show;
pub(crate) mod spec;
