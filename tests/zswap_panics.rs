//! A device or a codec that panics, as a client's own may: whoever catches that finds everything adding up, and the instance works on.

mod support;

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::*;
use zspool::compress::{Codec, CodecId, Codecs, Compressed, Context, Corrupt, Lz4};
use zspool::memcg::{Counter, Memcg};
use zspool::swap::{Device, MemoryDevice, Request};
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot};
use zspool::zswap::{Builder, Error, Shrunk, Zswap};

const N0: NodeId = NodeId(0);

/// Panics in the middle of requests while it is told to.
#[derive(Debug)]
struct Panicky {
    inner: MemoryDevice,
    panics: AtomicBool,
}

impl Device for Panicky {
    fn submit(&self, requests: &mut [Request]) {
        if self.panics.load(Ordering::Relaxed) {
            // resume_unwind: without the hook that prints.
            panic::resume_unwind(Box::new("as told"));
        }
        self.inner.submit(requests);
    }
    rest_of_device!(inner);
}

impl Panicky {
    /// Run `f` with a device that panics; it has to.
    fn during<R>(&self, f: impl FnOnce() -> R) {
        self.panics.store(true, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "the device was not asked");
        self.panics.store(false, Ordering::Relaxed);
    }
}

fn base() -> Builder {
    Zswap::builder().pool_limit(16 << 20).slots_in_use(1 << 13).address_space(64 << 20).worker(false)
}

fn instance(pages: u64) -> (Arc<Panicky>, Zswap, Memcg, Vec<Slot>) {
    let device = Arc::new(Panicky { inner: MemoryDevice::new(8 << 20, 4096), panics: AtomicBool::new(false) });
    let zswap = base().device(Arc::clone(&device)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots: Vec<_> = zswap.reserve(pages).unwrap().iter().collect();
    for &slot in &slots {
        zswap.store(slot, &vm, N0, &page(slot)).unwrap();
    }
    (device, zswap, vm, slots)
}

fn page(slot: Slot) -> Page {
    compressible(slot.0, 300 + slot.0 as usize % 900)
}

fn check(zswap: &Zswap, slots: &[Slot]) {
    let mut back = Page::zeroed();
    for &slot in slots {
        zswap.load(slot, &mut back).unwrap();
        assert!(back[..] == page(slot)[..], "{slot:?}");
    }
    zswap.assert_valid();
}

#[test]
fn a_write_that_panics_leaves_its_entries_where_they_were() {
    let (device, zswap, vm, slots) = instance(100);
    // More often than there are buffers, or batches in a convoy.
    for _ in 0..20 {
        device.during(|| zswap.shrink_memcg(&vm, 64));
        assert_eq!(vm.current(Counter::Swap), 0);
        zswap.assert_valid();
    }
    assert!(matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)));
    check(&zswap, &slots);
}

#[test]
fn a_read_that_panics_leaves_the_page_on_the_device() {
    let (device, zswap, vm, slots) = instance(10);
    assert!(matches!(zswap.shrink_memcg(&vm, 64), Shrunk::Written(_)));
    for _ in 0..20 {
        device.during(|| zswap.load(slots[3], &mut Page::zeroed()));
    }
    check(&zswap, &slots);
}

#[test]
fn a_store_that_panics_leaves_no_older_copy() {
    let (device, zswap, vm, slots) = instance(100);
    let limit = vm.usage();
    zswap.set_zswap_max(&vm, limit).unwrap();
    let larger = compressible(1, 2000);
    for &slot in &slots[..20] {
        device.during(|| zswap.store(slot, &vm, N0, &larger));
        assert!(matches!(zswap.load(slot, &mut Page::zeroed()), Err(Error::NotStored { .. })));
        zswap.assert_valid();
        zswap.store(slot, &vm, N0, &page(slot)).unwrap();
    }
    // Straight to the device.
    zswap.set_zswap_max(&vm, 0).unwrap();
    device.during(|| zswap.store(slots[50], &vm, N0, &larger));
    assert!(matches!(zswap.load(slots[50], &mut Page::zeroed()), Err(Error::NotStored { .. })));
    zswap.store(slots[50], &vm, N0, &page(slots[50])).unwrap();
    assert!(vm.usage() <= limit);
    check(&zswap, &slots);
}

