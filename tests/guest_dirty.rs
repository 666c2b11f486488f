//! Dirty tracking while pages leave and come back: every write is told, and what was not written is not told for ever.
#![cfg(feature = "guest")]

mod support;

use memmap2::MmapMut;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{Random, watched};
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, Error, FaultAround, Region, Vm, VmOptions};
use zspool::memcg::Counter;
use zspool::units::PAGE_SIZE;
use zspool::zswap::Zswap;

struct Guest {
    region: Option<Region>,
    vm: Vm,
    _engine: Engine,
    ram: MmapMut,
}

impl Guest {
    fn new(pages: usize, options: VmOptions) -> Guest {
        let ram = MmapMut::map_anon(pages * PAGE_SIZE).unwrap();
        Guest::with(ram, options, |ram| Memory::anonymous(ram.as_mut_ptr(), ram.len()))
    }

    fn of_memfd(pages: usize, options: VmOptions) -> Guest {
        // SAFETY: a call without pointers but its name.
        let descriptor = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(descriptor >= 0);
        // SAFETY: a new descriptor, which nobody else has.
        let file = unsafe { File::from_raw_fd(descriptor) };
        file.set_len((pages * PAGE_SIZE) as u64).unwrap();
        // SAFETY: nobody else has the file, so nobody else changes it.
        let ram = unsafe { MmapMut::map_mut(&file) }.unwrap();
        Guest::with(ram, options, |ram| Memory::memfd(ram.as_mut_ptr(), ram.len(), &file, 0))
    }

    fn with(mut ram: MmapMut, options: VmOptions, memory: impl FnOnce(&mut MmapMut) -> Memory) -> Guest {
        let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
        let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), options).unwrap();
        // SAFETY: the region is unregistered when this is dropped, before `ram` is.
        let region = unsafe { vm.register(memory(&mut ram)) }.unwrap();
        Guest { region: Some(region), vm, _engine: engine, ram }
    }

    fn write(&mut self, page: usize, byte: u8) {
        self.ram[page * PAGE_SIZE + 100] = byte;
    }

    fn region(&self) -> &Region {
        self.region.as_ref().unwrap()
    }

    fn page(&self, address: usize) -> usize {
        (address - self.ram.as_ptr() as usize) / PAGE_SIZE
    }

    fn dirty(&self) -> Vec<Range<usize>> {
        let mut told = Vec::new();
        let pages = self.vm.take_dirty(|run| told.push(self.page(run.start)..self.page(run.end))).unwrap();
        assert_eq!(pages, told.iter().map(|run| run.len() as u64).sum::<u64>());
        told
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let done = self.region.take().unwrap().unregister();
        assert!(done.is_ok() || std::thread::panicking());
    }
}

fn tracking() -> VmOptions {
    VmOptions::new().dirty_tracking(true).fault_around(FaultAround::Off)
}

#[test]
fn what_is_written_is_told_once() {
    watched(|| {
        let mut guest = Guest::new(64, tracking());
        assert_eq!(guest.dirty(), [], "nothing was touched");
        (0..64).for_each(|page| guest.write(page, 1));
        assert_eq!(guest.dirty(), std::slice::from_ref(&(0..64)));
        assert_eq!(guest.dirty(), []);
        guest.write(3, 2);
        guest.write(4, 2);
        guest.write(63, 2);
        let _read = guest.ram[10 * PAGE_SIZE];
        assert_eq!(guest.dirty(), [3..5, 63..64]);
        assert_eq!(guest.dirty(), []);
    });
}

#[test]
fn memory_in_use_when_it_is_registered_is_told_the_first_time() {
    watched(|| {
        let mut ram = MmapMut::map_anon(16 * PAGE_SIZE).unwrap();
        ram[5 * PAGE_SIZE] = 1;
        let engine = Engine::new(Zswap::builder().build().unwrap()).unwrap();
        let vm = engine.vm(&engine.root(), tracking()).unwrap();
        // SAFETY: unregistered below.
        let region = unsafe { vm.register(Memory::anonymous(ram.as_mut_ptr(), ram.len())) }.unwrap();
        let mut told = Vec::new();
        vm.take_dirty(|run| told.push(run)).unwrap();
        let at = ram.as_ptr() as usize + 5 * PAGE_SIZE;
        assert_eq!(told, std::slice::from_ref(&(at..at + PAGE_SIZE)));
        region.unregister().map_err(|(_, error)| error).unwrap();
    });
}

