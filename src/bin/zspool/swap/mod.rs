//! `zspool swap`: pages through devices in tiers: written back, shown, read, cleaned, moved off one device after the other.
//!
//! ```text
//! sources --store--> memory --write back--> tiers --table--> read back --free half, clean--> swapoff of each --> read back
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`run`] | the steps |
//! | [`report`] | what they came to |
//! | [`show`] | how it is told |

pub(crate) mod args;
mod report;
mod run;
mod show;

pub(crate) use run::swap;
pub(crate) use show::show;