#[test]
fn a_swap_out_that_panics_gives_the_page_back() {
    let (device, zswap, vm, slots) = instance(100);
    zswap.set_zswap_max(&vm, vm.usage()).unwrap();
    let memory = vm.current(Counter::Memory);
    let resident = vm.charge_resident(PAGE_SIZE as u64).unwrap();
    device.during(|| zswap.swap_out(slots[0], resident, N0, &compressible(1, 2000)));
    assert!(vm.current(Counter::Memory) <= memory, "nobody has the charge of the page any more");
    for &slot in &slots {
        zswap.free(slot);
    }
    assert_eq!(vm.current(Counter::Memory), 0);
    zswap.assert_valid();
}

// === a codec ===

/// LZ4 that panics while it is told to.
struct Touchy {
    compressing: Arc<AtomicBool>,
    decompressing: Arc<AtomicBool>,
}

impl Codec for Touchy {
    fn id(&self) -> CodecId {
        CodecId::new(9)
    }
    fn name(&self) -> &'static str {
        "touchy"
    }
    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c> {
        if self.compressing.load(Ordering::Relaxed) {
            panic::resume_unwind(Box::new("as told"));
        }
        Lz4.compress(context, page)
    }
    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        if self.decompressing.load(Ordering::Relaxed) {
            out[..100].fill(0x5a);
            panic::resume_unwind(Box::new("as told"));
        }
        Lz4.decompress(bytes, out)
    }
}

#[test]
fn a_codec_that_panics_leaves_no_older_copy_and_keeps_nothing_of_ours() {
    watched(codec_panics);
}

fn codec_panics() {
    let flags = [false; 2].map(|told| Arc::new(AtomicBool::new(told)));
    let [compressing, decompressing] = flags.each_ref().map(Arc::clone);
    let codecs = Codecs::builtin().with(Touchy { compressing, decompressing }).unwrap();
    let [compressing, decompressing] = &flags;
    let during = |flag: &AtomicBool, f: &mut dyn FnMut()| {
        flag.store(true, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "the codec was not asked");
        flag.store(false, Ordering::Relaxed);
    };
    // One thread may compress at a time: scratch memory that a panic kept would stop the next store for ever.
    let builder = base().codecs(codecs).codec("touchy").compressing_threads(1);
    let zswap = builder.device(MemoryDevice::new(8 << 20, 4096)).build().unwrap();
    let vm = zswap.root().mkdir("vm").unwrap();
    let slots: Vec<_> = zswap.reserve(40).unwrap().iter().collect();
    slots.iter().for_each(|&slot| _ = zswap.store(slot, &vm, N0, &page(slot)).unwrap());
    assert!(matches!(zswap.shrink_memcg(&vm, 20), Shrunk::Written(_)));
    for &slot in &slots {
        during(compressing, &mut || _ = zswap.store(slot, &vm, N0, &compressible(1, 2000)));
        assert!(matches!(zswap.load(slot, &mut Page::zeroed()), Err(Error::NotStored { .. })));
        zswap.assert_valid();
        zswap.store(slot, &vm, N0, &page(slot)).unwrap();
    }
    assert!(matches!(zswap.shrink_memcg(&vm, 20), Shrunk::Written(_)));
    // In the pool and on the device: no guard, seat or buffer is kept, however often.
    for _ in 0..3 {
        for &slot in &slots {
            during(decompressing, &mut || zswap.load(slot, &mut Page::zeroed()).unwrap());
        }
    }
    check(&zswap, &slots);
    slots.iter().for_each(|&slot| assert!(zswap.free(slot)));
    zswap.assert_valid();
    assert_eq!([vm.usage(), vm.current(Counter::Swap)], [0, 0]);
}
