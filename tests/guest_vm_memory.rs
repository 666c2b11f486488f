//! Memory of the crate vm-memory, registered: reads and writes across pages that are out, hotplug, what is refused.
#![cfg(feature = "vm-memory")]

mod support;

use std::fs::File;
use std::os::fd::FromRawFd;
use support::{Random, watched};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};
use zspool::guest::vm_memory::MmapGuest;
use zspool::guest::{Engine, Error, GuestMap, GuestRange, Service, ThreadOptions, Vm, VmOptions};
use zspool::memcg::Counter;
use zspool::units::PAGE_SIZE;
use zspool::zswap::Zswap;

const MIB: usize = 1 << 20;

fn vm(options: VmOptions) -> (Engine, Vm) {
    let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
    let memcg = engine.root().mkdir("vm").unwrap();
    let vm = engine.vm(&memcg, options).unwrap();
    (engine, vm)
}

fn memfd(bytes: usize) -> File {
    // SAFETY: a call without pointers but its name.
    let descriptor = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(descriptor >= 0);
    // SAFETY: a new descriptor, which nobody else has.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(bytes as u64).unwrap();
    file
}

/// Low memory, a hole, and two ranges above, as a PC has it.
fn pc() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), MIB),
        (GuestAddress(4 << 30), 2 * MIB),
        (GuestAddress((4 << 30) + 2 * MIB as u64), MIB),
    ])
    .unwrap()
}

fn unregister(guest: MmapGuest) {
    guest.unregister().map_err(|(_, error)| error).unwrap();
}

/// Write and read at random over page edges, with pages taken out between, and compare with plain memory of the same shape.
fn as_plain_memory(memory: &GuestMemoryMmap, plain: &GuestMemoryMmap, vm: &Vm, seed: u64) {
    let mut random = Random::new(seed);
    let ranges: Vec<_> = memory.iter().map(|region| (region.start_addr().0, region.len())).collect();
    for step in 0..600 {
        let (start, bytes) = ranges[random.below(ranges.len() as u64) as usize];
        let len = 1 + random.below(3 * PAGE_SIZE as u64) as usize;
        let at = GuestAddress(start + random.below(bytes - len as u64));
        if random.below(3) == 0 {
            let text: Vec<u8> = (0..len).map(|k| (step + k / 16) as u8).collect();
            memory.write_slice(&text, at).unwrap();
            plain.write_slice(&text, at).unwrap();
        } else {
            let (mut is, mut was) = (vec![0; len], vec![0; len]);
            memory.read_slice(&mut is, at).unwrap();
            plain.read_slice(&mut was, at).unwrap();
            assert_eq!(is, was, "step {step} at {at:?}");
        }
        match random.below(20) {
            0 => drop(vm.evict_all()),
            1 => drop(vm.evict(256 << 10)),
            _ => {}
        }
    }
    vm.evict_all();
    for &(start, bytes) in &ranges {
        let (mut is, mut was) = (vec![0; bytes as usize], vec![0; bytes as usize]);
        memory.read_slice(&mut is, GuestAddress(start)).unwrap();
        plain.read_slice(&mut was, GuestAddress(start)).unwrap();
        assert!(is == was, "the range at {start:#x}");
    }
}

#[test]
fn bytes_read_and_write_across_pages_that_are_out() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let (memory, plain) = (pc(), pc());
        memory.write_slice(&[7; 3 * PAGE_SIZE], GuestAddress(0x1800)).unwrap(); // in use already
        plain.write_slice(&[7; 3 * PAGE_SIZE], GuestAddress(0x1800)).unwrap();
        let guest = MmapGuest::register(&vm, &memory).unwrap();
        assert_eq!(guest.regions().map(|(at, _)| at).collect::<Vec<_>>(), [0, 4 << 30, (4 << 30) + 2 * MIB as u64]);
        as_plain_memory(&memory, &plain, &vm, 1);
        unregister(guest);
        assert_eq!(vm.regions().len(), 0);
        let mut is = [0; 3 * PAGE_SIZE];
        memory.read_slice(&mut is, GuestAddress(0x1800)).unwrap();
        let mut was = [0; 3 * PAGE_SIZE];
        plain.read_slice(&mut was, GuestAddress(0x1800)).unwrap();
        assert_eq!(is, was, "after it was unregistered");
    });
}

