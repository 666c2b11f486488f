//! The table of control files as the file system needs it: names, modes, and errors as numbers.

use crate::memcg::{Cancel, Error, Memcg};

/// Bytes of one write at most, as for the kernel's files.
const WRITE_MAX: usize = 4096;

/// A control file, by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) index: usize,
    name: &'static str,
    writable: bool,
    readable: bool,
}

impl Control {
    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Control> {
        let writable = ["memory.zswap.max", "memory.zswap.writeback", "memory.zswap.nodes"];
        let row = move |(index, name)| Control { index, name, writable: writable.contains(&name), readable: true };
        Memcg::files().enumerate().map(row)
    }

    /// The one at this place.
    pub(super) fn at(index: usize) -> Option<Control> {
        Self::all().nth(index)
    }

    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<Control> {
        Self::all().find(|control| control.name == name)
    }

    pub(super) fn name(self) -> &'static str {
        self.name
    }

    /// Permissions: its owner may write what can be written, all may read what can be read.
    pub(super) fn mode(self) -> u16 {
        (if self.readable { 0o444 } else { 0 }) | (if self.writable { 0o200 } else { 0 })
    }

    /// What it says now.
    ///
    /// # Errors
    /// The kernel's number for it.
    pub(super) fn read(self, memcg: &Memcg) -> Result<String, i32> {
        memcg.read_file(self.name).map_err(|error| errno(&error))
    }

    /// One whole write. May take long; `cancel` ends it.
    ///
    /// # Errors
    /// The kernel's number for it.
    pub(super) fn write(self, memcg: &Memcg, text: &[u8], _cancel: &Cancel) -> Result<(), i32> {
        if text.len() > WRITE_MAX {
            return Err(libc::E2BIG);
        }
        let text = std::str::from_utf8(text).map_err(|_| libc::EINVAL)?;
        memcg.write_file(self.name, text).map_err(|error| errno(&error))
    }
}

/// What the kernel's call would have said.
pub(super) fn errno(error: &Error) -> i32 {
    match error {
        Error::Offline { .. } => libc::ENODEV,
        Error::BadName { name, .. } if name.len() > 255 => libc::ENAMETOOLONG,
        Error::Exists { .. } => libc::EEXIST,
        Error::HasChildren { .. } | Error::Root => libc::EBUSY,
        Error::OutOfIds { .. } => libc::ENOSPC,
        Error::TooDeep { .. } => libc::EAGAIN,
        _ => libc::EINVAL,
    }
}
