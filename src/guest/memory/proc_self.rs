//! What `/proc/self` says, also to a process that has changed its root since it made its first VM.
//!
//! ```text
//!   open("maps")   /proc/self/maps, by its path ── not there: below the folder that was opened with the first VM
//! ```

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::process_static;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

process_static! {
    /// One more than the folder's number, which is open for as long as the process; 0 before.
    FOLDER: AtomicU32 = AtomicU32::new(0)
}

process_static! {
    /// Whose it is: a child of fork has its parent's.
    OWNER: AtomicU32 = AtomicU32::new(0)
}

/// Open it while it can be.
pub(super) fn keep() {
    if FOLDER.load(Ordering::Acquire) > 0 {
        return;
    }
    let folder = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open("/proc/self");
    let Ok(folder) = folder else { return };
    OWNER.store(std::process::id(), Ordering::Relaxed);
    let fd = folder.into_raw_fd();
    // Release: who sees it sees whose it is.
    if FOLDER.compare_exchange(0, fd as u32 + 1, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: ours, and somebody was faster.
        drop(unsafe { File::from_raw_fd(fd) });
    }
}

/// A file of it.
pub(super) fn open(name: &str) -> io::Result<File> {
    File::open(Path::new("/proc/self").join(name)).or_else(|error| match FOLDER.load(Ordering::Acquire) {
        folder @ 1.. if OWNER.load(Ordering::Relaxed) == std::process::id() => below(folder as i32 - 1, name),
        _ => Err(error),
    })
}

fn below(folder: i32, name: &str) -> io::Result<File> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a path that ends with a zero.
    let file = unsafe { libc::openat(folder, name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and nobody else's.
    Ok(unsafe { File::from_raw_fd(file) })
}

/// All of a file.
pub(super) fn read(name: &str) -> io::Result<String> {
    let mut text = Vec::new();
    open(name)?.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_the_folder_is_what_the_path_says() {
        keep();
        let folder = FOLDER.load(Ordering::Acquire) as i32 - 1;
        let mut text = String::new();
        below(folder, "comm").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, std::fs::read_to_string("/proc/self/comm").unwrap());
        assert_eq!(below(folder, "nothing of the kind").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open("nothing of the kind").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
