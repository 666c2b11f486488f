//! [`MmapGuest`]: the memory of a monitor that is built on [`vm-memory`](::vm_memory), registered as it is.
//!
//! ```text
//!   GuestMemoryMmap                 MmapGuest
//!     region --- Arc<mapping> ------->  mappings   keep mapped what is registered
//!     region --- Arc<mapping> ------->
//!                                       map        guest address -> Region
//! ```
//!
//! The monitor keeps its own types; devices read and write through `Bytes` and `VolatileSlice` as before, and pages that are out come
//! back under them. [`VolatileSlice`](::vm_memory::VolatileSlice)s that are handed to the kernel (`read_volatile_from` a file or a
//! socket, vhost, io_uring) are the kernel's accesses: [`VmOptions::kernel_faults`](super::VmOptions::kernel_faults), or
//! [pinned](GuestMap::pin) first.
//!
//! - **V1** What is registered is mapped: `mappings` has a reference to the mapping of every region of `map`, and is dropped after it.

use super::{Changed, Error, GuestMap, GuestRange, Vm};
use crate::sync::Arc;
use std::ops::Deref;
use std::os::fd::AsFd;
use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::MmapRegion;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

/// The ranges of any guest memory of `vm-memory`'s, for [`GuestMap::follow`].
///
/// # Errors
/// When a region has no host address, or lies in huge pages of hugetlbfs.
pub fn ranges<M: GuestMemoryBackend>(memory: &M) -> Result<Vec<GuestRange<'_>>, Error> {
    memory.iter().map(range).collect()
}

fn range<R: GuestMemoryRegion>(region: &R) -> Result<GuestRange<'_>, Error> {
    let guest_address = region.start_addr().raw_value();
    let bytes = region.len() as usize;
    let asked = guest_address..guest_address.saturating_add(region.len());
    if region.is_hugetlbfs() == Some(true) {
        return Err(Error::HugeGuestMemory { range: asked });
    }
    let host = region
        .get_host_address(MemoryRegionAddress(0))
        .map_err(|source| Error::NoHostAddress { range: asked, reason: source.to_string() })?;
    let file = region.file_offset().map(|file| (file.file().as_fd(), file.start()));
    Ok(GuestRange { guest_address, host, bytes, file })
}

/// A [`GuestMemoryMmap`] that is registered with a VM: its [`GuestMap`], and the memory itself, which stays mapped as long.
///
/// ```
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
/// use zspool::guest::vm_memory::MmapGuest;
/// use zspool::guest::{Engine, VmOptions};
/// use zspool::zswap::Zswap;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 4 << 20), (GuestAddress(1 << 32), 4 << 20)])?;
/// let engine = Engine::new(Zswap::builder().build()?)?;
/// let vm = engine.vm(&engine.root().mkdir("vm0")?, VmOptions::new())?;
/// let guest = MmapGuest::register(&vm, &memory)?;
///
/// memory.write_slice(b"a packet", GuestAddress(0x1ffc))?;
/// vm.evict_all();
/// let mut read = [0; 8];
/// memory.read_slice(&mut read, GuestAddress(0x1ffc))?; // both pages come back
/// assert_eq!(&read, b"a packet");
///
/// guest.unregister().map_err(|(_, error)| error)?;
/// # Ok(())
/// # }
/// ```
pub struct MmapGuest<B: Bitmap + 'static = ()> {
    map: GuestMap, // first: V1
    mappings: Vec<Arc<MmapRegion<B>>>,
}

// === impl MmapGuest ===

impl<B: Bitmap + 'static> MmapGuest<B> {
    /// Register all of a guest's memory.
    ///
    /// # Errors
    /// Of the first region that cannot be registered; none is, then.
    pub fn register(vm: &Vm, memory: &GuestMemoryMmap<B>) -> Result<Self, Error> {
        let mut guest = MmapGuest { map: GuestMap::new(vm), mappings: Vec::new() };
        guest.follow(memory)?;
        Ok(guest)
    }

    /// Bring the registration in step with what the guest's memory has become by `insert_region` and `remove_region`. What was taken
    /// away is brought in, unregistered and, unless somebody else holds it, unmapped.
    ///
    /// # Errors
    /// As [`GuestMap::follow`].
    pub fn follow(&mut self, memory: &GuestMemoryMmap<B>) -> Result<Changed, Error> {
        let ranges = ranges(memory)?;
        self.mappings.extend(memory.iter().map(|region| region.get_mmap()));
        // SAFETY: what is registered or is about to be is mapped by somebody whom `mappings` holds, and safe code can only have made
        // mappings that nobody changes before the last holder unmaps them.
        let changed = unsafe { self.map.follow(&ranges) };
        self.let_go();
        changed
    }

    /// Unregister everything: the memory is the caller's alone again.
    ///
    /// # Errors
    /// With what is still registered, when a page of it cannot be read back.
    #[expect(clippy::result_large_err, reason = "who has it gets it back")]
    pub fn unregister(self) -> Result<(), (Self, Error)> {
        let MmapGuest { map, mappings } = self;
        map.unregister().map_err(|(map, error)| {
            let mut guest = MmapGuest { map, mappings };
            guest.let_go();
            (guest, error)
        })
    }

    /// Hold each mapping once, and only those that are registered.
    fn let_go(&mut self) {
        let mut registered: Vec<usize> = self.map.regions().map(|(_, region)| region.addresses().start).collect();
        self.mappings.retain(|mapping| {
            let found = registered.iter().position(|&at| at == mapping.as_ptr() as usize);
            found.map(|at| registered.swap_remove(at)).is_some()
        });
    }
}

impl<B: Bitmap + 'static> Deref for MmapGuest<B> {
    type Target = GuestMap;

    fn deref(&self) -> &GuestMap {
        &self.map
    }
}
