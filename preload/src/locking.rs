//! The functions by which the program has its memory stay: `mlock` and its kin.
//!
//! ```text
//!   mlock, mlock2      what is out comes in, and is held; then the system call
//!   munlock            the system call; then it may leave again
//!   mlockall           now:     each mapping of the program's as by mlock2. The system call would lock our addresses too, of which
//!                               there are many times more than memory, and fill them
//!                      future:  the system call, to lock what is touched; what we map after it is unlocked at once
//!   munlockall         the system call; then everything may leave again
//! ```
//!
//! 1. What is locked is not found by the [`finder`](crate::finder): it is registered when it is not locked any more.
//! 2. New mappings are locked when they are touched, also where the program wants them filled at once.

use crate::following;
use crate::inside::Inside;
use crate::interpose::{after_change, before_change, fails, follows, pages};
use crate::maps::Maps;
use crate::own;
use crate::system;
use libc::{c_int, c_uint, c_void, size_t};
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

/// The kernel locks what is mapped.
static FUTURE: AtomicBool = AtomicBool::new(false);

/// Something of ours has been mapped.
pub(crate) fn unlock_ours(range: Range<usize>) {
    if FUTURE.load(Acquire) {
        // SAFETY: takes nothing away.
        unsafe { libc::syscall(libc::SYS_munlock, range.start, range.len()) };
    }
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock(at: *const c_void, len: size_t) -> c_int {
    // SAFETY: the caller's, as it is.
    unsafe { mlock2(at, len, 0) }
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock2(at: *const c_void, len: size_t, flags: c_uint) -> c_int {
    match flags {
        // All of it will be there: together is faster than one by one.
        0 => before_change(at, len, following::before_lock),
        _ => before_change(at, len, following::before_change),
    }
    let result = lock(at.addr(), len, flags);
    after_change(pages(at, len), result != 0);
    result
}

fn lock(at: usize, len: size_t, flags: c_uint) -> c_int {
    // The older call is known to older kernels, and has one argument less.
    let call = if flags == 0 { libc::SYS_mlock } else { libc::SYS_mlock2 };
    // SAFETY: locks, and takes nothing away.
    unsafe { libc::syscall(call, at, len, flags) as c_int }
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munlock(at: *const c_void, len: size_t) -> c_int {
    // SAFETY: the caller's, as it is.
    let result = unsafe { libc::syscall(libc::SYS_munlock, at, len) as c_int };
    after_change(pages(at, len), result == 0);
    result
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlockall(flags: c_int) -> c_int {
    // SAFETY: locks, and takes nothing away.
    let call = |flags: c_int| unsafe { libc::syscall(libc::SYS_mlockall, flags) as c_int };
    let (now, future) = (flags & libc::MCL_CURRENT != 0, flags & libc::MCL_FUTURE != 0);
    let is_known = flags & !(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) == 0;
    if !follows() || !is_known || !now && !future {
        return call(flags);
    }
    let _inside = Inside::enter();
    let parts = match if now { theirs() } else { Ok(Vec::new()) } {
        Ok(parts) => parts,
        Err(errno) => return fails(errno), // and nothing has changed
    };
    if future {
        // Before: what we map while it takes hold is unlocked.
        let before = FUTURE.swap(true, Release);
        if call(libc::MCL_FUTURE | libc::MCL_ONFAULT) != 0 {
            FUTURE.store(before, Release);
            return -1;
        }
    } else if FUTURE.swap(false, Release) {
        // Nothing else ends it; what was locked is locked again in a moment.
        unlock_all();
    }
    let on_fault = flags & libc::MCL_ONFAULT != 0;
    for part in parts {
        let hold = if on_fault { following::before_change } else { following::before_lock };
        hold(part.clone());
        // What cannot be filled is locked, and what is gone is gone, as with the system call.
        lock(part.start, part.len(), if on_fault { libc::MLOCK_ONFAULT as c_uint } else { 0 });
    }
    0
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munlockall() -> c_int {
    let result = unlock_all();
    if follows() {
        let _inside = Inside::enter();
        FUTURE.store(false, Release);
        following::let_all_go();
    }
    result
}

fn unlock_all() -> c_int {
    // SAFETY: takes nothing away.
    unsafe { libc::syscall(libc::SYS_munlockall) as c_int }
}

/// What the program has mapped, if it may lock that: each mapping by itself, as one that cannot be filled keeps nothing else from being locked.
///
/// # Errors
/// The number of the error that the system call would have had.
fn theirs() -> Result<Vec<Range<usize>>, c_int> {
    let mut maps = Maps::default();
    maps.read().map_err(|error| error.raw_os_error().unwrap_or(libc::ENOMEM))?;
    let ours = own::ours();
    let theirs: Vec<Range<usize>> = maps.everything().flat_map(|mapping| ours.missing(mapping)).collect();
    if let Some(most) = system::most_locked() {
        let bytes: usize = theirs.iter().map(|range| range.len()).sum();
        if bytes > most {
            return Err(if most == 0 { libc::EPERM } else { libc::ENOMEM });
        }
    }
    Ok(theirs)
}
