//! Tiers from the outside: which devices a memcg's pages go to, devices that come while others work, and what is charged.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use support::*;
use zspool::memcg::{Counter, Memcg};
use zspool::swap::{DeviceOptions, FaultyDevice, MemoryDevice, Plan, State};
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Builder, Error, Shrunk, Unwritable, Zswap};

const N0: NodeId = NodeId(0);

fn base() -> Builder {
    Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 13).address_space(64 << 20).worker(false)
}

fn memory(tier: &str, priority: i16) -> DeviceOptions {
    DeviceOptions::device(MemoryDevice::new(4 << 20, 4096)).tier(tier, priority)
}

fn fill(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, range: std::ops::Range<u64>) {
    for k in range {
        zswap.store(slots.get(k).unwrap(), memcg, N0, &compressible(k, 500)).unwrap();
    }
}

/// Objects on the devices, by tier.
fn by_tier(zswap: &Zswap) -> BTreeMap<String, u64> {
    let mut tiers = BTreeMap::new();
    for row in zswap.devices() {
        *tiers.entry(row.tier).or_default() += row.area.objects;
    }
    tiers
}

fn tiers(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(tier, objects)| (tier.to_owned(), objects)).collect()
}

#[test]
fn pages_go_where_every_memcg_above_allows() {
    let zswap = base().swap(memory("nvme", 10)).swap(memory("disk", 0)).build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let (a, b) = (tenant.mkdir("a").unwrap(), tenant.mkdir("b").unwrap());
    let slots = zswap.reserve(200).unwrap();
    fill(&zswap, &a, slots, 0..50);
    fill(&zswap, &b, slots, 50..100);
    a.write_file("memory.swap.tiers.max", "nvme 0").unwrap();
    assert!(matches!(zswap.shrink_memcg(&a, 50), Shrunk::Written(_)));
    assert_eq!(by_tier(&zswap), tiers(&[("disk", 50), ("nvme", 0)]));
    assert!(matches!(zswap.shrink_memcg(&b, 50), Shrunk::Written(_)));
    assert_eq!(by_tier(&zswap), tiers(&[("disk", 50), ("nvme", 50)]));
    // The tenant forbids the other one: nothing of `a` goes anywhere, and `b` goes on.
    fill(&zswap, &a, slots, 100..120);
    fill(&zswap, &b, slots, 120..140);
    tenant.write_file("memory.swap.tiers.max", "disk 0").unwrap();
    assert_eq!(zswap.shrink_memcg(&a, 50), Shrunk::NothingToScan);
    tenant.write_file("memory.reclaim", "5000 source=zswap").unwrap();
    assert!(by_tier(&zswap)["nvme"] > 50);
    assert_eq!(by_tier(&zswap)["disk"], 50);
    // What lies where it may lie no longer is read as before.
    let mut page = Page::zeroed();
    for k in 0..140 {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(*page == *compressible(k, 500), "page {k}");
    }
    zswap.assert_valid();
}

#[test]
fn entries_of_memcgs_with_different_tiers_share_no_batch() {
    let zswap = base().swap(memory("nvme", 10)).swap(memory("disk", 0)).build().unwrap();
    let memcgs: Vec<_> = (0..6).map(|k| zswap.root().mkdir(&k.to_string()).unwrap()).collect();
    let slots = zswap.reserve(600).unwrap();
    for (k, memcg) in memcgs.iter().enumerate() {
        let forbidden = if k % 2 == 0 { "nvme 0" } else { "disk 0" };
        memcg.write_file("memory.swap.tiers.max", forbidden).unwrap();
        zswap.set_zswap_max(memcg, 20_000).unwrap();
    }
    // At their limits, stores of several memcgs put what they pick in common batches.
    std::thread::scope(|threads| {
        for (k, memcg) in memcgs.iter().enumerate() {
            let zswap = &zswap;
            threads.spawn(move || fill(zswap, memcg, slots, k as u64 * 100..k as u64 * 100 + 100));
        }
    });
    zswap.assert_valid();
    let on_nvme: u64 = memcgs.iter().skip(1).step_by(2).map(|memcg| memcg.current(Counter::Swap)).sum();
    let on_disk: u64 = memcgs.iter().step_by(2).map(|memcg| memcg.current(Counter::Swap)).sum();
    let live = |tier: &str| zswap.devices().iter().find(|row| row.tier == tier).unwrap().area.live_bytes;
    assert_eq!((live("nvme"), live("disk")), (on_nvme, on_disk));
    assert!(on_nvme > 0 && on_disk > 0);
}

