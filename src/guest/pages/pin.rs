//! Pins: pages that stay in the guest range, for devices that look at them.
//!
//! A pin is a count in the word, and nobody takes a page out while it has one. It does not keep a page from vanishing behind our
//! back, nor the kernel's own reclaim from having it.

use super::pages::Pages;
use super::ports::Gauge;
use super::word::{MAX_PINS, State};
use crate::guest::Error;
use std::ops::Range;

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

    fn pin_one(&self, page: u32) -> Result<(), Error> {
        loop {
            match self.word(page).pin(self.shared().planted) {
                Ok(first) => {
                    if first {
                        self.shared().observer.change(Gauge::Pinned, 1);
                    }
                    return Ok(());
                }
                Err(seen) if seen.state() == State::Resident => {
                    return Err(Error::TooManyPins { page, most: MAX_PINS });
                }
                // It left again meanwhile, or somebody is at it.
                Err(_) => self.make_one_resident(page)?,
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
