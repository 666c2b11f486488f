//! [`Region`]: a range of a caller's memory whose pages come and go.

use super::pages::Pages;
use super::service::fork_mark::in_child;
use super::vm::Vm;
use super::{Error, Evicted, Prefetched, registry};
use crate::sync::Arc;
use crate::sync::thread::Backoff;
use crate::units::PAGE_SIZE;
use std::ops::Range;

/// A registered range of memory. Its pages leave when limits or somebody asks, and come back when they are touched.
///
/// Dropped, it is unregistered; what cannot be brought in then is poisoned, never zeroed, and that is said on standard error. Use
/// [`unregister`](Self::unregister) to be told.
pub struct Region {
    /// Taken when it was unregistered.
    pages: Option<Arc<Pages>>,
    vm: Vm,
}

/// Pages that stay in memory until this is dropped.
#[must_use = "dropped, the pages may leave again"]
pub struct Pin<'a> {
    region: &'a Region,
    /// Runs of pages, in order.
    pages: Vec<Range<u32>>,
}

impl Region {
    pub(super) fn new(vm: Vm, pages: Arc<Pages>) -> Region {
        Region { pages: Some(pages), vm }
    }

    fn pages(&self) -> &Arc<Pages> {
        self.pages.as_ref().expect("it is taken when the region goes")
    }

    /// The addresses.
    pub fn addresses(&self) -> Range<usize> {
        self.pages().addresses()
    }

    /// Its VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Bring everything in and give the range back to the kernel and the caller. Threads may use the memory all the while.
    ///
    /// # Errors
    /// With the region, which is as it was, when a page cannot be read back ([`Error::Unreadable`]) or the kernel refuses. A page that
    /// could not be read before is tried again; [`discard`](Self::discard) it to do without.
    pub fn unregister(mut self) -> Result<(), (Region, Error)> {
        match self.bring_and_release() {
            Ok(()) => {
                self.finish();
                Ok(())
            }
            Err(error) => {
                self.pages().reopen();
                Err((self, error))
            }
        }
    }

    /// Nothing leaves from here on, whatever comes of it.
    fn bring_and_release(&self) -> Result<(), Error> {
        let pages = self.pages();
        // What was unmapped a moment ago is not to be brought in: its pages follow.
        self.vm.until_followed(&pages.addresses());
        pages.bring_everything()?;
        self.vm.settle(&pages.addresses())?;
        let address = pages.addresses().start;
        let refused = |source| Error::Kernel { doing: "unregister the region from", page: 0, address, source };
        pages.backing().release().map_err(refused)
    }

    /// The kernel sends no more faults: wait for those that are being served, and settle up.
    fn finish(&mut self) {
        let Some(mut pages) = self.pages.take() else { return };
        registry::remove(&pages.addresses());
        self.vm.running().forget(&pages);
        pages.shared().regions.remove(pages.id());
        let mut backoff = Backoff::new();
        // Not by the count alone: what the last of them did to the words is to be seen.
        while Arc::get_mut(&mut pages).is_none() {
            backoff.wait_for_io();
        }
        pages.settle();
    }

    /// Bring pages in and keep them there, for devices that look at them. `range` is in bytes from the region's start, whole pages.
    ///
    /// # Errors
    /// As [`make_resident`](Self::make_resident); [`Error::TooManyPins`] past 255 pins of a page. Then nothing is pinned by this.
    pub fn pin(&self, range: Range<usize>) -> Result<Pin<'_>, Error> {
        let pages = self.whole_pages(range)?;
        self.pages().pin(pages.clone())?;
        Ok(Pin { region: self, pages: vec![pages] })
    }

    /// Bring in what is out and keep what is somewhere; what is nowhere stays so, costs nothing, and is not kept when it is touched later.
    /// Before the protection of a range changes, say, of which little was ever touched.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub fn pin_populated(&self, range: Range<usize>) -> Result<Pin<'_>, Error> {
        let pages = self.whole_pages(range)?;
        Ok(Pin { region: self, pages: self.pages().pin_populated(pages)? })
    }

    /// Throw pages away: they read as zeroes from then on, and nothing is charged for them. How many bytes were somewhere.
    ///
    /// # Errors
    /// [`Error::Pinned`], or when the kernel refuses: pages before the one that is named are thrown away.
    pub fn discard(&self, range: Range<usize>) -> Result<u64, Error> {
        let pages = self.whole_pages(range)?;
        Ok(self.pages().discard(pages)? * PAGE_SIZE as u64)
    }

    /// Bring pages in that are in their slots, as far as nothing has to leave for them. Parts of the range that are outside of the region
    /// are left out.
    pub fn prefetch(&self, range: Range<usize>) -> Prefetched {
        let count = self.pages().count();
        let page = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX).min(count);
        self.pages().prefetch(page(range.start / PAGE_SIZE)..page(range.end.div_ceil(PAGE_SIZE)))
    }

    /// Bring pages in, whatever has to leave for them: also those that are nowhere, as zeroes. They may leave again at once;
    /// [`pin`](Self::pin) keeps them.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for the first that cannot be read back; what comes after it is brought in all the same.
    pub fn make_resident(&self, range: Range<usize>) -> Result<(), Error> {
        self.pages().make_resident(self.whole_pages(range)?)
    }

    /// Have pages leave, compressed, whatever limits say and however hot they are; but those that are pinned.
    pub fn evict(&self, range: Range<usize>) -> Evicted {
        let count = self.pages().count();
        let page = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX).min(count);
        self.pages().evict(page(range.start.div_ceil(PAGE_SIZE))..page(range.end / PAGE_SIZE), None)
    }

    /// Check every page against the kernel and the store; only while nobody is at them.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn assert_valid(&self) {
        let _ = self.pages().assert_valid();
    }

    fn whole_pages(&self, range: Range<usize>) -> Result<Range<u32>, Error> {
        if !range.start.is_multiple_of(PAGE_SIZE) || !range.end.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Unaligned { range });
        }
        let inside = 0..self.pages().count() as usize * PAGE_SIZE;
        if range.start > range.end || range.end > inside.end {
            return Err(Error::Outside { range, inside });
        }
        Ok((range.start / PAGE_SIZE) as u32..(range.end / PAGE_SIZE) as u32)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let Some(pages) = self.pages.clone() else { return };
        if in_child() {
            std::mem::forget(self.pages.take()); // it is the parent's
            return;
        }
        if let Err(error) = self.bring_and_release() {
            let addresses = pages.addresses();
            let poisoned = pages.poison_the_rest();
            let released = pages.backing().release();
            eprintln!(
                "zspool: the region {addresses:#x?} is dropped, and {poisoned} of its pages cannot be brought in: {error}. Who touches them \
                 gets a SIGBUS{}",
                match released {
                    Ok(()) => String::new(),
                    Err(error) => format!("; the kernel would not unregister it: {error}"),
                }
            );
        }
        drop(pages);
        self.finish();
    }
}

impl std::fmt::Debug for Pin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pin").field("region", &self.region.addresses()).field("pages", &self.pages).finish()
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("addresses", &self.pages.as_ref().map(|pages| pages.addresses()))
            .finish_non_exhaustive()
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.pages.drain(..).for_each(|run| self.region.pages().unpin(run));
    }
}
