//! [`SwapFile`]: a file as a device.
//!
//! ```text
//!   byte of the file    0          4096                                              size
//!                       +----------+--------------------------------------------------+
//!                       |  header  |  what the area writes; holes where it did not    |
//!                       +----------+--------------------------------------------------+
//!   byte of the device             0
//! ```
//!
//! 1. A file with a name is written only after it was locked and then found empty, or to begin with a header of ours. Nothing else
//!    is ever changed, not even its mode.
//! 2. The lock (`flock`) lasts as long as the value; the path named the locked file when it was taken.
//! 3. The file is ours alone to read: mode 0600, whatever it was before.
//! 4. What an earlier instance left is thrown away unread.
//! 5. Dropping it removes a file that was made here; with `keep`, or when it existed, the file is cut down to its
//!    header.
//! 6. A file without a name (`O_TMPFILE`) is nobody else's from the first moment, and gone with its last descriptor, however
//!    the process ends.
//!
//! Somebody who cuts the file down while it is in use takes pages with it: a read past the new end fails and says so, one
//! of what was since written beyond it finds no seal, and [`Device::describe`] tells from the next write on.
//!
//! Nothing here survives a crash on purpose: swap is worth nothing without the process that wrote it. A process that
//! was killed leaves a file that the next one takes over.
//!
//! A write past `ulimit -f` raises `SIGXFSZ`, which ends a process that does not ignore it; one that does gets `EFBIG`.

use super::fileio::FileIo;
use super::header::Header;
use super::opening::{MODE, check_size, look, names, once_released, open_file, ours, refused, usable};
use super::queue::{self, Queue};
use super::syscalls;
use super::{Device, Op, Request};
use crate::swap::Error;
use crate::sync::Deadline;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::{PAGE_SIZE, Page};
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::header::SWAPFILE_HEADER_BYTES;

/// Times that the path may name another file when ours is locked: a user who leaves removes his file, which then has to
/// be made again.
const ATTEMPTS: u32 = 16;

/// No size that a file can have.
const NEVER: u64 = u64::MAX;

/// How to open a [`SwapFile`].
#[derive(Clone, Debug)]
#[must_use]
pub struct FileOptions {
    path: Option<PathBuf>,
    /// Where a file without a name shall be.
    folder: Option<PathBuf>,
    size: Option<u64>,
    direct: bool,
    timeout: Option<Duration>,
    rings: Option<usize>,
    keep: bool,
}

/// A file as a device. See the module for what happens to the file.
#[derive(Debug)]
pub struct SwapFile {
    io: Queue,
    /// Absolute, so that it names the file whatever the working directory becomes. `None`: it has no name.
    path: Option<PathBuf>,
    /// The path as text, for messages.
    name: String,
    origin: Origin,
    /// Who opened it: a fork's copy must not clean up.
    process: u32,
    /// A file that was made here stays.
    keep: bool,
    /// Of this use of the file.
    header: Header,
    /// The fewest bytes that the file was seen to have while in use, or [`NEVER`].
    cut_to: AtomicU64,
}

/// What the file was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was not there.
    Created,
    /// An empty file, which gets no header until everything else has worked.
    Empty,
    /// One of ours, or an empty file that has become one.
    Ours,
    /// It has no name.
    Unnamed,
}

// === impl FileOptions ===

