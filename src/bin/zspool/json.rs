//! [`JsonFile`]: where a report goes as JSON.

use crate::signals;
use serde::Serialize;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

/// How often we look for a reader of a pipe, and at signals.
const POLL: Duration = Duration::from_millis(20);

/// Where a report goes as JSON, if anybody wants it so.
pub(crate) struct JsonFile<'a> {
    /// `-` is a stream, which [`write`](Self::write) is told.
    path: Option<&'a Path>,
    /// What is at `path`: a reader of a pipe would take a file that is closed for the end of the report.
    file: Option<File>,
    /// A file that was not there before.
    made: bool,
}

impl<'a> JsonFile<'a> {
    /// Learn now, and not after the run, that a file cannot be written; what is there stays until there is something new. None of
    /// `inputs` is written over. A pipe is waited for until somebody reads it, or a signal asks us to end.
    ///
    /// # Errors
    /// When it cannot be written: its path, and why.
    pub(crate) fn open(
        path: Option<&'a Path>,
        inputs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, (&'a Path, io::Error)> {
        let mut json = JsonFile { path, file: None, made: false };
        if let Some(path) = path.filter(|_| !json.is_dash()) {
            json.made = !path.exists();
            let file = open(path).map_err(|cause| (path, cause))?;
            // A swapfile that is not made yet has the same path, and is this file by now.
            if inputs.into_iter().any(|input| are_same(std::fs::metadata(input), file.metadata())) {
                json.abandon();
                let what = "it is a source or a swapfile of this run, which would be lost; name another file";
                return Err((path, io::Error::other(what)));
            }
            json.file = Some(file);
        }
        Ok(json)
    }

    fn is_dash(&self) -> bool {
        self.path == Some(Path::new("-"))
    }

    /// Whether it goes to standard output by that one's own name, as `/dev/stdout`.
    fn is_stdout(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from).and_then(|stdout| stdout.metadata());
        // Devices take turns as they are: a terminal, /dev/null.
        file.metadata().is_ok_and(|of| of.is_file() || of.file_type().is_fifo()) && are_same(stdout, file.metadata())
    }

    /// Whether it goes to standard output, where `-` means that.
    pub(crate) fn takes_stdout(&self) -> bool {
        self.is_dash() || self.is_stdout()
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
        let written = match &self.file {
            None => stream.write_all(&bytes).and_then(|()| stream.flush()),
            // What the program wrote there before is a part of it, and not an older report.
            Some(_) if self.is_stdout() => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            Some(file) => replace(file, &bytes),
        };
        written.map_err(|cause| (path, cause))
    }
}

/// Open it, and make it if there is none.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a system call that waits for a pipe's reader would be begun again after a signal. It means nothing to files.
    options.write(true).create(true).truncate(false).custom_flags(libc::O_NONBLOCK);
    loop {
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_pipe(path) => wait_for_reader()?,
            result => return result,
        }
    }
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Have this and nothing else in it.
fn replace(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_reader()?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for_reader() -> io::Result<()> {
    match signals::stopped() {
        Some(by) => Err(io::Error::new(ErrorKind::Interrupted, format!("nobody reads it, and {by} came"))),
        None => {
            std::thread::sleep(POLL);
            Ok(())
        }
    }
}

/// Whether both are there, and one file.
fn are_same(one: io::Result<Metadata>, other: io::Result<Metadata>) -> bool {
    one.and_then(|one| Ok((one, other?))).is_ok_and(|(one, other)| (one.dev(), one.ino()) == (other.dev(), other.ino()))
}
