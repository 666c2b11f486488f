//! [`Client`]: asks a running engine.

use super::error::ControlError;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A connection to a control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    connection: BufReader<UnixStream>,
}

impl Client {
    /// Connect.
    ///
    /// # Errors
    /// [`ControlError::Nobody`].
    pub fn connect(path: &Path) -> Result<Client, ControlError> {
        let nobody = |cause| ControlError::Nobody { path: path.to_owned(), cause };
        let connection = UnixStream::connect(path).map_err(nobody)?;
        Ok(Client { path: path.to_owned(), connection: BufReader::new(connection) })
    }

    /// How long to wait for an answer. Default: for ever.
    pub fn patience(self, time: Duration) -> Client {
        // A time of zero is the only one that is refused.
        let _ = self.connection.get_ref().set_read_timeout(Some(time.max(Duration::from_millis(1))));
        self
    }

    /// Ask, and wait for the answer: a line of JSON.
    ///
    /// # Errors
    /// [`ControlError::NoAnswer`].
    pub fn ask(&mut self, verb: &str) -> Result<String, ControlError> {
        let mut answer = String::new();
        let asked = self.connection.get_mut().write_all(format!("{}\n", verb.trim()).as_bytes());
        // One who was told that there are too many is told so before he asks.
        let read = self.connection.read_line(&mut answer);
        match asked.and(read) {
            _ if answer.ends_with('\n') => Ok(answer.trim_end().to_owned()),
            Ok(_) => Err(self.no_answer(io::ErrorKind::UnexpectedEof.into())),
            Err(cause) => Err(self.no_answer(cause)),
        }
    }

    fn no_answer(&self, cause: io::Error) -> ControlError {
        ControlError::NoAnswer { path: self.path.clone(), cause }
    }
}
