//! [`PressureWatch`]: a thread that relieves the system when it says that memory is short.
//!
//! ```text
//!   /proc/pressure/memory or a cgroup's memory.pressure        eventfd or pipe of the embedder's
//!     "some 150000 2000000": stalled 150 ms in 2 s               (balloon, low-memory callback)
//!               |  POLLPRI, once a window at most                  |  POLLIN
//!               +------------------------+-------------------------+
//!                                        v
//!      poll ---- event ----> relieve(pages) ---+       pages: 256, 512, .. 65,536 while events keep coming
//!       ^ |                                    |       quiet for two windows: 256 again
//!       | +-- dropped, or the file is gone: end|
//!       +--------------------------------------+
//! ```
//!
//! - **E1** Events that come during a relief are answered by one more, and not by one each.
//! - **E2** A watch that is dropped ends the relief under way at its next memcg, and joins its thread.
//!
//! It knows nothing of what is cold; see `shrinker.rs`.

mod trigger;

pub use trigger::{PressureError, Trigger};

use super::core::{Core, Zswap};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Tally, thread};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Pages asked for at the first event: a MiB, which takes a few milliseconds to write.
const FIRST_PAGES: u64 = 256;

/// Pages asked for at most: 256 MiB, which a disk takes a window or so to write.
const MOST_PAGES: u64 = 1 << 16;

/// What a pipe holds: read at once, so that it is empty until the next event (E1).
const PIPE_BYTES: usize = 64 << 10;

/// Watches for pressure and [relieves](Zswap::relieve) an instance, in a thread of its own, until it is dropped. It keeps the
/// instance's memory for as long: drop it first.
#[derive(Debug)]
pub struct PressureWatch {
    state: Arc<State>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the thread and its owner share.
#[derive(Debug)]
struct State {
    /// The owner wants it to end. Relaxed: the pipe wakes it.
    stopping: AtomicBool,
    /// The thread still waits for events. Relaxed: for people.
    watching: AtomicBool,
    events: Tally,
    won: Tally,
}

/// Says that the thread has ended, also by a panic.
struct Watching<'a>(&'a AtomicBool);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Where events come from.
struct Source {
    file: File,
    /// `POLLPRI`: the kernel's triggers, which need no reading. `POLLIN`: bytes.
    events: libc::c_short,
    /// Without an event for so long, they have ceased to keep coming.
    quiet: Duration,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Event,
    Quiet,
    /// Time to stop, or there will be no more events.
    End,
}

/// How much is asked for: more while events keep coming.
#[derive(Debug)]
struct Appetite {
    pages: u64,
}

// === impl PressureWatch ===

impl PressureWatch {
    /// Relieve `zswap` whenever the kernel's pressure stall information passes `trigger`.
    ///
    /// # Errors
    /// [`PressureError`], each with what to do.
    ///
    /// # Examples
    /// ```no_run
    /// use zspool::zswap::{PressureWatch, Trigger, Zswap};
    ///
    /// let zswap = Zswap::builder().swapfile("/var/tmp/cold.swap", 1 << 30).build()?;
    /// let watch = PressureWatch::start(&zswap, Trigger::default())?;
    /// // ... pages come and go ...
    /// println!("{} bytes were written for {} events", watch.won_bytes(), watch.events());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(zswap: &Zswap, trigger: Trigger) -> Result<Self, PressureError> {
        let source = Source { file: trigger.set()?, events: libc::POLLPRI, quiet: 2 * trigger.window() };
        Self::watch(&zswap.core, source)
    }

    /// Relieve `zswap` whenever there is something to read from an eventfd or a pipe: for triggers of the embedder's own.
    /// What is read is thrown away; a pipe that was closed ends the watch. Each event within `quiet` of the last asks for
    /// twice as much.
    ///
    /// # Errors
    /// [`PressureError::Resources`].
    pub fn on_events(zswap: &Zswap, events: OwnedFd, quiet: Duration) -> Result<Self, PressureError> {
        Self::watch(&zswap.core, Source { file: events.into(), events: libc::POLLIN, quiet })
    }

    fn watch(core: &Arc<Core>, mut source: Source) -> Result<Self, PressureError> {
        let (stop, closed) = io::pipe().map(|(reader, writer)| (writer, reader)).map_err(PressureError::Resources)?;
        let state = Arc::new(State {
            stopping: AtomicBool::new(false),
            watching: AtomicBool::new(true),
            events: Tally::new(),
            won: Tally::new(),
        });
        let (core, shared) = (Arc::clone(core), Arc::clone(&state));
        let thread = thread::spawn("zspool-pressure", move || {
            let _watching = Watching(&shared.watching);
            let mut appetite = Appetite::new();
            loop {
                match source.wait(&closed, appetite.has_grown()) {
                    Wake::Event => {
                        let won = core.relieve(appetite.event(), || shared.stopping.load(Ordering::Relaxed));
                        shared.won.add(won);
                        shared.events.add(1);
                    }
                    Wake::Quiet => appetite = Appetite::new(),
                    Wake::End => break,
                }
            }
        })
        .map_err(PressureError::Resources)?;
        Ok(PressureWatch { state, stop: Some(stop), thread: Some(thread) })
    }

    /// Events that were answered.
    pub fn events(&self) -> u64 {
        self.state.events.get()
    }

    /// Payload bytes that left the pool for them.
    pub fn won_bytes(&self) -> u64 {
        self.state.won.get()
    }

    /// Whether it still watches: it ends when the cgroup is removed, or the pipe closed.
    pub fn is_watching(&self) -> bool {
        self.state.watching.load(Ordering::Relaxed)
    }
}

