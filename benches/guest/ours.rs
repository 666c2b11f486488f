//! Our half: registered memory, taken out and brought back by the crate.

use super::mapping::Mapping;
use super::swapper::Swapper;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, FaultAround, Region, Service, ThreadOptions, Vm, VmOptions};
use zspool::memcg::Counter;
use zspool::units::{PAGE_SIZE, Page};
use zspool::zswap::Zswap;

/// A limit that is looked at and never reached.
pub(crate) const FAR: u64 = 64 << 30;

/// A VM with one region.
pub(crate) struct Ours {
    name: &'static str,
    // In this order: what is registered goes before its mapping.
    region: Region,
    vm: Vm,
    _engine: Engine,
    mapping: Mapping,
}

impl Ours {
    /// With the input in its memory.
    pub(crate) fn new(name: &'static str, options: VmOptions, input: &[Page]) -> Result<Self, String> {
        Self::over(name, options, Mapping::of(input), FAR, true)
    }

    fn over(
        name: &'static str,
        options: VmOptions,
        mapping: Mapping,
        limit_bytes: u64,
        evictor: bool,
    ) -> Result<Self, String> {
        let said = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        let zswap = Zswap::builder().build().map_err(|error| said(&error))?;
        let group = zswap.root().mkdir("group").map_err(|error| said(&error))?;
        let memcg = group.mkdir("vm").map_err(|error| said(&error))?;
        memcg.set_max(Counter::Memory, limit_bytes).map_err(|error| said(&error))?;
        let engine = Engine::builder(zswap).evictor(evictor).build().map_err(|error| said(&error))?;
        let vm = engine.vm(&memcg, options).map_err(|error| said(&error))?;
        let memory = Memory::anonymous(mapping.page(0), mapping.pages() * PAGE_SIZE);
        // SAFETY: the mapping stays until the region is gone, and is changed by nobody else.
        let region = unsafe { vm.register(memory) }.map_err(|error| said(&error))?;
        Ok(Ours { name, region, vm, _engine: engine, mapping })
    }
}

impl Swapper for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    fn out(&self, first: usize, pages: usize) {
        self.region.evict(first * PAGE_SIZE..(first + pages) * PAGE_SIZE);
    }

    fn bring(&self, first: usize, pages: usize) {
        let range = first * PAGE_SIZE..(first + pages) * PAGE_SIZE;
        self.region.make_resident(range).expect("nothing was lost");
    }
}

pub(crate) fn in_thread(around: FaultAround) -> VmOptions {
    VmOptions::new().fault_around(around)
}

pub(crate) fn by_thread(core: usize) -> VmOptions {
    let threads = ThreadOptions::new(1).cores([core]);
    VmOptions::new().fault_around(FaultAround::Off).service(Service::Threads(threads))
}

/// A VM at a limit.
pub(crate) struct Limited(Ours);

impl Limited {
    /// Of a mapping that nobody has touched yet.
    pub(crate) fn new(mapping: Mapping, limit_bytes: u64, evictor: bool) -> Self {
        let ours = Ours::over("ours", in_thread(FaultAround::Off), mapping, limit_bytes, evictor);
        Limited(ours.unwrap_or_else(|error| panic!("{error}")))
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.0.mapping
    }

    /// Faults served so far.
    pub(crate) fn faults(&self) -> u64 {
        self.0.vm.stats().all_faults()
    }
}