impl FileOptions {
    /// Where the file is, or shall be made. Its folder must exist.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// A file without a name, in a folder, which must exist: nobody can open it, and it is gone when the process ends. Instead
    /// of a path.
    pub fn unnamed(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Bytes of the file, header included; it takes storage only where something is written. At least 528,384 (the
    /// header and two segments), at most 1 TiB and the header.
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Go past the page cache (the default) where the file system allows it. Otherwise pages are written out and
    /// dropped from the cache after each request, so that the cache does not hold what was to leave memory.
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// How long a request may take: 30 seconds unless told otherwise; `None`: for ever. Whoever waits for one that takes longer
    /// is told, its page stays where it is, and nothing is written to the device until it has answered. Reads that io_uring
    /// does not do have no time-out.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Make so many queues to the kernel (rings of io_uring) when it is opened, 1 to 24, and none later: their descriptors then lie together. Unless
    /// told otherwise one is made, and another when all are in use. Who finds none free does without: at less depth, and without a time-out.
    pub fn rings(mut self, rings: usize) -> Self {
        self.rings = Some(rings);
        self
    }

    /// Keep a file that had to be made, cut down to its header, when the device is dropped.
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// The folder that the file is in, or shall be made in.
    pub(in crate::swap) fn folder_of_it(&self) -> Option<PathBuf> {
        let path = self.path.as_ref().and_then(|path| std::path::absolute(path).ok());
        self.folder.clone().or_else(|| path?.parent().map(Path::to_owned))
    }

    /// Open it: lock it, look at what it is, and make it an empty device.
    ///
    /// # Errors
    /// One variant for each thing that can be in the way: [`Error::Incomplete`], [`Error::TooSmall`],
    /// [`Error::TooLarge`], [`Error::Symlink`], [`Error::NotRegular`], [`Error::Foreign`], [`Error::DamagedHeader`],
    /// [`Error::Version`], [`Error::Units`], [`Error::Locked`], [`Error::Permission`], [`Error::MissingFolder`],
    /// [`Error::Unstable`], [`Error::TwoNames`], [`Error::NoUnnamed`], [`Error::File`]. A file that was there is then as
    /// it was; one that was not is not.
    pub fn open(self) -> Result<SwapFile, Error> {
        let size = self.size.ok_or(Error::Incomplete { missing: "size" });
        match (&self.path, &self.folder) {
            (None, None) => Err(Error::Incomplete { missing: "path" }),
            (Some(path), Some(_)) => Err(Error::TwoNames { path: path.clone() }),
            (Some(path), None) => self.open_named(path, size?),
            (None, Some(folder)) => self.open_unnamed(folder, size?),
        }
    }

    fn open_named(&self, path: &Path, size: u64) -> Result<SwapFile, Error> {
        check_size(size)?;
        let path = std::path::absolute(path).map_err(|e| refused(path, "to resolve", e))?;
        for _ in 0..ATTEMPTS {
            let Some((file, created)) = open_file(&path)? else { continue };
            // Nothing that is seen of an unlocked file is sure to last, so the lock comes before the look.
            match once_released(|| file.try_lock(), |refusal| matches!(refusal, TryLockError::WouldBlock)) {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(refused(&path, "to lock", source)),
            }
            if !names(&path, &file) {
                continue;
            }
            let origin = if created { Origin::Created } else { examine(&path, &file)? };
            let name = path.display().to_string();
            return self.swapfile(file, Some(path), name, size, origin).prepare(self.keep);
        }
        Err(Error::Unstable { path, attempts: ATTEMPTS })
    }

    fn open_unnamed(&self, folder: &Path, size: u64) -> Result<SwapFile, Error> {
        check_size(size)?;
        let folder = std::path::absolute(folder).map_err(|e| refused(folder, "to resolve", e))?;
        let file = syscalls::unnamed(&folder, MODE).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory if !folder.is_dir() => {
                Error::MissingFolder { folder: folder.clone() }
            }
            ErrorKind::Unsupported => Error::NoUnnamed { folder: folder.clone() },
            _ => refused(&folder, "to make a file without a name in", e),
        })?;
        let name = format!("without a name in {}", folder.display());
        self.swapfile(file, None, name, size, Origin::Unnamed).prepare(false)
    }

    fn swapfile(&self, file: File, path: Option<PathBuf>, name: String, size: u64, origin: Origin) -> SwapFile {
        SwapFile {
            io: Queue::new(
                FileIo::new(file, SWAPFILE_HEADER_BYTES, usable(size), self.direct),
                self.timeout,
                self.rings,
            ),
            path,
            name,
            origin,
            process: std::process::id(),
            // Not before it is whole: half a header would be no use to anybody.
            keep: false,
            header: Header::of_new(SWAPFILE_HEADER_BYTES + usable(size)),
            cut_to: AtomicU64::new(NEVER),
        }
    }
}

/// What a locked file that existed is; an error if it is not ours to use.
fn examine(path: &Path, file: &File) -> Result<Origin, Error> {
    let bytes = file.metadata().map_err(|e| refused(path, "to look at", e))?.len();
    if bytes == 0 {
        return Ok(Origin::Empty);
    }
    let mut page = Page::zeroed();
    let first = look(path, file, 0, &mut page[..])?;
    ours(path, first, || Error::Foreign { path: path.to_owned(), bytes }).map(|()| Origin::Ours)
}

// === impl SwapFile ===