#[test]
fn a_memcg_whose_tier_is_full_does_not_stop_others() {
    let small = DeviceOptions::device(MemoryDevice::new(512 << 10, 4096)).tier("small", 10);
    let zswap = base().swap(small).swap(memory("large", 0)).build().unwrap();
    let (full, other) = (zswap.root().mkdir("full").unwrap(), zswap.root().mkdir("other").unwrap());
    full.set_tier("large", false).unwrap();
    other.set_tier("small", false).unwrap();
    let slots = zswap.reserve(3000).unwrap();
    fill(&zswap, &full, slots, 0..1500);
    fill(&zswap, &other, slots, 1500..1600);
    while matches!(zswap.shrink_memcg(&full, 64), Shrunk::Written(_)) {}
    assert!(by_tier(&zswap)["small"] > 300);
    zswap.root().write_file("memory.reclaim", "10K source=zswap").unwrap();
    assert!(by_tier(&zswap)["large"] >= 15);
    // A store at the limit says what stands in the way.
    zswap.set_zswap_max(&full, 1).unwrap();
    let refused = zswap.store(slots.get(2000).unwrap(), &full, N0, &compressible(1, 500)).unwrap_err();
    assert!(matches!(refused, Error::Limit { reason: Unwritable::DeviceFull, .. }), "{refused}");
    zswap.assert_valid();
}

#[test]
fn devices_come_while_others_work() {
    let zswap = base().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(400).unwrap();
    fill(&zswap, &vm, slots, 0..300);
    assert_eq!(zswap.shrink_memcg(&vm, 10), Shrunk::NothingToScan, "there is nowhere to write");
    assert_eq!((zswap.stats().area, vm.read_file("memory.swap.tiers").unwrap().as_str()), (None, ""));
    assert_eq!(zswap.swapon(memory("disk", -5)).unwrap(), 0);
    assert!(matches!(zswap.shrink_memcg(&vm, 100), Shrunk::Written(_)));
    std::thread::scope(|threads| {
        let loads = threads.spawn(|| {
            let mut page = Page::zeroed();
            for k in (0..300).chain(0..300) {
                zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
                assert!(*page == *compressible(k, 500), "page {k}");
            }
        });
        for (number, (tier, priority)) in [("nvme", 10), ("nvme", 10), ("ram", 20)].into_iter().enumerate() {
            assert_eq!(usize::from(zswap.swapon(memory(tier, priority)).unwrap()), number + 1);
            // The loads may have referenced all 40 that it looks at: then it comes back for them.
            while zswap.shrink_memcg(&vm, 40) == Shrunk::NoneWritten {}
        }
        loads.join().unwrap();
    });
    assert_eq!(vm.read_file("memory.swap.tiers").unwrap(), "ram 20\nnvme 10\ndisk -5\n");
    let order: Vec<_> = zswap.devices().into_iter().map(|row| (row.number, row.tier, row.state)).collect();
    let expected = [(3, "ram"), (1, "nvme"), (2, "nvme"), (0, "disk")];
    assert_eq!(order, expected.map(|(number, tier)| (number, tier.to_owned(), State::On)));
    let refused = zswap.swapon(memory("disk", 10)).unwrap_err().to_string();
    assert!(refused.contains("the tier nvme, so the tier disk cannot have it"), "{refused}");
    let sum = zswap.stats().area.unwrap();
    assert_eq!(sum.objects, zswap.devices().iter().map(|row| row.area.objects).sum::<u64>());
    assert_eq!((sum.objects, sum.live_bytes), (zswap.stats().physical_pages, vm.current(Counter::Swap)));
    zswap.assert_valid();
}

