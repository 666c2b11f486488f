//! Pins: pages that stay in the guest range, for devices that look at them.
//!
//! A pin is a count in the word, and nobody takes a page out while it has one. It does not keep a page from vanishing behind our
//! back, nor the kernel's own reclaim from having it.
//!
//! A page that is pinned may be written by whoever cannot be served: a device, a system call, the embedder of a VM that nobody serves. So it
//! is not protected: its kept copy goes when it is pinned, and none is kept of it while it is.

use super::bits::{Bits, MAX_PINS, State};
use super::pages::{Access, Pages, Served, Waiting};
use super::ports::{Gauge, Why};
use crate::guest::Error;
use crate::guest::memory::backing::Obstacle;
use crate::sync::thread::Backoff;
use std::ops::Range;

/// What becomes of a page that is nowhere when it is to be pinned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nowhere {
    /// It is there, as zeroes.
    Comes,
    /// It is left out.
    Stays,
}

impl Pages {
    /// Bring pages in and pin them.
    ///
    /// # Errors
    /// As [`make_resident`](Self::make_resident), and [`Error::TooManyPins`]; then none is pinned by this.
    pub(crate) fn pin(&self, range: Range<u32>) -> Result<(), Error> {
        self.make_resident(range.clone())?;
        for page in range.clone() {
            if let Err(error) = self.pin_one(page) {
                self.unpin(range.start..page);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Bring in what is out, and pin what is somewhere; what is nowhere stays so. The runs that are pinned.
    ///
    /// # Errors
    /// As [`pin`](Self::pin).
    pub(crate) fn pin_populated(&self, range: Range<u32>) -> Result<Vec<Range<u32>>, Error> {
        self.bring_back(range.clone())?;
        let mut pinned: Vec<Range<u32>> = Vec::new();
        for page in range {
            match self.pin_where(page, Nowhere::Stays) {
                Ok(false) => {}
                Ok(true) => match pinned.last_mut() {
                    Some(run) if run.end == page => run.end += 1,
                    _ => pinned.push(page..page + 1),
                },
                Err(error) => {
                    pinned.into_iter().for_each(|run| self.unpin(run));
                    return Err(error);
                }
            }
        }
        Ok(pinned)
    }

    fn pin_one(&self, page: u32) -> Result<(), Error> {
        self.pin_where(page, Nowhere::Comes).map(drop)
    }

    /// Whether it is pinned.
    fn pin_where(&self, page: u32, nowhere: Nowhere) -> Result<bool, Error> {
        loop {
            match self.try_pin(page) {
                Ok(()) => {
                    return self.let_write(page).map(|()| true).inspect_err(|_| self.unpin(page..page + 1));
                }
                Err(seen) if seen.state() == State::Resident => {
                    return Err(Error::TooManyPins { page, most: MAX_PINS });
                }
                Err(seen) if seen.state() == State::Absent && nowhere == Nowhere::Stays => return Ok(false),
                // It left again meanwhile, or somebody is at it.
                Err(_) => self.make_one_resident(page)?,
            }
        }
    }

    /// Do something while a page stays in the guest range. `None` where it is not there, or pinned as often as it can be. Waits for nobody.
    pub(crate) fn while_here<R>(&self, page: u32, f: impl FnOnce() -> R) -> Option<R> {
        self.try_pin(page).ok()?;
        let done = f();
        self.unpin(page..page + 1);
        Some(done)
    }

    /// Pin a page that is in the guest range; what it is otherwise.
    fn try_pin(&self, page: u32) -> Result<(), Bits> {
        if self.word(page).pin(self.shared().planted)? {
            self.shared().observer.change(Gauge::Pinned, 1);
        }
        Ok(())
    }

    /// A page that is pinned can be written without a fault from here on.
    fn let_write(&self, page: u32) -> Result<(), Error> {
        let mut again = Backoff::new();
        loop {
            let seen = self.word(page).load();
            if seen.state().is_owned() {
                self.wait(page);
                continue;
            }
            if !seen.is_kept() || seen.state() == State::Poisoned {
                return Ok(());
            }
            match self.serve(page, Access::Protect, Waiting::Wait, Why::Call, &mut None) {
                Served::Gone => return Err(Error::Gone { address: self.address(page) }),
                Served::Failed(errno) => return Err(self.refused("unprotect", page, Obstacle::Failed(errno))),
                Served::Again => again.wait_for_io(), // whoever reads events makes this end
                Served::Installed(_) | Served::Poisoned | Served::Left => {}
            }
        }
    }

    /// One pin less for each page.
    pub(crate) fn unpin(&self, range: Range<u32>) {
        for page in range {
            if self.word(page).unpin() {
                self.shared().observer.change(Gauge::Pinned, -1);
            }
        }
    }
}
