//! [`Vm`]: the memory of one virtual machine, or of one program.

use super::engine::Enrolled;
use super::error::Error;
use super::memory::Memory;
use super::memory::backer::Backer;
use super::pages::ports::{Observer, Purse};
use super::pages::{Pages, Shared};
use super::region::Region;
use super::registry::Announced;
use super::service::children::Children;
use super::service::keeping::Keeping;
use super::service::running::{OnChange, Running};
use super::service::{Follow, MappingChange, ServiceStats, ThreadOptions};
use super::{Evicted, FaultAround};
use crate::memcg::Memcg;
use crate::sync::{Arc, Planted, Weak};
use crate::units::PAGE_SIZE;
use crate::zswap::Zswap;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// Who serves faults.
#[derive(Clone, Debug, Default)]
pub enum Service {
    /// The faulting thread, by SIGBUS.
    #[default]
    InThread,
    /// Threads of ours.
    Threads(ThreadOptions),
    /// The embedder's loop: [`Vm::fd`] and [`Vm::service`].
    External,
    /// Nobody: pages are brought in by calls before they are touched.
    None,
}

/// How a VM is served.
#[derive(Clone, Debug)]
pub struct VmOptions {
    pub(crate) service: Service,
    pub(crate) fault_around: FaultAround,
    pub(crate) kept_bytes: u64,
    pub(crate) dirty_tracking: bool,
    pub(crate) kernel_faults: bool,
    pub(crate) follow: Follow,
    pub(crate) children: bool,
    pub(crate) on_change: Option<OnChange>,
}

impl Default for VmOptions {
    fn default() -> Self {
        VmOptions {
            service: Service::InThread,
            fault_around: FaultAround::Adaptive,
            kept_bytes: 0,
            dirty_tracking: false,
            kernel_faults: false,
            follow: Follow::Nothing,
            children: false,
            on_change: None,
        }
    }
}

impl VmOptions {
    /// The faulting thread serves itself; only its own accesses, not the kernel's; 16 neighbours come along, or 64 in order.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who serves faults.
    pub fn service(mut self, service: Service) -> Self {
        self.service = service;
        self
    }

    /// How many neighbours come along.
    pub fn fault_around(mut self, pages: FaultAround) -> Self {
        self.fault_around = pages;
        self
    }

    /// Keep compressed copies of pages that came in and were not written, up to so many bytes: such a page leaves again without the
    /// codec. 0 keeps none.
    pub fn kept_bytes(mut self, bytes: u64) -> Self {
        self.kept_bytes = bytes;
        self
    }

    /// Have the kernel note which pages are written: [`Vm::take_dirty`].
    pub fn dirty_tracking(mut self, yes: bool) -> Self {
        self.dirty_tracking = yes;
        self
    }

    /// Serve the kernel's accesses too (system calls into missing pages). Needs a permission that is not there everywhere.
    pub fn kernel_faults(mut self, yes: bool) -> Self {
        self.kernel_faults = yes;
        self
    }

    /// Which changes that the process makes to registered memory by itself, its pages follow: discards, `munmap`, `mremap`.
    pub fn follow(mut self, what: Follow) -> Self {
        self.follow = what;
        self
    }

    /// Be told of `munmap` and `mremap`, when pages have followed: with [`Follow::Mappings`]. It is called on a handler, and must neither
    /// touch guest memory nor register any.
    pub fn on_change(mut self, tell: impl Fn(&MappingChange) + Send + Sync + 'static) -> Self {
        self.on_change = Some(OnChange(Arc::new(Box::new(tell))));
        self
    }

    /// Children of `fork` have a copy of memory that is [kept for them](Memory::keep_on_fork). Where the kernel tells of forks
    /// (CAP_SYS_PTRACE, and threads or a loop that serve) it is served from here, while this process lives; elsewhere
    /// [`Engine::fork_prepare`](super::Engine::fork_prepare) must be called before each fork, and brings everything in.
    pub fn children(mut self, yes: bool) -> Self {
        self.children = yes;
        self
    }
}

/// One region, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionInfo {
    /// Its addresses.
    pub addresses: Range<usize>,
}

/// What an engine makes a VM of.
pub(crate) struct Parts {
    pub(crate) zswap: Arc<Zswap>,
    pub(crate) memcg: Memcg,
    pub(crate) purse: Box<dyn Purse>,
    pub(crate) observer: Box<dyn Observer>,
    pub(crate) options: VmOptions,
    /// Join those whose pages are taken; none where nobody takes any (models).
    pub(crate) enroll: Option<Enroll>,
}

/// See [`Parts`].
pub(crate) type Enroll = Box<dyn FnOnce(&Arc<Shared>) -> Enrolled>;

