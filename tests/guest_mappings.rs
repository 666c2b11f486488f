//! Mappings that change behind our back: dropped, unmapped, moved, freed lazily.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;
mod support;

use served::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::skip;
use zspool::guest::{Error, Follow, MappingChange, VmOptions};
use zspool::memcg::Counter;

#[test]
fn what_madvise_drops_behind_our_back_is_zero_and_uncharged() {
    for (count, staged) in [(1, false), (3, false), (1, true)] {
        within_a_minute(move || {
            let engine = engine();
            let vm = vm(&engine, "vm", threads(count).follow(Follow::Discards)).unwrap();
            let mapping = Mapping::new(300);
            mapping.write(0..300, 1);
            let region = mapping.register(&vm);
            let evicted = region.evict(0..200 * PAGE);
            assert_eq!(evicted.pages, 200);
            let before = vm.memcg().current(Counter::Memory);
            if staged {
                // Again while others touch: the page is zero or what it was, and afterwards zero.
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        (0..300).rev().for_each(|page| {
                            assert!(mapping.is(page..page + 1, 1) || read(mapping.at(page).addr()) == 0)
                        })
                    });
                    drop_pages(&mapping, 100, 150);
                });
            } else {
                drop_pages(&mapping, 100, 150);
                // The call goes on when its event is read, a moment before the pages have followed.
                let started = Instant::now();
                while vm.memcg().current(Counter::Memory) + 50 * PAGE as u64 > before {
                    assert!(started.elapsed() < Duration::from_secs(10), "what was dropped is charged still");
                    std::thread::yield_now();
                }
            }
            mapping.check_zero(100..250);
            mapping.check(0..100, 1);
            mapping.check(250..300, 1);
            assert_eq!(vm.service_stats().discarded_bytes, 150 * PAGE as u64);
            valid(&region);
            vm.evict_all();
            mapping.check_zero(100..250);
        });
    }
}

#[test]
fn a_page_that_can_be_read_at_the_second_try_is_what_it_was_where_discards_are_followed() {
    // In a process of its own: damage is found by whoever reads next.
    let output =
        in_a_process("a_page_that_can_be_read_at_the_second_try_is_what_it_was_where_discards_are_followed", || {
            for options in [threads(1).follow(Follow::Discards), threads(2).follow(Follow::Mappings), threads(1)] {
                let (_engine, vm, mapping, region) = out(options);
                for page in 0..20 {
                    let bytes = page * PAGE..(page + 1) * PAGE;
                    DAMAGES.store(1, Ordering::SeqCst);
                    assert!(matches!(region.make_resident(bytes.clone()), Err(Error::Unreadable { .. })));
                    assert_eq!(vm.stats().poisoned, PAGE as u64);
                    match page % 2 {
                        0 => region.make_resident(bytes).unwrap(),
                        _ => drop(region.pin(bytes).unwrap()),
                    }
                    mapping.check(page..page + 1, 1);
                }
                assert_eq!(vm.stats().poisoned, 0);
                valid(&region);
            }
        });
    well(&output.unwrap());
}

/// As a balloon of the program's own.
fn drop_pages(mapping: &Mapping, first: usize, pages: usize) {
    // SAFETY: the test's memory.
    assert_eq!(unsafe { libc::madvise(mapping.at(first).cast(), pages * PAGE, libc::MADV_DONTNEED) }, 0);
}

#[test]
fn what_madvise_drops_while_nobody_follows_is_zero_if_it_was_in_memory() {
    for options in [VmOptions::new(), threads(1)] {
        within_a_minute(move || {
            let engine = engine();
            let vm = vm(&engine, "vm", options).unwrap();
            let mapping = Mapping::new(100);
            mapping.write(0..100, 1);
            let region = mapping.register(&vm);
            drop_pages(&mapping, 10, 20);
            // Found out when they are to leave, or touched.
            region.evict(0..20 * PAGE);
            mapping.check_zero(10..30);
            mapping.check(0..10, 1);
            mapping.check(30..100, 1);
            valid(&region);
            // What is out comes back as it was: discard() is what drops it.
            vm.evict_all();
            drop_pages(&mapping, 50, 10);
            mapping.check(50..60, 1);
            vm.evict_all();
            region.discard(50 * PAGE..60 * PAGE).unwrap();
            mapping.check_zero(50..60);
            valid(&region);
        });
    }
}

