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
use super::nursery::{Nursery, Spare};
use super::reader::Reader;
use super::running::VmDesk;
use super::watchdog::Watch;
use super::{fork, signals};
use crate::guest::Error;
use crate::guest::pages::{Pages, Shared};
use crate::guest::registry;
use crate::guest::uffd::Descriptor;
use crate::memcg::Memcg;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{Backoff, JoinHandle};
use crate::sync::{Arc, Mutex, Rank, thread};
use crate::zswap::Zswap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Children that may be born before somebody makes room for more.
const MOST_BIRTHS: usize = 64;

/// How often it is looked whether children have ended: nobody tells.
const LOOKS: Duration = Duration::from_millis(100);

/// The children of a VM, the thread that serves them, and the one that follows changes of mappings, among which births are.
pub(crate) struct Children {
    family: Arc<Family>,
    threads: Mutex<Option<[JoinHandle<()>; 2]>>,
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
    /// How many of the two threads are to end.
    stop: AtomicUsize,
    /// How often it was asked to have children miss nothing, and how often that was done.
    asked: AtomicU64,
    done: AtomicU64,
    /// Readable: a child was born, or the thread is to stop.
    news: OwnedFd,
    /// The same for who follows changes.
    follower: OwnedFd,
    nursery: Nursery,
}

// === impl Children ===

