//! Control files of an instance: what is written to them reaches the pool and the device.

mod support;

use support::*;
use zspool::memcg::{Counter, Error, Event, Memcg};
use zspool::swap::MemoryDevice;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::Zswap;

const N0: NodeId = NodeId(0);

fn instance() -> Zswap {
    Zswap::builder()
        .pool_limit(64 << 20)
        .slots_in_use(1 << 14)
        .address_space(128 << 20)
        .worker(false)
        .device(MemoryDevice::new(16 << 20, 4096))
        .build()
        .unwrap()
}

fn fill(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, range: std::ops::Range<u64>) {
    for k in range {
        let _ = zswap.store(slots.get(k).unwrap(), memcg, N0, &compressible(k, 1000)).unwrap();
    }
}

fn check(zswap: &Zswap, slots: SlotRange, range: std::ops::Range<u64>) {
    let mut page = Page::zeroed();
    for k in range {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 1000)[..], "page {k}");
    }
}

fn number(memcg: &Memcg, file: &str, line: &str) -> u64 {
    let text = memcg.read_file(file).unwrap();
    let value = text.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.trim().parse().unwrap()
}

#[test]
fn a_zswap_limit_below_the_usage_is_written_back_to_before_the_write_returns() {
    let zswap = instance();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let [a, b] = ["a", "b"].map(|name| tenant.mkdir(name).unwrap());
    let slots = zswap.reserve(600).unwrap();
    fill(&zswap, &a, slots, 0..200);
    fill(&zswap, &b, slots, 200..400);
    let sibling = zswap.root().mkdir("sibling").unwrap();
    fill(&zswap, &sibling, slots, 400..600);
    let (before, untouched) = (tenant.usage(), sibling.usage());
    tenant.write_file("memory.zswap.max", &(before / 2).to_string()).unwrap();
    let now = tenant.usage();
    assert!(now <= before / 2 && now + 8192 > before / 2, "{now} of {before}");
    assert_eq!(sibling.usage(), untouched);
    assert!(a.stat().unwrap().events(Event::ZswpWb) > 0 && b.stat().unwrap().events(Event::ZswpWb) > 0);
    assert_eq!(number(&tenant, "memory.stat", "zswpwb_proactive_b"), 0, "nobody asked for zswap by name");
    // The same for memory.max: here, nothing but zswap is charged.
    b.write_file("memory.max", "0").unwrap();
    assert_eq!((b.current(Counter::Memory), number(&b, "memory.events", "oom ")), (0, 0));
    // What cannot be written back stays, the write succeeds, and every page is there.
    a.write_file("memory.zswap.writeback", "0").unwrap();
    a.write_file("memory.zswap.max", "0").unwrap();
    assert!(a.usage() > 0);
    check(&zswap, slots, 0..600);
    zswap.assert_valid();
}

#[test]
fn a_request_by_its_file_writes_compressed_bytes_and_says_what_it_cannot() {
    let zswap = instance();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(200).unwrap();
    fill(&zswap, &vm, slots, 0..200);
    vm.write_file("memory.reclaim", "64K source=zswap\n").unwrap();
    let by_name = number(&vm, "memory.stat", "zswpwb_proactive_b");
    assert!((64 << 10..(64 << 10) + 4096).contains(&by_name), "{by_name}");
    // Ordinary reclaim takes the same pages here, and is not counted as asked for by name.
    let current = vm.current(Counter::Memory);
    vm.write_file("memory.reclaim", "32K").unwrap();
    assert!(vm.current(Counter::Memory) <= current - (32 << 10), "success is only reported if it is true");
    assert_eq!(number(&vm, "memory.stat", "zswpwb_proactive_b"), by_name);
    // More than there is.
    let error = vm.write_file("memory.reclaim", "1G source=zswap").unwrap_err();
    let Error::Again { asked, reclaimed, .. } = error else { panic!("{error}") };
    assert_eq!((asked, error.errno()), (1 << 30, libc::EAGAIN));
    assert_eq!(number(&vm, "memory.stat", "zswpwb_proactive_b"), by_name + reclaimed);
    vm.write_file("memory.zswap.writeback", "0").unwrap();
    let off = vm.write_file("memory.reclaim", "1 source=zswap").unwrap_err();
    assert_eq!((off.errno(), off), (libc::EINVAL, Error::WritebackOff { path: "/vm".into() }));
    assert_eq!(vm.write_file("memory.reclaim", "1 source=anon").unwrap_err().errno(), libc::EINVAL);
    check(&zswap, slots, 0..200);
    // Without an instance nobody serves zswap: the tree lives on, and the registration is over.
    let (tree, root) = (zswap.tree().clone(), zswap.root());
    drop(zswap);
    let error = root.write_file("memory.reclaim", "1 source=zswap").unwrap_err();
    assert_eq!(error.to_string(), "nobody serves source=zswap here; no reclaimer is registered");
    drop(tree);
}

#[test]
fn loads_that_read_the_device_are_the_owners_stall_time() {
    let zswap = instance();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let [vm, other] = ["vm", "other"].map(|name| tenant.mkdir(name).unwrap());
    let slots = zswap.reserve(40).unwrap();
    fill(&zswap, &vm, slots, 0..20);
    fill(&zswap, &other, slots, 20..40);
    check(&zswap, slots, 0..40);
    let stalled = || [&zswap.root(), &tenant, &vm, &other].map(|memcg| memcg.stall_times().some.total);
    assert!(stalled().iter().all(|time| time.is_zero()), "what is in the pool is not waited for");
    while vm.usage() > 0 {
        let _ = zswap.shrink_memcg(&vm, usize::MAX);
    }
    // What a removed memcg left is its parent's stall.
    vm.offline().unwrap();
    check(&zswap, slots, 0..20);
    let [root, tenant_time, vm_time, other_time] = stalled();
    assert!(!root.is_zero() && root == tenant_time, "{root:?} {tenant_time:?}");
    assert!(vm_time.is_zero() && other_time.is_zero());
    let text = tenant.read_file("memory.pressure").unwrap();
    assert!(text.contains(&format!("total={}\n", tenant_time.as_micros())), "{text}");
}
