//! Devices to write back to: one that is watched, one that keeps nothing, one of a set speed, and a plain file.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use zspool::swap::{Device, Failure, Op, Request};

/// Bytes of a unit of all devices here.
const UNIT: usize = 4096;

/// What a device was seen doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Time with a request under way.
    pub(crate) busy: Duration,
    /// Offset and bytes of every write, as they were started.
    pub(crate) writes: Vec<(u64, usize)>,
    pub(crate) reads: usize,
    /// Calls that give storage back, and their time.
    pub(crate) punches: usize,
    pub(crate) punching: Duration,
    /// Requests under way, and since when there is one.
    under_way: usize,
    since: Option<Instant>,
}

impl Seen {
    pub(crate) fn written(&self) -> u64 {
        self.writes.iter().map(|&(_, len)| len as u64).sum()
    }
}

/// A device that notes what is asked of it.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Box<dyn Device>,
    seen: Mutex<Seen>,
    /// Nobody punches meanwhile.
    calm: Mutex<()>,
}

impl Watched {
    pub(crate) fn new(inner: impl Device + 'static) -> Self {
        Watched { inner: Box::new(inner), seen: Mutex::default(), calm: Mutex::default() }
    }

    /// What was seen since the last call.
    pub(crate) fn take(&self) -> Seen {
        let mut seen = self.seen.lock().expect("nobody panics with it");
        let left = Seen { under_way: seen.under_way, since: seen.since.map(|_| Instant::now()), ..Seen::default() };
        let mut taken = std::mem::replace(&mut *seen, left);
        taken.busy += taken.since.map_or(Duration::ZERO, |since| since.elapsed());
        taken
    }

    /// Have punches wait as long as the guard is there.
    pub(crate) fn hold_punches(&self) -> MutexGuard<'_, ()> {
        self.calm.lock().expect("nobody panics with it")
    }

    fn seen(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("nobody panics with it"));
    }
}

impl Device for Watched {
    fn submit(&self, requests: &mut [Request]) {
        self.seen(|seen| {
            for request in &*requests {
                match request.op() {
                    Op::Read => seen.reads += 1,
                    Op::Write => seen.writes.push((request.offset(), request.len())),
                }
            }
            seen.under_way += 1;
            seen.since.get_or_insert_with(Instant::now);
        });
        // All devices here are through when this returns.
        self.inner.submit(requests);
        self.seen(|seen| {
            seen.under_way -= 1;
            if seen.under_way == 0 {
                seen.busy += seen.since.take().expect("set with the first").elapsed();
            }
        });
    }
    fn complete(&self, requests: &mut [Request]) {
        self.inner.complete(requests);
    }
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        drop(self.hold_punches());
        let start = Instant::now();
        let result = self.inner.punch(range);
        self.seen(|seen| {
            seen.punches += 1;
            seen.punching += start.elapsed();
        });
        result
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
}

/// Takes every write at once and keeps nothing: for what is never read again.
#[derive(Debug)]
pub(crate) struct Sink(pub(crate) u64);

impl Device for Sink {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.start(self) {
                request.finish(Ok(()));
            }
        }
    }
    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }
    fn punch(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> u64 {
        self.0
    }
    fn block_bytes(&self) -> usize {
        UNIT
    }
    fn name(&self) -> &str {
        "sink"
    }
}

/// A sink that takes a set time for each request, one after the other: the same on every machine.
#[derive(Debug)]
pub(crate) struct Paced {
    len: u64,
    per_request: Duration,
    bytes_per_second: f64,
    /// When the last request is over.
    free_at: Mutex<Instant>,
}

impl Paced {
    pub(crate) fn new(len: u64, per_request: Duration, bytes_per_second: f64) -> Self {
        Paced { len, per_request, bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// How long a request takes.
    pub(crate) fn time(&self, len: usize) -> Duration {
        self.per_request + Duration::from_secs_f64(len as f64 / self.bytes_per_second)
    }
}

impl Device for Paced {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.start(self) {
                let over = {
                    let mut free_at = self.free_at.lock().expect("nobody panics with it");
                    *free_at = (*free_at).max(Instant::now()) + self.time(request.len());
                    *free_at
                };
                std::thread::sleep(over.saturating_duration_since(Instant::now()));
                request.finish(Ok(()));
            }
        }
    }
    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }
    fn punch(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> u64 {
        self.len
    }
    fn block_bytes(&self) -> usize {
        UNIT
    }
    fn name(&self) -> &str {
        "paced"
    }
}

/// A file past the page cache, by `pwrite` and nothing else; removed when dropped.
#[derive(Debug)]
pub(crate) struct Plain {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Plain {
    /// With every byte written once, so that a write allocates nothing.
    pub(crate) fn new(dir: &Path, len: u64) -> Self {
        let path = dir.join(format!("zspool-floor.{}", std::process::id()));
        let open = |flags| OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(&path);
        // Where a file system has no direct writes the swapfile does without them too.
        let file = open(libc::O_DIRECT).or_else(|_| open(0));
        let file = file.unwrap_or_else(|error| panic!("{} cannot be made: {error}", path.display()));
        let plain = Plain { file, path, len };
        let mut buffer = Some(zspool::swap::IoBuffer::new(1 << 20));
        for offset in (0..len).step_by(1 << 20) {
            let bytes = buffer.take().expect("put back below");
            let size = (len - offset).min(1 << 20) as usize;
            let mut request = [Request::new(Op::Write, offset, size, bytes)];
            plain.submit(&mut request);
            request[0].result().expect("there is room on the disk");
            buffer = Some(request[0].take_buffer());
        }
        plain
    }
}

impl Device for Plain {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.start(self) {
                let offset = request.offset();
                let written = self.file.write_all_at(request.bytes_mut(), offset);
                request.finish(written.map_err(|error| Failure { cause: (&error).into(), done: 0 }));
            }
        }
    }
    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }
    fn punch(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> u64 {
        self.len
    }
    fn block_bytes(&self) -> usize {
        UNIT
    }
    fn name(&self) -> &str {
        "plain file"
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
