//! The cases of the kernel's `uffd-unit-tests` about signals, events and poison, and LTP's userfaultfd01 to 07, by name, on our layer. The table of
//! all cases is in `guest_uffd_kernel.rs`.
#![cfg(all(feature = "guest", target_os = "linux"))]

mod support;
#[path = "support/uffd.rs"]
mod uffd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use uffd::*;
use zspool::guest::uffd::{Ask, Descriptor, Errno, Event, Fault, Features, Mode, Modes, Way};

// === sigbus

static SIGBUS_DESCRIPTOR: AtomicUsize = AtomicUsize::new(0);
static SIGBUS_COUNT: AtomicUsize = AtomicUsize::new(0);
static SIGBUS_PROTECTED: AtomicBool = AtomicBool::new(false);

/// Serves the fault in the thread that has it, in the signal's handler.
extern "C" fn serve_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let descriptor = SIGBUS_DESCRIPTOR.load(Ordering::Acquire) as *const Descriptor;
    // SAFETY: the test keeps the descriptor until no thread touches the memory any more.
    let descriptor = unsafe { &*descriptor };
    // SAFETY: the kernel gives a signal's information.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS has an address.
    let address = unsafe { info.si_addr() } as usize & !(PAGE - 1);
    SIGBUS_COUNT.fetch_add(1, Ordering::Relaxed);
    let page = pattern(address / PAGE, 0);
    let mode = if SIGBUS_PROTECTED.load(Ordering::Relaxed) { Mode::PROTECTED } else { Mode::empty() };
    let done = descriptor.copy(address, page.as_ptr(), PAGE, mode);
    if done == stopped(Errno::EXISTS) {
        descriptor.unprotect(address..address + PAGE, Mode::empty()).expect("it may be written");
    } else {
        assert!(done.all(), "{done:?}");
    }
}

fn by_signal(modes: Modes, features: Features) {
    const PAGES: usize = 64;
    for kind in KINDS {
        let Some(descriptor) = descriptor(Features::SIGBUS | features) else { return };
        let map = memory(kind, PAGES);
        register(&descriptor, map.range(), modes).expect("it is registered");
        SIGBUS_DESCRIPTOR.store(Arc::as_ptr(&descriptor) as usize, Ordering::Release);
        SIGBUS_PROTECTED.store(modes.contains(Modes::PROTECT), Ordering::Relaxed);
        SIGBUS_COUNT.store(0, Ordering::Relaxed);
        // SAFETY: all zeroes is a value of this plain structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = serve_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the structure is borrowed for the call; the handler calls nothing that may not be called there.
        assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) }, 0);
        for page in 0..PAGES {
            let number = map.page(page) / PAGE;
            assert!(read(map.page(page)) == pattern(number, 0), "{kind:?}: page {page}");
            write(map.page(page), &pattern(number, 1));
            assert!(read(map.page(page)) == pattern(number, 1), "{kind:?}: page {page}");
        }
        let twice = if modes.contains(Modes::PROTECT) { 2 } else { 1 };
        assert_eq!(SIGBUS_COUNT.load(Ordering::Relaxed), PAGES * twice, "{kind:?}");
        assert!(!readable(&descriptor, 0), "no event beside the signal");
    }
}

#[test]
fn sigbus() {
    if alone("sigbus") {
        within(30, || by_signal(Modes::MISSING, Features::empty()));
    }
}

#[test]
fn sigbus_wp() {
    if alone("sigbus_wp") {
        within(30, || by_signal(Modes::MISSING | Modes::PROTECT, Features::WP_HUGETLBFS_SHMEM));
    }
}

// === events

