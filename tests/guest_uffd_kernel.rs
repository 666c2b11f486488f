//! The cases of the kernel's `uffd-unit-tests` and of LTP's userfaultfd01 to 07 that have a meaning for guest memory, by name, on our layer:
//! those about registering, moving and write protection. From `sigbus` on they are in `guest_uffd_events.rs`.
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
use std::sync::atomic::{AtomicUsize, Ordering};
use uffd::*;
use zspool::guest::uffd::{
    Ask, Categories, Descriptor, Done, Entry, Errno, Error, Event, Features, Fresh, Ioctls, Mode, Modes, PageMap,
    Question, Way,
};

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
