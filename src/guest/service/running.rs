//! [`Running`]: the service of one VM: what it asks of the kernel, and who reads.
//!
//! ```text
//!   Vm --> Running -- handlers, or the embedder's reader
//!             |            |
//!             +--> VmDesk <+   descriptor, gate, regions (for changes of mappings), children
//! ```
//!
//! What is asked of the kernel, by service and by what is to be followed:
//!
//! | | features | its reads | gate |
//! |---|---|---|---|
//! | `InThread`, `None` | SIGBUS; user mode only | nobody's | no |
//! | `Threads` | | wait, or `poll` does where there is a gate | where discards or mappings are followed, or children served |
//! | `External` | | do not wait | the same |
//! | [`Follow::Discards`] | EVENT_REMOVE | | |
//! | [`Follow::Mappings`] | and EVENT_UNMAP, EVENT_REMAP | | |
//! | children | EVENT_FORK, where permitted | | |

use super::canary::Canary;
use super::children::Children;
use super::gate::Gate;
use super::gated::Gated;
use super::reader::{Idle, Reader};
use super::relics::patiently;
use super::threads::Handlers;
use super::vm_desk::VmDesk;
use super::watch::Watch;
use super::{Desk, fork_mark, guardian, lost, sigbus};
use crate::guest::memory::backer::WANTED;
use crate::guest::memory::backing::Backing;
use crate::guest::memory::{self, Memory};
use crate::guest::pages::{Pages, Shared};
use crate::guest::uffd::{Ask, Descriptor, Errno, Features};
use crate::guest::{Error, Service, VmOptions};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, Rank};
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// Which changes that the process makes to registered memory, not by calls of this crate, its pages follow.
///
/// Memory must not be changed so while it is being registered or unregistered: the kernel tells of a change before it makes it, and nobody would
/// know of the one that is still to come.
///
/// Without, it is as with [`Service::InThread`], where the kernel tells of none: pages that were in memory when they were dropped are
/// zeroes, are uncharged when somebody looks for them, and one that was out comes back as it was. Use
/// [`Region::discard`](crate::guest::Region::discard), and unregister what is to be unmapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follow {
    /// None.
    #[default]
    Nothing,
    /// What `madvise` drops: for a balloon that does so itself. Each such call waits until a handler has read of it, and each read of
    /// faults takes a system call more. Only for memory whose pages are moved: private anonymous memory from Linux 6.8 on.
    Discards,
    /// Also `munmap` and `mremap`: for memory that others manage, as a program's heap.
    Mappings,
}

/// What a service has met with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Handlers that panicked and were replaced.
    pub panics: u64,
    /// Bytes that `madvise` dropped behind our back.
    pub discarded_bytes: u64,
    /// Bytes that were unmapped.
    pub unmapped_bytes: u64,
    /// Bytes that `mremap` moved elsewhere.
    pub moved_bytes: u64,
    /// Faults at addresses that are registered and of no region: memory that `mremap` made longer.
    pub strangers: u64,
    /// Children of fork that were, or are, served.
    pub children: u64,
}

/// A mapping changed behind our back, and the pages have followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingChange {
    /// A range, or part of it, is not mapped any more. Regions that lie in it hold nothing now, and are to be dropped.
    Unmapped(Range<usize>),
    /// A range has other addresses. Its pages are served there, and nobody takes them out: register it anew, on another thread.
    Moved {
        /// Where it was. As with `Unmapped`.
        from: Range<usize>,
        /// Its first address now.
        to: usize,
    },
}

/// Whom changes of mappings are told.
#[derive(Clone)]
pub(crate) struct OnChange(pub(crate) Arc<Tell>);

/// See [`OnChange`].
pub(crate) type Tell = Box<dyn Fn(&MappingChange) + Send + Sync>;

impl fmt::Debug for OnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnChange")
    }
}

/// The service of a VM.
pub(crate) struct Running {
    desk: Arc<VmDesk>,
    readers: Readers,
    /// Goes when nobody serves any more.
    _canary: Option<Canary>,
}