/// A program forks, moves and drops its memory, and its children do; whoever serves follows.
fn all_events(modes: Modes, install: Mode) {
    const PAGES: usize = 32;
    for kind in KINDS {
        let features = Features::EVENT_FORK | Features::EVENT_REMAP | Features::EVENT_REMOVE | Features::EVENT_UNMAP;
        let shmem = Features::WP_HUGETLBFS_SHMEM | Features::PAGEFAULT_FLAG_WP;
        let ask = Ask { features, wanted: shmem, nonblocking: true, ..Ask::default() };
        let Some(descriptor) = uffd::ask(ask) else { return };
        let map = memory(kind, PAGES);
        let room = Mapped::with(PAGES * PAGE, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0);
        register(&descriptor, map.range(), modes).expect("it is registered");
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (from, to) = (map.address, room.address);
        let serve = move |descriptor: &Descriptor, fault: Fault| {
            let address = page_of(&fault);
            if fault.protected {
                descriptor.unprotect(address..address + PAGE, Mode::empty()).expect("it may be written");
                return;
            }
            let base = if (from..from + PAGES * PAGE).contains(&address) { from } else { to };
            let page = pattern((address - base) / PAGE, 0);
            let done = descriptor.copy(address, page.as_ptr(), PAGE, install);
            // A child's shared memory has the page that its parent's fault brought: whoever waits goes on.
            if done == stopped(Errno::EXISTS) {
                descriptor.wake(address..address + PAGE).expect("they are woken");
            } else {
                assert!(done.all() || done == stopped(Errno::AGAIN), "{done:?}");
            }
        };
        let children = Arc::new(std::sync::Mutex::new(Vec::new()));
        let handler = {
            let (log, children) = (log.clone(), children.clone());
            Handler::new(descriptor.clone(), move |descriptor, event| match event {
                Event::Fault(fault) => serve(descriptor, fault),
                Event::Fork(child) => {
                    log.lock().expect("fine").push("fork");
                    children
                        .lock()
                        .expect("fine")
                        .push(Handler::of_faults(Arc::new(child), move |child, fault| serve(child, fault)));
                }
                Event::Remap { from: told, to: there, bytes } => {
                    assert_eq!((told, there, bytes), (from, to, PAGES * PAGE));
                    log.lock().expect("fine").push("remap");
                }
                Event::Remove(range) => {
                    assert_eq!(range, to + 8 * PAGE..to + 16 * PAGE);
                    log.lock().expect("fine").push("remove");
                }
                Event::Unmap(range) => {
                    // A range that moved is unmapped where it was, after it is there.
                    let moved = range == (from..from + PAGES * PAGE);
                    assert!(moved || range == (to + 24 * PAGE..to + 32 * PAGE), "{range:x?}");
                    log.lock().expect("fine").push(if moved { "unmap of the old place" } else { "unmap" });
                }
                other => panic!("{other:?}"),
            })
        };
        let child = fork();
        let all_read = |base: usize, pages: std::ops::Range<usize>| {
            pages.clone().all(|page| {
                let word = (base + page * PAGE) as *mut u64;
                // SAFETY: the test's own memory.
                let seen = unsafe { word.read_volatile() };
                // SAFETY: as above.
                unsafe { word.write_volatile(seen) };
                let expected = pattern(page, 0);
                seen == u64::from_ne_bytes(expected[..8].try_into().expect("8 bytes"))
            })
        };
        if child == 0 {
            let status = if all_read(from, 0..PAGES) { 0 } else { 1 };
            // SAFETY: ends the child.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{kind:?}: the child read something else");
        assert!(all_read(from, 0..PAGES / 2), "{kind:?}");
        // SAFETY: the test's own memory, which goes where there is nothing of value.
        let moved = unsafe {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(from as *mut _, PAGES * PAGE, PAGES * PAGE, flags, to as *mut libc::c_void)
        };
        assert_eq!(moved as usize, to);
        let mut map = map;
        map.bytes = 0;
        assert!(all_read(to, 0..PAGES), "{kind:?}: after it moved");
        // Changed, then dropped: it comes anew. (Of a file, the page is in the file still.)
        write(to + 9 * PAGE, &pattern(9, 7));
        let advice = if kind == Kind::Anon { libc::MADV_DONTNEED } else { libc::MADV_REMOVE };
        advise(to + 8 * PAGE..to + 16 * PAGE, advice).expect("advice");
        assert!(all_read(to, 0..PAGES), "{kind:?}: after part of it was dropped");
        // SAFETY: the test's own memory; `room` ends before it from here on.
        assert_eq!(unsafe { libc::munmap((to + 24 * PAGE) as *mut _, 8 * PAGE) }, 0);
        let mut room = room;
        room.bytes = 24 * PAGE;
        // The kernel tells the last one as it is unmapped; the others before their call returned.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while log.lock().expect("fine").len() < 5 && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(
            *log.lock().expect("fine"),
            ["fork", "remap", "unmap of the old place", "remove", "unmap"],
            "{kind:?}"
        );
        descriptor.unregister(room.range()).expect("it is not registered any more");
        drop(handler);
        children.lock().expect("fine").clear();
    }
}

