//! [`Stat`]: the numbers at the end, as JSON.

use super::RunError;
use super::watch::{Ended, How};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

/// Where they go.
pub(crate) struct Stat<'a> {
    /// `-` is standard error.
    path: Option<&'a Path>,
    /// It was not there before.
    made: bool,
}

impl<'a> Stat<'a> {
    /// Learn now, and not after the run, that a file cannot be written; what is there stays until there is something new.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(path: Option<&'a Path>) -> Result<Self, RunError> {
        let mut stat = Stat { path, made: false };
        if let Some(path) = path.filter(|path| *path != Path::new("-")) {
            stat.made = !path.exists();
            OpenOptions::new().append(true).create(true).open(path).map_err(|cause| cannot_write(path, cause))?;
        }
        Ok(stat)
    }

    /// There will be none.
    pub(crate) fn abandon(&self) {
        if let Some(path) = self.path.filter(|_| self.made) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Write them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn write(&self, program: &[OsString], ended: &Ended) -> Result<(), RunError> {
        let Some(path) = self.path else { return Ok(()) };
        let mut bytes =
            serde_json::to_vec_pretty(&report(program, ended)).expect("a report has no maps with strange keys");
        bytes.push(b'\n');
        let written = match path == Path::new("-") {
            true => io::stderr().write_all(&bytes),
            false => File::create(path).and_then(|mut file| file.write_all(&bytes)),
        };
        written.map_err(|cause| cannot_write(path, cause))
    }
}

fn cannot_write(path: &Path, cause: io::Error) -> RunError {
    RunError::Stat { path: path.to_owned(), cause }
}

fn report(program: &[OsString], ended: &Ended) -> Value {
    let seconds = |time: Duration| time.as_secs_f64();
    let (code, signal) = match ended.how {
        How::Exited(code) => (Some(code), None),
        How::Signal(signal) => (None, Some(signal)),
    };
    let sample = ended.sample.as_ref();
    let status = sample.and_then(|sample| serde_json::from_str::<Value>(&sample.status).ok());
    json!({
        "program": program.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>(),
        "pid": ended.pid,
        "exit_code": code,
        "exit_signal": signal,
        "wall_seconds": seconds(ended.wall),
        "user_seconds": seconds(ended.user),
        "system_seconds": seconds(ended.system),
        "peak_rss_bytes": ended.peak_rss_bytes,
        // 0: the library's last word. Else the program ended without one (_exit, a signal), and this is how old the numbers are.
        "status_is_seconds_old": sample.map(|sample| seconds(sample.age)),
        "status": status,
    })
}
