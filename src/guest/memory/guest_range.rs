//! [`GuestRange`]: the registered range itself, and what is asked of the kernel in the same way for all kinds of memory.
//!
//! A request over a range that spans two mappings is refused as a whole. Ranges are registered with several mappings in them, and a
//! program may split one by `mprotect` at any time: so a refused request is tried with half of the pages, down to one.

use super::backing::{Installed, Obstacle};
use super::claims::Claim;
use super::{Memory, Refusal, maps};
use crate::guest::uffd::{Descriptor, Done, Entry, Errno, Ioctls, Mode, Modes, PageMap};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;

/// A range of guest memory and the descriptor that serves it.
#[derive(Debug)]
pub(super) struct GuestRange {
    start: usize,
    pages: u32,
    pub(super) descriptor: Arc<Descriptor>,
    page_map: Arc<PageMap>,
    /// We keep children from inheriting it.
    hides_from_children: bool,
    /// From then on it is [`release`](Self::release) that ends it.
    registered: AtomicBool,
    _claim: Claim,
}

impl GuestRange {
    /// Claim the range and advise the kernel about it. It is not registered yet.
    pub(super) fn new(
        memory: &Memory,
        descriptor: Arc<Descriptor>,
        page_map: Arc<PageMap>,
    ) -> Result<GuestRange, Refusal> {
        let range = memory.addresses();
        let claim = Claim::new(range.clone(), "registered")?;
        let this = GuestRange {
            start: range.start,
            pages: memory.pages() as u32,
            descriptor,
            page_map,
            hides_from_children: !memory.kept_on_fork(),
            registered: AtomicBool::new(false),
            _claim: claim,
        };
        // A kernel without huge pages refuses this, and needs it not.
        let _ = this.advise(0, this.pages, libc::MADV_NOHUGEPAGE);
        if this.hides_from_children {
            this.advise(0, this.pages, libc::MADV_DONTFORK).map_err(|errno| Refusal::Advice {
                start: range.start,
                end: range.end,
                what: "MADV_DONTFORK",
                source: errno.into(),
            })?;
        }
        Ok(this)
    }

    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// The address of a page.
    pub(super) fn address(&self, page: u32) -> usize {
        debug_assert!(page <= self.pages);
        self.start + page as usize * PAGE_SIZE
    }

    pub(super) fn span(&self, first: u32, pages: u32) -> Range<usize> {
        debug_assert!(first as u64 + u64::from(pages) <= u64::from(self.pages));
        let start = self.address(first);
        start..start + pages as usize * PAGE_SIZE
    }