#[test]
fn a_page_that_left_counts_as_written_once() {
    watched(|| leaves_and_comes_back(Guest::new(64, tracking())));
}

#[test]
fn a_page_of_a_memfd_that_left_counts_as_written_once() {
    watched(|| leaves_and_comes_back(Guest::of_memfd(64, tracking())));
}

fn leaves_and_comes_back(mut guest: Guest) {
    (0..64).for_each(|page| guest.write(page, page as u8));
    guest.dirty();
    guest.write(7, 200);
    guest.region().evict(0..16 * PAGE_SIZE); // with the one just written
    assert_eq!(guest.dirty(), std::slice::from_ref(&(0..16)), "those that left");
    assert_eq!(guest.dirty(), [], "they are out, and nobody can have written them");
    assert_eq!(guest.ram[7 * PAGE_SIZE + 100], 200);
    assert_eq!(guest.dirty(), std::slice::from_ref(&(7..8)), "it came back, without a mark");
    assert_eq!(guest.dirty(), []);
    // In and out between two questions.
    guest.write(9, 201);
    guest.region().evict(9 * PAGE_SIZE..10 * PAGE_SIZE);
    assert_eq!(guest.dirty(), std::slice::from_ref(&(9..10)));
}

#[test]
fn a_page_that_was_thrown_away_counts_as_written() {
    watched(|| {
        let mut guest = Guest::new(64, tracking());
        (0..64).for_each(|page| guest.write(page, 1));
        guest.region().evict(32 * PAGE_SIZE..64 * PAGE_SIZE);
        guest.dirty();
        guest.region().discard(10 * PAGE_SIZE..12 * PAGE_SIZE).unwrap(); // in memory
        guest.region().discard(40 * PAGE_SIZE..41 * PAGE_SIZE).unwrap(); // compressed
        assert_eq!(guest.dirty(), [10..12, 40..41]);
        assert_eq!(guest.dirty(), []);
    });
}

/// What the kernel, or somebody else, takes from under our feet.
fn drop_mapping(guest: &mut Guest, pages: Range<usize>) {
    let at = guest.ram[pages.start * PAGE_SIZE..].as_mut_ptr();
    // SAFETY: the guest's own memory, which nobody borrows.
    assert_eq!(unsafe { libc::madvise(at.cast(), pages.len() * PAGE_SIZE, libc::MADV_DONTNEED) }, 0);
}

#[test]
fn a_page_thrown_away_behind_our_back_is_told_once() {
    watched(|| {
        let mut guest = Guest::new(64, tracking());
        (0..64).for_each(|page| guest.write(page, 1));
        guest.dirty();
        let charged = guest.vm.stats().resident;
        drop_mapping(&mut guest, 20..23);
        assert_eq!(guest.dirty(), std::slice::from_ref(&(20..23)), "it reads as zeroes now");
        assert_eq!(guest.dirty(), []);
        assert_eq!(guest.vm.stats().resident, charged - 3 * PAGE_SIZE as u64, "what is gone is not charged");
        assert_eq!(guest.ram[20 * PAGE_SIZE + 100], 0);
        guest.write(21, 5);
        drop_mapping(&mut guest, 21..22); // touched, and thrown away again
        assert!(guest.dirty().iter().any(|run| run.contains(&21)));
        assert_eq!(guest.dirty(), []);
        assert_eq!(guest.ram[21 * PAGE_SIZE + 100], 0);
    });
}

