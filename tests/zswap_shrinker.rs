//! The pressure shrinker: what may go, what recent reads protect, and a relief that goes round all memcgs.

mod support;

use support::*;
use zspool::arena::Topology;
use zspool::memcg::{Event, Memcg};
use zspool::swap::{Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::units::{NodeId, Page, Slot, SlotRange};
use zspool::zswap::{Builder, Error, Installed, Shrunk, Taken, Zswap};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);

fn base() -> Builder {
    Zswap::builder()
        .pool_limit(32 << 20)
        .slots_in_use(1 << 14)
        .address_space(128 << 20)
        .topology(Topology::simulated(2))
        .worker(false)
}

fn instance() -> Zswap {
    base().device(MemoryDevice::new(32 << 20, 4096)).build().unwrap()
}

fn noise(k: u64) -> Page {
    page_of(Kind::Random, k)
}

/// `n` pages of noise, which stay as long as they are.
fn fill(zswap: &Zswap, memcg: &Memcg, node: NodeId, n: u64) -> SlotRange {
    let slots = zswap.reserve(n).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, memcg, node, &noise(slot.0)).unwrap();
    }
    slots
}

fn on_device(zswap: &Zswap, slots: SlotRange) -> Vec<Slot> {
    let mut page = Page::zeroed();
    slots.iter().filter(|&slot| matches!(zswap.try_load(slot, &mut page), Err(Error::NeedsIo { .. }))).collect()
}

fn load(zswap: &Zswap, slot: Slot) {
    let mut page = Page::zeroed();
    zswap.load(slot, &mut page).unwrap();
    assert!(page[..] == noise(slot.0)[..], "slot {}", slot.0);
}

#[test]
fn nothing_may_go_where_nothing_can_be_written_back() {
    let zswap = instance();
    let shrinker = zswap.shrinker();
    let vm = zswap.root().mkdir("vm").unwrap();
    assert_eq!(shrinker.count(&vm, N0), 0, "there is nothing");
    fill(&zswap, &vm, N0, 10);
    assert_eq!([shrinker.count(&vm, N0), shrinker.count(&vm, N1), shrinker.count(&zswap.root(), N0)], [10, 0, 0]);
    zswap.root().set_writeback(false).unwrap();
    assert_eq!(shrinker.count(&vm, N0), 0, "disabled above it");
    let scanned = shrinker.scan(&vm, N0, 10);
    assert_eq!((scanned.bytes, scanned.entries), (0, 0));
    assert_eq!(zswap.relieve(10), 0);
    zswap.root().set_writeback(true).unwrap();
    let other = instance();
    assert_eq!(other.shrinker().count(&vm, N0), 0, "another instance's");
    zswap.offline(&vm).unwrap();
    assert_eq!([shrinker.count(&vm, N0), shrinker.count(&zswap.root(), N0)], [0, 10], "the parent's now");

    let without = base().build().unwrap();
    fill(&without, &without.root(), N0, 10);
    assert_eq!((without.shrinker().count(&without.root(), N0), without.relieve(10)), (0, 0), "no device");
}

#[test]
fn well_compressing_memcgs_are_spared() {
    let zswap = instance();
    let (raw, half, tenth) = ("raw", "half", "tenth");
    let counts = [(raw, 4096), (half, 2000), (tenth, 370)].map(|(name, bytes)| {
        let memcg = zswap.root().mkdir(name).unwrap();
        let slots = zswap.reserve(100).unwrap();
        for slot in slots.iter() {
            let page = if bytes == 4096 { noise(slot.0) } else { compressible(slot.0, bytes) };
            zswap.store(slot, &memcg, N0, &page).unwrap();
        }
        let bytes = memcg.own_bytes(N0).unwrap();
        let count = zswap.shrinker().count(&memcg, N0);
        assert_eq!(count, 100 * bytes.compressed / bytes.original);
        count
    });
    assert!(counts[0] == 100 && (45..60).contains(&counts[1]) && (8..14).contains(&counts[2]), "{counts:?}");
    // What lies below a memcg is not its own.
    assert_eq!(zswap.shrinker().count(&zswap.root(), N0), 0);
}

