//! [`BlockDevice`]: a disk, a partition or a volume as a device.
//!
//! ```text
//!   byte of the disk    0          4096                                              size
//!                       +----------+--------------------------------------------------+----- - -
//!                       |  header  |  what the area writes                            | unused
//!                       +----------+--------------------------------------------------+----- - -
//!   byte of the device             0
//! ```
//!
//! 1. It is claimed (`O_EXCL`) before it is looked at: what is mounted, swapped to, part of an array or a volume group, or
//!    another instance's, is refused, and nobody of those gets it while we have it.
//! 2. It is written only if it begins with a header of ours, or if its first MiB and its last 64 KiB are zeroes: there lie the
//!    marks of file systems, volumes, arrays and partition tables. [`BlockOptions::overwrite`] is the way out.
//! 3. The header stays when the device is dropped, and so does what was written: encrypted, with a key that is gone. Without
//!    encryption it can be read by whoever reads the disk.
//!
//! Whoever opens a disk without claiming it can write to it all the same; seals and checksums find that out.

use super::fileio::FileIo;
use super::header::{Header, SWAPFILE_HEADER_BYTES};
use super::opening::{check_size, kind_of, look, once_released, ours, refused, usable};
use super::queue::{self, Queue};
use super::syscalls;
use super::{Device, Request};
use crate::swap::Error;
use crate::sync::Deadline;
use crate::units::PAGE_SIZE;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes at the start in which somebody's data would show: Btrfs and ReiserFS have their superblocks at 64 KiB, ZFS a label
/// up to 256 KiB.
const FIRST_BYTES: u64 = 1 << 20;

/// Bytes at the end in which it would: the superblocks of old arrays and the second partition table are there.
const LAST_BYTES: u64 = 64 << 10;

/// How to open a [`BlockDevice`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BlockOptions {
    path: Option<PathBuf>,
    size: Option<u64>,
    direct: bool,
    timeout: Option<Duration>,
    rings: Option<usize>,
    overwrite: bool,
}

/// A disk, a partition or a volume as a device. See the module for what happens to it.
#[derive(Debug)]
pub struct BlockDevice {
    io: Queue,
    /// The path, links followed, as text.
    name: String,
    /// Bytes of its sectors.
    sector: usize,
}

// === impl BlockOptions ===

impl BlockOptions {
    /// The device's file, such as `/dev/nvme1n1p2` or a link to it below `/dev/disk/by-id`.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Bytes to use, header included, from the first on; without, all. At least 528,384, at most 1 TiB and the header.
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Go past the page cache (the default).
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

    /// Use it whatever is on it. **That is lost.** Nothing makes a device be taken that is in use.
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Open it: claim it, look at what is on it, and make it an empty device.
    ///
    /// # Errors
    /// One variant for each thing that can be in the way: [`Error::Incomplete`], [`Error::NotBlock`], [`Error::Busy`],
    /// [`Error::Occupied`], [`Error::Sector`], [`Error::TooSmall`], [`Error::TooLarge`], [`Error::Permission`],
    /// [`Error::File`]. Nothing was then written.
    pub fn open(self) -> Result<BlockDevice, Error> {
        let path = self.path.ok_or(Error::IncompleteBlock)?;
        let path = std::fs::canonicalize(&path).map_err(|e| refused(&path, "to find", e))?;
        check_kind(&path, &std::fs::metadata(&path).map_err(|e| refused(&path, "to look at", e))?)?;
        let mut options = File::options();
        // O_NONBLOCK: opening does not wait for a medium, or for who may have taken the device's place.
        options.read(true).write(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC | libc::O_NONBLOCK);
        let is_taken = |refusal: &io::Error| refusal.raw_os_error() == Some(libc::EBUSY);
        let mut file = once_released(|| options.open(&path), is_taken).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::Busy { path: path.clone() },
            _ => refused(&path, "to open", e),
        })?;
        check_kind(&path, &file.metadata().map_err(|e| refused(&path, "to look at", e))?)?;

        let sector = syscalls::sector_bytes(&file).map_err(|e| refused(&path, "to tell the sectors of", e))?;
        check_sector(&path, sector)?;
        let all = file.seek(SeekFrom::End(0)).map_err(|e| refused(&path, "to tell the size of", e))?;
        let size = self.size.unwrap_or(all);
        if size > all {
            return Err(Error::TooLarge { size, most: all });
        }
        check_size(size)?;
        if !self.overwrite {
            examine(&path, &file, all)?;
        }
        let io =
            Queue::new(FileIo::new(file, SWAPFILE_HEADER_BYTES, usable(size), self.direct), self.timeout, self.rings);
        io.try_direct();
        let header = Header::of_new(size).encode();
        io.write_all(0, &header[..])
            .map_err(|failure| refused(&path, "to write the header of", failure.cause.into()))?;
        syscalls::expect_random(io.file());
        Ok(BlockDevice { io, name: path.display().to_string(), sector })
    }
}

