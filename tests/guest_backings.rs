//! Each backing of guest memory against the contract of `Backing`, on the kernel: moved pages, protected pages, a memfd that is
//! unmapped, a memfd that is protected.
#![cfg(all(feature = "guest", target_os = "linux"))]
#![allow(clippy::single_range_in_vec_init)] // lists of runs, some of one

#[path = "support/backing_bed.rs"]
mod backing_bed;
mod support;
#[path = "support/uffd.rs"]
mod uffd;

use backing_bed::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use uffd::*;
use zspool::guest::memory::backer::Backer;
use zspool::guest::memory::backing::{Obstacle, Staging};
use zspool::guest::memory::{Memory, Method};
use zspool::guest::uffd::{Event, Features, Mode};

#[test]
fn what_is_taken_out_is_staged_and_comes_back() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 200) else { return };
            assert_eq!(bed.backing.take_out(10, 64), all_out(64), "{}", bed.name);
            for page in 10..74 {
                assert!(bed.staged(page) == pattern(page as usize, 0), "{}: page {page}", bed.name);
            }
            bed.backing.put_back(10, 64).all().expect("it goes back");
            assert!(!readable(&bed.descriptor, 0));
            for page in 0..200 {
                bed.holds(page, 0);
                write(bed.map.page(page as usize), &pattern(page as usize, 1)); // and may be written
                bed.holds(page, 1);
            }
        }
    });
}

#[test]
fn what_is_dropped_is_gone_until_it_is_installed() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 128) else { return };
            assert_eq!(bed.backing.take_out(32, 64), all_out(64));
            bed.backing.drop_staged(32, 64).expect("frames go back");
            assert_eq!(bed.present(), [0..32, 96..128], "{}", bed.name);
            assert_eq!(bed.install(32, 64, 5), all_in(64), "{}", bed.name);
            for page in 0..128 {
                bed.holds(page, if (32..96).contains(&page) { 5 } else { 0 });
            }
            assert_eq!(bed.present(), [0..128]);
        }
    });
}

#[test]
fn an_access_to_a_page_that_is_out_is_told_by_its_kind() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 8) else { return };
            let in_place = kind.1 == Method::Protect;
            assert_eq!(bed.backing.staging(), if kind.1 == Method::Move { Staging::Apart } else { Staging::InPlace });
            assert_eq!(bed.backing.take_out(2, 1), all_out(1));
            let address = bed.map.page(2);
            // A read of a page that is staged in place goes on by itself; a write of it is a write to a protected page.
            if in_place {
                bed.holds(2, 0);
            }
            bed.fault(
                move || write(address, &pattern(2, 1)),
                |fault| {
                    assert_eq!((fault.address / PAGE, fault.write), (address / PAGE, true), "{}", bed.name);
                    assert_eq!(fault.protected, in_place, "{}", bed.name);
                    assert_eq!(fault.minor, kind.1 == Method::Zap, "{}", bed.name);
                    assert!(bed.staged(2) == pattern(2, 0), "{}: it was written while it is staged", bed.name);
                    bed.backing.put_back(2, 1).all().expect("it goes back");
                },
            );
            bed.holds(2, 1);
            // Dropped, it is missing for all of them.
            assert_eq!(bed.backing.take_out(2, 1), all_out(1));
            bed.backing.drop_staged(2, 1).expect("its frame goes back");
            let seen = bed.fault(
                move || read(address),
                |fault| {
                    assert!(!fault.write && !fault.protected && !fault.minor, "{}: {fault:?}", bed.name);
                    assert_eq!(bed.install(2, 1, 9), all_in(1));
                },
            );
            assert!(seen == pattern(2, 9));
        }
    });
}

#[test]
fn installing_over_a_page_leaves_it_as_it_is() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::with(kind, 64, Features::empty(), |map| fill(map, 40..41)) else { return };
            assert_eq!(bed.install(0, 64, 3), in_until(40, Obstacle::There), "{}", bed.name);
            bed.holds(39, 3);
            bed.holds(40, 0);
            assert_eq!(bed.backing.install_zero(40, 1), in_until(0, Obstacle::There));
            assert_eq!(bed.backing.install_zero(41, 23), all_in(23));
            bed.holds(40, 0);
            assert!(read(bed.map.page(63)) == [0; PAGE]);
            write(bed.map.page(63), &pattern(63, 4)); // the page of zeroes is not everybody's
            assert!(read(bed.map.page(62)) == [0; PAGE]);
            // A page of zeroes leaves and comes back as any other.
            assert_eq!(bed.backing.take_out(41, 22), all_out(22), "{}", bed.name);
            assert!(bed.staged(50) == [0; PAGE]);
            bed.backing.put_back(41, 22).all().expect("they go back");
            assert!(read(bed.map.page(50)) == [0; PAGE]);
        }
    });
}

