//! Children of fork: they have the memory that is kept for them as it was, whatever state its pages are in, while the parent goes on.
//!
//! A child does nothing but look at memory, by system calls and loads, and ends: it has one thread of many, and no lock may be taken there.
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
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, Error, FaultAround, Follow, Overshoot, Verdict, VmOptions};
use zspool::memcg::Counter;

/// A pipe through which one side tells the other to go on.
struct Whistle([i32; 2]);

impl Whistle {
    fn new() -> Whistle {
        let mut ends = [0; 2];
        // SAFETY: room for two.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        Whistle(ends)
    }
    fn blow(&self) {
        // SAFETY: a byte.
        assert_eq!(unsafe { libc::write(self.0[1], b"!".as_ptr().cast(), 1) }, 1);
    }
    fn hear(&self) {
        let mut byte = 0u8;
        // SAFETY: a byte.
        unsafe { libc::read(self.0[0], (&raw mut byte).cast(), 1) };
    }
}

#[test]
fn a_child_reads_all_pages_as_they_were_while_its_parent_writes() {
    let name = "a_child_reads_all_pages_as_they_were_while_its_parent_writes";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        for (count, follow) in [(1, Follow::Nothing), (2, Follow::Mappings)] {
            let family = family(parent(count).follow(follow));
            let go = Whistle::new();
            let child = fork(|| {
                // Half before the parent has changed anything, half after it.
                let early = family.mapping.is(50..150, 1);
                go.hear();
                i32::from(!(early && family.is_as_it_was()))
            });
            // The parent's pages come in, change, and leave again: into slots that the child has, too.
            for version in 2..5 {
                family.mapping.write(0..450, version);
                family.vm.evict_all();
                family.mapping.check(0..450, version);
                family.vm.evict_all();
            }
            family.region.discard(0..30 * PAGE).unwrap();
            go.blow();
            assert_eq!(wait(child), 0, "the child has its memory as it was");
            family.mapping.check(30..450, 4);
            family.mapping.check_zero(0..30);
            family.mapping.check_zero(450..500);
            assert_eq!(family.vm.service_stats().children, 1);
            end(family, 4);
        }
    });
    well(&output.unwrap());
}

/// Nothing is left of children: not in limits, not in the store.
fn end(family: Family, version: u64) {
    let Family { engine, vm, mapping, region } = family;
    mapping.check(100..400, version);
    until("the child's charges go", || {
        let resident = vm.memcg().current(Counter::Memory) - vm.memcg().usage();
        resident <= 500 * PAGE as u64
    });
    std::thread::sleep(Duration::from_millis(300));
    region.assert_valid();
    vm.evict_all();
    mapping.check(100..400, version);
    drop(region);
    assert_eq!(vm.memcg().current(Counter::Memory), 0, "all charges are gone");
    drop(vm);
    engine.zswap().assert_valid();
    assert_eq!(engine.zswap().stats().pool.objects, 0);
    mapping.check(100..400, version);
}

#[test]
fn a_child_writes_drops_moves_and_has_children_of_its_own() {
    let name = "a_child_writes_drops_moves_and_has_children_of_its_own";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(1).follow(Follow::Mappings));
        let mapping = &family.mapping;
        let child = fork(|| {
            mapping.write(0..20, 9);
            // SAFETY: the child's memory.
            let dropped = unsafe { libc::madvise(mapping.at(20).cast(), 20 * PAGE, libc::MADV_DONTNEED) };
            let flags = libc::MREMAP_MAYMOVE;
            // SAFETY: the child's memory.
            let moved = unsafe { libc::mremap(mapping.at(100).cast(), 50 * PAGE, 60 * PAGE, flags) };
            if dropped != 0 || moved == libc::MAP_FAILED {
                return 1;
            }
            let grandchild = fork(|| {
                let moved = moved.cast::<u64>();
                // SAFETY: mapped there.
                let at = |page: usize, k: usize| unsafe { moved.wrapping_add(page * 512 + k).read_volatile() };
                let theirs =
                    (0..50).all(|page| bytes_of(page + 100, 1).enumerate().all(|(k, word)| at(page, k) == word));
                let zero = (50..60).all(|page| (0..512).all(|k| at(page, k) == 0));
                // SAFETY: the test's memory.
                let dropped = (20..40).all(|page| unsafe { mapping.at(page).read_volatile() } == 0);
                if !mapping.is(0..20, 9) {
                    2
                } else if !(mapping.is(40..100, 1) && mapping.is(150..400, 1)) {
                    3
                } else if !(theirs && zero) {
                    4
                } else if !dropped {
                    5
                } else {
                    0
                }
            });
            mapping.write(40..60, 10);
            match wait(grandchild) {
                0 if mapping.is(0..20, 9) && mapping.is(40..60, 10) && mapping.is(60..100, 1) => 0,
                0 => 6,
                code => code,
            }
        });
        mapping.write(0..400, 2);
        family.vm.evict_all();
        assert_eq!(wait(child), 0);
        assert_eq!(family.vm.service_stats().children, 1, "grandchildren are the child's");
        end(family, 2);
    });
    well(&output.unwrap());
}