impl Children {
    /// None yet.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub(crate) fn new(zswap: Arc<Zswap>, memcg: Memcg) -> io::Result<Self> {
        let family = Family {
            zswap,
            memcg,
            living: List::new(),
            relics: Mutex::new(Rank::Guest, None),
            count: AtomicUsize::new(0),
            lists: AtomicU64::new(0),
            stop: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            news: bell()?,
            follower: bell()?,
            nursery: Nursery::new(),
        };
        Ok(Children { family: Arc::new(family), threads: Mutex::new(Rank::Guest, None) })
    }

    /// What a store needs to know of them.
    pub(crate) fn family(&self) -> &Arc<Family> {
        &self.family
    }

    /// A child has copies of these regions. The gate is closed meanwhile. Calls no allocator while there are spares.
    pub(super) fn born(&self, descriptor: Descriptor, payer: &Arc<Shared>, regions: impl Iterator<Item = Arc<Pages>>) {
        let mut spare = self.family.nursery.take().unwrap_or_else(|| Spare::new(payer, &[]));
        let child = self.family.adopt(descriptor, &mut spare);
        for pages in regions {
            let copy = spare.copy_of(&pages);
            child.inherit_all(&pages, copy, &self.family);
        }
        child.ready.store(true, Ordering::Release);
        self.family.ring();
    }

    /// Start the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(&self, desk: &Arc<VmDesk>) -> Result<(), Error> {
        let refused = |source| Error::Service { doing: "start the threads that follow changes of mappings", source };
        let (family, theirs) = (Arc::clone(&self.family), Arc::clone(desk));
        let follower = signals::blocked(|| thread::spawn("zspool-changes", move || family.follow(&theirs)));
        let follower = follower.map_err(refused)?;
        let (family, theirs) = (Arc::clone(&self.family), Arc::clone(desk));
        match signals::blocked(|| thread::spawn("zspool-children", move || Family::serve(&family, &theirs))) {
            Ok(server) => *self.threads.lock() = Some([follower, server]),
            Err(source) => {
                self.family.end(follower);
                return Err(refused(source));
            }
        }
        Ok(())
    }

    /// Return when none of the children that were born before misses what is here: this process is about to end.
    pub(super) fn settle(&self, desk: &VmDesk) {
        if fork::in_child() || self.threads.lock().is_none() {
            return;
        }
        let mut backoff = Backoff::new();
        while !desk.has_followed() {
            backoff.wait_for_io(); // one may be being born
        }
        if self.family.living() == 0 {
            return;
        }
        let mine = self.family.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.family.ring();
        while self.family.done.load(Ordering::Acquire) < mine && self.family.stop.load(Ordering::Acquire) < 2 {
            backoff.wait_for_io();
        }
    }

    /// Have it end, when none of the children misses what is here. Nothing is read any more.
    pub(super) fn stop(&self) {
        let threads = self.threads.lock().take();
        if fork::in_child() {
            return std::mem::forget(threads); // they are the parent's
        }
        // Who follows changes first: what is born still is served by the other.
        threads.into_iter().flatten().for_each(|thread| self.family.end(thread));
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
    pub(super) fn adopt(&self, descriptor: Descriptor, spare: &mut Spare) -> Arc<Child> {
        Arc::get_mut(&mut spare.child).expect("nobody else has one that is not born").of(descriptor);
        let child = Arc::clone(&spare.child);
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
        ring(&self.news);
    }

    /// There is a change to follow.
    pub(super) fn ring_follower(&self) {
        ring(&self.follower);
    }

    /// Have a thread end: the follower is the first.
    fn end(&self, thread: JoinHandle<()>) {
        self.stop.fetch_add(1, Ordering::AcqRel);
        self.ring_follower();
        self.ring();
        let _ = thread.join(); // it catches what panics
    }

    /// Follow changes of mappings, until it is to stop.
    fn follow(&self, desk: &VmDesk) {
        while self.stop.load(Ordering::Acquire) == 0 {
            desk.follow_matters();
            wait(&self.follower, std::iter::empty(), -1);
        }
        desk.follow_matters();
    }

    /// How many children live.
    pub(crate) fn living(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Serve children until it is to stop; then see to it that none of them misses what is here.
    fn serve(this: &Arc<Self>, desk: &VmDesk) {
        let mut readers: Vec<(Arc<ChildDesk>, Reader)> = Vec::new();
        let mut looked = Instant::now();
        while this.stop.load(Ordering::Acquire) < 2 {
            let asked = this.asked.load(Ordering::SeqCst);
            if this.living() > 0 {
                // Who has forked once may again.
                this.living.make_room(MOST_BIRTHS);
                this.nursery.stock(desk.shared(), &desk.kept_regions().collect::<Vec<_>>());
            }
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
        this.meet(&mut readers);
        for (desk, reader) in &mut readers {
            desk.bring_all_in(reader);
            this.bury(&desk.child);
        }
    }

    /// Have a reader for each child.
    fn meet(self: &Arc<Self>, readers: &mut Vec<(Arc<ChildDesk>, Reader)>) {
        // One that is being born is not served: its words are not all there, so nothing of it may be moved.
        for child in self.living.snapshot() {
            if child.ready.load(Ordering::Acquire) && !readers.iter().any(|(desk, _)| Arc::ptr_eq(&desk.child, &child))
            {
                let desk = ChildDesk { child, family: Arc::clone(self) };
                readers.push((Arc::new(desk), Reader::new(1, Arc::new(Watch::default()))));
            }
        }
    }

    /// Wait until a child has something to be served, or for a look at whether they live.
    fn wait(&self, readers: &[(Arc<ChildDesk>, Reader)]) {
        let at_most = if readers.is_empty() { -1 } else { LOOKS.as_millis() as i32 };
        wait(&self.news, readers.iter().map(|(desk, _)| desk.child.descriptor.as_raw_fd()), at_most);
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

/// Somebody waits until it is rung.
fn bell() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and returns a new descriptor.
    let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if bell < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(bell) })
}

fn ring(bell: &OwnedFd) {
    let one = 1u64;
    // SAFETY: the descriptor is ours, and so are the bytes. A counter that is full is readable too.
    unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Wait until it is rung, or one of the others is readable; at most so many milliseconds, or -1. Without others no allocator is called.
fn wait(bell: &OwnedFd, others: impl Iterator<Item = i32>, at_most: i32) {
    let fd = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let (mut one, mut all) = ([fd(bell.as_raw_fd())], Vec::new());
    all.extend(others.map(fd));
    let fds = if all.is_empty() {
        &mut one[..]
    } else {
        all.push(one[0]);
        &mut all[..]
    };
    // SAFETY: as many descriptors as are said.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, at_most) };
    let mut count = 0u64;
    // SAFETY: the descriptor is ours, and so are the bytes.
    unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), 8) };
}