#[test]
fn memory_that_is_unmapped_and_mapped_anew_is_left_alone() {
    // In a process of its own: what is mapped meanwhile should be ours.
    let output = in_a_process("memory_that_is_unmapped_and_mapped_anew_is_left_alone", || {
        for count in [1, 2] {
            let engine = engine();
            let told = Arc::new(Mutex::new(Vec::new()));
            let tell = Arc::clone(&told);
            let options = threads(count)
                .follow(Follow::Mappings)
                .on_change(move |change| tell.lock().unwrap().push(change.clone()));
            let vm = vm(&engine, "vm", options).unwrap();
            let mapping = Mapping::new(400);
            mapping.write(0..400, 1);
            let region = mapping.register(&vm);
            region.evict(0..150 * PAGE);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                // Somebody takes out whatever may be taken, all the time.
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        vm.evict_all();
                    }
                });
                for round in 2..40 {
                    // Unmaps what was there, and maps other memory.
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                    // SAFETY: the test's memory.
                    let anew = unsafe {
                        libc::mmap(mapping.at(100).cast(), 100 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
                    };
                    assert_eq!(anew, mapping.at(100).cast());
                    mapping.write(100..200, round);
                    mapping.check(100..200, round);
                    mapping.check(0..100, 1);
                    mapping.check(200..400, 1);
                }
                stop.store(true, Ordering::SeqCst);
            });
            mapping.check(100..200, 39);
            assert_eq!(
                told.lock().unwrap()[0],
                MappingChange::Unmapped(mapping.at(100).addr()..mapping.at(200).addr())
            );
            assert_eq!(vm.service_stats().unmapped_bytes, 100 * PAGE as u64, "the new ones are not registered");
            drop(region);
            mapping.check(0..100, 1);
            mapping.check(100..200, 39);
            mapping.check(200..400, 1);
            drop(vm);
            engine.zswap().assert_valid();
        }
    });
    well(&output.unwrap());
}

#[test]
fn memory_that_is_moved_takes_along_what_is_out() {
    // In a process of its own: what is mapped meanwhile should be ours.
    let output = in_a_process("memory_that_is_moved_takes_along_what_is_out", || {
        for count in [1, 2] {
            let engine = engine();
            let vm = vm(&engine, "vm", threads(count).follow(Follow::Mappings)).unwrap();
            let mapping = Mapping::new(300);
            mapping.write(0..300, 1);
            let region = mapping.register(&vm);
            region.evict(0..200 * PAGE);
            let there = Mapping::new(400);
            // Longer than it was, in the middle of other memory: what is beyond it is nobody's, and zero.
            // SAFETY: the test's own memory, from one place to another.
            let moved = unsafe {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                libc::mremap(mapping.at(100).cast(), 150 * PAGE, 200 * PAGE, flags, there.at(50))
            };
            assert_eq!(moved, there.at(50).cast());
            for page in (0..150).rev() {
                let expected: Vec<u64> = bytes_of(page + 100, 1).collect();
                // SAFETY: mapped there.
                let found = unsafe { std::slice::from_raw_parts(there.at(50 + page), 512) };
                assert!(found == expected, "page {page} of what was moved");
            }
            there.check_zero(200..250);
            mapping.check(0..100, 1);
            mapping.check(250..300, 1);
            vm.evict_all();
            mapping.check(0..100, 1);
            mapping.check(250..300, 1);
            let stats = vm.service_stats();
            assert_eq!(stats.moved_bytes, 150 * PAGE as u64);
            assert!((1..=50).contains(&stats.strangers), "what was added: {}", stats.strangers);
            // What was moved is registered anew, at its new address.
            vm.make_resident(there.at(60).addr()..there.at(61).addr()).unwrap_err();
            there.write(50..60, 7);
            let anew = there.register(&vm);
            vm.evict_all();
            there.check(50..60, 7);
            there.check_zero(0..50);
            there.check_zero(200..400);
            // SAFETY: mapped there.
            let found = unsafe { std::slice::from_raw_parts(there.at(199), 512) };
            assert!(found == bytes_of(249, 1).collect::<Vec<_>>());
            valid(&anew);
            drop((region, anew));
            mapping.check(0..100, 1);
            mapping.check(250..300, 1);
            assert_eq!(vm.memcg().current(Counter::Memory), 0);
            drop(vm);
            engine.zswap().assert_valid();
            // Between its ends others have mapped something by now: our own tables.
            // SAFETY: the test's memory.
            unsafe { libc::munmap(mapping.at(0).cast(), 100 * PAGE) };
            // SAFETY: as above.
            unsafe { libc::munmap(mapping.at(250).cast(), 50 * PAGE) };
            std::mem::forget(mapping);
        }
    });
    well(&output.unwrap());
}

