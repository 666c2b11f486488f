//! [`Pages`]: the pages of one region, and what all pages of a VM share.

use super::ports::{Observer, Purse, Store};
use super::word::Word;
use crate::guest::Error;
use crate::guest::memory::backing::Backing;
use crate::sync::{Arc, Planted, Seat, Table};
use crate::units::{PAGE_SIZE, Slot, SlotRange};
use std::ops::Range;

/// What was being done when a page was missed, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It was read.
    Read,
    /// It was written.
    Write,
    /// It was written, and is write-protected.
    Protect,
    /// It is in its file, and not mapped.
    Minor,
    /// Not known.
    Unknown,
}

/// What to do about a page that somebody else is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Sleep until he is through: the faulting thread itself, and calls.
    Wait,
    /// Nothing: he will wake who waits in the kernel. For threads that serve others.
    Leave,
}

/// What a fault was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It was staged, or just being compressed.
    Staged,
    /// It was compressed.
    Compressed,
    /// It was on a device.
    Device,
    /// It was one repeated word.
    SameFilled,
    /// It was nowhere.
    Absent,
    /// It was there, and written for the first time.
    Protected,
    /// It was there already.
    Stale,
    /// It was there by its word, and gone behind our back: it is zeroes now.
    Vanished,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a fault that was not served has to be served again"]
pub(crate) enum Served {
    /// The page is there; who waited for it in the kernel is woken.
    Installed(Kind),
    /// The owner of the page wakes who waits for it.
    Left,
    /// The address space is changing: read events, then try again.
    Again,
    /// The page cannot be had: SIGBUS.
    Poisoned,
    /// The range is not registered with the kernel any more.
    Gone,
    /// The kernel refused with this error number; the page is where it was.
    Failed(i32),
}

/// What [`Pages::stage`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Staging {
    /// Pages taken out, that will be compressed.
    pub(crate) staged: u32,
    /// Pages that were not there although their words said so: uncharged.
    pub(crate) vanished: u32,
    /// Pages that the kernel would not move.
    pub(crate) busy: u32,
    /// Stopped because the address space was changing, or is gone, or the queue of staged runs is full.
    pub(crate) stopped: bool,
}

/// What compressing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compressed {
    /// Pages that are in their slots now.
    pub(crate) pages: u32,
    /// Bytes by which less is charged now.
    pub(crate) won: u64,
    /// Staged pages that were wanted again before, or while, they were compressed.
    pub(crate) back: u32,
    /// Pages that the store refused: staged still.
    pub(crate) refused: u32,
}

/// What all pages of a VM share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) purse: Arc<dyn Purse>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) planted: Planted,
}

/// The pages of one region.
pub(crate) struct Pages {
    words: Table<Word>,
    count: u32,
    address: usize,
    slots: SlotRange,
    backing: Box<dyn Backing>,
    shared: Arc<Shared>,
    /// Who takes pages out comes through here; closed while the region is being unregistered.
    gate: Seat<()>,
}

impl Pages {
    /// The pages of the memory behind `backing`, all Absent.
    ///
    /// # Errors
    /// When there is no address space for their words.
    pub(crate) fn new(
        shared: Arc<Shared>,
        backing: Box<dyn Backing>,
        slots: SlotRange,
        address: usize,
    ) -> Result<Self, Error> {
        let count = slots.len() as u32;
        let words = Table::reserve(count as usize).map_err(|source| Error::AddressSpace {
            bytes: 4 * u64::from(count),
            what: "the words of its pages",
            source,
        })?;
        let gate = Seat::new(shared.planted);
        gate.put(()).expect("it is new");
        Ok(Pages { words, count, address, slots, backing, shared, gate })
    }

    /// How many.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The addresses they have.
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.address..self.address + self.count as usize * PAGE_SIZE
    }

    /// The word of a page.
    #[inline]
    pub(crate) fn word(&self, page: u32) -> &Word {
        self.words.get(page as usize)
    }

    /// The slot of a page.
    pub(crate) fn slot(&self, page: u32) -> Slot {
        self.slots.base() + u64::from(page)
    }

    /// Serve a fault of a page.
    pub(crate) fn fault(&self, _page: u32, _access: Access, _waiting: Waiting) -> Served {
        todo!()
    }

    /// Take up to 64 consecutive pages out, those that may leave; with `banned`, also those that are to be left alone.
    pub(crate) fn stage(self: &Arc<Self>, _first: u32, _pages: u32, _banned: bool) -> Staging {
        todo!()
    }
}
