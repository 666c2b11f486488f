//! Who serves faults: the faulting thread, threads of ours, a loop of the embedder; and what the world around does to them.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;
mod support;

use served::*;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::skip;
use zspool::compress::Codecs;
use zspool::guest::service::{AlternateStack, sigbus};
use zspool::guest::{
    Engine, Error, FaultAround, FaultKind, Follow, MappingChange, Service, ThreadOptions, Vm, VmOptions,
};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

fn engine() -> Engine {
    let codecs = Codecs::builtin().with(Tricky).unwrap();
    let zswap = Zswap::builder().pool_limit(128 << 20).codecs(codecs).codec("tricky").build().unwrap();
    Engine::builder(zswap).evictor(false).build().unwrap()
}

fn vm(engine: &Engine, name: &str, options: VmOptions) -> Result<Vm, Error> {
    engine.vm(&engine.root().mkdir(name).unwrap(), options)
}

/// Who was woken is through before the handler that woke it is: a moment later all words are at rest.
fn valid(region: &zspool::guest::Region) {
    std::thread::sleep(Duration::from_millis(50));
    region.assert_valid();
}

/// Each page by a fault of its own.
fn alone(options: VmOptions) -> VmOptions {
    options.fault_around(FaultAround::Off)
}

fn threads(count: usize) -> VmOptions {
    VmOptions::new().service(Service::Threads(ThreadOptions::new(count)))
}

/// Threads that serve the kernel's accesses too. `None`, said aloud, where that is not permitted.
fn privileged(test: &str, engine: &Engine, options: VmOptions) -> Option<Vm> {
    match vm(engine, test, options.kernel_faults(true)) {
        Ok(vm) => Some(vm),
        Err(Error::Userfaultfd(why)) => {
            assert!(why.contains("vm.unprivileged_userfaultfd"), "{why}");
            skip(test, "userfaultfd that serves the kernel's accesses is not permitted");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Serves a VM in a loop until it is told to stop.
fn serve(vm: Vm, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut served = 0;
        while !stop.load(Ordering::SeqCst) {
            let mut fd = libc::pollfd { fd: vm.fd().unwrap().as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor.
            if unsafe { libc::poll(&mut fd, 1, 10) } > 0 {
                served += vm.service().unwrap();
            }
        }
        served
    })
}

/// Four threads check and rewrite their own quarters while everything is taken out again and again.
fn work(vm: &Vm, mapping: &Mapping, rounds: u64) {
    let quarter = mapping.pages() / 4;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn(move || {
                    let pages = n * quarter..(n + 1) * quarter;
                    for round in 1..=rounds {
                        mapping.check(pages.clone(), round);
                        mapping.write(pages.clone(), round + 1);
                    }
                })
            })
            .collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            vm.evict_all();
        }
    });
    mapping.check(0..4 * quarter, rounds + 1);
}

#[test]
fn each_service_serves_what_threads_touch() {
    let services: [(&str, VmOptions); 5] = [
        ("in_thread", VmOptions::new()),
        ("one", threads(1)),
        ("three", threads(3)),
        ("external", VmOptions::new().service(Service::External)),
        ("followed", threads(2).follow(Follow::Mappings)),
    ];
    for (name, options) in services {
        within_a_minute(move || {
            let engine = engine();
            let vm = vm(&engine, name, options).unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let serving = vm.fd().is_some().then(|| serve(vm.clone(), Arc::clone(&stop)));
            assert_eq!(serving.is_some(), name == "external");
            let mapping = Mapping::new(400);
            mapping.write(0..400, 1);
            let region = mapping.register(&vm);
            work(&vm, &mapping, 5);
            valid(&region);
            vm.evict_all();
            assert!(mapping.present() < 400);
            region.unregister().unwrap();
            mapping.check(0..400, 6);
            stop.store(true, Ordering::SeqCst);
            if let Some(serving) = serving {
                assert!(serving.join().unwrap() > 0);
            }
            assert_eq!(vm.memcg().current(Counter::Memory), 0);
            assert_eq!(vm.service_stats().panics, 0);
        });
    }
}

#[test]
fn a_loop_serves_only_a_vm_made_for_it() {
    let engine = engine();
    let vm = vm(&engine, "vm", threads(1)).unwrap();
    assert!(vm.fd().is_none());
    assert!(vm.service().unwrap_err().to_string().contains("Service::External"));
}

