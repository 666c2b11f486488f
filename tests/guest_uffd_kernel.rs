//! The cases of the kernel's `uffd-unit-tests` and of LTP's userfaultfd01 to 07 that have a meaning for guest memory, by name, on our layer.
//!
//! | case | here |
//! |---|---|
//! | UFFDIO_API (with syscall, with /dev/userfaultfd) | `api_with_syscall`, `api_with_device` |
//! | register-ioctls | `register_ioctls` |
//! | zeropage | `zeropage` |
//! | move, move-pmd, move-pmd-split | `move_`, `move_pmd`, `move_pmd_split` |
//! | wp-fork, wp-fork-with-event | `wp_fork`, `wp_fork_with_event` |
//! | wp-fork-pin, wp-fork-pin-with-event | `wp_fork_pin`, `wp_fork_pin_with_event`: pinned as io_uring's fixed buffers, not by the kernel's test module |
//! | wp-unpopulated | `wp_unpopulated` |
//! | minor, minor-wp, minor-collapse | `minor`, `minor_wp`, `minor_collapse` |
//! | sigbus, sigbus-wp | `sigbus`, `sigbus_wp` |
//! | events, events-wp | `events`, `events_wp` |
//! | poison | `poison` |
//! | mmap-changing | `mmap_changing`, and for the other events `mmap_changing_by_munmap_and_mremap` |
//! | rwp-* | needs a kernel that is not there yet |
//! | hugetlb, hugetlb-private | refused by name: tests/guest_bad_input.rs |
//! | LTP userfaultfd01 .. 07 | `userfaultfd01` .. `userfaultfd07` |
#![cfg(all(feature = "guest", target_os = "linux"))]

mod support;
#[path = "support/uffd.rs"]
mod uffd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use uffd::*;
use zspool::guest::uffd::{
    Ask, Categories, Descriptor, Done, Entry, Errno, Error, Event, Fault, Features, Fresh, Ioctls, Mode, Modes,
    PageMap, Question, Way,
};

/// The two kinds of memory that guests have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Anon,
    Shmem,
}

const KINDS: [Kind; 2] = [Kind::Anon, Kind::Shmem];

fn memory(kind: Kind, pages: usize) -> Mapped {
    match kind {
        Kind::Anon => Mapped::anonymous(pages),
        Kind::Shmem => Mapped::memfd(pages),
    }
}

/// A second view of a memfd's mapping.
fn alias(map: &Mapped) -> Mapped {
    use std::os::fd::AsFd;
    let file = map.file.as_ref().expect("its file").as_fd().try_clone_to_owned().expect("a descriptor");
    Mapped::with(map.bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, Some(file), 0)
}

fn register(descriptor: &Descriptor, range: std::ops::Range<usize>, modes: Modes) -> Result<Ioctls, Error> {
    // SAFETY: memory of the test's, which it serves itself.
    unsafe { descriptor.register(range, modes) }
}

/// Move pages of the test's own.
fn mov(descriptor: &Descriptor, to: usize, from: usize, pages: usize, mode: Mode) -> Done {
    // SAFETY: memory of the test's.
    unsafe { descriptor.mov(to, from, pages * PAGE, mode) }
}

fn page_of(fault: &Fault) -> usize {
    fault.address & !(PAGE - 1)
}

fn stopped(errno: Errno) -> Done {
    Done { bytes: 0, stopped: Some(errno) }
}

/// Whether the kernel has a page write-protected.
fn protected(process: &str, address: usize) -> bool {
    use std::os::unix::fs::FileExt;
    let mut word = [0; 8];
    let file = std::fs::File::open(format!("/proc/{process}/pagemap")).expect("a pagemap");
    file.read_exact_at(&mut word, (address / PAGE * 8) as u64).expect("an entry");
    Entry::from_bits_retain(u64::from_ne_bytes(word)).contains(Entry::PROTECTED)
}

// === UFFDIO_API

