//! What the states of pages need from others, and no more: somebody who pays, a store, and somebody who counts.
//!
//! The seam towards `limits` ([`Purse`]), `zswap` ([`Store`]) and `stats` ([`Observer`]); models bring small ones of their own.
//! All of it is called in handlers of faults: no allocation, no lock that is held over guest memory.

use super::outcomes::FaultKind;
use crate::memcg::Resident;
use crate::sync::Arc;
use crate::units::{NodeId, PAGE_SIZE, Slot};
use crate::zswap::{self, Help, LoadedFrom, Stored, Zswap};

/// Why pages are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody touched one, and waits.
    Fault,
    /// A caller wants a range: to make it resident, to pin or to unregister it, or before a fork.
    Call,
    /// They were in memory before they were registered.
    Found,
    /// A child of fork has them, which is being born: nothing can leave before it is, so nobody tries. The evictor does, afterwards.
    Fork,
    /// A child of fork wants a page, which cannot leave from there again; what it shares with its parent cannot either. Room is made here and now,
    /// or not: the thread that serves it serves all children, and does not wait for the evictor, who pays back later.
    Child,
}

/// Who pays for pages in memory, 4096 bytes each.
pub(crate) trait Purse: Send + Sync {
    /// Charge pages; refuses none but for [`Why::Fault`], where whoever was asked wants the page poisoned: false, and nothing is
    /// charged. Makes room first where a limit is reached, so it may take pages of the same VM out, and must not wait for one that is
    /// owned.
    #[must_use = "a page that is not charged must not come in"]
    fn charge(&self, pages: u32, why: Why) -> bool;
    /// Charge pages if that needs no reclaim.
    fn try_charge(&self, pages: u32) -> bool;
    /// Give back what was charged.
    fn uncharge(&self, pages: u32);
    /// The charge of a page, as a value: who drops it gives it back, who forgets it leaves it charged.
    fn page_charge(&self) -> Resident;
}

/// What storing a page may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Neither the allocator nor a device: in faults.
    Unaided,
    /// No device but for what does not shrink: by the evictor, which makes room by itself.
    Ahead,
    /// Whatever makes room: by calls.
    Full,
}

/// Where pages are kept that are out.
pub(crate) trait Store: Send + Sync {
    /// Store a page that is charged as resident; its charge pays for what it becomes.
    ///
    /// # Errors
    /// Where there is no room, or nothing is won ([`zswap::Error::Incompressible`]); the page is charged as before, and the slot is empty.
    fn put_away(
        &self,
        slot: Slot,
        purse: &dyn Purse,
        page: &[u8; PAGE_SIZE],
        effort: Effort,
    ) -> Result<Stored, zswap::Error>;
    /// Read a page; the slot keeps it. With `wait` false, not from a device.
    ///
    /// # Errors
    /// As [`Zswap::load_from`].
    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<LoadedFrom, zswap::Error>;
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
    /// In memory, and found not to shrink.
    Stiff,
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
    /// It was taken out, did not shrink, and was put back.
    Stayed,
    /// It could not be read back.
    Unreadable,
}

/// Who keeps statistics, and the coarse time.
pub(crate) trait Observer: Send + Sync {
    /// The coarse time, which goes round.
    fn epoch(&self) -> u8 {
        0
    }
    /// A fault, or a call for one page, was served.
    fn served(&self, _kind: FaultKind, _nanoseconds: u64) {}
    /// Whether a page with this stamp, found so many times in a row not to shrink, is left alone.
    fn rests(&self, _stamp: u8, _stiff: u32) -> bool {
        false
    }
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

impl dyn Purse + '_ {
    /// Charge pages that are in memory, or come in by a call: nobody refuses that.
    pub(crate) fn must_charge(&self, pages: u32, why: Why) {
        debug_assert_ne!(why, Why::Fault);
        let charged = self.charge(pages, why);
        debug_assert!(charged);
    }
}

impl Store for Arc<Zswap> {
    fn put_away(
        &self,
        slot: Slot,
        purse: &dyn Purse,
        page: &[u8; PAGE_SIZE],
        effort: Effort,
    ) -> Result<Stored, zswap::Error> {
        let help = match effort {
            Effort::Unaided => Help::None,
            Effort::Ahead => Help::Device, // the evictor makes room, and comes again
            Effort::Full => Help::All,
        };
        match self.swap_out_to_win(slot, purse.page_charge(), NodeId(0), page, help) {
            Ok(stored) => Ok(stored),
            Err(refused) => {
                refused.resident.forget_as(purse.page_charge()); // charged as before
                Err(refused.error)
            }
        }
    }

    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<LoadedFrom, zswap::Error> {
        self.load_from(slot, page, wait)
    }

    fn give_back(&self, slot: Slot) {
        let _ = self.put(slot); // nothing there, nothing to give
    }

    fn holds(&self, slot: Slot) -> bool {
        self.is_stored(slot)
    }
}