#[test]
fn system_calls_on_pages_that_are_out_wait_for_handlers_with_permission() {
    within_a_minute(|| {
        let engine = engine();
        let test = "system_calls_on_pages_that_are_out_wait_for_handlers_with_permission";
        let Some(vm) = privileged(test, &engine, threads(1)) else { return };
        let mapping = Mapping::new(64);
        mapping.write(0..64, 1);
        let region = mapping.register(&vm);
        vm.evict_all();
        let (copied, errno) = write_through_a_file(&mapping, 64);
        assert_eq!((copied, errno), (64 * PAGE, 0));
        // Back from the file: the kernel writes to pages that are out.
        vm.evict_all();
        let other = Mapping::new(64);
        other.write(0..64, 2);
        let mut file = tempfile::tempfile().unwrap();
        use std::io::{Read, Seek, Write};
        // SAFETY: the test's own bytes.
        file.write_all(unsafe { std::slice::from_raw_parts(other.at(0).cast::<u8>(), other.bytes) }).unwrap();
        file.rewind().unwrap();
        // SAFETY: the test's own bytes, of which nobody else knows.
        file.read_exact(unsafe { std::slice::from_raw_parts_mut(mapping.at(0).cast::<u8>(), mapping.bytes) }).unwrap();
        mapping.check(0..64, 2);
        valid(&region);
    });
}

