//! [`Client`]: asks a running engine.

use super::error::ControlError;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of an answer.
const LONGEST: u64 = 1 << 20;

/// The process that listens at the other end.
fn listener(connection: &UnixStream) -> io::Result<u32> {
    let mut who = MaybeUninit::<libc::ucred>::zeroed();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (socket, option) = (connection.as_raw_fd(), libc::SO_PEERCRED);
    // SAFETY: writes as many bytes as it is told there are.
    let got =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, option, who.as_mut_ptr().cast(), &raw mut len) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers, of which zeroes are good values.
    Ok(unsafe { who.assume_init() }.pid as u32)
}

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

    /// Who answers has to be this process: in a folder that others may write to, anybody could.
    ///
    /// # Errors
    /// [`ControlError::Stranger`].
    pub fn of(self, pid: u32) -> Result<Client, ControlError> {
        match listener(self.connection.get_ref()) {
            Ok(found) if found != pid => Err(ControlError::Stranger { path: self.path.clone(), pid: found }),
            Ok(_) => Ok(self),
            Err(cause) => Err(self.no_answer(cause)),
        }
    }

    /// How long to wait for an answer. Default: for ever.
    pub fn patience(self, time: Duration) -> Client {
        // A time of zero is the only one that is refused.
        let _ = self.connection.get_ref().set_read_timeout(Some(time.max(Duration::from_millis(1))));
        self
    }

    /// Ask, and wait for the answer: a line of JSON, of a mebibyte at most.
    ///
    /// # Errors
    /// [`ControlError::NoAnswer`]; [`ControlError::Lines`] for more than one verb.
    pub fn ask(&mut self, verb: &str) -> Result<String, ControlError> {
        let verb = verb.trim();
        if verb.contains(['\n', '\r']) {
            return Err(ControlError::Lines);
        }
        let mut answer = String::new();
        let asked = self.connection.get_mut().write_all(format!("{verb}\n").as_bytes());
        // One who was told that there are too many is told so before he asks.
        let read = (&mut self.connection).take(LONGEST).read_line(&mut answer);
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
