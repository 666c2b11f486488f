//! Handler threads: each waits in a read of the descriptor, and serves what it has read.
//!
//! ```text
//!   vCPU touches a page that is out --> kernel queues the fault --> [read] handler 0, pinned to core 0
//!     (or a system call, KVM, vhost)                                [read] handler 1, pinned to core 1
//!
//!   stop:  rings the bell: a page of its own that is registered and not there. Each handler is woken by a fault of it, and ends.
//! ```
//!
//! 1. All signals are blocked in handlers: no handler of the program's runs there, and might touch guest memory.
//! 2. A handler that panics goes on as a new one would: with what it has read, at the event where it was. One that panics again and again ends the
//!    process, with a sentence: its faults would wait for ever.
//! 3. Who starts handlers waits until each has begun: a thread that begins calls the allocator, and one that forks a moment later has its locks
//!    until a handler has read of it.
//! 4. Handlers hold the desk, never a VM: so the last VM is dropped by somebody who can wait for them.

use super::last_words;
use super::reader::{Idle, Reader};
use super::watch::Watch;
use super::watchdog::{OnStuck, Watchdog};
use super::{Bell, Desk, Panics, fork_mark};
use crate::guest::Error;
use crate::guest::uffd::{Descriptor, Errno};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Arc, thread};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use std::{fmt, io, mem};

/// Threads that serve faults.
#[derive(Clone)]
#[non_exhaustive]
pub struct ThreadOptions {
    /// How many; 0 means one. One serves some 100,000 faults a second; more are worth it where faults wait for devices, or where
    /// each vCPU has its own core and handler.
    pub count: usize,
    /// The cores they run on, in turn: the cores of the vCPUs. Waking a thread on another core takes longer than serving the fault.
    pub cores: Option<Vec<usize>>,
    /// How long a handler may be at one fault before that is told.
    pub watchdog: Option<Duration>,
    /// Whom it is told; nobody: standard error.
    pub(crate) on_stuck: Option<OnStuck>,
}

/// Running handlers. Dropped, they have ended.
pub(crate) struct Handlers<D> {
    shared: Arc<Shared<D>>,
    threads: Vec<thread::JoinHandle<()>>,
    watchdog: Option<Watchdog>,
}

struct Shared<D> {
    desk: Arc<D>,
    bell: Arc<Bell>,
    /// How many have begun.
    begun: AtomicUsize,
    panics: Panics,
}

// === impl ThreadOptions ===

impl Default for ThreadOptions {
    fn default() -> Self {
        Self::new(1)
    }
}

impl ThreadOptions {
    /// So many, on any core, unwatched.
    pub fn new(count: usize) -> Self {
        ThreadOptions { count, cores: None, watchdog: None, on_stuck: None }
    }

    /// Pin them to these cores, in turn.
    pub fn cores(mut self, cores: impl Into<Vec<usize>>) -> Self {
        self.cores = Some(cores.into());
        self
    }

    /// Say on standard error which page a handler is at, and why, when it has been there for so long.
    pub fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog = Some(limit);
        self
    }

    /// Tell this of it instead. It runs on the watchdog's thread.
    pub fn on_stuck(mut self, tell: impl Fn(&super::Stuck) + Send + Sync + 'static) -> Self {
        self.on_stuck = Some(Arc::new(Box::new(tell)));
        self
    }
}

impl fmt::Debug for ThreadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadOptions")
            .field("count", &self.count)
            .field("cores", &self.cores)
            .field("watchdog", &self.watchdog)
            .finish_non_exhaustive()
    }
}

// === impl Handlers ===