fn api(way: Way) {
    let ask = Ask { way, ..Ask::default() };
    let fresh = || match Fresh::open(&ask) {
        Ok(fresh) => Some(fresh),
        Err(error) => {
            support::skip(if way == Way::Device { "api_with_device" } else { "api_with_syscall" }, &error.to_string());
            None
        }
    };
    let Some(first) = fresh() else { return };
    assert_eq!(first.handshake(0xAB, Features::empty()), Err(Errno::INVALID), "a version that is none");
    assert_eq!(
        first.handshake(0xAA, Features::from_bits_retain(1 << 63)),
        Err(Errno::INVALID),
        "a feature that is none"
    );
    let found = first.handshake(0xAA, Features::empty()).expect("all is well");
    assert!(found.contains(Features::EVENT_REMOVE | Features::SIGBUS), "{found}");
    assert_eq!(first.handshake(0xAA, Features::empty()), Err(Errno::INVALID), "a second handshake");
    assert_eq!(Descriptor::found().expect("as before"), found);
    // Before its handshake it does nothing.
    let Some(second) = fresh() else { return };
    drop(second);
}

#[test]
fn api_with_syscall() {
    api(Way::SystemCall);
}

#[test]
fn api_with_device() {
    api(Way::Device);
}

// === register-ioctls

#[test]
fn register_ioctls() {
    let Some(descriptor) = descriptor(Features::empty()) else { return };
    let basic = Ioctls::WAKE | Ioctls::COPY | Ioctls::ZEROPAGE;
    for kind in KINDS {
        let map = memory(kind, 4);
        for (modes, adds) in [
            (Modes::MISSING, Ioctls::empty()),
            (Modes::PROTECT, Ioctls::WRITEPROTECT),
            (Modes::MISSING | Modes::PROTECT, Ioctls::WRITEPROTECT),
        ] {
            let takes = register(&descriptor, map.range(), modes).expect("it is registered");
            assert!(takes.contains(basic | adds), "{kind:?} for {modes}: {takes}");
            assert_eq!(takes.contains(Ioctls::WRITEPROTECT), modes.contains(Modes::PROTECT), "{kind:?} for {modes}");
            assert!(!takes.contains(Ioctls::CONTINUE), "{kind:?} for {modes}: {takes}");
            descriptor.unregister(map.range()).expect("it is not any more");
        }
        match (kind, register(&descriptor, map.range(), Modes::MINOR)) {
            (Kind::Shmem, Ok(takes)) => assert!(takes.contains(basic | Ioctls::CONTINUE), "{takes}"),
            (Kind::Anon, Err(Error::Register { errno: Errno::INVALID, .. })) => {}
            (_, other) => panic!("minor faults of {kind:?}: {other:?}"),
        }
        let nothing = register(&descriptor, map.range(), Modes::empty());
        assert!(matches!(nothing, Err(Error::Register { errno: Errno::INVALID, .. })), "{nothing:?}");
        // Twice with one descriptor is no error; with another it is.
        register(&descriptor, map.range(), Modes::MISSING).expect("it is registered");
        let other = uffd::descriptor(Features::empty()).expect("as before");
        assert!(matches!(register(&other, map.range(), Modes::MISSING), Err(Error::Taken { .. })));
    }
}

// === zeropage

#[test]
fn zeropage() {
    within(30, || {
        for kind in KINDS {
            let Some(descriptor) = descriptor(Features::empty()) else { return };
            let map = memory(kind, 8);
            register(&descriptor, map.range(), Modes::MISSING).expect("it is registered");
            assert!(descriptor.zeropage(map.span(0, 1), Mode::empty()).all());
            assert_eq!(descriptor.zeropage(map.span(0, 1), Mode::empty()), stopped(Errno::EXISTS));
            assert!(read(map.page(0)) == [0; PAGE]);
            // Up to a page that is there, and then what it is.
            assert!(descriptor.zeropage(map.span(5, 1), Mode::empty()).all());
            let done = descriptor.zeropage(map.span(1, 7), Mode::empty());
            assert_eq!(done, Done { bytes: 4 * PAGE, stopped: Some(Errno::AGAIN) }, "{kind:?}");
            assert_eq!(descriptor.zeropage(map.span(5, 3), Mode::empty()), stopped(Errno::EXISTS));
            // Not in whole pages; not registered.
            let crooked = map.page(6) + 1..map.page(7) + 1;
            assert_eq!(descriptor.zeropage(crooked, Mode::empty()), stopped(Errno::INVALID));
            descriptor.unregister(map.range()).expect("it is not any more");
            assert_eq!(descriptor.zeropage(map.span(7, 1), Mode::empty()), stopped(Errno::NO_ENTRY));
        }
    });
}

