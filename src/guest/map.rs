//! [`GuestMap`]: the registered memory of a VM by guest addresses, kept in step with what its monitor has.
//!
//! ```text
//!   guest addresses   0          3 GiB      4 GiB                6 GiB        8 GiB
//!                     +----------+          +--------------------+            +--------+
//!                     | region   |  (hole)  | region             |            | region |  <-- plugged in: registered
//!                     +----------+          +--------------------+            +--------+
//!   host addresses    0x7f10...             0x7e00...                         0x7d40...      any order, any distance
//! ```
//!
//! - **M1** A range is one region, from its registration until it is removed: what [`follow`](GuestMap::follow) finds again, by guest
//!   address, host address and length, is left alone.
//! - **M2** No two ranges share a guest address.
//! - **M3** A step that fails leaves a range either registered and in the map, or neither.

use super::memory::Memory;
use super::{Error, Pin, Prefetched, Region, Vm};
use crate::units::PAGE_SIZE;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// A range of a guest's memory as its monitor knows it, whatever types that monitor has for it.
#[derive(Clone, Copy, Debug)]
pub struct GuestRange<'fd> {
    /// Where the guest sees it.
    pub guest_address: u64,
    /// Where it is mapped here.
    pub host: *mut u8,
    /// Its length, whole pages.
    pub bytes: usize,
    /// For memory that is a shared mapping: of which memfd, from which offset on. None: private anonymous memory.
    pub file: Option<(BorrowedFd<'fd>, u64)>,
}

/// What [`GuestMap::follow`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Ranges that were registered.
    pub registered: usize,
    /// Ranges that were unregistered.
    pub unregistered: usize,
}

/// The registered memory of one VM, by guest addresses. Dropped, all of it is unregistered, as [`Region`] says.
pub struct GuestMap {
    vm: Vm,
    /// By guest address.
    ranges: BTreeMap<u64, Region>,
}

// === impl GuestMap ===

impl GuestMap {
    /// A map without memory.
    pub fn new(vm: &Vm) -> GuestMap {
        GuestMap { vm: vm.clone(), ranges: BTreeMap::new() }
    }

    /// Register a range that was plugged in.
    ///
    /// # Errors
    /// As [`Vm::register`], and when the guest has memory at some of these addresses already.
    ///
    /// # Safety
    /// As [`Vm::register`]: the range must stay mapped as it is until it is removed.
    pub unsafe fn add(&mut self, range: GuestRange<'_>) -> Result<(), Error> {
        let asked = extent(range.guest_address, range.bytes);
        if let Some((&at, other)) = self.ranges.range(..asked.end).next_back() {
            let other = extent(at, other.addresses().len());
            if other.end > asked.start {
                return Err(Error::GuestOverlap { range: asked, other });
            }
        }
        let memory = match range.file {
            None => Memory::anonymous(range.host, range.bytes),
            Some((file, offset)) => Memory::memfd(range.host, range.bytes, file, offset),
        };
        // SAFETY: the caller's promise.
        let region = unsafe { self.vm.register(memory.guest_address(range.guest_address)) }?;
        self.ranges.insert(range.guest_address, region);
        Ok(())
    }

    /// Unregister the range that begins at a guest address: everything of it is brought in, then it is the caller's to unmap.
    ///
    /// # Errors
    /// When nothing that begins there is registered, or a page cannot be read back; it stays registered then.
    pub fn remove(&mut self, guest_address: u64) -> Result<(), Error> {
        let Some(region) = self.ranges.remove(&guest_address) else {
            return Err(Error::NoGuestMemory { range: guest_address..guest_address });
        };
        region.unregister().map_err(|(region, error)| {
            self.ranges.insert(guest_address, region);
            error
        })
    }

