//! `zspool squeeze`: real memory in, compressed, accounted, limited, out again identical.
//!
//! | file | holds |
//! |---|---|
//! | [`interface`] | what the run needs of the store |
//! | [`plan`] | from the command line to sources with names and limits |
//! | [`run`] | the phases and their workers |
//! | [`lane`] | one source on its way into one memcg |
//! | [`hashes`], [`shuffle`] | what each page was; the order of the read-back |
//! | [`histogram`], [`rss`] | what is measured |

mod error;
pub(crate) mod hashes;
mod histogram;
pub(crate) mod interface;
mod lane;
mod plan;
mod rss;
mod run;
pub(crate) mod shuffle;
#[cfg(test)]
mod tests;

pub(crate) use error::RunError;
pub(crate) use histogram::Histogram;
pub(crate) use plan::squeeze;
