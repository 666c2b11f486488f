//! Traps found by reading, each once sprung.

mod support;

use support::*;
use zspool::swap::{Device, Geometry, MemoryDevice, Op, Request};
use zspool::units::{NodeId, Page};
use zspool::zswap::{Builder, Installed, Shrunk, Stored, Taken, Zswap};

const N0: NodeId = NodeId(0);

fn small() -> Builder {
    Zswap::builder().pool_limit(8 << 20).slots_in_use(1 << 12).address_space(64 << 20).worker(false)
}

#[test]
fn a_memcg_removed_by_its_own_method_leaves_its_entries_to_the_parent() {
    let zswap = small().build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(2).unwrap();
    for slot in slots.iter() {
        zswap.store(slot, &vm, N0, &compressible(slot.0, 300)).unwrap();
    }
    vm.offline().unwrap();
    zswap.assert_valid();
    let mut page = Page::zeroed();
    zswap.load(slots.base(), &mut page).unwrap();
    assert!(zswap.free(slots.base()));
    zswap.assert_valid();
}

#[test]
fn take_with_frees_no_newer_content_that_looks_the_same() {
    let zswap = small().build().unwrap();
    let root = zswap.root();
    let slot = zswap.reserve(1).unwrap().base();
    for page in [Page::zeroed(), compressible(7, 900)] {
        // As many stores as there are generations, and one more than twice as many as a cluster has slots.
        for stores in [1, 256, 1024] {
            zswap.store(slot, &root, N0, &page).unwrap();
            let taken = zswap.take_with(slot, |_| {
                for _ in 0..stores {
                    zswap.store(slot, &root, N0, &page).unwrap();
                }
                Installed::Yes
            });
            assert_eq!((taken.unwrap(), zswap.is_stored(slot)), (Taken::Changed, true), "{stores} stores");
        }
        zswap.assert_valid();
    }
    // And where the slot's cluster became another one in between.
    zswap.free(slot);
    zswap.quiesce();
    let slots = zswap.reserve(2000).unwrap();
    let (one, two) = (slots.base(), slots.get(1999).unwrap());
    zswap.store(one, &root, N0, &Page::zeroed()).unwrap();
    let taken = zswap.take_with(one, |_| {
        zswap.free(one);
        zswap.quiesce();
        zswap.store(two, &root, N0, &Page::zeroed()).unwrap();
        zswap.store(one, &root, N0, &Page::zeroed()).unwrap();
        Installed::Yes
    });
    assert_eq!((taken.unwrap(), zswap.is_stored(one)), (Taken::Changed, true));
}

#[test]
fn take_with_leaves_the_page_to_the_other_references() {
    let zswap = small().build().unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    let page = compressible(7, 900);
    zswap.store(slot, &zswap.root(), N0, &page).unwrap();
    assert_eq!(zswap.dup(slot).unwrap(), 2);
    for left in [true, false] {
        let taken = zswap.take_with(slot, |seen| {
            assert_eq!(seen[..], page[..]);
            Installed::Yes
        });
        assert_eq!((taken.unwrap(), zswap.is_stored(slot)), (Taken::Freed, left));
    }
    zswap.assert_valid();
}

/// A device whose writes panic.
#[derive(Debug)]
struct Panicking(MemoryDevice);

impl Device for Panicking {
    fn submit(&self, requests: &mut [Request]) {
        assert!(requests.iter().all(|request| request.op() == Op::Read), "writes are not for me");
        self.0.submit(requests);
    }
    fn complete(&self, requests: &mut [Request]) {
        self.0.complete(requests);
    }
    fn punch(&self, range: std::ops::Range<u64>) -> std::io::Result<()> {
        self.0.punch(range)
    }
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }
    fn block_bytes(&self) -> usize {
        self.0.block_bytes()
    }
    fn name(&self) -> &str {
        "panicking"
    }
}

#[test]
fn nobody_waits_for_a_worker_that_is_no_more() {
    let zswap = small().worker(true).device(Panicking(MemoryDevice::new(8 << 20, 4096))).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slot = zswap.reserve(1).unwrap().base();
    zswap.store(slot, &vm, N0, &compressible(1, 900)).unwrap();
    zswap.set_zswap_max(&vm, 0).unwrap(); // the worker writes back, and panics
    let (done, waiter) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        zswap.quiesce();
        zswap.set_zswap_max(&vm, 1).unwrap(); // another kick, for nobody
        zswap.quiesce();
        done.send(()).unwrap();
    });
    waiter.recv_timeout(std::time::Duration::from_secs(20)).expect("quiesce returns");
}

#[test]
fn devices_with_small_pages_take_raw_pages_too() {
    let geometry = Geometry { page_bytes: 512, ..Geometry::default() };
    let zswap = small().device(MemoryDevice::new(1 << 20, 512)).device_geometry(geometry).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots = zswap.reserve(4).unwrap();
    let page = |k| page_of(Kind::Random, k);
    for k in 0..3 {
        zswap.store(slots.get(k).unwrap(), &vm, N0, &page(k)).unwrap();
    }
    assert_eq!(zswap.shrink_memcg(&vm, usize::MAX), Shrunk::Written(3 * 4096));
    vm.set_zswap_max(0).unwrap();
    assert_eq!(zswap.store(slots.get(3).unwrap(), &vm, N0, &page(3)).unwrap(), Stored::WrittenThrough);
    let mut back = Page::zeroed();
    for k in 0..4 {
        zswap.load(slots.get(k).unwrap(), &mut back).unwrap();
        assert!(back[..] == page(k)[..]);
    }
    zswap.assert_valid();
}