#[test]
fn a_hole_ends_a_run_where_it_is() {
    within(60, || {
        for kind in ALL {
            for hole in [0, 1, 31, 62, 63] {
                let fill =
                    |map: &Mapped| (0..64).filter(|&page| page != hole).for_each(|page| fill(map, page..page + 1));
                let Some(bed) = Bed::with(kind, 64, Features::empty(), fill) else { return };
                let hole = hole as u32;
                assert_eq!(bed.backing.take_out(0, 64), out_until(hole, Obstacle::Hole), "{}", bed.name);
                if hole < 63 {
                    assert_eq!(bed.backing.take_out(hole + 1, 63 - hole), all_out(63 - hole), "{}", bed.name);
                    bed.backing.put_back(hole + 1, 63 - hole).all().expect("they go back");
                }
                if hole > 0 {
                    bed.backing.put_back(0, hole).all().expect("they go back");
                }
                (0..64).filter(|&page| page != hole).for_each(|page| bed.holds(page, 0));
            }
        }
    });
}

#[test]
fn discarded_pages_are_missing() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 64) else { return };
            bed.backing.discard(8, 16).expect("they go");
            assert_eq!(bed.present(), [0..8, 24..64], "{}", bed.name);
            let address = bed.map.page(9);
            let seen = bed.fault(
                move || read(address),
                |fault| {
                    assert!(!fault.minor && !fault.protected, "{}: {fault:?}", bed.name);
                    assert_eq!(bed.backing.install_zero(9, 1), all_in(1));
                },
            );
            assert!(seen == [0; PAGE]);
        }
    });
}

#[test]
fn a_protected_page_waits_for_its_first_write() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::new(kind, 8) else { return };
            let bytes = pattern(3, 1);
            assert_eq!(bed.backing.install(3, &raw const bytes, 1, true), all_in(1), "{}", bed.name);
            bed.holds(3, 1); // reads go on
            let address = bed.map.page(3);
            bed.fault(
                move || write(address, &pattern(3, 2)),
                |fault| {
                    assert!(fault.write && fault.protected, "{}: {fault:?}", bed.name);
                    bed.backing.unprotect(3, 1).expect("it may be written");
                },
            );
            bed.holds(3, 2);
            bed.backing.protect(3, 1).expect("it may not");
            bed.fault(
                move || write(address, &pattern(3, 3)),
                |fault| {
                    assert!(fault.protected);
                    bed.backing.unprotect(3, 1).expect("it may be written");
                },
            );
            bed.holds(3, 3);
        }
    });
}

#[test]
fn who_waits_is_woken_without_a_page() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::new(kind, 4) else { return };
            let address = bed.map.page(1);
            bed.fault(
                move || read(address),
                |_| {
                    bed.backing.wake(1, 1);
                    let Event::Fault(again) = next_event(&bed.descriptor) else { panic!("not a fault") };
                    assert_eq!(again.address / PAGE, address / PAGE, "{}", bed.name);
                    assert_eq!(bed.install(1, 1, 1), all_in(1));
                },
            );
        }
    });
}

#[test]
fn pages_moved_in_are_filled_in_place() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 256) else { return };
            // The first time there are no used frames, afterwards there are.
            for round in 1..4 {
                for first in [0, 64, 128] {
                    assert_eq!(bed.backing.take_out(first, 64), all_out(64), "{}", bed.name);
                    bed.backing.drop_staged(first, 64).expect("frames go back");
                }
                let mut asked = Vec::new();
                let moved = bed.backing.move_in(0, 150, &mut |page, frame| {
                    asked.push(page);
                    // SAFETY: a frame that is ours for the call.
                    unsafe { frame.write(pattern(page as usize, round)) };
                    true
                });
                assert_eq!(moved, all_in(150), "{}", bed.name);
                assert_eq!(asked, Vec::from_iter(0..150));
                assert_eq!(bed.install(150, 42, round), all_in(42));
                (0..192).for_each(|page| bed.holds(page, round));
                (192..256).for_each(|page| bed.holds(page, 0));
                (0..256).for_each(|page| write(bed.map.page(page), &pattern(page, 0)));
            }
        }
    });
}

