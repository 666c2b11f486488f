//! Each backing of guest memory against the contract of `Backing`, on the kernel: moved pages, protected pages, a memfd that is
//! unmapped, a memfd that is protected.
#![cfg(all(feature = "guest", target_os = "linux"))]
#![allow(clippy::single_range_in_vec_init)] // lists of runs, some of one

mod support;
#[path = "support/uffd.rs"]
mod uffd;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use uffd::*;
use zspool::guest::memory::backer::{Backer, WANTED};
use zspool::guest::memory::backing::{Backing, Installed, Obstacle, Staging, TakenOut};
use zspool::guest::memory::{Memory, Method};
use zspool::guest::uffd::{Ask, Descriptor, Event, Fault, Features, Mode};

const ALL: [(bool, Method); 4] =
    [(true, Method::Move), (true, Method::Protect), (false, Method::Zap), (false, Method::Protect)];

/// A region on its own: who asks owns all pages.
struct Bed {
    map: Mapped,
    backing: Arc<dyn Backing>,
    descriptor: Arc<Descriptor>,
    name: String,
}

impl Bed {
    /// `None` where there is no userfaultfd. `prepare` sees the memory before it is registered.
    fn with(
        (anonymous, method): (bool, Method),
        pages: usize,
        features: Features,
        prepare: impl FnOnce(&Mapped),
    ) -> Option<Bed> {
        let descriptor = ask(Ask { features, wanted: WANTED, nonblocking: true, ..Ask::default() })?;
        let map = if anonymous { Mapped::anonymous(pages) } else { Mapped::memfd(pages) };
        prepare(&map);
        let memory = match &map.file {
            None => Memory::anonymous(map.pointer(), map.bytes),
            Some(file) => Memory::memfd(map.pointer(), map.bytes, file, 0),
        };
        let memory = memory.method(method);
        let backer = Backer::new(descriptor.clone()).expect("a backer");
        assert_eq!(backer.method(&memory).expect("it works here"), method);
        let backing: Arc<dyn Backing> = Arc::from(backer.back(&memory).expect("a backing"));
        backing.register().expect("it is registered");
        let name = format!("{method:?} of {}", if anonymous { "anonymous memory" } else { "a memfd" });
        Some(Bed { map, backing, descriptor, name })
    }

    fn new(kind: (bool, Method), pages: usize) -> Option<Bed> {
        Bed::with(kind, pages, Features::empty(), |_| ())
    }

    /// With pages that hold their pattern.
    fn filled(kind: (bool, Method), pages: usize) -> Option<Bed> {
        Bed::with(kind, pages, Features::empty(), |map| fill(map, 0..pages))
    }

    fn staged(&self, page: u32) -> [u8; PAGE] {
        // SAFETY: the page is staged.
        unsafe { self.backing.staged(page).read_volatile() }
    }

    fn holds(&self, page: u32, version: u64) {
        let held = read(self.map.page(page as usize));
        assert!(held == pattern(page as usize, version), "{}: page {page} is not of version {version}", self.name);
    }

    fn install(&self, first: u32, pages: u32, version: u64) -> Installed {
        let bytes: Vec<[u8; PAGE]> = (first..first + pages).map(|page| pattern(page as usize, version)).collect();
        self.backing.install(first, bytes.as_ptr(), pages, false)
    }

    fn present(&self) -> Vec<std::ops::Range<u32>> {
        let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
        self.backing
            .present(0, (self.map.bytes / PAGE) as u32, &mut |run| match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            })
            .expect("the kernel says");
        runs
    }

    /// The fault that an access raises, which goes on when `resolve` has been called. The access runs on its own thread.
    fn fault<R: Send + 'static>(&self, access: impl FnOnce() -> R + Send + 'static, resolve: impl FnOnce(Fault)) -> R {
        let thread = std::thread::spawn(access);
        let Event::Fault(fault) = next_event(&self.descriptor) else { panic!("{}: not a fault", self.name) };
        assert!(!thread.is_finished());
        resolve(fault);
        thread.join().expect("it is well")
    }
}