/// One place has one part of its memory after the other.
#[test]
fn a_child_moves_one_part_after_another_to_the_same_place() {
    let name = "a_child_moves_one_part_after_another_to_the_same_place";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(1).follow(Follow::Mappings));
        let (mapping, place) = (&family.mapping, Mapping::new(50));
        let child = fork(|| {
            for first in [0, 100, 200, 50, 150, 260] {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                // SAFETY: the child's memory.
                let moved = unsafe { libc::mremap(mapping.at(first).cast(), 40 * PAGE, 40 * PAGE, flags, place.at(5)) };
                if moved != place.at(5).cast() {
                    return 100;
                }
                // SAFETY: mapped there.
                let at = |page: usize, k: usize| unsafe { place.at(5 + page).wrapping_add(k).read_volatile() };
                let is = |page: usize| bytes_of(page + first, 1).enumerate().all(|(k, word)| at(page, k) == word);
                // Of half of it nothing is ever looked at there.
                if !(0..40).step_by(2).all(is) {
                    return 1 + (first / 10) as i32;
                }
            }
            i32::from(!(mapping.is(40..50, 1) && mapping.is(300..400, 1))) * 101
        });
        assert_eq!(wait(child), 0);
        end(family, 1);
    });
    well(&output.unwrap());
}

#[test]
fn a_child_that_is_killed_and_one_that_looks_at_nothing_leave_nothing_behind() {
    let name = "a_child_that_is_killed_and_one_that_looks_at_nothing_leave_nothing_behind";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(1));
        let never = Whistle::new();
        let killed = fork(|| {
            family.mapping.is(0..150, 1);
            never.hear();
            0
        });
        let quick = fork(|| 7);
        assert_eq!(wait(quick), 7);
        family.mapping.check(0..400, 1);
        family.vm.evict_all();
        // SAFETY: a child of ours.
        assert_eq!(unsafe { libc::kill(killed, libc::SIGKILL) }, 0);
        assert_eq!(wait(killed), 256 + libc::SIGKILL);
        end(family, 1);
    });
    well(&output.unwrap());
}

#[test]
fn many_children_at_once_have_each_their_own() {
    let name = "many_children_at_once_have_each_their_own";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let family = family(parent(2).fault_around(FaultAround::Off));
        let go = Whistle::new();
        let mut children = Vec::new();
        for version in 1..6u64 {
            children.push(fork(|| {
                go.hear();
                let mine = family.mapping.is(0..200, version);
                family.mapping.write(0..50, 100 + version);
                i32::from(!(mine && family.mapping.is(0..50, 100 + version) && family.mapping.is(50..200, version)))
            }));
            family.mapping.write(0..200, version + 1);
            family.vm.evict_all();
        }
        children.iter().for_each(|_| go.blow());
        for child in children {
            assert_eq!(wait(child), 0);
        }
        family.mapping.check(0..200, 6);
        family.mapping.write(0..400, 7);
        end(family, 7);
    });
    well(&output.unwrap());
}