#[test]
fn what_cannot_be_filled_is_left_out() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 192) else { return };
            for stop in [0, 1, 40, 63, 64, 70] {
                for first in [0, 64] {
                    assert_eq!(bed.backing.take_out(first, 64), all_out(64), "{}", bed.name);
                    bed.backing.drop_staged(first, 64).expect("frames go back");
                }
                let fill = |page: u32, frame: *mut [u8; PAGE]| {
                    // SAFETY: a frame that is ours for the call. One that is given up holds something, too.
                    unsafe { frame.write(pattern(page as usize, 7)) };
                    page != stop
                };
                let mut fill = fill;
                assert_eq!(bed.backing.move_in(0, 128, &mut fill), all_in(stop), "{}: {stop}", bed.name);
                let expected: &[_] = if stop == 0 { &[128..192] } else { &[0..stop, 128..192] };
                assert_eq!(bed.present(), expected, "{}: {stop}", bed.name);
                (0..stop).for_each(|page| bed.holds(page, 7));
                // One that panics leaves nothing behind either.
                let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    bed.backing.move_in(stop, 128 - stop, &mut |page, frame| {
                        fill(page, frame);
                        assert!(page < 100, "on purpose");
                        true
                    })
                }));
                assert!(panicked.is_err());
                bed.backing.discard(0, 128).expect("they go");
                assert_eq!(bed.install(0, 128, 0), all_in(128), "{}: {stop}", bed.name);
            }
            (0..192).for_each(|page| bed.holds(page, 0));
        }
    });
}

#[test]
fn moving_in_stops_at_a_page_that_is_there() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 128) else { return };
            for _ in 0..3 {
                assert_eq!(bed.backing.take_out(0, 64), all_out(64));
                bed.backing.drop_staged(0, 64).expect("frames go back");
                assert_eq!(bed.install(50, 1, 1), all_in(1));
                let moved = bed.backing.move_in(0, 64, &mut |page, frame| {
                    // SAFETY: a frame that is ours for the call.
                    unsafe { frame.write(pattern(page as usize, 2)) };
                    true
                });
                assert_eq!(moved, in_until(50, Obstacle::There), "{}", bed.name);
                (0..50).for_each(|page| bed.holds(page, 2));
                bed.holds(50, 1);
                assert_eq!(bed.present(), [0..51, 64..128], "{}", bed.name);
                assert_eq!(bed.install(51, 13, 3), all_in(13));
            }
        }
    });
}

#[test]
fn a_shadow_that_is_not_empty_is_emptied() {
    within(60, || {
        let Some(bed) = Bed::filled((true, Method::Move), 64) else { return };
        for left in [0, 5, 63] {
            // SAFETY: memory of the backing's, which nobody uses now.
            unsafe { bed.backing.staged(left).cast_mut().write([0xEE; PAGE]) };
        }
        assert_eq!(bed.backing.take_out(0, 64), all_out(64));
        (0..64).for_each(|page| assert!(bed.staged(page) == pattern(page as usize, 0), "page {page}"));
        bed.backing.put_back(0, 64).all().expect("they go back");
        (0..64).for_each(|page| bed.holds(page, 0));
    });
}

#[test]
fn nothing_is_put_back_over_a_page() {
    within(60, || {
        let Some(bed) = Bed::filled((true, Method::Move), 8) else { return };
        assert_eq!(bed.backing.take_out(0, 8), all_out(8));
        assert_eq!(bed.install(5, 1, 1), all_in(1));
        assert_eq!(bed.backing.put_back(0, 8).all(), Err(Obstacle::There));
        (0..5).for_each(|page| bed.holds(page, 0));
        bed.holds(5, 1);
        assert!(bed.staged(5) == pattern(5, 0) && bed.staged(6) == pattern(6, 0));
        bed.backing.put_back(6, 2).all().expect("they go back");
        bed.holds(7, 0);
    });
}

/// Somebody wrote to the memfd itself, or the kernel unmapped what it swapped out: what is in the file is what is seen.
#[test]
fn a_page_that_is_in_the_file_already_is_mapped_as_it_is() {
    use std::os::fd::AsRawFd;
    within(60, || {
        for kind in [(false, Method::Zap), (false, Method::Protect)] {
            let Some(bed) = Bed::new(kind, 8) else { return };
            let (file, bytes) = (bed.map.file.as_ref().expect("its file").as_raw_fd(), pattern(3, 6));
            // SAFETY: writes to the test's own file.
            let wrote = unsafe { libc::pwrite(file, bytes.as_ptr().cast(), PAGE, 3 * PAGE as libc::off_t) };
            assert_eq!(wrote, PAGE as isize);
            assert_eq!(bed.present(), [3..4], "{}", bed.name);
            for (page, zero) in [(3, true), (3, false)] {
                let address = bed.map.page(page);
                let seen = bed.fault(
                    move || read(address),
                    |fault| {
                        assert!(fault.minor, "{}: {fault:?}", bed.name);
                        let there = in_until(0, Obstacle::There);
                        if zero {
                            assert_eq!(bed.backing.install_zero(3, 1), there);
                        } else {
                            assert_eq!(bed.install(3, 1, 9), there);
                        }
                    },
                );
                assert!(seen == pattern(3, 6), "{}", bed.name);
                advise(bed.map.span(3, 1), libc::MADV_DONTNEED).expect("unmapped, and in the file still");
            }
            let asked = bed.backing.move_in(0, 8, &mut |_, frame| {
                // SAFETY: a frame that is ours for the call.
                unsafe { frame.write(pattern(0, 0)) };
                true
            });
            assert_eq!(asked, in_until(3, Obstacle::There), "{}", bed.name);
            bed.holds(3, 6);
        }
    });
}