fn check_kind(path: &Path, meta: &std::fs::Metadata) -> Result<(), Error> {
    let kind = meta.file_type();
    if kind.is_block_device() { Ok(()) } else { Err(Error::NotBlock { path: path.to_owned(), what: kind_of(kind) }) }
}

/// Whether sectors of so many bytes will do: each page is written on its own.
fn check_sector(path: &Path, sector: usize) -> Result<(), Error> {
    if sector.is_power_of_two() && sector <= PAGE_SIZE {
        return Ok(());
    }
    Err(Error::Sector { path: path.to_owned(), sector, most: PAGE_SIZE })
}

/// Whether a device of `all` bytes is ours, or nobody's.
fn examine(path: &Path, file: &File, all: u64) -> Result<(), Error> {
    let occupied = |what| Error::Occupied { path: path.to_owned(), what };
    let mut bytes = vec![0; FIRST_BYTES.min(all) as usize];
    let first = look(path, file, 0, &mut bytes)?;
    match ours(path, first, || occupied("something that is not zspool's")) {
        Ok(()) => return Ok(()),
        Err(Error::Occupied { .. }) if first.iter().all(|&b| b == 0) => {}
        Err(Error::DamagedHeader { .. }) => return Err(occupied("what begins like a swap device of zspool, damaged")),
        Err(Error::Version { .. } | Error::Units { .. }) => {
            return Err(occupied("what another version of zspool, or one of another machine, swapped out"));
        }
        Err(other) => return Err(other),
    }
    let last = all.saturating_sub(LAST_BYTES);
    let end = look(path, file, last, &mut bytes)?;
    if end.iter().any(|&b| b != 0) {
        return Err(occupied("something at its end that is not zspool's"));
    }
    syscalls::forget(file, 0..all);
    Ok(())
}

// === impl BlockDevice ===

impl BlockDevice {
    /// Options without a path, for all of a device and direct I/O.
    pub fn options() -> BlockOptions {
        BlockOptions {
            path: None,
            size: None,
            direct: true,
            timeout: Some(queue::TIMEOUT),
            rings: None,
            overwrite: false,
        }
    }

    /// Whether requests go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.io.is_direct()
    }
}

impl Device for BlockDevice {
    /// Nothing: they are started together with the waiting for them, in one call.
    fn submit(&self, _requests: &mut [Request]) {}

    fn complete(&self, requests: &mut [Request]) {
        self.io.run(self, requests, None);
    }

    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.io.run(self, requests, Some(deadline));
    }

    fn poll(&self, request: &mut Request) {
        self.io.poll(request);
    }

    fn timeout(&self) -> Option<Duration> {
        self.io.timeout()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.io.punch(range)
    }

    fn len_bytes(&self) -> u64 {
        self.io.len()
    }

    fn block_bytes(&self) -> usize {
        PAGE_SIZE
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        let (bytes, how) = (SWAPFILE_HEADER_BYTES + self.io.len(), self.io.describe());
        format!("block device {} of {bytes} bytes in sectors of {}, {how}", self.name, self.sector)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sectors_of_a_page_and_less_will_do() {
        let path = Path::new("/dev/disk");
        for sector in [512, 1024, 2048, 4096] {
            check_sector(path, sector).unwrap();
        }
        for sector in [0, 520, 4104, 8192, 65536] {
            let message = check_sector(path, sector).unwrap_err().to_string();
            assert!(message.contains("/dev/disk") && message.contains(&sector.to_string()), "{message}");
        }
    }
}
