//! [`ControlError`]: why there is no socket, or no answer.

use std::io;
use std::path::PathBuf;

/// Why there is no socket, or no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The folder cannot be made.
    #[error(
        "The folder for control sockets, {}, cannot be made ({cause}): set XDG_RUNTIME_DIR to a folder of yours.", path.display()
    )]
    Folder {
        /// It.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others could put something of theirs there.
    #[error(
        "{} is not a folder that only you may enter (it is {what}): remove it, or set XDG_RUNTIME_DIR to a folder of yours.", path.display()
    )]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// The socket cannot be made.
    #[error(
        "The control socket {} cannot be made ({cause}); paths of sockets have at most 107 bytes, so XDG_RUNTIME_DIR may need a shorter one.", path.display()
    )]
    Socket {
        /// It.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Nobody listens.
    #[error("Nobody listens at {} ({cause}): the program has ended, or was not started by `zspool run`.", path.display())]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is another process that listens.
    #[error("At {} answers another process ({pid}): whoever made that socket, it is not the program's.", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        pid: u32,
    },
    /// A verb is one line.
    #[error("There is a line break in what is to be said: say one thing at a time.")]
    Lines,
    /// The connection broke.
    #[error("{} did not answer ({cause}): the program is ending, stopped, or very busy; try again.", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// No thread can be started.
    #[error("No thread can be started for the control socket ({0}): see `ulimit -u`.")]
    Thread(io::Error),
}
