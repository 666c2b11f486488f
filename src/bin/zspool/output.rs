//! [`Output`]: where a report goes: text for people, JSON for machines if it is asked for.

use crate::error::RunError;
use crate::json::JsonFile;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// Where a report goes. JSON that goes to a stream goes to standard output, and the text then to standard error.
pub(crate) struct Output<'a>(JsonFile<'a>);

impl<'a> Output<'a> {
    /// As [`JsonFile::open`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(json: Option<&'a Path>) -> Result<Self, RunError> {
        JsonFile::open(json).map(Output).map_err(cannot_write)
    }

    /// Whether standard output is the JSON's.
    pub(crate) fn json_on_stdout(&self) -> bool {
        self.0.is_stream()
    }

    /// As [`JsonFile::abandon`].
    pub(crate) fn abandon(&self) {
        self.0.abandon();
    }

    /// Write both.
    ///
    /// # Errors
    /// When the JSON cannot be written.
    pub(crate) fn write(&self, text: &str, report: &impl Serialize) -> Result<(), RunError> {
        // A reader that has seen enough and closed the pipe is no failure of the run.
        let _ = match self.json_on_stdout() {
            true => io::stderr().write_all(text.as_bytes()),
            false => io::stdout().write_all(text.as_bytes()),
        };
        self.0.write(report, &mut io::stdout()).map_err(cannot_write)
    }
}

fn cannot_write((path, cause): (&Path, io::Error)) -> RunError {
    RunError::Json { path: path.to_owned(), cause }
}
