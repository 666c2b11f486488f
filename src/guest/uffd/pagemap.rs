//! [`PageMap`]: what the kernel says about pages that are there: present, swapped, written, huge.
//!
//! PAGEMAP_SCAN (6.7) tells runs of equal pages, and can write-protect what it tells in the same step. Before, the pagemap is read: 8 bytes
//! a page, without the categories that only a scan knows.
//!
//! ```text
//!   entry   63 present | 62 swapped | 61 of a file | 57 write-protected by userfaultfd | 56 mapped here alone | 55 soft-dirty
//! ```

use super::{Errno, abi};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

bitflags::bitflags! {
    /// What a page is like: `PAGE_IS_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Categories: u64 {
        /// Write protection by userfaultfd works here.
        const PROTECTABLE = 1;
        /// Written since it was protected.
        const WRITTEN = 1 << 1;
        /// Of a file, or shared.
        const FILE = 1 << 2;
        /// In memory and mapped.
        const PRESENT = 1 << 3;
        /// In swap; also a page that was poisoned, or protected while it was not there.
        const SWAPPED = 1 << 4;
        /// The page of zeros that everybody shares.
        const ZERO = 1 << 5;
        /// Part of a huge page.
        const HUGE = 1 << 6;
        /// Written since soft-dirty was cleared.
        const SOFT_DIRTY = 1 << 7;
        /// A guard page.
        const GUARD = 1 << 8;
    }
}

bitflags::bitflags! {
    /// One entry of the pagemap.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Entry: u64 {
        /// In memory and mapped.
        const PRESENT = 1 << 63;
        /// In swap, or a marker.
        const SWAPPED = 1 << 62;
        /// Of a file, or shared anonymous.
        const FILE = 1 << 61;
        /// Write-protected by userfaultfd.
        const PROTECTED = 1 << 57;
        /// Mapped by nobody else.
        const EXCLUSIVE = 1 << 56;
        /// Written since soft-dirty was cleared.
        const SOFT_DIRTY = 1 << 55;
    }
}

/// A question to [`PageMap::scan`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Question {
    /// Pages with all of these.
    pub all: Categories,
    /// And at least one of these, unless empty.
    pub any: Categories,
    /// Categories of which the absence is meant.
    pub inverted: Categories,
    /// What is told of each run.
    pub told: Categories,
    /// Write-protect what is told, in the same step; asynchronous write protection only.
    pub protect: bool,
}

/// `/proc/self/pagemap`.
#[derive(Debug)]
pub struct PageMap {
    file: File,
}

const PAGE: usize = 4096;