#[test]
fn a_child_that_outlives_the_vm_has_everything_in_memory() {
    let name = "a_child_that_outlives_the_vm_has_everything_in_memory";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let Family { engine, vm, mapping, region } = family(parent(1));
        let go = Whistle::new();
        let child = fork(|| {
            go.hear();
            i32::from(!mapping.is(0..400, 1))
        });
        drop(region);
        drop(vm);
        drop(engine);
        go.blow();
        assert_eq!(wait(child), 0);
        mapping.check(0..400, 1);
    });
    well(&output.unwrap());
}

#[test]
fn memory_that_is_not_kept_is_not_in_children() {
    let output = in_a_process("memory_that_is_not_kept_is_not_in_children", || {
        let engine = engine();
        let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), VmOptions::new()).unwrap();
        let mapping = Mapping::new(10);
        mapping.write(0..10, 1);
        let region = mapping.register(&vm);
        let child = fork(|| i32::from(mapping.is(0..1, 1)));
        assert_eq!(wait(child), 256 + libc::SIGSEGV);
        // SAFETY: it is refused.
        let refused = unsafe { vm.register(Mapping::new(1).memory().keep_on_fork()) }.unwrap_err();
        assert!(refused.to_string().contains("VmOptions::children"), "{refused}");
        vm.evict_all();
        mapping.check(0..10, 1);
        drop(region);
    });
    well(&output.unwrap());
}

#[test]
fn where_the_kernel_does_not_tell_everything_is_brought_in_before_a_fork() {
    let name = "where_the_kernel_does_not_tell_everything_is_brought_in_before_a_fork";
    let output = in_a_process(name, || {
        // The kernel tells no fault handler in the thread itself, whatever it permits.
        let family = family(VmOptions::new().children(true));
        family.vm.memcg().write_file("memory.max", &(100 * PAGE).to_string()).unwrap();
        family.vm.evict_all();
        assert!(family.mapping.present() < 100);
        let brought = family.engine.fork_prepare().unwrap();
        assert!(brought >= 400 * PAGE as u64, "{brought}");
        // Another thread forks as well, and is through first.
        assert_eq!(family.engine.fork_prepare().unwrap(), 0);
        family.engine.fork_parent();
        let out = family.vm.evict_all().pages;
        assert_eq!(out, 0, "until the fork is over");
        // What was nowhere, and what nobody had registered, before it began: they may not leave either.
        family.mapping.write(450..500, 1);
        let late = Mapping::new(20);
        late.write(0..10, 3);
        // SAFETY: it outlives its region.
        let late_region = unsafe { family.vm.register(late.memory().keep_on_fork()) }.unwrap();
        late.write(10..20, 3);
        assert_eq!(family.vm.evict_all().pages, 0, "nor what came since");
        let child = fork(|| {
            if !family.engine.fork_child() {
                return 2;
            }
            let same = family.mapping.is(0..400, 1) && family.mapping.is(450..500, 1) && late.is(0..20, 3);
            i32::from(!same)
        });
        family.engine.fork_parent();
        assert!(!family.engine.fork_child());
        assert_eq!(wait(child), 0);
        late.write(0..20, 4);
        assert_eq!(late_region.evict(0..20 * PAGE).pages, 20);
        late.check(0..20, 4);
        late_region.unregister().unwrap();
        // They are shared by nobody any more, and leave once they were written.
        family.mapping.write(0..400, 2);
        assert!(family.vm.evict_all().pages > 300);
        family.mapping.check(0..400, 2);
    })
    .unwrap();
    well(&output);
    assert!(said(&output).contains("were brought in for a fork"), "{}", said(&output));
}