/// Who reads the descriptor.
enum Readers {
    /// Nobody reads the descriptor.
    Unread,
    Threads(Handlers<VmDesk>),
    /// The reader, unless somebody has it.
    External(Mutex<Option<Box<Reader>>>),
}

// === impl Running ===

impl Running {
    /// Open a descriptor, and have it served.
    ///
    /// # Errors
    /// When the kernel refuses the descriptor, the handler of SIGBUS or threads.
    pub(crate) fn start(options: &VmOptions, children: Children, shared: &Arc<Shared>) -> Result<Running, Error> {
        fork_mark::make()?;
        let served = matches!(options.service, Service::Threads(_) | Service::External);
        if !served && (options.follow != Follow::Nothing || options.kernel_faults) {
            return Err(Error::Options {
                what: "Only threads that read a descriptor can serve the kernel's accesses, and follow changes of mappings",
                instead: "use Service::Threads or Service::External, or leave out kernel_faults and follow",
            });
        }
        // Also where one thread reads: others make calls, and what they bring in between the read of an event and its being followed
        // would be thrown away.
        let gated = served && (options.follow != Follow::Nothing || options.children);
        let descriptor = open(options, served, gated || matches!(options.service, Service::External))?;
        let descriptor = Arc::new(descriptor);
        let mut canary = None;
        if descriptor.features().contains(Features::EVENT_FORK) {
            guardian::start()?;
            canary = Canary::new(&descriptor)?;
        }
        let gate = gated.then(|| Arc::new(Gate::new()));
        let desk = Arc::new(VmDesk::new(descriptor, gate, children, Arc::clone(shared), options.on_change.clone()));
        if gated {
            desk.children.start(&desk)?;
        }
        let readers = match &options.service {
            Service::InThread => {
                sigbus::install()?;
                Readers::Unread
            }
            Service::None => Readers::Unread,
            Service::External => {
                let reader = Box::new(Reader::new(1, Arc::new(Watch::default())));
                Readers::External(Mutex::new(Rank::Guest, Some(reader)))
            }
            Service::Threads(threads) => {
                Readers::Threads(Handlers::start(Arc::clone(&desk), desk.own_descriptor(), threads)?)
            }
        };
        Ok(Running { desk, readers, _canary: canary })
    }

    /// The descriptor that memory is registered with.
    pub(crate) fn descriptor(&self) -> &Arc<Descriptor> {
        self.desk.own_descriptor()
    }

