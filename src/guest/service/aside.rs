//! Descriptors of ours are put aside, where programs that choose numbers do not come.
//!
//! ```text
//!   0 1 2  3 4 5 ... 9 ...            | 512 513 514 ...
//!          what the program opens,    | ours
//!          what `exec 3>log` replaces |
//! ```
//!
//! A shell's `exec 3>log` puts a file at a number, whatever was there. Where that was ours, we would read the program's file as events and write into
//! it; and what is out of a child whose descriptor is closed so, reads as zeroes.
//!
//! 1. Those that are opened at once are moved as soon as they are known. Where there is no room, they stay where they are.
//! 2. What is aside is noted, for who sees the program close descriptors (`zspool run`) and passes by what is ours. It tells when one of ours is closed.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::process_static;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Shells use numbers up to 255 themselves.
const FIRST: u64 = 512;

/// With fewer descriptors than this there is no room to put anything aside: as many are left to the program.
const LEAST: u64 = 64;

/// Numbers that are noted.
const NOTED: usize = 4096;

process_static! {
    /// A bit for each number that is aside.
    ASIDE: [AtomicU64; NOTED / 64] = [const { AtomicU64::new(0) }; NOTED / 64]
}

/// The first number that is aside.
pub fn first() -> i32 {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the limit is written.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) };
    // SAFETY: zeroes are good values, and so is what was written.
    let limit = unsafe { limit.assume_init() }.rlim_cur;
    if limit < LEAST { 3 } else { FIRST.min(limit / 2) as i32 }
}

/// Put it aside. Takes no lock and no memory.
pub(crate) fn put(fd: OwnedFd) -> OwnedFd {
    // SAFETY: takes numbers, and returns a new descriptor.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first()) };
    if moved < 0 {
        return fd;
    }
    note(moved);
    // SAFETY: new, and nobody else's. The other one is closed.
    unsafe { OwnedFd::from_raw_fd(moved) }
}

fn bit(fd: i32) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    ASIDE.get(fd / 64).map(|word| (word, 1 << (fd % 64)))
}

/// A descriptor of ours has this number.
pub fn note(fd: i32) {
    if let Some((word, bit)) = bit(fd) {
        word.fetch_or(bit, Ordering::Release);
    }
}

/// It is about to be closed.
pub fn forget(fd: i32) {
    if let Some((word, bit)) = bit(fd) {
        word.fetch_and(!bit, Ordering::Release);
    }
}

/// Whether a descriptor of ours has this number. May be asked in a signal handler.
pub fn is_noted(fd: i32) -> bool {
    bit(fd).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// The first of ours from a number on, and up to another.
pub fn next(from: u32, to: u32) -> Option<u32> {
    (from..=to.min(NOTED as u32 - 1)).find(|fd| is_noted(*fd as i32))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_lies_high_and_is_noted_until_it_is_forgotten() {
        let (read, write) = std::io::pipe().unwrap();
        let low = write.as_raw_fd();
        let moved = put(write.into());
        let high = moved.as_raw_fd();
        assert!(high >= first() && high != low && is_noted(high) && !is_noted(low), "{low} is {high}");
        assert_eq!(next(3, u32::MAX).map(|fd| is_noted(fd as i32)), Some(true));
        assert_eq!(next(high as u32, high as u32), Some(high as u32));
        let gone = high as u32;
        forget(high);
        drop(moved);
        assert_eq!(next(gone, gone), None);
        // It was the only other end.
        let mut end = Vec::new();
        std::io::Read::read_to_end(&mut { read }, &mut end).unwrap();
        assert!(!is_noted(-1) && !is_noted(i32::MAX));
    }
}