// === move

/// Pages are moved in by whoever serves faults, `chunk` pages for each.
fn move_by_faults(test: &str, pages: usize, chunk: usize, prepare: impl FnOnce(&Mapped, usize)) {
    let Some(descriptor) = descriptor(Features::MOVE) else { return };
    // Aligned to huge pages.
    let (from, to) = (Mapped::anonymous(pages + 512), Mapped::anonymous(pages + 512));
    let [from_base, to_base] = [&from, &to].map(|map| map.address.next_multiple_of(512 * PAGE));
    prepare(&from, from_base);
    (0..pages).for_each(|page| write(from_base + page * PAGE, &pattern(page, 0)));
    register(&descriptor, to_base..to_base + pages * PAGE, Modes::MISSING).expect("it is registered");
    let faults = Arc::new(AtomicUsize::new(0));
    let handler = {
        let faults = faults.clone();
        let test = test.to_owned();
        Handler::of_faults(descriptor, move |descriptor, fault| {
            faults.fetch_add(1, Ordering::Relaxed);
            let offset = (page_of(&fault) - to_base) / (chunk * PAGE) * chunk * PAGE;
            let done = mov(descriptor, to_base + offset, from_base + offset, chunk, Mode::empty());
            assert!(done.all(), "{test}: {done:?}");
        })
    };
    for page in 0..pages {
        assert!(read(to_base + page * PAGE) == pattern(page, 0), "{test}: page {page}");
    }
    drop(handler);
    assert_eq!(faults.load(Ordering::Relaxed), pages / chunk);
    // What was moved is there no more.
    assert!(read(from_base) == [0; PAGE]);
}

#[test]
fn move_() {
    within(60, || {
        move_by_faults("move", 512, 1, |_, base| {
            advise(base..base + 512 * PAGE, libc::MADV_NOHUGEPAGE).ok();
        })
    });
}

#[test]
fn move_pmd() {
    within(60, || {
        move_by_faults("move-pmd", 1024, 512, |_, base| {
            advise(base..base + 1024 * PAGE, libc::MADV_HUGEPAGE).ok();
        })
    });
}

#[test]
fn move_pmd_split() {
    within(60, || {
        move_by_faults("move-pmd-split", 1024, 16, |_, base| {
            advise(base..base + 1024 * PAGE, libc::MADV_HUGEPAGE).ok();
        })
    });
}

