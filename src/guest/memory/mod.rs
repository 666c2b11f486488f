//! What a caller registers, and what the kernel does for each kind of memory.

#[doc(hidden)]
pub mod backing;

/// Memory to be registered.
#[derive(Debug)]
pub struct Memory {
    _ptr: *mut u8,
    _len: usize,
}

impl Memory {
    /// Private anonymous memory.
    pub fn anonymous(ptr: *mut u8, len: usize) -> Memory {
        Memory { _ptr: ptr, _len: len }
    }
}
