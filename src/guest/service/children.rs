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
//! Words: [`claim`](super::claim); a child and its copies: [`child`](super::child); all of them: [`family`](super::family); their events:
//! [`child_desk`](super::child_desk); the parent's stores: [`keeping`](super::keeping); what is moved: [`relics`](super::relics).
//!
//! 1. While a child is born, the gate is closed: no page comes in or leaves between the fork and the copy of its words.
//! 2. A descriptor is closed only when its child has ended or has everything in memory: what is missing then would read as zero. Where this process is
//!    killed, [`wards`](super::wards) keep it open, and the [`guardian`](super::guardian) serves it.

use super::child::{Child, Whose};
use super::child_desk::ChildDesk;
use super::family::Family;
use super::nursery::{Nursery, Spare};
use super::reader::Reader;
use super::vm_desk::VmDesk;
use super::wards::Ward;
use super::watch::Watch;
use super::fork_mark;
use crate::guest::Error;
use crate::guest::pages::{Pages, Shared};
use crate::guest::registry;
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
    care: Arc<Care>,
    threads: Mutex<Option<[JoinHandle<()>; 2]>>,
}

/// Who cares for children: two threads, and how they are told of something.
pub(super) struct Care {
    family: Arc<Family>,
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
        let care = Care {
            family: Arc::new(Family::new(zswap, memcg)),
            stop: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            news: eventfd()?,
            follower: eventfd()?,
            nursery: Nursery::new(),
        };
        Ok(Children { care: Arc::new(care), threads: Mutex::new(Rank::Guest, None) })
    }

    /// What a store needs to know of them.
    pub(crate) fn family(&self) -> &Arc<Family> {
        &self.care.family
    }

    /// A child has copies of these regions, and of what was moved out of them. The gate is closed meanwhile. Calls no allocator while there are
    /// spares, and nothing was moved.
    pub(super) fn born(&self, descriptor: Ward, payer: &Arc<Shared>, regions: impl Iterator<Item = Arc<Pages>>) {
        let mut spare = self.care.nursery.take().unwrap_or_else(|| Spare::new(payer, &[]));
        let child = self.care.family.adopt(Whose::Own(descriptor), &mut spare.child);
        let mut until = None;
        for pages in regions {
            let copy = spare.copy_of(&pages);
            child.inherit_all(&pages, copy, &self.care.family, &mut until);
        }
        if let Some(relics) = self.care.family.relics() {
            child.inherit_all_from(&relics, &self.care.family, &mut until);
        }
        child.is_born();
        self.care.ring();
    }

    /// There is a change to follow.
    pub(super) fn ring_follower(&self) {
        ring(&self.care.follower);
    }

    /// Start the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(&self, desk: &Arc<VmDesk>) -> Result<(), Error> {
        let refused = |source| Error::Service { doing: "start the threads that follow changes of mappings", source };
        let (care, theirs) = (Arc::clone(&self.care), Arc::clone(desk));
        let follower = thread::spawn("zspool-changes", move || care.follow(&theirs));
        let follower = follower.map_err(refused)?;
        let (care, theirs) = (Arc::clone(&self.care), Arc::clone(desk));
        match thread::spawn("zspool-children", move || Care::serve(&care, &theirs)) {
            Ok(server) => *self.threads.lock() = Some([follower, server]),
            Err(source) => {
                self.care.end(follower);
                return Err(refused(source));
            }
        }
        Ok(())
    }

    /// Return when none of the children that were born before misses what is here: this process is about to end.
    pub(super) fn settle(&self, desk: &VmDesk) {
        if fork_mark::in_child() || self.threads.lock().is_none() {
            return;
        }
        let mut backoff = Backoff::new();
        while !desk.has_none_unborn() {
            backoff.wait_for_io();
        }
        if self.care.family.living() == 0 {
            return;
        }
        let mine = self.care.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.care.ring();
        while self.care.done.load(Ordering::Acquire) < mine && self.care.stop.load(Ordering::Acquire) < 2 {
            backoff.wait_for_io();
        }
    }

    /// Have it end, when none of the children misses what is here. Nothing is read any more.
    pub(super) fn stop(&self) {
        if fork_mark::in_child() {
            // They are the parent's; and so is the lock, if somebody there had it.
            return std::mem::forget(self.threads.try_lock().and_then(|mut threads| threads.take()));
        }
        let threads = self.threads.lock().take();
        // Who follows changes first: what is born still is served by the other.
        threads.into_iter().flatten().for_each(|thread| self.care.end(thread));
        if let Some(relics) = self.care.family.relics() {
            let mut backoff = Backoff::new();
            while !relics.bring_in(self.care.family.zswap()) && relics.lives() {
                backoff.wait_for_io();
            }
            relics.forget_range(&(0..usize::MAX), self.care.family.zswap());
        }
        // They have who pays, whose store has the family: the descriptor would stay, and who unmaps what was moved would wait for its reader.
        drop(self.care.family.let_relics_go());
    }
}

// === impl Care ===

impl Care {
    pub(super) fn ring(&self) {
        ring(&self.news);
    }

    /// Have a thread end: the follower is the first.
    fn end(&self, thread: JoinHandle<()>) {
        self.stop.fetch_add(1, Ordering::AcqRel);
        ring(&self.follower);
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

    /// Serve children until it is to stop; then see to it that none of them misses what is here.
    fn serve(this: &Arc<Self>, desk: &VmDesk) {
        let mut readers: Vec<(Arc<ChildDesk>, Reader)> = Vec::new();
        let mut looked = Instant::now();
        while this.stop.load(Ordering::Acquire) < 2 {
            let asked = this.asked.load(Ordering::SeqCst);
            if this.family.living() > 0 {
                // Who has forked once may again.
                this.family.living.make_room(MOST_BIRTHS);
                this.nursery.stock(desk.shared(), &desk.inherited_regions().collect::<Vec<_>>());
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
        for child in self.family.living.snapshot() {
            if child.ready.load(Ordering::Acquire) && !readers.iter().any(|(desk, _)| Arc::ptr_eq(&desk.child, &child))
            {
                let desk = ChildDesk { child, family: Arc::clone(&self.family), care: Arc::clone(self) };
                readers.push((Arc::new(desk), Reader::new(1, Arc::new(Watch::default()))));
            }
        }
    }

    /// Wait until a child has something to be served, or for a look at whether they live.
    fn wait(&self, readers: &[(Arc<ChildDesk>, Reader)]) {
        let at_most = if readers.is_empty() { -1 } else { LOOKS.as_millis() as i32 };
        wait(&self.news, readers.iter().map(|(desk, _)| desk.child.memory.descriptor().as_raw_fd()), at_most);
    }

    /// The child has ended. Always false.
    fn bury(&self, child: &Arc<Child>) -> bool {
        self.family.bury(child);
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
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and returns a new descriptor.
    let rung = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if rung < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(rung) })
}

fn ring(eventfd: &OwnedFd) {
    let one = 1u64;
    // SAFETY: the descriptor is ours, and so are the bytes. A counter that is full is readable too.
    unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Wait until it is rung, or one of the others is readable; at most so many milliseconds, or -1. Without others no allocator is called.
fn wait(eventfd: &OwnedFd, others: impl Iterator<Item = i32>, at_most: i32) {
    let fd = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let (mut one, mut all) = ([fd(eventfd.as_raw_fd())], Vec::new());
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
    unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
}