#[test]
fn events() {
    if alone("events") {
        within(30, || all_events(Modes::MISSING, Mode::empty()));
    }
}

#[test]
fn events_wp() {
    if alone("events_wp") {
        within(30, || all_events(Modes::MISSING | Modes::PROTECT, Mode::PROTECTED));
    }
}

// === poison

/// Whether an access ends in SIGBUS: asked of the kernel, whose reading of the page fails there.
fn is_poisoned(address: usize) -> bool {
    let mut bytes = [0u8; PAGE];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: PAGE };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: PAGE };
    let me = std::process::id() as i32;
    // SAFETY: reads a page of this process into a buffer of its size.
    unsafe { libc::process_vm_readv(me, &raw const local, 1, &raw const remote, 1, 0) < 0 }
}

#[test]
fn poison() {
    within(30, || {
        for kind in KINDS {
            let Some(descriptor) = descriptor(Features::POISON) else { return };
            let map = memory(kind, 32);
            register(&descriptor, map.range(), Modes::MISSING).expect("it is registered");
            // Every fourth page is poisoned, the others are pages of zeroes; the kernel's test does so by turns.
            for page in 0..32 {
                let done = match page % 4 {
                    0 => descriptor.poison(map.span(page, 1), Mode::empty()),
                    _ => descriptor.zeropage(map.span(page, 1), Mode::empty()),
                };
                assert!(done.all(), "{kind:?}: page {page}: {done:?}");
            }
            for page in 0..32 {
                assert_eq!(is_poisoned(map.page(page)), page % 4 == 0, "{kind:?}: page {page}");
            }
            assert_eq!(descriptor.poison(map.span(1, 1), Mode::empty()), stopped(Errno::EXISTS), "a page is there");
            assert_eq!(descriptor.poison(map.span(4, 1), Mode::empty()), stopped(Errno::EXISTS), "poisoned twice");
            // A page may be put where poison was.
            let page = pattern(4, 4);
            let done = descriptor.copy(map.page(4), page.as_ptr(), PAGE, Mode::empty());
            advise(map.span(8, 1), libc::MADV_DONTNEED).expect("advice");
            assert!(descriptor.zeropage(map.span(8, 1), Mode::empty()).all(), "{kind:?}: dropped, it is good again");
            assert!(!is_poisoned(map.page(8)));
            assert_eq!(done.all(), !is_poisoned(map.page(4)), "{kind:?}: {done:?}");
        }
    });
}

// === mmap-changing

/// While a removal is told and not read, nothing is filled, with EAGAIN and a count that is no progress.
#[test]
fn mmap_changing() {
    within(30, || {
        for kind in KINDS {
            let needs = Features::EVENT_REMOVE | Features::POISON | Features::MINOR_SHMEM;
            let Some(descriptor) = descriptor(needs) else { return };
            let map = memory(kind, 32);
            let modes = if kind == Kind::Shmem { Modes::MISSING | Modes::MINOR } else { Modes::MISSING };
            register(&descriptor, map.range(), modes).expect("it is registered");
            let source = Mapped::anonymous(1);
            write(source.page(0), &pattern(0, 0));
            let page = pattern(1, 1);
            let range = map.span(16, 4);
            let remover = std::thread::spawn(move || advise(range, libc::MADV_DONTNEED));
            assert!(readable(&descriptor, WAIT), "{kind:?}: no event came");
            let again = stopped(Errno::AGAIN);
            assert_eq!(descriptor.copy(map.page(0), page.as_ptr(), PAGE, Mode::empty()), again, "{kind:?}: COPY");
            assert_eq!(descriptor.zeropage(map.span(0, 1), Mode::empty()), again, "{kind:?}: ZEROPAGE");
            assert_eq!(descriptor.poison(map.span(0, 1), Mode::empty()), again, "{kind:?}: POISON");
            if kind == Kind::Anon {
                assert_eq!(mov(&descriptor, map.page(0), source.address, 1, Mode::empty()), again, "MOVE");
                assert!(read(source.page(0)) == pattern(0, 0));
            } else {
                assert_eq!(descriptor.continue_(map.span(0, 1), Mode::empty()), again, "CONTINUE");
            }
            assert!(!remover.is_finished(), "{kind:?}: it waits for its event to be read");
            let Event::Remove(told) = next_event(&descriptor) else { panic!("no removal") };
            assert_eq!(told, map.span(16, 4));
            remover.join().expect("it is well").expect("they are dropped");
            assert!(descriptor.copy(map.page(0), page.as_ptr(), PAGE, Mode::empty()).all(), "{kind:?}: afterwards");
        }
    });
}

