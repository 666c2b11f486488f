//! [`Region`]: reserved address space whose pages are backed where somebody asks for it.
//!
//! ```text
//!          0                                                              len
//!          +--------+--------+-----------------------------------+--------+
//!          | backed | backed |  reserved: costs addresses only   | backed |
//!          +--------+--------+-----------------------------------+--------+
//!                     ^ populate: zeroed memory          discard: gone, zero again
//! ```
//!
//! Production: one private anonymous mapping without reserve. Under loom: plain memory with one tracked cell per granule, so
//! that an unordered pair of accesses to one object's bytes is reported. Under Miri: the mapping without `madvise`.
//!
//! Callers see raw pointers and keep the rules themselves; who may touch which bytes is the allocator's protocol.

use super::rank::{Rank, assert_not_held};
use std::io;
use std::ops::Range;

/// Reserved address space, zero where it was never written.
#[derive(Debug)]
pub struct Region {
    imp: imp::Region,
}

impl Region {
    /// Reserve `len` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// When the kernel refuses so much address space (`ENOMEM`: look at `ulimit -v`).
    pub fn reserve(len: usize) -> io::Result<Region> {
        let len = len.next_multiple_of(crate::units::FRAME_SIZE).max(crate::units::FRAME_SIZE);
        Ok(Region { imp: imp::Region::reserve(len)? })
    }

    /// Bytes of address space.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.imp.len()
    }

    /// Read access: `f` gets a pointer to the first byte of `range`, good for the range and the call.
    ///
    /// # Panics
    /// When the range is not inside.
    #[inline]
    pub fn with<R>(&self, range: Range<usize>, f: impl FnOnce(*const u8) -> R) -> R {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} is outside the region");
        self.imp.with(range, f)
    }

    /// Write access: as [`with`](Self::with).
    ///
    /// # Panics
    /// When the range is not inside.
    #[inline]
    pub fn with_mut<R>(&self, range: Range<usize>, f: impl FnOnce(*mut u8) -> R) -> R {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} is outside the region");
        self.imp.with_mut(range, f)
    }

    /// Have the caches fetch the first lines of `range`, where the machine takes such hints. Reads nothing.
    #[inline]
    pub fn prefetch(&self, range: Range<usize>) {
        self.imp.prefetch(range);
    }

    /// Have the caches fetch all lines of `range` to be written, where the machine takes such hints. Reads and writes nothing.
    #[inline]
    pub fn prefetch_for_write(&self, range: Range<usize>) {
        self.imp.prefetch_for_write(range);
    }

    /// Back `range` with memory now.
    ///
    /// # Errors
    /// When the kernel has no memory to give. Part of the range may then be backed.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        assert_not_held(Rank::Class); // no system call under it
        assert!(range.end <= self.len());
        self.imp.populate(range)
    }

    /// Give the memory behind `range` back; it reads as zeroes afterwards. Nobody may be using it.
    ///
    /// # Errors
    /// When the kernel refuses (locked memory).
    pub fn discard(&self, range: Range<usize>) -> io::Result<()> {
        assert_not_held(Rank::Class); // no system call under it
        assert!(range.end <= self.len());
        self.imp.discard(range)
    }

    /// [`discard`](Self::discard) each of `ranges`, with fewer system calls where the kernel can. Calls `refused` with the
    /// numbers of those that it would not take. No allocation.
    pub fn discard_each(&self, ranges: &[Range<usize>], mut refused: impl FnMut(usize)) {
        assert_not_held(Rank::Class); // no system call under it
        assert!(ranges.iter().all(|range| range.end <= self.len()));
        for (batch, first) in ranges.chunks(MAX_VECTOR).zip((0..).step_by(MAX_VECTOR)) {
            // A vector of one costs more than the plain call.
            let done = if batch.len() > 1 { self.imp.discard_vector(batch) } else { 0 };
            for (range, number) in batch.iter().zip(first..).skip(done) {
                if self.imp.discard(range.clone()).is_err() {
                    refused(number);
                }
            }
        }
    }

    /// Address of the first byte, to look the mapping up in `/proc/self/pagemap` or to bind it.
    #[cfg(not(loom))]
    pub fn address(&self) -> usize {
        self.imp.with(0..0, |p| p as usize)
    }
}