/// Whoever touches moved memory first is served by another handler than the one that reads of the move. (The first byte of each page is not zero.)
#[test]
fn what_is_touched_the_moment_it_is_moved_is_what_it_was() {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    const PAGES: usize = 32;
    const ROUNDS: usize = 100;
    if let Err(error) = vm(&engine(), "vm", threads(1).kernel_faults(true)) {
        return skip("what_is_touched_the_moment_it_is_moved_is_what_it_was", &error.to_string());
    }
    let output = in_a_process("what_is_touched_the_moment_it_is_moved_is_what_it_was", || {
        let engine = engine();
        let vm = vm(&engine, "vm", threads(3).follow(Follow::Mappings).kernel_faults(true)).unwrap();
        // A place is written here, and its first bytes are waited for as a system call does it: by an error as long as they cannot be read.
        let (place, round, touched) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for k in 0..2 {
                let (place, round, touched) = (&place, &round, &touched);
                scope.spawn(move || {
                    let (from, to) = std::io::pipe().unwrap();
                    for n in 1..=ROUNDS {
                        while round.load(SeqCst) < n {}
                        let page = (n * 7 + k) % PAGES;
                        let at = place.load(SeqCst) + page * PAGE;
                        // SAFETY: reads a byte of memory that is there, or is told that it is not.
                        while unsafe { libc::write(to.as_raw_fd(), at as *const libc::c_void, 1) } != 1 {}
                        // SAFETY: it is mapped now.
                        let found = unsafe { std::slice::from_raw_parts(at as *const u64, 512) };
                        let is = found == bytes_of(page, 1).collect::<Vec<_>>();
                        if !is {
                            eprintln!("page {page} begins with {:#x} in round {n}", found[0]);
                            std::process::abort(); // the others would wait
                        }
                        touched.fetch_add(1, SeqCst);
                    }
                    drop(from);
                });
            }
            for n in 1..=ROUNDS {
                let mapping = Mapping::new(PAGES);
                mapping.write(0..PAGES, 1);
                let region = mapping.register(&vm);
                assert_eq!(region.evict(0..mapping.bytes).pages, PAGES as u64);
                let there = Mapping::new(PAGES);
                // SAFETY: the test's own.
                assert_eq!(unsafe { libc::mprotect(there.at(0).cast(), there.bytes, libc::PROT_NONE) }, 0);
                place.store(there.start, SeqCst);
                round.store(n, SeqCst);
                // SAFETY: as above.
                let moved = unsafe {
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    libc::mremap(mapping.at(0).cast(), mapping.bytes, mapping.bytes, flags, there.at(0))
                };
                assert_eq!(moved, there.at(0).cast());
                while touched.load(SeqCst) < 2 * n {}
                there.check(0..PAGES, 1);
                std::mem::forget(mapping);
                drop(region);
            }
        });
    });
    well(&output.unwrap());
}

#[test]
fn a_region_of_which_a_part_was_unmapped_is_unregistered_like_any_other() {
    // In a process of its own: what is mapped meanwhile should be ours.
    let output = in_a_process("a_region_of_which_a_part_was_unmapped_is_unregistered_like_any_other", || {
        for (gone, dropped) in [(100..150, false), (100..150, true), (0..300, false)] {
            let engine = engine();
            let vm = vm(&engine, "vm", threads(2).follow(Follow::Mappings)).unwrap();
            let mapping = std::mem::ManuallyDrop::new(Mapping::new(300));
            mapping.write(0..300, 1);
            let region = mapping.register(&vm);
            region.evict(0..200 * PAGE);
            // SAFETY: the test's memory.
            assert_eq!(unsafe { libc::munmap(mapping.at(gone.start).cast(), gone.len() * PAGE) }, 0);
            match dropped {
                true => drop(region),
                false => region.unregister().map_err(|(_, error)| error).unwrap(),
            }
            for page in (0..300).filter(|page| !gone.contains(page)) {
                mapping.check(page..page + 1, 1);
            }
            assert_eq!(vm.memcg().current(Counter::Memory), 0);
            drop(vm);
            engine.zswap().assert_valid();
        }
    });
    let output = output.unwrap();
    well(&output);
    assert_eq!(said(&output), "", "nothing is amiss");
}

/// MADV_FREE is told as MADV_DONTNEED is, and leaves pages where they are until the kernel wants them: what is written again is kept.
#[test]
fn what_is_freed_lazily_and_written_again_is_kept() {
    within_a_minute(|| {
        const PAGES: usize = 64;
        let engine = engine();
        let Ok(vm) = vm(&engine, "vm", threads(1).follow(Follow::Discards)) else {
            return skip("what_is_freed_lazily_and_written_again_is_kept", "no events of removal");
        };
        let mapping = Mapping::new(PAGES);
        let region = mapping.register(&vm);
        // Only the first call may take long. (Each eviction does: what was left there is held.)
        let mut later = Duration::ZERO;
        for version in 1..50 {
            mapping.write(0..PAGES, version);
            let started = Instant::now();
            // SAFETY: pages of the test's.
            assert_eq!(unsafe { libc::madvise(mapping.start as *mut libc::c_void, PAGES * PAGE, libc::MADV_FREE) }, 0);
            mapping.write(0..PAGES, version + 1000);
            later += if version > 1 { started.elapsed() } else { Duration::ZERO };
            vm.evict_all();
            mapping.check(0..PAGES, version + 1000);
        }
        assert!(later < Duration::from_secs(12), "each call holds up who writes there: {later:?}");
        valid(&region);
        region.unregister().unwrap();
    });
}
