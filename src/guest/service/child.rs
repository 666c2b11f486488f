//! [`Child`]: a child of fork, and its copies of regions.
//!
//! ```text
//!   Child -- its memory: a descriptor
//!     +----- Copy: addresses, slots of the parent's, a claim for each page       one for each region, and for each part that it moves
//! ```
//!
//! 1. A copy is in the list before any claim in it is made: a store of the parent's that looks for claims on its slot finds it.
//! 2. Its own memory cannot be taken out from here: it is charged, and may pass a limit.
//! 3. It is born in the end. Meanwhile nothing leaves its parent's memory, and nobody reads of what it does to its mappings, for which it may wait; so a
//!    page that can be neither there nor in a slot (the pool is full) for [`PATIENCE`] is lost to it, and that is said.

use super::answers::Answer;
use super::claim::{BUSY, HERE, OUT, POISONED, STATE, Taken, Taking, ZERO, move_word, slot, take, word};
use super::family::Family;
use super::last_words;
use super::list::List;
use super::reader::Parking;
use super::space::{Here, Space, arrive};
use super::wards::Ward;
use crate::guest::pages::ports::{Count, Why};
use crate::guest::pages::{Inherited, Pages, Shared};
use crate::guest::uffd::{Descriptor, Errno};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Arc, Bug, Deadline, Table};
use crate::units::{PAGE_SIZE, SlotRange};
use crate::zswap::{self, Zswap};
use std::ops::Range;
use std::time::Duration;

/// How long a birth waits for room in the pool.
const PATIENCE: Duration = Duration::from_secs(3);

/// One child.
pub(crate) struct Child {
    pub(crate) memory: Whose,
    pub(crate) copies: List<Copy>,
    /// Its words are all there: faults can be served.
    pub(crate) ready: AtomicBool,
    /// Something is out, or cannot be read: see [`Ward`].
    pub(crate) misses: AtomicBool,
    pub(crate) parking: Parking,
    /// Who pays for its pages in memory: its parent's VM.
    pub(crate) payer: Arc<Shared>,
    /// Pages that it is charged for.
    pub(crate) charged: AtomicU64,
}

/// Whose memory is served.
pub(crate) enum Whose {
    /// There is no child yet.
    Nobodys,
    Own(Ward),
    /// This process's: [`relics`](super::relics).
    Ours(Here),
    /// A model's.
    #[allow(dead_code, reason = "for models")]
    Models(Box<dyn Space>),
}

impl Whose {
    /// The descriptor of a process's memory.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        match self {
            Whose::Own(ward) => ward,
            Whose::Ours(here) => &here.descriptor,
            Whose::Nobodys | Whose::Models(_) => unreachable!("nobody reads events of it"),
        }
    }
}

impl std::ops::Deref for Whose {
    type Target = dyn Space;

    fn deref(&self) -> &(dyn Space + 'static) {
        match self {
            Whose::Own(ward) => &**ward,
            Whose::Ours(here) => here,
            Whose::Models(space) => &**space,
            Whose::Nobodys => unreachable!("a child that is in a list was born"),
        }
    }
}

/// A child's copy of a region, or of a part of it.
pub(crate) struct Copy {
    pub(crate) addresses: Range<usize>,
    /// The parent's slots of these pages.
    pub(crate) origin: SlotRange,
    pub(crate) words: Table<AtomicU64>,
}

impl Copy {
    pub(crate) fn pages(&self) -> usize {
        self.addresses.len() / PAGE_SIZE
    }

    pub(crate) fn address(&self, page: usize) -> usize {
        self.addresses.start + page * PAGE_SIZE
    }

    /// Whether it is of this region.
    pub(crate) fn is_of(&self, pages: &Pages) -> bool {
        self.origin == pages.slots() && self.addresses == pages.addresses()
    }

    /// Its pages that have addresses in a range, if any.
    pub(crate) fn pages_in(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let (start, end) = (self.addresses.start.max(range.start), self.addresses.end.min(range.end));
        let page = |address: usize| (address - self.addresses.start) / PAGE_SIZE;
        (start < end).then(|| page(start)..page(end))
    }

    /// So many pages, all zero.
    pub(crate) fn empty(addresses: Range<usize>, origin: SlotRange) -> Copy {
        let pages = addresses.len() / PAGE_SIZE;
        match Table::reserve(pages) {
            Ok(words) => Copy { addresses, origin, words },
            Err(error) => last_words::end(format_args!(
                "there is no address space for the words of a child's {pages} pages ({error}): what is out would read as zero there, so the \
                 process ends; raise `ulimit -v`"
            )),
        }
    }
}

