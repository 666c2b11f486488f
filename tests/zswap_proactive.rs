//! `memory.reclaim` with `source=zswap`: T2, and the fairness of T3.

mod support;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::*;
use zspool::memcg::{Cancel, Counter, End, Error, Event, Memcg, MemcgEvent, ReclaimRequest, Reclaimed, Tree};
use zspool::swap::{Device, MemoryDevice, Op, Request};
use zspool::sync::Clock;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::{Builder, Shrunk, Stored, Zswap};

const N0: NodeId = NodeId(0);

fn without_device() -> Builder {
    Zswap::builder().pool_limit(64 << 20).slots_in_use(1 << 15).address_space(256 << 20).worker(false)
}

fn base() -> Builder {
    without_device().device(MemoryDevice::new(32 << 20, 4096))
}

/// Payload bytes of each page.
fn fill(zswap: &Zswap, memcg: &Memcg, slots: SlotRange, range: Range<u64>) -> Vec<u64> {
    let store = |k| match zswap.store(slots.get(k).unwrap(), memcg, N0, &compressible(k, 700)).unwrap() {
        Stored::Compressed { payload_bytes, .. } => payload_bytes as u64,
        other => panic!("{other:?}"),
    };
    range.map(store).collect()
}

fn reclaim(memcg: &Memcg, text: &str) -> Result<Reclaimed, Error> {
    memcg.reclaim(&text.parse().unwrap(), &Cancel::new())
}

fn events(memcg: &Memcg) -> [u64; 3] {
    let stat = memcg.stat().unwrap();
    [Event::ZswpWb, Event::ZswpWbBytes, Event::ZswpWbProactiveBytes].map(|event| stat.events(event))
}

fn check(zswap: &Zswap, slots: SlotRange, range: Range<u64>) {
    let mut page = Page::zeroed();
    for k in range {
        zswap.load(slots.get(k).unwrap(), &mut page).unwrap();
        assert!(page[..] == compressible(k, 700)[..], "page {k}");
    }
}

#[test]
fn what_the_selftest_asks_for_is_written_and_counted() {
    let zswap = base().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(1024).unwrap();
    fill(&zswap, &vm, slots, 0..1024);
    let current = vm.usage();
    // Payloads are smaller than their slots, so all that is charged is more than can be written.
    let again = reclaim(&vm, &format!("{current} source=zswap")).unwrap_err();
    let Error::Again { reclaimed, end: End::NothingToScan, .. } = again else { panic!("{again:?}") };
    assert_eq!((vm.usage(), events(&vm)), (0, [1024, reclaimed, reclaimed]));
    check(&zswap, slots, 0..1024);
    zswap.assert_valid();
}

#[test]
fn it_stops_at_the_entry_that_meets_the_budget() {
    let zswap = base().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(300).unwrap();
    let payloads = fill(&zswap, &vm, slots, 0..300);
    assert_eq!(reclaim(&vm, "0 source=zswap").unwrap().bytes, 0);
    assert_eq!(reclaim(&vm, "1 source=zswap").unwrap().bytes, payloads[0]);
    assert_eq!(events(&vm), [1, payloads[0], payloads[0]]);
    // To the byte: exactly what the next hundred have, and one more.
    let hundred: u64 = payloads[1..101].iter().sum();
    assert_eq!(reclaim(&vm, &format!("{hundred} source=zswap")).unwrap().bytes, hundred);
    assert_eq!(zswap.stats().physical_pages, 101);
    let two = reclaim(&vm, &format!("{} source=zswap", payloads[101] + 1)).unwrap().bytes;
    assert_eq!(two, payloads[101] + payloads[102]);
    zswap.assert_valid();
}

#[test]
fn ordinary_writeback_and_reclaim_are_not_proactive() {
    let zswap = base().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(300).unwrap();
    fill(&zswap, &vm, slots, 0..200);
    assert!(matches!(zswap.shrink_memcg(&vm, 10), Shrunk::Written(_)));
    let bytes = reclaim(&vm, "10000").unwrap().bytes;
    assert!(bytes >= 10_000);
    zswap.set_zswap_max(&vm, vm.usage()).unwrap();
    fill(&zswap, &vm, slots, 200..300);
    let [pages, all, proactive] = events(&vm);
    assert!(pages >= 100 && all > bytes, "{pages} pages, {all} bytes");
    assert_eq!(proactive, 0);
    let asked = reclaim(&vm, "1 source=zswap").unwrap().bytes;
    assert_eq!(events(&vm), [pages + 1, all + asked, asked]);
}

