//! What a caller registers, and what the kernel does for each kind of memory.

pub(crate) mod backing;
