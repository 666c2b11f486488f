//! Four VMs under one limit, one idle: it shrinks, the others keep what they use; and all sums are exact.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/guest.rs"]
#[allow(dead_code, reason = "of a file that several tests share")]
mod guest;

use guest::*;
use zspool::guest::{Engine, FaultKind, VmOptions};
use zspool::memcg::Counter;
use zspool::units::NodeId;
use zspool::zswap::Zswap;

const PAGES: usize = 2048;

#[test]
fn the_idle_vm_of_a_group_shrinks_and_sums_are_exact() {
    within_a_minute(|| {
        let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
        let group = engine.root().mkdir("group").unwrap();
        let memcgs: Vec<_> = (0..4).map(|k| group.mkdir(&format!("vm{k}")).unwrap()).collect();
        let options = VmOptions::new; // faults are served by who touches
        let vms: Vec<_> = memcgs.iter().map(|memcg| engine.vm(memcg, options()).unwrap()).collect();
        let guests: Vec<_> = vms.iter().map(|vm| Guest::served(vm, PAGES)).collect();
        (0..PAGES).for_each(|page| guests.iter().for_each(|guest| guest.write(page, 0)));
        // Room for three of them, and what the fourth compresses to.
        let max = 3 * PAGES as u64 * 4096 + PAGES as u64 * 700;
        group.write_file("memory.max", &max.to_string()).unwrap();

        let evicted = |k: usize| vms[k].stats().put_away;
        let refaults = |k: usize| vms[k].stats().faults_of(FaultKind::Compressed).count();
        let (mut middle, mut last) = ([0; 4], [0; 4]);
        for round in 1..9 {
            if round == 5 {
                middle = std::array::from_fn(evicted);
            }
            last = std::array::from_fn(refaults);
            std::thread::scope(|scope| {
                for (k, guest) in guests.iter().enumerate().skip(1) {
                    scope.spawn(move || {
                        for page in shuffled(0..PAGES, round * 4 + k as u64) {
                            guest.write(page, round);
                        }
                    });
                }
            });
            assert!(group.current(Counter::Memory) <= max);
        }
        engine.quiesce();

        let stats: Vec<_> = vms.iter().map(|vm| vm.stats()).collect();
        let resident: Vec<_> = stats.iter().map(|stats| (stats.resident + stats.staged) / 4096).collect();
        assert!(resident[0] < PAGES as u64 / 4, "the idle one: {resident:?}");
        assert!(resident[1..].iter().all(|&pages| pages > PAGES as u64 * 7 / 8), "the busy ones: {resident:?}");
        assert!(resident[1..].iter().all(|&pages| resident[0] < pages / 2), "its share is below theirs: {resident:?}");
        // In the last round the idle one had none, and the busy ones hardly a page of what they use came back from its slot.
        let back: [u64; 4] = std::array::from_fn(|k| refaults(k) - last[k]);
        assert!(back[0] == 0 && back[1..].iter().all(|&pages| pages < PAGES as u64 / 20), "{back:?}");
        println!("pages in memory {resident:?}, refaults in the last round {back:?} of {last:?} before");
        let late: Vec<_> = (1..4).map(|k| evicted(k) - middle[k]).collect();
        assert!(
            late.iter().all(|&pages| pages < 4 * PAGES as u64 / 10),
            "evictions in four rounds at the end: {late:?}"
        );

        // Sums: VM, memcg, group, allocator.
        for (stats, memcg) in stats.iter().zip(&memcgs) {
            assert_eq!(stats.charged(), memcg.current(Counter::Memory));
        }
        let sum: u64 = stats.iter().map(|stats| stats.charged()).sum();
        assert_eq!(sum, group.current(Counter::Memory));
        let compressed: u64 = stats.iter().map(|stats| stats.compressed_into).sum();
        assert_eq!(compressed, group.current(Counter::Zswap));
        assert_eq!(compressed, group.numa_stat().unwrap()[usize::from(NodeId(0).0)].compressed);
        let pages: u64 = stats.iter().map(|stats| stats.compressed / 4096).sum();
        let pool = engine.zswap().stats();
        assert_eq!(pages, pool.compressed_pages + pool.incompressible_pages + pool.pattern_pages);
        assert_eq!(group.overshoot(), 0);
        engine.assert_valid();

        guests.iter().enumerate().for_each(|(k, guest)| {
            (0..PAGES).for_each(|page| guest.check(page, if k == 0 { 0 } else { 8 }));
        });
        group.write_file("memory.max", "max").unwrap();
        guests.into_iter().for_each(Guest::unregister);
        assert_eq!(group.current(Counter::Memory), 0);
    });
}
