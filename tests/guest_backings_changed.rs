//! Each backing of guest memory where the memory is changed by somebody else: split, protected, locked, pinned, shared by forks, moved, unmapped.
#![cfg(all(feature = "guest", target_os = "linux"))]
#![allow(clippy::single_range_in_vec_init)] // lists of runs, some of one

#[path = "support/backing_bed.rs"]
mod backing_bed;
mod support;
#[path = "support/uffd.rs"]
mod uffd;

use backing_bed::*;
use std::sync::Arc;
use uffd::*;
use zspool::guest::memory::backer::{Backer, WANTED};
use zspool::guest::memory::backing::{Backing, Obstacle};
use zspool::guest::memory::{Memory, Method};
use zspool::guest::uffd::{Ask, Event, Features};
use zspool::guest::{Engine, VmOptions};
use zspool::zswap::Zswap;

/// Memory of two or more mappings, as `madvise` and `mprotect` make it.
#[test]
fn several_mappings_in_one_range_are_one_region() {
    within(60, || {
        for kind in ALL {
            let split = |map: &Mapped| {
                fill(map, 0..128);
                advise(map.span(20, 10), libc::MADV_DONTDUMP).expect("advice");
                advise(map.span(64, 1), libc::MADV_DONTDUMP).expect("advice");
            };
            let Some(bed) = Bed::with(kind, 128, Features::empty(), split) else { return };
            let name = &bed.name;
            assert_eq!(bed.backing.take_out(0, 64), all_out(64), "{name}");
            assert_eq!(bed.backing.take_out(64, 64), all_out(64), "{name}");
            bed.backing.put_back(0, 64).all().expect("they go back");
            bed.backing.drop_staged(64, 64).expect("frames go back");
            assert_eq!(
                bed.backing.move_in(64, 64, &mut |page, frame| {
                    // SAFETY: a frame that is ours for the call.
                    unsafe { frame.write(pattern(page as usize, 0)) };
                    true
                }),
                all_in(64),
                "{name}"
            );
            (0..128).for_each(|page| bed.holds(page, 0));
            bed.backing.protect(0, 128).expect("protected");
            bed.backing.unprotect(0, 128).expect("not any more");
            bed.backing.discard(0, 128).expect("they go");
            assert_eq!(bed.install(0, 128, 2), all_in(128), "{name}");
            (0..128).for_each(|page| bed.holds(page, 2));
            bed.backing.discard(0, 128).expect("they go");
            assert_eq!(bed.backing.install_zero(0, 128), all_in(128), "{name}");
        }
    });
}

#[test]
fn executable_memory_leaves_and_returns() {
    within(60, || {
        let executable = |map: &Mapped| {
            fill(map, 0..64);
            let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            // SAFETY: the test's own memory.
            assert_eq!(unsafe { libc::mprotect(map.page(16) as *mut _, 8 * PAGE, access) }, 0);
        };
        let Some(bed) = Bed::with((true, Method::Move), 64, Features::empty(), executable) else { return };
        assert_eq!(bed.backing.take_out(0, 64), all_out(64));
        bed.backing.put_back(0, 64).all().expect("they go back");
        (0..64).for_each(|page| bed.holds(page, 0));
    });
}

/// A just-in-time compiler writes, then protects what it wrote, at any time.
#[test]
fn pages_whose_protection_changes_stay_or_come_back_by_copy() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 64) else { return };
            let protect = |first: usize, pages: usize, access: i32| {
                // SAFETY: the test's own memory.
                assert_eq!(unsafe { libc::mprotect(bed.map.page(first) as *mut _, pages * PAGE, access) }, 0);
            };
            assert_eq!(bed.backing.take_out(0, 32), all_out(32));
            protect(10, 4, libc::PROT_READ); // out
            protect(40, 4, libc::PROT_READ); // in
            bed.backing.put_back(0, 32).all().unwrap_or_else(|obstacle| panic!("{}: {obstacle:?}", bed.name));
            let taken = bed.backing.take_out(32, 32);
            if kind.1 == Method::Move {
                assert_eq!(taken, out_until(8, Obstacle::Busy));
            }
            bed.backing.put_back(32, taken.moved).all().expect("they go back");
            (0..64).for_each(|page| bed.holds(page, 0));
            for (first, pages) in [(10, 4), (40, 4)] {
                protect(first, pages, libc::PROT_READ | libc::PROT_WRITE);
                write(bed.map.page(first), &pattern(first, 1));
                bed.holds(first as u32, 1);
            }
        }
    });
}

