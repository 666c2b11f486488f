//! `zspool classes`: where the bytes of the pool go, as a table of size classes and as a picture.
//!
//! ```text
//! sources --store--> Zswap --churn, free half, compact--> usage after each step --> table, picture, JSON
//!    one thread, nothing in the background: the same pages give the same picture
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`run`] | the steps |
//! | [`report`] | what they came to |
//! | [`table`], [`picture`] | how it is drawn |
//! | [`terminal`] | how wide, and in which characters |

pub(crate) mod args;
mod picture;
mod report;
mod run;
mod table;
mod terminal;

pub(crate) use picture::show;
pub(crate) use run::classes;
pub(crate) use table::show_classes;
pub(crate) use terminal::Terminal;
