//! What the states of pages need from others, and no more: somebody who pays, a store, and somebody who counts.
//!
//! The seam towards `limits` ([`Purse`]), `zswap` ([`Store`]) and `stats` ([`Observer`]); models bring small ones of their own.
//! All of it is called in handlers of faults: no allocation, no lock that is held over guest memory.

use crate::memcg::Resident;
use crate::units::{NodeId, PAGE_SIZE, Slot};
use crate::zswap::{self, Stored, Zswap};

/// Why pages are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A thread waits for the page.
    Fault,
    /// A call brings it in.
    Call,
    /// It was there when the memory was registered.
    Found,
}

/// Who pays for pages in memory, 4096 bytes each.
pub(crate) trait Purse: Send + Sync {
    /// Charge pages; never refuses. Makes room first where a limit is reached, so it may take pages of the same VM out, and must
    /// not wait for one that is owned.
    fn charge(&self, pages: u32, why: Why);
    /// Charge pages if that needs no reclaim.
    fn try_charge(&self, pages: u32) -> bool;
    /// Give back what was charged.
    fn uncharge(&self, pages: u32);
    /// The charge of a page, as a value: who drops it gives it back, who forgets it leaves it charged.
    fn page_charge(&self) -> Resident;
}

/// Where a page was that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// Compressed in the pool.
    Compressed,
    /// On a device.
    Device,
    /// One repeated word.
    SameFilled,
}

/// Where pages are kept that are out.
pub(crate) trait Store: Send + Sync {
    /// Store a page that is charged as resident; its charge pays for what it becomes.
    ///
    /// # Errors
    /// Where there is no room; the page is charged as before, and the slot is empty.
    fn put_away(&self, slot: Slot, purse: &dyn Purse, page: &[u8; PAGE_SIZE]) -> Result<Stored, zswap::Error>;
    /// Read a page; the slot keeps it. With `wait` false, not from a device.
    ///
    /// # Errors
    /// As [`Zswap::load`] and [`Zswap::try_load`].
    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<Form, zswap::Error>;
    /// One reference to what a slot holds less. Nothing, where it holds nothing.
    fn give_back(&self, slot: Slot);
    /// Whether the slot holds anything.
    fn holds(&self, slot: Slot) -> bool;
}

/// A number of pages that goes up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gauge {
    /// In the guest range.
    Resident,
    /// In the staging place.
    Staged,
    /// In their slots.
    Stored,
    /// Not to be had.
    Poisoned,
    /// In the guest range, with an equal copy in their slots.
    Kept,
    /// Pinned, however often.
    Pinned,
}

/// Something that happened to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// It could not be taken out: the kernel has it pinned, or shared.
    Busy,
    /// The address space was changing.
    Again,
    /// It was not there although its word said so.
    Vanished,
    /// It was taken out, to the staging place.
    TakenOut,
    /// It was compressed, or stored as it is.
    PutAway,
    /// The store had no room.
    Refused,
    /// It left without the codec: its slot had an equal copy.
    PutAwayClean,
    /// Its compression was for nothing: it was wanted meanwhile.
    Wasted,
    /// It came without having been asked for, beside one that was.
    Around,
}

/// Who keeps statistics, and the coarse time.
pub(crate) trait Observer: Send + Sync {
    /// The coarse time, which goes round.
    fn epoch(&self) -> u8 {
        0
    }
    /// A fault, or a call for one page, was served.
    fn served(&self, _kind: super::Kind, _nanoseconds: u64) {}
    /// A stored page came back: its stamp says when it left. How many passes of the clock leave it alone from now on.
    fn came_back(&self, _stamp: u8) -> u32 {
        0
    }
    /// A number of pages changed.
    fn change(&self, _gauge: Gauge, _pages: i64) {}
    /// Something happened.
    fn count(&self, _what: Count, _pages: u32) {}
}

/// Nobody does.
impl Observer for () {}

impl Store for Zswap {
    fn put_away(&self, slot: Slot, purse: &dyn Purse, page: &[u8; PAGE_SIZE]) -> Result<Stored, zswap::Error> {
        match self.swap_out(slot, purse.page_charge(), NodeId(0), page) {
            Ok(stored) => Ok(stored),
            Err(refused) => {
                let refused = *refused;
                refused.resident.forget(); // charged as before
                Err(refused.error)
            }
        }
    }

    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<Form, zswap::Error> {
        // Where it lies is told from whether it can be had without a device.
        match self.try_load(slot, page) {
            Ok(()) => Ok(Form::Compressed),
            Err(zswap::Error::NeedsIo { .. }) if wait => self.load(slot, page).map(|()| Form::Device),
            Err(error) => Err(error),
        }
    }

    fn give_back(&self, slot: Slot) {
        let _ = self.put(slot); // nothing there, nothing to give
    }

    fn holds(&self, slot: Slot) -> bool {
        self.is_stored(slot)
    }
}