/// Ranges that go in one call of `discard_each`.
const MAX_VECTOR: usize = 64;

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Lines that a prefetch asks for; the machine's own prefetchers find the next ones.
const PREFETCH_LINES: usize = 4;

/// Have the caches fetch the first lines of some bytes, where the machine takes such hints.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    for line in bytes.chunks(LINE).take(PREFETCH_LINES) {
        fetch(line.as_ptr());
    }
}

/// Have the caches fetch a line to be read, where the machine takes such hints.
#[inline(always)]
fn fetch(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri))))]
    // SAFETY: a hint: any address will do.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri)))))]
    let _ = line;
}

/// Have the caches fetch a line to be written, where the machine takes such hints.
#[cfg(not(loom))]
#[inline(always)]
fn fetch_for_write(line: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint: any address will do.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(line.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}

#[cfg(not(loom))]
mod imp {
    #[cfg(all(target_os = "linux", not(miri)))]
    use super::super::atomic::{AtomicBool, Ordering};
    use super::super::space::Space;
    use super::{LINE, PREFETCH_LINES, fetch, fetch_for_write};
    use std::io;
    use std::ops::Range;

    #[derive(Debug)]
    pub(super) struct Region {
        map: Space,
        /// The kernel takes no vectors of ranges. Set once; a hint.
        #[cfg(all(target_os = "linux", not(miri)))]
        no_vectors: AtomicBool,
    }

    impl Region {
        pub(super) fn reserve(len: usize) -> io::Result<Self> {
            let region = Region {
                map: Space::reserve(len)?,
                #[cfg(all(target_os = "linux", not(miri)))]
                no_vectors: AtomicBool::new(false),
            };
            // One object must never back 2 MiB, and a core dump must not carry other people's pages. A kernel that knows
            // neither is no reason to fail.
            #[cfg(target_os = "linux")]
            for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTDUMP] {
                let _ = region.advise(0..len, advice);
            }
            Ok(region)
        }

        #[inline]
        pub(super) fn len(&self) -> usize {
            self.map.len()
        }

        #[inline]
        pub(super) fn with<R>(&self, range: Range<usize>, f: impl FnOnce(*const u8) -> R) -> R {
            f(self.map.as_mut_ptr().wrapping_add(range.start))
        }

        #[inline]
        pub(super) fn with_mut<R>(&self, range: Range<usize>, f: impl FnOnce(*mut u8) -> R) -> R {
            f(self.map.as_mut_ptr().wrapping_add(range.start))
        }

        #[inline]
        pub(super) fn prefetch(&self, range: Range<usize>) {
            for line in range.step_by(LINE).take(PREFETCH_LINES) {
                fetch(self.map.as_mut_ptr().wrapping_add(line));
            }
        }

        #[inline]
        pub(super) fn prefetch_for_write(&self, range: Range<usize>) {
            for line in (range.start & !(LINE - 1)..range.end).step_by(LINE) {
                fetch_for_write(self.map.as_mut_ptr().wrapping_add(line));
            }
        }

        fn advise(&self, range: Range<usize>, advice: i32) -> io::Result<()> {
            if cfg!(miri) {
                return Ok(());
            }
            let start = self.map.as_mut_ptr().wrapping_add(range.start);
            // SAFETY: the range lies inside our own mapping (asserted by the callers), so the advice touches nobody else.
            match unsafe { libc::madvise(start.cast(), range.len(), advice) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }

        #[cfg(target_os = "linux")]
        pub(super) fn populate(&self, range: Range<usize>) -> io::Result<()> {
            match self.advise(range.clone(), libc::MADV_POPULATE_WRITE) {
                // Kernels before 5.14: touching backs it too, but then a lack of memory is the OOM killer's business.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                    self.touch(range);
                    Ok(())
                }
                other => other,
            }
        }

        #[cfg(not(target_os = "linux"))]
        pub(super) fn populate(&self, range: Range<usize>) -> io::Result<()> {
            self.touch(range);
            Ok(())
        }

        fn touch(&self, range: Range<usize>) {
            for at in range.step_by(crate::units::FRAME_SIZE) {
                // SAFETY: inside the mapping; nobody uses a page that is being backed, so writing the zero it reads as is no
                // change.
                unsafe { self.map.as_mut_ptr().wrapping_add(at).write_volatile(0) };
            }
        }

        #[cfg(not(miri))]
        pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            self.advise(range, libc::MADV_DONTNEED)
        }

        /// Discard as many of the first ranges as one call does; 0 where the kernel is too old for such a call.
        #[cfg(all(target_os = "linux", not(miri)))]
        pub(super) fn discard_vector(&self, ranges: &[Range<usize>]) -> usize {
            /// This process, instead of a file descriptor of one.
            const PIDFD_SELF: libc::c_int = -10001;
            if self.no_vectors.load(Ordering::Relaxed) {
                return 0;
            }
            let mut vector = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; super::MAX_VECTOR];
            for (to, range) in vector.iter_mut().zip(ranges) {
                let start = self.map.as_mut_ptr().wrapping_add(range.start);
                *to = libc::iovec { iov_base: start.cast(), iov_len: range.len() };
            }
            let (number, ranges_len) = (libc::SYS_process_madvise, ranges.len());
            // SAFETY: the vector has as many elements, all inside our own mapping (asserted by the caller).
            let done =
                unsafe { libc::syscall(number, PIDFD_SELF, vector.as_ptr(), ranges_len, libc::MADV_DONTNEED, 0) };
            let Ok(mut left) = usize::try_from(done) else {
                // Locked memory is refused so as well; then the plain call says which range, and vectors are no loss.
                self.no_vectors.store(true, Ordering::Relaxed);
                return 0;
            };
            // It may have stopped within a range: that one is done again, for nobody uses it.
            let whole = |range: &&Range<usize>| {
                let whole = range.len() <= left;
                left = left.saturating_sub(range.len());
                whole
            };
            ranges.iter().take_while(whole).count()
        }

        #[cfg(not(all(target_os = "linux", not(miri))))]
        pub(super) fn discard_vector(&self, _ranges: &[Range<usize>]) -> usize {
            0
        }

        #[cfg(miri)]
        pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            let start = self.map.as_mut_ptr().wrapping_add(range.start);
            // SAFETY: inside the mapping, and nobody uses what is being discarded.
            unsafe { start.write_bytes(0, range.len()) };
            Ok(())
        }
    }
}