/// The memory of one virtual machine: a memcg, and regions that are charged to it. Clones are the same VM, which lives as long as one of
/// them, or one of its regions, does.
#[derive(Clone)]
pub struct Vm {
    inner: Arc<Inner>,
}

/// A VM, as long as somebody else keeps it.
#[derive(Clone)]
pub(crate) struct WeakVm(Weak<Inner>);

impl WeakVm {
    /// Asked without making one: the last one is not to be dropped where locks are held.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    pub(crate) fn upgrade(&self) -> Option<Vm> {
        Some(Vm { inner: self.0.upgrade()? })
    }
}

struct Inner {
    // Dropped first: nobody takes pages from then on.
    enrolled: Option<Enrolled>,
    memcg: Memcg,
    options: VmOptions,
    zswap: Arc<Zswap>,
    shared: Arc<Shared>,
    backer: Backer,
    running: Running,
}

impl Vm {
    /// A VM without memory. For the engine.
    pub(crate) fn assemble(parts: Parts) -> Result<Vm, Error> {
        let Parts { zswap, memcg, purse, observer, options, enroll } = parts;
        if options.kept_bytes > 0 && options.dirty_tracking {
            return Err(Error::Options {
                what: "copies of clean pages cannot be kept (kept_bytes) while the kernel notes writes (dirty_tracking)",
                instead: "use one of the two: noting writes leaves no way to hold the first one off",
            });
        }
        if options.kept_bytes > 0 && matches!(options.service, Service::None) {
            return Err(Error::Options {
                what: "copies of clean pages cannot be kept (kept_bytes) where nobody serves faults (Service::None)",
                instead: "use one of the two: the first write to a page with such a copy is a fault",
            });
        }
        let children = Children::new(zswap.clone(), memcg.clone())
            .map_err(|source| Error::Service { doing: "open an eventfd for children of fork", source })?;
        let store = Keeping::new(zswap.clone(), children.family());
        let (kept, around) = (options.kept_bytes, options.fault_around);
        let shared = Shared::new(Box::new(store), purse, observer, kept, around, Planted::NONE)?;
        let shared = Arc::new(shared.saying(super::service::say_poisoned));
        let running = Running::start(&options, children, &shared)?;
        let backer = Backer::new(running.descriptor().clone())?;
        let enrolled = enroll.map(|enroll| enroll(&shared));
        Ok(Vm { inner: Arc::new(Inner { enrolled, memcg, options, zswap, shared, backer, running }) })
    }

