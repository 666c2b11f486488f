//! What compressed pages and pages in memory have of one limit, which counts both.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/guest.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod guest;

use guest::{Guest, shuffled, within_a_minute};
use zspool::guest::{Engine, Service, VmOptions};
use zspool::memcg::Counter;
use zspool::swap::MemoryDevice;
use zspool::zswap::Zswap;

/// Pages that take twice the limit when they are compressed. They go to the device, and what is in memory keeps its part.
#[test]
fn compressed_pages_leave_room_to_work_in_while_a_device_has_some() {
    const MAX: u64 = 4 << 20;
    const PAGES: usize = 16384; // 64 MiB, that are 8 compressed
    within_a_minute(|| {
        let zswap = Zswap::builder().device(MemoryDevice::new(64 << 20, 4096)).build().unwrap();
        let engine = Engine::new(zswap).unwrap();
        let memcg = engine.root().mkdir("vm").unwrap();
        let vm = engine.vm(&memcg, VmOptions::new().service(Service::None)).unwrap();
        memcg.set_max(Counter::Memory, MAX).unwrap();
        let guest = Guest::new(&vm, PAGES);
        (0..PAGES).for_each(|page| guest.write(page, 1));
        shuffled(0..PAGES, 1).into_iter().for_each(|page| guest.check(page, 1));
        engine.quiesce();
        let stats = vm.stats();
        assert!(stats.on_device_into > MAX / 2, "{stats:?}");
        assert!(stats.resident + stats.staged > MAX / 4, "{stats:?}");
        assert!(memcg.current(Counter::Memory) <= MAX);
        engine.assert_valid();
    });
}