#[cfg(loom)]
mod imp {
    use std::collections::HashMap;
    use std::io;
    use std::ops::Range;
    use std::sync::{Arc, Mutex};

    /// Bytes per tracked cell: models use classes of multiples of this, so that a cell belongs to one object.
    const GRANULE: usize = 1024;

    #[derive(Debug)]
    pub(super) struct Region {
        len: usize,
        bytes: *mut u8,
        cells: Mutex<HashMap<usize, Arc<loom::cell::UnsafeCell<()>>>>,
    }

    // SAFETY: loom runs all its threads on one; the cells report accesses that would race.
    unsafe impl Send for Region {}
    // SAFETY: as above.
    unsafe impl Sync for Region {}

    impl Region {
        pub(super) fn reserve(len: usize) -> io::Result<Self> {
            let bytes = Box::into_raw(vec![0u8; len].into_boxed_slice()).cast::<u8>();
            Ok(Region { len, bytes, cells: Mutex::default() })
        }

        pub(super) fn len(&self) -> usize {
            self.len
        }

        fn cells(&self, range: &Range<usize>) -> Vec<Arc<loom::cell::UnsafeCell<()>>> {
            if range.is_empty() {
                return Vec::new();
            }
            let mut cells = self.cells.lock().unwrap();
            (range.start / GRANULE..=(range.end - 1) / GRANULE)
                .map(|granule| {
                    Arc::clone(cells.entry(granule).or_insert_with(|| Arc::new(loom::cell::UnsafeCell::new(()))))
                })
                .collect()
        }