impl Child {
    /// Not a child, but what is served in this process in the same way.
    pub(crate) fn ours(memory: Here, payer: Arc<Shared>) -> Child {
        let child = Child::unborn(payer, 0);
        child.ready.store(true, Ordering::Release);
        Child { memory: Whose::Ours(memory), ..child }
    }

    /// With room for copies of so many regions.
    pub(crate) fn unborn(payer: Arc<Shared>, regions: usize) -> Child {
        Child {
            memory: Whose::Nobodys,
            copies: List::with_capacity(regions + 4),
            ready: AtomicBool::new(false),
            misses: AtomicBool::new(false),
            parking: Parking::new(),
            payer,
            charged: AtomicU64::new(0),
        }
    }

    /// This is its memory.
    pub(crate) fn of(&mut self, memory: Whose) {
        self.memory = memory;
    }

    /// What the kernel does not give it of a region. `until` is the birth's, whatever it inherits.
    pub(crate) fn inherit_all(&self, pages: &Pages, copy: Arc<Copy>, family: &Family, until: &mut Option<Deadline>) {
        self.copies.push(Arc::clone(&copy));
        for page in 0..pages.count() {
            let mut backoff = Backoff::new();
            while !pages.inherit(page, &mut |what| self.inherit_or_lose(&copy, page as usize, what, family, until)) {
                backoff.wait_for_io();
            }
        }
    }

    /// [`inherit`](Self::inherit), until then: the first that cannot be had says when that is.
    fn inherit_or_lose(
        &self,
        copy: &Copy,
        page: usize,
        what: Inherited<'_>,
        family: &Family,
        until: &mut Option<Deadline>,
    ) -> bool {
        if self.inherit(copy, page, what, family) {
            return true;
        }
        if !until.get_or_insert_with(|| Deadline::after(PATIENCE)).passed() {
            return false;
        }
        (self.payer.say_poisoned)(copy.address(page));
        self.payer.observer.count(Count::Unreadable, 1);
        self.inherit(copy, page, Inherited::Poisoned, family)
    }

    /// It has such a page. False: later.
    pub(crate) fn inherit(&self, copy: &Copy, page: usize, what: Inherited<'_>, family: &Family) -> bool {
        let zswap = family.zswap();
        let now = match what {
            Inherited::Poisoned => POISONED,
            Inherited::Bytes(bytes) => return self.give(copy, page, Some(bytes), family),
            Inherited::Slot(slot) => match zswap.dup(slot) {
                Ok(_) => word(OUT, slot),
                Err(zswap::Error::TooManyReferences { .. }) => {
                    let mut bytes = [0; PAGE_SIZE];
                    let read = zswap.load(slot, &mut bytes).is_ok();
                    return self.give(copy, page, read.then_some(&bytes), family);
                }
                // Discarded this moment, by a thread of the parent's: the child has it as it is from now on.
                Err(_) => ZERO,
            },
        };
        if now != ZERO {
            self.lacks(copy, page, now);
        }
        true
    }

    /// A page is not in its memory from the start.
    fn lacks(&self, copy: &Copy, page: usize, word: u64) {
        self.misses.store(true, Ordering::Release);
        copy.words.get(page).store(word, Ordering::Release);
    }

    /// It has what its parent has, who is a child too.
    pub(crate) fn inherit_all_from(&self, parent: &Child, family: &Family, until: &mut Option<Deadline>) {
        for theirs in parent.copies.snapshot() {
            let copy = Arc::new(Copy::empty(theirs.addresses.clone(), theirs.origin));
            self.copies.push(Arc::clone(&copy));
            for page in 0..theirs.pages() {
                let mut backoff = Backoff::new();
                while !self.inherit_from(theirs.words.get(page), &copy, page, family, until) {
                    backoff.wait_for_io();
                }
            }
        }
    }

    /// It has what a word of its parent's says. False: later.
    fn inherit_from(
        &self,
        theirs: &AtomicU64,
        copy: &Copy,
        page: usize,
        family: &Family,
        until: &mut Option<Deadline>,
    ) -> bool {
        let seen = theirs.load(Ordering::Acquire);
        match seen & STATE {
            POISONED => self.inherit(copy, page, Inherited::Poisoned, family),
            OUT if self.payer.planted.is(Bug::HeirSkipsClaim) => {
                self.inherit_or_lose(copy, page, Inherited::Slot(slot(seen)), family, until)
            }
            OUT if matches!(take(theirs, slot(seen)), Taking::Mine) => {
                // Until ours is written: a store that moves theirs apart finds ours as well.
                let _back = Taken { word: theirs, back: seen };
                self.inherit_or_lose(copy, page, Inherited::Slot(slot(seen)), family, until)
            }
            OUT | BUSY => false,
            _ => true,
        }
    }