#[test]
fn each_recent_read_from_the_device_protects_one_entry_once() {
    let zswap = instance();
    let shrinker = zswap.shrinker();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = fill(&zswap, &vm, N0, 40);
    fill(&zswap, &vm, N1, 5);
    assert_eq!(shrinker.scan(&vm, N0, 20).entries, 20);
    let away = on_device(&zswap, slots);
    assert_eq!((away.len(), shrinker.count(&vm, N0)), (20, 20), "asking whether it needs I/O is no read");
    away[..3].iter().for_each(|&slot| load(&zswap, slot));
    let mut page = Page::zeroed();
    let _ = zswap.take_with(away[3], |_| Installed::Yes).unwrap();
    assert!(matches!(zswap.load(away[3], &mut page), Err(Error::NotStored { .. })));
    load(&zswap, slots.get(39).unwrap()); // from the pool
    assert_eq!([shrinker.count(&vm, N1), shrinker.count(&zswap.root(), N0)], [5, 0]);
    assert_eq!([shrinker.count(&vm, N0), shrinker.count(&vm, N0)], [16, 20], "4 reads, used up by the first");
    // More reads than entries: what is not used now is the next count's.
    for _ in 0..2 {
        away[..3].iter().for_each(|&slot| (0..4).for_each(|_| load(&zswap, slot)));
    }
    assert_eq!([shrinker.count(&vm, N0), shrinker.count(&vm, N0), shrinker.count(&vm, N0)], [0, 16, 20]);
}

#[test]
fn reads_are_those_of_the_memcg_that_has_the_page_by_then() {
    let zswap = instance();
    let shrinker = zswap.shrinker();
    let parent = zswap.root().mkdir("parent").unwrap();
    let child = parent.mkdir("child").unwrap();
    let slots = fill(&zswap, &child, N1, 10);
    assert_eq!(shrinker.scan(&child, N1, 4).entries, 4);
    let away = on_device(&zswap, slots);
    zswap.offline(&child).unwrap();
    assert_eq!(shrinker.count(&parent, N1), 6);
    load(&zswap, away[0]);
    assert_eq!([shrinker.count(&parent, N1), shrinker.count(&parent, N1)], [5, 6]);
    // Replaced, the slot is of whom it was stored for, and in the pool.
    let other = zswap.root().mkdir("other").unwrap();
    zswap.store(away[1], &other, N0, &noise(away[1].0)).unwrap();
    load(&zswap, away[1]);
    assert_eq!([shrinker.count(&parent, N1), shrinker.count(&other, N0)], [6, 1]);
    zswap.assert_valid();
}

#[test]
fn pages_that_went_straight_to_the_device_are_read_for_their_memcg_and_node() {
    let zswap = instance();
    let vm = zswap.root().mkdir("vm").unwrap();
    fill(&zswap, &vm, N1, 8);
    vm.set_zswap_max(0).unwrap();
    let through = fill(&zswap, &vm, N1, 2);
    through.iter().for_each(|slot| load(&zswap, slot));
    assert_eq!([zswap.shrinker().count(&vm, N1), zswap.shrinker().count(&vm, N1)], [6, 8]);
}

#[test]
fn a_read_that_failed_protects_nothing() {
    let device = FaultyDevice::new(MemoryDevice::new(8 << 20, 4096), Plan::none().at(2, Fault::Errno(libc::ENOMEM)));
    let zswap = base().device(device).build().unwrap();
    let root = zswap.root();
    let slots = fill(&zswap, &root, N0, 10);
    assert_eq!(zswap.shrinker().scan(&root, N0, 1).bytes, 4096);
    let away = on_device(&zswap, slots)[0];
    let mut page = Page::zeroed();
    assert!(matches!(zswap.load(away, &mut page), Err(Error::Read { .. })));
    assert_eq!(zswap.shrinker().count(&root, N0), 9);
    load(&zswap, away);
    assert_eq!(zswap.shrinker().count(&root, N0), 8);
}

#[test]
fn a_scan_stops_at_an_entry_that_is_being_loaded() {
    let zswap = instance();
    let root = zswap.root();
    let slots = fill(&zswap, &root, N0, 20);
    let on_another = fill(&zswap, &root, N1, 3);
    let mut scanned = vec![];
    let taken = zswap.take_with(slots.get(5).unwrap(), |_| {
        // It was marked as referenced when it was decoded, and is held still.
        scanned.extend([8, 20, 20].map(|nr| zswap.shrinker().scan(&root, N0, nr)));
        Installed::No
    });
    assert_eq!(taken.unwrap(), Taken::Kept);
    let scanned: Vec<_> =
        scanned.iter().map(|scanned| (scanned.bytes / 4096, scanned.entries, scanned.stopped)).collect();
    // Passed over with its second chance; then it is the last of 13; then the only one.
    assert_eq!(scanned, [(7, 8, false), (12, 13, true), (0, 1, true)]);
    let other = zswap.shrinker().scan(&root, N1, 20);
    assert_eq!((other.bytes, other.entries, other.stopped), (3 * 4096, 3, false), "the other list is none of it");
    let last = zswap.shrinker().scan(&root, N0, 20);
    assert_eq!((last.entries, last.stopped), (1, false));
    assert_eq!((on_device(&zswap, slots).len(), on_device(&zswap, on_another).len()), (20, 3));
}

