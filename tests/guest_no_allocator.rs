//! Faults are served in handlers of signals, in whatever their thread was at: an allocator that aborts stands under them.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/forbidden_allocator.rs"]
mod forbidden_allocator;

use forbidden_allocator::without_allocator;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, FaultKind, VmOptions};
use zspool::memcg::Counter;
use zspool::swap::MemoryDevice;
use zspool::zswap::Zswap;

const PAGE: usize = 4096;
const PAGES: usize = 2000;

#[test]
fn no_fault_calls_the_allocator_whatever_the_page_was_and_at_a_limit() {
    // SAFETY: a new mapping, wherever there is room.
    let start = unsafe {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), PAGES * PAGE, prot, flags, -1, 0)
    };
    assert_ne!(start, libc::MAP_FAILED);
    let start = start.cast::<u64>();
    let word = |page: usize| start.wrapping_add(page * PAGE / 8);
    // SAFETY: inside the mapping, and nobody else uses it.
    let read = |page: usize| unsafe { word(page).read_volatile() };
    // SAFETY: as above.
    let write = |page: usize, value: u64| unsafe { word(page).write_volatile(value) };

    // Faults at the limit take pages out and compress them; the evictor, which is another thread, may do what it wants.
    let zswap =
        Zswap::builder().pool_limit(64 << 20).device(MemoryDevice::new(8 << 20, 4096)).worker(false).build().unwrap();
    let engine = Engine::builder(zswap).build().unwrap();
    let memcg = engine.root().mkdir("vm").unwrap();
    memcg.set_max(Counter::Memory, (PAGES / 2 * PAGE) as u64).unwrap();
    let vm = engine.vm(&memcg, VmOptions::new().kept_bytes(64 << 10)).unwrap();
    // SAFETY: the mapping outlives the region, and nobody changes what is mapped there.
    let region = unsafe { vm.register(Memory::anonymous(start.cast(), PAGES * PAGE)) }.unwrap();
    without_allocator(|| {
        for page in 0..PAGES {
            if page % 10 != 0 {
                write(page, page as u64);
            } else {
                assert_eq!(read(page), 0); // nowhere before
            }
        }
    });
    vm.evict_all();
    assert!(engine.zswap().relieve(200) > 0, "some are on the device");
    for round in 0..3u64 {
        without_allocator(|| {
            for k in 0..PAGES {
                let page = if round == 1 { k * 7 % PAGES } else { k };
                let expected = if page % 10 != 0 { page as u64 + round } else { 0 };
                assert_eq!(read(page), expected, "page {page} in round {round}");
                if page % 10 != 0 {
                    write(page, page as u64 + round + 1);
                }
            }
        });
    }
    let stats = vm.stats();
    for kind in [FaultKind::Absent, FaultKind::Compressed, FaultKind::Device, FaultKind::Protected] {
        assert!(stats.faults_of(kind).count() > 0, "no fault was {kind:?}");
    }
    region.unregister().unwrap();
    // SAFETY: ours.
    unsafe { libc::munmap(start.cast(), PAGES * PAGE) };
}
