//! [`Opened`]: files and directories that somebody has open, and what they have read so far.
//!
//! A reader that comes in pieces gets one text: it is made when a read begins at offset 0 (so `lseek` to 0 reads anew), and
//! later pieces are of the same one. Directories likewise.

use super::control::of_open;
use crate::memcg::{Cancel, Memcg, OpenFile};
use crate::sync::{Arc, Mutex, Rank};
use std::collections::HashMap;

/// A name in a directory.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) ino: u64,
    pub(super) directory: bool,
    pub(super) name: String,
}

/// Bytes of one write at most, as for the kernel's files.
const WRITE_MAX: usize = 4096;

/// A file that somebody has open.
#[derive(Debug)]
pub(super) struct File {
    file: OpenFile,
    text: Mutex<Option<Arc<[u8]>>>,
}

/// A directory that somebody has open.
#[derive(Debug)]
pub(super) struct Directory {
    /// None of one that was removed: somebody's working directory.
    pub(super) memcg: Option<Memcg>,
    entries: Mutex<Option<Arc<[Entry]>>>,
}

impl File {
    /// The text to answer a read at `offset` from.
    ///
    /// # Errors
    /// The number for it.
    pub(super) fn text(&self, offset: u64) -> Result<Arc<[u8]>, i32> {
        snapshot(&self.text, offset == 0, || match self.file.read() {
            Ok(text) => Ok(text.into_bytes()),
            Err(error) => Err(of_open(&error)),
        })
    }

    /// One whole write. May take long; `cancel` ends it.
    ///
    /// # Errors
    /// The number for it.
    pub(super) fn write(&self, text: &[u8], cancel: &Cancel) -> Result<(), i32> {
        if text.len() > WRITE_MAX {
            return Err(libc::E2BIG);
        }
        let text = std::str::from_utf8(text).map_err(|_| libc::EINVAL)?;
        self.file.write(text, cancel).map_err(|error| of_open(&error))
    }
}

impl Directory {
    /// The names to answer a read at `offset` from, made by `list`.
    pub(super) fn entries<E>(
        &self,
        offset: u64,
        list: impl FnOnce() -> Result<Vec<Entry>, E>,
    ) -> Result<Arc<[Entry]>, E> {
        snapshot(&self.entries, offset == 0, list)
    }
}

/// What was made before, or made anew. It is made outside of the lock, for that takes others.
fn snapshot<T, E>(
    kept: &Mutex<Option<Arc<[T]>>>,
    anew: bool,
    make: impl FnOnce() -> Result<Vec<T>, E>,
) -> Result<Arc<[T]>, E> {
    if !anew && let Some(before) = &*kept.lock() {
        return Ok(before.clone());
    }
    let made: Arc<[T]> = make()?.into();
    *kept.lock() = Some(made.clone());
    Ok(made)
}

/// All that is open, by the handles that the kernel keeps for us.
#[derive(Debug)]
pub(super) struct Opened(Mutex<Handles>);

#[derive(Debug, Default)]
struct Handles {
    last: u64,
    files: HashMap<u64, Arc<File>>,
    directories: HashMap<u64, Arc<Directory>>,
}

impl Opened {
    /// Nothing is open.
    pub(super) fn new() -> Self {
        Opened(Mutex::new(Rank::Leaf, Handles::default()))
    }

    /// Open a file; its handle.
    pub(super) fn open(&self, file: OpenFile) -> u64 {
        let file = Arc::new(File { file, text: Mutex::new(Rank::Leaf, None) });
        let mut handles = self.0.lock();
        handles.last += 1;
        let handle = handles.last;
        handles.files.insert(handle, file);
        handle
    }

    /// Open a directory; its handle.
    pub(super) fn open_directory(&self, memcg: Option<Memcg>) -> u64 {
        let directory = Arc::new(Directory { memcg, entries: Mutex::new(Rank::Leaf, None) });
        let mut handles = self.0.lock();
        handles.last += 1;
        let handle = handles.last;
        handles.directories.insert(handle, directory);
        handle
    }

    /// The file that a handle names.
    pub(super) fn file(&self, handle: u64) -> Option<Arc<File>> {
        self.0.lock().files.get(&handle).cloned()
    }

    /// The directory that a handle names.
    pub(super) fn directory(&self, handle: u64) -> Option<Arc<Directory>> {
        self.0.lock().directories.get(&handle).cloned()
    }

    /// Forget a handle.
    pub(super) fn close(&self, handle: u64) {
        let mut handles = self.0.lock();
        let gone = (handles.files.remove(&handle), handles.directories.remove(&handle));
        // Their memcg may go with them, which is not for under the lock.
        drop(handles);
        drop(gone);
    }

    /// Forget all of them.
    pub(super) fn close_all(&self) {
        let Handles { files, directories, .. } = std::mem::take(&mut *self.0.lock());
        drop((files, directories));
    }
}
