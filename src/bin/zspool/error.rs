//! [`RunError`]: why `squeeze`, `classes` or `swap` could not be done.

use crate::signals::{self, Stopped};
use crate::source::SourceError;
use crate::target::Trouble;
use crate::tiers::spec::SpecError;
use std::io;

/// Why a run could not be made, as a sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RunError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("--codec names none that is built in: {0}.")]
    Codec(#[from] zspool::compress::Error),
    #[error(transparent)]
    Swapfiles(#[from] SpecError),
    #[error("--memcg-limit names {name:?}, but the sources are: {known}.")]
    UnknownSource { name: String, known: String },
    #[error("There is no memory to remember {pages} pages by (16 bytes each); read fewer with --max-pages.")]
    NoMemoryForHashes { pages: u64 },
    #[error("The store cannot be made: {0}.")]
    Open(Trouble),
    #[error(
        "This zspool was built without --mount; build it with `cargo build --release --features cli,fuse`, or leave --mount out."
    )]
    NoFuse,
    #[error("The memcgs cannot be mounted: {0}.")]
    Mount(Trouble),
    #[error("The memcg for {name} cannot be set up: {cause}.")]
    Group { name: String, cause: Trouble },
    #[error("Page {page} did not come back: {cause}.")]
    Lost { page: u64, cause: Trouble },
    #[error("Stopped by {0} before the end: there is no report, and nothing is left behind.")]
    Stopped(Stopped),
    #[error("Cannot write the report to {to}: {cause}.")]
    Report { to: String, cause: io::Error },
}

/// A phase that was stopped has not seen all pages: what comes after it would be wrong.
///
/// # Errors
/// When a signal asked us to end.
pub(crate) fn check_not_stopped() -> Result<(), RunError> {
    signals::stopped().map_or(Ok(()), |by| Err(RunError::Stopped(by)))
}
