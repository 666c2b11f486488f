//! What compressed pages and pages in memory have of one limit, which counts both; and what VMs have of one that they share.
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

/// Two VMs that are equally busy share a limit that is too small for both. The one that came later gets its part of it.
#[test]
fn the_first_comer_does_not_keep_all() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    const PAGES: usize = 3000;
    within_a_minute(|| {
        let zswap = Zswap::builder().pool_limit(64 << 20).build().unwrap();
        let engine = Engine::new(zswap).unwrap();
        let group = engine.root().mkdir("group").unwrap();
        group.set_max(Counter::Memory, 3000 * 4096).unwrap();
        let make = |name: &str| {
            let memcg = group.mkdir(name).unwrap();
            let vm = engine.vm(&memcg, VmOptions::new()).unwrap();
            let guest = Guest::new(&vm, PAGES);
            (vm, guest)
        };
        let both = [make("first"), make("second")];
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = &stop;
            for (k, (_, guest)) in both.iter().enumerate() {
                scope.spawn(move || {
                    (0..PAGES).for_each(|page| guest.write(page, 1));
                    let mut x = 88172645463325252u64 + k as u64;
                    while !stop.load(Relaxed) {
                        x ^= x << 13;
                        x ^= x >> 7;
                        x ^= x << 17;
                        guest.check(x as usize % PAGES, 1);
                    }
                });
                std::thread::sleep(std::time::Duration::from_secs(1)); // the first has it for itself
            }
            let seen = |looks: u32| {
                let mut resident = [0, 0];
                for _ in 0..looks {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    (0..2).for_each(|k| resident[k] += both[k].0.stats().resident);
                }
                resident
            };
            let has_its_part = |resident: [u64; 2]| resident.iter().all(|&its| its > resident.iter().sum::<u64>() / 5);
            // On a slow machine it is still coming. What it has then, it keeps.
            let _ = (0..20).find(|_| has_its_part(seen(5)));
            let resident = seen(30);
            stop.store(true, Relaxed);
            assert!(has_its_part(resident), "{resident:?}");
        });
        engine.assert_valid();
    });
}