impl Drop for PressureWatch {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was printed; a second panic while dropping would end the process.
            let _ = thread.join();
        }
    }
}

// === impl Source, Appetite ===

impl Source {
    /// Wait for an event; if the last is not long ago, for so long that it is.
    fn wait(&mut self, closed: &PipeReader, recent: bool) -> Wake {
        let millis = if recent { i32::try_from(self.quiet.as_millis()).unwrap_or(i32::MAX) } else { -1 };
        loop {
            let poll = |fd: RawFd, events| libc::pollfd { fd, events, revents: 0 };
            let mut fds = [poll(self.file.as_raw_fd(), self.events), poll(closed.as_raw_fd(), 0)];
            // SAFETY: an array of two, of which the kernel writes `revents`.
            let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, millis) };
            let [source, closed] = fds.map(|fd| fd.revents);
            if ready < 0 {
                match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => continue, // the time begins anew: an appetite ends later
                    _ => return Wake::End,
                }
            }
            if closed != 0 {
                return Wake::End;
            }
            if ready == 0 {
                return Wake::Quiet;
            }
            if self.events == libc::POLLPRI {
                // A cgroup that was removed says both.
                return if source & libc::POLLERR == 0 { Wake::Event } else { Wake::End };
            }
            return match self.file.read(&mut [0; PIPE_BYTES]) {
                Ok(1..) => Wake::Event,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                _ => Wake::End,
            };
        }
    }
}

impl Appetite {
    fn new() -> Self {
        Appetite { pages: 0 }
    }

    /// An event: pages to ask for.
    fn event(&mut self) -> u64 {
        self.pages = (2 * self.pages).clamp(FIRST_PAGES, MOST_PAGES);
        self.pages
    }

    /// Whether there was an event since the last quiet time.
    fn has_grown(&self) -> bool {
        self.pages > 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn more_is_asked_for_while_events_keep_coming() {
        let mut appetite = Appetite::new();
        assert!(!appetite.has_grown());
        let asked: Vec<_> = (0..12).map(|_| appetite.event()).collect();
        assert_eq!(asked[..4], [256, 512, 1024, 2048]);
        assert_eq!(asked[8..], [65_536; 4]);
        assert!(appetite.has_grown());
    }

    #[test]
    fn a_source_tells_events_from_silence_and_both_from_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (closed, stop) = io::pipe().unwrap();
        let file = File::from(OwnedFd::from(reader));
        let mut source = Source { file, events: libc::POLLIN, quiet: Duration::from_millis(5) };
        assert_eq!(source.wait(&closed, true), Wake::Quiet);
        writer.write_all(&[1; 5000]).unwrap();
        assert_eq!(source.wait(&closed, false), Wake::Event);
        assert_eq!(source.wait(&closed, true), Wake::Quiet, "several at once are one");
        writer.write_all(&[1]).unwrap();
        drop(writer);
        assert_eq!([source.wait(&closed, false), source.wait(&closed, false)], [Wake::Event, Wake::End]);
        let (reader, _writer) = io::pipe().unwrap();
        source.file = File::from(OwnedFd::from(reader));
        drop(stop);
        assert_eq!(source.wait(&closed, false), Wake::End);
    }
}
