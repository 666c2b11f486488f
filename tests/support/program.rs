//! The program as tests run it: generated images, a run to its end, and a run that is met in the middle.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use serde_json::Value;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use zspool::units::{PAGE_SIZE, Page};

pub const ZSPOOL: &str = env!("CARGO_BIN_EXE_zspool");

/// Patience with the program on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the first batch lands in a swapfile: behind the header.
const FIRST_BATCH: u64 = 4096;

/// Write pages to `folder/name.pages`.
pub fn image(folder: &Path, name: &str, pages: impl Iterator<Item = Page>) -> PathBuf {
    let path = folder.join(name).with_extension("pages");
    let mut file = std::io::BufWriter::new(File::create(&path).unwrap());
    pages.for_each(|page| file.write_all(&page[..]).unwrap());
    file.flush().unwrap();
    path
}

/// What a run came to.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// It ended with this status, by itself, and without a word of a panic.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        for text in [&self.out, &self.err] {
            assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
        }
        self
    }

    /// All these are in what was said.
    #[track_caller]
    pub fn assert_said(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in: {}", self.err);
        }
        self
    }

    /// It was refused with a sentence.
    #[track_caller]
    pub fn assert_refused(&self, parts: &[&str]) -> &Self {
        self.assert_code(2).assert_said(parts);
        assert!(self.out.is_empty(), "standard output is for reports: {}", self.out);
        assert!(self.err.ends_with(".\n"), "a whole sentence: {}", self.err);
        self
    }

    /// The report, of a run with `--json -`.
    #[track_caller]
    pub fn report(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Squeeze with these arguments, to the end.
pub fn squeeze(arguments: &[&str]) -> Ended {
    Running::start(arguments).finish()
}

/// `zspool swap` with these arguments, to the end.
pub fn swap(arguments: &[&str]) -> Ended {
    Running::verb("swap", arguments, |_| {}).finish()
}

/// A number of a source.
#[track_caller]
pub fn of(source: &Value, field: &str) -> u64 {
    source[field].as_u64().unwrap_or_else(|| panic!("{field} is {}", source[field]))
}

/// The sum of a number over all sources.
#[track_caller]
pub fn sum(report: &Value, field: &str) -> u64 {
    report["sources"].as_array().unwrap().iter().map(|source| of(source, field)).sum()
}

/// A run under way. Killed if the test fails.
pub struct Running {
    child: Child,
    out: File,
    err: File,
}

impl Running {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, |_| {})
    }

    /// Start it after a change to how.
    pub fn start_with(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        Self::verb("squeeze", arguments, change)
    }

    /// Start another of its commands.
    pub fn verb(verb: &str, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        // Files, not pipes: nobody has to read along.
        let [out, err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let mut command = Command::new(ZSPOOL);
        command.arg(verb).args(arguments).stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        // What runs the tests may have some signals ignored (nohup, a background job), and the program would respect that.
        let reset = || {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                // SAFETY: a system call that is fit for a child between fork and exec.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(reset) };
        change(&mut command);
        Running { child: command.spawn().unwrap(), out, err }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a system call without pointers; the child was not waited for, so its number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it said on standard error so far.
    pub fn said(&self) -> String {
        // Not through its own cursor, which the program writes at.
        let mut text = vec![0; self.err.metadata().unwrap().len() as usize];
        let read = self.err.read_at(&mut text, 0).unwrap();
        String::from_utf8_lossy(&text[..read]).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Wait for something that the run does. Panics with what it said when it ends instead.
    #[track_caller]
    pub fn wait_until(&mut self, mut seen: impl FnMut() -> bool) {
        let started = Instant::now();
        while !seen() {
            if self.child.try_wait().unwrap().is_some() {
                panic!("it ended too early: {:?}", self.take_texts());
            }
            assert!(started.elapsed() < PATIENCE, "nothing happened");
            std::thread::yield_now();
        }
    }

    /// Wait until a page was written to the swapfile, stop all threads, `act`, and let them go on. The page stays where it is
    /// until it is freed at the end.
    #[track_caller]
    pub fn at_first_write(&mut self, swapfile: &Path, act: impl FnOnce(&Self)) {
        let mut page = [0; PAGE_SIZE];
        self.wait_until(|| {
            File::open(swapfile).is_ok_and(|file| file.read_exact_at(&mut page, FIRST_BATCH).is_ok())
                && page.iter().any(|&b| b != 0)
        });
        self.signal(libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.pid());
        self.wait_until(|| fs::read_to_string(&stat).unwrap().contains(") T "));
        act(self);
        self.signal(libc::SIGCONT);
    }

    /// Wait for its end.
    #[track_caller]
    pub fn finish(mut self) -> Ended {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let (out, err) = self.take_texts();
                return Ended { status, out, err };
            }
            assert!(started.elapsed() < PATIENCE, "it does not end: {:?}", self.take_texts());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn take_texts(&mut self) -> (String, String) {
        let read = |file: &mut File| {
            file.rewind().unwrap();
            std::io::read_to_string(file).unwrap()
        };
        (read(&mut self.out), read(&mut self.err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors say that it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run something that has to meet the program in time, until it did: on a busy machine the program may be through before.
#[track_caller]
pub fn until_in_time<R>(mut run: impl FnMut() -> Option<R>) -> R {
    (0..5).find_map(|_| run()).expect("the program was never met in time, or does not notice")
}
