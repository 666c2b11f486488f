//! Where pages come from: a [`Source`] is read once, front to back, a few pages at a time, and never kept whole.
//!
//! | file | source |
//! |---|---|
//! | [`image`] | a file of flat pages |
//! | [`core`] | an ELF core file |
//! | [`process`] | the resident anonymous pages of a live process |
//! | [`command`] | the same of a command we start and end |
//! | [`survey`] | finds the processes this user may read |
//! | [`names`] | a name of its own for each source |
//! | [`remarks`] | what is said of a source beside its numbers |
//! | [`chosen`] | from the command line to sources with names and shares of the pages |

pub(crate) mod chosen;
pub(crate) mod command;
pub(crate) mod core;
mod error;
pub(crate) mod image;
pub(crate) mod names;
pub(crate) mod process;
mod remarks;
pub(crate) mod survey;

pub(crate) use error::SourceError;
pub(crate) use remarks::remarks;
use zspool::units::Page;

/// What a source is, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Image,
    Core,
    Process,
    Command,
}

/// Pages to be read once.
pub(crate) trait Source: Send {
    /// What to call it; not yet unique.
    fn name(&self) -> &str;

    fn kind(&self) -> Kind;

    /// Pages there are at most. What is promised here is what memory is set aside for, so a source never yields more.
    fn pages_at_most(&self) -> u64;

    /// Read the next pages to the front of `out`. Returns how many; 0 means that there are no more.
    ///
    /// # Errors
    /// When the source is not what it promised. What was read before is good.
    fn read(&mut self, out: &mut [Page]) -> Result<usize, SourceError>;

    /// Pages that were gone when their turn came.
    fn vanished_pages(&self) -> u64 {
        0
    }

    /// What the reader of the report should know about this source, as a sentence.
    fn note(&self) -> Option<String> {
        None
    }
}