fn fill(map: &Mapped, pages: std::ops::Range<usize>) {
    for page in pages {
        write(map.page(page), &pattern(page, 0));
    }
}

fn all_out(pages: u32) -> TakenOut {
    TakenOut { moved: pages, obstacle: None }
}

fn all_in(pages: u32) -> Installed {
    Installed { pages, obstacle: None }
}

fn out_until(moved: u32, obstacle: Obstacle) -> TakenOut {
    TakenOut { moved, obstacle: Some(obstacle) }
}

fn in_until(pages: u32, obstacle: Obstacle) -> Installed {
    Installed { pages, obstacle: Some(obstacle) }
}

#[test]
fn what_is_taken_out_is_staged_and_comes_back() {
    within(60, || {
        for kind in ALL {
            let Some(bed) = Bed::filled(kind, 200) else { return };
            assert_eq!(bed.backing.take_out(10, 64), all_out(64), "{}", bed.name);
            for page in 10..74 {
                assert!(bed.staged(page) == pattern(page as usize, 0), "{}: page {page}", bed.name);
            }
            bed.backing.put_back(10, 64).expect("it goes back");
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
                    bed.backing.put_back(2, 1).expect("it goes back");
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
            bed.backing.put_back(41, 22).expect("they go back");
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
                    bed.backing.put_back(hole + 1, 63 - hole).expect("they go back");
                }
                if hole > 0 {
                    bed.backing.put_back(0, hole).expect("they go back");
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
        bed.backing.put_back(0, 64).expect("they go back");
        (0..64).for_each(|page| bed.holds(page, 0));
    });
}

#[test]
fn nothing_is_put_back_over_a_page() {
    within(60, || {
        let Some(bed) = Bed::filled((true, Method::Move), 8) else { return };
        assert_eq!(bed.backing.take_out(0, 8), all_out(8));
        assert_eq!(bed.install(5, 1, 1), all_in(1));
        assert_eq!(bed.backing.put_back(0, 8), Err(Obstacle::There));
        (0..5).for_each(|page| bed.holds(page, 0));
        bed.holds(5, 1);
        assert!(bed.staged(5) == pattern(5, 0) && bed.staged(6) == pattern(6, 0));
        bed.backing.put_back(6, 2).expect("they go back");
        bed.holds(7, 0);
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
            let read = unsafe { libc::process_vm_readv(me, &raw const local, 1, &raw const remote, 1, 0) };
            assert_eq!(read, -1, "{}: a poisoned page was read", bed.name);
            assert!(!readable(&bed.descriptor, 0), "{}: a poisoned page raised an event", bed.name);
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
            bed.backing.put_back(0, 64).expect("they go back");
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
        bed.backing.put_back(0, 64).expect("they go back");
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
            bed.backing.put_back(0, 32).unwrap_or_else(|obstacle| panic!("{}: {obstacle:?}", bed.name));
            let taken = bed.backing.take_out(32, 32);
            if kind.1 == Method::Move {
                assert_eq!(taken, out_until(8, Obstacle::Busy));
            }
            bed.backing.put_back(32, taken.moved).expect("they go back");
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
        bed.backing.put_back(0, 8).expect("by copy");
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
        bed.backing.put_back(0, 20).expect("they go back");
        bed.backing.put_back(24, 40).expect("they go back");
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
        bed.backing.put_back(7, 1).expect("it goes back");
        end(child);
        assert_eq!(bed.backing.take_out(0, 64), out_until(0, Obstacle::Busy), "the child's end alone does not do it");
        assert_eq!(bed.backing.unshare(0, 64), 64);
        assert_eq!(bed.backing.take_out(0, 64), all_out(64));
        (0..64).for_each(|page| assert!(bed.staged(page) == pattern(page as usize, u64::from(page == 7))));
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
            bed.backing.put_back(0, 64).expect("they go back");
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
        backing.put_back(0, 512).expect("it goes back");
        (0..512).for_each(check);
        assert_eq!(backing.take_out(512 + 100, 64), all_out(64)); // the huge page is split
        assert_eq!(backing.take_out(512 + 300, 1), all_out(1));
        backing.put_back(512 + 100, 64).expect("they go back");
        backing.put_back(512 + 300, 1).expect("it goes back");
        (512..1024).for_each(check);
    });
}

#[test]
fn a_mapping_that_moves_takes_its_staged_pages_along() {
    within(60, || {
        for method in [Method::Move, Method::Protect] {
            let features = Features::EVENT_REMAP;
            let Some(mut bed) = Bed::with((true, method), 64, features, |map| fill(map, 0..64)) else { return };
            assert_eq!(bed.backing.take_out(0, 16), all_out(16));
            let room = Mapped::with(64 * PAGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0);
            let (from, to) = (bed.map.address, room.address);
            let mover = std::thread::spawn(move || {
                // SAFETY: the test's own memory, which goes where there is nothing of value.
                let moved = unsafe {
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    libc::mremap(from as *mut _, 64 * PAGE, 64 * PAGE, flags, to as *mut libc::c_void)
                };
                assert_eq!(moved as usize, to);
            });
            let Event::Remap { from: told, to: there, bytes } = next_event(&bed.descriptor) else { panic!("no remap") };
            assert_eq!((told, there, bytes), (from, to, 64 * PAGE));
            mover.join().expect("it moves");
            bed.map.bytes = 0; // nothing is there to be unmapped
            assert!(bed.backing.moved(to));
            bed.backing.put_back(0, 16).expect("they go back");
            for page in 0..64 {
                assert!(read(room.page(page)) == pattern(page, 0), "{method:?}: page {page}");
            }
            assert_eq!(bed.backing.take_out(0, 64), all_out(64));
            bed.backing.release().expect("it is released");
        }
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
        assert!(readable(&bed.descriptor, 2000)); // and not read
        bed.backing.drop_staged(4, 4).expect("no business of the event's");
        assert_eq!(bed.install(4, 1, 1), in_until(0, Obstacle::Again));
        assert_eq!(bed.backing.install_zero(4, 1), in_until(0, Obstacle::Again));
        assert_eq!(bed.backing.put_back(0, 1), Err(Obstacle::Again));
        assert_eq!(bed.backing.poison(4, 1), Err(Obstacle::Again));
        assert!(!remover.is_finished());
        let Event::Remove(range) = next_event(&bed.descriptor) else { panic!("no removal") };
        assert_eq!(range, bed.map.span(32, 8));
        remover.join().expect("it is well").expect("they are dropped");
        assert_eq!(bed.install(4, 1, 1), all_in(1));
        bed.backing.put_back(0, 4).expect("they go back");
        (0..4).for_each(|page| bed.holds(page, 0));
    });
}

/// The program unmaps a range, and something else is mapped there, before anybody could be told: none of it is taken.
#[test]
fn what_a_stranger_mapped_meanwhile_is_not_taken() {
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
        assert!(readable(&bed.descriptor, 2000), "no event came");
        // SAFETY: a new mapping where nothing is any more.
        let there = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            libc::mmap(place as *mut _, 64 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert_eq!(there as usize, place);
        let stranger = Mapped { address: place, bytes: 64 * PAGE, file: None };
        (0..64).for_each(|page| write(stranger.page(page), &pattern(page, 8)));
        assert_eq!(bed.backing.take_out(0, 32), out_until(0, Obstacle::Again));
        assert_eq!(bed.backing.put_back(32, 1), Err(Obstacle::Again));
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
            bed.backing.put_back(0, 32).expect("they go back");
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
                        State::Staged => backing.put_back(page as u32, 1).expect("it goes back"),
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
                        // SAFETY: staged, and owned.
                        let bytes = unsafe { backing.staged(page as u32).read_volatile() };
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
