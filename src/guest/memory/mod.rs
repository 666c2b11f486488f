//! What a caller registers, and what the kernel does for each kind of memory.

<<<<<<< HEAD
pub(crate) mod backing;
=======
#[doc(hidden)]
pub mod backing;
>>>>>>> uffd
