//! Memory whose faults the program serves itself, by a userfaultfd of its own: QEMU does while it takes a snapshot or is moved here.
//!
//! ```text
//!   ioctl(UFFDIO_REGISTER)     what is out comes in, and the range is left out
//!   ioctl(UFFDIO_UNREGISTER)   it may be registered again
//! ```
//!
//! Memory has one descriptor, and who comes second is refused. A range whose descriptor is closed is left out until it is unmapped.

use crate::interpose::{follows, leaving_out, pages, take_in};
use crate::own::Why;
use libc::{c_int, c_ulong, c_void};
use std::ops::Range;

/// `_IOWR(0xaa, 0, struct uffdio_register)`, which begins with a range.
const REGISTER: u32 = 0xc020_aa00;

/// `_IOR(0xaa, 1, struct uffdio_range)`.
const UNREGISTER: u32 = 0x8010_aa01;

/// # Safety
/// As the system call. (The C library's takes a variable number of arguments, which come the same way.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(file: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's, as it is.
    let call = || unsafe { libc::syscall(libc::SYS_ioctl, file, request, argument) as c_int };
    // So many bits the kernel looks at.
    let known = request as u32;
    if !matches!(known, REGISTER | UNREGISTER) || argument.is_null() || !follows() {
        return call();
    }
    // SAFETY: both requests have a range there.
    let [start, len] = unsafe { argument.cast::<[u64; 2]>().read_unaligned() };
    let range: Range<usize> = pages(std::ptr::without_provenance(start as usize), len as usize);
    if known == REGISTER {
        return leaving_out(range, Why::Served, call);
    }
    let result = call();
    if result == 0 {
        take_in(range, &[Why::Served]);
    }
    result
}