    /// Have it fault; `modes`, and write protection where the kernel has it for such memory.
    pub(super) fn register(&self, modes: Modes, need: Ioctls) -> Result<(), Refusal> {
        let range = self.span(0, self.pages);
        // SAFETY: the owner registers the memory here to have it served.
        let tried = unsafe { self.descriptor.register(range.clone(), modes | Modes::PROTECT) };
        let takes = match tried {
            Err(crate::guest::uffd::Error::Register { errno: Errno::INVALID, .. }) => {
                // SAFETY: as above.
                unsafe { self.descriptor.register(range.clone(), modes)? }
            }
            other => other?,
        };
        if takes.contains(need) {
            self.registered.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let _ = self.descriptor.unregister(range.clone());
        if takes.contains(Ioctls::ZEROPAGE) {
            return Err(Refusal::NoMethod {
                method: super::Method::Probed,
                why: "this kernel's userfaultfd lacks a request that this kind of memory needs. Use a newer one.",
            });
        }
        Err(Refusal::Hugetlb { start: range.start, end: range.end }) // alone among memory that registers, it cannot be zeroed
    }

    /// Unregister it, and let children inherit it again.
    pub(super) fn release(&self) -> io::Result<()> {
        let range = self.span(0, self.pages);
        if let Err(errno) = self.descriptor.unregister(range.clone()) {
            self.release_what_is_left(&range, errno)?;
        }
        if self.hides_from_children {
            // It is released, whatever comes of this: over a part that is not mapped any more the kernel says ENOMEM, and has done the rest.
            let _ = self.advise(0, self.pages, libc::MADV_DOFORK);
        }
        Ok(())
    }

    /// Part of it was unmapped, and there may be other things in its place, which the kernel refuses to look past.
    fn release_what_is_left(&self, range: &Range<usize>, errno: Errno) -> io::Result<()> {
        let (mut covered, mut last) = (0, Ok(()));
        for mapping in maps::inside(range)? {
            let part = mapping.range.start.max(range.start)..mapping.range.end.min(range.end);
            covered += part.len();
            let is_like = mapping.read && mapping.write && (mapping.inode == 0 || mapping.shared);
            if let Err(errno) = self.descriptor.unregister(part)
                && is_like
            {
                last = Err(errno.into());
            }
        }
        // Where all is mapped, it was refused for another reason.
        if covered == range.len() { Err(errno.into()) } else { last }
    }

    fn advise(&self, first: u32, pages: u32, advice: libc::c_int) -> Result<(), Errno> {
        let span = self.span(first, pages);
        // SAFETY: advice about memory whose owner registered it to be advised about; DONTNEED comes from those who own the pages' words.
        if unsafe { libc::madvise(span.start as *mut libc::c_void, span.len(), advice) } != 0 {
            return Err(Errno::last());
        }
        Ok(())
    }

    /// Drop pages. With events of removal on, this waits until somebody has read the event.
    pub(super) fn drop_pages(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.advise(first, pages, libc::MADV_DONTNEED).map_err(|errno| match errno {
            Errno::NO_MEMORY => Obstacle::Gone, // part of it is not mapped
            Errno::INVALID => Obstacle::Busy,   // locked meanwhile
            errno => Obstacle::Failed(errno.0),
        })
    }

    /// Whether something is mapped at a page.
    fn mapped(&self, page: u32) -> bool {
        let mut resident = 0u8;
        // SAFETY: asks about one page and writes one byte.
        unsafe { libc::mincore(self.address(page) as *mut libc::c_void, PAGE_SIZE, &raw mut resident) == 0 }
    }

    /// What an error number says about a page of this range.
    pub(super) fn obstacle(&self, page: u32, errno: Errno) -> Obstacle {
        match errno {
            Errno::BUSY => Obstacle::Busy,
            Errno::NO_ENTRY if self.mapped(page) => Obstacle::Hole,
            Errno::NO_ENTRY | Errno::NO_PROCESS => Obstacle::Gone,
            Errno::EXISTS => Obstacle::There,
            Errno::AGAIN => Obstacle::Again,
            Errno(number) => Obstacle::Failed(number),
        }
    }

    /// As [`Self::obstacle`], for what fills pages: there, no entry means that the page is not registered.
    fn refused(&self, errno: Errno) -> Obstacle {
        match errno {
            Errno::NO_ENTRY | Errno::NO_PROCESS => Obstacle::Gone,
            errno => self.obstacle(0, errno),
        }
    }

    fn filled(&self, pages: u32, one: impl FnMut(u32, u32) -> Done) -> Installed {
        let (done, stopped) = through(pages, Errno::NO_ENTRY, one);
        Installed { pages: done, obstacle: stopped.map(|errno| self.refused(errno)) }
    }

    pub(super) fn install(&self, first: u32, from: *const [u8; PAGE_SIZE], pages: u32, protected: bool) -> Installed {
        let mode = if protected { Mode::PROTECTED } else { Mode::empty() };
        self.filled(pages, |at, count| {
            let from = from.wrapping_add(at as usize).cast();
            self.descriptor.copy(self.address(first + at), from, count as usize * PAGE_SIZE, mode)
        })
    }

    pub(super) fn install_zero(&self, first: u32, pages: u32) -> Installed {
        self.filled(pages, |at, count| self.descriptor.zeropage(self.span(first + at, count), Mode::empty()))
    }

    pub(super) fn map_from_file(&self, first: u32, pages: u32) -> Installed {
        self.filled(pages, |at, count| self.descriptor.continue_(self.span(first + at, count), Mode::empty()))
    }

    pub(super) fn poison(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.filled(pages, |at, count| self.descriptor.poison(self.span(first + at, count), Mode::empty())).all()
    }

    pub(super) fn protect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.filled(pages, |at, count| whole(count, self.descriptor.protect(self.span(first + at, count)))).all()
    }

