//! [`Children`]: children of fork whose memory is served by their parent's process.
//!
//! ```text
//!   fork: the kernel shares what is in memory, and tells the descriptor of the child's copy; its thread waits until that was read
//!
//!   parent   region: page k in slot base+k, staged, or in memory
//!               |  what is out:  a reference more to the slot; staged bytes are copied
//!               v
//!   child    word k:  0  zeroes, or the kernel's business  |  slot n  |  here, charged  |  poisoned
//!                                                              ^
//!   parent stores into base+k again: the slot is the child's -+- its content moves to a slot of its own first
//! ```
//!
//! | state | slot | then a fault of the child |
//! |---|---|---|
//! | Zero | | zeroes, and a charge |
//! | Out | holds the page, and a reference of ours | load, COPY, the reference goes |
//! | Busy | the same: somebody is at it | again, in a moment |
//! | Here | | dropped by the child meanwhile: zeroes |
//! | Poisoned | | poisoned again |
//!
//! 1. A word is changed by compare-exchange; who makes it Busy alone reads the slot, and ends Busy. Two do: the thread that serves children,
//!    and a store of the parent's, which waits for the other and never the other way round.
//!    A reference is given back while the word is Busy: who finds it Elsewhere knows that the slot is not the child's any more.
//! 2. The child's own memory cannot be taken out from here: it is charged, and may pass a limit.
//! 3. While a child is born, the gate is closed: no page comes in or leaves between the fork and the copy of its words.
//! 4. A descriptor is closed only when its child has ended or has everything in memory: what is missing then would read as zero.

use super::gate::Closed;
use super::list::List;
use super::reader::{Idle, Parking, Reader};
use super::running::VmDesk;
use super::watchdog::Watch;
use super::{Answer, Change, Desk, Gate, changes, fork, last_words, signals};
use crate::guest::Error;
use crate::guest::pages::ports::{Effort, Purse, Store, Why};
use crate::guest::pages::{Inherited, Pages, Shared};
use crate::guest::registry;
use crate::guest::uffd::{Descriptor, Errno, Fault, Mode};
use crate::memcg::Memcg;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{Backoff, JoinHandle};
use crate::sync::{Arc, Mutex, Rank, Table, thread};
use crate::units::{NodeId, PAGE_SIZE, Slot, SlotRange};
use crate::zswap::{self, LoadedFrom, Stored, Zswap};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How often it is looked whether children have ended: nobody tells.
const LOOKS: Duration = Duration::from_millis(100);

/// The children of a VM, and the thread that serves them.
pub(crate) struct Children {
    family: Arc<Family>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What children share.
pub(crate) struct Family {
    zswap: Arc<Zswap>,
    /// Who pays for the slots that become theirs.
    memcg: Memcg,
    living: List<Child>,
    /// What `mremap` moved out of regions: served like a child's copy, in this process.
    relics: Mutex<Option<Arc<Child>>>,
    /// How many: mostly none, and that is one load for each store.
    count: AtomicUsize,
    /// Goes up before words come to be in another list, and with each list that becomes shorter: who went through them looks again.
    lists: AtomicU64,
    stop: AtomicBool,
    /// How often it was asked to have children miss nothing, and how often that was done.
    asked: AtomicU64,
    done: AtomicU64,
    /// Readable: a child was born, or the thread is to stop.
    news: OwnedFd,
}

/// One child.
struct Child {
    descriptor: Arc<Descriptor>,
    copies: List<Copy>,
    /// Its words are all there: faults can be served.
    ready: AtomicBool,
    parking: Parking,
    /// Who pays for its pages in memory: its parent's VM.
    payer: Arc<Shared>,
    /// Pages that it is charged for.
    charged: AtomicU64,
}

/// A child's copy of a region, or of a part of it.
struct Copy {
    addresses: Range<usize>,
    /// The parent's slots of these pages.
    origin: SlotRange,
    words: Table<AtomicU64>,
}

/// The desk of a child.
struct ChildDesk {
    child: Arc<Child>,
    family: Arc<Family>,
}

const STATE: u64 = 7;
const ZERO: u64 = 0;
const OUT: u64 = 1;
const BUSY: u64 = 2;
const HERE: u64 = 3;
const POISONED: u64 = 4;
const SLOT_SHIFT: u32 = 3;

/// A word that names a slot.
fn word(state: u64, slot: Slot) -> u64 {
    debug_assert!(slot.0 < 1 << (64 - SLOT_SHIFT));
    slot.0 << SLOT_SHIFT | state
}

/// The slot that a word names.
fn slot(word: u64) -> Slot {
    Slot(word >> SLOT_SHIFT)
}

// === impl Children ===

impl Children {
    /// None yet.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub(crate) fn new(zswap: Arc<Zswap>, memcg: Memcg) -> io::Result<Self> {
        // SAFETY: takes numbers, and returns a new descriptor.
        let news = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if news < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: new, and nobody else's.
        let news = unsafe { OwnedFd::from_raw_fd(news) };
        let family = Family {
            zswap,
            memcg,
            living: List::new(),
            relics: Mutex::new(Rank::Guest, None),
            count: AtomicUsize::new(0),
            lists: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            news,
        };
        Ok(Children { family: Arc::new(family), thread: Mutex::new(Rank::Guest, None) })
    }