#[test]
fn a_relief_wins_what_it_was_asked_for_in_turns() {
    let zswap = instance();
    let vms: Vec<_> = (0..4).map(|k| zswap.root().mkdir(&format!("vm{k}")).unwrap()).collect();
    let slots: Vec<_> = vms.iter().map(|vm| fill(&zswap, vm, N0, 200)).collect();
    let backed = zswap.stats().backed_bytes;
    for round in 1..=20 {
        let won = zswap.relieve(10);
        // The last entry that is taken meets it.
        assert_eq!(won, 10 * 4096, "round {round}");
    }
    let away: Vec<_> = slots.iter().map(|&slots| on_device(&zswap, slots).len()).collect();
    assert_eq!(away.iter().sum::<usize>(), 200);
    assert!(away.iter().all(|n| (40..=60).contains(n)), "all gave alike: {away:?}");
    let now = zswap.stats().backed_bytes;
    assert!(
        now + (200 - 16) * 4096 <= backed,
        "but for a few warm ones, the frames are returned: {backed} bytes before, {now} now"
    );
    // Without an end, all goes, also what was referenced; and then nothing is left to win.
    slots.iter().for_each(|slots| slots.iter().for_each(|slot| load(&zswap, slot)));
    for (vm, away) in vms.iter().zip(&away) {
        assert_eq!(zswap.shrinker().count(vm, N0), 200 - 2 * *away as u64, "reads are used up");
    }
    zswap.relieve(u64::MAX);
    assert_eq!(slots.iter().map(|&slots| on_device(&zswap, slots).len()).sum::<usize>(), 800);
    assert_eq!(zswap.relieve(u64::MAX), 0);
    let stat = zswap.root().stat().unwrap();
    assert_eq!((stat.events(Event::ZswpWb), stat.events(Event::ZswpWbProactiveBytes)), (800, 0), "nobody named them");
    slots.iter().for_each(|slots| slots.iter().for_each(|slot| load(&zswap, slot)));
    zswap.assert_valid();
}

#[test]
fn a_relief_leaves_as_many_at_the_warm_end_as_were_read_back() {
    let zswap = instance();
    let root = zswap.root();
    let slots = fill(&zswap, &root, N0, 100);
    assert_eq!(zswap.shrinker().scan(&root, N0, 50).entries, 50);
    slots.iter().take(15).for_each(|slot| load(&zswap, slot)); // not `on_device`: it loads what is in the pool
    zswap.relieve(u64::MAX);
    let away = on_device(&zswap, slots);
    assert_eq!(away.len(), 100 - 15, "all rounds of one relief respect the same reads");
    assert!(away.iter().eq(slots.iter().take(85).collect::<Vec<_>>().iter()), "it is the warm end that was left");
    zswap.relieve(u64::MAX);
    assert_eq!(on_device(&zswap, slots).len(), 100, "once");
}

#[test]
fn a_relief_ends_when_the_device_refuses() {
    let zswap = base().device(MemoryDevice::new(512 << 10, 4096)).build().unwrap();
    let root = zswap.root();
    let slots = fill(&zswap, &root, N0, 200);
    let won = zswap.relieve(u64::MAX);
    assert!((4096..512 << 10).contains(&won), "{won}");
    assert_eq!(zswap.relieve(u64::MAX), 0);
    assert!(matches!(zswap.shrink_memcg(&root, 1), Shrunk::NoneWritten));
    slots.iter().for_each(|slot| load(&zswap, slot));
}

#[test]
#[should_panic(expected = "node 2 is none of the 2 there are")]
fn a_node_that_is_not_there_is_a_mistake() {
    let zswap = instance();
    zswap.shrinker().count(&zswap.root(), NodeId(2));
}