/// What `move` refuses, each with its number.
#[test]
fn move_refusals() {
    within(30, || {
        let Some(descriptor) = descriptor(Features::MOVE) else { return };
        let (from, to) = (Mapped::anonymous(16), Mapped::anonymous(16));
        (0..8).for_each(|page| write(from.page(page), &pattern(page, 0)));
        assert_eq!(
            mov(&descriptor, to.address, from.address, 1, Mode::QUIET),
            stopped(Errno::INVALID),
            "not registered"
        );
        register(&descriptor, to.range(), Modes::PROTECT).expect("write protection alone is enough");
        assert_eq!(
            mov(&descriptor, to.address, from.page(8), 1, Mode::QUIET),
            stopped(Errno::NO_ENTRY),
            "nothing there"
        );
        let done = mov(&descriptor, to.page(4), from.page(4), 8, Mode::QUIET);
        assert_eq!(done, Done { bytes: 4 * PAGE, stopped: Some(Errno::AGAIN) }, "up to the hole");
        let done = mov(&descriptor, to.page(8), from.page(8), 8, Mode::QUIET | Mode::OVER_HOLES);
        assert_eq!(done, Done { bytes: 8 * PAGE, stopped: None }, "over holes");
        assert_eq!(
            mov(&descriptor, to.page(4), from.page(0), 1, Mode::QUIET),
            stopped(Errno::EXISTS),
            "a page is there"
        );
        assert!(read(to.page(4)) == pattern(4, 0) && read(from.page(0)) == pattern(0, 0));
        let shared = Mapped::memfd(1);
        write(shared.page(0), &pattern(0, 0));
        assert_eq!(mov(&descriptor, to.page(0), shared.address, 1, Mode::QUIET), stopped(Errno::INVALID), "shared");
        let access = libc::PROT_READ;
        // SAFETY: the test's own memory.
        assert_eq!(unsafe { libc::mprotect(from.page(1) as *mut _, PAGE, access) }, 0);
        assert_eq!(mov(&descriptor, to.page(1), from.page(1), 1, Mode::QUIET), stopped(Errno::INVALID), "read-only");
        assert_eq!(mov(&descriptor, to.page(0), from.page(0), 2, Mode::QUIET), stopped(Errno::INVALID), "two mappings");
    });
}

// === wp-fork

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pinned {
    No,
    Yes,
}

/// Write protection survives a fork in the child only if the fork raises an event.
fn fork_protected(test: &str, features: Features, pinned: Pinned) {
    for kind in KINDS {
        let shmem = if kind == Kind::Shmem { Features::WP_HUGETLBFS_SHMEM } else { Features::empty() };
        let features = features | shmem | Features::PAGEFAULT_FLAG_WP;
        let Some(descriptor) = ask(Ask { features, nonblocking: true, ..Ask::default() }) else { return };
        let map = memory(kind, 2);
        write(map.page(0), &pattern(0, 0));
        register(&descriptor, map.range(), Modes::PROTECT).expect("it is registered");
        let ring = (pinned == Pinned::Yes).then(|| io_uring::IoUring::new(2));
        let ring = match ring {
            Some(Ok(ring)) => {
                let fixed = libc::iovec { iov_base: map.pointer().cast(), iov_len: PAGE };
                // SAFETY: the memory stays mapped until the ring is gone.
                if let Err(error) = unsafe { ring.submitter().register_buffers(&[fixed]) } {
                    return support::skip(test, &error.to_string());
                }
                Some(ring)
            }
            Some(Err(error)) => return support::skip(test, &error.to_string()),
            None => None,
        };
        descriptor.protect(map.span(0, 1)).expect("it is protected");
        assert!(protected("self", map.page(0)), "{test}: {kind:?}");
        let with_event = features.contains(Features::EVENT_FORK);
        let reader = with_event.then(|| {
            let descriptor = descriptor.clone();
            std::thread::spawn(move || match next_event(&descriptor) {
                Event::Fork(child) => child,
                other => panic!("{other:?}"),
            })
        });
        let child = sleeping_child();
        let childs = reader.map(|reader| reader.join().expect("an event"));
        assert_eq!(protected(&child.to_string(), map.page(0)), with_event, "{test}: {kind:?}: the child");
        assert!(protected("self", map.page(0)), "{test}: {kind:?}: the parent");
        if let Some(childs) = &childs {
            childs.unprotect(map.span(0, 1), Mode::empty()).expect("the child's own");
            assert!(!protected(&child.to_string(), map.page(0)), "{test}: {kind:?}");
            assert!(protected("self", map.page(0)), "{test}: {kind:?}");
            // A missing page of the child's is filled by its descriptor, once it is registered for that.
            childs.unregister(map.range()).expect("the child's own");
        }
        descriptor.unprotect(map.span(0, 1), Mode::empty()).expect("it is not protected");
        assert!(!protected("self", map.page(0)));
        end(child);
        if let Some(childs) = childs {
            // Its process is gone, and that is said.
            let gone = childs.zeropage(map.span(1, 1), Mode::empty());
            assert_eq!(gone, stopped(Errno::NO_PROCESS), "{test}: {kind:?}");
        }
        drop(ring);
    }
}

