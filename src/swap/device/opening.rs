//! Opening what is to be a swap device: nothing is taken for ours before it is locked, and nothing is changed here.
//!
//! Swapfiles and block devices are opened with this; what they are is told by their [`Header`].

use super::header::{Header, SWAPFILE_HEADER_BYTES, Unfit, VERSION};
use crate::swap::Error;
use crate::swap::geometry::{BLOCK_BYTES, MAX_BATCH_PAGES, MAX_DEVICE_BYTES};
use crate::sync::thread;
use crate::units::PAGE_SIZE;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// Fewest bytes of a swap device: the header and two segments.
pub(super) const LEAST_BYTES: u64 = SWAPFILE_HEADER_BYTES + 2 * (MAX_BATCH_PAGES * PAGE_SIZE) as u64;

/// Most bytes of a swap device: the header and what places can name.
pub(super) const MOST_BYTES: u64 = SWAPFILE_HEADER_BYTES + MAX_DEVICE_BYTES;

/// Only its owner reads a swapfile: it holds other people's memory.
pub(super) const MODE: u32 = 0o600;

/// Whether a device of that size, header included, can be.
pub(super) fn check_size(size: u64) -> Result<(), Error> {
    if size < LEAST_BYTES {
        return Err(Error::TooSmall { size, least: LEAST_BYTES });
    }
    if size > MOST_BYTES {
        return Err(Error::TooLarge { size, most: MOST_BYTES });
    }
    Ok(())
}

/// Bytes of whole pages after the header, of `size` bytes.
pub(super) fn usable(size: u64) -> u64 {
    (size - SWAPFILE_HEADER_BYTES) / PAGE_SIZE as u64 * PAGE_SIZE as u64
}

/// Put a refusal by the system into words.
pub(super) fn refused(path: &Path, doing: &'static str, source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::PermissionDenied => Error::Permission { path: path.to_owned(), doing },
        _ => Error::File { path: path.to_owned(), doing, source },
    }
}

/// What a kind of file is called.
pub(super) fn kind_of(kind: FileType) -> &'static str {
    match () {
        () if kind.is_file() => "a regular file",
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() => "a block device",
        () if kind.is_char_device() => "a character device",
        () => "a special file",
    }
}

/// Open the regular file at `path`, or make it (`true`). `None`: it came or went meanwhile, try again.
pub(super) fn open_file(path: &Path) -> Result<Option<(File, bool)>, Error> {
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
                    ErrorKind::NotFound if lacks_folder(path) => Err(missing_folder(path)),
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

/// Whether the folder is what is missing: file systems that make no files (/proc) say the same.
fn lacks_folder(path: &Path) -> bool {
    !path.parent().is_some_and(Path::is_dir)
}

pub(super) fn missing_folder(path: &Path) -> Error {
    Error::MissingFolder { folder: path.parent().unwrap_or(path).to_owned() }
}

/// Whether `path` is the file that we opened.
pub(super) fn names(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
        _ => false,
    }
}

/// The bytes at `at` of a file, of which there may be fewer than asked for; those there are.
pub(super) fn look<'a>(path: &Path, file: &File, at: u64, into: &'a mut [u8]) -> Result<&'a [u8], Error> {
    let mut len = 0;
    while len < into.len() {
        match file.read_at(&mut into[len..], at + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(refused(path, "to read", e)),
        }
    }
    Ok(&into[..len])
}

/// What the first bytes of something that is not empty say: `Ok` if it is ours to throw away. `foreign` makes the error of
/// what is somebody else's.
pub(super) fn ours(path: &Path, first: &[u8], foreign: impl FnOnce() -> Error) -> Result<(), Error> {
    let path = path.to_owned();
    match Header::decode(first) {
        Ok(_) => Ok(()),
        Err(Unfit::Foreign) => Err(foreign()),
        Err(Unfit::Damaged) => Err(Error::DamagedHeader { path }),
        Err(Unfit::Version(found)) => Err(Error::Version { path, found, known: VERSION }),
        Err(Unfit::Units { page: found_page, block: found_block }) => {
            Err(Error::Units { path, found_page, found_block, page: PAGE_SIZE as u32, block: BLOCK_BYTES as u32 })
        }
    }
}

/// How long a lock may outlive its owner, in steps of [`STEP`]: the kernel takes the rings of a killed process down after the process
/// is gone, and they hold the file. On a busy machine 300 ms were seen.
const PATIENCE_STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(10);

/// `take`, again and again while `is_taken` says of its refusal that somebody else has the file, for as long as a dead owner may.
pub(super) fn once_released<T, E>(
    mut take: impl FnMut() -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..PATIENCE_STEPS {
        match take() {
            Err(refusal) if is_taken(&refusal) => thread::sleep(STEP),
            result => return result,
        }
    }
    take()
}
