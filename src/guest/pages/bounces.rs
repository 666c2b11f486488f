//! [`Bounces`]: a few buffers in which pages are loaded that are installed together.
//!
//! ```text
//!   taken   1 0 0 1            a bit for each that is used
//!           [16 pages][16 pages][16 pages][16 pages]      backed where used
//! ```

use crate::guest::{Error, FaultAround};
use crate::sync::Region;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::units::PAGE_SIZE;

/// Pages that are installed by one copy: measured, more of them do not pay.
pub(super) const BY_COPY: u32 = 16;

/// Buffers: as many threads bring runs in together without going page by page.
const BUFFERS: usize = 4;

/// Room to load pages that are installed together.
pub(crate) struct Bounces {
    region: Option<Region>,
    /// A bit for each that is used. Not a lock: who has a buffer reads devices.
    taken: AtomicU32,
}

/// A buffer in use.
struct Claimed<'a> {
    taken: &'a AtomicU32,
    at: usize,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.taken.fetch_and(!(1 << self.at), Ordering::Release);
    }
}

impl Bounces {
    /// Buffers, if neighbours are wanted. Memory is behind those that are used.
    pub(crate) fn new(around: FaultAround) -> Result<Self, Error> {
        let bytes = BUFFERS * BY_COPY as usize * PAGE_SIZE;
        let region = match around {
            FaultAround::Off => None,
            _ => Some(Region::reserve(bytes).map_err(|source| Error::AddressSpace {
                bytes: bytes as u64,
                what: "buffers of pages that come in together",
                source,
            })?),
        };
        Ok(Bounces { region, taken: AtomicU32::new(0) })
    }

    /// Have `f` use a buffer of [`BY_COPY`] pages, if one is free.
    pub(super) fn with<R>(&self, f: impl FnOnce(*mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        let region = self.region.as_ref()?;
        let first_free = |taken: u32| taken.trailing_ones() as usize;
        let claim = |taken: u32| (first_free(taken) < BUFFERS).then(|| taken | 1 << first_free(taken));
        // Acquire and Release: the next user writes after the one before has read.
        let at = first_free(self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim).ok()?);
        let _claimed = Claimed { taken: &self.taken, at };
        let bytes = BY_COPY as usize * PAGE_SIZE;
        Some(region.with_mut(at * bytes..(at + 1) * bytes, |buffer| f(buffer.cast())))
    }
}
