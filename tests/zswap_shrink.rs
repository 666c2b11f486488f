//! `shrink_memcg`: how far a walk goes, and what it takes first.

mod support;

use support::*;
use zspool::arena::Topology;
use zspool::memcg::{Event, Memcg};
use zspool::swap::{Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Builder, Form, Installed, Shrunk, Stored, Taken, Zswap};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

fn base(nodes: usize) -> Builder {
    Zswap::builder()
        .pool_limit(64 << 20)
        .slots_in_use(1 << 14)
        .address_space(128 << 20)
        .topology(Topology::simulated(nodes))
        .sampling(None) // pages are of the kind that a test says
        .worker(false)
}

fn device() -> MemoryDevice {
    MemoryDevice::new(16 << 20, 4096)
}

/// Pages of `range` that compress, on a node; the payload bytes of each.
fn fill(zswap: &Zswap, memcg: &Memcg, node: NodeId, slots: SlotRange, range: std::ops::Range<u64>) -> Vec<u64> {
    range
        .map(|k| {
            match zswap.store(slots.get(k).unwrap(), memcg, node, &compressible(k, 200 + k as usize * 7)).unwrap() {
                Stored::Compressed { payload_bytes, .. } => payload_bytes as u64,
                other => panic!("{other:?}"),
            }
        })
        .collect()
}

fn check(zswap: &Zswap, slots: SlotRange, range: std::ops::Range<u64>) {
    let mut page = Page::zeroed();
    for k in range {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 200 + k as usize * 7)[..], "page {k}");
    }
}

/// Pages in the pool on each of two nodes.
fn left(memcg: &Memcg) -> [u64; 2] {
    let on = memcg.numa_stat().unwrap();
    [0, 1].map(|node| on[node].original / PAGE_SIZE as u64)
}

/// Whether the page is on the device.
fn is_out(zswap: &Zswap, slots: SlotRange, k: u64) -> bool {
    zswap.try_load(slots.get(k).unwrap(), &mut Page::zeroed()).is_err()
}

#[test]
fn of_a_hundred_unreferenced_64_are_written_and_the_bytes_are_their_payloads() {
    let zswap = base(1).device(device()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(100).unwrap();
    let payloads = fill(&zswap, &vm, N0, slots, 0..100);
    let payload = |range: std::ops::Range<usize>| payloads[range].iter().sum::<u64>();
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(payload(0..64)));
    assert_eq!(zswap.stats().physical_pages, 64);
    let stat = vm.stat().unwrap();
    assert_eq!((stat.events(Event::ZswpWb), stat.events(Event::ZswpWbBytes)), (64, payload(0..64)));
    assert_eq!((0..100).filter(|&k| is_out(&zswap, slots, k)).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
    // Looking at them has referenced the others.
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::NoneWritten);
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(payload(64..100)));
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::NothingToScan);
    check(&zswap, slots, 0..100);
    zswap.assert_valid();
}

#[test]
fn where_all_are_referenced_the_first_call_writes_none_and_the_second_does() {
    let zswap = base(1).device(device()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(10).unwrap();
    let payloads = fill(&zswap, &vm, N0, slots, 0..10);
    check(&zswap, slots, 0..10);
    // A budget beyond the list looks at each once all the same.
    assert_eq!(zswap.shrink_memcg(&vm, 1000), Shrunk::NoneWritten);
    assert_eq!(zswap.shrink_memcg(&vm, 3), Shrunk::Written(payloads[..3].iter().sum()));
    zswap.assert_valid();
}

#[test]
fn there_is_nothing_to_scan_without_entries_device_writeback_or_memcg() {
    let zswap = base(1).device(device()).build().unwrap();
    let (parent, slots) = (zswap.root().mkdir("parent").unwrap(), zswap.reserve(10).unwrap());
    let vm = parent.mkdir("vm").unwrap();
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::NothingToScan, "it never had any");
    zswap.store(slots.base(), &vm, N0, &Page::zeroed()).unwrap();
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::NothingToScan, "same-filled pages are no entries");
    fill(&zswap, &vm, N0, slots, 0..10);
    assert_eq!(zswap.shrink_memcg(&vm, 0), Shrunk::NothingToScan, "it was told to look at none");
    assert_eq!(zswap.shrink_memcg(&parent, 64), Shrunk::NothingToScan, "entries below are not its own");
    parent.set_writeback(false).unwrap();
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::NothingToScan, "disabled above");
    parent.set_writeback(true).unwrap();
    zswap.offline(&vm).unwrap();
    assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::NothingToScan, "offline: not even its parent's");
    assert_eq!(zswap.stats().physical_pages, 0);
    assert!(matches!(zswap.shrink_memcg(&parent, 64), Shrunk::Written(_)));
    zswap.assert_valid();

    let zswap = base(1).build().unwrap();
    let slots = zswap.reserve(10).unwrap();
    fill(&zswap, &zswap.root(), N0, slots, 0..10);
    assert_eq!(zswap.shrink_memcg(&zswap.root(), 64), Shrunk::NothingToScan, "no device");
}