/// The same while a range is being unmapped, or moved: before it is gone, so that a MOVE out of the range finds either the old mapping or
/// EAGAIN, and never what somebody else has mapped there since.
#[test]
fn mmap_changing_by_munmap_and_mremap() {
    // Another test's thread may map into the hole that it makes.
    if !alone("mmap_changing_by_munmap_and_mremap") {
        return;
    }
    within(30, || {
        for moves in [false, true] {
            let Some(descriptor) = descriptor(Features::EVENT_UNMAP | Features::EVENT_REMAP | Features::MOVE) else {
                return;
            };
            let (mut map, shadow, room) = (Mapped::anonymous(8), Mapped::anonymous(8), Mapped::anonymous(8));
            register(&descriptor, map.range(), Modes::MISSING).expect("it is registered");
            register(&descriptor, shadow.range(), Modes::PROTECT).expect("it is registered");
            assert!(descriptor.zeropage(map.range(), Mode::empty()).all());
            let (from, to) = (map.address, room.address);
            map.bytes = 0;
            let changer = std::thread::spawn(move || {
                if moves {
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    // SAFETY: the test's own memory.
                    unsafe { libc::mremap(from as *mut _, 8 * PAGE, 8 * PAGE, flags, to as *mut libc::c_void) };
                } else {
                    // SAFETY: as above.
                    unsafe { libc::munmap(from as *mut _, 8 * PAGE) };
                }
            });
            assert!(readable(&descriptor, WAIT), "no event came");
            // SAFETY: a new mapping where nothing is any more.
            let there = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
                libc::mmap(from as *mut _, 8 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
            };
            assert_eq!(there as usize, from, "the place is free before the event is read");
            let stranger = Mapped { address: from, bytes: 8 * PAGE, file: None };
            write(stranger.page(0), &pattern(0, 3));
            assert_eq!(mov(&descriptor, shadow.address, from, 1, Mode::QUIET), stopped(Errno::AGAIN));
            assert!(!changer.is_finished());
            if moves {
                let Event::Remap { .. } = next_event(&descriptor) else { panic!("no remap") };
                assert_eq!(mov(&descriptor, shadow.address, from, 1, Mode::QUIET), stopped(Errno::AGAIN), "still");
            }
            let Event::Unmap(range) = next_event(&descriptor) else { panic!("no unmap") };
            assert_eq!(range, stranger.range());
            changer.join().expect("it is well");
            assert!(read(stranger.page(0)) == pattern(0, 3));
            // From here on nothing keeps a MOVE from taking what is a stranger's: the kernel does not ask whose it is.
            assert!(mov(&descriptor, shadow.address, from, 1, Mode::QUIET).all());
            assert!(read(shadow.page(0)) == pattern(0, 3) && read(stranger.page(0)) == [0; PAGE]);
            // Unmapped while it is registered, it would raise an event that nobody reads.
            descriptor.unregister(shadow.range()).expect("it is not registered any more");
            if moves {
                descriptor.unregister(room.range()).expect("it took its registration along");
            }
        }
    });
}

// === LTP

