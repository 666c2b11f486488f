//! A region whose kernel does nothing, to measure what a fault costs besides the kernel and the codec; of no use to embedders.
//!
//! Everything else is real: words, index, store, charges on each level, statistics.

use super::memory::backing::{Backing, Installed, Obstacle, TakenOut};
use super::pages::{Access, Pages, Served, Waiting};
use super::registry::{self, Announced, Found};
use super::{Engine, Error};
use crate::memcg::Memcg;
use crate::sync::Arc;
use crate::units::{PAGE_SIZE, Page};
use std::io;
use std::ops::Range;

/// Pages of a VM without addresses that anybody could touch.
pub struct Unbacked {
    pages: Arc<Pages>,
    start: usize,
    _announced: Announced,
}

/// The pages as they are when they leave.
struct Nothing(Arc<[Page]>);

impl Unbacked {
    /// A region that has these pages, charged to `memcg`.
    ///
    /// # Errors
    /// As [`Vm::register`](super::Vm::register).
    pub fn new(engine: &Engine, memcg: &Memcg, content: Arc<[Page]>) -> Result<Self, Error> {
        let start = content.as_ptr() as usize;
        let announced = Announced::new(start..start + content.len() * PAGE_SIZE)?;
        let slots = engine.zswap().reserve(content.len() as u64)?;
        let pages = Arc::new(Pages::new(engine.without_kernel(memcg)?, Box::new(Nothing(content)), slots, start)?);
        let announced = announced.publish(pages.clone());
        pages.register().expect("there is no kernel");
        pages.find_present().expect("the pages are there");
        Ok(Unbacked { pages, start, _announced: announced })
    }

    /// Take everything out.
    pub fn evict(&self) {
        let _ = self.pages.evict(0..self.pages.count(), None);
    }

    /// Find the region by the page's address, as the handler of a signal does, and serve a fault of it.
    #[inline(never)]
    pub fn fault(&self, page: u32) {
        let Found::Page(pages, page) = registry::find(self.start + page as usize * PAGE_SIZE) else {
            unreachable!("it is there")
        };
        let served = pages.fault(page, Access::Read, Waiting::Wait);
        assert!(matches!(served, Served::Installed(_)), "{served:?}");
    }
}

impl Drop for Unbacked {
    fn drop(&mut self) {
        let _ = self.pages.bring_everything();
    }
}

impl Backing for Nothing {
    fn take_out(&self, _first: u32, pages: u32) -> TakenOut {
        TakenOut { moved: pages, obstacle: None }
    }

    fn put_back(&self, _first: u32, pages: u32) -> Installed {
        Installed { pages, obstacle: None }
    }

    fn staged(&self, page: u32) -> *const [u8; PAGE_SIZE] {
        &raw const self.0[page as usize].0
    }

    fn drop_staged(&self, _first: u32, _pages: u32) -> Result<(), Obstacle> {
        Ok(())
    }

    fn install(&self, _first: u32, _from: *const [u8; PAGE_SIZE], pages: u32, _protected: bool) -> Installed {
        Installed { pages, obstacle: None }
    }

    fn install_zero(&self, _first: u32, pages: u32) -> Installed {
        Installed { pages, obstacle: None }
    }

    fn unprotect(&self, _first: u32, _pages: u32) -> Result<(), Obstacle> {
        Ok(())
    }

    fn protect(&self, _first: u32, _pages: u32) -> Result<(), Obstacle> {
        Ok(())
    }

    fn poison(&self, _first: u32, _pages: u32) -> Result<(), Obstacle> {
        Ok(())
    }

    fn wake(&self, _first: u32, _pages: u32) {}

    fn discard(&self, _first: u32, _pages: u32) -> Result<(), Obstacle> {
        Ok(())
    }

    fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        each(first..first + pages);
        Ok(())
    }

    fn release(&self) -> io::Result<()> {
        Ok(())
    }
}
