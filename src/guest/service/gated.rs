//! [`Gated`]: a region's backing, each of whose requests passes the gate.
//!
//! What is closed answers [`Again`](Obstacle::Again), as the kernel does while a change is unread. Requests about the guest range alone pass it: the
//! staging place of [`Apart`](Staging::Apart) is ours, and nothing changes there behind our back.

use super::gate::{Gate, Passing};
use crate::guest::memory::backing::{
    Backing, Installed, Obstacle, Staging, TakenOut, install_one_by_one, rest_of_inner,
};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;
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

    fn range(&self, first: u32, pages: u32) -> Range<usize> {
        let start = self.start + first as usize * PAGE_SIZE;
        start..start + pages as usize * PAGE_SIZE
    }

    fn pass(&self, first: u32, pages: u32) -> Option<Passing<'_>> {
        self.gate.pass(self.range(first, pages))
    }

    fn install_through(&self, first: u32, pages: u32, install: impl FnOnce() -> Installed) -> Installed {
        let closed = Installed { pages: 0, obstacle: Some(Obstacle::Again) };
        self.gate.through(self.range(first, pages), install).unwrap_or(closed)
    }

    fn through<R>(&self, first: u32, pages: u32, f: impl FnOnce() -> Result<R, Obstacle>) -> Result<R, Obstacle> {
        self.gate.through(self.range(first, pages), f).unwrap_or(Err(Obstacle::Again))
    }
}

impl Backing for Gated {
    fn take_out(&self, first: u32, pages: u32) -> TakenOut {
        match self.gate.pass_out(self.range(first, pages)) {
            Some(_passing) => self.inner.take_out(first, pages),
            None => TakenOut { moved: 0, obstacle: Some(Obstacle::Again) },
        }
    }

    fn put_back(&self, first: u32, pages: u32) -> Installed {
        self.install_through(first, pages, || self.inner.put_back(first, pages))
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

    fn install(&self, first: u32, from: *const [u8; PAGE_SIZE], pages: u32, protected: bool) -> Installed {
        self.install_through(first, pages, || self.inner.install(first, from, pages, protected))
    }

    fn install_zero(&self, first: u32, pages: u32) -> Installed {
        self.install_through(first, pages, || match pages {
            // Who asks for one has looked whether it was moved there.
            2.. if self.gate.has_moved() => Installed { pages: 0, obstacle: Some(Obstacle::Again) },
            _ => self.inner.install_zero(first, pages),
        })
    }

    fn move_in(&self, first: u32, pages: u32, fill: &mut dyn FnMut(u32, *mut [u8; PAGE_SIZE]) -> bool) -> Installed {
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

    fn discard(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        // As in `drop_staged`: it waits for the reader.
        drop(self.pass(first, pages).ok_or(Obstacle::Again)?);
        self.inner.discard(first, pages)
    }

    fn unpoison(&self, page: u32) -> Result<(), Obstacle> {
        drop(self.pass(page, 1).ok_or(Obstacle::Again)?);
        self.inner.unpoison(page)
    }

    fn steady(&self, first: u32, pages: u32) -> Result<(), Obstacle> {
        self.through(first, pages, || Ok(()))
    }

    fn shares_zeroes(&self) -> bool {
        self.inner.shares_zeroes() && !self.gate.has_moved()
    }

    rest_of_inner!(inner);
}