#[test]
fn memory_that_is_a_memfd_does_so_too() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let files = || {
            let file = std::sync::Arc::new(memfd(4 * MIB));
            GuestMemoryMmap::<()>::from_ranges_with_files([
                (GuestAddress(0), MIB, Some(FileOffset::from_arc(file.clone(), MIB as u64))),
                (GuestAddress(1 << 30), 2 * MIB, Some(FileOffset::from_arc(file, 2 * MIB as u64))),
            ])
            .unwrap()
        };
        let (memory, plain) = (files(), files());
        let guest = MmapGuest::register(&vm, &memory).unwrap();
        as_plain_memory(&memory, &plain, &vm, 2);
        unregister(guest);
    });
}

#[test]
fn what_is_plugged_in_is_registered_and_what_is_unplugged_is_not() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let memory = pc();
        let mut guest = MmapGuest::register(&vm, &memory).unwrap();
        memory.write_slice(b"stays", GuestAddress(0)).unwrap();
        let nothing = guest.follow(&memory).unwrap();
        assert_eq!((nothing.registered, nothing.unregistered), (0, 0));

        let plugged = GuestRegionMmap::from_range(GuestAddress(8 << 30), 4 * MIB, None).unwrap();
        let larger = memory.insert_region(std::sync::Arc::new(plugged)).unwrap();
        let changed = guest.follow(&larger).unwrap();
        assert_eq!((changed.registered, changed.unregistered), (1, 0));
        larger.write_slice(b"plugged in", GuestAddress((8 << 30) + 4093)).unwrap();
        vm.evict_all();

        let (smaller, unplugged) = larger.remove_region(GuestAddress(4 << 30), 2 * MIB as u64).unwrap();
        let changed = guest.follow(&smaller).unwrap();
        assert_eq!((changed.registered, changed.unregistered), (0, 1));
        drop((memory, larger, unplugged)); // it is unmapped now
        assert_eq!(vm.regions().len(), 3);
        let mut read = [0; 10];
        smaller.read_slice(&mut read, GuestAddress((8 << 30) + 4093)).unwrap();
        assert_eq!(&read, b"plugged in");
        smaller.read_slice(&mut read[..5], GuestAddress(0)).unwrap();
        assert_eq!(&read[..5], b"stays");
        unregister(guest);
        assert_eq!(vm.memcg().current(Counter::Memory), 0);
    });
}

#[test]
fn a_registration_keeps_its_memory_mapped() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let memory = pc();
        memory.write_slice(b"still there", GuestAddress(4090)).unwrap();
        let guest = MmapGuest::register(&vm, &memory).unwrap();
        vm.evict_all();
        let at = guest.parts(4090..4101).unwrap()[0].0.addresses().start + 4090;
        drop(memory);
        // SAFETY: the mapping is held by `guest`: that is what is tested.
        let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, 11) };
        assert_eq!(bytes, b"still there");
        unregister(guest);
    });
}

#[test]
fn a_guest_stays_below_its_limit_and_keeps_its_bytes() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new().service(Service::Threads(ThreadOptions::default())));
        vm.memcg().set_max(Counter::Memory, MIB as u64).unwrap();
        let memory = pc();
        let guest = MmapGuest::register(&vm, &memory).unwrap();
        let page = |number: u64| [number as u8; 100];
        for k in 0..767u64 {
            memory.write_slice(&page(k), GuestAddress((4 << 30) + k * 4096 + 4000)).unwrap();
            assert!(vm.memcg().current(Counter::Memory) <= MIB as u64, "at page {k}");
        }
        for k in 0..767u64 {
            let mut read = [0; 100];
            memory.read_slice(&mut read, GuestAddress((4 << 30) + k * 4096 + 4000)).unwrap();
            assert_eq!(read, page(k), "page {k}");
        }
        vm.memcg().set_max(Counter::Memory, u64::MAX).unwrap();
        unregister(guest);
    });
}

