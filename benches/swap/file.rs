//! The file that all is measured on, from both sides: as a device that notes its requests, and as a plain file.
//!
//! ```text
//!   Zswap --> Noted --> SwapFile --+
//!                                  +--> one file, O_DIRECT, every byte of it written before
//!   floor --> Plain ---------------+
//! ```
//!
//! The floor writes over what the instance has there, so it runs while nothing is wanted back, or reads only.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zspool::swap::{Device, IoBuffer, MAX_BATCH_PAGES, Op, Request, SWAPFILE_HEADER_BYTES, SwapFile};
use zspool::sync::Deadline;

/// Most bytes of a request, and what the floor has in its hand.
pub(crate) const MOST: usize = MAX_BATCH_PAGES * 4096;

/// Offset and bytes of a request, as the device counts them.
pub(crate) type Span = (u64, usize);

/// What a device was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) writes: Vec<Span>,
    pub(crate) reads: Vec<Span>,
    /// Time that threads spent in calls of the device for writes.
    pub(crate) writing: Duration,
}

impl Seen {
    pub(crate) fn written(&self) -> u64 {
        self.writes.iter().map(|&(_, len)| len as u64).sum()
    }
}

/// A device that notes what is asked of it.
#[derive(Debug)]
pub(crate) struct Noted {
    inner: SwapFile,
    seen: Mutex<Seen>,
}

impl Noted {
    /// A swapfile of `len` bytes at `path`, with every byte written once, so that a write allocates nothing.
    pub(crate) fn new(path: &Path, len: u64) -> Self {
        let opened = SwapFile::options().path(path).size(len).open();
        let inner = opened.unwrap_or_else(|error| panic!("the bench's file: {error}"));
        Plain::open(path).fill(inner.len_bytes());
        Noted { inner, seen: Mutex::default() }
    }

    /// What was seen since the last call.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().expect("nobody panics with it"))
    }

    fn note(&self, requests: &[Request]) {
        let mut seen = self.seen.lock().expect("nobody panics with it");
        for request in requests {
            let span = (request.offset(), request.len());
            match request.op() {
                Op::Read => seen.reads.push(span),
                Op::Write => seen.writes.push(span),
            }
        }
    }

    fn timed(&self, requests: &mut [Request], work: impl FnOnce(&mut [Request])) {
        let writes = requests.first().is_some_and(|request| request.op() == Op::Write);
        let start = Instant::now();
        work(requests);
        if writes {
            self.seen.lock().expect("nobody panics with it").writing += start.elapsed();
        }
    }
}

impl Device for Noted {
    fn submit(&self, requests: &mut [Request]) {
        self.note(requests);
        self.timed(requests, |requests| self.inner.submit(requests));
    }
    fn complete(&self, requests: &mut [Request]) {
        self.timed(requests, |requests| self.inner.complete(requests));
    }
    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.timed(requests, |requests| self.inner.complete_by(requests, deadline));
    }
    fn poll(&self, request: &mut Request) {
        self.inner.poll(request);
    }
    fn timeout(&self) -> Option<Duration> {
        self.inner.timeout()
    }
    fn punch(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(()) // a hole would have to be filled again by the next write, which the floor's never have to
    }
    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }
    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// The same file without anything in between.
pub(crate) struct Plain {
    file: File,
    buffer: IoBuffer,
    path: PathBuf,
}

impl Plain {
    pub(crate) fn open(path: &Path) -> Self {
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        // Where a file system has no direct I/O the swapfile does without it too.
        let file = open(libc::O_DIRECT).or_else(|_| open(0));
        let file = file.unwrap_or_else(|error| panic!("{} cannot be opened: {error}", path.display()));
        let mut buffer = IoBuffer::new(MOST);
        buffer.iter_mut().enumerate().for_each(|(k, byte)| *byte = ((k * 31) >> 3) as u8);
        Plain { file, buffer, path: path.to_owned() }
    }

    /// Write every byte of a device of `len` bytes, none of it needed again.
    pub(crate) fn fill(&self, len: u64) {
        for offset in (0..len).step_by(MOST) {
            self.write((offset, MOST.min((len - offset) as usize)));
        }
    }

    pub(crate) fn write(&self, (offset, len): Span) {
        let written = self.file.write_all_at(&self.buffer[..len], SWAPFILE_HEADER_BYTES + offset);
        written.unwrap_or_else(|error| panic!("{} cannot be written: {error}", self.path.display()));
    }

    pub(crate) fn read(&mut self, (offset, len): Span) {
        let read = self.file.read_exact_at(&mut self.buffer[..len], SWAPFILE_HEADER_BYTES + offset);
        read.unwrap_or_else(|error| panic!("{} cannot be read: {error}", self.path.display()));
    }
}