    pub(super) fn unprotect(&self, first: u32, pages: u32) -> Installed {
        self.filled(pages, |at, count| {
            whole(count, self.descriptor.unprotect(self.span(first + at, count), Mode::empty()))
        })
    }

    pub(super) fn wake(&self, first: u32, pages: u32) {
        // Fails for a range that is not in whole pages only, and this one is.
        let _ = self.descriptor.wake(self.span(first, pages));
    }

    pub(super) fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        self.present_at(self.span(first, pages), first, each)
    }

    /// The same of a span of ours, whose first page has this number.
    pub(super) fn present_at(
        &self,
        span: Range<usize>,
        first: u32,
        each: &mut dyn FnMut(Range<u32>),
    ) -> io::Result<()> {
        let number = |address: usize| first + ((address - span.start) / PAGE_SIZE) as u32;
        self.page_map.present(span.clone(), &mut |run| each(number(run.start)..number(run.end)))
    }

    /// Whether there is a page at an address, of the range or of a staging place.
    pub(super) fn holds(&self, address: usize) -> io::Result<bool> {
        let mut entry = [Entry::empty()];
        self.page_map.entries(address, &mut entry)?;
        Ok(entry[0].intersects(Entry::PRESENT | Entry::SWAPPED))
    }

    /// Write to pages that are mapped here alone, without changing them: a page that a child shared once is the process's own after it. How many
    /// were.
    ///
    /// A page that another process still has is left alone: it would become two. One that is write-protected is too: the fault would be served.
    pub(super) fn unshare(&self, first: u32, pages: u32) -> u32 {
        let mut entries = [Entry::empty(); 64];
        let mut own = 0;
        for start in (0..pages).step_by(entries.len()) {
            let count = (pages - start).min(entries.len() as u32);
            if self.entries(first + start, count, &mut entries).is_err() {
                return own;
            }
            let ours =
                |entry: &Entry| entry.contains(Entry::PRESENT | Entry::EXCLUSIVE) && !entry.contains(Entry::PROTECTED);
            let mut at = 0;
            while at < count {
                let run = entries[at as usize..count as usize].iter().take_while(|entry| ours(entry)).count() as u32;
                if run > 0 && self.populate(first + start + at, run).is_ok() {
                    own += run;
                }
                at += run + 1;
            }
        }
        own
    }

    /// Have pages faulted in for writing, as far as the range may be.
    fn populate(&self, first: u32, pages: u32) -> Result<(), Errno> {
        self.advise(first, pages, libc::MADV_POPULATE_WRITE)
    }

    /// The pagemap's entries of pages, 64 at most.
    pub(super) fn entries(&self, first: u32, pages: u32, entries: &mut [Entry; 64]) -> io::Result<()> {
        self.page_map.entries(self.address(first), &mut entries[..pages as usize])
    }
}

impl Drop for GuestRange {
    fn drop(&mut self) {
        // Refused after all: children inherit it as before.
        if self.hides_from_children && !self.registered.load(Ordering::Relaxed) {
            let _ = self.advise(0, self.pages, libc::MADV_DOFORK);
        }
    }
}

/// The rest of an `impl Backing`: what is asked of the range in the same way whatever memory it is; and of `private` memory, which is nowhere but
/// there, also how pages come in, are thrown away, told and unshared.
macro_rules! rest_of_backing {
    ($range:ident) => {
        fn unprotect(&self, first: u32, pages: u32) -> Result<(), $crate::guest::memory::backing::Obstacle> {
            self.$range.unprotect(first, pages).all()
        }

        fn protect(&self, first: u32, pages: u32) -> Result<(), $crate::guest::memory::backing::Obstacle> {
            self.$range.protect(first, pages)
        }

        fn poison(&self, first: u32, pages: u32) -> Result<(), $crate::guest::memory::backing::Obstacle> {
            self.$range.poison(first, pages)
        }

        fn wake(&self, first: u32, pages: u32) {
            self.$range.wake(first, pages);
        }

        fn release(&self) -> std::io::Result<()> {
            self.$range.release()
        }
    };
    ($range:ident, private) => {
        rest_of_backing!($range);

        fn install(
            &self,
            first: u32,
            from: *const [u8; $crate::units::PAGE_SIZE],
            pages: u32,
            protected: bool,
        ) -> $crate::guest::memory::backing::Installed {
            self.$range.install(first, from, pages, protected)
        }

        fn install_zero(&self, first: u32, pages: u32) -> $crate::guest::memory::backing::Installed {
            self.$range.install_zero(first, pages)
        }

        fn discard(&self, first: u32, pages: u32) -> Result<(), $crate::guest::memory::backing::Obstacle> {
            self.$range.drop_pages(first, pages)
        }

        fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(std::ops::Range<u32>)) -> std::io::Result<()> {
            self.$range.present(first, pages, each)
        }

        fn unshare(&self, first: u32, pages: u32) -> u32 {
            self.$range.unshare(first, pages)
        }
    };
}
pub(super) use rest_of_backing;

