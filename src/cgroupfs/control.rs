//! The table of control files as the file system needs it: names, modes, and errors as numbers.

use crate::memcg::{Error, FileInfo, Memcg};

/// A control file, by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) index: usize,
    info: FileInfo,
}

impl Control {
    /// All of them.
    pub(super) fn all() -> impl Iterator<Item = Control> {
        Memcg::file_table().enumerate().map(|(index, info)| Control { index, info })
    }

    /// The one at this place.
    pub(super) fn at(index: usize) -> Option<Control> {
        Self::all().nth(index)
    }

    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<Control> {
        Self::all().find(|control| control.info.name == name)
    }

    pub(super) fn name(self) -> &'static str {
        self.info.name
    }

    /// Permissions: all may read what can be read, its owner may write what can be written.
    pub(super) fn mode(self) -> u16 {
        (if self.info.readable { 0o444 } else { 0 }) | (if self.info.takes.is_some() { 0o200 } else { 0 })
    }
}

/// What a read or write of an open file says. Its mode is looked at when it is opened; root, who may open all of them, is told
/// by the kernel's files as late as this, and with another number.
pub(super) fn of_open(error: &Error) -> i32 {
    match error {
        Error::ReadOnly { .. } | Error::WriteOnly { .. } => libc::EINVAL,
        error => error.errno(),
    }
}

/// What looking up, making and removing say: of a directory that is gone, that it is not there.
pub(super) fn of_directory(error: &Error) -> i32 {
    match error {
        Error::Offline { .. } => libc::ENOENT,
        error => error.errno(),
    }
}
