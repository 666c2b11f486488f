//! The system calls about mappings, without passing the C library's functions of the same names: those are ours here, and see
//! what the program does.

use std::ops::Range;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Addresses, backed by nothing.
pub(crate) fn reserve(len: usize) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nobody.
    let start = unsafe { libc::syscall(libc::SYS_mmap, 0usize, len, libc::PROT_NONE, flags, -1isize, 0usize) };
    if start == -1 {
        return None;
    }
    let start = start as usize;
    advise(start..start + len, libc::MADV_NOHUGEPAGE);
    advise(start..start + len, libc::MADV_DONTDUMP);
    Some(start)
}

/// Have `range`, of a reserve, written to.
pub(crate) fn make_writable(range: Range<usize>) -> bool {
    // SAFETY: it is ours, and nobody uses it yet.
    unsafe { libc::syscall(libc::SYS_mprotect, range.start, range.len(), libc::PROT_READ | libc::PROT_WRITE) == 0 }
}

/// Give back what lies in whole pages of ours; they read as zeroes afterwards.
pub(crate) fn discard(range: Range<usize>) {
    if !range.is_empty() {
        advise(range, libc::MADV_DONTNEED);
    }
}

/// Have pages of ours read as zeroes in children of fork.
pub(crate) fn wipe_in_children(range: Range<usize>) -> bool {
    advise(range, libc::MADV_WIPEONFORK)
}

fn advise(range: Range<usize>, advice: libc::c_int) -> bool {
    // SAFETY: callers have it about memory of ours that nobody uses. Of other advice, that it is not taken costs memory and nothing else.
    unsafe { libc::syscall(libc::SYS_madvise, range.start, range.len(), advice) == 0 }
}

/// How many bytes may be locked. `None`: all there are.
pub(crate) fn most_locked() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the limit.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if limit.rlim_cur == libc::RLIM_INFINITY || has_capability(CAP_IPC_LOCK) {
        return None;
    }
    usize::try_from(limit.rlim_cur).ok()
}

const CAP_IPC_LOCK: u32 = 14;

/// Whether this thread has a capability, by its number.
fn has_capability(number: u32) -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
    const VERSION: u32 = 0x2008_0522;
    let (mut header, mut sets) = ([VERSION, 0], [[0u32; 3]; 2]);
    // SAFETY: writes the sets (effective, permitted, inheritable, twice) of this thread, and the header where its version is not known.
    let asked = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    asked == 0 && sets[number as usize / 32][0] & 1 << (number % 32) != 0
}
