//! What `/proc/self` says, also to a process that has changed its root since it made its first VM.
//!
//! ```text
//!   open("maps")   /proc/self/maps, by its path ── not there: below the folder that was opened with the first VM
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// The folder, and whose it is: a child of fork has its parent's.
static FOLDER: OnceLock<(u32, File)> = OnceLock::new();

/// Open it while it can be.
pub(super) fn keep() {
    let folder = || File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open("/proc/self");
    if FOLDER.get().is_none()
        && let Ok(folder) = folder()
    {
        let _ = FOLDER.set((std::process::id(), folder)); // or somebody else's, of the same
    }
}

/// A file of it.
pub(super) fn open(name: &str) -> io::Result<File> {
    File::open(Path::new("/proc/self").join(name)).or_else(|error| match FOLDER.get() {
        Some((pid, folder)) if *pid == std::process::id() => below(folder, name),
        _ => Err(error),
    })
}

fn below(folder: &File, name: &str) -> io::Result<File> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a path that ends with a zero.
    let file = unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
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
        let (_, folder) = FOLDER.get().expect("/proc");
        let mut text = String::new();
        below(folder, "comm").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, std::fs::read_to_string("/proc/self/comm").unwrap());
        assert_eq!(below(folder, "nothing of the kind").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open("nothing of the kind").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
