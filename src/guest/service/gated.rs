//! [`Gated`]: a region's backing, each of whose requests passes the gate.
//!
//! What is closed answers [`Again`](Obstacle::Again), as the kernel does while a change is unread. Requests about the guest range alone pass it: the
//! staging place of [`Apart`](Staging::Apart) is ours, and nothing changes there behind our back.

use super::gate::{Gate, Passing};
use crate::guest::memory::Refusal;
use crate::guest::memory::backing::{Backing, Installed, Obstacle, Staging, TakenOut, install_one_by_one};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;
use std::io;
use std::ops::Range;

/// A backing behind a gate.
pub(crate) struct Gated {
    inner: Box<dyn Backing>,
    gate: Arc<Gate>,
    /// Address of the first page.
    start: usize,
}

impl Gated {
    /// For pages from `start` on.
    pub(crate) fn new(inner: Box<dyn Backing>, gate: Arc<Gate>, start: usize) -> Self {
        Gated { inner, gate, start }
    }

    fn pass(&self, first: u32, pages: u32) -> Option<Passing<'_>> {
        let start = self.start + first as usize * PAGE_SIZE;
        self.gate.pass(start..start + pages as usize * PAGE_SIZE)
    }

    fn install_through(&self, first: u32, pages: u32, install: impl FnOnce() -> Installed) -> Installed {
        match self.pass(first, pages) {
            Some(_passing) => install(),
            None => Installed { pages: 0, obstacle: Some(Obstacle::Again) },
        }
    }

    fn through<R>(&self, first: u32, pages: u32, f: impl FnOnce() -> Result<R, Obstacle>) -> Result<R, Obstacle> {
        match self.pass(first, pages) {
            Some(_passing) => f(),
            None => Err(Obstacle::Again),
        }
    }
}

impl Backing for Gated {
    fn register(&self) -> Result<(), Refusal> {
        self.inner.register()
    }

    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        match self.pass(first, pages) {
            Some(_passing) => self.inner.take_out(first, pages),
            None => TakenOut { moved: 0, obstacle: Some(Obstacle::Again) },
        }
    }

    fn put_back(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.through(first, pages, || self.inner.put_back(first, pages))
    }

    fn staged(&self, page: u32) -> *const [u8; 4096] {
        self.inner.staged(page)
    }

    fn drop_staged(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        match self.inner.staging() {
            Staging::Apart => self.inner.drop_staged(first, pages),
            // It drops the guest's own pages, and where that is told, it waits for the reader, who must be able to pass.
            Staging::InPlace => {
                drop(self.pass(first, pages).ok_or(Obstacle::Again)?);
                self.inner.drop_staged(first, pages)
            }
        }
    }

    fn install(&self, first: u32, from: *const [u8; 4096], pages: u32, protected: bool) -> Installed {
        self.install_through(first, pages, || self.inner.install(first, from, pages, protected))
    }

    fn install_zero(&self, first: u32, pages: u32) -> Installed {
        self.install_through(first, pages, || match pages {
            // Who asks for one has looked whether it was moved there.
            2.. if self.gate.has_moved() => Installed { pages: 0, obstacle: Some(Obstacle::Again) },
            _ => self.inner.install_zero(first, pages),
        })
    }

    fn move_in(&self, first: u32, pages: u32, fill: &mut dyn FnMut(u32, *mut [u8; 4096]) -> bool) -> Installed {
        // `fill` loads and decompresses, perhaps from a device: nobody does that in the gate.
        install_one_by_one(self, first, pages, fill)
    }

    fn unprotect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.through(first, pages, || self.inner.unprotect(first, pages))
    }

    fn protect(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.through(first, pages, || self.inner.protect(first, pages))
    }

    fn poison(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.through(first, pages, || self.inner.poison(first, pages))
    }

    fn wake(&self, first: u32, pages: u32) {
        self.inner.wake(first, pages);
    }

    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        // As in `drop_staged`: it waits for the reader.
        drop(self.pass(first, pages).ok_or(Obstacle::Again)?);
        self.inner.discard(first, pages)
    }

    fn steady(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.through(first, pages, || Ok(()))
    }

    fn present(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<()> {
        self.inner.present(first, pages, each)
    }

    fn release(&self) -> io::Result<()> {
        self.inner.release()
    }

    fn shares_zeroes(&self) -> bool {
        self.inner.shares_zeroes() && !self.gate.has_moved()
    }

    fn staging(&self) -> Staging {
        self.inner.staging()
    }

    fn present_apart(&self, first: u32, pages: u32, each: &mut dyn FnMut(Range<u32>)) -> io::Result<bool> {
        self.inner.present_apart(first, pages, each)
    }

    fn unshare(&self, first: u32, pages: u32) -> u32 {
        self.inner.unshare(first, pages)
    }
}