#[test]
fn what_a_kernel_access_meets_is_an_error_and_not_a_hang() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 4) else { return };
            assert_eq!(bed.backing.take_out(1, 1), all_out(1));
            bed.backing.drop_staged(1, 1).expect("its frame goes back");
            let mut pipe = [0; 2];
            // SAFETY: two descriptors are written.
            assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
            // SAFETY: reads a page of the test's, as far as it can be read.
            let wrote = unsafe { libc::write(pipe[1], bed.map.page(1) as *const _, PAGE) };
            let errno = std::io::Error::last_os_error().raw_os_error();
            assert_eq!((wrote, errno), (-1, Some(libc::EFAULT)), "{}", bed.name); // user mode only
            for fd in pipe {
                // SAFETY: ours.
                unsafe { libc::close(fd) };
            }
        }
    });
}

#[test]
fn poisoned_pages_say_so_and_are_good_again_when_discarded() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 8) else { return };
            assert_eq!(bed.backing.poison(2, 2), Err(Obstacle::There), "{}", bed.name);
            bed.backing.discard(2, 2).expect("they go");
            bed.backing.poison(2, 2).expect("they are poisoned");
            // The kernel's own reading of it, as a signal would end the test.
            let (mut bytes, from) = ([0u8; PAGE], bed.map.page(2));
            let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: PAGE };
            let remote = libc::iovec { iov_base: from as *mut _, iov_len: PAGE };
            let me = std::process::id() as i32;
            // SAFETY: reads a page of this process into a buffer of its size.
            let result = unsafe { libc::process_vm_readv(me, &raw const local, 1, &raw const remote, 1, 0) };
            assert_eq!(result, -1, "{}: a poisoned page was read", bed.name);
            assert!(!readable(&bed.descriptor, 0), "{}: a poisoned page raised an event", bed.name);
            // Discarded, it faults as one that is not there.
            bed.backing.unpoison(2).expect("the mark goes");
            let address = bed.map.page(2);
            let seen = bed.fault(
                move || read(address),
                |_| {
                    let zeroes = bed.backing.install_zero(2, 1);
                    assert_eq!((zeroes.pages, zeroes.obstacle), (1, None), "{}", bed.name);
                },
            );
            assert!(seen == [0; PAGE], "{}", bed.name);
            // Filled in place of the mark, it is read.
            let filled = bed.backing.install(3, pattern(3, 1).as_ptr().cast(), 1, false);
            assert_eq!((filled.pages, filled.obstacle), (1, None), "{}", bed.name);
            bed.holds(3, 1);
        }
    });
}

#[test]
fn released_memory_is_the_callers_again() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 16) else { return };
            bed.backing.discard(3, 1).expect("it goes");
            let address = bed.map.page(3);
            let seen = bed.fault(move || read(address), |_| bed.backing.release().expect("it is released"));
            assert!(seen == [0; PAGE], "{}", bed.name);
            bed.holds(4, 0);
            let Bed { map, backing, .. } = bed;
            drop(backing);
            write(map.page(9), &pattern(9, 1));
            // And may be registered again, by somebody else too.
            let other = descriptor(Features::empty()).expect("as before");
            let memory = match &map.file {
                None => Memory::anonymous(map.pointer(), map.bytes),
                Some(file) => Memory::memfd(map.pointer(), map.bytes, file, 0),
            };
            let again = Backer::new(other).and_then(|backer| backer.back(&memory)).expect("a backing");
            again.register().expect("it is registered");
            assert!(read(map.page(9)) == pattern(9, 1));
        }
    });
}