#[test]
fn wp_fork() {
    if alone("wp_fork") {
        within(30, || fork_protected("wp_fork", Features::empty(), Pinned::No));
    }
}

#[test]
fn wp_fork_with_event() {
    if alone("wp_fork_with_event") {
        within(30, || fork_protected("wp_fork_with_event", Features::EVENT_FORK, Pinned::No));
    }
}

#[test]
fn wp_fork_pin() {
    if alone("wp_fork_pin") {
        within(30, || fork_protected("wp_fork_pin", Features::empty(), Pinned::Yes));
    }
}

#[test]
fn wp_fork_pin_with_event() {
    if alone("wp_fork_pin_with_event") {
        within(30, || fork_protected("wp_fork_pin_with_event", Features::EVENT_FORK, Pinned::Yes));
    }
}

// === wp-unpopulated

#[test]
fn wp_unpopulated() {
    within(30, || {
        let Some(descriptor) = descriptor(Features::WP_UNPOPULATED) else { return };
        let map = Mapped::anonymous(1);
        register(&descriptor, map.range(), Modes::PROTECT).expect("it is registered");
        let has = |yes: bool, when: &str| assert_eq!(protected("self", map.page(0)), yes, "{when}");
        descriptor.protect(map.range()).expect("a marker");
        has(true, "protected while it is not there");
        descriptor.unprotect(map.range(), Mode::empty()).expect("no marker");
        has(false, "not protected any more");
        descriptor.protect(map.range()).expect("a marker");
        advise(map.range(), libc::MADV_DONTNEED).expect("advice");
        has(false, "dropped with the marker");
        descriptor.protect(map.range()).expect("a marker");
        // SAFETY: the test's own memory.
        assert_eq!(unsafe { map.pointer().read_volatile() }, 0);
        has(true, "read: the page of zeroes is protected");
        advise(map.range(), libc::MADV_DONTNEED).expect("advice");
        has(false, "dropped with its page");
    });
}

/// Without that feature a page that is not there cannot be protected: why pages are installed protected.
#[test]
fn wp_of_a_hole_is_lost_without_the_feature() {
    let Some(descriptor) = descriptor(Features::PAGEFAULT_FLAG_WP) else { return };
    let map = Mapped::anonymous(1);
    register(&descriptor, map.range(), Modes::PROTECT | Modes::MISSING).expect("it is registered");
    descriptor.protect(map.range()).expect("nothing to protect");
    assert!(!protected("self", map.page(0)));
    let page = pattern(0, 0);
    assert!(descriptor.copy(map.address, page.as_ptr(), PAGE, Mode::PROTECTED).all());
    assert!(protected("self", map.page(0)));
}

// === minor

