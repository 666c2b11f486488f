//! Children of fork, and what `mremap` moves, where not a byte more fits: what must be stored for them is, and what cannot be is told.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/family.rs"]
mod family;
#[path = "support/forked.rs"]
mod forked;
#[path = "support/served.rs"]
mod served;
mod support;

use family::*;
use forked::*;
use served::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zspool::guest::{Engine, Follow, MappingChange, Region, Vm};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

/// A VM that has as much as it may, with pages staged and no device, in a process of its own.
struct Full {
    region: Region,
    vm: Vm,
    mapping: Mapping,
    engine: Engine,
}

/// Whether who follows its changes waits at the next.
static HELD: AtomicBool = AtomicBool::new(false);

impl Full {
    fn new() -> Full {
        let hold = |_: &MappingChange| {
            while HELD.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
        let options = parent(1).kernel_faults(true).follow(Follow::Mappings).on_change(hold);
        let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), options).unwrap();
        let mapping = Mapping::new(600);
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
        vm.memcg().set_max(Counter::Memory, 400 * PAGE as u64).unwrap();
        mapping.write(0..600, 1);
        engine.quiesce();
        // Not a byte more fits.
        vm.memcg().set_max(Counter::Memory, vm.memcg().current(Counter::Memory)).unwrap();
        assert!(vm.stats().staged > 0, "{:?}", vm.stats());
        Full { engine, vm, mapping, region }
    }

    /// A child that begins with a fork: who follows changes is held, and hears of the child when that waits until somebody reads of its fork.
    fn fork_that_forks(&self, f: impl FnOnce() -> i32) -> libc::pid_t {
        HELD.store(true, Ordering::SeqCst);
        let beside = Mapping::new(1);
        let other = beside.register(&self.vm);
        drop(beside);
        let child = fork(f);
        let waits = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap().contains(") D ");
        until("it waits in its fork", waits);
        HELD.store(false, Ordering::SeqCst);
        drop(other);
        child
    }

    fn end(self) {
        let Full { engine, vm, mapping, region } = self;
        mapping.check(0..600, 1);
        drop((region, vm));
        engine.zswap().assert_valid();
    }
}

#[test]
fn a_child_forks_before_its_parent_which_is_at_its_limit_has_read_of_it() {
    let name = "a_child_forks_before_its_parent_which_is_at_its_limit_has_read_of_it";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let full = Full::new();
        // Nor does anybody compress what is staged meanwhile.
        full.engine.while_held(|| {
            let all = || i32::from(!full.mapping.is(0..600, 1));
            let child = full.fork_that_forks(|| {
                let grandchild = fork(all);
                all() + 2 * wait(grandchild)
            });
            assert_eq!(wait(child), 0, "it has its memory as it was, and so has its own child");
        });
        assert!(full.vm.stats().overshoot_bytes > 0, "that what could not leave passed the limit is told");
        full.end();
    });
    well(&output.unwrap());
}

#[test]
fn a_child_for_whose_pages_there_is_no_room_anywhere_is_told() {
    let name = "a_child_for_whose_pages_there_is_no_room_anywhere_is_told";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let full = Full::new();
        full.engine.while_held(|| {
            let (zswap, memcg) = (full.engine.zswap(), full.vm.memcg());
            zswap.set_zswap_max(memcg, memcg.current(Counter::Zswap)).unwrap();
            let child = full.fork_that_forks(|| {
                wait(fork(|| 0));
                let can_be_read = (0..600).filter(|&page| full.mapping.can_be_read(page));
                let wrong = can_be_read.clone().any(|page| !full.mapping.is(page..page + 1, 1));
                2 * i32::from(wrong) + i32::from(can_be_read.count() == 600)
            });
            assert_eq!(wait(child), 0, "some are errors, and the others as they were");
            zswap.set_zswap_max(memcg, u64::MAX).unwrap();
        });
        full.end();
    });
    let output = output.unwrap();
    well(&output);
    assert!(said(&output).contains("cannot be read back"), "{}", said(&output));
}

#[test]
fn what_is_moved_at_a_limit_while_it_is_staged_is_what_it_was() {
    let name = "what_is_moved_at_a_limit_while_it_is_staged_is_what_it_was";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let Full { engine, vm, mapping, region } = Full::new();
        let place = Mapping::new(600);
        engine.while_held(|| {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: the test's memory.
            let moved = unsafe { libc::mremap(mapping.at(0).cast(), mapping.bytes, place.bytes, flags, place.at(0)) };
            assert_eq!(moved, place.at(0).cast());
            std::mem::forget(mapping);
            until("the move is followed", || vm.stats().staged == 0);
            place.check(0..600, 1);
        });
        drop((region, vm));
        place.check(0..600, 1);
        engine.zswap().assert_valid();
    });
    well(&output.unwrap());
}
