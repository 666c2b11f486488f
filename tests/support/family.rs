//! A VM whose memory is kept for children of fork, with pages in every state.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use crate::served::{Mapping, PAGE, engine_over, threads, tricky};
use crate::support::skip;
use zspool::guest::{Engine, Region, Vm, VmOptions};
use zspool::swap::MemoryDevice;
use zspool::zswap::Shrunk;

/// Served by so many threads, with children.
pub fn parent(count: usize) -> VmOptions {
    threads(count).children(true)
}

/// A VM whose memory is kept for children, in every state there is: pages 0..100 compressed, 100..200 on a device, 200..300 staged and back, 300..400
/// in memory, 400..450 of one repeated word, 450..500 never touched.
pub struct Family {
    // Dropped in this order: the memory stays mapped while it is registered.
    pub region: Region,
    pub mapping: Mapping,
    pub vm: Vm,
    pub engine: Engine,
}

pub fn family(options: VmOptions) -> Family {
    let engine = engine_over(tricky().device(MemoryDevice::new(64 << 20, 4096)));
    let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), options).unwrap();
    let mapping = Mapping::new(500);
    mapping.write(0..400, 1);
    for page in 400..450 {
        // SAFETY: the test's memory.
        (0..512).for_each(|k| unsafe { mapping.at(page).wrapping_add(k).write_volatile(page as u64) });
    }
    // SAFETY: the mapping outlives the region.
    let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
    region.evict(100 * PAGE..200 * PAGE);
    let mut written = 0;
    while written < 100 {
        match engine.zswap().shrink_memcg(vm.memcg(), 100) {
            Shrunk::Written(_) => written += 1,
            _ => break,
        }
    }
    region.evict(0..100 * PAGE);
    region.evict(200 * PAGE..300 * PAGE);
    mapping.check(220..260, 1);
    region.evict(400 * PAGE..450 * PAGE);
    Family { engine, vm, mapping, region }
}

impl Family {
    /// Whether all pages are as they were when the child was made; without a lock or an allocation.
    pub fn is_as_it_was(&self) -> bool {
        let same_filled = |page: usize| {
            // SAFETY: the test's memory.
            (0..512).all(|k| unsafe { self.mapping.at(page).wrapping_add(k).read_volatile() } == page as u64)
        };
        // SAFETY: the test's memory.
        let zero =
            |page: usize| (0..512).all(|k| unsafe { self.mapping.at(page).wrapping_add(k).read_volatile() } == 0);
        self.mapping.is(0..400, 1) && (400..450).all(same_filled) && (450..500).all(zero)
    }
}

/// Whether the kernel tells of forks here. Said aloud where it does not.
pub fn told_of_forks(test: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let ptrace = u64::from_str_radix(caps.trim(), 16).unwrap() >> 19 & 1 == 1;
    if !ptrace {
        skip(test, "events of forks need CAP_SYS_PTRACE");
    }
    ptrace
}