/// A fault that another thread serves with `serve`, as all seven of LTP's are.
fn ltp(
    ask: Ask,
    kind: Kind,
    modes: Modes,
    prepare: impl FnOnce(&Descriptor, &Mapped),
    access: impl FnOnce(usize) + Send + 'static,
    serve: impl FnOnce(&Descriptor, &Mapped, Fault),
) {
    let Some(descriptor) = uffd::ask(Ask { nonblocking: true, ..ask }) else { return };
    let map = memory(kind, 1);
    register(&descriptor, map.range(), modes).expect("it is registered");
    prepare(&descriptor, &map);
    let address = map.address;
    let thread = std::thread::spawn(move || access(address));
    let Event::Fault(fault) = next_event(&descriptor) else { panic!("not a fault") };
    assert_eq!(page_of(&fault), address);
    serve(&descriptor, &map, fault);
    thread.join().expect("it is well");
}

fn reads(number: usize, version: u64) -> impl FnOnce(usize) + Send + 'static {
    move |address| assert!(read(address) == pattern(number, version))
}

#[test]
fn userfaultfd01() {
    within(20, || {
        ltp(
            Ask::default(),
            Kind::Anon,
            Modes::MISSING,
            |_, _| (),
            reads(1, 1),
            |descriptor, map, _| {
                let page = pattern(1, 1);
                assert!(descriptor.copy(map.address, page.as_ptr(), PAGE, Mode::empty()).all());
            },
        );
    });
}

#[test]
fn userfaultfd02() {
    within(20, || {
        let ask = Ask { features: Features::MOVE, ..Ask::default() };
        ltp(
            ask,
            Kind::Anon,
            Modes::MISSING,
            |_, _| (),
            reads(2, 1),
            |descriptor, map, _| {
                let source = Mapped::anonymous(1);
                write(source.page(0), &pattern(2, 1));
                assert!(mov(descriptor, map.address, source.address, 1, Mode::empty()).all());
            },
        );
    });
}

#[test]
fn userfaultfd03() {
    within(20, || {
        let ask = Ask { way: Way::Device, ..Ask::default() };
        ltp(
            ask,
            Kind::Anon,
            Modes::MISSING,
            |_, _| (),
            reads(3, 1),
            |descriptor, map, _| {
                let page = pattern(3, 1);
                assert!(descriptor.copy(map.address, page.as_ptr(), PAGE, Mode::empty()).all());
            },
        );
    });
}

#[test]
fn userfaultfd04() {
    within(20, || {
        let zeroes = |address| assert!(read(address) == [0; PAGE]);
        ltp(
            Ask::default(),
            Kind::Anon,
            Modes::MISSING,
            |_, _| (),
            zeroes,
            |descriptor, map, fault| {
                assert!(!fault.write);
                assert!(descriptor.zeropage(map.range(), Mode::empty()).all());
            },
        );
    });
}

#[test]
fn userfaultfd05() {
    within(20, || {
        let ask = Ask { features: Features::PAGEFAULT_FLAG_WP, ..Ask::default() };
        let prepare = |descriptor: &Descriptor, map: &Mapped| {
            write(map.address, &pattern(5, 0));
            descriptor.protect(map.range()).expect("it is protected");
        };
        let writes = |address| write(address, &pattern(5, 1));
        ltp(ask, Kind::Anon, Modes::PROTECT, prepare, writes, |descriptor, map, fault| {
            assert!(fault.protected && fault.write);
            assert!(read(map.address) == pattern(5, 0), "nothing is written yet");
            descriptor.unprotect(map.range(), Mode::empty()).expect("it may be written");
        });
    });
}

#[test]
fn userfaultfd06() {
    within(20, || {
        let ask = Ask { features: Features::POISON, user_mode_only: false, ..Ask::default() };
        let asks = |address| assert!(is_poisoned(address)); // a fault of the kernel's, for this thread
        ltp(
            ask,
            Kind::Anon,
            Modes::MISSING,
            |_, _| (),
            asks,
            |descriptor, map, _| {
                assert!(descriptor.poison(map.range(), Mode::empty()).all());
            },
        );
    });
}

#[test]
fn userfaultfd07() {
    within(20, || {
        let ask = Ask { features: Features::MINOR_SHMEM, ..Ask::default() };
        let prepare = |_: &Descriptor, map: &Mapped| write(alias(map).page(0), &pattern(7, 1));
        ltp(ask, Kind::Shmem, Modes::MINOR, prepare, reads(7, 1), |descriptor, map, fault| {
            assert!(fault.minor);
            assert!(descriptor.continue_(map.range(), Mode::empty()).all());
        });
    });
}
