//! Forks that follow each other, by a thread that holds the allocator's lock while it waits until the fork was read of; other threads fault at a
//! limit meanwhile, and children end.
//!
//! The C library's malloc is like that, and so are others; but whether its lock is asked for depends on what is cached. This one always is.
#![cfg(all(feature = "guest", target_os = "linux"))]

#[path = "support/forked.rs"]
mod forked;
#[path = "support/served.rs"]
mod served;
mod support;

use forked::*;
use served::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use zspool::guest::{Engine, FaultAround, Service, ThreadOptions, VmOptions};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

/// An allocator with one lock, which is taken for a fork.
struct Locked;

static LOCK: AtomicBool = AtomicBool::new(false);

fn lock() {
    while LOCK.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
}

extern "C" fn before_fork() {
    lock();
}

extern "C" fn after_fork() {
    LOCK.store(false, Ordering::Release);
}

// SAFETY: the system's allocator, used by one thread at a time.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        lock();
        // SAFETY: the caller's.
        let block = unsafe { System.alloc(layout) };
        after_fork();
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        lock();
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) };
        after_fork();
    }
}

#[global_allocator]
static ALLOCATOR: Locked = Locked;

#[test]
fn nobody_whom_a_fork_waits_for_wants_the_lock_of_who_forks() {
    let name = "nobody_whom_a_fork_waits_for_wants_the_lock_of_who_forks";
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    if u64::from_str_radix(caps.trim(), 16).unwrap() >> 19 & 1 == 0 {
        return support::skip(name, "events of forks need CAP_SYS_PTRACE");
    }
    let output = in_a_process(name, || {
        // SAFETY: the three are there for as long as the process.
        assert_eq!(unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) }, 0);
        let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build().unwrap()).unwrap();
        let memcg = engine.root().mkdir("vm").unwrap();
        memcg.set_max(Counter::Memory, 200 * PAGE as u64).unwrap();
        let options = VmOptions::new().service(Service::Threads(ThreadOptions::new(1))).children(true);
        let vm = engine.vm(&memcg, options.fault_around(FaultAround::Off)).unwrap();
        let mapping = Mapping::new(600);
        mapping.write(0..600, 1);
        // SAFETY: the mapping outlives the region.
        let region = unsafe { vm.register(mapping.memory().keep_on_fork()) }.unwrap();
        region.evict(0..600 * PAGE);
        let mut ends = [0; 2];
        // SAFETY: room for two.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // One that has the pages as they are now, to the end: each store into a slot of theirs moves its copy apart.
        let long = fork(|| {
            let mut byte = 0u8;
            // SAFETY: a byte.
            unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) };
            i32::from(!mapping.is(0..600, 1))
        });
        let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let version = u64::from(rounds.load(Ordering::Relaxed)) + 1;
                    mapping.check(0..600, version);
                    mapping.write(0..600, version + 1);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            // Some of them end while others are born.
            let (started, mut forks) = (Instant::now(), 0);
            while started.elapsed() < Duration::from_millis(1500) || rounds.load(Ordering::Relaxed) < 3 {
                assert_eq!(wait(fork(|| 0)), 0);
                forks += 1;
                // Each keeps all pages where they are until its child is born: without a pause the writer gets nowhere.
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(forks > 3, "{forks}");
        });
        // SAFETY: a byte.
        assert_eq!(unsafe { libc::write(ends[1], b"!".as_ptr().cast(), 1) }, 1);
        assert_eq!(wait(long), 0);
        mapping.check(0..600, u64::from(rounds.load(Ordering::Relaxed)) + 1);
        region.unregister().unwrap();
    });
    if let Some(output) = output {
        well(&output);
    }
}
