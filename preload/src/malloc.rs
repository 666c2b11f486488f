//! The C library's `malloc`: which pieces it has mapped for themselves.
//!
//! ```text
//!   mapping                     piece
//!   +------------+------------+---------------------------+
//!   | before: 8  | size: 8    |                           |      size: a multiple of 16, and in bit 1: it has a mapping of its own
//!   +------------+------------+---------------------------+
//! ```
//!
//! So it is in glibc since 2.3, and other libraries rely on it. Where the program brings an allocator of its own, `realloc` is that one's,
//! and nobody comes here.

use crate::system::PAGE;
use libc::{c_void, size_t};
use std::mem::transmute;
use std::ops::Range;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

type Realloc = unsafe extern "C" fn(*mut c_void, size_t) -> *mut c_void;

unsafe extern "C" {
    /// glibc's own, by a name that nobody interposes.
    fn __libc_realloc(piece: *mut c_void, len: size_t) -> *mut c_void;
}

/// The next `realloc` behind ours; null: not looked for yet.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

const IS_MAPPED: usize = 2;
const FLAGS: usize = 7;

/// Look for the function while nobody else can. Before the first piece is of interest.
pub(crate) fn prepare() {
    // SAFETY: the name ends with a zero.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"realloc".as_ptr()) };
    NEXT.store(next, Release);
}

/// The C library's, or whoever is behind us.
///
/// # Safety
/// As that function.
pub(crate) unsafe fn realloc(piece: *mut c_void, len: size_t) -> *mut c_void {
    let next = NEXT.load(Acquire);
    let next: Realloc = match next.is_null() {
        true => __libc_realloc,
        // SAFETY: that is the type of the function of that name.
        false => unsafe { transmute::<*mut c_void, Realloc>(next) },
    };
    // SAFETY: as the caller promises.
    unsafe { next(piece, len) }
}

/// The mapping of a piece that has one for itself.
///
/// # Safety
/// The piece is of the C library's `malloc`, or null.
pub(crate) unsafe fn mapping(piece: *mut c_void) -> Option<Range<usize>> {
    let ours = NEXT.load(Acquire) == __libc_realloc as Realloc as *mut c_void;
    if piece.is_null() || !ours || !piece.addr().is_multiple_of(16) {
        return None;
    }
    // SAFETY: two words lie before each piece.
    let [before, size] = unsafe { piece.cast::<[usize; 2]>().wrapping_sub(1).read() };
    if size & IS_MAPPED == 0 {
        return None;
    }
    let start = (piece.addr() - 16).checked_sub(before)?;
    let end = start.checked_add(before + (size & !FLAGS))?;
    (start % PAGE == 0 && end % PAGE == 0).then_some(start..end)
}