impl<D: Desk + Send + Sync + 'static> Handlers<D> {
    /// Start them.
    ///
    /// # Errors
    /// When the system refuses a thread, a core, or the bell's page.
    pub(crate) fn start(desk: Arc<D>, bell_of: &Arc<Descriptor>, options: &ThreadOptions) -> Result<Self, Error> {
        let count = options.count.max(1);
        let bell = Arc::new(Bell::new(bell_of, count)?);
        let shared = Arc::new(Shared { desk, bell, begun: AtomicUsize::new(0), panics: Panics::new() });
        let watches: Vec<Arc<Watch>> = (0..count).map(|_| Arc::new(Watch::default())).collect();
        let mut handlers = Handlers { shared: Arc::clone(&shared), threads: Vec::new(), watchdog: None };
        let cores = options.cores.as_deref().unwrap_or_default().iter().map(|&core| one_core(core));
        let cores: Vec<libc::cpu_set_t> = cores
            .collect::<io::Result<_>>()
            .map_err(|source| Error::Service { doing: "pin a handler to its core", source })?;
        for (n, watch) in watches.iter().enumerate() {
            let (shared, watch) = (Arc::clone(&shared), Arc::clone(watch));
            let core = cores.get(n % cores.len().max(1)).copied();
            let spawned = thread::spawn("zspool-fault", move || shared.handle(count, watch, core));
            // Those that run are ended when `handlers` is dropped.
            handlers
                .threads
                .push(spawned.map_err(|source| Error::Service { doing: "start a handler thread", source })?);
        }
        let mut backoff = Backoff::new();
        while shared.begun.load(Ordering::Acquire) < count {
            backoff.wait_for_io();
        }
        if let Some(limit) = options.watchdog {
            let desk = Arc::clone(&shared.desk);
            handlers.watchdog = Some(Watchdog::start(desk, watches, limit, options.on_stuck.clone())?);
        }
        Ok(handlers)
    }

    /// How many times a handler panicked and was replaced.
    pub(crate) fn panics(&self) -> u64 {
        self.shared.panics.all()
    }
}

impl<D> Drop for Handlers<D> {
    fn drop(&mut self) {
        if fork_mark::in_child() {
            // They are the parent's.
            std::mem::forget(std::mem::take(&mut self.threads));
            std::mem::forget(self.watchdog.take());
            return;
        }
        self.watchdog = None;
        // Each ring ends one of them, whichever reads it.
        (0..self.threads.len()).for_each(|ring| self.shared.bell.ring(ring));
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // it catches what panics
        }
    }
}

impl<D: Desk> Shared<D> {
    /// A handler, until it is stopped.
    fn handle(&self, readers: usize, watch: Arc<Watch>, core: Option<libc::cpu_set_t>) {
        watch.is_mine();
        if let Some(core) = core {
            // SAFETY: the set is ours. Refused only where the core was taken away a moment ago: any other does then.
            unsafe { libc::sched_setaffinity(0, mem::size_of_val(&core), &core) };
        }
        let mut reader = Reader::new(readers, Arc::clone(&watch)).with_bell(&self.bell);
        self.begun.fetch_add(1, Ordering::Release);
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.rounds(&mut reader))) {
                Ok(Ok(())) => return,
                Ok(Err(errno)) => last_words::end(format_args!(
                    "faults cannot be read from the userfaultfd descriptor any more ({errno}; was it closed?): every thread that touches a \
                     page that is out would wait for ever, so the process ends"
                )),
                Err(_payload) => {
                    if let Some(times) = self.panics.too_many() {
                        last_words::end(format_args!(
                            "a handler of page faults panicked {times} times in a row at {:#x}, and so would another in its place: the \
                             process ends, for its threads would wait for ever",
                            watch.address()
                        ));
                    }
                }
            }
        }
    }

    /// Serve until it is to end.
    fn rounds(&self, reader: &mut Reader) -> Result<(), Errno> {
        let idle = if self.desk.gate().is_some() { Idle::Poll } else { Idle::Read };
        while !reader.is_to_end() {
            reader.round(&*self.desk, idle)?;
            self.panics.none();
        }
        Ok(())
    }
}

/// The set with one core, which must be one that this process may use.
fn one_core(core: usize) -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeroes are good values: no core.
    let mut ours: libc::cpu_set_t = unsafe { mem::zeroed() };
    let mut one = ours;
    // SAFETY: the set is ours.
    if unsafe { libc::sched_getaffinity(0, mem::size_of_val(&ours), &mut ours) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the core is one of a set.
    if core >= 8 * mem::size_of_val(&ours) || !unsafe { libc::CPU_ISSET(core, &ours) } {
        return Err(io::Error::other(format!("core {core} is not one that this process may use")));
    }
    // SAFETY: as above.
    unsafe { libc::CPU_SET(core, &mut one) };
    Ok(one)
}
