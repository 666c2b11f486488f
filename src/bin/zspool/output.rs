//! [`Output`]: where a report goes: text for people, JSON for machines if it is asked for.

use crate::error::RunError;
use crate::json::JsonFile;
use crate::signals;
use serde::Serialize;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// What `-` is called.
const STDOUT: &str = "standard output";

/// Where a report goes. JSON that goes to a stream goes to standard output, and the text then to standard error.
pub(crate) struct Output<'a>(JsonFile<'a>);

impl<'a> Output<'a> {
    /// As [`JsonFile::open`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(json: Option<&'a Path>, inputs: impl IntoIterator<Item = &'a Path>) -> Result<Self, RunError> {
        JsonFile::open(json, inputs).map(Output).map_err(cannot_write)
    }

    /// Whether standard output is the JSON's.
    pub(crate) fn json_on_stdout(&self) -> bool {
        self.0.takes_stdout()
    }

    /// As [`JsonFile::abandon`].
    pub(crate) fn abandon(&self) {
        self.0.abandon();
    }

    /// Write both.
    ///
    /// # Errors
    /// When one of them cannot be written; the other one is nevertheless.
    pub(crate) fn write(&self, text: &str, report: &impl Serialize) -> Result<(), RunError> {
        let text = match self.json_on_stdout() {
            true => say(io::stderr(), "standard error", text),
            false => print(text),
        };
        let json = self.0.write(report, &mut io::stdout()).or_else(|(path, cause)| match cause.kind() {
            ErrorKind::BrokenPipe if self.json_on_stdout() => Ok(()),
            _ => Err(cannot_write((path, cause))),
        });
        text.and(json)
    }
}

/// Write it to standard output. Whether there is a reader yet: one that has seen enough and closed the pipe is no failure.
///
/// # Errors
/// When it cannot be written for another reason, such as a full disk.
pub(crate) fn print(text: &str) -> Result<bool, RunError> {
    say(io::stdout(), STDOUT, text)
}

fn say(mut stream: impl Write, name: &str, text: &str) -> Result<bool, RunError> {
    match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(cause) => Err(RunError::Report { to: name.to_owned(), cause }),
    }
}

fn cannot_write((path, cause): (&Path, io::Error)) -> RunError {
    // Of all that is done there only waiting for a reader is given up for a signal.
    match signals::stopped().filter(|_| cause.kind() == ErrorKind::Interrupted) {
        Some(by) => RunError::Stopped(by),
        None if path == Path::new("-") => RunError::Report { to: STDOUT.to_owned(), cause },
        None => RunError::Report { to: path.display().to_string(), cause },
    }
}