    /// For an embedder's loop: readable when there is something to serve.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        matches!(self.readers, Readers::External(_)).then(|| self.desk.own_descriptor().as_fd())
    }

    /// Serve what there is, and return when there is nothing more. How many events there were. Another thread that is at it: 0, at once.
    ///
    /// # Errors
    /// When there is no such service, or the descriptor cannot be read.
    pub(crate) fn service(&self) -> Result<usize, Error> {
        let Readers::External(reader) = &self.readers else {
            return Err(Error::Options {
                what: "The faults of this VM are served by threads of its own",
                instead: "make it with Service::External to serve them in a loop",
            });
        };
        let Some(taken) = reader.lock().take() else { return Ok(0) };
        // Goes back also when something panics: with what it has read.
        let mut taken = Lent { to: reader, reader: Some(taken) };
        let Some(reader) = &mut taken.reader else { return Ok(0) };
        let mut events = 0;
        loop {
            let read = reader.round(&*self.desk, Idle::Return).map_err(unreadable)?;
            events += read;
            // What is parked is tried again after a pause: the descriptor does not become readable for it.
            if read == 0 && !reader.has_parked() {
                return Ok(events);
            }
        }
    }

    /// Have the requests of a region whose first page is at `start` pass the gate, where there is one.
    pub(crate) fn wrap(&self, backing: Box<dyn Backing>, start: usize) -> Box<dyn Backing> {
        match self.desk.own_gate() {
            Some(gate) => Box::new(Gated::new(backing, Arc::clone(gate), start)),
            None => backing,
        }
    }

    /// Whether memory can be registered as it is to be kept for children.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn may_inherit(&self, memory: &Memory, options: &VmOptions) -> Result<(), Error> {
        match memory.kind() {
            _ if !memory.kept_on_fork() => Ok(()),
            _ if !options.children => Err(Error::Options {
                what: "Memory is to be kept for children of fork, and nobody sees to what is out of it",
                instead: "make the VM with VmOptions::children(true), or leave out Memory::keep_on_fork",
            }),
            memory::Kind::Anonymous => Ok(()),
            _ => Err(Error::Options {
                what: "A memfd is one memory for all processes that map it: a child of fork cannot have a copy",
                instead: "leave out Memory::keep_on_fork, and have children map nothing of it",
            }),
        }
    }

    /// A range is about to be registered: perhaps `mremap` has moved pages there that are out. What changes there is waited for.
    ///
    /// # Errors
    /// When that goes on: its mapping changes all the time, or the caller is who is told of a change.
    pub(crate) fn settle(&self, range: &Range<usize>) -> Result<(), Error> {
        let settled = patiently(|| self.desk.children.family().settle_relics(range, self.desk.gate()));
        if settled { Ok(()) } else { Err(Error::Moving { range: range.clone() }) }
    }

    /// Changes of mappings in a range that were read of are followed when this returns, or go on all the time.
    pub(crate) fn until_followed(&self, range: &Range<usize>) {
        let _ = patiently(|| self.desk.gate().is_none_or(|gate| gate.pass(range.clone()).is_some()));
    }

    /// A region that children have a copy of is about to be registered, and known already.
    pub(crate) fn will_inherit(&self, pages: &Arc<Pages>) {
        self.desk.hold_if_forking(pages);
    }

    /// The region is gone.
    pub(crate) fn forget(&self, pages: &Arc<Pages>) {
        self.desk.hold_no_more(pages);
        lost::say_how_many(pages);
    }

    /// What it has met with.
    pub(crate) fn stats(&self) -> ServiceStats {
        let counts = &self.desk.counts;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ServiceStats {
            panics: if let Readers::Threads(handlers) = &self.readers { handlers.panics() } else { 0 },
            discarded_bytes: get(&counts.discarded),
            unmapped_bytes: get(&counts.unmapped),
            moved_bytes: get(&counts.moved),
            strangers: get(&counts.strangers),
            children: get(&counts.children),
        }
    }

    /// The desk, for forks.
    pub(super) fn desk(&self) -> &Arc<VmDesk> {
        &self.desk
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What was moved and is out comes in while changes of its mapping are read: afterwards one that is not would be waited for in vain.
        if !fork_mark::in_child() {
            let _ = self.desk.children.family().bring_relics_in();
        }
        // The readers first, then who follows what they have read.
        self.readers = Readers::Unread;
        self.desk.children.stop();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("descriptor", self.desk.own_descriptor()).finish_non_exhaustive()
    }
}

/// A reader that goes back.
struct Lent<'a> {
    to: &'a Mutex<Option<Box<Reader>>>,
    reader: Option<Box<Reader>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.to.lock() = self.reader.take();
    }
}

/// The descriptor that such options need.
fn open(options: &VmOptions, served: bool, nonblocking: bool) -> Result<Descriptor, Error> {
    let mut features = Features::empty();
    features.set(Features::SIGBUS, !served);
    features.set(Features::EVENT_REMOVE, options.follow >= Follow::Discards);
    features.set(Features::EVENT_UNMAP | Features::EVENT_REMAP, options.follow >= Follow::Mappings);
    let mut wanted = WANTED;
    wanted.set(Features::WP_UNPOPULATED | Features::WP_ASYNC, options.dirty_tracking);
    // The kernel refuses this one without CAP_SYS_PTRACE, whatever else may be had.
    wanted.set(Features::EVENT_FORK, served && options.children);
    let ask = Ask { user_mode_only: !options.kernel_faults, features, wanted, nonblocking, ..Ask::default() };
    let opened = match Descriptor::open(ask) {
        Err(crate::guest::uffd::Error::ForkEvents) => {
            Descriptor::open(Ask { wanted: wanted - Features::EVENT_FORK, ..ask })
        }
        other => other,
    };
    Ok(opened?)
}

fn unreadable(errno: Errno) -> Error {
    Error::Service { doing: "read its descriptor", source: errno.into() }
}
