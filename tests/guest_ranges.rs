//! Ranges of memory: a thousand of them, one of 64 GiB, one that is touched in order.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/served.rs"]
mod served;
mod support;

use served::*;
use std::time::Instant;
use zspool::guest::{FaultAround, FaultKind, VmOptions};
use zspool::memcg::Counter;

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

/// Whether the kernel has the mapping that begins at an address registered for missing pages.
fn is_registered(address: usize) -> bool {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (_, mapping) = smaps.split_once(&format!("\n{address:x}-")).expect("it is mapped");
    let flags = mapping.lines().find(|line| line.starts_with("VmFlags")).expect("each has flags");
    flags.split_ascii_whitespace().any(|flag| flag == "um")
}

#[test]
fn what_is_not_what_it_was_any_more_is_not_registered() {
    let output = in_a_process("what_is_not_what_it_was_any_more_is_not_registered", || {
        let engine = engine();
        let vm = vm(&engine, "vm", VmOptions::new()).unwrap();
        let mapping = Mapping::new(4);
        mapping.write(0..4, 1);
        let memory = || zspool::guest::memory::Memory::anonymous(mapping.at(0).cast(), 4 * PAGE);
        // SAFETY: mapped until the region is gone.
        let refused = unsafe { vm.register_if(memory(), || None::<()>) }.unwrap_err();
        assert!(matches!(refused, zspool::guest::Error::Changed { .. }), "{refused}");
        assert_eq!((vm.regions().len(), vm.memcg().current(Counter::Memory)), (0, 0));
        // What is held, is held before the kernel knows, and until it does.
        let known = std::cell::Cell::new(None);
        struct Held<'a>(&'a std::cell::Cell<Option<bool>>, usize);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.set(Some(is_registered(self.1)));
            }
        }
        let address = mapping.at(0).addr();
        let still = || (!is_registered(address)).then(|| Held(&known, address));
        // SAFETY: as above.
        let region = unsafe { vm.register_if(memory(), still) }.unwrap();
        assert_eq!((known.get(), vm.memcg().current(Counter::Memory)), (Some(true), 4 * PAGE as u64));
        drop(region);
        mapping.check(0..4, 1);
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
