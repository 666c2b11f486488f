//! What a caller registers, and what the kernel does for each kind of memory.

#[doc(hidden)]
pub mod backing;
