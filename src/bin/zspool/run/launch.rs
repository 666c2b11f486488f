//! [`Launch`]: a process that becomes the program, with the library preloaded and told what to do.

use super::StartError;
use super::program::ProgramError;
use crate::signals;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use zspool::guest::control::{Settings, VARIABLE};

/// Signals that are looked at by waiting for them, and passed on; blocked from before the fork, so that none is lost.
pub(crate) const WATCHED: [i32; 10] = [
    libc::SIGCHLD,
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGALRM,
];

/// What is started.
pub(crate) struct Launch<'a> {
    pub(crate) path: PathBuf,
    /// What the program is called, as it was written.
    pub(crate) name: &'a OsStr,
    pub(crate) arguments: &'a [OsString],
    pub(crate) preload: PathBuf,
    pub(crate) settings: Settings,
}

/// The process, and the signals that were blocked before it was started.
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) before: libc::sigset_t,
}

/// The set of [`WATCHED`].
pub(crate) fn watched() -> libc::sigset_t {
    set_of(WATCHED)
}

pub(crate) fn set_of(signals: impl IntoIterator<Item = i32>) -> libc::sigset_t {
    // SAFETY: a set is plain numbers.
    let mut set = unsafe { std::mem::zeroed() };
    // SAFETY: it is ours to write.
    unsafe { libc::sigemptyset(&mut set) };
    for signal in signals {
        // SAFETY: as above; the number is a signal's.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

impl Launch<'_> {
    /// Start it. This process must have one thread.
    ///
    /// # Errors
    /// When there can be no process, or the system will not execute the file.
    pub(crate) fn start(mut self) -> Result<Child, StartError> {
        // Tells why the program could not be executed; closed by it if it could.
        let (mut told, tell) = io::pipe().map_err(StartError::Fork)?;
        // SAFETY: a set is plain numbers.
        let mut before = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are good; the old one is written.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &watched(), &mut before) };
        let children_ignored = signals::hear_of_children();
        // SAFETY: there is one thread, so the child may do what a process does.
        match unsafe { libc::fork() } {
            -1 => Err(StartError::Fork(io::Error::last_os_error())),
            0 => {
                drop(told);
                let error = self.become_it(&before, children_ignored);
                let _ = (&tell).write_all(&error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes());
                // SAFETY: it ends the child, without what the parent has arranged for its own end.
                unsafe { libc::_exit(127) }
            }
            pid => {
                drop(tell);
                let mut number = [0; 4];
                if io::Read::read_exact(&mut told, &mut number).is_err() {
                    return Ok(Child { pid: pid as u32, before });
                }
                // SAFETY: the child is ours, and has ended or is about to.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
                let cause = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
                Err(StartError::Program(ProgramError::NotExecutable { path: self.path, cause }))
            }
        }
    }

    /// In the child. Returns when that failed.
    fn become_it(&mut self, before: &libc::sigset_t, children_ignored: bool) -> io::Error {
        self.settings.pid = std::process::id();
        signals::undo_in_child();
        if children_ignored {
            signals::ignore_children();
        }
        // SAFETY: the set is the one that was found.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        let mut preload = self.preload.clone().into_os_string();
        if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            preload.push(":");
            preload.push(others);
        }
        Command::new(&self.path)
            .arg0(self.name)
            .args(self.arguments)
            .env("LD_PRELOAD", preload)
            .env(VARIABLE, self.settings.encode())
            .exec()
    }
}
