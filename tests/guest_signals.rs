//! Signals beside us: what the process did about SIGBUS before, pages that are lost, handlers and stacks of the program's.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;
mod support;

use served::*;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use zspool::guest::service::{AlternateStack, sigbus};
use zspool::guest::{Error, FaultAround, VmOptions};

static CALLS: AtomicU32 = AtomicU32::new(0);
static CALLED_FOR: AtomicUsize = AtomicUsize::new(0);

/// Install a handler of a signal's.
fn install(signal: i32, handler: usize, flags: i32) {
    // SAFETY: all zeroes are good values.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: a handler of this kind.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

/// Lets the access go ahead, by mapping memory there.
fn repair(address: usize) {
    let page = address & !(PAGE - 1);
    CALLS.fetch_add(1, Ordering::SeqCst);
    CALLED_FOR.store(address, Ordering::SeqCst);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let page = std::ptr::with_exposed_provenance_mut(page);
    // SAFETY: replaces a page that cannot be accessed, of the test's own.
    unsafe { libc::mmap(page, PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    set_errno(libc::EXDEV);
}

fn set_errno(value: i32) {
    // SAFETY: the thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { errno.write(value) };
}

extern "C" fn with_info(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    assert!(!context.is_null() && (signal == libc::SIGBUS || signal == libc::SIGSEGV));
    // SAFETY: the kernel's, for the time of the call.
    let info = unsafe { &*info };
    // SAFETY: these signals have an address.
    repair(unsafe { info.si_addr() }.addr());
}

static LAST_FILE_PAGE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn without_info(signal: i32) {
    assert_eq!(signal, libc::SIGBUS);
    repair(LAST_FILE_PAGE.load(Ordering::SeqCst));
}

/// A page of a file, behind its end: an access raises SIGBUS, which is none of ours.
fn page_behind_the_end() -> usize {
    let file = tempfile::tempfile().unwrap();
    let flags = libc::MAP_SHARED;
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    assert_ne!(page, libc::MAP_FAILED);
    LAST_FILE_PAGE.store(page.expose_provenance(), Ordering::SeqCst);
    page.addr()
}

#[test]
fn a_handler_before_us_gets_what_is_not_ours() {
    let output = in_a_process("a_handler_before_us_gets_what_is_not_ours", || {
        install(libc::SIGBUS, with_info as *const () as usize, libc::SA_SIGINFO);
        let (_engine, vm, mapping, region) = out(VmOptions::new());
        let errno = || std::io::Error::last_os_error().raw_os_error().unwrap();
        for _ in 0..3 {
            let page = page_behind_the_end();
            set_errno(libc::EDOM);
            assert_eq!(read(page + 100), 0);
            assert_eq!(errno(), libc::EDOM, "as the access found it");
            assert_eq!(CALLED_FOR.load(Ordering::SeqCst), page + 100);
            set_errno(libc::EDOM);
            mapping.check(0..100, 1);
            assert_eq!(errno(), libc::EDOM);
            vm.evict_all();
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 3, "for nothing else");
        // One that is sent has no address, and is the program's too. (The handler maps a page at 0, which is refused.)
        // SAFETY: a signal for ourselves.
        unsafe { libc::raise(libc::SIGBUS) };
        assert_eq!(CALLS.load(Ordering::SeqCst), 4);
        valid(&region);
    });
    well(&output.unwrap());
}

#[test]
fn a_handler_without_siginfo_before_us_gets_what_is_not_ours() {
    let output = in_a_process("a_handler_without_siginfo_before_us_gets_what_is_not_ours", || {
        install(libc::SIGBUS, without_info as *const () as usize, 0);
        let (_engine, _vm, mapping, _region) = out(VmOptions::new());
        assert_eq!(read(page_behind_the_end()), 0);
        mapping.check(0..100, 1);
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    });
    well(&output.unwrap());
}

#[test]
fn without_a_handler_before_us_the_process_ends_as_it_would_have() {
    for (name, ignored, sent) in [
        ("without_a_handler_before_us_the_process_ends_as_it_would_have", false, false),
        ("without_a_handler_before_us_the_process_ends_as_it_would_have", true, false),
        ("without_a_handler_before_us_the_process_ends_as_it_would_have", false, true),
        ("without_a_handler_before_us_the_process_ends_as_it_would_have", true, true),
    ] {
        // The process inside takes its case from the environment.
        if std::env::var("ZSPOOL_TEST_CASE").is_err() || std::env::var("ZSPOOL_TEST_INSIDE").is_err() {
            // SAFETY: this test alone reads and writes it.
            unsafe { std::env::set_var("ZSPOOL_TEST_CASE", format!("{ignored} {sent}")) };
        }
        let output = in_a_process(name, || {
            let case = std::env::var("ZSPOOL_TEST_CASE").unwrap();
            let handler = if case.starts_with("true") { libc::SIG_IGN } else { libc::SIG_DFL };
            install(libc::SIGBUS, handler, 0);
            let (_engine, _vm, mapping, _region) = out(VmOptions::new());
            mapping.check(0..50, 1);
            if case.ends_with("true") {
                // SAFETY: a signal for ourselves.
                unsafe { libc::raise(libc::SIGBUS) };
            } else {
                read(page_behind_the_end());
            }
            mapping.check(0..100, 1);
        })
        .unwrap();
        let ended = (!(ignored && sent)).then_some(libc::SIGBUS);
        assert_eq!(output.status.signal(), ended, "{ignored} {sent}: {}", said(&output));
    }
}

#[test]
fn a_page_that_is_lost_goes_to_the_handler_before_us() {
    let output = in_a_process("a_page_that_is_lost_goes_to_the_handler_before_us", || {
        install(libc::SIGBUS, with_info as *const () as usize, libc::SA_SIGINFO);
        let (_engine, vm, mapping, region) = out(VmOptions::new().fault_around(FaultAround::Off));
        DAMAGES.store(1, Ordering::SeqCst);
        // The handler maps other memory over the lost page, so that the access goes ahead.
        assert_eq!(read(mapping.at(7).addr() + 5), 0);
        assert_eq!((CALLS.load(Ordering::SeqCst), CALLED_FOR.load(Ordering::SeqCst)), (1, mapping.at(7).addr() + 5));
        mapping.check(0..7, 1);
        mapping.check(8..100, 1);
        std::mem::forget((vm, region)); // a part of it is not registered any more
        std::process::exit(0);
    });
    well(&output.unwrap());
}

#[test]
fn no_signal_of_the_program_is_handled_by_who_owns_pages() {
    let zswap = zspool::zswap::Zswap::builder().pool_limit(1 << 20).build().unwrap();
    let engine = zspool::guest::Engine::builder(zswap).build().unwrap();
    let _vm = vm(&engine, "vm", threads(2)).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let since = std::time::Instant::now();
    // A thread names itself when it begins.
    while seen.len() < 2 {
        assert!(since.elapsed().as_secs() < 20, "of our threads there are {seen:?}");
        for task in std::fs::read_dir("/proc/self/task").unwrap() {
            // Threads of other tests come and go.
            let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else { continue };
            let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            let name = line("Name:");
            if name == "zspool-evictor" || name == "zspool-fault" {
                let blocked = u64::from_str_radix(&line("SigBlk:"), 16).unwrap();
                for signal in [libc::SIGALRM, libc::SIGUSR1, libc::SIGTERM] {
                    assert_ne!(blocked >> (signal - 1) & 1, 0, "{name} handles signal {signal}");
                }
                seen.insert(name);
            }
        }
    }
}

#[test]
fn a_page_that_was_lost_before_it_was_registered_goes_to_the_handler_before_us() {
    let output = in_a_process("a_page_that_was_lost_before_it_was_registered_goes_to_the_handler_before_us", || {
        install(libc::SIGBUS, with_info as *const () as usize, libc::SA_SIGINFO);
        let (_engine, vm, mapping, region) = out(alone(VmOptions::new()));
        region.make_resident(0..7 * PAGE).unwrap();
        region.make_resident(8 * PAGE..100 * PAGE).unwrap();
        DAMAGES.store(u32::MAX, Ordering::SeqCst);
        drop(region);
        DAMAGES.store(0, Ordering::SeqCst);
        let region = mapping.register(&vm);
        assert_eq!(vm.evict_all().pages, 99, "all but what cannot be moved");
        mapping.check(0..7, 1);
        assert_eq!(read(mapping.at(7).addr() + 5), 0);
        assert_eq!((CALLS.load(Ordering::SeqCst), CALLED_FOR.load(Ordering::SeqCst)), (1, mapping.at(7).addr() + 5));
        mapping.check(8..100, 1);
        std::mem::forget((vm, region)); // a part of it is not registered any more
        std::process::exit(0);
    });
    well(&output.unwrap());
}

/// A fault of this thread's that its handler learns of only now: the kernel sends such a signal to who asks for one of its own.
fn late_fault(address: usize) {
    const BUS_ADRERR: libc::c_int = 2;
    // SAFETY: all zeroes are good values.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    (info.si_signo, info.si_code) = (libc::SIGBUS, BUS_ADRERR);
    let behind_three_numbers = (&raw mut info).cast::<usize>().wrapping_add(2);
    // SAFETY: there the address is, aligned, of a structure that is larger.
    unsafe { behind_three_numbers.write(address) };
    // SAFETY: takes nothing.
    let (process, thread) = (std::process::id(), unsafe { libc::gettid() });
    // SAFETY: a signal for this thread, and what it is about.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, libc::SIGBUS, &raw const info) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_fault_from_before_its_page_was_registered_anew_is_made_again() {
    let output = in_a_process("a_fault_from_before_its_page_was_registered_anew_is_made_again", || {
        install(libc::SIGBUS, with_info as *const () as usize, libc::SA_SIGINFO);
        let (_engine, vm, mapping, region) = out(alone(VmOptions::new()));
        let addresses = [7, 99].map(|page| mapping.at(page).addr() + 5);
        let late = || addresses.into_iter().for_each(late_fault);
        late();
        assert_eq!(mapping.present(), 2, "served like any other");
        region.unregister().unwrap();
        late();
        // Our own already, and not yet the kernel's.
        let still = || {
            late();
            Some(())
        };
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register_if(mapping.memory(), still) }.unwrap();
        assert_eq!(CALLS.load(Ordering::SeqCst), 0, "no other handler was asked");
        late();
        region.assert_valid();
        assert_eq!(vm.evict_all().pages, 100);
        mapping.check(0..100, 1);
        assert_eq!(CALLS.load(Ordering::SeqCst), 0, "no other handler was asked");
        // What it is about is no memory of ours.
        late_fault(page_behind_the_end());
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    });
    well(&output.unwrap());
}

#[test]
fn a_page_that_is_lost_ends_the_process_with_a_sentence() {
    for (k, options) in [VmOptions::new(), threads(1)].into_iter().enumerate() {
        let name = "a_page_that_is_lost_ends_the_process_with_a_sentence";
        if std::env::var("ZSPOOL_TEST_INSIDE").is_err() {
            // SAFETY: this test alone reads and writes it.
            unsafe { std::env::set_var("ZSPOOL_TEST_THREADS", k.to_string()) };
        }
        drop(options);
        let output = in_a_process(name, || {
            let inside = std::env::var("ZSPOOL_TEST_THREADS").unwrap() == "1";
            let options = if inside { threads(1) } else { VmOptions::new() };
            let (_engine, _vm, mapping, _region) = out(alone(options));
            mapping.check(0..50, 1);
            DAMAGES.store(u32::MAX, Ordering::SeqCst);
            eprintln!("page {:#x}", mapping.at(60).addr());
            mapping.check(60..61, 1);
        })
        .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", said(&output));
        let page = said(&output).lines().find_map(|line| line.strip_prefix("page ").map(str::to_owned)).unwrap();
        assert!(
            said(&output).contains(&format!("zspool: the page at {page} cannot be read back")),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn pages_that_are_lost_are_told_once_and_counted_when_their_region_ends() {
    let output = in_a_process("pages_that_are_lost_are_told_once_and_counted_when_their_region_ends", || {
        let (_engine, _vm, mapping, region) = out(alone(VmOptions::new()));
        DAMAGES.store(u32::MAX, Ordering::SeqCst);
        region.make_resident(60 * PAGE..70 * PAGE).unwrap_err();
        DAMAGES.store(0, Ordering::SeqCst);
        region.unregister().unwrap();
        mapping.check(0..100, 1);
    })
    .unwrap();
    well(&output);
    let told = |words: &str| said(&output).matches(words).count();
    assert_eq!((told("cannot be read back"), told("could not be read back 10 times")), (1, 1), "{}", said(&output));
}

#[test]
fn a_handler_that_was_installed_after_ours_is_noticed_or_adopted() {
    let output = in_a_process("a_handler_that_was_installed_after_ours_is_noticed_or_adopted", || {
        extern "C" fn theirs(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
            CALLS.fetch_add(1, Ordering::SeqCst);
            // SAFETY: the kernel's arguments.
            if !unsafe { sigbus::handle(info, context) } {
                std::process::abort();
            }
        }
        let (engine, vm1, mapping, _region) = out(VmOptions::new());
        mapping.check(0..50, 1);
        // SAFETY: all zeroes are good values.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = theirs as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the set is ours.
        unsafe { libc::sigfillset(&mut action.sa_mask) };
        // SAFETY: a handler of this kind.
        assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) }, 0);
        let refused = vm(&engine, "second", VmOptions::new()).unwrap_err();
        assert!(matches!(refused, Error::SigbusTaken), "{refused}");
        assert!(refused.to_string().contains("adopt"));
        // SAFETY: it does call ours, and has the mask.
        unsafe { sigbus::adopt() };
        let vm2 = vm(&engine, "third", VmOptions::new()).unwrap();
        let second = Mapping::new(10);
        second.write(0..10, 1);
        let _region2 = second.register(&vm2);
        vm1.evict_all();
        vm2.evict_all();
        mapping.check(0..100, 1);
        second.check(0..10, 1);
        assert!(CALLS.load(Ordering::SeqCst) > 1);
        drop(vm1);
    });
    well(&output.unwrap());
}

#[test]
fn a_user_of_sigsegv_beside_us_gets_his_own() {
    let output = in_a_process("a_user_of_sigsegv_beside_us_gets_his_own", || {
        install(libc::SIGSEGV, with_info as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        let (_engine, vm, mapping, region) = out(VmOptions::new());
        // As runtimes have them: guard pages between memory that is used.
        let guards = Mapping::new(10);
        // SAFETY: the test's own.
        assert_eq!(unsafe { libc::mprotect(guards.at(0).cast(), guards.bytes, libc::PROT_NONE) }, 0);
        for page in 0..10 {
            assert_eq!(read(guards.at(page).addr() + page), 0);
            mapping.check(10 * page..10 * page + 10, 1);
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 10);
        vm.evict_all();
        mapping.check(0..100, 1);
        valid(&region);
    });
    well(&output.unwrap());
}

#[test]
fn signals_of_the_program_come_and_go_while_faults_are_served() {
    let output = in_a_process("signals_of_the_program_come_and_go_while_faults_are_served", || {
        extern "C" fn tick(_: i32) {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
        install(libc::SIGALRM, tick as *const () as usize, 0);
        let often = libc::timeval { tv_sec: 0, tv_usec: 300 };
        let timer = libc::itimerval { it_interval: often, it_value: often };
        // SAFETY: a good timer.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }, 0);
        for options in [VmOptions::new(), threads(2)] {
            let engine = engine();
            let vm = vm(&engine, "vm", options).unwrap();
            let mapping = Mapping::new(400);
            mapping.write(0..400, 1);
            let region = mapping.register(&vm);
            work(&vm, &mapping, 4);
            valid(&region);
        }
        assert!(CALLS.load(Ordering::Relaxed) > 10);
    });
    well(&output.unwrap());
}

#[test]
fn threads_with_roomy_small_and_no_alternate_stacks_are_served() {
    within_a_minute(|| {
        let (_engine, vm, mapping, _region) = out(VmOptions::new());
        for kind in 0..3 {
            vm.evict_all();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // The library gives its threads a small one.
                    let roomy = (kind == 1).then(|| AlternateStack::for_this_thread().unwrap());
                    if kind == 2 {
                        // SAFETY: all zeroes are good values.
                        let mut none: libc::stack_t = unsafe { std::mem::zeroed() };
                        none.ss_flags = libc::SS_DISABLE;
                        // SAFETY: none from here on.
                        assert_eq!(unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) }, 0);
                    }
                    mapping.check(0..100, 1);
                    drop(roomy);
                });
            });
        }
    });
}
