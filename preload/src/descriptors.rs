//! Our descriptors and the program's: ours lie [`aside`], and the program does not get at them.
//!
//! ```text
//!   start:     [ 0 1 2 | held . . . . . . . . | engine: 512 513 514 .. ]   whatever opens something finds nothing lower
//!   then:      [ 0 1 2 |  free                | noted                  ]
//!   program:   close(513), dup2(3, 513): EBADF      close_range(3, ~0): 3..512, what lies between ours, and what is above
//! ```
//!
//! The program closes and replaces by number what it has not opened: shells (`exec 3>log`), and whoever closes all there is before it goes on.
//!
//! 1. Inside, and in a process where we sleep, these are the functions behind ours.
//! 2. A child that shares the program's memory (vfork) and closes what it inherits keeps ours until it executes something: they go with that.

use crate::inside;
use crate::interpose::fails;
use crate::next::Next;
use crate::state;
use libc::{c_int, c_uint};
use std::mem::transmute;
use zspool::guest::service::aside;

type Close = unsafe extern "C" fn(c_int) -> c_int;
type Dup2 = unsafe extern "C" fn(c_int, c_int) -> c_int;
type Dup3 = unsafe extern "C" fn(c_int, c_int, c_int) -> c_int;

static CLOSE: Next = Next::of(c"close");
static DUP2: Next = Next::of(c"dup2");
static DUP3: Next = Next::of(c"dup3");

/// So many from the first that is aside can be opened while we start.
const OPENED: i32 = 256;

/// Have everything that is opened meanwhile lie aside.
pub(crate) fn put_aside<R>(open: impl FnOnce() -> R) -> R {
    // Who guards children wants them where nothing can be looked for.
    [&CLOSE, &DUP2, &DUP3].into_iter().for_each(|function| _ = function.get());
    let first = aside::first();
    let here = || (first..first + OPENED).map(is_open);
    let before: Vec<bool> = here().collect();
    let held = hold_below(first);
    let opened = open();
    held.into_iter().for_each(close_now);
    let new = (first..).zip(here().zip(before)).filter(|(_, (now, before))| *now && !before);
    new.for_each(|(fd, _)| aside::note(fd));
    opened
}

/// Take all numbers below.
fn hold_below(first: c_int) -> Vec<c_int> {
    // SAFETY: takes numbers, and returns a new descriptor.
    let any = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    let mut held = Vec::new();
    let mut last = any;
    while last >= 0 {
        held.push(last);
        if last >= first {
            break;
        }
        // SAFETY: as above.
        last = unsafe { libc::fcntl(any, libc::F_DUPFD_CLOEXEC, 0) };
    }
    held
}

fn is_open(fd: c_int) -> bool {
    // SAFETY: only asks.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

fn close_now(fd: c_int) {
    // SAFETY: a number that was taken by us, and is nobody else's.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// It is ours, and the program asks for it.
fn is_kept(fd: c_int) -> bool {
    aside::is_noted(fd) && state::is_running() && !inside::is_inside()
}

fn there_is_none() -> c_int {
    fails(libc::EBADF)
}

/// # Safety
/// As the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if is_kept(fd) {
        return there_is_none();
    }
    if aside::is_noted(fd) && state::is_running() {
        aside::forget(fd);
    }
    let next = CLOSE.get();
    if next.is_null() {
        // SAFETY: the caller's, as it is.
        return unsafe { libc::syscall(libc::SYS_close, fd) as c_int };
    }
    // SAFETY: that is the type of the function of that name.
    let next = unsafe { transmute::<*mut libc::c_void, Close>(next) };
    // SAFETY: the caller's, as it is.
    unsafe { next(fd) }
}

/// # Safety
/// As the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    let next = DUP2.get();
    if from != to && is_kept(to) || next.is_null() {
        return there_is_none();
    }
    // SAFETY: that is the type of the function of that name.
    let next = unsafe { transmute::<*mut libc::c_void, Dup2>(next) };
    // SAFETY: the caller's, as it is.
    unsafe { next(from, to) }
}

/// # Safety
/// As the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    let next = DUP3.get();
    if from != to && is_kept(to) || next.is_null() {
        return there_is_none();
    }
    // SAFETY: that is the type of the function of that name.
    let next = unsafe { transmute::<*mut libc::c_void, Dup3>(next) };
    // SAFETY: the caller's, as it is.
    unsafe { next(from, to, flags) }
}

/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: the caller's, as it is, and parts of it.
    let call =
        |first: c_uint, last: c_uint| unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int };
    // What is only marked is marked already, of ours.
    if first > last || flags as c_uint & libc::CLOSE_RANGE_CLOEXEC != 0 || !state::is_running() || inside::is_inside() {
        return call(first, last);
    }
    let mut from = first;
    while let Some(ours) = aside::next(from, last) {
        if from < ours && call(from, ours - 1) != 0 {
            return -1;
        }
        if ours == last {
            return 0;
        }
        from = ours + 1;
    }
    call(from, last)
}

/// # Safety
/// As the function of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn closefrom(first: c_int) {
    let first = first.max(0);
    // SAFETY: the caller's, as it is.
    if unsafe { close_range(first as c_uint, c_uint::MAX, 0) } == 0 {
        return;
    }
    // Before Linux 5.9.
    for fd in first..1 << 16 {
        // SAFETY: as above.
        unsafe { close(fd) };
    }
}