    /// What a store needs to know of them.
    pub(crate) fn family(&self) -> &Arc<Family> {
        &self.family
    }

    /// A child has copies of these regions. The gate is closed meanwhile.
    pub(super) fn born(&self, descriptor: Descriptor, regions: &[Arc<Pages>]) {
        let Some(payer) = regions.first().map(|pages| Arc::clone(pages.shared())) else { return };
        let child = self.family.adopt(descriptor, payer);
        for pages in regions {
            child.inherit_all(pages, &self.family.zswap);
        }
        child.ready.store(true, Ordering::Release);
        self.family.ring();
    }

    /// Start the thread that serves them, and that follows changes of mappings which are not for readers.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(&self, desk: &Arc<VmDesk>) -> Result<(), Error> {
        let (family, desk) = (Arc::clone(&self.family), Arc::clone(desk));
        let started = signals::blocked(|| thread::spawn("zspool-changes", move || Family::serve(&family, &desk)));
        let started = started
            .map_err(|source| Error::Service { doing: "start the thread that follows changes of mappings", source })?;
        *self.thread.lock() = Some(started);
        Ok(())
    }

    /// Return when none of the children that were born before misses what is here: this process is about to end.
    pub(super) fn settle(&self) {
        if self.family.living() == 0 || fork::in_child() || self.thread.lock().is_none() {
            return;
        }
        let mine = self.family.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.family.ring();
        let mut backoff = Backoff::new();
        while self.family.done.load(Ordering::Acquire) < mine && !self.family.stop.load(Ordering::Acquire) {
            backoff.wait_for_io();
        }
    }

    /// Have it end, when none of the children misses what is here. Nothing is read any more.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().take();
        if fork::in_child() {
            return std::mem::forget(thread); // it is the parent's
        }
        if let Some(thread) = thread {
            self.family.stop.store(true, Ordering::Release);
            self.family.ring();
            let _ = thread.join(); // it catches what panics
        }
        if let Some(relics) = self.family.relics() {
            let mut backoff = Backoff::new();
            while !relics.bring_in(&self.family.zswap) && relics.lives() {
                backoff.wait_for_io();
            }
            relics.forget_range(&(0..usize::MAX), &self.family.zswap);
        }
    }
}

// === impl Family ===

impl Family {
    /// A child, which is found by stores from here on, and not served before it is ready.
    fn adopt(&self, descriptor: Descriptor, payer: Arc<Shared>) -> Arc<Child> {
        let child = Arc::new(Child::new(Arc::new(descriptor), payer));
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.living.push(Arc::clone(&child));
        self.count.fetch_add(1, Ordering::Release);
        child
    }

    /// Whether `mremap` has moved anything.
    pub(super) fn has_relics(&self) -> bool {
        self.relics.lock().is_some()
    }

    fn relics(&self) -> Option<Arc<Child>> {
        self.relics.lock().clone()
    }

