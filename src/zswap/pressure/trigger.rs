//! [`Trigger`]: what is written to a file of pressure stall information, so that the kernel tells when memory is short.
//!
//! ```text
//!   "some 150000 2000000"      stalled 150 ms in 2 s, in microseconds; polled for priority events from then on
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The system's pressure on memory.
const SYSTEM: &str = "/proc/pressure/memory";

/// How such a file begins.
const HEADING: &[u8; 11] = b"some avg10=";

/// When the kernel is to say that memory is short: stalled for so long within a window of time.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use zspool::zswap::Trigger;
///
/// let trigger = Trigger::some(Duration::from_millis(150), Duration::from_secs(2)).at("/sys/fs/cgroup/vm0/memory.pressure");
/// assert_eq!(trigger.to_string(), "some 150000 2000000");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    full: bool,
    stall: Duration,
    window: Duration,
    path: PathBuf,
}

/// Why a watch could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PressureError {
    /// There is no such file, or it says that PSI is off.
    #[error(
        "{} does not tell pressure ({source}): boot the kernel with psi=1 (CONFIG_PSI), or name the memory.pressure of a \
         cgroup (v2) that exists", .path.display()
    )]
    NoPsi {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is something else; nothing was written to it.
    #[error(
        "{} does not begin with \"some avg10=\", as files that tell pressure do: name {SYSTEM} or the memory.pressure of a \
         cgroup (v2)", .path.display()
    )]
    NotPressure {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be written.
    #[error(
        "{} may not be written, which sets a trigger ({source}): run this as the owner of the cgroup, mount /proc \
         writable, or use an event of your own", .path.display()
    )]
    Denied {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not take this trigger.
    #[error(
        "{} refuses the trigger \"{trigger}\" ({source}): the window has to be from 0.5 to 10 seconds, a multiple of 2 \
         seconds without the privilege CAP_SYS_RESOURCE, and the stall longer than 0 and not longer than the window", .path.display()
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// What was written, times in microseconds.
        trigger: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread or no pipe could be had.
    #[error("the pressure watch could not be started ({0}): raise `ulimit -u` (threads) or `ulimit -n` (open files)")]
    Resources(io::Error),
}

impl Trigger {
    /// At least one task was stalled for `stall` in all within `window`.
    pub fn some(stall: Duration, window: Duration) -> Self {
        Trigger { full: false, stall, window, path: SYSTEM.into() }
    }

    /// All tasks were.
    pub fn full(stall: Duration, window: Duration) -> Self {
        Trigger { full: true, ..Self::some(stall, window) }
    }

    /// Of this file: `memory.pressure` of a cgroup (v2), instead of the system's.
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// How long the time is in which stalls are added up.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Set it. The file is to be polled for priority events.
    pub(super) fn set(&self) -> Result<File, PressureError> {
        let Trigger { path, .. } = self;
        let opened = File::options().read(true).write(true).open(path);
        let mut file = opened.map_err(|source| PressureError::of_open(path, source))?;
        // What is written to another file would be lost on it, or its own bytes.
        let mut start = [0; HEADING.len()];
        match file.read(&mut start) {
            Ok(_) if start == *HEADING => {}
            Ok(_) => return Err(PressureError::NotPressure { path: path.clone() }),
            Err(source) => return Err(PressureError::of_open(path, source)),
        }
        // In one write, or it would be several triggers.
        let text = format!("{self}\0");
        match file.write(text.as_bytes()) {
            Ok(n) if n == text.len() => Ok(file),
            Ok(_) => Err(PressureError::of_write(self, io::ErrorKind::WriteZero.into())),
            Err(source) => Err(PressureError::of_write(self, source)),
        }
    }
}

/// Stalled 150 ms in 2 seconds: what low-memory daemons begin with, and the shortest window that needs no privilege.
impl Default for Trigger {
    fn default() -> Self {
        Self::some(Duration::from_millis(150), Duration::from_secs(2))
    }
}

/// What is written to the file, times in microseconds.
impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.full { "full" } else { "some" };
        write!(f, "{kind} {} {}", self.stall.as_micros(), self.window.as_micros())
    }
}

impl PressureError {
    fn of_open(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => PressureError::Denied { path, source },
            Some(libc::EMFILE | libc::ENFILE) => PressureError::Resources(source),
            _ => PressureError::NoPsi { path, source },
        }
    }

    fn of_write(trigger: &Trigger, source: io::Error) -> Self {
        let path = trigger.path.clone();
        match source.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENODEV) => PressureError::NoPsi { path, source },
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => PressureError::Denied { path, source },
            _ => PressureError::Refused { path, trigger: trigger.to_string(), source },
        }
    }
}
