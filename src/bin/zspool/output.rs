//! [`Output`]: where a report goes: text for people, JSON for machines if it is asked for.

use crate::squeeze::RunError;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where a report goes.
pub(crate) struct Output<'a> {
    /// The JSON's path, if it is asked for; `-` is standard output, and the text then goes to standard error.
    json: Option<&'a Path>,
    /// A file that was not there before.
    made: bool,
}

impl<'a> Output<'a> {
    /// Learn now, and not after the run, that a file cannot be written; what is there stays until there is something new.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(json: Option<&'a Path>) -> Result<Self, RunError> {
        let mut output = Output { json, made: false };
        if let Some(path) = json.filter(|_| !output.json_on_stdout()) {
            output.made = !path.exists();
            OpenOptions::new().append(true).create(true).open(path).map_err(|cause| cannot_write(path, cause))?;
        }
        Ok(output)
    }

    /// Whether standard output is the JSON's.
    pub(crate) fn json_on_stdout(&self) -> bool {
        self.json == Some(Path::new("-"))
    }

    /// There is no report after all: leave no empty one where there was none.
    pub(crate) fn abandon(&self) {
        if let Some(path) = self.json.filter(|_| self.made) {
            // If it cannot be removed, that is not what went wrong.
            let _ = std::fs::remove_file(path);
        }
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
        let Some(path) = self.json else { return Ok(()) };
        let mut bytes = serde_json::to_vec_pretty(report).expect("a report has no maps with strange keys");
        bytes.push(b'\n');
        let written = match self.json_on_stdout() {
            true => io::stdout().write_all(&bytes),
            false => File::create(path).and_then(|mut file| file.write_all(&bytes)),
        };
        written.map_err(|cause| cannot_write(path, cause))
    }
}

fn cannot_write(path: &Path, cause: io::Error) -> RunError {
    RunError::Json { path: path.to_owned(), cause }
}
