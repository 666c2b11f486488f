//! [`Space`]: address space that is backed where it is touched, and not before, whatever the process does with its memory.
//!
//! ```text
//!   mmap without access --> munlock --> mprotect to read and write
//! ```
//!
//! Under `mlockall(MCL_FUTURE)` a new mapping that can be used is locked and filled at once: of what is reserved here, many times what the machine
//! has. One without access is only locked; and what is locked could not be given back.

#[cfg(not(all(target_os = "linux", not(miri))))]
pub(super) use elsewhere::Space;
#[cfg(all(target_os = "linux", not(miri)))]
pub(super) use linux::Space;

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    use std::io;
    use std::ptr::{self, NonNull};

    /// A mapping of our own, unmapped when it is dropped.
    #[derive(Debug)]
    pub(in super::super) struct Space {
        start: NonNull<u8>,
        len: usize,
    }

    // SAFETY: the mapping belongs to no thread; who reads and writes it is the user's business, as with any pointer.
    unsafe impl Send for Space {}
    // SAFETY: as above; the methods here only tell where it is.
    unsafe impl Sync for Space {}

    impl Space {
        pub(in super::super) fn reserve(len: usize) -> io::Result<Self> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new mapping wherever the kernel likes; it replaces none.
            let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let space =
                Space { start: NonNull::new(start.cast()).expect("the kernel maps nothing at 0 by itself"), len };
            // SAFETY: our own mapping. One that is not locked is unlocked without complaint.
            unsafe { libc::munlock(start, len) };
            // SAFETY: our own mapping, which holds nothing yet.
            if unsafe { libc::mprotect(start, len, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(space)
        }

        pub(in super::super) fn len(&self) -> usize {
            self.len
        }

        #[inline]
        pub(in super::super) fn as_mut_ptr(&self) -> *mut u8 {
            self.start.as_ptr()
        }
    }

    impl Drop for Space {
        fn drop(&mut self) {
            // SAFETY: our own mapping, and nobody uses it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod elsewhere {
    use memmap2::{MmapOptions, MmapRaw};
    use std::io;

    #[derive(Debug)]
    pub(in super::super) struct Space(MmapRaw);

    impl Space {
        pub(in super::super) fn reserve(len: usize) -> io::Result<Self> {
            let mut options = MmapOptions::new();
            options.len(len);
            if !cfg!(miri) {
                options.no_reserve_swap(); // a flag that Miri does not know
            }
            Ok(Space(MmapRaw::from(options.map_anon()?)))
        }

        pub(in super::super) fn len(&self) -> usize {
            self.0.len()
        }

        #[inline]
        pub(in super::super) fn as_mut_ptr(&self) -> *mut u8 {
            self.0.as_mut_ptr()
        }
    }
}