/// Pages of the file are changed by whoever serves, through the second view, and then mapped.
fn minor_faults(test: &str, modes: Modes, mode: Mode) -> Option<(Mapped, Mapped, Arc<Descriptor>)> {
    const PAGES: usize = 512;
    let extra = if modes.contains(Modes::PROTECT) { Features::WP_HUGETLBFS_SHMEM } else { Features::empty() };
    let descriptor = descriptor(Features::MINOR_SHMEM | extra)?;
    let map = Mapped::memfd(PAGES);
    let view = alias(&map);
    (0..PAGES).for_each(|page| write(view.page(page), &pattern(page, 0)));
    register(&descriptor, map.range(), modes).expect("it is registered");
    let (base, view_base) = (map.address, view.address);
    let (minors, writes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (minors.clone(), writes.clone());
    let handler = Handler::of_faults(descriptor.clone(), move |descriptor, fault| {
        let page = (page_of(&fault) - base) / PAGE;
        let span = page_of(&fault)..page_of(&fault) + PAGE;
        if fault.protected {
            counts.1.fetch_add(1, Ordering::Relaxed);
            descriptor.unprotect(span, Mode::empty()).expect("it may be written");
        } else {
            assert!(fault.minor, "{fault:?}");
            counts.0.fetch_add(1, Ordering::Relaxed);
            write(view_base + page * PAGE, &pattern(page, 1));
            assert!(descriptor.continue_(span.clone(), mode).all());
            assert_eq!(descriptor.continue_(span, mode), stopped(Errno::EXISTS), "twice");
        }
    });
    for page in 0..PAGES {
        assert!(read(map.page(page)) == pattern(page, 1), "{test}: page {page}");
        write(map.page(page), &pattern(page, 2));
    }
    drop(handler);
    assert_eq!(minors.load(Ordering::Relaxed), PAGES);
    assert_eq!(writes.load(Ordering::Relaxed), if mode.contains(Mode::PROTECTED) { PAGES } else { 0 });
    for page in 0..PAGES {
        assert!(read(view.page(page)) == pattern(page, 2), "{test}: page {page} of the file");
    }
    Some((map, view, descriptor))
}

#[test]
fn minor() {
    within(60, || {
        let Some((map, view, descriptor)) = minor_faults("minor", Modes::MINOR, Mode::empty()) else { return };
        // What is not in the file cannot be mapped from it.
        advise(view.span(3, 1), libc::MADV_REMOVE).expect("a hole");
        assert_eq!(descriptor.continue_(map.span(3, 1), Mode::empty()), stopped(Errno::FAULT));
    });
}

#[test]
fn minor_wp() {
    within(60, || {
        minor_faults("minor-wp", Modes::MINOR | Modes::PROTECT, Mode::PROTECTED);
    });
}

#[test]
fn minor_collapse() {
    within(60, || {
        let Some((map, _view, _descriptor)) = minor_faults("minor-collapse", Modes::MINOR, Mode::empty()) else {
            return;
        };
        // A range that is registered for minor faults is collapsed by nobody but on request, and keeps its bytes.
        const COLLAPSE: i32 = 25;
        let aligned = map.address.next_multiple_of(512 * PAGE);
        if aligned + 512 * PAGE <= map.range().end
            && let Err(error) = advise(aligned..aligned + 512 * PAGE, COLLAPSE)
        {
            assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EAGAIN | libc::ENOMEM)), "{error}");
        }
        (0..512).for_each(|page| assert!(read(map.page(page)) == pattern(page, 2), "page {page}"));
    });
}

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
            assert!(readable(&descriptor, 2000), "{kind:?}: no event came");
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
            assert!(readable(&descriptor, 2000), "no event came");
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

// === what the scans say (the layer's own)

/// Which pages were written since they were protected, without a fault for any.
#[test]
fn asynchronous_protection_tells_what_was_written() {
    within(30, || {
        for kind in KINDS {
            let Some(descriptor) = descriptor(Features::WP_ASYNC) else { return };
            let map = memory(kind, 64);
            register(&descriptor, map.range(), Modes::MISSING | Modes::PROTECT).expect("it is registered");
            assert!(descriptor.zeropage(map.range(), Mode::empty()).all());
            descriptor.protect(map.range()).expect("it is protected");
            let page_map = PageMap::open().expect("/proc");
            let written = |protect: bool| {
                let question = Question { all: Categories::WRITTEN, protect, ..Question::default() };
                let mut pages = Vec::new();
                page_map
                    .scan(map.range(), question, &mut |run, _| {
                        pages.extend((run.start - map.address) / PAGE..(run.end - map.address) / PAGE);
                    })
                    .expect("a scan");
                pages
            };
            assert_eq!(written(true), [0; 0], "{kind:?}");
            for page in [0, 7, 8, 63] {
                write(map.page(page), &pattern(page, 1));
            }
            assert_eq!(written(false), [0, 7, 8, 63], "{kind:?}");
            assert_eq!(written(true), [0, 7, 8, 63], "{kind:?}");
            assert_eq!(written(true), [0; 0], "{kind:?}: protected again in the same step");
            assert!(!readable(&descriptor, 0), "{kind:?}: a write raised an event");
        }
    });
}