/// A request that does all or nothing, as one that says how far it came.
fn whole(pages: u32, answer: Result<(), Errno>) -> Done {
    match answer {
        Ok(()) => Done { bytes: pages as usize * PAGE_SIZE, stopped: None },
        Err(errno) => Done { bytes: 0, stopped: Some(errno) },
    }
}

/// Do `request(page, pages)` for all of `pages` pages, whatever it does at a time. Returns how far it came, and what stopped it there.
///
/// `spans` is what the kernel says to a request over two mappings: where such a mapping ends is searched by halves.
pub(super) fn through(pages: u32, spans: Errno, mut request: impl FnMut(u32, u32) -> Done) -> (u32, Option<Errno>) {
    let (mut done, mut most, mut searching) = (0, pages, false);
    while done < pages {
        let count = most.min(pages - done);
        let answer = request(done, count);
        done += (answer.bytes / PAGE_SIZE) as u32;
        match answer.stopped {
            None if searching && count > 1 => most = count / 2,
            None => (most, searching) = (pages, false),
            Some(_) if answer.bytes > 0 => {} // what lies behind is not told: ask again from there
            Some(errno) if errno == spans && count > 1 => (most, searching) = (count / 2, true),
            Some(errno) => return (done, Some(errno)),
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel whose mappings end at `seams` and whose page `bad` answers with an error.
    fn walk(pages: u32, seams: &[u32], bad: Option<(u32, Errno)>) -> (u32, Option<Errno>, u32) {
        let mut calls = 0;
        let (done, stopped) = through(pages, Errno::INVALID, |at, count| {
            calls += 1;
            if seams.iter().any(|&seam| at < seam && seam < at + count) {
                return Done { bytes: 0, stopped: Some(Errno::INVALID) };
            }
            match bad {
                Some((page, errno)) if page == at => Done { bytes: 0, stopped: Some(errno) },
                Some((page, _)) if (at..at + count).contains(&page) => {
                    Done { bytes: (page - at) as usize * PAGE_SIZE, stopped: Some(Errno::AGAIN) }
                }
                _ => Done { bytes: count as usize * PAGE_SIZE, stopped: None },
            }
        });
        (done, stopped, calls)
    }

    #[test]
    fn one_request_does_a_whole_mapping() {
        assert_eq!(walk(64, &[], None), (64, None, 1));
    }

    #[test]
    fn every_seam_is_stepped_over() {
        for seam in 1..64 {
            let (done, stopped, calls) = walk(64, &[seam], None);
            assert_eq!((done, stopped), (64, None), "seam {seam}");
            assert!(calls <= 15, "seam {seam}: {calls} calls");
        }
        let every: Vec<u32> = (1..64).collect();
        assert_eq!(walk(64, &every, None).0, 64);
    }

    #[test]
    fn what_lies_behind_the_progress_is_asked_for() {
        for page in 0..64 {
            let (done, stopped, _) = walk(64, &[], Some((page, Errno::BUSY)));
            assert_eq!((done, stopped), (page, Some(Errno::BUSY)));
            // The seam's own error on one page is that page's.
            let (done, stopped, _) = walk(64, &[7, 30], Some((page, Errno::INVALID)));
            assert_eq!((done, stopped), (page, Some(Errno::INVALID)));
        }
    }
}
