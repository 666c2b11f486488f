//! Dirty tracking: which pages were written since somebody asked, while pages leave and come back.
//!
//! ```text
//!   in memory   the kernel's marks (WP_ASYNC): PAGEMAP_SCAN tells what was written, and protects it again in the same step
//!   left        a page that was taken out or thrown away: the mark is lost, so it counts as written (pages/left.rs)
//!   came back   has no mark, so it counts as written
//!   unmapped    behind our back: the mark is lost, so it counts as written, once
//! ```
//!
//! - **D1** A write is told by the first [`Vm::take_dirty`] that begins after it, or by one before; so is a page that somebody throws away. The
//!   marks are scanned first, and what left is looked at then: a page that leaves meanwhile is in one of them.
//! - **D2** What is told is forgotten; what could not be told because the kernel refused is kept for the next time.

use super::memory::backing::Marks;
use super::pages::{Pages, left};
use super::uffd::{Categories, PageMap, Question};
use super::{Error, Vm};
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;

/// What was written, and forget it. Only of what is there: where no page is, a mark costs page tables, and is in the way of a page that is
/// moved back (EEXIST).
fn question() -> Question {
    Question {
        all: Categories::WRITTEN,
        any: Categories::PRESENT | Categories::SWAPPED,
        told: Categories::WRITTEN,
        protect: true,
        ..Question::default()
    }
}

/// What has no frame here, nor a mark.
fn unmapped() -> Question {
    let there = Categories::PRESENT | Categories::SWAPPED;
    Question { all: there, inverted: there, ..Question::default() }
}

/// The kernel's answers about a region.
struct KernelMarks<'a> {
    pages: &'a Pages,
    page_map: &'a PageMap,
}

impl KernelMarks<'_> {
    fn ask(&self, question: Question, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        let addresses = self.pages.addresses();
        let page = |address: usize| ((address - addresses.start) / PAGE_SIZE) as u32;
        self.page_map.scan(addresses.clone(), question, &mut |run, _| each(page(run.start)..page(run.end)))
    }
}

impl Marks for KernelMarks<'_> {
    fn take_written(&self, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        self.ask(question(), each)
    }

    fn unmapped(&self, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        self.ask(unmapped(), each)
    }
}

/// For the policy that goes by writes: tell it what was written in a region since it or [`Vm::take_dirty`] asked last, and keep it for that. False
/// where writes are not tracked, or somebody asks this moment.
pub(crate) fn look_at_written(pages: &Pages, each: &mut dyn FnMut(Range<u32>)) -> bool {
    let Some(changed) = pages.changed() else { return false };
    let Some(_marks) = pages.marks().try_lock() else { return false };
    let Ok(page_map) = PageMap::open() else { return false };
    let told = KernelMarks { pages, page_map: &page_map }.take_written(&mut |run| {
        changed.note(run.clone());
        each(run);
    });
    told.is_ok()
}

impl Vm {
    /// Tell `each` the addresses of pages that were written since this was asked last (the first time: ever), region by region in ascending
    /// order. How many pages they are.
    ///
    /// Pages that left memory since, whoever wrote them last, and pages that were thrown away are among them, also by `madvise` or by a hole in
    /// the file behind our back while they were in memory; so are those of a file that the kernel swapped out. Pages that stayed out all the
    /// time are not. Paging goes on meanwhile. Two who ask share the answer: let there be one.
    ///
    /// # Errors
    /// [`Error::Options`] without [`VmOptions::dirty_tracking`](super::VmOptions::dirty_tracking) and before Linux 6.7; [`Error::Kernel`] when the kernel does not
    /// answer: what it had told already is told again the next time.
    pub fn take_dirty(&self, mut each: impl FnMut(Range<usize>)) -> Result<u64, Error> {
        if !self.options().dirty_tracking {
            return Err(Error::Options {
                what: "this VM does not note which pages are written",
                instead: "make it with `VmOptions::dirty_tracking(true)`",
            });
        }
        let refused = |address, source| Error::Kernel { doing: "say what was written from", page: 0, address, source };
        let page_map = PageMap::open().map_err(|source| refused(0, source))?;
        let mut told = 0;
        for pages in self.shared().regions.all() {
            if pages.changed().is_none() {
                continue;
            }
            let mut bits = vec![0u64; pages.count().div_ceil(u64::BITS) as usize];
            let marks = KernelMarks { pages: &pages, page_map: &page_map };
            pages.take_changed(&marks, &mut bits).map_err(|source| match source.raw_os_error() {
                // The range has no such marks; there is no such scan.
                Some(libc::EPERM | libc::ENOTTY | libc::EINVAL) => Error::Options {
                    what: "this kernel does not note which pages are written",
                    instead: "use Linux 6.7 or later, or a migration that stops the guest",
                },
                _ => refused(pages.addresses().start, source),
            })?;
            left::runs(&bits, |run| {
                told += u64::from(run.end - run.start);
                each(pages.address(run.start)..pages.address(run.end));
            });
        }
        Ok(told)
    }
}