#[test]
fn memory_that_is_locked_later_stays() {
    within(60, || {
        let Some(bed) = Bed::filled((true, Method::Move), 64) else { return };
        assert_eq!(bed.backing.take_out(0, 8), all_out(8));
        // MLOCK_ONFAULT: what is out must not be asked for here.
        // SAFETY: locks memory of the test's.
        if unsafe { libc::syscall(libc::SYS_mlock2, bed.map.address, bed.map.bytes, 1) } != 0 {
            return support::skip("memory_that_is_locked_later_stays", "mlock is not permitted");
        }
        assert_eq!(bed.backing.take_out(8, 8), out_until(0, Obstacle::Busy));
        bed.backing.put_back(0, 8).all().expect("by copy");
        (0..64).for_each(|page| bed.holds(page, 0));
        // SAFETY: the same memory.
        unsafe { libc::munlock(bed.map.address as *const _, bed.map.bytes) };
        assert_eq!(bed.backing.take_out(0, 64), all_out(64));
    });
}

#[test]
fn pages_pinned_for_a_device_are_busy() {
    within(60, || {
        let Some(bed) = Bed::filled((true, Method::Move), 64) else { return };
        let ring = match io_uring::IoUring::new(2) {
            Ok(ring) => ring,
            Err(error) => return support::skip("pages_pinned_for_a_device_are_busy", &error.to_string()),
        };
        let fixed = libc::iovec { iov_base: bed.map.page(20) as *mut _, iov_len: 4 * PAGE };
        // SAFETY: the memory stays mapped until the ring is gone.
        if let Err(error) = unsafe { ring.submitter().register_buffers(&[fixed]) } {
            return support::skip("pages_pinned_for_a_device_are_busy", &error.to_string());
        }
        assert_eq!(bed.backing.take_out(0, 64), out_until(20, Obstacle::Busy));
        assert_eq!(bed.backing.take_out(23, 1), out_until(0, Obstacle::Busy));
        assert_eq!(bed.backing.take_out(24, 40), all_out(40));
        bed.backing.put_back(0, 20).all().expect("they go back");
        bed.backing.put_back(24, 40).all().expect("they go back");
        ring.submitter().unregister_buffers().expect("they are let go");
        assert_eq!(bed.backing.take_out(0, 64), all_out(64));
    });
}

#[test]
fn pages_shared_with_a_child_are_busy_until_they_are_made_our_own() {
    if !alone("pages_shared_with_a_child_are_busy_until_they_are_made_our_own") {
        return;
    }
    within(60, || {
        let Some(descriptor) = ask(Ask { wanted: WANTED, nonblocking: true, ..Ask::default() }) else { return };
        let map = Mapped::anonymous(64);
        fill(&map, 0..64);
        let memory = Memory::anonymous(map.pointer(), map.bytes).keep_on_fork().method(Method::Move);
        let backer = Backer::new(descriptor.clone()).expect("a backer");
        let backing: Arc<dyn Backing> = Arc::from(backer.back(&memory).expect("a backing"));
        backing.register().expect("it is registered");
        let bed = Bed { map, backing, descriptor, name: "forked".into() };
        let child = sleeping_child();
        assert_eq!(bed.backing.take_out(0, 64), out_until(0, Obstacle::Busy));
        // Shared with a living child: made our own, they would be copies.
        assert_eq!(bed.backing.unshare(0, 64), 0);
        write(bed.map.page(7), &pattern(7, 1)); // our own again, by the write
        assert_eq!(bed.backing.take_out(7, 1), all_out(1));
        bed.backing.put_back(7, 1).all().expect("it goes back");
        end(child);
        assert_eq!(bed.backing.take_out(0, 64), out_until(0, Obstacle::Busy), "the child's end alone does not do it");
        assert_eq!(bed.backing.unshare(0, 64), 64);
        assert_eq!(bed.backing.take_out(0, 64), all_out(64));
        (0..64).for_each(|page| assert!(bed.staged(page) == pattern(page as usize, u64::from(page == 7))));
    });
}

