//! A fault at a limit makes room, charges, and reads its page, all without the allocator: it may run in the handler of a signal.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/forbidden_allocator.rs"]
mod forbidden_allocator;
#[path = "support/guest.rs"]
#[allow(dead_code, reason = "of a file that several tests share")]
mod guest;

use forbidden_allocator::without_allocator;
use guest::*;
use zspool::guest::{Engine, FaultAround, Service, VmOptions};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

#[test]
fn bringing_a_page_in_at_the_limit_never_calls_the_allocator() {
    within_a_minute(|| {
        let zswap = Zswap::builder().pool_limit(64 << 20).slots_in_use(1 << 18).worker(false).build().unwrap();
        let engine = Engine::builder(zswap).evictor(false).build().unwrap();
        let group = engine.root().mkdir("group").unwrap();
        let memcgs = ["a", "b"].map(|name| group.mkdir(name).unwrap());
        let options = || VmOptions::new().service(Service::None).fault_around(FaultAround::Off);
        let vms = memcgs.each_ref().map(|memcg| engine.vm(memcg, options()).unwrap());
        let guests = vms.each_ref().map(|vm| Guest::new(vm, 2000));
        (0..2000).for_each(|page| guests.iter().for_each(|guest| guest.write(page, 1)));
        memcgs[0].write_file("memory.low", "1M").unwrap();
        group.write_file("memory.max", "6M").unwrap();
        for guest in &guests {
            for page in shuffled(0..2000, 5) {
                let range = page * PAGE..(page + 1) * PAGE;
                without_allocator(|| guest.region().make_resident(range)).unwrap();
            }
        }
        assert!(group.current(Counter::Memory) <= 6 << 20 && group.overshoot() == 0);
        let stats = vms.each_ref().map(|vm| vm.stats());
        assert!(stats.iter().all(|stats| stats.all_faults() > 1000 && stats.put_away > 2000), "{stats:?}");
        engine.assert_valid();
        guests.iter().for_each(|guest| (0..2000).for_each(|page| guest.check(page, 1)));
    });
}