/// Writers count up in every page while pages are taken out, dropped, and brought back: a counter that goes back is a lost write.
#[test]
fn no_write_is_lost_while_pages_come_and_go() {
    const PAGES: usize = 96;
    enum State {
        Resident,
        Staged,
        Stored(Box<[u8; PAGE]>),
    }
    within(120, || {
        for kind in ALL {
            let Some(bed) = Bed::with(kind, PAGES, Features::empty(), |map| {
                (0..PAGES).for_each(|page| write(map.page(page), &[0; PAGE]));
            }) else {
                return;
            };
            let states: Arc<Vec<Mutex<State>>> = Arc::new((0..PAGES).map(|_| Mutex::new(State::Resident)).collect());
            let (base, backing) = (bed.map.address, bed.backing.clone());
            let bring = {
                let (states, backing) = (states.clone(), backing.clone());
                move |page: usize| {
                    let mut state = states[page].lock().expect("nobody panics");
                    match &*state {
                        State::Resident => backing.wake(page as u32, 1),
                        State::Staged => backing.put_back(page as u32, 1).all().expect("it goes back"),
                        State::Stored(bytes) => {
                            assert_eq!(backing.install(page as u32, &raw const **bytes, 1, false), all_in(1));
                        }
                    }
                    *state = State::Resident;
                }
            };
            let served = Arc::new(AtomicU64::new(0));
            let handler = {
                let served = served.clone();
                Handler::of_faults(bed.descriptor.clone(), move |_, fault| {
                    bring((fault.address - base) / PAGE);
                    served.fetch_add(1, Ordering::Relaxed);
                })
            };
            let stop = Arc::new(AtomicBool::new(false));
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    let stop = stop.clone();
                    std::thread::spawn(move || {
                        let (mut counts, mut random) = ([0u64; PAGES], writer as u64 + 1);
                        while !stop.load(Ordering::Relaxed) {
                            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                            let page = (random >> 33) as usize % PAGES;
                            let word = (base + page * PAGE + 1000 * writer) as *mut u64;
                            // SAFETY: a word of this writer's own in mapped memory.
                            let seen = unsafe { word.read_volatile() };
                            assert_eq!(seen, counts[page], "page {page}: a write was lost");
                            counts[page] += 1;
                            // SAFETY: as above.
                            unsafe { word.write_volatile(counts[page]) };
                        }
                        counts.iter().sum::<u64>()
                    })
                })
                .collect();
            let mut random = 99u64;
            let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
            let mut taken = 0;
            while std::time::Instant::now() < until {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let first = (random >> 33) as usize % PAGES;
                let most = [1, 4, 16, 64][(random >> 20) as usize % 4].min(PAGES - first);
                let mut owned: Vec<_> =
                    states[first..first + most].iter().map(|state| state.lock().expect("nobody panics")).collect();
                let run = owned.iter().take_while(|state| matches!(***state, State::Resident)).count();
                let out = backing.take_out(first as u32, run as u32);
                assert!(out == all_out(run as u32) || run == 0, "{}: {out:?}", bed.name);
                owned[..run].iter_mut().for_each(|state| **state = State::Staged);
                drop(owned);
                taken += run;
                for page in first..first + run {
                    let mut state = states[page].lock().expect("nobody panics");
                    if matches!(*state, State::Staged) && (random >> (page % 50)) & 3 != 0 {
                        let mut bytes = [0; PAGE];
                        backing.copy_staged(page as u32, &mut bytes).expect("it is staged, and owned");
                        backing.drop_staged(page as u32, 1).expect("its frame goes back");
                        *state = State::Stored(Box::new(bytes));
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            let written: u64 = writers.into_iter().map(|writer| writer.join().expect("no write is lost")).sum();
            drop(handler);
            let served = served.load(Ordering::Relaxed);
            assert!(taken > 100 && served > 100 && written > 1000, "{}: {taken} {served} {written}", bed.name);
        }
    });
}

/// `Descriptor` has to be good for a page that nobody else fills: the smallest use of the layer, as a check of these tests themselves.
#[test]
fn the_descriptor_serves_without_a_backing() {
    within(20, || {
        let Some(descriptor) = descriptor(Features::empty()) else { return };
        let map = Mapped::anonymous(1);
        // SAFETY: the test's own memory, served below.
        unsafe { descriptor.register(map.range(), zspool::guest::uffd::Modes::MISSING) }.expect("registered");
        let address = map.address;
        let reader = std::thread::spawn(move || read(address));
        let Event::Fault(_) = next_event(&descriptor) else { panic!("not a fault") };
        assert!(descriptor.zeropage(map.range(), Mode::empty()).all());
        assert!(reader.join().expect("it is well") == [0; PAGE]);
    });
}