/// The same by the region's own call: what was shared with a child that has ended leaves.
#[test]
fn evicting_takes_what_a_child_shared_that_has_ended() {
    if !alone("evicting_takes_what_a_child_shared_that_has_ended") {
        return;
    }
    within(60, || {
        let map = Mapped::anonymous(256);
        fill(&map, 0..256);
        let zswap = Zswap::builder().pool_limit(16 << 20).build().expect("an instance");
        let engine = Engine::builder(zswap).evictor(false).build().expect("an engine");
        let memcg = engine.root().mkdir("vm").expect("a memcg");
        let vm = match engine.vm(&memcg, VmOptions::new()) {
            Ok(vm) => vm,
            Err(error) => {
                return support::skip("evicting_takes_what_a_child_shared_that_has_ended", &error.to_string());
            }
        };
        // A fork before the memory was registered: registered, children do not inherit it.
        let child = sleeping_child();
        // SAFETY: the memory is mapped until it was unregistered.
        let region = unsafe { vm.register(Memory::anonymous(map.pointer(), map.bytes)) }.expect("a region");
        let evicted = region.evict(0..map.bytes);
        assert_eq!((evicted.pages, evicted.stayed), (0, 256), "shared with a child that lives");
        end(child);
        let evicted = region.evict(0..map.bytes);
        assert_eq!((evicted.pages, evicted.stayed), (256, 0), "{evicted:?}");
        (0..256).for_each(|page| assert!(read(map.page(page)) == pattern(page, 0), "page {page}"));
        region.unregister().map_err(|(_, error)| error).expect("it is unregistered");
    });
}

/// The same by a limit: nobody asks for these pages, and they leave.
#[test]
fn a_limit_takes_what_a_child_shared_that_has_ended() {
    if !alone("a_limit_takes_what_a_child_shared_that_has_ended") {
        return;
    }
    within(60, || {
        const PAGES: usize = 1024;
        let map = Mapped::anonymous(PAGES);
        fill(&map, 0..PAGES);
        let zswap = Zswap::builder().pool_limit(16 << 20).build().expect("an instance");
        let engine = Engine::new(zswap).expect("an engine");
        let memcg = engine.root().mkdir("vm").expect("a memcg");
        let vm = match engine.vm(&memcg, VmOptions::new()) {
            Ok(vm) => vm,
            Err(error) => {
                return support::skip("a_limit_takes_what_a_child_shared_that_has_ended", &error.to_string());
            }
        };
        let child = sleeping_child();
        // SAFETY: the memory is mapped until it was unregistered.
        let region = unsafe { vm.register(Memory::anonymous(map.pointer(), map.bytes)) }.expect("a region");
        _ = memcg.write_file("memory.reclaim", &(PAGES * 2048).to_string());
        assert!(vm.stats().busy > 0 && vm.stats().put_away == 0, "shared with a child that lives");
        end(child);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while vm.stats().put_away < PAGES as u64 / 4 && std::time::Instant::now() < deadline {
            _ = memcg.write_file("memory.reclaim", &(PAGES * 2048).to_string());
        }
        assert!(vm.stats().put_away >= PAGES as u64 / 4, "{:?}", vm.stats());
        (0..PAGES).for_each(|page| assert!(read(map.page(page)) == pattern(page, 0), "page {page}"));
        region.unregister().map_err(|(_, error)| error).expect("it is unregistered");
    });
}

#[test]
fn children_do_not_inherit_registered_memory() {
    if !alone("children_do_not_inherit_registered_memory") {
        return;
    }
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 64) else { return };
            let child = sleeping_child();
            assert_eq!(bed.backing.take_out(0, 64), all_out(64), "{}", bed.name);
            let maps = std::fs::read_to_string(format!("/proc/{child}/maps")).expect("maps");
            assert!(!maps.contains(&format!("{:x}-", bed.map.address)), "{}", bed.name);
            end(child);
            bed.backing.put_back(0, 64).all().expect("they go back");
            bed.backing.release().expect("it is released");
            let child = sleeping_child();
            let maps = std::fs::read_to_string(format!("/proc/{child}/maps")).expect("maps");
            let shown = maps.lines().filter_map(|line| line.split(' ').next()?.split_once('-')).any(|(start, end)| {
                let number = |text| usize::from_str_radix(text, 16).expect("an address");
                (number(start)..number(end)).contains(&bed.map.address)
            });
            end(child);
            assert!(shown, "{}: released memory is inherited again", bed.name);
        }
    });
}