#[test]
fn only_places_are_charged_as_swap() {
    let zswap = base().slots_in_use(1 << 15).swap(memory("disk", 0)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(1 << 40).unwrap();
    let read = |file: &str| vm.read_file(file).unwrap().trim().parse::<u64>().unwrap();
    for k in 0..40 {
        zswap.store(slots.get(k << 34).unwrap(), &vm, N0, &compressible(k, 500)).unwrap();
    }
    assert_eq!((read("memory.swap.current"), read("memory.swap.peak")), (0, 0), "2^40 slots, and 40 pages in the pool");
    assert!(matches!(zswap.shrink_memcg(&vm, 40), Shrunk::Written(_)));
    let area = zswap.stats().area.unwrap();
    assert_eq!((area.objects, read("memory.swap.current")), (40, area.live_bytes));
    assert!(area.written_bytes >= area.used_bytes && area.used_bytes >= area.live_bytes);
    for k in 0..20 {
        zswap.free(slots.get(k << 34).unwrap());
    }
    let after = zswap.stats().area.unwrap();
    assert_eq!(read("memory.swap.current"), after.live_bytes);
    assert_eq!(after.written_bytes, area.written_bytes, "what was written ever does not fall");
}

#[test]
fn a_retired_device_is_left_out_and_comes_back() {
    let faulty = Arc::new(FaultyDevice::new(MemoryDevice::new(4 << 20, 4096), Plan::none()));
    let options = DeviceOptions::device(Arc::clone(&faulty)).tier("nvme", 10).retire_after(2);
    let zswap = base().swap(options).swap(memory("disk", 0)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(400).unwrap();
    fill(&zswap, &vm, slots, 0..400);
    assert!(matches!(zswap.shrink_memcg(&vm, 50), Shrunk::Written(_)));
    faulty.replan(Plan::none().down_from(1, libc::EIO));
    let mut walks = 0;
    while zswap.devices()[0].state == State::On {
        walks += 1;
        assert!(walks < 10, "it is not retired");
        let _ = zswap.shrink_memcg(&vm, 50);
    }
    assert!(matches!(zswap.shrink_memcg(&vm, 50), Shrunk::Written(_)), "the other tier goes on");
    assert!(by_tier(&zswap)["disk"] > 0);
    faulty.replan(Plan::none());
    let mut page = Page::zeroed();
    for k in 0..400 {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(*page == *compressible(k, 500), "page {k}");
    }
    let before = by_tier(&zswap)["nvme"];
    zswap.reinstate(0).unwrap();
    // The loads have given every page a second chance.
    let _ = zswap.shrink_memcg(&vm, 400);
    let _ = zswap.shrink_memcg(&vm, 400);
    assert!(by_tier(&zswap)["nvme"] > before);
    assert!(zswap.reinstate(7).unwrap_err().to_string().contains("there is no swap device 7"));
    zswap.assert_valid();
}

#[test]
fn the_limit_of_all_devices_holds_and_says_so() {
    let zswap = base().swap(memory("a", 1)).swap(memory("b", 0)).swap_limit(1 << 20).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(4000).unwrap();
    fill(&zswap, &vm, slots, 0..3000);
    while matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)) {
        assert!(zswap.stats().area.unwrap().used_bytes <= 1 << 20);
    }
    assert!(zswap.stats().area.unwrap().used_bytes > 600 << 10);
    zswap.set_swap_limit(u64::MAX);
    assert!(matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)));
    zswap.assert_valid();
}