#[test]
fn one_budget_holds_for_all_nodes_and_they_take_turns_to_be_first() {
    for (walks_before, expected) in [(0, [0, 46]), (1, [10, 36]), (2, [0, 46])] {
        let zswap = base(2).device(device()).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(110).unwrap();
        fill(&zswap, &vm, N0, slots, 0..10);
        fill(&zswap, &vm, N1, slots, 10..110);
        for _ in 0..walks_before {
            assert_eq!(zswap.shrink_memcg(&vm, 0), Shrunk::NothingToScan);
            assert_eq!(zswap.shrink_memcg(&zswap.root(), 1), Shrunk::NothingToScan, "whose walks are counted apart");
        }
        assert!(matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)));
        assert_eq!(left(&vm), expected, "10 and 54, or 64 of the large one");
        // What is left of either is within a budget that is large enough.
        assert!(matches!(zswap.shrink_memcg(&vm, 46), Shrunk::Written(_)));
        assert_eq!(left(&vm), [0, 0]);
        zswap.assert_valid();
    }
}

#[test]
fn an_entry_that_is_being_read_stops_its_list_and_no_other() {
    let zswap = base(2).device(device()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(40).unwrap();
    fill(&zswap, &vm, N0, slots, 0..20);
    let payloads = fill(&zswap, &vm, N1, slots, 20..40);
    let taken = zswap.take_with(slots.base(), |_| {
        // Its referenced bit is set when it was read: one look clears that.
        let first = zswap.shrink_memcg(&vm, 1);
        assert_eq!((first, left(&vm)), (Shrunk::NoneWritten, [20, 20]));
        for k in 1..20 {
            assert!(zswap.free(slots.get(k).unwrap())); // so that it is at the head again
        }
        fill(&zswap, &vm, N0, slots, 1..20);
        assert_eq!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(payloads.iter().sum()));
        assert_eq!(left(&vm), [20, 0], "node 0 stopped at once, node 1 was drained");
        Installed::No
    });
    assert_eq!(taken.unwrap(), Taken::Kept);
    // It was rotated: those behind it go first, and it goes now that nobody reads it.
    assert!(matches!(zswap.shrink_memcg(&vm, 19), Shrunk::Written(_)));
    assert!(!is_out(&zswap, slots, 0) && left(&vm) == [1, 0]);
    check(&zswap, slots, 0..40);
    zswap.assert_valid();
}

#[test]
fn a_device_that_fails_writes_none_and_everything_stays_readable() {
    for fault in [Fault::Errno(libc::EIO), Fault::Errno(libc::ENOSPC), Fault::Short { bytes: 512 }] {
        let device = std::sync::Arc::new(FaultyDevice::new(device(), Plan::none().at(1, fault)));
        let zswap = base(2).device(device.clone()).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(200).unwrap();
        fill(&zswap, &vm, N0, slots, 0..100);
        fill(&zswap, &vm, N1, slots, 100..200);
        assert_eq!(zswap.shrink_memcg(&vm, 200), Shrunk::NoneWritten, "the first failure ends the walk");
        assert!(device.tripped());
        assert_eq!((left(&vm), zswap.stats().failed_writes), ([100, 100], 1));
        zswap.assert_valid();
        check(&zswap, slots, 0..200);
        assert_eq!(zswap.shrink_memcg(&vm, 200), Shrunk::NoneWritten, "the check referenced them");
        assert!(matches!(zswap.shrink_memcg(&vm, 200), Shrunk::Written(_)));
        assert_eq!(left(&vm), [0, 0]);
        check(&zswap, slots, 0..200);
    }
}

// === pages kept as they are ===

fn random(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, range: std::ops::Range<u64>) {
    for k in range {
        let stored = zswap.store(slots.get(k).unwrap(), memcg, N0, &page_of(Kind::Random, k)).unwrap();
        assert_eq!(stored, Stored::Incompressible);
    }
}

