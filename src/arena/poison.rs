//! AddressSanitizer's marks for bytes that nobody may touch. Only links under the sanitizer.

use std::ffi::c_void;

unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const c_void, len: usize);
    fn __asan_unpoison_memory_region(start: *const c_void, len: usize);
}

/// Nobody may touch `len` bytes at `start`.
pub(super) fn poison(start: *const u8, len: usize) {
    // SAFETY: changes marks only; the bytes are never accessed.
    unsafe { __asan_poison_memory_region(start.cast(), len) };
}

/// `len` bytes at `start` may be touched.
pub(super) fn unpoison(start: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe { __asan_unpoison_memory_region(start.cast(), len) };
}
