//! [`JsonFile`]: where a report goes as JSON.

use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where a report goes as JSON, if anybody wants it so.
pub(crate) struct JsonFile<'a> {
    /// `-` is a stream, which [`write`](Self::write) is told.
    path: Option<&'a Path>,
    /// A file that was not there before.
    made: bool,
}

impl<'a> JsonFile<'a> {
    /// Learn now, and not after the run, that a file cannot be written; what is there stays until there is something new.
    ///
    /// # Errors
    /// When it cannot be written: its path, and why.
    pub(crate) fn open(path: Option<&'a Path>) -> Result<Self, (&'a Path, io::Error)> {
        let mut json = JsonFile { path, made: false };
        if let Some(path) = path.filter(|_| !json.is_stream()) {
            json.made = !path.exists();
            OpenOptions::new().append(true).create(true).open(path).map_err(|cause| (path, cause))?;
        }
        Ok(json)
    }

    /// Whether it goes to a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.path == Some(Path::new("-"))
    }

    /// There is no report after all: leave no empty file where there was none.
    pub(crate) fn abandon(&self) {
        if let Some(path) = self.path.filter(|_| self.made) {
            // If it cannot be removed, that is not what went wrong.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Write it, to the stream if it goes to one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn write(&self, report: &impl Serialize, stream: &mut impl Write) -> Result<(), (&'a Path, io::Error)> {
        let Some(path) = self.path else { return Ok(()) };
        let mut bytes = serde_json::to_vec_pretty(report).expect("a report has no maps with strange keys");
        bytes.push(b'\n');
        let written = match self.is_stream() {
            true => stream.write_all(&bytes),
            false => File::create(path).and_then(|mut file| file.write_all(&bytes)),
        };
        written.map_err(|cause| (path, cause))
    }
}
