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
//! 1. A file is written only after it was locked and then found empty, or to begin with a header of ours. Nothing else
//!    is ever changed, not even its mode.
//! 2. The lock (`flock`) lasts as long as the value; the path named the locked file when it was taken.
//! 3. The file is ours alone to read: mode 0600, whatever it was before.
//! 4. What an earlier instance left is thrown away unread.
//! 5. Dropping it removes a file that was made here; with `keep`, or when it existed, the file is cut down to its
//!    header.
//!
//! Nothing here survives a crash on purpose: swap is worth nothing without the process that wrote it. A process that
//! was killed leaves a file that the next one takes over.
//!
//! A write past `ulimit -f` raises `SIGXFSZ`, which ends a process that does not ignore it; one that does gets `EFBIG`.

use super::device::{Cause, Device, Failure, Op, Request};
use super::geometry::{BLOCK_BYTES, MAX_BATCH_PAGES, MAX_DEVICE_BYTES};
use super::header::{Header, Unfit, VERSION};
use super::{Error, syscalls};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::{PAGE_SIZE, Page};
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use super::header::SWAPFILE_HEADER_BYTES;

/// Fewest bytes of a swapfile: the header and two segments.
const LEAST_BYTES: u64 = SWAPFILE_HEADER_BYTES + 2 * (MAX_BATCH_PAGES * PAGE_SIZE) as u64;

/// Most bytes of a swapfile: the header and what places can name.
const MOST_BYTES: u64 = SWAPFILE_HEADER_BYTES + MAX_DEVICE_BYTES;

/// Times that the path may name another file when ours is locked: a user who leaves removes his file, which then has to
/// be made again.
const ATTEMPTS: u32 = 16;

/// Only its owner reads a swapfile: it holds other people's memory.
const MODE: u32 = 0o600;

/// How to open a [`SwapFile`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    path: Option<PathBuf>,
    size: Option<u64>,
    direct: bool,
    keep: bool,
}

/// A file as a device. See the module for what happens to the file.
#[derive(Debug)]
pub struct SwapFile {
    file: File,
    /// Absolute, so that it names the file whatever the working directory becomes.
    path: PathBuf,
    /// The path as text, for messages.
    name: String,
    /// Bytes after the header.
    len: u64,
    origin: Origin,
    /// Who opened it: a fork's copy must not clean up.
    process: u32,
    /// A file that was made here stays.
    keep: bool,
    /// Requests go past the page cache. Cleared, once, when the file system refuses.
    direct: AtomicBool,
    /// Direct I/O was wished for.
    direct_wanted: bool,
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
}

// === impl Options ===

impl Options {
    /// Where the file is, or shall be made. Its folder must exist.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
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

    /// Keep a file that had to be made, cut down to its header, when the device is dropped.
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Open it: lock it, look at what it is, and make it an empty device.
    ///
    /// # Errors
    /// One variant for each thing that can be in the way: [`Error::Incomplete`], [`Error::TooSmall`],
    /// [`Error::TooLarge`], [`Error::Symlink`], [`Error::NotRegular`], [`Error::Foreign`], [`Error::DamagedHeader`],
    /// [`Error::Version`], [`Error::Units`], [`Error::Locked`], [`Error::Permission`], [`Error::MissingFolder`],
    /// [`Error::Unstable`], [`Error::File`]. A file that was there is then as it was; one that was not is not.
    pub fn open(self) -> Result<SwapFile, Error> {
        let path = self.path.ok_or(Error::Incomplete { missing: "path" })?;
        let size = self.size.ok_or(Error::Incomplete { missing: "size" })?;
        if size < LEAST_BYTES {
            return Err(Error::TooSmall { size, least: LEAST_BYTES });
        }
        if size > MOST_BYTES {
            return Err(Error::TooLarge { size, most: MOST_BYTES });
        }
        let path = std::path::absolute(&path).map_err(|source| Error::File { path, doing: "to resolve", source })?;
        for _ in 0..ATTEMPTS {
            let Some((file, created)) = open_file(&path)? else { continue };
            // Nothing that is seen of an unlocked file is sure to last, so the lock comes before the look.
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(refused(&path, "to lock", source)),
            }
            if !names(&path, &file) {
                continue;
            }
            let origin = if created { Origin::Created } else { examine(&path, &file)? };
            let swapfile = SwapFile {
                process: std::process::id(),
                name: path.display().to_string(),
                file,
                path,
                len: (size - SWAPFILE_HEADER_BYTES) / PAGE_SIZE as u64 * PAGE_SIZE as u64,
                origin,
                // Not before it is whole: half a header would be no use to anybody.
                keep: false,
                direct: AtomicBool::new(false),
                direct_wanted: self.direct,
            };
            return swapfile.prepare(self.keep);
        }
        Err(Error::Unstable { path, attempts: ATTEMPTS })
    }
}

