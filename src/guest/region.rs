//! [`Region`]: a range of a caller's memory whose pages come and go.

use super::Error;
use super::pages::Pages;
use super::vm::Vm;
use crate::sync::Arc;
use std::ops::Range;

/// Pages that were asked to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Pages that are in their slots now.
    pub pages: u64,
    /// Bytes by which less is charged.
    pub won_bytes: u64,
    /// Pages that stay: pinned, or the kernel would not move them.
    pub stayed: u64,
    /// Pages that the store had no room for.
    pub refused: u64,
}

/// Pages that were brought in ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// Pages that are in memory now and were not.
    pub pages: u64,
    /// Pages that were left where they are: a limit is reached, or they cannot be read.
    pub left: u64,
}

/// A registered range of memory. Its pages leave when limits or somebody asks, and come back when they are touched.
///
/// Dropped, it is unregistered; what cannot be brought in then is poisoned, never zeroed, and that is said on standard error. Use
/// [`unregister`](Self::unregister) to be told.
pub struct Region {
    vm: Vm,
    pages: Arc<Pages>,
}

/// Pages that stay in memory until this is dropped.
#[must_use = "dropped, the pages may leave again"]
pub struct Pin<'a> {
    region: &'a Region,
    pages: Range<u32>,
}

impl Region {
    /// The addresses.
    pub fn addresses(&self) -> Range<usize> {
        self.pages.addresses()
    }

    /// Its VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Bring everything in and give the range back to the kernel and the caller.
    ///
    /// # Errors
    /// With the region, which is as it was, when a page cannot be read back.
    pub fn unregister(self) -> Result<(), (Region, Error)> {
        todo!()
    }

    /// Bring pages in and keep them there, for devices that look at them. `range` is in bytes from the region's start.
    ///
    /// # Errors
    /// As [`make_resident`](Self::make_resident), and past 255 pins of a page.
    pub fn pin(&self, _range: Range<usize>) -> Result<Pin<'_>, Error> {
        todo!()
    }

    /// Throw pages away: they read as zeroes. How many bytes were somewhere.
    ///
    /// # Errors
    /// When a page is pinned, or the kernel refuses.
    pub fn discard(&self, _range: Range<usize>) -> Result<u64, Error> {
        todo!()
    }

    /// Bring pages in ahead, as far as limits have room.
    pub fn prefetch(&self, _range: Range<usize>) -> Prefetched {
        todo!()
    }

    /// Bring pages in.
    ///
    /// # Errors
    /// When one cannot be read back.
    pub fn make_resident(&self, _range: Range<usize>) -> Result<(), Error> {
        todo!()
    }

    /// Take pages out, compressed, whatever limits say.
    pub fn evict(&self, _range: Range<usize>) -> Evicted {
        todo!()
    }

    /// Check every page against the kernel and the store; only while nobody is at them.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn assert_valid(&self) {
        todo!()
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.region.pages.unpin(self.pages.clone());
    }
}
