//! The functions that the program calls and that we see first.
//!
//! | function | what we do besides what it does |
//! |---|---|
//! | `mmap` | ours: noted; the program's: looked for soon, if it is large |
//! | `munmap`, `mremap` | ours: noted; the program's: what [`following`] held there goes |
//! | `mremap`, `realloc` of a large piece | [`following`] gives it up until it has moved; [`moving`] where the kernel has it as several |
//! | `madvise` | huge pages are not asked for in memory that is registered; what is thrown away need not stay; what is to be wiped in children is left out |
//! | `mprotect`, `pkey_mprotect` | [`following`] brings in what is out there, and has it stay; until it is to be read and written again |
//! | `mlock` and its kin | see [`locking`] |
//! | `ioctl` | see [`served`](crate::served) |
//! | `_exit`, `_Exit` | children that live on get what is theirs, and what could not be read back is said |
//! | `pthread_create` | see [`threads`] |
//!
//! The C library maps memory without passing here, and unmaps it so. What is new is found by looking ([`finder`](crate::finder));
//! what goes, moves or is thrown away is told by the kernel, whoever asks for it.
//!
//! 1. Before the library has started, after a fork in the child, and inside: the system call and nothing else.
//! 2. Where the call fails, `errno` is the system call's.

use crate::following;
use crate::inside::{self, Inside};
use crate::own::{self, Why};
use crate::{farewell, finder, locking, malloc, moving, state, threads};
use libc::{c_int, c_void, off_t, pthread_attr_t, pthread_t, size_t};
use std::ops::Range;

fn range(start: *mut c_void, len: size_t) -> Range<usize> {
    let len = len.checked_next_multiple_of(crate::system::PAGE).unwrap_or(0);
    start.addr()..start.addr().saturating_add(len)
}

/// Memory is the program's business and ours: it is in the program, and we have started.
pub(crate) fn follows() -> bool {
    state::is_running() && !inside::is_inside()
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's, as it is.
    let call = || unsafe { libc::syscall(libc::SYS_mmap, at, len, protection, flags, file as isize, offset) };
    if state::is_running() && inside::is_inside() {
        return own::change(|own| {
            let mapped = pointer(call());
            if mapped != libc::MAP_FAILED {
                own.add(range(mapped, len));
                locking::unlock_ours(range(mapped, len));
            }
            mapped
        });
    }
    let mapped = pointer(call());
    if mapped != libc::MAP_FAILED && flags & libc::MAP_ANONYMOUS != 0 && protection & libc::PROT_WRITE != 0 && follows()
    {
        following::mapped(len);
    }
    mapped
}

fn pointer(result: libc::c_long) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(result as usize)
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: libc::off64_t,
) -> *mut c_void {
    // SAFETY: the caller's, as it is; both offsets are 64 bits on the machines there are.
    unsafe { mmap(at, len, protection, flags, file, offset) }
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(at: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the caller's, as it is.
    let call = || unsafe { libc::syscall(libc::SYS_munmap, at, len) as c_int };
    if state::is_running() && inside::is_inside() {
        return own::change(|own| {
            let result = call();
            own.remove(range(at, len));
            result
        });
    }
    let result = call();
    after_change(pages(at, len), result == 0);
    if result == 0 {
        take_in(pages(at, len), &[Why::Wiped, Why::Served]);
    }
    result
}

/// # Safety
/// As the system call. (The C library's takes a variable number of arguments, which come the same way.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    at: *mut c_void,
    len: size_t,
    new_len: size_t,
    flags: c_int,
    new_at: *mut c_void,
) -> *mut c_void {
    // SAFETY: the caller's, as it is.
    let call = || unsafe { libc::syscall(libc::SYS_mremap, at, len, new_len, flags as isize, new_at) };
    if state::is_running() && inside::is_inside() {
        return own::change(|own| {
            let mapped = pointer(call());
            if mapped != libc::MAP_FAILED {
                own.remove(range(at, len));
                own.add(range(mapped, new_len));
                locking::unlock_ours(range(mapped, new_len));
            }
            mapped
        });
    }
    if !follows() {
        return pointer(call());
    }
    let from = range(at, len);
    before_move(from.clone());
    let mut moved = pointer(call());
    if moved == libc::MAP_FAILED && errno() == libc::EFAULT && !following::is_followed(from.clone()) {
        match inside_after_a_call(|| moving::in_pieces(&from, new_len, flags, new_at)) {
            Ok(at) => moved = std::ptr::with_exposed_provenance_mut(at),
            Err(errno) => set_errno(errno),
        }
    }
    if moved != libc::MAP_FAILED && own::leaves_out() {
        let _inside = Inside::enter();
        let still = flags & libc::MREMAP_DONTUNMAP != 0;
        let to = range(moved, new_len);
        // Registered there meanwhile, or not.
        own::move_left_out(from.clone(), to.start, to.len(), still).into_iter().for_each(following::never);
    }
    after_move(&from);
    moved
}

/// As of the C library, whose `malloc` has this memory: what it maps for one large piece it moves by `mremap`, without passing here.
///
/// # Safety
/// As that function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(piece: *mut c_void, len: size_t) -> *mut c_void {
    // SAFETY: the caller's piece.
    let mapped = if follows() { unsafe { malloc::mapping(piece) } } else { None };
    let Some(mapped) = mapped else {
        // SAFETY: the caller's, as it is.
        return unsafe { malloc::realloc(piece, len) };
    };
    before_move(mapped.clone());
    // SAFETY: as above.
    let moved = unsafe { malloc::realloc(piece, len) };
    after_move(&mapped);
    moved
}