#[test]
fn what_was_moved_out_of_a_region_while_it_was_out_is_in_children() {
    let name = "what_was_moved_out_of_a_region_while_it_was_out_is_in_children";
    // Where the kernel tells of the fork, and where it does not.
    for told in [true, false] {
        if told && !told_of_forks(name) {
            continue;
        }
        let output = in_a_process_with(name, &[("ZSPOOL_TEST_TOLD", if told { "1" } else { "" })], || {
            if std::env::var("ZSPOOL_TEST_TOLD").unwrap().is_empty() {
                drop_ptrace();
            }
            let family = family(parent(1).follow(Follow::Mappings));
            family.vm.evict_all();
            let there = Mapping::new(100);
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: the test's own memory, from one place to another.
            let moved =
                unsafe { libc::mremap(family.mapping.at(150).cast(), 100 * PAGE, 100 * PAGE, flags, there.at(0)) };
            assert_eq!(moved, there.at(0).cast());
            // SAFETY: mapped there.
            let word = |page: usize, k: usize| unsafe { there.at(page).wrapping_add(k).read_volatile() };
            let are = |pages: std::ops::Range<usize>| {
                pages
                    .into_iter()
                    .all(|page| bytes_of(page + 150, 1).enumerate().all(|(k, expected)| word(page, k) == expected))
            };
            assert!(are(0..10));
            for _ in 0..2 {
                family.engine.fork_prepare().unwrap();
                let child = fork(|| i32::from(!(are(0..100) && family.mapping.is(0..150, 1))));
                family.engine.fork_parent();
                assert_eq!(wait(child), 0, "a child has what was moved");
                there.write(10..20, 2);
                there.check(10..20, 2);
                // As it was, for the next child.
                for page in 10..20 {
                    // SAFETY: the test's memory.
                    bytes_of(page + 150, 1)
                        .enumerate()
                        .for_each(|(k, word)| unsafe { there.at(page).wrapping_add(k).write_volatile(word) });
                }
            }
            assert!(are(0..100));
            family.mapping.check(0..150, 1);
            family.mapping.check(250..400, 1);
            // Unmapped in parts, with what others have mapped between them.
            std::mem::forget(family);
        });
        well(&output.unwrap());
    }
}

/// Of what was moved while it was out, a part is registered anew: a child has that from the region, and the rest from where it was.
#[test]
fn what_is_registered_where_it_was_moved_is_in_children() {
    let name = "what_is_registered_where_it_was_moved_is_in_children";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        let engine = engine();
        let vm = vm(&engine, "vm", parent(1).follow(Follow::Mappings)).unwrap();
        let (mapping, place) = (Mapping::new(100), Mapping::new(100));
        mapping.write(0..100, 1);
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
        assert_eq!(region.evict(0..100 * PAGE).pages, 100);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the test's memory.
        let moved = unsafe { libc::mremap(mapping.at(0).cast(), 100 * PAGE, 100 * PAGE, flags, place.at(0)) };
        assert_eq!(moved, place.at(0).cast());
        std::mem::forget(mapping);
        let part = Memory::anonymous(place.at(30).cast(), 40 * PAGE).keep_on_fork();
        // SAFETY: the mapping outlives the region.
        let anew = unsafe { vm.register(part) }.unwrap();
        assert_eq!(anew.evict(0..40 * PAGE).pages, 40);
        let child = fork(|| {
            let wrong = (0..100).find(|&page| !place.is(page..page + 1, 1));
            wrong.map_or(0, |page| 1 + page as i32)
        });
        assert_eq!(wait(child), 0, "one more than the first page that is wrong");
        place.check(0..100, 1);
        drop((region, anew));
        place.check(0..100, 1);
    });
    well(&output.unwrap());
}

#[test]
fn a_page_that_was_denied_its_parent_is_its_childs_as_it_was() {
    let name = "a_page_that_was_denied_its_parent_is_its_childs_as_it_was";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        static DENIES: AtomicBool = AtomicBool::new(false);
        let verdict = |_: &Overshoot| if DENIES.load(Ordering::SeqCst) { Verdict::Poison } else { Verdict::Serve };
        let engine = Engine::builder(tricky().build().unwrap()).evictor(false).on_overshoot(verdict).build().unwrap();
        let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), alone(parent(1).kernel_faults(true))).unwrap();
        let mapping = Mapping::new(20);
        mapping.write(0..20, 1);
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
        vm.evict_all();
        let go = Whistle::new();
        let child = fork(|| {
            go.hear();
            i32::from(!mapping.is(0..20, 1))
        });
        until("the child is known", || vm.service_stats().children == 1);
        // Nowhere, for the parent, and in slots that are the child's; then poisoned, as there is no room.
        region.discard(0..20 * PAGE).unwrap();
        DENIES.store(true, Ordering::SeqCst);
        vm.memcg().write_file("memory.max", "0").unwrap();
        for page in 0..20 {
            assert!(!mapping.can_be_read(page), "it was denied");
        }
        vm.memcg().write_file("memory.max", "max").unwrap();
        // Thrown away again, had after all, and left as they are.
        region.discard(0..7 * PAGE).unwrap();
        region.make_resident(7 * PAGE..14 * PAGE).unwrap();
        mapping.check_zero(0..14);
        drop(region);
        go.blow();
        assert_eq!(wait(child), 0, "the child has its memory as it was");
        drop(vm);
        engine.zswap().assert_valid();
        assert_eq!(engine.zswap().stats().pool.objects, 0);
    });
    well(&output.unwrap());
}

