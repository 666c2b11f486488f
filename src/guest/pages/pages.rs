//! [`Pages`]: the pages of one region, and what all pages of a VM share.

use super::around::Streak;
use super::bounces::Bounces;
use super::departed::Departed;
use super::kept::Kept;
use super::left::Traces;
use super::out::Busy;
use super::outcomes::Compressed;
use super::owned::TOGETHER;
use super::ports::{Effort, Observer, Purse, Store};
use super::regions::Regions;
use super::used::Used;
use super::word::Word;
use crate::guest::memory::backing::Backing;
use crate::guest::{Error, FaultAround, FaultKind};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Moment, Mutex, Planted, Rank, Seat, Seated, Table};
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

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a fault that was not served has to be served again"]
pub(crate) enum Served {
    /// The page is there; who waited for it in the kernel is woken.
    Installed(FaultKind),
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

/// What all pages of a VM share.
pub(crate) struct Shared {
    pub(crate) store: Box<dyn Store>,
    pub(crate) purse: Box<dyn Purse>,
    pub(crate) observer: Box<dyn Observer>,
    pub(crate) regions: Regions,
    pub(crate) kept: Kept,
    pub(crate) around: FaultAround,
    pub(crate) bounces: Bounces,
    /// Told of each page that cannot be had, by its address, before it is poisoned.
    pub(crate) say_poisoned: fn(usize),
    pub(crate) planted: Planted,
}

impl Shared {
    /// The same, which tells of pages that cannot be had.
    pub(crate) fn saying(self, say_poisoned: fn(usize)) -> Self {
        Shared { say_poisoned, ..self }
    }

    /// What is needed from others, and how it is to be used.
    pub(crate) fn new(
        store: Box<dyn Store>,
        purse: Box<dyn Purse>,
        observer: Box<dyn Observer>,
        kept_bytes: u64,
        around: FaultAround,
        planted: Planted,
    ) -> Result<Self, Error> {
        Ok(Shared {
            store,
            purse,
            observer,
            regions: Regions::new(),
            kept: Kept::new(kept_bytes),
            around,
            bounces: Bounces::new(around)?,
            say_poisoned: |_| (),
            planted,
        })
    }

    /// A moment, for [`served`](Self::served).
    #[inline]
    pub(super) fn now(&self) -> Moment {
        Moment::now()
    }

    /// A page was brought in, or found, for who has waited since then.
    #[inline]
    pub(super) fn served(&self, kind: FaultKind, since: Moment) {
        self.observer.served(kind, since.nanoseconds());
    }

    /// Compress up to so many staged pages, longest staged first. Not in a fault.
    pub(crate) fn compress_staged(&self, most: u32) -> Compressed {
        self.compress_staged_with(most, Effort::Ahead)
    }

    /// The same, wherever.
    pub(crate) fn compress_staged_with(&self, most: u32, effort: Effort) -> Compressed {
        let mut done = Compressed::default();
        let mut left = most;
        while left > 0 {
            let Some((pages, first, len)) = self.regions.pop(left.min(TOGETHER)) else { break };
            let of_run = pages.compress_run(first, len, effort);
            left -= len;
            done += of_run;
            if of_run.refused > 0 {
                break;
            }
        }
        done
    }
}

/// The pages of one region.
pub(crate) struct Pages {
    id: u32,
    words: Table<Word>,
    address: usize,
    slots: SlotRange,
    backing: Box<dyn Backing>,
    shared: Arc<Shared>,
    /// Who takes pages out comes through here; closed until the kernel knows the region, while it is being unregistered, or a fork is under way of
    /// which nobody tells.
    exit: Seat<()>,
    /// How many have it closed.
    closers: Mutex<u32>,
    /// Children of fork have a copy.
    inherited: bool,
    /// How often a page of it could not be had.
    lost: AtomicU64,
    /// Pages that could not leave, as the kernel called them busy.
    pub(super) busy: Busy,
    /// What left while it was looked at first.
    pub(super) departed: Departed,
    /// Where pages were in memory.
    pub(super) used: Used,
    pub(super) streak: Streak,
    pub(super) traces: Traces,
}

impl Pages {
    /// The pages of the memory behind `backing`, all Absent. They are closed until they are [registered](Self::register).
    ///
    /// # Errors
    /// When there is no address space for their words.
    pub(crate) fn new(
        shared: Arc<Shared>,
        backing: Box<dyn Backing>,
        slots: SlotRange,
        address: usize,
    ) -> Result<Self, Error> {
        let words = Table::reserve(slots.len() as usize).map_err(|source| Error::AddressSpace {
            bytes: 4 * slots.len(),
            what: "the words of its pages",
            source,
        })?;
        let exit = Seat::new(shared.planted);
        let id = shared.regions.next_id();
        Ok(Pages {
            id,
            words,
            address,
            slots,
            backing,
            shared,
            exit,
            closers: Mutex::new(Rank::Leaf, 1),
            inherited: false,
            lost: AtomicU64::new(0),
            busy: Busy::default(),
            departed: Departed::new(),
            used: Used::new(slots.len() as u32),
            streak: Streak::default(),
            traces: Traces::default(),
        })
    }

    /// No other region of the VM has, or will have, this number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// How many.
    pub(crate) fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The addresses they have.
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.address..self.address + self.count() as usize * PAGE_SIZE
    }

    /// The address of a page.
    pub(crate) fn address(&self, page: u32) -> usize {
        self.address + page as usize * PAGE_SIZE
    }

    /// The word of a page.
    #[inline]
    pub(crate) fn word(&self, page: u32) -> &Word {
        self.words.get(page as usize)
    }

    /// The slot of a page.
    #[inline]
    pub(crate) fn slot(&self, page: u32) -> Slot {
        self.slots.base() + u64::from(page)
    }

    /// All slots.
    pub(crate) fn slots(&self) -> SlotRange {
        self.slots
    }

    #[inline]
    pub(crate) fn backing(&self) -> &dyn Backing {
        &*self.backing
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Come through to take pages out; `None` while it is closed.
    pub(super) fn enter(&self) -> Option<Seated<'_, ()>> {
        self.exit.get()
    }

    /// Nobody takes pages out from here on; who does is waited for.
    pub(crate) fn close(&self) {
        let mut closers = self.closers.lock();
        *closers += 1;
        if *closers == 1 {
            let _ = self.exit.take();
        }
    }

    /// Pages may be taken out, when all who closed it say so.
    pub(crate) fn reopen(&self) {
        let mut closers = self.closers.lock();
        *closers -= 1;
        if *closers == 0 {
            let _ = self.exit.put(());
        }
    }

    /// A page could not be had. How often that was before.
    pub(crate) fn note_lost(&self) -> u64 {
        self.lost.fetch_add(1, Ordering::Relaxed)
    }

    /// How often a page could not be had.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Children of fork have a copy of them, or not.
    pub(crate) fn inherited_by_children(mut self, yes: bool) -> Self {
        self.inherited = yes;
        self
    }

    /// Whether they have.
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }
}