#[test]
fn balloons_and_devices_ask_by_guest_addresses() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let memory = pc();
        let guest = MmapGuest::register(&vm, &memory).unwrap();
        let edge = (4 << 30) + 2 * MIB as u64; // where two regions meet
        memory.write_slice(&[9; 4 * PAGE_SIZE], GuestAddress(edge - 2 * 4096)).unwrap();
        vm.evict_all();
        {
            let pins = guest.pin(edge - 100..edge + 100).unwrap();
            assert_eq!(pins.len(), 2);
            vm.evict_all();
            assert_eq!(
                vm.memcg().current(Counter::Memory) / 4096,
                2,
                "a page on each side, and the others repeat a byte"
            );
        }
        assert_eq!(guest.discard(edge - 4096..edge + 4096).unwrap(), 8192);
        let mut read = [1; 4 * PAGE_SIZE];
        memory.read_slice(&mut read, GuestAddress(edge - 2 * 4096)).unwrap();
        let mut expected = [9; 4 * PAGE_SIZE];
        expected[PAGE_SIZE..3 * PAGE_SIZE].fill(0);
        assert_eq!(read, expected);
        vm.evict_all();
        assert_eq!(guest.prefetch(edge - 2 * 4096..edge - 4095).unwrap().pages, 2);

        let hole = guest.pin(2 << 20..(2 << 20) + 1).expect_err("nothing there");
        assert!(matches!(hole, Error::NoGuestMemory { .. }), "{hole}");
        let behind = guest.discard(edge..edge + 2 * MIB as u64).unwrap_err();
        assert!(matches!(behind, Error::NoGuestMemory { .. }), "{behind}");
        unregister(guest);
    });
}

#[test]
fn huge_pages_are_refused_by_name() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let mut huge = MmapRegion::<()>::new(2 * MIB).unwrap();
        huge.set_hugetlbfs(true); // as a monitor says that maps such
        let region = GuestRegionMmap::new(huge, GuestAddress(1 << 30)).unwrap();
        let plain = GuestRegionMmap::from_range(GuestAddress(0), MIB, None).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![plain, region]).unwrap();
        let error = MmapGuest::register(&vm, &memory).err().expect("huge pages");
        assert!(error.to_string().contains("huge pages of hugetlbfs"), "{error}");
        assert_eq!(vm.regions().len(), 0, "none of it is registered");
    });
}

#[test]
fn a_file_that_is_no_memfd_is_refused_and_nothing_stays_registered() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0; MIB]).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let memory = GuestMemoryMmap::<()>::from_ranges_with_files([
            (GuestAddress(0), MIB, None),
            (GuestAddress(1 << 30), MIB, Some(FileOffset::new(file, 0))),
        ])
        .unwrap();
        let error = MmapGuest::register(&vm, &memory).err().expect("a file");
        assert!(error.to_string().contains("memfd"), "{error}");
        assert_eq!(vm.regions().len(), 0, "the first was unregistered again");
    });
}

#[test]
fn ranges_that_share_guest_addresses_are_refused_with_both() {
    watched(|| {
        let (_engine, vm) = vm(VmOptions::new());
        let memory = pc();
        let other = MmapRegion::<()>::new(MIB).unwrap();
        let mut map = GuestMap::new(&vm);
        let ranges = zspool::guest::vm_memory::ranges(&memory).unwrap();
        // SAFETY: both mappings stay until the map is dropped, at the end.
        unsafe { map.follow(&ranges) }.unwrap();
        for guest_address in [0, MIB as u64 - 4096, (4 << 30) - 4096, (4 << 30) + 3 * MIB as u64 - 4096] {
            let range = GuestRange { guest_address, host: other.as_ptr(), bytes: MIB, file: None };
            // SAFETY: as above.
            let error = unsafe { map.add(range) }.unwrap_err();
            assert!(matches!(error, Error::GuestOverlap { .. }), "{guest_address:#x}: {error}");
        }
        let range = GuestRange { guest_address: MIB as u64, host: other.as_ptr(), bytes: MIB, file: None };
        // SAFETY: as above.
        unsafe { map.add(range) }.unwrap();
        assert_eq!(map.parts(0..2 * MIB as u64).unwrap().len(), 2);
        assert!(matches!(map.remove(4096), Err(Error::NoGuestMemory { .. })));
        map.remove(MIB as u64).unwrap();
        map.unregister().map_err(|(_, error)| error).unwrap();
    });
}