/// As when the kernel swaps it out: the page is in the file, with what was written, and the mark of that is gone.
#[test]
fn a_written_page_of_a_file_that_is_unmapped_is_told_once() {
    watched(|| {
        let mut guest = Guest::of_memfd(64, tracking());
        (0..64).for_each(|page| guest.write(page, 1));
        guest.dirty();
        guest.write(30, 2);
        drop_mapping(&mut guest, 30..32);
        assert!(guest.dirty().iter().any(|run| run.contains(&30)), "it was written");
        assert_eq!(guest.dirty(), [], "and not again");
        assert_eq!((guest.ram[30 * PAGE_SIZE + 100], guest.ram[31 * PAGE_SIZE + 100]), (2, 1));
        guest.dirty();
        guest.write(30, 3);
        assert_eq!(guest.dirty(), std::slice::from_ref(&(30..31)));
        guest.region().evict(0..64 * PAGE_SIZE);
        assert_eq!(guest.ram[30 * PAGE_SIZE + 100], 3);
    });
}

#[test]
fn a_copy_by_what_is_told_is_equal_in_the_end() {
    watched(|| copies(Guest::new(PAGES, tracking())));
}

#[test]
fn a_copy_of_a_memfd_by_what_is_told_is_equal_in_the_end() {
    watched(|| copies(Guest::of_memfd(PAGES, tracking())));
}

const PAGES: usize = 512;

/// A copy that is made of what is told alone is equal in the end, whatever the limit did meanwhile.
fn copies(guest: Guest) {
    guest.vm.memcg().set_max(Counter::Memory, (PAGES / 3 * PAGE_SIZE) as u64).unwrap();
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let base = guest.ram.as_ptr() as usize;
    let cell = |page: usize, at: usize| -> &AtomicU64 {
        // SAFETY: inside `ram`, aligned, and only used as an atomic by these threads.
        unsafe { AtomicU64::from_ptr((base + page * PAGE_SIZE + at * 8) as *mut u64) }
    };
    let mut copy = vec![[0u64; 4]; PAGES];
    let rounds = std::thread::scope(|scope| {
        for seed in 0..2 {
            let (stop, writes) = (&stop, &writes);
            scope.spawn(move || {
                let mut random = Random::new(seed + 1);
                while !stop.load(Ordering::Relaxed) {
                    let page = random.below(PAGES as u64) as usize;
                    cell(page, seed as usize * 2).store(random.next(), Ordering::Relaxed);
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let copy_told = |copy: &mut Vec<[u64; 4]>| {
            let mut told = Vec::new();
            guest.vm.take_dirty(|run| told.extend(guest.page(run.start)..guest.page(run.end))).unwrap();
            for &page in &told {
                copy[page] = std::array::from_fn(|at| cell(page, at).load(Ordering::Relaxed));
            }
            told.len()
        };
        let mut rounds = 0;
        while writes.load(Ordering::Relaxed) < 20_000 {
            copy_told(&mut copy);
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
        rounds
    });
    // The guest is paused: what is told now is the last of it. The evictor goes on.
    let mut told = BTreeSet::new();
    guest.vm.take_dirty(|run| told.extend(guest.page(run.start)..guest.page(run.end))).unwrap();
    for &page in &told {
        copy[page] = std::array::from_fn(|at| cell(page, at).load(Ordering::Relaxed));
    }
    for (page, copy) in copy.iter().enumerate() {
        let is: [u64; 4] = std::array::from_fn(|at| cell(page, at).load(Ordering::Relaxed));
        assert_eq!(is, *copy, "page {page} after {rounds} rounds");
    }
    assert!(guest.vm.stats().taken_out > 0, "the limit was at work");
    guest.vm.memcg().set_max(Counter::Memory, u64::MAX).unwrap();
}

#[test]
fn without_the_option_it_says_so() {
    watched(|| {
        let guest = Guest::new(4, VmOptions::new());
        let error = guest.vm.take_dirty(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Options { .. }));
        assert!(error.to_string().contains("dirty_tracking(true)"), "{error}");
    });
}

#[test]
fn it_excludes_kept_copies() {
    let engine = Engine::new(Zswap::builder().build().unwrap()).unwrap();
    let error = engine.vm(&engine.root(), tracking().kept_bytes(1 << 20)).unwrap_err();
    assert!(matches!(error, Error::Options { .. }), "{error}");
}
