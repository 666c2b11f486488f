//! `zspool squeeze`: real memory in, compressed, accounted, limited, out again identical.
//!
//! | file | holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`plan`] | from there to sources with names and limits |
//! | [`run`] | the phases and their workers |
//! | [`lane`] | one source on its way into one memcg |
//! | [`rss`] | how much memory it took |
//! | [`report`] | what it came to |
//! | [`show`] | how it is told |

pub(crate) mod args;
mod lane;
mod plan;
mod report;
mod rss;
mod run;
mod show;
#[cfg(test)]
mod tests;

pub(crate) use plan::squeeze;
pub(crate) use show::{show, show_stat};
