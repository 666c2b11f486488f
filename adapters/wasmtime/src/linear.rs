//! [`Linear`]: one linear memory: a reservation, of which the beginning is accessible and registered.
//!
//! It grows by 64 KiB and more at a time, as the program's allocator asks, and each step is a further range. So that a gigabyte that
//! came in steps of 64 KiB is not 16,384 regions, the last region is registered anew together with what is added as long as it is
//! below 1 MiB: that brings at most 1 MiB in.
//!
//! ```text
//!   | 1 MiB  | 1 MiB  | 320 KiB |+64| PROT_NONE ...
//!   region 0  region 1  region 2  joins region 2
//! ```

use crate::Memories;
use std::io;
use std::ops::Range;
use std::sync::Weak;
use wasmtime::LinearMemory;
use zspool::guest::{Region, Vm, memory::Memory};

/// A last region that is smaller is registered anew together with what is added.
const JOINED_BELOW: usize = 1 << 20;

const PAGE: usize = 4096;

/// A linear memory. Dropped, its pages are thrown away, wherever they are.
pub(crate) struct Linear {
    base: usize,
    /// What may become accessible.
    capacity: usize,
    /// All that is mapped: the capacity and the guard.
    mapped: usize,
    /// What the program may touch.
    bytes: usize,
    vm: Vm,
    /// One behind the other from `base` on; together they are `bytes`, in whole pages.
    regions: Vec<Region>,
    memories: Weak<Memories>,
}

// === impl Linear ===

impl Linear {
    /// A memory of no bytes, with `capacity` reserved and a guard behind.
    pub(crate) fn new(vm: Vm, capacity: usize, guard: usize) -> io::Result<Linear> {
        let capacity = capacity.next_multiple_of(PAGE);
        let mapped = (capacity + guard.next_multiple_of(PAGE)).max(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever there is room.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(
                error.kind(),
                format!(
                    "cannot reserve {mapped} bytes of address space for a linear memory ({error}): raise `ulimit -v`, or lower \
                         `Config::memory_reservation`"
                ),
            ));
        }
        Ok(Linear { base: base as usize, capacity, mapped, bytes: 0, vm, regions: Vec::new(), memories: Weak::new() })
    }

    /// Who keeps a list of it.
    pub(crate) fn belongs_to(&mut self, memories: Weak<Memories>) {
        self.memories = memories;
    }

    /// The addresses that are or may become its own.
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.base..self.base + self.capacity
    }

    /// Its virtual machine.
    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Make it `bytes` long. It stays as it was if that fails.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), String> {
        if bytes > self.capacity {
            return Err(format!(
                "a linear memory of {} bytes cannot grow to {bytes}, since {} were reserved and it cannot move: raise \
                 `Config::memory_reservation`",
                self.bytes, self.capacity
            ));
        }
        let (from, to) = (self.bytes.next_multiple_of(PAGE), bytes.next_multiple_of(PAGE));
        if to > from {
            self.protect(from..to, libc::PROT_READ | libc::PROT_WRITE)
                .map_err(|e| format!("cannot grow a linear memory: {e}"))?;
            if let Err(why) = self.register(from, to) {
                // Nobody has touched it yet: it traps again as before.
                return Err(self.protect(from..to, libc::PROT_NONE).err().map_or(why, |e| e.to_string()));
            }
        }
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }

    /// Register `from..to`, together with the last region if that is small.
    fn register(&mut self, from: usize, to: usize) -> Result<(), String> {
        let mut start = from;
        if self.regions.last().is_some_and(|last| last.addresses().len() < JOINED_BELOW) {
            let last = self.regions.pop().expect("it was looked at");
            let last_start = last.addresses().start - self.base;
            match last.unregister() {
                Ok(()) => start = last_start,
                Err((last, _)) => self.regions.push(last), // a page that cannot be read: it stays as it is, and the new part is one more
            }
        }
        match self.region(start, to) {
            Ok(region) => self.regions.push(region),
            Err(why) => {
                if start < from {
                    self.regions.push(self.region(start, from)?); // it was registered a moment ago
                }
                return Err(why);
            }
        }
        Ok(())
    }

    fn region(&self, from: usize, to: usize) -> Result<Region, String> {
        let memory = Memory::anonymous((self.base + from) as *mut u8, to - from).guest_address(from as u64);
        // SAFETY: our mapping, which is anonymous, is accessible there, and is not touched by us until it was unregistered (W3).
        unsafe { self.vm.register(memory) }.map_err(|e| format!("a linear memory cannot be registered: {e}"))
    }

    fn protect(&self, range: Range<usize>, protection: i32) -> io::Result<()> {
        // SAFETY: a part of our mapping that is not registered.
        match unsafe { libc::mprotect((self.base + range.start) as *mut _, range.len(), protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

// SAFETY: it begins with a page, is as long as it says, does not move (W2), and pages without access follow it.
unsafe impl LinearMemory for Linear {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.grow(bytes).map_err(wasmtime::Error::msg)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.base as *mut u8
    }
}

impl Drop for Linear {
    fn drop(&mut self) {
        if let Some(memories) = self.memories.upgrade() {
            memories.ended(self.base);
        }
        let mut all_off = true;
        for region in self.regions.drain(..) {
            // Nobody will read it: without this, unregistering would bring it all in.
            let _ = region.discard(0..region.addresses().len());
            if let Err((region, error)) = region.unregister() {
                eprintln!(
                    "zspool-wasmtime: a linear memory stays mapped, since a part of it cannot be unregistered: {error}"
                );
                std::mem::forget(region);
                all_off = false;
            }
        }
        if all_off {
            // SAFETY: our mapping, of which nothing is registered any more (W3), and whose instance has ended.
            unsafe { libc::munmap(self.base as *mut _, self.mapped) };
        }
        let _ = self.vm.memcg().offline(); // what stays charged, if anything, is the group's
    }
}