impl PageMap {
    /// Open it.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn open() -> io::Result<PageMap> {
        Ok(PageMap { file: File::open("/proc/self/pagemap")? })
    }

    /// Tell `each` the runs of pages in `range` (whole pages) that `question` asks for, in ascending order.
    ///
    /// # Errors
    /// ENOTTY where the kernel has no such scan; EPERM for one that is to protect in a range without asynchronous protection.
    pub fn scan(
        &self,
        range: Range<usize>,
        question: Question,
        each: &mut dyn FnMut(Range<usize>, Categories),
    ) -> io::Result<()> {
        let mut runs = [abi::ScanRun::default(); 64];
        let mut start = range.start as u64;
        while start < range.end as u64 {
            let mut scan = abi::Scan {
                size: size_of::<abi::Scan>() as u64,
                flags: if question.protect { abi::SCAN_PROTECT | abi::SCAN_NEEDS_ASYNC } else { 0 },
                start,
                end: range.end as u64,
                runs: (&raw mut runs) as u64,
                runs_len: runs.len() as u64,
                inverted: question.inverted.bits(),
                all: question.all.bits(),
                any: question.any.bits(),
                told: question.told.bits(),
                ..abi::Scan::default()
            };
            let count = self.scan_once(&mut scan)?;
            for run in &runs[..count] {
                each(run.start as usize..run.end as usize, Categories::from_bits_retain(run.categories));
            }
            if scan.walk_end <= start {
                break; // a kernel that does not go on would be asked for ever
            }
            start = scan.walk_end;
        }
        Ok(())
    }

    /// Runs that were told.
    fn scan_once(&self, scan: &mut abi::Scan) -> io::Result<usize> {
        loop {
            // SAFETY: the request's structure, which points to as many runs as it says; the kernel writes runs, and protects pages
            // of memory whose owner registered it for that.
            let told = unsafe { libc::ioctl(self.file.as_raw_fd(), abi::SCAN as _, &raw mut *scan) };
            if told >= 0 {
                return Ok(told as usize);
            }
            let errno = Errno::last();
            if errno.0 != libc::EINTR {
                return Err(errno.into());
            }
        }
    }

    /// The entries of pages from `address` on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn entries(&self, address: usize, entries: &mut [Entry]) -> io::Result<()> {
        let mut bytes = [0u8; 512];
        let mut offset = (address / PAGE * 8) as u64;
        for chunk in entries.chunks_mut(bytes.len() / 8) {
            let bytes = &mut bytes[..chunk.len() * 8];
            self.file.read_exact_at(bytes, offset)?;
            offset += bytes.len() as u64;
            for (entry, word) in chunk.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *entry = Entry::from_bits_retain(u64::from_ne_bytes(*word));
            }
        }
        Ok(())
    }

    /// Tell `each` the runs of pages in `range` that are present or swapped: by a scan, or where there is none by reading.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn present(&self, range: Range<usize>, each: &mut dyn FnMut(Range<usize>)) -> io::Result<()> {
        let question = Question {
            any: Categories::PRESENT | Categories::SWAPPED,
            all: Categories::GUARD,
            inverted: Categories::GUARD,
            ..Question::default()
        };
        match self.scan(range.clone(), question, &mut |run, _| each(run)) {
            // Kernels whose scan does not know guard pages (before 6.15) refuse the question.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                let question = Question { any: question.any, ..Question::default() };
                match self.scan(range.clone(), question, &mut |run, _| each(run)) {
                    Err(e) if no_scan(&e) => self.present_by_reading(range, each),
                    other => other,
                }
            }
            Err(e) if no_scan(&e) => self.present_by_reading(range, each),
            other => other,
        }
    }

    /// As [`present`](Self::present), by the pagemap's entries alone.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn present_by_reading(&self, range: Range<usize>, each: &mut dyn FnMut(Range<usize>)) -> io::Result<()> {
        let mut entries = [Entry::empty(); 64];
        let mut run: Option<Range<usize>> = None;
        let mut address = range.start;
        while address < range.end {
            let count = entries.len().min((range.end - address) / PAGE);
            self.entries(address, &mut entries[..count])?;
            for entry in &entries[..count] {
                if entry.intersects(Entry::PRESENT | Entry::SWAPPED) {
                    run.get_or_insert(address..address).end = address + PAGE;
                } else if let Some(run) = run.take() {
                    each(run);
                }
                address += PAGE;
            }
        }
        if let Some(run) = run {
            each(run);
        }
        Ok(())
    }
}

/// Whether the kernel has no scan at all.
fn no_scan(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_of_more_runs_than_one_request_tells_misses_none() {
        let (pages, page_map) = (1500, PageMap::open().expect("/proc"));
        for gap in 2..9 {
            let mut map = memmap2::MmapOptions::new().len(pages * PAGE).map_anon().expect("memory");
            let base = map.as_ptr() as usize;
            // SAFETY: advice on memory of ours, which is empty yet.
            assert_eq!(unsafe { libc::madvise(base as *mut _, map.len(), libc::MADV_NOHUGEPAGE) }, 0);
            let there = |page: &usize| !page.is_multiple_of(gap) && page / 97 % gap != 1;
            (0..pages).filter(there).for_each(|page| map[page * PAGE] = 1);
            let mut scanned = Vec::new();
            page_map.present(base..base + map.len(), &mut |run| scanned.extend(run.step_by(PAGE))).expect("a scan");
            let told: Vec<usize> = scanned.iter().map(|address| (address - base) / PAGE).collect();
            assert_eq!(told, (0..pages).filter(there).collect::<Vec<_>>(), "every {gap}th page is missing");
        }
    }

    #[test]
    fn a_scan_and_reading_agree_on_what_is_present() {
        let pages = 200;
        let map = memmap2::MmapOptions::new().len(pages * PAGE).map_anon().expect("memory");
        let base = map.as_ptr() as usize;
        // SAFETY: advice on memory of ours, which is empty yet.
        assert_eq!(unsafe { libc::madvise(base as *mut _, map.len(), libc::MADV_NOHUGEPAGE) }, 0);
        let mut map = map;
        for page in (3..9).chain(60..70).chain(190..200) {
            map[page * PAGE] = 1;
        }
        let (mut scanned, mut read) = (Vec::new(), Vec::new());
        let page_map = PageMap::open().expect("/proc");
        page_map.present(base..base + map.len(), &mut |run| scanned.push(run)).expect("a scan");
        page_map.present_by_reading(base..base + map.len(), &mut |run| read.push(run)).expect("the pagemap");
        let pages = |runs: &[Range<usize>]| {
            runs.iter().map(|run| (run.start - base) / PAGE..(run.end - base) / PAGE).collect::<Vec<_>>()
        };
        assert_eq!(pages(&read), [3..9, 60..70, 190..200]);
        assert_eq!(scanned, read);
    }
}