/// `errno` is as the system call will have it: see `before_change`.
fn before_move(from: Range<usize>) {
    let _inside = Inside::enter();
    following::before_move(from);
}

fn after_move(from: &Range<usize>) {
    inside_after_a_call(|| following::after_move(from));
}

/// `errno` is as the system call left it.
fn inside_after_a_call<T>(f: impl FnOnce() -> T) -> T {
    let was = errno();
    let _inside = Inside::enter();
    let result = f();
    set_errno(was);
    result
}

fn errno() -> c_int {
    // SAFETY: the thread's own.
    unsafe { *errno_place() }
}

fn set_errno(errno: c_int) {
    // SAFETY: the thread's own.
    unsafe { *errno_place() = errno };
}

fn errno_place() -> *mut c_int {
    // SAFETY: only tells where it is.
    unsafe { libc::__errno_location() }
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(at: *mut c_void, len: size_t, advice: c_int) -> c_int {
    if advice == libc::MADV_HUGEPAGE && follows() && following::is_followed(range(at, len)) {
        // Advice may be left. A huge page could only leave whole, and none is made where pages are missing.
        return 0;
    }
    // SAFETY: the caller's, as it is.
    let call = || unsafe { libc::syscall(libc::SYS_madvise, at, len, advice) as c_int };
    if advice == libc::MADV_WIPEONFORK && follows() {
        return leaving_out(pages(at, len), Why::Wiped, call);
    }
    let result = call();
    if result == 0 && advice == libc::MADV_KEEPONFORK {
        take_in(pages(at, len), &[Why::Wiped]);
    }
    // What is thrown away need not stay, whatever its protection is: nothing can be out of it.
    after_change(pages(at, len), result == 0 && advice == libc::MADV_DONTNEED);
    result
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(at: *mut c_void, len: size_t, protection: c_int) -> c_int {
    // What becomes usual is so already, or is held.
    if protection != USUAL {
        before_change(at, len, following::before_change);
    }
    // SAFETY: the caller's, as it is.
    let result = unsafe { libc::syscall(libc::SYS_mprotect, at, len, protection) as c_int };
    after_change(pages(at, len), result != 0 || protection == USUAL);
    result
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pkey_mprotect(at: *mut c_void, len: size_t, protection: c_int, key: c_int) -> c_int {
    before_change(at, len, following::before_change);
    // SAFETY: the caller's, as it is. A key of -1 is none, for the system call as well.
    let result = unsafe { libc::syscall(libc::SYS_pkey_mprotect, at, len, protection, key) as c_int };
    after_change(pages(at, len), result != 0 || protection == USUAL && key <= 0);
    result
}

/// Memory is left out before `call` makes it such as cannot be registered, and stays so if that succeeds. `errno` is as that leaves it.
pub(crate) fn leaving_out(range: Range<usize>, why: Why, call: impl FnOnce() -> c_int) -> c_int {
    {
        let _inside = Inside::enter();
        own::leave_out(range.clone(), why);
        following::before_move(range.clone());
    }
    let result = call();
    if result != 0 {
        take_in(range.clone(), &[why]);
    }
    after_move(&range);
    result
}

/// `errno` is as the system call left it.
pub(crate) fn take_in(range: Range<usize>, whys: &[Why]) {
    if own::leaves_out() && follows() {
        let _inside = Inside::enter();
        whys.iter().for_each(|why| own::take_in(range.clone(), *why));
        finder::nudge();
    }
}

/// What a system call returns that fails.
pub(crate) fn fails(errno: c_int) -> c_int {
    set_errno(errno);
    -1
}

/// What memory that is registered is like.
const USUAL: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// `errno` is as the system call will have it: nothing has been asked of the system for the program yet.
pub(crate) fn before_change(at: *const c_void, len: size_t, hold: fn(Range<usize>)) {
    if follows() {
        let _inside = Inside::enter();
        hold(pages(at, len));
    }
}

/// What it cannot be moved as, the kernel refuses to move: so it may leave also where a call has failed half-way.
pub(crate) fn after_change(range: Range<usize>, may_leave: bool) {
    if may_leave && follows() {
        inside_after_a_call(|| following::after_change_back(range));
    }
}

/// The whole pages that the system calls about locks mean.
pub(crate) fn pages(at: *const c_void, len: size_t) -> Range<usize> {
    let start = at.addr() & !(crate::system::PAGE - 1);
    range(std::ptr::without_provenance_mut(start), (at.addr() - start).saturating_add(len))
}

/// As of the C library, which ends the process without passing here where `exit` does it: that is seen by `atexit`.
///
/// # Safety
/// As that function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(code: c_int) -> ! {
    if state::is_running() && !inside::is_inside() {
        farewell::before_end();
    }
    loop {
        // SAFETY: it ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// # Safety
/// As [`_exit`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Exit(code: c_int) -> ! {
    // SAFETY: the same function.
    unsafe { _exit(code) }
}

/// # Safety
/// As the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the caller's, as it is.
    unsafe { threads::create(state::is_running(), thread, attributes, start, argument) }
}