#[test]
fn only_the_memcg_and_those_below_it_are_written() {
    let zswap = base().build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let [vm, other] = ["vm", "other"].map(|name| tenant.mkdir(name).unwrap());
    let sibling = zswap.root().mkdir("sibling").unwrap();
    let below = vm.mkdir("below").unwrap();
    let slots = zswap.reserve(500).unwrap();
    for (k, memcg) in [&zswap.root(), &tenant, &vm, &below, &other, &sibling].into_iter().enumerate() {
        fill(&zswap, memcg, slots, k as u64 * 80..(k as u64 + 1) * 80);
    }
    let all = reclaim(&vm, "1G source=zswap").unwrap_err();
    assert!(matches!(all, Error::Again { end: End::NothingToScan, .. }), "{all}");
    assert_eq!(vm.usage(), 0);
    let written: Vec<_> = [&vm, &below, &other, &sibling].iter().map(|memcg| events(memcg)[0]).collect();
    assert_eq!(written, [160, 80, 0, 0]);
    assert_eq!(events(&zswap.root())[2], events(&vm)[2], "what is written below counts above");
    assert_eq!(zswap.stats().physical_pages, 160);
    let none = reclaim(&vm, "1 source=zswap").unwrap_err();
    assert!(matches!(none, Error::Again { reclaimed: 0, end: End::NothingToScan, .. }), "{none}");
    check(&zswap, slots, 0..480);
    zswap.assert_valid();
}

#[test]
fn where_all_is_referenced_it_writes_in_the_second_pass_however_many_there_are() {
    for pages in [600, 16 * 64 + 100, 3000] {
        let zswap = base().build().unwrap();
        let vm = zswap.root().mkdir("vm").unwrap();
        let slots = zswap.reserve(pages).unwrap();
        fill(&zswap, &vm, slots, 0..pages);
        check(&zswap, slots, 0..pages);
        let result = reclaim(&vm, "1 source=zswap");
        assert!(result.is_ok(), "{pages}: {result:?}");
        zswap.assert_valid();
    }
}

#[test]
fn a_memcg_of_few_entries_that_cannot_go_costs_one_failure_a_round() {
    let zswap = base().build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let [few, many] = ["few", "many"].map(|name| tenant.mkdir(name).unwrap());
    let slots = zswap.reserve(300).unwrap();
    fill(&zswap, &few, slots, 0..1);
    fill(&zswap, &many, slots, 1..300);
    few.set_max(Counter::Swap, 0).unwrap();
    // Less than a batch of the other, twice: turns go on where they were.
    for _ in 0..2 {
        assert_eq!(reclaim(&tenant, "20K source=zswap").unwrap().end, End::Met);
    }
    assert_eq!(few.local_events(MemcgEvent::SwapMax), 1);
    let Err(Error::Again { end: End::Exhausted, .. }) = reclaim(&tenant, "1M source=zswap") else {
        panic!("one page is left")
    };
    assert_eq!((many.usage(), few.stat().unwrap().bytes.original), (0, 4096));
    zswap.assert_valid();
}

#[test]
fn writeback_that_is_off_is_refused_by_name() {
    let zswap = base().build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let vm = tenant.mkdir("vm").unwrap();
    let slots = zswap.reserve(10).unwrap();
    fill(&zswap, &vm, slots, 0..10);
    tenant.set_writeback(false).unwrap();
    let error = reclaim(&vm, "1 source=zswap").unwrap_err();
    assert_eq!(error.errno(), libc::EINVAL);
    assert!(
        matches!(reclaim(&vm, "1").unwrap_err(), Error::Again { reclaimed: 0, .. }),
        "ordinary reclaim finds nothing"
    );
    assert_eq!(zswap.stats().physical_pages, 0);
    for text in ["source=zswap", "1M source=zswap swappiness=60", "1M swappiness=60 source=zswap"] {
        assert!(text.parse::<ReclaimRequest>().is_err(), "{text}");
    }
}

