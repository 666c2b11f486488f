//! Who serves faults: the faulting thread, threads of ours, a loop of the embedder.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;
mod support;

use served::*;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::skip;
use zspool::guest::{Engine, Error, Follow, Service, Vm, VmOptions};
use zspool::memcg::Counter;

/// Threads that serve the kernel's accesses too. `None`, said aloud, where that is not permitted.
fn privileged(test: &str, engine: &Engine, options: VmOptions) -> Option<Vm> {
    match vm(engine, test, options.kernel_faults(true)) {
        Ok(vm) => Some(vm),
        Err(Error::Userfaultfd(why)) => {
            assert!(why.to_string().contains("vm.unprivileged_userfaultfd"), "{why}");
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

/// A process in which each fault panics.
fn panics_each_time(name: &str, options: VmOptions) -> std::process::Output {
    in_a_process(name, || {
        let engine = engine();
        let vm = vm(&engine, "vm", options).unwrap();
        let mapping = Mapping::new(20);
        mapping.write(0..20, 1);
        let _region = mapping.register(&vm);
        vm.evict_all();
        PANICS.store(u32::MAX, Ordering::SeqCst);
        mapping.check(0..20, 1);
    })
    .unwrap()
}

#[test]
fn where_nobody_can_serve_a_fault_the_process_ends_with_a_sentence() {
    let output = panics_each_time("where_nobody_can_serve_a_fault_the_process_ends_with_a_sentence", threads(2));
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", said(&output));
    assert!(said(&output).contains("zspool: a handler of page faults panicked 16 times in a row"), "{}", said(&output));
}

#[test]
fn where_the_faulting_thread_cannot_serve_itself_the_process_ends_with_a_sentence() {
    let name = "where_the_faulting_thread_cannot_serve_itself_the_process_ends_with_a_sentence";
    let output = panics_each_time(name, VmOptions::new());
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{}", said(&output));
    assert!(said(&output).contains("panicked 16 times in a row"), "{}", said(&output));
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