/// Put a refusal by the system into words.
fn refused(path: &Path, doing: &'static str, source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::PermissionDenied => Error::Permission { path: path.to_owned(), doing },
        _ => Error::File { path: path.to_owned(), doing, source },
    }
}

/// What a thing that is no regular file is called.
fn kind_of(kind: std::fs::FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() => "a block device",
        () if kind.is_char_device() => "a character device",
        () => "a special file",
    }
}

/// Open the regular file at `path`, or make it (`true`). `None`: it came or went meanwhile, try again.
fn open_file(path: &Path) -> Result<Option<(File, bool)>, Error> {
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a pipe that takes the file's place must not hang us. It means nothing to regular files.
    options.read(true).write(true).mode(MODE).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => return Err(Error::Symlink { path: path.to_owned() }),
        Ok(meta) if !meta.is_file() => {
            return Err(Error::NotRegular { path: path.to_owned(), what: kind_of(meta.file_type()) });
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match options.create_new(true).open(path) {
                Ok(file) => Ok(Some((file, true))),
                Err(error) => match error.kind() {
                    ErrorKind::AlreadyExists => Ok(None),
                    ErrorKind::NotFound => Err(missing_folder(path)),
                    _ => Err(refused(path, "to create", error)),
                },
            };
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(missing_folder(path)),
        Err(error) => return Err(refused(path, "to look at", error)),
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(Error::Symlink { path: path.to_owned() });
        }
        Err(error) => return Err(refused(path, "to open", error)),
    };
    let meta = file.metadata().map_err(|e| refused(path, "to look at", e))?;
    if !meta.is_file() {
        return Err(Error::NotRegular { path: path.to_owned(), what: kind_of(meta.file_type()) });
    }
    Ok(Some((file, false)))
}

fn missing_folder(path: &Path) -> Error {
    Error::MissingFolder { folder: path.parent().unwrap_or(path).to_owned() }
}

/// Whether `path` is the file that we opened.
fn names(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
        _ => false,
    }
}