#[test]
fn a_process_forks_as_soon_as_its_vm_is_made() {
    let name = "a_process_forks_as_soon_as_its_vm_is_made";
    if !told_of_forks(name) {
        return;
    }
    let output = in_a_process(name, || {
        for round in 0..50 {
            let engine = engine();
            let vm = vm(&engine, "vm", parent(1 + round % 2)).unwrap();
            let mapping = Mapping::new(4);
            mapping.write(0..4, 1);
            // SAFETY: the mapping outlives the region.
            let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
            let child = fork(|| i32::from(!mapping.is(0..4, 1)));
            assert_eq!(wait(child), 0);
            drop(region);
        }
    });
    well(&output.unwrap());
}

/// Without the right to be told of forks, from here on.
fn drop_ptrace() {
    const PTRACE: u32 = 1 << 19;
    // Of linux/capability.h: version 3, this process; effective, permitted and inheritable, low words first.
    let (header, mut sets) = ([0x2008_0522u32, 0], [0u32; 6]);
    // SAFETY: writes six words.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) }, 0);
    sets[..3].iter_mut().for_each(|set| *set &= !PTRACE);
    // SAFETY: reads six words.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }, 0);
}

#[test]
fn what_a_child_drops_of_the_engine_is_its_parents() {
    let output = in_a_process("what_a_child_drops_of_the_engine_is_its_parents", || {
        for options in [VmOptions::new().children(true), parent(1)] {
            if matches!(options_name(&options), "threads")
                && !told_of_forks("what_a_child_drops_of_the_engine_is_its_parents")
            {
                continue;
            }
            let family = family(options);
            family.engine.fork_prepare().unwrap();
            // SAFETY: the child drops what it has, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: a timer, whose signal ends the process.
                unsafe { libc::alarm(20) };
                let Family { engine, vm, mapping, region } = family;
                drop(region);
                let right = mapping.is(0..400, 1);
                std::mem::forget((engine, vm));
                // SAFETY: ends it.
                unsafe { libc::_exit(i32::from(!right)) };
            }
            family.engine.fork_parent();
            assert_eq!(wait(child), 0);
            family.mapping.check(0..400, 1);
            family.mapping.write(0..400, 2);
            family.vm.evict_all();
            assert!(family.mapping.present() < 100, "it is registered as it was");
            family.mapping.check(0..400, 2);
        }
    });
    well(&output.unwrap());
}

fn options_name(options: &VmOptions) -> &'static str {
    if format!("{options:?}").contains("Threads") { "threads" } else { "in_thread" }
}

#[test]
fn a_memfd_cannot_be_kept() {
    let engine = engine();
    let vm = engine.vm(&engine.root().mkdir("vm").unwrap(), VmOptions::new().children(true)).unwrap();
    // SAFETY: a new file in memory.
    let file = unsafe { libc::memfd_create(c"kept".as_ptr(), 0) };
    assert!(file >= 0);
    // SAFETY: ours.
    assert_eq!(unsafe { libc::ftruncate(file, PAGE as i64) }, 0);
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file, 0)
    };
    // SAFETY: ours.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(file) };
    let memory = zspool::guest::memory::Memory::memfd(at.cast(), PAGE, fd, 0).keep_on_fork();
    // SAFETY: it stays mapped.
    let refused = unsafe { vm.register(memory) }.unwrap_err();
    assert!(matches!(refused, Error::Options { .. }) && refused.to_string().contains("memfd"), "{refused}");
}