#[test]
fn only_what_has_lain_long_enough_is_written_if_so_asked() {
    let clock = Clock::settable();
    let zswap = base().clock(clock.clone()).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(40).unwrap();
    let old = fill(&zswap, &vm, slots, 0..20);
    clock.set(100_000);
    fill(&zswap, &vm, slots, 20..40);
    clock.set(105_000);
    let again = reclaim(&vm, "1M source=zswap age=50").unwrap_err();
    let Error::Again { reclaimed, .. } = again else { panic!("{again}") };
    assert_eq!(reclaimed, old.iter().sum::<u64>());
    let none = reclaim(&vm, "1 source=zswap age=50").unwrap_err();
    assert!(matches!(none, Error::Again { reclaimed: 0, end: End::NothingToScan, .. }), "{none}");
    assert!(reclaim(&vm, "1 source=zswap age=3").is_ok());
}

/// Sets a flag when the n-th write comes.
#[derive(Debug)]
struct CancelsAt {
    inner: MemoryDevice,
    cancel: Cancel,
    left: AtomicU64,
}

impl Device for CancelsAt {
    fn submit(&self, requests: &mut [Request]) {
        if requests.iter().any(|request| request.op() == Op::Write) && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cancel.cancel();
        }
        self.inner.submit(requests);
    }
    rest_of_device!(inner);
}

#[test]
fn a_cancelled_request_ends_with_the_batch_under_way_and_says_what_was_written() {
    let cancel = Cancel::new();
    let device =
        CancelsAt { inner: MemoryDevice::new(32 << 20, 4096), cancel: cancel.clone(), left: AtomicU64::new(3) };
    let zswap = without_device().device(device).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(1000).unwrap();
    let payloads = fill(&zswap, &vm, slots, 0..1000);
    let error = vm.reclaim(&"1G source=zswap".parse().unwrap(), &cancel).unwrap_err();
    let three: u64 = payloads[..3 * 64].iter().sum();
    assert!(matches!(error, Error::Interrupted { reclaimed, .. } if reclaimed == three), "{error}");
    assert_eq!((error.errno(), events(&vm)), (libc::EINTR, [192, three, three]));
    zswap.assert_valid();
}

/// Requests below a batch go on where the one before stopped, so no child is drained before the others have had their turn: the
/// kernel begins at the first child each time, and small requests write that one only (T3.1).
#[test]
fn small_requests_leave_no_child_more_than_a_batch_ahead() {
    let zswap = base().build().unwrap();
    let tenant = zswap.root().mkdir("tenant").unwrap();
    let children: Vec<_> = (0..7).map(|k| tenant.mkdir(&format!("vm{k}")).unwrap()).collect();
    let slots = zswap.reserve(7 * 400).unwrap();
    let mut largest = 0;
    for (k, child) in children.iter().enumerate() {
        let payloads = fill(&zswap, child, slots, k as u64 * 400..(k as u64 + 1) * 400);
        largest = payloads.into_iter().max().unwrap().max(largest);
    }
    let mut random = Random::new(7);
    let mut moved = BTreeSet::new();
    for _ in 0..120 {
        let bytes = 1 + random.below(30 * largest);
        assert!(reclaim(&tenant, &format!("{bytes} source=zswap")).is_ok());
        let written: Vec<_> = children.iter().map(|child| events(child)[0]).collect();
        let spread = written.iter().max().unwrap() - written.iter().min().unwrap();
        assert!(spread <= 64, "{written:?}");
        moved.insert(written);
    }
    assert!(moved.len() > 100 && events(&tenant)[0] > 64 * 14, "twice round at least");
    zswap.assert_valid();
}

#[test]
fn an_instance_that_is_gone_serves_nobody_and_is_not_kept() {
    let device = Arc::new(MemoryDevice::new(1 << 20, 4096));
    let zswap = without_device().device(Arc::clone(&device)).build().unwrap();
    let tree: Tree = zswap.tree().clone();
    assert!(matches!(reclaim(&tree.root(), "1 source=zswap"), Err(Error::Again { .. })));
    drop(zswap);
    assert_eq!(Arc::strong_count(&device), 1, "the tree keeps the instance");
    assert!(matches!(reclaim(&tree.root(), "1 source=zswap"), Err(Error::Unserved { .. })));
}