    /// It has these bytes, or a page that nobody can read. Installed, and charged; while it changes a mapping that cannot be, and nobody reads of
    /// that before it is ready: then it gets a slot for them. False: later.
    fn give(&self, copy: &Copy, page: usize, bytes: Option<&[u8; PAGE_SIZE]>, family: &Family) -> bool {
        let Some(bytes) = bytes else {
            self.lacks(copy, page, POISONED);
            return true;
        };
        if arrive(&*self.memory, copy.address(page), Some(bytes)) {
            // While it is born; and its parent's word is owned.
            self.payer.purse.must_charge(1, Why::Fork);
            self.charged.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        family.store_for(&self.payer, bytes).map(|slot| self.lacks(copy, page, word(OUT, slot))).is_ok()
    }

    pub(crate) fn charge(&self) {
        self.payer.purse.must_charge(1, Why::Child);
        self.charged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn uncharge(&self) {
        self.payer.purse.uncharge(1);
        self.charged.fetch_sub(1, Ordering::Relaxed);
    }

    /// The copy that an address is of, and the page there. Where pages were moved to what others had left, or were registered there anew, several
    /// copies have it, and all but one of them say zero there.
    pub(crate) fn find(&self, address: usize) -> Option<(Arc<Copy>, usize)> {
        let has = |copy: &Copy| copy.addresses.contains(&address);
        let page = |copy: &Copy| (address - copy.addresses.start) / PAGE_SIZE;
        let is_there = |copy: &Copy| has(copy) && copy.words.get(page(copy)).load(Ordering::Acquire) & STATE != ZERO;
        let copy = self.copies.find(is_there).or_else(|| self.copies.find(has))?;
        let page = page(&copy);
        Some((copy, page))
    }

    /// Whether the process is there.
    pub(crate) fn lives(&self) -> bool {
        self.memory.is_there()
    }

    /// Its words are all there.
    pub(crate) fn is_born(&self) {
        self.release_if_complete();
        self.ready.store(true, Ordering::Release);
    }

    /// It is born, or has been given all there is, or has ended: where it misses nothing, zeroes are what the kernel is to give it when nobody
    /// serves it any more.
    pub(crate) fn release_if_complete(&self) {
        if let (false, Whose::Own(ward)) = (self.misses.load(Ordering::Acquire), &self.memory) {
            ward.release();
        }
    }

    /// Serve a fault. `None`: again later.
    pub(crate) fn fill(&self, copy: &Copy, page: usize, zswap: &Zswap) -> Option<Answer> {
        let theirs = copy.words.get(page);
        let address = copy.address(page);
        let seen = theirs.load(Ordering::Acquire);
        match seen & STATE {
            POISONED => return arrive(&*self.memory, address, None).then_some(Answer::Poisoned),
            BUSY => return None, // a store of the parent's moves it, in a moment
            _ => {}
        }
        // Before the word is ours: this may take pages of the parent out, and move what children have of them.
        let charged = seen & STATE != HERE;
        if charged {
            self.charge();
        }
        let stopped = if seen & STATE == OUT {
            match take(theirs, slot(seen)) {
                Taking::Mine => {}
                _ if self.payer.planted.is(Bug::FillSkipsClaim) => {}
                _ => {
                    self.uncharge();
                    return None;
                }
            }
            let busy = Taken { word: theirs, back: seen };
            let mut bytes = [0; PAGE_SIZE];
            if zswap.load(slot(seen), &mut bytes).is_err() {
                self.uncharge();
                (self.payer.say_poisoned)(address);
                self.payer.observer.count(Count::Unreadable, 1);
                let _ = arrive(&*self.memory, address, None);
                let _ = zswap.put(slot(seen));
                busy.end(POISONED);
                return Some(Answer::Poisoned);
            }
            let stopped = self.memory.put(address, &bytes).err();
            if matches!(stopped, None | Some(Errno::EXISTS)) {
                let _ = zswap.put(slot(seen));
                busy.end(HERE);
            }
            stopped
        } else {
            let stopped = self.memory.put_zeroes(address).err();
            // There: somebody was faster, or the kernel shares it.
            if stopped.is_none() {
                theirs.store(HERE, Ordering::Release);
            }
            stopped
        };
        match stopped {
            None => Some(Answer::Served),
            Some(errno) => {
                // A page that is there without our doing is the kernel's to account for.
                if charged && (seen & STATE != OUT || errno != Errno::EXISTS) {
                    self.uncharge();
                }
                match errno {
                    Errno::AGAIN | Errno::NO_MEMORY => None,
                    _ => {
                        self.memory.wake_page(address);
                        Some(Answer::Served)
                    }
                }
            }
        }
    }

    /// The pages of a range read as zeroes from here on: their references and charges go.
    pub(crate) fn forget(&self, copy: &Copy, pages: Range<usize>, zswap: &Zswap) {
        for page in pages {
            let theirs = copy.words.get(page);
            let mut backoff = Backoff::new();
            loop {
                let seen = theirs.load(Ordering::Acquire);
                match seen & STATE {
                    OUT if matches!(take(theirs, slot(seen)), Taking::Mine) => {
                        let _ = zswap.put(slot(seen)); // ours, so it is there
                        theirs.store(ZERO, Ordering::Release);
                        break;
                    }
                    OUT | BUSY => backoff.wait_for_io(),
                    ZERO => break,
                    state if theirs.compare_exchange(seen, ZERO, Ordering::AcqRel, Ordering::Relaxed).is_ok() => {
                        if state == HERE && self.charged.load(Ordering::Relaxed) > 0 {
                            self.uncharge();
                        }
                        break;
                    }
                    _ => {}
                }
            }
        }
    }

    /// Its pages have other addresses.
    pub(crate) fn move_pages(&self, from: Range<usize>, to: usize, family: &Family) {
        for copy in self.copies.snapshot() {
            let (start, end) = (copy.addresses.start.max(from.start), copy.addresses.end.min(from.end));
            if start >= end {
                continue;
            }
            let (first, pages) = ((start - copy.addresses.start) / PAGE_SIZE, (end - start) / PAGE_SIZE);
            let there = to + (start - from.start);
            let origin = SlotRange::new(copy.origin.base() + first as u64, pages as u64);
            let moved = Arc::new(Copy::empty(there..there + (end - start), origin));
            family.note_list();
            self.copies.push(Arc::clone(&moved));
            for page in 0..pages {
                move_word(copy.words.get(first + page), moved.words.get(page), self.payer.planted);
            }
        }
        self.drop_copies(&from, family);
    }

    /// Copies that lie in a range of which nothing is there any more say zero everywhere, and go.
    pub(crate) fn drop_copies(&self, range: &Range<usize>, family: &Family) {
        let goes = |copy: &Copy| range.start <= copy.addresses.start && copy.addresses.end <= range.end;
        if self.copies.any(goes) {
            self.copies.retain(|copy| !goes(copy), || family.note_list());
        }
    }

    /// The pages of an address range read as zeroes from here on.
    pub(crate) fn forget_range(&self, range: &Range<usize>, zswap: &Zswap) {
        for copy in self.copies.snapshot() {
            if let Some(pages) = copy.pages_in(range) {
                self.forget(&copy, pages, zswap);
            }
        }
    }

    /// What is out of a range is in memory from here on. False: some are out still.
    pub(crate) fn put_in_place(&self, range: &Range<usize>, zswap: &Zswap) -> bool {
        self.copies.snapshot().iter().all(|copy| {
            let mut pages = copy.pages_in(range).unwrap_or_default();
            pages.all(|page| self.put_page_in_place(copy, page, zswap))
        })
    }

    fn put_page_in_place(&self, copy: &Copy, page: usize, zswap: &Zswap) -> bool {
        let (theirs, address) = (copy.words.get(page), copy.address(page));
        let seen = theirs.load(Ordering::Acquire);
        match seen & STATE {
            OUT => {}
            BUSY => return false,
            _ => return true,
        }
        // As in `fill`: before the word is ours.
        self.charge();
        let Taking::Mine = take(theirs, slot(seen)) else {
            self.uncharge();
            return false;
        };
        let busy = Taken { word: theirs, back: seen };
        let mut bytes = [0; PAGE_SIZE];
        let installed = zswap.load(slot(seen), &mut bytes).is_ok()
            && matches!(self.memory.put(address, &bytes), Ok(()) | Err(Errno::EXISTS));
        if installed {
            let _ = zswap.put(slot(seen)); // before the word says so: invariant 1
            busy.end(HERE);
        } else {
            self.uncharge();
        }
        installed
    }

    /// Bring in what is out, and poison what cannot be read, as far as that goes now. Whether it misses nothing any more.
    pub(crate) fn bring_in(&self, zswap: &Zswap) -> bool {
        let is_out = |word: u64| matches!(word & STATE, OUT | BUSY | POISONED);
        let mut all = true;
        for copy in self.copies.snapshot() {
            for page in 0..copy.pages() {
                all &= !is_out(copy.words.get(page).load(Ordering::Acquire)) || self.fill(&copy, page, zswap).is_some();
            }
        }
        if all {
            self.misses.store(false, Ordering::Release);
            self.release_if_complete();
        }
        all
    }
}