    /// Register memory, empty or in use: its pages may leave from here on, and come back when they are touched.
    ///
    /// # Errors
    /// What is wrong with the memory, or with the kernel, and what to do.
    ///
    /// # Safety
    /// The range must stay mapped, and nobody else may change what is mapped there, until it is unregistered. Who is served by
    /// [`Service::None`] must not touch it but where [`make_resident`](Self::make_resident) has brought pages in that cannot leave.
    pub unsafe fn register(&self, memory: Memory) -> Result<Region, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.register_if(memory, || Some(())) }
    }

    /// As [`register`](Self::register), for who has found memory by looking at mappings, which others may have unmapped since, and something
    /// else be mapped there: right before the kernel is told, `still` is asked whether the range is what it was. What it returns is held
    /// until the kernel knows: a lock, say, that keeps others from mapping there.
    ///
    /// `still` must not register, nor map or unmap anything.
    ///
    /// # Errors
    /// As [`register`](Self::register), and [`Error::Changed`] where it is not: nothing was registered. Advice was given about what is there
    /// (no huge pages; not for children, and that is taken back).
    ///
    /// # Safety
    /// As [`register`](Self::register), from that moment on.
    pub unsafe fn register_if<G>(&self, memory: Memory, still: impl FnOnce() -> Option<G>) -> Result<Region, Error> {
        let Inner { zswap, shared, backer, running, .. } = &*self.inner;
        let (range, guest_address) = (memory.addresses(), memory.seen_by_guest_at());
        running.may_inherit(&memory, self.options())?;
        running.settle(&range)?;
        // Faults are sent to who serves them from the moment in which the kernel knows the range: it has to be known here before.
        let announced = Announced::new(range.clone())?;
        let backing = running.wrap(backer.back(&memory)?, range.start);
        let slots = zswap.reserve(memory.pages() as u64)?;
        let pages = Pages::new(shared.clone(), backing, slots, range.start)?;
        let pages = pages.inherited_by_children(memory.kept_on_fork());
        let pages = Arc::new(pages.traced(self.options().dirty_tracking, guest_address)?);
        let announced = announced.publish(pages.clone());
        if memory.kept_on_fork() {
            running.will_inherit(&pages);
        }
        shared.regions.add(pages.clone());
        let registered = match still() {
            Some(_held) => pages.register().map_err(Error::from),
            None => Err(Error::Changed { range: range.clone() }),
        };
        registered.inspect_err(|_| {
            shared.regions.remove(pages.id());
            running.forget(&pages);
        })?;
        // From here on it has to be unregistered, which a region does when it is dropped.
        announced.keep();
        let region = Region::new(self.clone(), pages.clone());
        pages.find_present().map_err(|source| Error::Kernel {
            doing: "say which pages are in memory, from",
            page: 0,
            address: range.start,
            source,
        })?;
        Ok(region)
    }

    /// Changes of mappings in a range that were read of are followed when this returns, or go on all the time.
    pub(crate) fn until_followed(&self, range: &Range<usize>) {
        self.inner.running.until_followed(range);
    }

    /// Bring in what `mremap` has moved into a range and is out: nobody serves it there from here on.
    pub(crate) fn settle(&self, range: &Range<usize>) -> Result<(), Error> {
        self.inner.running.settle(range)
    }

    /// Who is charged.
    pub fn memcg(&self) -> &Memcg {
        &self.inner.memcg
    }

    /// With [`Service::External`]: readable when there is something to [serve](Self::service).
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.running.fd()
    }

    /// With [`Service::External`]: serve what there is, and return when there is nothing more. How many events there were; none, at once, while
    /// another thread is at it.
    ///
    /// Also after a panic in it, which leaves nothing undone but what it was at: that is served with the next call.
    ///
    /// # Errors
    /// With another service, or when the descriptor cannot be read.
    pub fn service(&self) -> Result<usize, Error> {
        self.inner.running.service()
    }

    /// What its service has met with.
    pub fn service_stats(&self) -> ServiceStats {
        self.inner.running.stats()
    }

    /// Its service.
    pub(crate) fn running(&self) -> &Running {
        &self.inner.running
    }

    /// What all its regions share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// What it keeps of its engine.
    pub(crate) fn enrolled(&self) -> Option<&Enrolled> {
        self.inner.enrolled.as_ref()
    }

    pub(crate) fn downgrade(&self) -> WeakVm {
        WeakVm(Arc::downgrade(&self.inner))
    }

    /// Its options.
    pub(crate) fn options(&self) -> &VmOptions {
        &self.inner.options
    }

    /// The store.
    pub(crate) fn zswap(&self) -> &Arc<Zswap> {
        &self.inner.zswap
    }

    /// Its regions, in the order of addresses.
    pub fn regions(&self) -> Vec<RegionInfo> {
        self.inner.shared.regions.all().iter().map(|pages| RegionInfo { addresses: pages.addresses() }).collect()
    }

    /// Region number `n`, in the order of addresses: no allocation.
    pub(crate) fn pages(&self, n: usize) -> Option<Arc<Pages>> {
        self.inner.shared.regions.nth(n)
    }

    /// Have bytes leave until so many less are charged, the coldest first, whatever limits say. How many less there are.
    pub fn evict(&self, bytes: u64) -> u64 {
        match self.enrolled() {
            Some(enrolled) => match enrolled.tenant.account().charged() {
                Some(memcg) => enrolled.engine.evict(&memcg, bytes),
                None => 0, // it is being removed this moment
            },
            None => self.evict_some(Some(bytes)).won_bytes,
        }
    }

    /// Have everything leave that can.
    pub fn evict_all(&self) -> Evicted {
        self.evict_some(None)
    }

    fn evict_some(&self, most: Option<u64>) -> Evicted {
        let mut evicted = Evicted::default();
        for pages in self.inner.shared.regions.all() {
            evicted += pages.evict(0..pages.count(), most.map(|most| most.saturating_sub(evicted.won_bytes)));
        }
        evicted
    }

    /// Bring the pages of an address range in, whatever has to leave for them. They may leave again at once: [`Region::pin`] keeps them.
    ///
    /// # Errors
    /// [`Error::Outside`] when part of it is of no region; [`Error::Unreadable`] for the first page that cannot be read.
    pub fn make_resident(&self, range: Range<usize>) -> Result<(), Error> {
        let (mut at, mut before) = (range.start, 0..0);
        for pages in self.inner.shared.regions.all() {
            let there = pages.addresses();
            if there.end <= at || at >= range.end {
                before = if there.end <= at { there } else { before };
                continue;
            }
            if there.start > at {
                return Err(Error::Outside { range: at..there.start.min(range.end), inside: there });
            }
            let end = range.end.min(there.end);
            let page = |address: usize| ((address - there.start) / PAGE_SIZE) as u32;
            pages.make_resident(page(at)..page(end - 1) + 1)?;
            (at, before) = (end, there);
        }
        if at < range.end { Err(Error::Outside { range: at..range.end, inside: before }) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("memcg", &self.memcg().path())
            .field("regions", &self.regions())
            .finish_non_exhaustive()
    }
}
