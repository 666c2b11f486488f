//! Working sets: what a guest touched is recorded, kept as text, and brought in again at once.
#![cfg(feature = "guest")]

mod support;

use memmap2::MmapMut;
use support::watched;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, FaultAround, Region, Vm, VmOptions, WorkingSet};
use zspool::memcg::Counter;
use zspool::units::PAGE_SIZE;
use zspool::zswap::Zswap;

const PAGES: usize = 256;
const GUEST: u64 = 0x4000_0000;

fn machine(options: VmOptions) -> (Engine, Vm) {
    let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
    let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), options).unwrap();
    (engine, vm)
}

/// Memory of a guest, every page different, which the guest sees at [`GUEST`].
fn register(vm: &Vm) -> (MmapMut, Region) {
    let mut ram = MmapMut::map_anon(PAGES * PAGE_SIZE).unwrap();
    for (k, page) in ram.chunks_exact_mut(PAGE_SIZE).enumerate() {
        page.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 256 + k) as u8);
    }
    let memory = Memory::anonymous(ram.as_mut_ptr(), ram.len()).guest_address(GUEST);
    // SAFETY: the tests unregister it before they drop `ram`.
    let region = unsafe { vm.register(memory) }.unwrap();
    (ram, region)
}

fn at(page: usize) -> u64 {
    GUEST + (page * PAGE_SIZE) as u64
}

fn faults(vm: &Vm) -> u64 {
    vm.stats().all_faults()
}

fn unregister(region: Region) {
    region.unregister().map_err(|(_, error)| error).unwrap();
}

#[test]
fn what_was_touched_is_recorded_and_comes_back_without_a_fault() {
    watched(|| {
        let (_engine, vm) = machine(VmOptions::new().fault_around(FaultAround::Off));
        let (mut ram, region) = register(&vm);
        let recording = vm.record_working_set();
        assert_eq!(vm.in_memory(), WorkingSet::default());
        for page in [3, 4, 5, 100, 255] {
            assert_eq!(ram[page * PAGE_SIZE], page as u8);
        }
        ram[17 * PAGE_SIZE] = 1;
        let set = recording.finish();
        let pages = [3..6, 17..18, 100..101, 255..256].map(|run| at(run.start)..at(run.end));
        assert_eq!(set.runs(), pages);

        // It sleeps; then all of it is there before it is touched.
        vm.evict_all();
        let before = faults(&vm);
        let brought = vm.replay(&set.to_string().parse().unwrap());
        assert_eq!((brought.pages, brought.left), (6, 0));
        assert_eq!(vm.in_memory(), set);
        let before_touching = faults(&vm);
        assert!(before_touching - before <= 6);
        for page in [3, 4, 5, 100, 255] {
            assert_eq!(ram[page * PAGE_SIZE], page as u8);
        }
        assert_eq!(ram[17 * PAGE_SIZE], 1);
        assert_eq!(faults(&vm), before_touching, "none was missed");
        assert_eq!(vm.replay(&set).pages, 0, "they are there already");
        unregister(region);
    });
}

#[test]
fn pages_that_left_again_are_in_it_as_well() {
    watched(|| {
        let (engine, vm) = machine(VmOptions::new().fault_around(FaultAround::Off));
        let (ram, region) = register(&vm);
        vm.memcg().set_max(Counter::Memory, (PAGES / 4 * PAGE_SIZE) as u64).unwrap();
        let recording = vm.record_working_set();
        for page in 0..PAGES / 2 {
            assert_eq!(ram[page * PAGE_SIZE], page as u8); // twice what the limit has room for
        }
        let set = recording.finish();
        assert_eq!(set.runs(), std::slice::from_ref(&(at(0)..at(PAGES / 2))));
        let there = vm.in_memory().pages();
        assert!(there < PAGES as u64 / 4, "{there} are in memory");

        // Brought in is what there is room for; nothing leaves for it. (What left for the touches has left by now.)
        engine.quiesce();
        let taken_out = vm.stats().taken_out;
        let brought = vm.replay(&set);
        assert_eq!(vm.stats().taken_out, taken_out);
        assert!(brought.left > 0);
        let current = vm.memcg().current(Counter::Memory);
        assert!(current <= (PAGES / 4 * PAGE_SIZE) as u64, "{current} are charged, {brought:?}, {:?}", vm.stats());
        vm.memcg().set_max(Counter::Memory, u64::MAX).unwrap();
        assert!(vm.replay(&set).pages > 0);
        unregister(region);
    });
}

#[test]
fn a_set_is_good_for_another_run_of_the_guest() {
    watched(|| {
        let (_engine, vm) = machine(VmOptions::new().fault_around(FaultAround::Off));
        let (ram, region) = register(&vm);
        let recording = vm.record_working_set();
        assert_eq!(ram[42 * PAGE_SIZE], 42);
        let text = recording.finish().to_string();
        assert_eq!(text, format!("{:#x}-{:#x}\n", at(42), at(43)));
        unregister(region);
        drop(ram);

        let (_engine, vm) = machine(VmOptions::new());
        let (_ram, region) = register(&vm); // elsewhere in this process
        vm.evict_all();
        let elsewhere: WorkingSet = "0x0-0x4000\n".parse().unwrap();
        assert_eq!(vm.replay(&elsewhere).pages, 0, "addresses that it has not are passed over");
        assert_eq!(vm.replay(&text.parse::<WorkingSet>().unwrap().with(&elsewhere)).pages, 1);
        assert_eq!(vm.in_memory().runs(), std::slice::from_ref(&(at(42)..at(43))));
        unregister(region);
    });
}

#[test]
fn a_new_recording_does_not_have_what_the_one_before_had() {
    watched(|| {
        let (_engine, vm) = machine(VmOptions::new().fault_around(FaultAround::Off));
        let (ram, region) = register(&vm);
        let first = vm.record_working_set();
        assert_eq!(ram[10 * PAGE_SIZE], 10);
        let second = vm.record_working_set(); // takes it out again
        assert_eq!(ram[20 * PAGE_SIZE], 20);
        assert_eq!(second.finish().runs(), std::slice::from_ref(&(at(20)..at(21))));
        drop(first);
        unregister(region);
    });
}
