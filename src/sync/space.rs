//! [`Space`]: address space that is backed where it is touched, and not before, whatever the process does with its memory.
//!
//! ```text
//!   mmap of a page, madvise(DONTNEED): taken      mmap
//!                                      refused    mmap without access --> munlock --> mprotect to read and write
//! ```
//!
//! Under `mlockall(MCL_FUTURE)` a new mapping that can be used is locked and filled at once: of what is reserved here, many times what the machine
//! has. One without access is only locked; and what is locked cannot be given back, by which it is told. (Not without access always: tools that look
//! at each page of a range whose protection changes take minutes for what is reserved here.)

#[cfg(not(all(target_os = "linux", not(miri))))]
pub(super) use elsewhere::Space;
#[cfg(all(target_os = "linux", not(miri)))]
pub(super) use linux::Space;

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    use crate::units::FRAME_SIZE;
    use std::io;
    use std::ptr::{self, NonNull};

    /// A mapping of our own, unmapped when it is dropped.
    #[derive(Debug)]
    pub(in super::super) struct Space {
        start: NonNull<u8>,
        len: usize,
    }

    const USUAL: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

    /// Whether what this process maps is locked. Asked each time: that may begin and end.
    fn locks_new_mappings() -> io::Result<bool> {
        let page = Space::map(FRAME_SIZE, USUAL)?;
        // SAFETY: our own mapping, which holds nothing.
        let taken = unsafe { libc::madvise(page.start.as_ptr().cast(), page.len, libc::MADV_DONTNEED) } == 0;
        Ok(!taken)
    }

    // SAFETY: the mapping belongs to no thread; who reads and writes it is the user's business, as with any pointer.
    unsafe impl Send for Space {}
    // SAFETY: as above; the methods here only tell where it is.
    unsafe impl Sync for Space {}

    impl Space {
        pub(in super::super) fn reserve(len: usize) -> io::Result<Self> {
            if !locks_new_mappings()? {
                return Space::map(len, USUAL);
            }
            let space = Space::map(len, libc::PROT_NONE)?;
            let start = space.start.as_ptr().cast();
            // SAFETY: our own mapping.
            unsafe { libc::munlock(start, len) };
            // SAFETY: our own mapping, which holds nothing yet.
            if unsafe { libc::mprotect(start, len, USUAL) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(space)
        }

        fn map(len: usize, protection: libc::c_int) -> io::Result<Self> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new mapping wherever the kernel likes; it replaces none.
            let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(Space { start: NonNull::new(start.cast()).expect("the kernel maps nothing at 0 by itself"), len })
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
