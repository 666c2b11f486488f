//! Children of fork whose pages lie on a device that fails: they are told, and what can be read they read.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/family.rs"]
mod family;
#[path = "support/forked.rs"]
mod forked;
#[path = "support/served.rs"]
mod served;
mod support;

use family::*;
use forked::*;
use served::*;
use std::sync::Arc;
use zspool::guest::Error;
use zspool::memcg::Counter;
use zspool::swap::{FaultyDevice, MemoryDevice, Plan};
use zspool::zswap::Shrunk;

/// 200 pages of version 1: the first half on the device, the other compressed.
const ON_DEVICE: std::ops::Range<usize> = 0..100;
const IN_POOL: std::ops::Range<usize> = 100..200;

#[test]
fn a_page_that_cannot_be_read_is_a_sigbus_in_a_child_too() {
    let name = "a_page_that_cannot_be_read_is_a_sigbus_in_a_child_too";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let device = Arc::new(FaultyDevice::new(MemoryDevice::new(8 << 20, 4096), Plan::none()));
        let engine = engine_over(tricky().device(Arc::clone(&device)));
        let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), alone(parent(1).kernel_faults(true))).unwrap();
        let mapping = Mapping::new(200);
        mapping.write(0..200, 1);
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
        region.evict(ON_DEVICE.start * PAGE..ON_DEVICE.end * PAGE);
        while let Shrunk::Written(_) = engine.zswap().shrink_memcg(vm.memcg(), 100) {}
        region.evict(IN_POOL.start * PAGE..IN_POOL.end * PAGE);
        assert!(vm.stats().on_device >= 100 * PAGE as u64, "{:?}", vm.stats());

        device.replan(Plan::none().down_from(0, libc::EIO));
        // What the kernel reads for a child says so where a touch would end it.
        let asks = fork(|| {
            let lost = (0..25).filter(|&page| !mapping.can_be_read(page)).count();
            i32::from(lost != 25 || !IN_POOL.clone().all(|page| mapping.can_be_read(page)) || !mapping.is(IN_POOL, 1))
        });
        assert_eq!(wait(asks), 0, "25 pages are errors, and the others as they were");
        let touches = fork(|| i32::from(mapping.is(25..26, 1)));
        assert_eq!(wait(touches), 256 + libc::SIGBUS, "no zeroes, and no other bytes");
        assert!(matches!(region.make_resident(30 * PAGE..31 * PAGE), Err(Error::Unreadable { .. })));

        // It is back: what nobody had asked for meanwhile is as it was, in a child and in the parent.
        device.replan(Plan::none());
        let child = fork(|| i32::from(!(mapping.is(50..100, 1) && mapping.is(IN_POOL, 1))));
        assert_eq!(wait(child), 0, "the child has its memory as it was");
        mapping.check(50..200, 1);
        region.discard(0..50 * PAGE).unwrap();
        region.unregister().map_err(|(_, error)| error).unwrap();
        until("what children had is given back when their ends are seen", || vm.memcg().current(Counter::Memory) == 0);
        drop(vm);
        engine.zswap().assert_valid();
        assert_eq!(engine.zswap().stats().pool.objects, 0);
    });
    well(&output.unwrap());
}