impl SwapFile {
    /// Options without path and size, for direct I/O, whose file is removed at the end if it had to be made.
    ///
    /// ```
    /// use zspool::swap::{Device, SwapFile};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("swap");
    /// let swapfile = SwapFile::options().path(&path).size(1 << 20).open()?;
    /// assert_eq!(swapfile.len_bytes(), (1 << 20) - 4096);
    /// drop(swapfile);
    /// assert!(!path.exists());
    /// # Ok::<(), zspool::swap::Error>(())
    /// ```
    pub fn options() -> FileOptions {
        FileOptions {
            path: None,
            folder: None,
            size: None,
            direct: true,
            timeout: Some(queue::TIMEOUT),
            rings: None,
            keep: false,
        }
    }

    /// The absolute path of a file that has one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether requests go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.io.is_direct()
    }

    /// Bytes of the whole file.
    fn size(&self) -> u64 {
        SWAPFILE_HEADER_BYTES + self.io.len()
    }

    /// Make the file, which is locked and ours, an empty device.
    fn prepare(mut self, keep: bool) -> Result<Self, Error> {
        let path = self.path.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        let file = self.io.file();
        file.set_permissions(Permissions::from_mode(MODE)).map_err(|e| refused(&path, "to change the mode of", e))?;
        // All old contents go, in one step whatever the file system can do about holes.
        if self.origin == Origin::Ours {
            file.set_len(SWAPFILE_HEADER_BYTES).map_err(|e| refused(&path, "to cut down", e))?;
        }
        self.io.try_direct();
        // This is also the trial of direct I/O: some file systems take the flag and refuse the write.
        self.io
            .write_all(0, &self.header.encode()[..])
            .map_err(|failure| refused(&path, "to write the header of", failure.cause.into()))?;
        file.set_len(self.size()).map_err(|e| refused(&path, "to set the size of", e))?;
        syscalls::expect_random(file);
        if self.origin == Origin::Empty {
            self.origin = Origin::Ours;
        }
        self.keep = keep;
        Ok(self)
    }

    fn run(&self, requests: &mut [Request], deadline: Option<Deadline>) {
        // A write makes the file longer again, and what was between would read as zeroes unsaid.
        if requests.iter().any(|request| request.op() == Op::Write) {
            self.watch();
        }
        self.io.run(self, requests, deadline);
    }

    /// See whether somebody has cut the file down, and keep it recognisable as ours.
    fn watch(&self) {
        let Ok(size) = self.io.file().metadata().map(|meta| meta.len()) else { return };
        if size >= self.size() {
            return; // longer does no harm: nothing there is read
        }
        // Relaxed: it is only told.
        let _ = self.cut_to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| (size < seen).then_some(size));
        if size < SWAPFILE_HEADER_BYTES {
            // Best effort, for the next user of a file that this process may not live to cut down itself.
            let _ = self.io.write_all(0, &self.header.encode()[..]);
        }
    }
}

impl Device for SwapFile {
    /// Nothing: they are started together with the waiting for them, in one call.
    fn submit(&self, _requests: &mut [Request]) {}

    fn complete(&self, requests: &mut [Request]) {
        self.run(requests, None);
    }

    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.run(requests, Some(deadline));
    }

    fn poll(&self, request: &mut Request) {
        self.io.poll(request);
    }

    fn timeout(&self) -> Option<Duration> {
        self.io.timeout()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.watch();
        self.io.punch(range)
    }

    fn len_bytes(&self) -> u64 {
        self.io.len()
    }

    fn block_bytes(&self) -> usize {
        PAGE_SIZE
    }

    fn file_system(&self) -> Option<u64> {
        self.io.file().metadata().ok().map(|meta| meta.dev())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        syscalls::free_bytes(self.io.file())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        let mut line = format!("swapfile {} of {} bytes, {}", self.name, self.size(), self.io.describe());
        match self.cut_to.load(Ordering::Relaxed) {
            NEVER => {}
            bytes => {
                line += &format!(
                    ", which somebody cut down to {bytes} bytes while it was in use: pages are lost, find out who and start anew"
                )
            }
        }
        line
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            return; // a fork's copy: the file is still its parent's
        }
        let file = self.io.file();
        // Errors have nobody to go to, and the next user of the file throws its contents away as well.
        let _ = match (self.origin, &self.path) {
            (Origin::Unnamed, _) | (_, None) => Ok(()),
            (Origin::Created, Some(path)) if !self.keep => {
                // Ours is locked until `io` is dropped, but somebody may have put another in its place.
                if names(path, file) { std::fs::remove_file(path) } else { Ok(()) }
            }
            (Origin::Created | Origin::Ours, _) => file.set_len(SWAPFILE_HEADER_BYTES),
            (Origin::Empty, _) => file.set_len(0),
        };
    }
}