/// What a locked file that existed is; an error if it is not ours to use.
fn examine(path: &Path, file: &File) -> Result<Origin, Error> {
    let bytes = file.metadata().map_err(|e| refused(path, "to look at", e))?.len();
    if bytes == 0 {
        return Ok(Origin::Empty);
    }
    let mut page = Page::zeroed();
    let mut len = 0;
    while len < PAGE_SIZE {
        match file.read_at(&mut page[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(refused(path, "to read", e)),
        }
    }
    let path = path.to_owned();
    match Header::decode(&page[..len]) {
        Ok(_) => Ok(Origin::Ours),
        Err(Unfit::Foreign) => Err(Error::Foreign { path, bytes }),
        Err(Unfit::Damaged) => Err(Error::DamagedHeader { path }),
        Err(Unfit::Version(found)) => Err(Error::Version { path, found, known: VERSION }),
        Err(Unfit::Units { page: found_page, block: found_block }) => {
            Err(Error::Units { path, found_page, found_block, page: PAGE_SIZE as u32, block: BLOCK_BYTES as u32 })
        }
    }
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
    pub fn options() -> Options {
        Options { path: None, size: None, direct: true, keep: false }
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether requests go past the page cache.
    pub fn is_direct(&self) -> bool {
        // Relaxed: it guards nothing; whoever sees the old value gets EINVAL and clears it again.
        self.direct.load(Ordering::Relaxed)
    }

    /// Make the file, which is locked and ours, an empty device.
    fn prepare(mut self, keep: bool) -> Result<Self, Error> {
        let path = self.path.clone();
        self.file
            .set_permissions(Permissions::from_mode(MODE))
            .map_err(|e| refused(&path, "to change the mode of", e))?;
        // All old contents go, in one step whatever the file system can do about holes.
        let size = SWAPFILE_HEADER_BYTES + self.len;
        if self.origin == Origin::Ours {
            self.file.set_len(SWAPFILE_HEADER_BYTES).map_err(|e| refused(&path, "to cut down", e))?;
        }
        if self.direct_wanted {
            self.direct.store(syscalls::set_direct(&self.file, true).is_ok(), Ordering::Relaxed);
        }
        let random = || std::hash::RandomState::new().build_hasher().finish();
        let instance = u128::from(random()) << 64 | u128::from(random());
        let header = Header { size, instance }.encode();
        // This is also the trial of direct I/O: some file systems take the flag and refuse the write.
        self.write_all(0, &header[..])
            .map_err(|failure| refused(&path, "to write the header of", failure.cause.into()))?;
        self.file.set_len(size).map_err(|e| refused(&path, "to set the size of", e))?;
        if self.origin == Origin::Empty {
            self.origin = Origin::Ours;
        }
        self.keep = keep;
        syscalls::expect_random(&self.file);
        Ok(self)
    }

    /// The file system takes no direct I/O after all.
    fn fall_back(&self) -> io::Result<()> {
        syscalls::set_direct(&self.file, false)?;
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Do `step` (bytes done so far: how many more it did) until all `len` bytes are done.
    fn continued(
        &self,
        len: usize,
        end: ErrorKind,
        mut step: impl FnMut(usize) -> io::Result<usize>,
    ) -> Result<(), Failure> {
        let mut done = 0;
        while done < len {
            let direct = self.is_direct();
            // Direct I/O goes on at a whole unit, doing a part of it again.
            let from = if direct { done / PAGE_SIZE * PAGE_SIZE } else { done };
            match step(from) {
                Ok(n) if from + n > done => done = from + n,
                Ok(_) => return Err(Failure { cause: Cause::Kind(end), done }),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) && self.fall_back().is_ok() => {}
                Err(e) => return Err(Failure { cause: Cause::from(&e), done }),
            }
        }
        Ok(())
    }

    /// Write at a byte of the file.
    fn write_all(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.continued(bytes.len(), ErrorKind::WriteZero, |done| self.file.write_at(&bytes[done..], at + done as u64))?;
        if !self.is_direct() {
            let range = at..at + bytes.len() as u64;
            syscalls::write_out(&self.file, range.clone()).map_err(|e| Failure { cause: Cause::from(&e), done: 0 })?;
            syscalls::forget(&self.file, range);
        }
        Ok(())
    }

    /// Read at a byte of the file.
    fn read_all(&self, at: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        self.continued(bytes.len(), ErrorKind::UnexpectedEof, |done| {
            self.file.read_at(&mut bytes[done..], at + done as u64)
        })?;
        if !self.is_direct() {
            syscalls::forget(&self.file, at..at + bytes.len() as u64);
        }
        Ok(())
    }
}

impl Device for SwapFile {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.start(self) {
                let at = SWAPFILE_HEADER_BYTES + request.offset();
                let result = match request.op() {
                    Op::Read => self.read_all(at, request.bytes_mut()),
                    Op::Write => self.write_all(at, request.bytes_mut()),
                };
                request.finish(result);
            }
        }
    }

    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        if range.end > self.len || range.start > range.end {
            return Err(ErrorKind::InvalidInput.into());
        }
        if range.is_empty() {
            return Ok(());
        }
        syscalls::punch(&self.file, SWAPFILE_HEADER_BYTES + range.start..SWAPFILE_HEADER_BYTES + range.end)
    }

    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn block_bytes(&self) -> usize {
        PAGE_SIZE
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        let how = match (self.is_direct(), self.direct_wanted) {
            (true, _) => "direct I/O",
            (false, true) => "buffered I/O (the file system refuses direct I/O)",
            (false, false) => "buffered I/O",
        };
        format!("swapfile {} of {} bytes, {how}", self.name, SWAPFILE_HEADER_BYTES + self.len)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            return; // a fork's copy: the file is still its parent's
        }
        // Errors have nobody to go to, and the next user of the file throws its contents away as well.
        let _ = match self.origin {
            Origin::Created if !self.keep => {
                // Ours is locked until `file` is dropped, but somebody may have put another in its place.
                if names(&self.path, &self.file) { std::fs::remove_file(&self.path) } else { Ok(()) }
            }
            Origin::Created | Origin::Ours => self.file.set_len(SWAPFILE_HEADER_BYTES),
            Origin::Empty => self.file.set_len(0),
        };
    }
}