/// Have the kernel read so many pages. Bytes written, and what stopped it.
fn write_through_a_file(mapping: &Mapping, pages: usize) -> (usize, i32) {
    let file = tempfile::tempfile().unwrap();
    // SAFETY: the mapping's bytes.
    let written = unsafe { libc::write(file.as_raw_fd(), mapping.at(0).cast(), pages * PAGE) };
    match usize::try_from(written) {
        Ok(bytes) => (bytes, 0),
        Err(_) => (0, std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

#[test]
fn without_permission_system_calls_on_pages_that_are_out_fail_until_they_are_brought_in() {
    for options in [VmOptions::new(), threads(1)] {
        within_a_minute(move || {
            let engine = engine();
            let vm = vm(&engine, "vm", options).unwrap();
            let mapping = Mapping::new(64);
            mapping.write(0..64, 1);
            let region = mapping.register(&vm);
            vm.evict_all();
            assert_eq!(write_through_a_file(&mapping, 64), (0, libc::EFAULT));
            let pin = region.pin(0..mapping.bytes).unwrap();
            vm.evict_all();
            assert_eq!(write_through_a_file(&mapping, 64), (64 * PAGE, 0));
            drop(pin);
            vm.evict_all();
            mapping.check(0..64, 1);
        });
    }
}

#[test]
fn engines_and_vms_beside_each_other_serve_their_own() {
    within_a_minute(|| {
        let engines = [engine(), engine()];
        let mut vms = Vec::new();
        for (n, engine) in engines.iter().enumerate() {
            for (m, options) in [VmOptions::new(), VmOptions::new(), threads(1)].into_iter().enumerate() {
                let vm = vm(engine, &format!("vm{m}"), options).unwrap();
                let mappings = [Mapping::new(100), Mapping::new(100)];
                mappings.iter().for_each(|mapping| mapping.write(0..100, 1));
                let regions: Vec<_> = mappings.iter().map(|mapping| mapping.register(&vm)).collect();
                vms.push((n, vm, mappings, regions));
            }
        }
        std::thread::scope(|scope| {
            for (_, vm, mappings, _) in &vms {
                for mapping in mappings {
                    scope.spawn(|| work(vm, mapping, 2));
                }
            }
        });
        // One engine goes; the other's are served still.
        let mut left: Vec<_> = Vec::new();
        for (n, vm, mappings, regions) in vms {
            if n == 0 {
                vm.evict_all();
                drop(regions);
                mappings.iter().for_each(|mapping| mapping.check(0..100, 3));
            } else {
                left.push((vm, mappings, regions));
            }
        }
        for (vm, mappings, regions) in &left {
            vm.evict_all();
            mappings.iter().for_each(|mapping| mapping.check(0..100, 3));
            regions.iter().for_each(valid);
        }
        drop(left);
        engines.iter().for_each(|engine| engine.zswap().assert_valid());
    });
}

#[test]
fn a_service_is_stopped_and_another_started_on_the_same_memory() {
    within_a_minute(|| {
        let mapping = Mapping::new(200);
        mapping.write(0..200, 1);
        let engine = engine();
        for round in 0..12 {
            let options = [VmOptions::new(), threads(1), threads(4), threads(2).follow(Follow::Discards)];
            let vm = vm(&engine, &format!("vm{round}"), options[round % 4].clone()).unwrap();
            let region = mapping.register(&vm);
            vm.evict_all();
            mapping.check(0..100, 1);
            if round % 2 == 0 {
                region.unregister().unwrap()
            } else {
                drop(region)
            }
            assert_eq!(vm.memcg().current(Counter::Memory), 0);
        }
        mapping.check(0..200, 1);
    });
}

#[test]
fn a_handler_that_panics_is_replaced_and_the_fault_served_again() {
    let name = "a_handler_that_panics_is_replaced_and_the_fault_served_again";
    let output = in_a_process(name, || {
        for options in [VmOptions::new(), threads(1), threads(3)] {
            let engine = engine();
            let vm = vm(&engine, "vm", alone(options)).unwrap();
            let mapping = Mapping::new(200);
            mapping.write(0..200, 1);
            let region = mapping.register(&vm);
            vm.evict_all();
            for page in (0..200).step_by(40) {
                PANICS.store(3, Ordering::SeqCst);
                mapping.check(page..page + 40, 1);
                assert_eq!(PANICS.load(Ordering::SeqCst), 0);
            }
            valid(&region);
        }
    });
    well(&output.unwrap());
}

#[test]
fn where_nobody_can_serve_a_fault_the_process_ends_with_a_sentence() {
    let name = "where_nobody_can_serve_a_fault_the_process_ends_with_a_sentence";
    let output = in_a_process(name, || {
        let engine = engine();
        let vm = vm(&engine, "vm", threads(2)).unwrap();
        let mapping = Mapping::new(20);
        mapping.write(0..20, 1);
        let _region = mapping.register(&vm);
        vm.evict_all();
        PANICS.store(u32::MAX, Ordering::SeqCst);
        mapping.check(0..20, 1);
    })
    .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", said(&output));
    assert!(said(&output).contains("zspool: a handler of page faults panicked 16 times in a row"), "{}", said(&output));
}

#[test]
fn where_the_faulting_thread_cannot_serve_itself_the_process_ends_with_a_sentence() {
    let name = "where_the_faulting_thread_cannot_serve_itself_the_process_ends_with_a_sentence";
    let output = in_a_process(name, || {
        let engine = engine();
        let vm = vm(&engine, "vm", VmOptions::new()).unwrap();
        let mapping = Mapping::new(20);
        mapping.write(0..20, 1);
        let _region = mapping.register(&vm);
        vm.evict_all();
        PANICS.store(u32::MAX, Ordering::SeqCst);
        mapping.check(0..20, 1);
    })
    .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", said(&output));
    assert!(said(&output).contains("panicked 16 times in a row"), "{}", said(&output));
}

// === What was there before us ===

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

fn read(address: usize) -> u8 {
    // SAFETY: mapped; what the access comes to is what is tested.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

/// Registered memory, all of it out.
fn out(options: VmOptions) -> (Engine, Vm, Mapping, zspool::guest::Region) {
    let engine = engine();
    let vm = vm(&engine, "vm", options).unwrap();
    let mapping = Mapping::new(100);
    mapping.write(0..100, 1);
    let region = mapping.register(&vm);
    vm.evict_all();
    (engine, vm, mapping, region)
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

// === Other processes ===

#[test]
fn programs_are_started_and_exec_works_while_memory_is_out() {
    let output = in_a_process("programs_are_started_and_exec_works_while_memory_is_out", || {
        for options in [VmOptions::new(), threads(1).follow(Follow::Mappings)] {
            let (_engine, vm, mapping, region) = out(options);
            for _ in 0..10 {
                // The library spawns without a fork where nothing asks for one.
                assert!(Command::new("true").status().unwrap().success());
                vm.evict_all();
                mapping.check(0..100, 1);
            }
            // What is out is not in a child; what was never shared leaves as before.
            // SAFETY: nothing is done there.
            let forked = unsafe { Command::new("true").pre_exec(|| Ok(())).status() };
            assert!(forked.unwrap().success());
            vm.evict_all();
            assert_eq!(mapping.present(), 0, "registered memory is not in children, so forks leave it alone");
            mapping.check(0..100, 1);
            valid(&region);
        }
        let (_engine, _vm, mapping, _region) = out(threads(2));
        mapping.check(0..10, 1);
        panic!("{}", Command::new("true").exec());
    });
    well(&output.unwrap());
}

// === Mappings that change behind our back ===

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

#[test]
fn a_thousand_ranges_come_and_go() {
    let output = in_a_process("a_thousand_ranges_come_and_go", || {
        let engine = engine();
        for (name, count, options) in [("in_thread", 1000, VmOptions::new()), ("threads", 50, threads(1))] {
            let vm = vm(&engine, name, options).unwrap();
            let all = Mapping::new(3 * count);
            let mut regions: Vec<_> = (0..count)
                .map(|n| {
                    all.write(3 * n..3 * n + 2, 1);
                    let memory = zspool::guest::memory::Memory::anonymous(all.at(3 * n).cast(), 2 * PAGE);
                    // SAFETY: mapped until all regions are gone.
                    Some(unsafe { vm.register(memory) }.unwrap())
                })
                .collect();
            assert_eq!(vm.regions().len(), count);
            vm.evict_all();
            assert_eq!(all.present(), 0);
            for n in (0..count).step_by(2) {
                regions[n].take().unwrap().unregister().unwrap();
            }
            for n in 0..count {
                all.check(3 * n..3 * n + 2, 1);
            }
            drop(regions);
            assert_eq!((vm.regions().len(), vm.memcg().current(Counter::Memory)), (0, 0));
        }
    });
    well(&output.unwrap());
}

#[test]
fn sixty_four_gib_mostly_untouched_cost_what_is_used() {
    within_a_minute(|| {
        const PAGES: usize = (64 << 30) / PAGE;
        let engine = engine();
        let vm = vm(&engine, "vm", VmOptions::new()).unwrap();
        let mapping = Mapping::new(PAGES);
        let before = anonymous_bytes();
        let started = Instant::now();
        let region = mapping.register(&vm);
        let registered = anonymous_bytes() - before;
        // A thousand pages, all over it.
        let used: Vec<usize> = (0..1000).map(|n| n * (PAGES / 1000) + n).collect();
        used.iter().for_each(|&page| mapping.write(page..page + 1, 1));
        vm.evict_all();
        let out = anonymous_bytes() - before;
        used.iter().for_each(|&page| mapping.check(page..page + 1, 1));
        assert_eq!(vm.memcg().current(Counter::Memory), 1000 * PAGE as u64);
        drop(region);
        eprintln!(
            "64 GiB: {registered} bytes when registered, {out} when 1000 scattered pages are out, {:?}",
            started.elapsed()
        );
        assert!(registered < 1 << 20, "{registered} bytes for registering");
        // At worst each has a page of words, of slot words, of links and of entries to itself, and its compressed bytes.
        assert!(out < 1000 * 6 * PAGE as i64, "{out} bytes for 1000 pages");
    });
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
        // Only the first call may take long: the minute would not do for so many.
        for version in 1..200 {
            mapping.write(0..PAGES, version);
            // SAFETY: pages of the test's.
            assert_eq!(unsafe { libc::madvise(mapping.start as *mut libc::c_void, PAGES * PAGE, libc::MADV_FREE) }, 0);
            mapping.write(0..PAGES, version + 1000);
            vm.evict_all();
            mapping.check(0..PAGES, version + 1000);
        }
        valid(&region);
        region.unregister().unwrap();
    });
}

/// Memory that is touched for the first time in order comes by windows, and takes nothing but charges before it is written.
#[test]
fn memory_that_is_touched_in_order_comes_by_windows_and_scattered_pages_alone() {
    within_a_minute(|| {
        const PAGES: usize = 2048;
        let engine = engine();
        for (options, most) in
            [(VmOptions::new(), 100), (VmOptions::new().fault_around(FaultAround::Off), PAGES as u64)]
        {
            let vm = vm(&engine, &format!("vm{most}"), options).unwrap();
            let mapping = Mapping::new(PAGES);
            let region = mapping.register(&vm);
            mapping.write(0..PAGES, 1);
            let stats = vm.stats();
            let faults = stats.faults_of(FaultKind::Absent).count();
            assert!(faults <= most && (most < PAGES as u64 || faults == most), "{faults} of {PAGES} pages were faults");
            assert_eq!(stats.resident, (PAGES * PAGE) as u64);
            // Thrown away, with every ninth page touched again: nothing is next to it.
            region.discard(0..PAGES * PAGE).unwrap();
            (0..PAGES).step_by(9).for_each(|page| mapping.write(page..page + 1, 2));
            assert_eq!(vm.stats().resident, (PAGES.div_ceil(9) * PAGE) as u64);
            // At a limit of as much as there is, nothing leaves for zeroes that nobody asked for.
            vm.memcg().write_file("memory.max", &vm.stats().resident.to_string()).unwrap();
            mapping.write(1..2, 2);
            mapping.check(1..2, 2);
            assert!(vm.memcg().current(Counter::Memory) <= (PAGES.div_ceil(9) * PAGE) as u64);
            assert_eq!(vm.memcg().overshoot(), 0);
            region.unregister().unwrap();
            (0..PAGES).step_by(9).for_each(|page| mapping.check(page..page + 1, 2));
        }
    });
}

/// Anonymous memory of this process, the kernel's word.
fn anonymous_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<i64>().unwrap() * 1024
}
