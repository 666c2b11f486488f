//! [`Mapping`]: anonymous memory of small pages, filled with known ones; and where a thread runs.
//!
//! ```text
//!   page k:   [ the input's page k, but for its last word ][ stamp ]
//! ```
//!
//! The stamp is written before each way out: a page that was not written since it came back is no work to evict.

use std::fs::File;
use std::os::unix::fs::FileExt;
use zspool::units::{PAGE_SIZE, Page};

/// Offset of the stamp in its page.
const STAMP: usize = PAGE_SIZE - 8;

pub(crate) struct Mapping {
    base: *mut u8,
    pages: usize,
}

// SAFETY: plain memory; who touches which page when is the business of those who share it.
unsafe impl Sync for Mapping {}
// SAFETY: as above.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn new(pages: usize) -> Self {
        let (none, prot) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        let (len, flags) = (pages * PAGE_SIZE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping touches nothing that is there.
        let base = unsafe { libc::mmap(none, len, prot, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "{len} bytes cannot be mapped: {}", std::io::Error::last_os_error());
        // SAFETY: advice on our own mapping; the kernel may have no huge pages, which is what is wanted.
        unsafe { libc::madvise(base, len, libc::MADV_NOHUGEPAGE) };
        Mapping { base: base.cast(), pages }
    }

    /// Of as many pages as the input has, and filled with them.
    pub(crate) fn of(input: &[Page]) -> Self {
        let mapping = Self::new(input.len());
        for (k, page) in input.iter().enumerate() {
            // SAFETY: page `k` of our own mapping, and nobody else knows it yet.
            unsafe { mapping.page(k).cast::<[u8; PAGE_SIZE]>().write(page.0) };
        }
        mapping
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    pub(crate) fn page(&self, k: usize) -> *mut u8 {
        assert!(k <= self.pages);
        // SAFETY: within the mapping, or its end.
        unsafe { self.base.add(k * PAGE_SIZE) }
    }

    /// Load a word of a page.
    #[inline(always)]
    pub(crate) fn read(&self, k: usize) {
        // SAFETY: within the mapping.
        unsafe { self.page(k).cast::<u64>().read_volatile() };
    }

    /// Store a page's stamp.
    #[inline(always)]
    pub(crate) fn stamp(&self, k: usize, stamp: u64) {
        let to = self.page(k).wrapping_add(STAMP).cast::<u64>();
        // SAFETY: within the mapping, at a multiple of 8.
        unsafe { to.write_volatile(stamp) };
    }

    pub(crate) fn stamp_all(&self, stamp: u64) {
        (0..self.pages).for_each(|k| self.stamp(k, stamp));
    }

    /// Compare every page with what it is to be.
    pub(crate) fn verify(&self, input: &[Page], stamp: u64, who: &str) {
        input.iter().enumerate().for_each(|(k, page)| self.verify_one(k, page, stamp, who));
    }

    /// Compare a page with what it is to be.
    pub(crate) fn verify_one(&self, k: usize, page: &Page, stamp: u64, who: &str) {
        // SAFETY: page `k` of the mapping, which nobody writes meanwhile.
        let is = unsafe { std::slice::from_raw_parts(self.page(k), PAGE_SIZE) };
        assert!(is[..STAMP] == page.0[..STAMP], "{who}: page {k} came back changed");
        let is = u64::from_ne_bytes(is[STAMP..].try_into().expect("8 bytes"));
        assert_eq!(is, stamp, "{who}: page {k} came back with an older or a newer stamp");
    }

    /// `madvise` pages.
    pub(crate) fn advise(&self, first: usize, pages: usize, advice: i32) -> std::io::Result<()> {
        // SAFETY: pages of our own mapping; the advice of these benches changes no content that is looked at afterwards.
        match unsafe { libc::madvise(self.page(first).cast(), pages * PAGE_SIZE, advice) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Which pages are in memory and mapped, by the kernel's word (`/proc/self/pagemap`).
    pub(crate) fn present(&self) -> Vec<bool> {
        const PRESENT: u64 = 1 << 63;
        let pagemap = File::open("/proc/self/pagemap").expect("one's own pagemap can be read");
        let mut bytes = vec![0; self.pages * 8];
        pagemap.read_exact_at(&mut bytes, (self.base as usize / PAGE_SIZE * 8) as u64).expect("a word a page");
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word) & PRESENT != 0).collect()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and this was the last that knew it.
        unsafe { libc::munmap(self.base.cast(), self.pages * PAGE_SIZE) };
    }
}

/// The calling thread on one core; dropped, where it was.
pub(crate) struct Pinned(libc::cpu_set_t);

impl Pinned {
    pub(crate) fn to(core: usize) -> Self {
        // SAFETY: a set of cores is an array of bits, and none is a good one.
        let (mut before, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
        // SAFETY: the call writes one set, which `before` is.
        unsafe { libc::sched_getaffinity(0, size_of_val(&before), &mut before) };
        // SAFETY: sets a bit of the array, or none where there are no so many.
        unsafe { libc::CPU_SET(core, &mut one) };
        set(&one);
        Pinned(before)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        set(&self.0);
    }
}

fn set(cores: &libc::cpu_set_t) {
    // SAFETY: the call reads one set.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(cores), cores) };
    assert_eq!(result, 0, "the thread cannot be moved to another core: {}", std::io::Error::last_os_error());
}