        #[track_caller]
        pub(super) fn with<R>(&self, range: Range<usize>, f: impl FnOnce(*const u8) -> R) -> R {
            let cells = self.cells(&range);
            let _reading: Vec<_> = cells.iter().map(|c| c.get()).collect();
            f(self.bytes.wrapping_add(range.start))
        }

        #[track_caller]
        pub(super) fn with_mut<R>(&self, range: Range<usize>, f: impl FnOnce(*mut u8) -> R) -> R {
            let cells = self.cells(&range);
            let _writing: Vec<_> = cells.iter().map(|c| c.get_mut()).collect();
            f(self.bytes.wrapping_add(range.start))
        }

        pub(super) fn prefetch(&self, _range: Range<usize>) {}

        pub(super) fn prefetch_for_write(&self, _range: Range<usize>) {}

        pub(super) fn discard_vector(&self, _ranges: &[Range<usize>]) -> usize {
            0
        }

        pub(super) fn populate(&self, _range: Range<usize>) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
            let len = range.len();
            // SAFETY: `bytes` is `len` bytes long and the range lies inside.
            self.with_mut(range, |p| unsafe { p.write_bytes(0, len) });
            Ok(())
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            // SAFETY: made by `Box::into_raw` of a slice of this length.
            drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.bytes, self.len)) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::units::FRAME_SIZE;

    #[test]
    fn discarded_bytes_read_as_zero() {
        let region = Region::reserve(4 * FRAME_SIZE).unwrap();
        region.populate(0..2 * FRAME_SIZE).unwrap();
        // SAFETY: one thread, inside the region.
        region.with_mut(FRAME_SIZE..FRAME_SIZE + 1, |p| unsafe { *p = 9 });
        region.discard(FRAME_SIZE..2 * FRAME_SIZE).unwrap();
        // SAFETY: one thread, inside the region.
        assert_eq!(region.with(FRAME_SIZE..FRAME_SIZE + 1, |p| unsafe { *p }), 0);
    }

    #[test]
    fn scattered_ranges_are_discarded_and_their_neighbours_are_not() {
        // More than one vector holds, and every third of two pages.
        let ranges: Vec<_> = (0..2 * MAX_VECTOR + 5)
            .map(|k| 4 * k * FRAME_SIZE..(4 * k + 1 + usize::from(k % 3 == 0)) * FRAME_SIZE)
            .collect();
        let region = Region::reserve(4 * ranges.len() * FRAME_SIZE).unwrap();
        // SAFETY: one thread, inside the region.
        region.with_mut(0..region.len(), |p| unsafe { p.write_bytes(7, region.len()) });
        region.discard_each(&ranges, |number| panic!("range {number} is refused"));
        for at in (0..region.len()).step_by(FRAME_SIZE) {
            let gone = ranges.iter().any(|range| range.contains(&at));
            // SAFETY: one thread, inside the region.
            let byte = region.with(at..at + 1, |p| unsafe { *p });
            assert_eq!(byte, if gone { 0 } else { 7 }, "page {}", at / FRAME_SIZE);
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn ranges_past_the_end_panic() {
        let region = Region::reserve(FRAME_SIZE).unwrap();
        region.with(0..FRAME_SIZE + 1, |_| ());
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "ranks are asserted in debug builds only")]
    #[should_panic(expected = "Class is held")]
    fn a_system_call_under_a_class_lock_panics() {
        let region = Region::reserve(FRAME_SIZE).unwrap();
        let class = super::super::Mutex::new(Rank::Class, ());
        let _held = class.lock();
        let _ = region.discard(0..FRAME_SIZE);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs out of memory itself")]
    fn a_region_no_machine_has_is_refused() {
        assert!(Region::reserve(usize::MAX / 4).is_err());
    }
}
