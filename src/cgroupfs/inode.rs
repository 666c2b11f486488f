//! [`Ino`]: how a directory or file of the tree is called in the file system.
//!
//! ```text
//!      63                      8 7             0
//!     +-------------------------+---------------+
//!     |      memcg id - 1       | file      + 1 |      file 0 is the directory itself, file n the table's n-th
//!     +-------------------------+---------------+
//! ```
//!
//! 1. The root's directory is 1, as FUSE wants it: the root's id is 1.
//! 2. Ids are never used twice, so neither are these numbers: what is open stays what it was when its memcg is gone, and a
//!    new memcg of the same name is another one.

use crate::memcg::MemcgId;

/// Bits for what it is of a memcg.
const FILE_BITS: u32 = 8;

/// The most files that a memcg can have.
pub(super) const FILES_MAX: usize = (1 << FILE_BITS) - 2;

/// A directory (no file) or a file (its place in the table) of a memcg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ino {
    pub(super) memcg: MemcgId,
    pub(super) file: Option<usize>,
}

impl Ino {
    /// The directory of a memcg.
    pub(super) fn directory(memcg: MemcgId) -> Self {
        Ino { memcg, file: None }
    }

    /// A file of a memcg, by its place in the table.
    pub(super) fn file(memcg: MemcgId, file: usize) -> Self {
        debug_assert!(file < FILES_MAX);
        Ino { memcg, file: Some(file) }
    }

    /// As a number.
    pub(super) fn number(self) -> u64 {
        ((self.memcg.0 - 1) << FILE_BITS) + self.file.map_or(1, |file| file as u64 + 2)
    }

    /// From a number that [`number`](Self::number) made.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        let file = match number & ((1 << FILE_BITS) - 1) {
            0 => return None,
            1 => None,
            file => Some(file as usize - 2),
        };
        Some(Ino { memcg: MemcgId((number >> FILE_BITS) + 1), file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back_and_the_root_is_1() {
        assert_eq!(Ino::directory(MemcgId(1)).number(), 1);
        for ino in [
            Ino::directory(MemcgId(1)),
            Ino::file(MemcgId(1), 0),
            Ino::file(MemcgId(1), FILES_MAX - 1),
            Ino::directory(MemcgId(2)),
            Ino::file(MemcgId(1 << 55), 7),
        ] {
            assert_eq!(Ino::from_number(ino.number()), Some(ino));
        }
        assert_ne!(Ino::file(MemcgId(1), FILES_MAX - 1).number(), Ino::directory(MemcgId(2)).number());
        assert_eq!(Ino::from_number(0), None);
    }
}