    /// Bring the map in step with all the memory a guest has now: what is gone is unregistered, what is new is registered, what is
    /// there is left alone.
    ///
    /// # Errors
    /// Of the first range that cannot be unregistered (nothing is registered then) or registered (what this call registered is
    /// unregistered again, what is gone stays gone).
    ///
    /// # Safety
    /// As [`add`](Self::add) for all of `ranges`; what is gone must still be mapped.
    pub unsafe fn follow(&mut self, ranges: &[GuestRange<'_>]) -> Result<Changed, Error> {
        let is = |at: u64, region: &Region, range: &GuestRange<'_>| {
            at == range.guest_address
                && region.addresses().start == range.host as usize
                && region.addresses().len() == range.bytes
        };
        let gone: Vec<u64> = (self.ranges.iter())
            .filter(|(at, region)| !ranges.iter().any(|range| is(**at, region, range)))
            .map(|(at, _)| *at)
            .collect();
        for &at in &gone {
            self.remove(at)?;
        }
        let mut new: Vec<u64> = Vec::new();
        for range in ranges {
            if self.ranges.get(&range.guest_address).is_some_and(|region| is(range.guest_address, region, range)) {
                continue;
            }
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { self.add(*range) } {
                for at in new {
                    let _ = self.remove(at); // it stays in the map, if it must
                }
                return Err(error);
            }
            new.push(range.guest_address);
        }
        Ok(Changed { registered: new.len(), unregistered: gone.len() })
    }

    /// Unregister everything.
    ///
    /// # Errors
    /// With the map of what is still registered, when a page of it cannot be read back.
    #[expect(clippy::result_large_err, reason = "who has it gets it back")]
    pub fn unregister(mut self) -> Result<(), (GuestMap, Error)> {
        while let Some((&at, _)) = self.ranges.first_key_value() {
            if let Err(error) = self.remove(at) {
                return Err((self, error));
            }
        }
        Ok(())
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The regions with their guest addresses, in ascending order.
    pub fn regions(&self) -> impl Iterator<Item = (u64, &Region)> {
        self.ranges.iter().map(|(&at, region)| (at, region))
    }

    /// The parts of a range of guest addresses, in ascending order: the region and the bytes from its start.
    ///
    /// # Errors
    /// When some of it is not registered.
    pub fn parts(&self, range: Range<u64>) -> Result<Vec<(&Region, Range<usize>)>, Error> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let found = self.ranges.range(..=at).next_back().map(|(&start, region)| {
                let within = extent(start, region.addresses().len());
                (start, region, within)
            });
            match found {
                Some((start, region, within)) if within.contains(&at) => {
                    let end = within.end.min(range.end);
                    parts.push((region, (at - start) as usize..(end - start) as usize));
                    at = end;
                }
                _ => return Err(Error::NoGuestMemory { range }),
            }
        }
        Ok(parts)
    }

    /// Throw pages away that the guest gave back, by a balloon or a report of free pages: they read as zeroes. Bytes that were
    /// somewhere.
    ///
    /// # Errors
    /// As [`Region::discard`], and when some of the range is not registered.
    pub fn discard(&self, range: Range<u64>) -> Result<u64, Error> {
        self.parts(range)?.into_iter().map(|(region, bytes)| region.discard(bytes)).sum()
    }

    /// Bring pages in and keep them there while the result lives, for a device that looks at them.
    ///
    /// # Errors
    /// As [`Region::pin`], and when some of the range is not registered.
    pub fn pin(&self, range: Range<u64>) -> Result<Vec<Pin<'_>>, Error> {
        self.parts(whole_pages(range))?.into_iter().map(|(region, bytes)| region.pin(bytes)).collect()
    }

    /// Bring pages in ahead, as far as limits have room.
    ///
    /// # Errors
    /// When some of the range is not registered.
    pub fn prefetch(&self, range: Range<u64>) -> Result<Prefetched, Error> {
        let mut all = Prefetched::default();
        for (region, bytes) in self.parts(whole_pages(range))? {
            let one = region.prefetch(bytes);
            all.pages += one.pages;
            all.left += one.left;
        }
        Ok(all)
    }
}

/// The guest addresses of a range; one that would pass the end of the address space ends there.
fn extent(start: u64, bytes: usize) -> Range<u64> {
    start..start.saturating_add(bytes as u64)
}

/// The pages that a range touches: rings and buffers of devices begin and end anywhere.
fn whole_pages(range: Range<u64>) -> Range<u64> {
    let page = PAGE_SIZE as u64;
    range.start / page * page..range.end.div_ceil(page).saturating_mul(page)
}