    /// The pages of a region have other addresses: they are served there from here on.
    pub(super) fn take_relics(&self, descriptor: &Arc<Descriptor>, pages: &Pages, there: Range<u32>, to: usize) {
        let relics = self.relics().unwrap_or_else(|| {
            let relics = Child::new(Arc::clone(descriptor), Arc::clone(pages.shared()));
            relics.ready.store(true, Ordering::Release);
            let relics = Arc::new(relics);
            Arc::clone(self.relics.lock().get_or_insert(relics))
        });
        let origin = SlotRange::new(pages.slot(there.start), there.len() as u64);
        let copy = Arc::new(Copy::empty(to..to + there.len() * PAGE_SIZE, origin));
        self.lists.fetch_add(1, Ordering::SeqCst);
        relics.copies.push(Arc::clone(&copy));
        for (n, page) in there.enumerate() {
            let mut backoff = Backoff::new();
            while !pages.inherit(page, &mut |what| self.keep_relic(&relics, &copy, n, what)) {
                backoff.wait_for_io();
            }
            while pages.removed(page..page + 1).is_some() {
                backoff.wait_for_io();
            }
        }
    }

    /// Bytes cannot be installed there now, for the mapping is changing: they are stored. False: later.
    fn keep_relic(&self, relics: &Child, copy: &Copy, page: usize, what: Inherited<'_>) -> bool {
        let Inherited::Bytes(bytes) = what else { return relics.inherit(copy, page, what, &self.zswap) };
        match self.zswap.store_new(&self.memcg, NodeId(0), bytes) {
            Ok(slot) => {
                copy.words.get(page).store(word(OUT, slot), Ordering::Release);
                true
            }
            Err(error) => last_words::end(format_args!(
                "there is no room to store a page that was about to be, and that mremap has moved to {:#x} ({error}): it would read as zero there, \
                 so the process ends; have a larger pool limit, or a swap device",
                copy.address(page)
            )),
        }
    }

    /// Serve a fault of what was moved, if that is there. `None` where it is not.
    pub(super) fn answer_relic(&self, address: usize) -> Option<Answer> {
        let relics = self.relics()?;
        let (copy, page) = relics.find(address)?;
        Some(relics.fill(&copy, page, &self.zswap).unwrap_or(Answer::Again))
    }

    /// The same, of a page that its region takes for nowhere: the region was registered before we were told what has moved there.
    pub(super) fn answer_relic_that_is_out(&self, address: usize) -> Option<Answer> {
        let relics = self.relics()?;
        let (copy, page) = relics.find(address)?;
        let out = matches!(copy.words.get(page).load(Ordering::Acquire) & STATE, OUT | POISONED | BUSY);
        out.then(|| relics.fill(&copy, page, &self.zswap).unwrap_or(Answer::Again))
    }

    /// Mappings changed where such pages are.
    pub(super) fn forget_relics(&self, range: &Range<usize>) {
        if let Some(relics) = self.relics() {
            relics.forget_range(range, &self.zswap);
        }
    }

    /// As [`forget_relics`](Self::forget_relics), for a second move.
    pub(super) fn move_relics(&self, from: Range<usize>, to: usize) {
        if let Some(relics) = self.relics() {
            relics.move_pages(from, to, self);
        }
    }

    /// A range is to be registered: what is out of it is in memory from here on, and nobody's. False: its mapping is changing, and
    /// something is out still.
    pub(super) fn settle_relics(&self, range: &Range<usize>, gate: Option<&Gate>) -> bool {
        let Some(relics) = self.relics() else { return true };
        if !relics.put_in_place(range, gate, &self.zswap) {
            return false;
        }
        relics.forget_range(range, &self.zswap);
        let elsewhere = |copy: &Arc<Copy>| copy.addresses.start < range.start || copy.addresses.end > range.end;
        relics.copies.retain(elsewhere, || _ = self.lists.fetch_add(1, Ordering::SeqCst));
        true
    }

