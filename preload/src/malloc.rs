//! The C library's `malloc`: which pieces it has mapped for themselves.
//!
//! ```text
//!   mapping                     piece
//!   +------------+------------+---------------------------+
//!   | before: 8  | size: 8    |                           |      size: a multiple of 16, and in bit 1: it has a mapping of its own
//!   +------------+------------+---------------------------+
//! ```
//!
//! So it is in glibc since 2.3, and other libraries rely on it. Other allocators have whatever they like there, or nothing that can be read. Where
//! the program has one linked into it, `realloc` is that one's and nobody comes here; one in a shared library is behind us, and is told by the object
//! that its functions lie in: its names are no help, for some bring glibc's private ones as well.

use crate::next::Next;
use crate::system::PAGE;
use libc::{c_char, c_void, size_t};
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

type Realloc = unsafe extern "C" fn(*mut c_void, size_t) -> *mut c_void;

unsafe extern "C" {
    /// glibc's own. Another allocator may have one of that name, which is then its `realloc`.
    fn __libc_realloc(piece: *mut c_void, len: size_t) -> *mut c_void;
}

static NEXT: Next = Next::of(c"realloc");
static MALLOC: Next = Next::of(c"malloc");

/// The program's `malloc` is the C library's; `false`, until that is known.
static IS_THE_C_LIBRARYS: AtomicBool = AtomicBool::new(false);

const IS_MAPPED: usize = 2;
const FLAGS: usize = 7;

/// Look whose `malloc` it is: once, for looking takes the dynamic linker's lock.
pub(crate) fn prepare() {
    let of_the_c_library = libc::gnu_get_libc_version as unsafe extern "C" fn() -> *const c_char;
    let object = object_of(of_the_c_library as *const c_void);
    let is_there = |function: &Next| object.is_some() && object_of(function.get()) == object;
    IS_THE_C_LIBRARYS.store(is_there(&MALLOC) && is_there(&NEXT), Release);
}

/// Where the object begins that an address lies in.
fn object_of(address: *const c_void) -> Option<usize> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: what is known of the address is written.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) } != 0;
    // SAFETY: null pointers are good values, and so is what was written.
    found.then(|| unsafe { info.assume_init() }.dli_fbase.addr())
}

/// The C library's, or whoever is behind us.
///
/// # Safety
/// As that function.
pub(crate) unsafe fn realloc(piece: *mut c_void, len: size_t) -> *mut c_void {
    let next = NEXT.get();
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
/// The piece is of the program's `malloc`, or null.
pub(crate) unsafe fn mapping(piece: *mut c_void) -> Option<Range<usize>> {
    if piece.is_null() || !IS_THE_C_LIBRARYS.load(Acquire) || !piece.addr().is_multiple_of(16) {
        return None;
    }
    // SAFETY: two words lie before each piece of the C library's.
    let [before, size] = unsafe { piece.cast::<[usize; 2]>().wrapping_sub(1).read() };
    if size & IS_MAPPED == 0 {
        return None;
    }
    let start = (piece.addr() - 16).checked_sub(before)?;
    let end = start.checked_add(before + (size & !FLAGS))?;
    (start % PAGE == 0 && end % PAGE == 0).then_some(start..end)
}
