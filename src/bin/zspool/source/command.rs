//! [`Command`]: a command we start, read after a while, and end.
//!
//! It runs in a process group of its own, so that its children can be found and ended with it, with its output on our standard
//! error, for standard output is the report's. It gets SIGTERM when we die.

use super::process::Process;
use super::survey::pids;
use super::{Kind, Source, SourceError};
use crate::signals;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use zspool::sync::thread::sleep;
use zspool::units::Page;

/// How long a command has to end itself after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How often we look whether a command ended.
const POLL: Duration = Duration::from_millis(10);

/// A command we started, and its children.
#[derive(Debug)]
pub(crate) struct Command {
    name: String,
    group: Group,
    /// The members of the group when it was captured.
    processes: Vec<Process>,
    /// Which of them is read.
    at: usize,
}

/// A process group that is ended when dropped.
#[derive(Debug)]
struct Group {
    leader: Child,
    /// Set when the leader was waited for; until then nobody else can get the group's number.
    reaped: bool,
}

impl Command {
    /// Start `arguments[0]` with the others, let it run for `after`, and list its pages.
    pub(crate) fn start(arguments: &[OsString], after: Duration) -> Result<Self, SourceError> {
        let program = arguments[0].to_string_lossy().into_owned();
        let cannot_start = |cause| SourceError::CannotStart { command: program.clone(), cause };
        let mut command = std::process::Command::new(&arguments[0]);
        command.args(&arguments[1..]).stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
        let end_with_us = || {
            signals::undo_in_child();
            // SAFETY: a system call without pointers, which may be made between fork and exec.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure makes system calls that may be made there, and allocates nothing.
        unsafe { command.pre_exec(end_with_us) };
        let mut group = Group { leader: command.spawn().map_err(cannot_start)?, reaped: false };

        // A run that is stopped meanwhile ends before it reads a page.
        if group.ends_within(after, || signals::stopped().is_some()) {
            let status = group.kill().map_err(cannot_start)?;
            return Err(SourceError::CommandEnded { command: program, status, after: after.as_secs_f64() });
        }
        let leader = group.leader.id();
        let mut processes = vec![Process::open(leader)?];
        for pid in pids()? {
            // Children that cannot be read or have ended are left out; the command itself is what was asked for.
            if pid != leader
                && group_of(pid) == Some(leader)
                && let Ok(process) = Process::open(pid)
            {
                processes.push(process);
            }
        }
        Ok(Command { name: name(&arguments[0]), group, processes, at: 0 })
    }
}

/// What a program is called in the table.
pub(crate) fn name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// The process group of a process.
fn group_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; after it come state, parent and group.
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(2)?.parse().ok()
}

impl Group {
    /// Whether the leader has ended. It is not reaped.
    fn has_ended(&self) -> bool {
        // SAFETY: the struct is plain numbers, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is written to and outlives the call.
        let result = unsafe { libc::waitid(libc::P_PID, self.leader.id(), &mut info, options) };
        // SAFETY: the kernel filled in the fields for a child, or left the zeroes.
        let pid = unsafe { info.si_pid() };
        // An error means that there is no such child any more: it was reaped.
        result == -1 || pid != 0
    }

    /// Wait for the leader to end, at most `time` or until `enough`; whether it did.
    fn ends_within(&self, time: Duration, enough: impl Fn() -> bool) -> bool {
        let started = Instant::now();
        loop {
            if self.has_ended() {
                return true;
            }
            let left = time.saturating_sub(started.elapsed());
            if left.is_zero() || enough() {
                return false;
            }
            sleep(left.min(POLL));
        }
    }

    /// End it if that was not done before: politely, and after a while not.
    fn end(&mut self) {
        if !self.reaped {
            self.signal(libc::SIGTERM);
            self.ends_within(GRACE, || false);
            // An error would mean that there is nothing to wait for.
            let _ = self.kill();
        }
    }

    /// End whoever is left, the leader's children too, and reap the leader. SIGKILL cannot be ignored: the wait is short.
    fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(libc::SIGKILL);
        self.reaped = true;
        self.leader.wait()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a system call without pointers. The group is ours, for its leader was not reaped yet.
        unsafe { libc::kill(-(self.leader.id() as i32), signal) };
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

impl Source for Command {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Command
    }

    fn pages_at_most(&self) -> u64 {
        self.processes.iter().map(Source::pages_at_most).sum()
    }

    fn read(&mut self, out: &mut [Page]) -> Result<usize, SourceError> {
        while let Some(process) = self.processes.get_mut(self.at) {
            match process.read(out) {
                Ok(0) => {}
                Ok(read) => return Ok(read),
                // A child that ended is no reason to give up the others.
                Err(SourceError::Vanished { .. }) if self.at > 0 => {}
                Err(error) => return Err(error),
            }
            self.at += 1;
        }
        self.group.end();
        Ok(0)
    }

    fn vanished_pages(&self) -> u64 {
        self.processes.iter().map(Source::vanished_pages).sum()
    }

    fn note(&self) -> Option<String> {
        let notes: Vec<_> = self.processes.iter().filter_map(Source::note).collect();
        (!notes.is_empty()).then(|| notes.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(arguments: &[&str], after_ms: u64) -> Result<Command, SourceError> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        Command::start(&arguments, Duration::from_millis(after_ms))
    }

    #[test]
    fn a_command_and_its_children_are_read_and_ended() {
        let mut command = start(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"], 300).unwrap();
        let leader = command.group.leader.id();
        assert_eq!(command.name(), "sh");
        assert_eq!(command.processes.len(), 3);
        let mut out = vec![Page::zeroed(); 16];
        let mut pages = 0;
        loop {
            let n = command.read(&mut out).unwrap();
            if n == 0 {
                break;
            }
            pages += n as u64;
        }
        assert_eq!(pages + command.vanished_pages(), command.pages_at_most());
        drop(command);
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(left) = pids().unwrap().find(|&pid| group_of(pid) == Some(leader)) {
            assert!(Instant::now() < deadline, "process {left} of the group is still there");
            sleep(POLL);
        }
    }

    #[test]
    fn a_command_that_ignores_the_polite_signal_is_killed() {
        let command = start(&["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], 200).unwrap();
        let leader = command.group.leader.id();
        drop(command);
        assert!(!Path::new(&format!("/proc/{leader}")).exists(), "the command was not reaped");
    }

    #[test]
    fn a_command_that_ends_too_early_is_said() {
        let error = start(&["sh", "-c", "exit 3"], 10_000).unwrap_err();
        assert!(matches!(error, SourceError::CommandEnded { status, .. } if status.code() == Some(3)), "{error}");
        let error = start(&["/nonexistent/program"], 10).unwrap_err();
        assert!(matches!(error, SourceError::CannotStart { .. }), "{error}");
    }
}