    pub(super) fn ring(&self) {
        let one = 1u64;
        // SAFETY: the descriptor is ours, and so are the bytes. A counter that is full is readable too.
        unsafe { libc::write(self.news.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// How many children live.
    pub(crate) fn living(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// A slot is about to be stored into anew: children that have what is there get slots of their own for it. In a fault (not `helped`),
    /// where that would allocate, the store is refused instead, and the evictor does it. Nothing is allocated to find out.
    ///
    /// # Errors
    /// When the store has no room for them, or [`Unprepared`](zswap::Error::Unprepared) in a fault; the slot is as it was.
    pub(crate) fn move_apart(&self, contested: Slot, helped: bool) -> Result<(), zswap::Error> {
        if (self.living() == 0 && !self.has_relics()) || !self.zswap.is_stored(contested) {
            return Ok(());
        }
        loop {
            // What comes to a list, or leaves it, meanwhile shifts the others, and changes this: then once more.
            let lists = self.lists.load(Ordering::SeqCst);
            let mut number = 0;
            while let Some(child) = self.living.nth(number) {
                self.move_theirs_apart(&child, contested, helped)?;
                number += 1;
            }
            if let Some(relics) = self.relics() {
                self.move_theirs_apart(&relics, contested, helped)?;
            }
            // One that was born, or moved, meanwhile may have taken a reference before its parent's word was moved apart.
            if !self.zswap.is_stored(contested) || self.lists.load(Ordering::SeqCst) == lists {
                return Ok(());
            }
        }
    }

    /// In order: a word that is in another list by now is in a later one, and was Busy until it was there.
    fn move_theirs_apart(&self, child: &Child, contested: Slot, helped: bool) -> Result<(), zswap::Error> {
        let mut number = 0;
        while let Some(copy) = child.copies.nth(number) {
            if copy.origin.contains(contested) {
                let page = (contested.0 - copy.origin.base().0) as usize;
                self.move_one_apart(copy.words.get(page), contested, helped)?;
            }
            number += 1;
        }
        Ok(())
    }

    fn move_one_apart(&self, theirs: &AtomicU64, contested: Slot, helped: bool) -> Result<(), zswap::Error> {
        let mut backoff = Backoff::new();
        loop {
            let seen = theirs.load(Ordering::Acquire);
            if !helped && matches!(seen & STATE, OUT | BUSY) && slot(seen) == contested {
                return Err(zswap::Error::Unprepared { slot: contested });
            }
            match take(theirs, contested) {
                Taking::Elsewhere => return Ok(()),
                // The thread that serves children reads it, and waits for nobody meanwhile.
                Taking::Busy => backoff.wait_for_io(),
                Taking::Mine => break,
            }
        }
        let busy = Taken { word: theirs, back: word(OUT, contested) };
        let mut bytes = [0; PAGE_SIZE];
        let now = match self.zswap.load(contested, &mut bytes) {
            Ok(()) => word(OUT, self.zswap.store_new(&self.memcg, NodeId(0), &bytes)?),
            Err(_) => POISONED,
        };
        let _ = self.zswap.put(contested); // ours, so it is there
        busy.end(now);
        Ok(())
    }

    /// Serve children until it is to stop; then see to it that none of them misses what is here.
    fn serve(this: &Arc<Self>, desk: &VmDesk) {
        let mut readers: Vec<(Arc<ChildDesk>, Reader)> = Vec::new();
        let mut looked = Instant::now();
        while !this.stop.load(Ordering::Acquire) {
            let asked = this.asked.load(Ordering::SeqCst);
            desk.follow_matters();
            this.meet(&mut readers);
            if asked > this.done.load(Ordering::Relaxed) {
                readers.iter_mut().for_each(|(desk, reader)| desk.bring_all_in(reader));
                this.done.store(asked, Ordering::Release);
            }
            this.wait(&readers);
            for (desk, reader) in &mut readers {
                desk.serve(reader);
            }
            if looked.elapsed() >= LOOKS {
                looked = Instant::now();
                readers.retain(|(desk, _)| desk.child.lives() || this.bury(&desk.child));
            }
        }
        desk.follow_matters();
        this.meet(&mut readers);
        for (desk, reader) in &mut readers {
            desk.bring_all_in(reader);
            this.bury(&desk.child);
        }
    }

    /// Have a reader for each child.
    fn meet(self: &Arc<Self>, readers: &mut Vec<(Arc<ChildDesk>, Reader)>) {
        for child in self.living.snapshot() {
            if !readers.iter().any(|(desk, _)| Arc::ptr_eq(&desk.child, &child)) {
                let desk = ChildDesk { child, family: Arc::clone(self) };
                readers.push((Arc::new(desk), Reader::new(1, Arc::new(Watch::default()))));
            }
        }
    }

    /// Wait until a child has something to be served, or for a look at whether they live.
    fn wait(&self, readers: &[(Arc<ChildDesk>, Reader)]) {
        let fd = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = vec![fd(self.news.as_raw_fd())];
        fds.extend(readers.iter().map(|(desk, _)| fd(desk.child.descriptor.as_raw_fd())));
        let at_most = if readers.is_empty() { -1 } else { LOOKS.as_millis() as i32 };
        // SAFETY: as many descriptors as are said.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, at_most) };
        let mut count = 0u64;
        // SAFETY: the descriptor is ours, and so are the bytes.
        unsafe { libc::read(self.news.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    /// The child has ended: its references and charges go. Always false.
    fn bury(&self, child: &Arc<Child>) -> bool {
        for copy in child.copies.snapshot() {
            child.forget(&copy, 0..copy.pages(), &self.zswap);
        }
        // Only now: stores look for references to their slots among the living.
        let others = |other: &Arc<Child>| !Arc::ptr_eq(other, child);
        self.living.retain(others, || _ = self.lists.fetch_add(1, Ordering::SeqCst));
        self.count.fetch_sub(1, Ordering::Release);
        child.payer.purse.uncharge(child.charged.swap(0, Ordering::Relaxed) as u32);
        // What the two shared is the parent's own again, and may leave: the kernel finds out with the next write. That is the evictor's, for it
        // may fault, and who serves the fault may wait for this thread to follow a change first.
        for pages in registry::overlapping(&(0..usize::MAX)) {
            if Arc::ptr_eq(pages.shared(), &child.payer) {
                pages.may_be_unshared();
            }
        }
        false
    }
}

// === impl Child ===

impl Copy {
    fn pages(&self) -> usize {
        self.addresses.len() / PAGE_SIZE
    }

    fn address(&self, page: usize) -> usize {
        self.addresses.start + page * PAGE_SIZE
    }

    /// Its pages that have addresses in a range, if any.
    fn pages_in(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let (start, end) = (self.addresses.start.max(range.start), self.addresses.end.min(range.end));
        let page = |address: usize| (address - self.addresses.start) / PAGE_SIZE;
        (start < end).then(|| page(start)..page(end))
    }

    /// So many pages, all zero.
    fn empty(addresses: Range<usize>, origin: SlotRange) -> Copy {
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
    fn new(descriptor: Arc<Descriptor>, payer: Arc<Shared>) -> Child {
        Child {
            descriptor,
            copies: List::new(),
            ready: AtomicBool::new(false),
            parking: Parking::new(),
            payer,
            charged: AtomicU64::new(0),
        }
    }

    /// What the kernel does not give it of a region.
    fn inherit_all(&self, pages: &Pages, zswap: &Zswap) {
        let copy = Arc::new(Copy::empty(pages.addresses(), pages.slots()));
        self.copies.push(Arc::clone(&copy));
        for page in 0..pages.count() {
            let mut backoff = Backoff::new();
            while !pages.inherit(page, &mut |what| self.inherit(&copy, page as usize, what, zswap)) {
                backoff.wait_for_io();
            }
        }
    }

    /// It has such a page. False: later.
    fn inherit(&self, copy: &Copy, page: usize, what: Inherited<'_>, zswap: &Zswap) -> bool {
        let now = match what {
            Inherited::Poisoned => POISONED,
            Inherited::Bytes(bytes) => return self.give(copy.address(page), Some(bytes)),
            Inherited::Slot(slot) => match zswap.dup(slot) {
                Ok(_) => word(OUT, slot),
                Err(zswap::Error::TooManyReferences { .. }) => {
                    let mut bytes = [0; PAGE_SIZE];
                    let read = zswap.load(slot, &mut bytes).is_ok();
                    return self.give(copy.address(page), read.then_some(&bytes));
                }
                // Discarded this moment, by a thread of the parent's: the child has it as it is from now on.
                Err(_) => ZERO,
            },
        };
        if now != ZERO {
            copy.words.get(page).store(now, Ordering::Release);
        }
        true
    }

    /// It has what a word of its parent's says, who is a child too. False: later.
    fn inherit_from(&self, theirs: &AtomicU64, copy: &Copy, page: usize, zswap: &Zswap) -> bool {
        let seen = theirs.load(Ordering::Acquire);
        match seen & STATE {
            POISONED => self.inherit(copy, page, Inherited::Poisoned, zswap),
            OUT if matches!(take(theirs, slot(seen)), Taking::Mine) => {
                // Until ours is written: a store that moves theirs apart finds ours as well.
                let _back = Taken { word: theirs, back: seen };
                self.inherit(copy, page, Inherited::Slot(slot(seen)), zswap)
            }
            OUT | BUSY => false,
            _ => true,
        }
    }

    /// Install bytes, which it is charged for. False: later.
    fn give(&self, address: usize, bytes: Option<&[u8; PAGE_SIZE]>) -> bool {
        let given = changes::arrive(&self.descriptor, address, bytes);
        if given && bytes.is_some() {
            // While it is born; and its parent's word is owned.
            self.payer.purse.must_charge(1, Why::Fork);
            self.charged.fetch_add(1, Ordering::Relaxed);
        }
        given
    }

    fn charge(&self) {
        self.payer.purse.must_charge(1, Why::Child);
        self.charged.fetch_add(1, Ordering::Relaxed);
    }

    fn uncharge(&self) {
        self.payer.purse.uncharge(1);
        self.charged.fetch_sub(1, Ordering::Relaxed);
    }

    fn find(&self, address: usize) -> Option<(Arc<Copy>, usize)> {
        let copy = self.copies.find(|copy| copy.addresses.contains(&address))?;
        let page = (address - copy.addresses.start) / PAGE_SIZE;
        Some((copy, page))
    }

    /// Whether the process is there. Nobody tells when it has ended, but requests about its memory fail then.
    fn lives(&self) -> bool {
        // The lowest page that may be mapped anywhere: nobody registers that, and whoever lives says so.
        let nowhere = 0x1_0000;
        self.descriptor.zeropage(nowhere..nowhere + PAGE_SIZE, Mode::empty()).stopped != Some(Errno::NO_PROCESS)
    }

    /// Serve a fault. `None`: again later.
    fn fill(&self, copy: &Copy, page: usize, zswap: &Zswap) -> Option<Answer> {
        let theirs = copy.words.get(page);
        let address = copy.address(page);
        let seen = theirs.load(Ordering::Acquire);
        match seen & STATE {
            POISONED => {
                let _ = changes::arrive(&self.descriptor, address, None);
                return Some(Answer::Poisoned);
            }
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
                _ => {
                    self.uncharge();
                    return None;
                }
            }
            let busy = Taken { word: theirs, back: seen };
            let mut bytes = [0; PAGE_SIZE];
            if zswap.load(slot(seen), &mut bytes).is_err() {
                self.uncharge();
                super::say_poisoned(address);
                let _ = changes::arrive(&self.descriptor, address, None);
                let _ = zswap.put(slot(seen));
                busy.end(POISONED);
                return Some(Answer::Poisoned);
            }
            let stopped = self.descriptor.copy(address, bytes.as_ptr(), PAGE_SIZE, Mode::empty()).stopped;
            if matches!(stopped, None | Some(Errno::EXISTS)) {
                let _ = zswap.put(slot(seen));
                busy.end(HERE);
            }
            stopped
        } else {
            let stopped = self.descriptor.zeropage(address..address + PAGE_SIZE, Mode::empty()).stopped;
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
                        let _ = self.descriptor.wake(address..address + PAGE_SIZE); // refused only for what is no page
                        Some(Answer::Served)
                    }
                }
            }
        }
    }

    /// The pages of a range read as zeroes from here on: their references and charges go.
    fn forget(&self, copy: &Copy, pages: Range<usize>, zswap: &Zswap) {
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
    fn move_pages(&self, from: Range<usize>, to: usize, family: &Family) {
        for copy in self.copies.snapshot() {
            let (start, end) = (copy.addresses.start.max(from.start), copy.addresses.end.min(from.end));
            if start >= end {
                continue;
            }
            let (first, pages) = ((start - copy.addresses.start) / PAGE_SIZE, (end - start) / PAGE_SIZE);
            let there = to + (start - from.start);
            let origin = SlotRange::new(copy.origin.base() + first as u64, pages as u64);
            let moved = Arc::new(Copy::empty(there..there + (end - start), origin));
            family.lists.fetch_add(1, Ordering::SeqCst);
            self.copies.push(Arc::clone(&moved));
            for page in 0..pages {
                move_word(copy.words.get(first + page), moved.words.get(page));
            }
        }
    }

    /// The pages of an address range read as zeroes from here on.
    fn forget_range(&self, range: &Range<usize>, zswap: &Zswap) {
        for copy in self.copies.snapshot() {
            if let Some(pages) = copy.pages_in(range) {
                self.forget(&copy, pages, zswap);
            }
        }
    }

    /// What is out of a range is in memory from here on. Each page passes the gate: between the moment in which a move of the range was read
    /// and the one in which its pages have followed, something else may be mapped here. False: some are out still.
    fn put_in_place(&self, range: &Range<usize>, gate: Option<&Gate>, zswap: &Zswap) -> bool {
        self.copies.snapshot().iter().all(|copy| {
            let mut pages = copy.pages_in(range).unwrap_or_default();
            pages.all(|page| self.put_page_in_place(copy, page, gate, zswap))
        })
    }

    fn put_page_in_place(&self, copy: &Copy, page: usize, gate: Option<&Gate>, zswap: &Zswap) -> bool {
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
        let installed = zswap.load(slot(seen), &mut bytes).is_ok() && {
            let passing = gate.map(|gate| gate.pass(address..address + PAGE_SIZE));
            !matches!(passing, Some(None)) && {
                let done = self.descriptor.copy(address, bytes.as_ptr(), PAGE_SIZE, Mode::empty());
                matches!(done.stopped, None | Some(Errno::EXISTS))
            }
        };
        if installed {
            let _ = zswap.put(slot(seen)); // before the word says so: invariant 1
            busy.end(HERE);
        } else {
            self.uncharge();
        }
        installed
    }

    /// Bring in what is out, as far as that goes now. Whether nothing is out any more.
    fn bring_in(&self, zswap: &Zswap) -> bool {
        let is_out = |word: u64| matches!(word & STATE, OUT | BUSY);
        let mut all = true;
        for copy in self.copies.snapshot() {
            for page in 0..copy.pages() {
                all &= !is_out(copy.words.get(page).load(Ordering::Acquire)) || self.fill(&copy, page, zswap).is_some();
            }
        }
        all
    }
}

/// What became of an attempt to make a word Busy.
enum Taking {
    /// It is.
    Mine,
    /// Somebody else has.
    Busy,
    /// It does not name that slot any more.
    Elsewhere,
}

/// A word that this thread made Busy, and that goes back unless it is ended.
struct Taken<'a> {
    word: &'a AtomicU64,
    back: u64,
}

impl Taken<'_> {
    fn end(mut self, now: u64) {
        self.back = now;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Release pairs with the acquire of who takes it next: what was done with the slot comes before.
        self.word.store(self.back, Ordering::Release);
    }
}

/// Make a word Busy that is Out with this slot.
fn take(theirs: &AtomicU64, wanted: Slot) -> Taking {
    let out = word(OUT, wanted);
    match theirs.compare_exchange(out, word(BUSY, wanted), Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => Taking::Mine,
        Err(now) if now & STATE == BUSY && slot(now) == wanted => Taking::Busy,
        Err(now) if now == out => Taking::Busy, // a weak failure: again
        Err(_) => Taking::Elsewhere,
    }
}

/// Move a word to another list. One that names a slot is Busy until it is there: a store that looks for it finds it in one of the two.
fn move_word(from: &AtomicU64, to: &AtomicU64) {
    let mut backoff = Backoff::new();
    loop {
        let seen = from.load(Ordering::Acquire);
        match seen & STATE {
            BUSY => backoff.wait_for_io(),
            OUT if matches!(take(from, slot(seen)), Taking::Mine) => {
                to.store(seen, Ordering::Release);
                return from.store(ZERO, Ordering::Release);
            }
            OUT => {}
            _ if from.compare_exchange(seen, ZERO, Ordering::AcqRel, Ordering::Relaxed).is_ok() => {
                return to.store(seen, Ordering::Release);
            }
            _ => {}
        }
    }
}

// === impl ChildDesk ===

impl ChildDesk {
    /// Serve what there is. One that panics is tried again with the next look, its word as it was.
    fn serve(&self, reader: &mut Reader) {
        let served = catch_unwind(AssertUnwindSafe(|| {
            loop {
                match reader.round(self, Idle::Return) {
                    Ok(0) if !reader.has_parked() || !self.child.lives() => return,
                    Ok(_) => {}
                    Err(_) => return, // it has ended: seen with the next look
                }
            }
        }));
        drop(served);
    }

    /// What it misses is in its memory from here on, unless it ends. Its changes are followed meanwhile: nothing can be installed before.
    fn bring_all_in(&self, reader: &mut Reader) {
        let mut backoff = Backoff::new();
        while self.child.lives() && !self.child.bring_in(&self.family.zswap) {
            self.serve(reader);
            backoff.wait_for_io();
        }
    }
}

impl Desk for ChildDesk {
    fn descriptor(&self) -> &Arc<Descriptor> {
        &self.child.descriptor
    }

    fn gate(&self) -> Option<&Gate> {
        None
    }

    fn answer(&self, fault: Fault) -> Answer {
        if !self.child.ready.load(Ordering::Acquire) {
            return Answer::Again;
        }
        let Some((copy, page)) = self.child.find(fault.address) else { return Answer::Stranger };
        if fault.protected {
            return Answer::Stranger; // protected in the parent, for whom that had a meaning
        }
        self.child.fill(&copy, page, &self.family.zswap).unwrap_or(Answer::Again)
    }

    fn follow(&self, change: &mut Option<Change>, _closed: &mut [Option<Closed>; 2]) -> bool {
        match change.take() {
            Some(Change::Removed(range) | Change::Unmapped(range)) => {
                self.child.forget_range(&range, &self.family.zswap)
            }
            Some(Change::Moved { from, to, bytes }) => self.child.move_pages(from..from + bytes, to, &self.family),
            Some(Change::Forked(descriptor)) => self.bear(descriptor),
            None => {}
        }
        true
    }

    fn stranger(&self, fault: Fault) -> bool {
        super::stranger(&self.child.descriptor, fault)
    }

    fn parking(&self) -> &Parking {
        &self.child.parking
    }

    fn state(&self, _address: usize) -> &'static str {
        "a child's"
    }
}

impl ChildDesk {
    /// The child has a child: it has copies of its parent's words.
    fn bear(&self, descriptor: Descriptor) {
        let grandchild = self.family.adopt(descriptor, Arc::clone(&self.child.payer));
        let zswap = &self.family.zswap;
        for theirs in self.child.copies.snapshot() {
            let copy = Arc::new(Copy::empty(theirs.addresses.clone(), theirs.origin));
            grandchild.copies.push(Arc::clone(&copy));
            for page in 0..theirs.pages() {
                let mut backoff = Backoff::new();
                while !grandchild.inherit_from(theirs.words.get(page), &copy, page, zswap) {
                    backoff.wait_for_io();
                }
            }
        }
        grandchild.ready.store(true, Ordering::Release);
        self.family.ring();
    }
}

// === Keeping ===

/// A store whose slots children may share: what is theirs is moved apart before something else is stored in its place.
pub(crate) struct Keeping {
    zswap: Arc<Zswap>,
    family: Arc<Family>,
}

impl Keeping {
    /// For the VM whose children these are.
    pub(crate) fn new(zswap: Arc<Zswap>, family: &Arc<Family>) -> Self {
        Keeping { zswap, family: Arc::clone(family) }
    }
}

impl Store for Keeping {
    fn put_away(
        &self,
        slot: Slot,
        purse: &dyn Purse,
        page: &[u8; PAGE_SIZE],
        effort: Effort,
    ) -> Result<Stored, zswap::Error> {
        self.family.move_apart(slot, effort != Effort::Unaided)?;
        Store::put_away(&*self.zswap, slot, purse, page, effort)
    }

    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], wait: bool) -> Result<LoadedFrom, zswap::Error> {
        Store::read(&*self.zswap, slot, page, wait)
    }

    fn give_back(&self, slot: Slot) {
        self.zswap.give_back(slot);
    }

    fn holds(&self, slot: Slot) -> bool {
        self.zswap.holds(slot)
    }
}