#[test]
fn pages_kept_as_they_are_go_first_while_they_are_cold() {
    let zswap = base(1).device(device()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(40).unwrap();
    let payloads = fill(&zswap, &vm, N0, slots, 0..20);
    random(&zswap, &vm, slots, 20..30);
    assert_eq!(zswap.shrink_memcg(&vm, 6), Shrunk::Written(6 * PAGE_SIZE as u64));
    assert_eq!((20..30).filter(|&k| is_out(&zswap, slots, k)).collect::<Vec<_>>(), [20, 21, 22, 23, 24, 25]);
    // The four left were just loaded: they lose their second chance at the pace at which compressed ones are looked at. One of
    // five entries is theirs, as of 24 four are.
    assert_eq!(zswap.shrink_memcg(&vm, 5), Shrunk::Written(payloads[..4].iter().sum()));
    // Of 17 four: three lose it, and the fourth had lost it.
    assert_eq!(zswap.shrink_memcg(&vm, 17), Shrunk::Written(PAGE_SIZE as u64 + payloads[4..17].iter().sum::<u64>()));
    // Now those three are cold, and go first.
    assert_eq!(zswap.shrink_memcg(&vm, 3), Shrunk::Written(3 * PAGE_SIZE as u64));
    assert_eq!(zswap.shrink_memcg(&vm, 4), Shrunk::Written(payloads[17..].iter().sum()));
    assert_eq!(zswap.shrink_memcg(&vm, 4), Shrunk::NothingToScan);
    check(&zswap, slots, 0..20);
    zswap.assert_valid();
}

#[test]
fn a_memcg_that_goes_leaves_both_kinds_to_its_parent() {
    let zswap = base(2).device(device()).build().unwrap();
    let parent = zswap.root().mkdir("parent").unwrap();
    let vm = parent.mkdir("vm").unwrap();
    let slots = zswap.reserve(60).unwrap();
    fill(&zswap, &parent, N0, slots, 0..10);
    random(&zswap, &parent, slots, 10..15);
    fill(&zswap, &vm, N0, slots, 20..30);
    random(&zswap, &vm, slots, 30..35);
    fill(&zswap, &vm, N1, slots, 40..50);
    zswap.offline(&vm).unwrap();
    zswap.assert_valid();
    assert_eq!(zswap.shrink_memcg(&parent, 10), Shrunk::Written(10 * PAGE_SIZE as u64), "the kept ones of both");
    assert!((10..15).chain(30..35).all(|k| is_out(&zswap, slots, k)));
    assert!(matches!(zswap.shrink_memcg(&parent, 100), Shrunk::Written(_)));
    assert_eq!((left(&parent), zswap.stats().physical_pages), ([0, 0], 40));
    check(&zswap, slots, 0..10);
    check(&zswap, slots, 20..30);
    zswap.assert_valid();
}

// === the kernel's form ===

#[test]
fn the_kernels_form_takes_32_of_each_node_whatever_it_is_told() {
    for nr_to_scan in [1, 64, usize::MAX] {
        let zswap = base(2).device(device()).shrink_form(Form::PerNode).build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(300).unwrap();
        assert_eq!(zswap.shrink_memcg(&vm, nr_to_scan), Shrunk::NothingToScan);
        fill(&zswap, &vm, N0, slots, 0..10);
        fill(&zswap, &vm, N1, slots, 10..110);
        assert!(matches!(zswap.shrink_memcg(&vm, nr_to_scan), Shrunk::Written(_)));
        assert_eq!(left(&vm), [0, 68], "what node 0 left unused is not node 1's");
        // Both kinds of a node share its 32.
        random(&zswap, &vm, slots, 200..220);
        fill(&zswap, &vm, N0, slots, 220..250);
        assert!(matches!(zswap.shrink_memcg(&vm, nr_to_scan), Shrunk::Written(_)));
        assert_eq!(left(&vm), [18, 36]);
        check(&zswap, slots, 220..250);
        assert_eq!(zswap.stats().physical_pages, 42 + 64);
        zswap.assert_valid();
        // Referenced ones are looked at once, though the budget is larger than their list.
        let zswap = base(1).device(device()).shrink_form(Form::PerNode).build().unwrap();
        let slots = zswap.reserve(10).unwrap();
        fill(&zswap, &zswap.root(), N0, slots, 0..10);
        check(&zswap, slots, 0..10);
        assert_eq!(zswap.shrink_memcg(&zswap.root(), nr_to_scan), Shrunk::NoneWritten);
        assert!(matches!(zswap.shrink_memcg(&zswap.root(), nr_to_scan), Shrunk::Written(_)));
    }
}
