//! `zspool classes`: where the bytes of the pool go, as a table of size classes and as a picture.
//!
//! ```text
//! sources --store--> Zswap --churn, free half, compact--> usage after each step --> table, picture, JSON
//!    one thread, nothing in the background: the same pages give the same picture
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`run`] | the steps |
//! | [`report`] | what they came to |
//! | [`picture`] | how it is drawn |
//! | [`terminal`] | how wide, and in which characters |

mod picture;
mod report;
mod run;
mod terminal;

pub(crate) use picture::show;
pub(crate) use run::classes;
pub(crate) use terminal::Terminal;
