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
//! Words: [`claim`](super::claim); a child and its copies: [`child`](super::child); its events: [`child_desk`](super::child_desk); the parent's
//! stores: [`keeping`](super::keeping); what is moved: [`relics`](super::relics).
//!
//! 1. While a child is born, the gate is closed: no page comes in or leaves between the fork and the copy of its words.
//! 2. A descriptor is closed only when its child has ended or has everything in memory: what is missing then would read as zero.

use super::child::Child;
use super::child_desk::ChildDesk;
use super::list::List;
use super::reader::Reader;
use super::running::VmDesk;
use super::watchdog::Watch;
use super::{fork, signals};
use crate::guest::Error;
use crate::guest::pages::{Pages, Shared};
use crate::guest::registry;
use crate::guest::uffd::Descriptor;
use crate::memcg::Memcg;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{Backoff, JoinHandle};
use crate::sync::{Arc, Mutex, Rank, thread};
use crate::zswap::Zswap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
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
    pub(super) zswap: Arc<Zswap>,
    /// Who pays for the slots that become theirs.
    pub(super) memcg: Memcg,
    pub(super) living: List<Child>,
    /// What `mremap` moved out of regions: served like a child's copy, in this process.
    pub(super) relics: Mutex<Option<Arc<Child>>>,
    /// How many: mostly none, and that is one load for each store.
    count: AtomicUsize,
    /// Goes up before words come to be in another list, and with each list that becomes shorter: who went through them looks again.
    pub(super) lists: AtomicU64,
    stop: AtomicBool,
    /// How often it was asked to have children miss nothing, and how often that was done.
    asked: AtomicU64,
    done: AtomicU64,
    /// Readable: a child was born, or the thread is to stop.
    news: OwnedFd,
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
    pub(super) fn adopt(&self, descriptor: Descriptor, payer: Arc<Shared>) -> Arc<Child> {
        let child = Arc::new(Child::new(Arc::new(descriptor), payer));
        self.note_list();
        self.living.push(Arc::clone(&child));
        self.count.fetch_add(1, Ordering::Release);
        child
    }

    /// Something comes to a list, or goes.
    pub(super) fn note_list(&self) {
        self.lists.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn zswap(&self) -> &Zswap {
        &self.zswap
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
        self.living.retain(others, || self.note_list());
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