#[test]
fn whole_huge_pages_leave_at_once_and_small_ones_out_of_them() {
    within(60, || {
        const HUGE: usize = 512;
        let Some(descriptor) = ask(Ask { wanted: WANTED, nonblocking: true, ..Ask::default() }) else { return };
        let map = Mapped::anonymous(4 * HUGE);
        let first = map.address.next_multiple_of(HUGE * PAGE);
        if advise(first..first + 2 * HUGE * PAGE, libc::MADV_HUGEPAGE).is_err() {
            return support::skip("whole_huge_pages_leave_at_once_and_small_ones_out_of_them", "no huge pages here");
        }
        let base = (first - map.address) / PAGE;
        fill(&map, base..base + 2 * HUGE);
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let huge: u64 = smaps
            .lines()
            .filter_map(|line| line.strip_prefix("AnonHugePages:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .sum();
        if huge < 4096 {
            return support::skip(
                "whole_huge_pages_leave_at_once_and_small_ones_out_of_them",
                "the kernel gave no huge pages",
            );
        }
        let memory = Memory::anonymous(first as *mut u8, 2 * HUGE * PAGE);
        let backer = Backer::new(descriptor.clone()).expect("a backer");
        if backer.method(&memory).expect("one works") != Method::Move {
            return support::skip("whole_huge_pages_leave_at_once_and_small_ones_out_of_them", "no MOVE");
        }
        let backing = backer.back(&memory).expect("a backing");
        backing.register().expect("it is registered");
        let check = |page: usize| assert!(read(map.page(base + page)) == pattern(base + page, 0), "page {page}");
        assert_eq!(backing.take_out(0, 512), all_out(512));
        // SAFETY: staged.
        assert!(unsafe { backing.staged(77).read_volatile() } == pattern(base + 77, 0));
        backing.put_back(0, 512).all().expect("it goes back");
        (0..512).for_each(check);
        assert_eq!(backing.take_out(512 + 100, 64), all_out(64)); // the huge page is split
        assert_eq!(backing.take_out(512 + 300, 1), all_out(1));
        backing.put_back(512 + 100, 64).all().expect("they go back");
        backing.put_back(512 + 300, 1).all().expect("it goes back");
        (512..1024).for_each(check);
    });
}

/// The thread that drops frames may be the one that reads events: nothing it does may wait for them.
#[test]
fn taking_pages_out_raises_no_event_of_removal() {
    within(60, || {
        for kind in [(true, Method::Move), (false, Method::Protect)] {
            let Some(bed) = Bed::with(kind, 64, Features::EVENT_REMOVE, |map| fill(map, 0..64)) else { return };
            for version in 1..4 {
                assert_eq!(bed.backing.take_out(0, 64), all_out(64), "{}", bed.name);
                bed.backing.drop_staged(0, 64).expect("frames go back");
                let moved = bed.backing.move_in(0, 64, &mut |page, frame| {
                    // SAFETY: a frame that is ours for the call.
                    unsafe { frame.write(pattern(page as usize, version)) };
                    true
                });
                assert_eq!(moved, all_in(64));
                (0..64).for_each(|page| bed.holds(page, version));
            }
            assert!(!readable(&bed.descriptor, 0), "{}", bed.name);
        }
    });
}

#[test]
fn while_an_event_is_unread_what_fills_pages_says_again() {
    within(60, || {
        let Some(bed) = Bed::with((true, Method::Move), 64, Features::EVENT_REMOVE, |map| fill(map, 0..64)) else {
            return;
        };
        assert_eq!(bed.backing.take_out(0, 8), all_out(8));
        let range = bed.map.span(32, 8);
        let remover = std::thread::spawn(move || advise(range, libc::MADV_DONTNEED));
        assert!(readable(&bed.descriptor, WAIT)); // and not read
        bed.backing.drop_staged(4, 4).expect("no business of the event's");
        assert_eq!(bed.install(4, 1, 1), in_until(0, Obstacle::Again));
        assert_eq!(bed.backing.install_zero(4, 1), in_until(0, Obstacle::Again));
        assert_eq!(bed.backing.put_back(0, 1).all(), Err(Obstacle::Again));
        assert_eq!(bed.backing.poison(4, 1), Err(Obstacle::Again));
        assert!(!remover.is_finished());
        let Event::Remove(range) = next_event(&bed.descriptor) else { panic!("no removal") };
        assert_eq!(range, bed.map.span(32, 8));
        remover.join().expect("it is well").expect("they are dropped");
        assert_eq!(bed.install(4, 1, 1), all_in(1));
        bed.backing.put_back(0, 4).all().expect("they go back");
        (0..4).for_each(|page| bed.holds(page, 0));
    });
}

/// The program unmaps a range, and something else is mapped there, before anybody could be told: none of it is taken.
#[test]
fn what_a_stranger_mapped_meanwhile_is_not_taken() {
    // A process of its own: other tests would map things into the hole.
    if !alone("what_a_stranger_mapped_meanwhile_is_not_taken") {
        return;
    }
    within(60, || {
        let features = Features::EVENT_UNMAP | Features::EVENT_REMOVE;
        let Some(mut bed) = Bed::with((true, Method::Move), 64, features, |map| fill(map, 0..64)) else { return };
        assert_eq!(bed.backing.take_out(32, 32), all_out(32));
        let place = bed.map.address;
        bed.map.bytes = 0;
        let unmapper = std::thread::spawn(move || {
            // SAFETY: the test's own memory.
            assert_eq!(unsafe { libc::munmap(place as *mut _, 64 * PAGE) }, 0);
        });
        assert!(readable(&bed.descriptor, WAIT), "no event came");
        // SAFETY: a new mapping where nothing is any more.
        let there = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(place as *mut _, 64 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert_eq!(there as usize, place);
        let stranger = Mapped { address: place, bytes: 64 * PAGE, file: None };
        (0..64).for_each(|page| write(stranger.page(page), &pattern(page, 8)));
        assert_eq!(bed.backing.take_out(0, 32), out_until(0, Obstacle::Again));
        assert_eq!(bed.backing.put_back(32, 1).all(), Err(Obstacle::Again));
        bed.backing.drop_staged(32, 32).expect("no business of the event's");
        let Event::Unmap(range) = next_event(&bed.descriptor) else { panic!("no unmap") };
        assert_eq!(range, stranger.range());
        unmapper.join().expect("it is well");
        assert_eq!(bed.install(32, 1, 0), in_until(0, Obstacle::Gone));
        (0..64).for_each(|page| assert!(read(stranger.page(page)) == pattern(page, 8)));
        drop(bed);
        (0..64).for_each(|page| assert!(read(stranger.page(page)) == pattern(page, 8)));
    });
}

#[test]
fn a_range_that_is_gone_is_said_to_be() {
    within(60, || {
        for kind in ALL {
            let Some(mut bed) = Bed::filled(kind, 64) else { return };
            // SAFETY: the test's own memory.
            assert_eq!(unsafe { libc::munmap(bed.map.page(32) as *mut _, 32 * PAGE) }, 0);
            bed.map.bytes = 32 * PAGE;
            assert_eq!(bed.install(40, 1, 0), in_until(0, Obstacle::Gone), "{}", bed.name);
            if kind.0 {
                // A memfd's pages are still in the file.
                let taken = bed.backing.take_out(40, 1);
                let expected = if kind.1 == Method::Move { Obstacle::Gone } else { Obstacle::Hole };
                assert_eq!(taken, out_until(0, expected), "{}", bed.name);
            }
            assert_eq!(bed.backing.take_out(0, 32), all_out(32), "{}", bed.name);
            bed.backing.put_back(0, 32).all().expect("they go back");
        }
    });
}

/// A page that came in is the guest's at once, who may have written to it before what stopped the others is told.
#[test]
fn pages_that_came_in_before_the_memory_ends_stay() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::with(kind, 64, Features::empty(), |_| ()) else { return };
            let gone = bed.map.span(20, 44);
            // Something else is in its place, that nobody else is given.
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: memory of the test's, which nobody uses.
            let else_there = unsafe { libc::mmap(gone.start as *mut _, gone.len(), libc::PROT_NONE, flags, -1, 0) };
            assert_eq!(else_there as usize, gone.start);
            let moved = bed.backing.move_in(0, 64, &mut |page, frame| {
                // SAFETY: a frame that is ours for the call.
                unsafe { frame.write(pattern(page as usize, 1)) };
                true
            });
            assert_eq!(moved, in_until(20, Obstacle::Gone), "{}", bed.name);
            (0..20).for_each(|page| bed.holds(page, 1));
        }
    });
}
