//! [`Vm`]: the memory of one virtual machine, or of one program.

use super::engine::Enrolled;
use super::error::Error;
use super::memory::Memory;
use super::pages::ports::{Observer, Purse};
use super::pages::{Compressed, Pages, Shared};
use super::region::{Evicted, Region};
use crate::memcg::Memcg;
use crate::sync::{Arc, Planted, Weak};
use crate::zswap::Zswap;
use std::ops::Range;

/// How many neighbours that went out together come back with a page that is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAround {
    /// None.
    Off,
    /// So many at most, by copy.
    Pages(u32),
    /// 16, and 64 where pages are touched in order.
    Adaptive,
}

/// Threads that serve faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadOptions {
    /// How many; 0 means one.
    pub count: usize,
    /// The cores they run on, in turn.
    pub cores: Option<Vec<usize>>,
}

/// Who serves faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
}

impl Default for VmOptions {
    fn default() -> Self {
        VmOptions {
            service: Service::InThread,
            fault_around: FaultAround::Adaptive,
            kept_bytes: 0,
            dirty_tracking: false,
            kernel_faults: false,
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

/// The memory of one virtual machine: a memcg, and regions that are charged to it. Clones are the same VM.
#[derive(Clone)]
pub struct Vm {
    inner: Arc<Inner>,
}

/// A VM, as long as somebody else keeps it.
#[derive(Clone)]
pub(crate) struct WeakVm(Weak<Inner>);

impl WeakVm {
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
}

impl Vm {
    /// A VM without memory. For the engine.
    pub(crate) fn assemble(parts: Parts) -> Result<Vm, Error> {
        let Parts { zswap, memcg, purse, observer, options, enroll } = parts;
        let shared = Arc::new(Shared::new(Box::new(zswap.clone()), purse, observer, &options, Planted::NONE)?);
        let enrolled = enroll.map(|enroll| enroll(&shared));
        Ok(Vm { inner: Arc::new(Inner { enrolled, memcg, options, zswap, shared }) })
    }

    /// Register memory: its pages may leave from here on.
    ///
    /// # Errors
    /// What is wrong with the memory, or the kernel.
    ///
    /// # Safety
    /// The range must stay mapped, and nobody else may change what is mapped there, until it is unregistered.
    pub unsafe fn register(&self, _memory: Memory) -> Result<Region, Error> {
        todo!()
    }

    /// Who is charged.
    pub fn memcg(&self) -> &Memcg {
        &self.inner.memcg
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

    /// Its regions.
    pub fn regions(&self) -> Vec<RegionInfo> {
        self.inner.shared.roster.all().iter().map(|pages| RegionInfo { addresses: pages.addresses() }).collect()
    }

    /// Region number `n`, in the order of addresses, for who looks for pages to take out: no allocation.
    pub(crate) fn pages(&self, n: usize) -> Option<Arc<Pages>> {
        self.inner.shared.roster.nth(n)
    }

    /// Compress up to so many staged pages, longest staged first.
    pub(crate) fn compress_staged(&self, pages: u32) -> Compressed {
        self.inner.shared.compress_staged(pages)
    }

    /// Take pages out until so many bytes are won. How many were.
    pub fn evict(&self, _bytes: u64) -> u64 {
        todo!()
    }

    /// Take everything out that can leave.
    pub fn evict_all(&self) -> Evicted {
        todo!()
    }

    /// Bring the pages of an address range in.
    ///
    /// # Errors
    /// When one cannot be read back, or is not registered.
    pub fn make_resident(&self, _range: Range<usize>) -> Result<(), Error> {
        todo!()
    }
}
