//! Linear memories of wasmtime under memory limits: cold pages are compressed, and come back when the program touches them.
//!
//! ```text
//!   group (memcg, memory.max) --+-- wasm0 --- Vm --- LinearMemory of the first instance
//!                               +-- wasm1 --- Vm --- LinearMemory of the second
//!
//!   LinearMemory:   | readable and writable, registered  | PROT_NONE: traps          | guard: PROT_NONE      |
//!                   0             byte_size, grows -->   |              byte_capacity (wasmtime's reservation) |
//! ```
//!
//! [`Memories`] is a [`MemoryCreator`]; [`Memories::configure`] puts it into a [`Config`]. Every memory is a virtual machine of its own
//! ([`zspool::guest::Vm`]) in a memcg below the group: it can have limits of its own, be evicted, and has statistics. What is touched
//! comes back in the thread that touches it, by SIGBUS; wasmtime's own traps are SIGSEGV on Linux, and pages behind the end of the
//! memory stay without access, so that they trap as ever.
//!
//! - **W1** A byte is accessible if and only if it is below `byte_size`, and then it is registered.
//! - **W2** The base never moves: a memory cannot grow past what wasmtime had reserved for it.
//! - **W3** Nothing is unmapped that is registered.
//!
//! Works with the on-demand allocator (wasmtime does not ask a `MemoryCreator` in the pooling one) and for memories that are not shared.

mod linear;

use linear::Linear;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use wasmtime::{Config, InstanceAllocationStrategy, LinearMemory, MemoryCreator, MemoryType};
use zspool::guest::{Engine, Vm, VmOptions};
use zspool::memcg::Memcg;

/// Makes linear memories whose pages are charged to a group, leave at its limits, and come back.
pub struct Memories {
    engine: Engine,
    group: Memcg,
    options: VmOptions,
    /// How many were made: the next one's name.
    made: AtomicU64,
    /// Those that live, by name.
    living: Mutex<Vec<Living>>,
    /// For memories, which take themselves off the list.
    me: Weak<Memories>,
}

struct Living {
    name: String,
    addresses: Range<usize>,
    vm: Vm,
}

// === impl Memories ===

impl Memories {
    /// Memories that are charged to `group`, each as a memcg `wasm0`, `wasm1`, ... below it, served in the thread that touches them.
    pub fn new(engine: &Engine, group: &Memcg) -> Arc<Memories> {
        Self::with(engine, group, VmOptions::new())
    }

    /// The same, with other options: who serves faults, and whether the kernel's accesses are served as well (a host function that reads
    /// from a file straight into a linear memory makes such).
    pub fn with(engine: &Engine, group: &Memcg, options: VmOptions) -> Arc<Memories> {
        Arc::new_cyclic(|me| Memories {
            engine: engine.clone(),
            group: group.clone(),
            options,
            made: AtomicU64::new(0),
            living: Mutex::new(Vec::new()),
            me: me.clone(),
        })
    }

    /// Have an engine of wasmtime's use them.
    ///
    /// Two settings go with it, and are made here: the on-demand allocator, and no copy-on-write images, which wasmtime cannot put
    /// into memory that is not its own: with them it panics at the first module that has a data segment. Whoever sets them otherwise
    /// afterwards gets that panic.
    pub fn configure(self: &Arc<Self>, config: &mut Config) {
        config.with_host_memory(self.clone());
        config.memory_init_cow(false);
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    }

    /// The virtual machine of a memory, by its address ([`wasmtime::Memory::data_ptr`]) or any other in it.
    pub fn vm_at(&self, address: *const u8) -> Option<Vm> {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.iter().find(|memory| memory.addresses.contains(&(address as usize))).map(|memory| memory.vm.clone())
    }

    /// The memories that live: name of the memcg, and the virtual machine.
    pub fn vms(&self) -> Vec<(String, Vm)> {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.iter().map(|memory| (memory.name.clone(), memory.vm.clone())).collect()
    }

    /// What the memories are charged to.
    pub fn group(&self) -> &Memcg {
        &self.group
    }

    fn make(&self, minimum: usize, reserved: usize, guard: usize) -> Result<Linear, String> {
        let name = format!("wasm{}", self.made.fetch_add(1, Ordering::Relaxed));
        let memcg = self.group.mkdir(&name).map_err(|e| format!("no memcg for a linear memory: {e}"))?;
        let made = (self.engine.vm(&memcg, self.options.clone()).map_err(|e| e.to_string()))
            .and_then(|vm| Linear::new(vm, reserved, guard).map_err(|e| e.to_string()))
            .and_then(|mut linear| linear.grow(minimum).map(|()| linear));
        match made {
            Ok(mut linear) => {
                let (addresses, vm) = (linear.addresses(), linear.vm().clone());
                self.living.lock().unwrap_or_else(PoisonError::into_inner).push(Living { name, addresses, vm });
                linear.belongs_to(self.me.clone());
                Ok(linear)
            }
            Err(why) => {
                let _ = memcg.offline();
                Err(why)
            }
        }
    }

    /// A memory is about to be unmapped.
    fn ended(&self, start: usize) {
        self.living.lock().unwrap_or_else(PoisonError::into_inner).retain(|memory| memory.addresses.start != start);
    }
}

// SAFETY: a memory is zero-filled, stays where it is (W2), has the reservation and the guard behind it that were asked for, without access
// (W1), and is handed to nobody but wasmtime.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if ty.is_shared() {
            return Err(
                "shared linear memories cannot be paged out here: instantiate the module with an engine of its own, \
                        without `Memories::configure`"
                    .into(),
            );
        }
        // A smaller reservation than the memory may need would have to move it later: take what it may need, where that is known.
        let reserved = reserved.unwrap_or(0).max(minimum).max(maximum.filter(|&most| most <= 4 << 30).unwrap_or(0));
        Ok(Box::new(self.make(minimum, reserved, guard)?))
    }
}
