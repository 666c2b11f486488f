//! Why a source cannot be read, in sentences that say what to do.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SourceError {
    #[error("Cannot read {}: {cause}.", .path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{} is not a regular file; give a file of pages, for example one copied from a device.", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is empty; an image has at least one page of 4096 bytes.", .path.display())]
    Empty { path: PathBuf },
    #[error("{} has {len} bytes, which is no multiple of 4096 ({rest} too many); an image is made of whole pages.", .path.display())]
    NotWholePages { path: PathBuf, len: u64, rest: u64 },
    #[error("{} was truncated while it was read: page {page} of {pages} is gone; do not change images while they are squeezed.", .path.display())]
    Truncated { path: PathBuf, page: u64, pages: u64 },
    #[error("{} is not an ELF core file that can be read here: {reason}.", .path.display())]
    NotACore { path: PathBuf, reason: String },
    #[error("{} is an incomplete core file: a segment ends at byte {end}, the file at {len}; was the disk full when it was written?", .path.display())]
    IncompleteCore { path: PathBuf, end: u64, len: u64 },
    #[error("There is no process {pid}.")]
    NoSuchProcess { pid: u32 },
    #[error(
        "Process {pid} ({name}) is a thread of the kernel, which has no memory of its own to read; name a program."
    )]
    KernelThread { pid: u32, name: String },
    #[error("Process {pid} is zspool itself, whose memory would change while it is read; name another one.")]
    Ourselves { pid: u32 },
    #[error(
        "This user may not read the memory of {whose}{scope}; {way}, or squeeze a program of your own with `zspool squeeze -- COMMAND`."
    )]
    NotPermitted { whose: String, scope: String, way: &'static str },
    #[error("Process {pid} ({name}) has no resident anonymous memory; it may be a kernel thread or have ended.")]
    NothingResident { pid: u32, name: String },
    #[error("Process {pid} ({name}) ended before one of its pages was read.")]
    Vanished { pid: u32, name: String },
    #[error("No process with resident anonymous memory was found; give a source, for example `-- COMMAND`.")]
    NothingFound,
    #[error("Cannot start {command:?}: {cause}.")]
    CannotStart { command: String, cause: io::Error },
    #[error(
        "{command:?} ended by itself ({status}) within the {after} s that it was to run before its memory is read; give it more to do or a shorter --after."
    )]
    CommandEnded { command: String, status: ExitStatus, after: f64 },
}

impl SourceError {
    /// That `whose` memory may not be read, with what the ptrace scope has to do with it.
    pub(crate) fn not_permitted(whose: String) -> Self {
        let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        let scope = match scope.trim() {
            "1" => {
                " (/proc/sys/kernel/yama/ptrace_scope is 1: only a program's parent may; writing 0 there as root allows all of \
                 one's own)"
            }
            "2" => " (/proc/sys/kernel/yama/ptrace_scope is 2: only root may)",
            "3" => " (/proc/sys/kernel/yama/ptrace_scope is 3: nobody may until the next boot)",
            _ => "",
        };
        // SAFETY: it only asks, and cannot fail.
        let way = match unsafe { libc::geteuid() } {
            0 => {
                "root needs the capability CAP_SYS_PTRACE for it, and those that the process has, in the process's user namespace: run \
                 outside of the container, or give it the capability (`--cap-add SYS_PTRACE`)"
            }
            _ => "run as root (sudo)",
        };
        SourceError::NotPermitted { whose, scope: scope.to_owned(), way }
    }
}
