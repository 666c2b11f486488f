//! Readers and handlers on real descriptors, with a desk that fills pages with a pattern.

use super::gate::Closed;
use super::gate::Gate;
use super::reader::Parking;
use super::reader::{Idle, Reader};
use super::source::Source;
use super::threads::{Handlers, ThreadOptions};
use super::watch::Watch;
use super::*;
use crate::guest::uffd::{Ask, Descriptor, Fault, Features, Mode, Modes};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Fills each page with its address, says Again and panics on cue, and notes what it is told.
struct Patterns {
    descriptor: Arc<Descriptor>,
    gate: Option<Gate>,
    parking: Parking,
    memory: Range<usize>,
    again: AtomicU32,
    panics: AtomicU32,
    sleep: Duration,
    faults: AtomicUsize,
    told: Mutex<Vec<String>>,
}

impl Desk for Patterns {
    fn source(&self) -> &dyn Source {
        &*self.descriptor
    }
    fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }
    fn answer(&self, fault: Fault) -> Answer {
        self.faults.fetch_add(1, Ordering::SeqCst);
        if !self.memory.contains(&fault.address) {
            return Answer::Stranger;
        }
        let take =
            |count: &AtomicU32| count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if take(&self.panics) {
            panic!("on cue");
        }
        if take(&self.again) {
            return Answer::Again;
        }
        std::thread::sleep(self.sleep);
        let page = fault.address & !(PAGE_SIZE - 1);
        let bytes = [page; PAGE_SIZE / 8];
        let done = self.descriptor.copy(page, bytes.as_ptr().cast(), PAGE_SIZE, Mode::empty());
        match done.stopped.map(|errno| errno.0) {
            None => Answer::Served,
            Some(libc::EEXIST) => {
                self.descriptor.wake(page..page + PAGE_SIZE).unwrap();
                Answer::Served
            }
            Some(libc::EAGAIN) => Answer::Again,
            other => panic!("{other:?}"),
        }
    }
    fn follow(&self, change: &mut Option<Change>, _closed: &mut [Option<Closed>; 2]) -> bool {
        self.told.lock().unwrap().push(format!("{:?}", change.take().unwrap()));
        true
    }
    fn stranger(&self, fault: Fault) -> bool {
        self.told.lock().unwrap().push(format!("stranger {:#x}", fault.address));
        true
    }
    fn parking(&self) -> &Parking {
        &self.parking
    }
    fn state(&self, _address: usize) -> &'static str {
        "being filled"
    }
}

/// So many pages, registered, with a desk. `None`, said aloud, where the kernel refuses.
fn patterns(pages: usize, features: Features, gate: bool) -> Option<Patterns> {
    let kernel = !features.is_empty();
    let ask = Ask { user_mode_only: !kernel, features, nonblocking: gate, ..Ask::default() };
    let descriptor = match Descriptor::open(ask) {
        Ok(descriptor) => Arc::new(descriptor),
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let bytes = pages * PAGE_SIZE;
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    let memory = at.addr()..at.addr() + bytes;
    // SAFETY: ours, and touched by these tests alone.
    unsafe { descriptor.register(memory.clone(), Modes::MISSING) }.unwrap();
    Some(Patterns {
        descriptor,
        gate: gate.then(Gate::new),
        parking: Parking::new(),
        memory,
        again: AtomicU32::new(0),
        panics: AtomicU32::new(0),
        sleep: Duration::ZERO,
        faults: AtomicUsize::new(0),
        told: Mutex::new(Vec::new()),
    })
}

/// The first word of a page.
fn touch(memory: &Range<usize>, page: usize) -> usize {
    let address = memory.start + page * PAGE_SIZE;
    assert!(memory.contains(&address));
    // SAFETY: mapped, and any bytes are a number.
    unsafe { ptr::with_exposed_provenance::<usize>(address).read_volatile() }
}

/// Fail where `f` hangs.
fn watched<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = f();
        tell.send(()).unwrap();
        result
    });
    match told.recv_timeout(Duration::from_secs(20)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap(),
    }
}

/// Touch all pages from several threads and check them.
fn touch_all(desk: &Arc<Patterns>) {
    let pages = desk.memory.len() / PAGE_SIZE;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let memory = &desk.memory;
            scope.spawn(move || {
                for page in 0..pages {
                    let page = (page * 7 + thread * 13) % pages;
                    assert_eq!(touch(memory, page), memory.start + page * PAGE_SIZE);
                }
            });
        }
    });
}

fn start(desk: Patterns, options: ThreadOptions) -> (Arc<Patterns>, Handlers<Patterns>) {
    let desk = Arc::new(desk);
    let handlers = Handlers::start(Arc::clone(&desk), &desk.descriptor, &options).unwrap();
    (desk, handlers)
}

#[test]
fn handlers_serve_what_threads_touch_and_end_when_told() {
    for (count, gate) in [(1, false), (3, false), (1, true), (3, true)] {
        watched(move || {
            let Some(desk) = patterns(256, Features::empty(), gate) else { return };
            let (desk, handlers) = start(desk, ThreadOptions::new(count).cores([0]));
            touch_all(&desk);
            assert!(desk.faults.load(Ordering::SeqCst) >= 256);
            drop(handlers);
            let (desk2, handlers) = start(patterns(8, Features::empty(), gate).unwrap(), ThreadOptions::new(count));
            drop(handlers); // at once: nothing was served
            assert_eq!(desk2.told.lock().unwrap().len(), 0);
        });
    }
}

#[test]
fn what_cannot_be_served_now_is_parked_and_served_later() {
    for (count, gate) in [(1, false), (2, false), (1, true), (2, true)] {
        watched(move || {
            let Some(mut desk) = patterns(64, Features::empty(), gate) else { return };
            desk.again = AtomicU32::new(50);
            let (desk, handlers) = start(desk, ThreadOptions::new(count));
            let begun = Instant::now();
            touch_all(&desk);
            assert_eq!(desk.again.load(Ordering::SeqCst), 0);
            assert!(begun.elapsed() < Duration::from_secs(5));
            // SAFETY: asks for flags.
            let nonblocking =
                || unsafe { libc::fcntl(desk.descriptor.as_raw_fd(), libc::F_GETFL) } & libc::O_NONBLOCK != 0;
            // Whoever had something parked says so a moment after it was served.
            let wait = Instant::now();
            while nonblocking() != gate && wait.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
            assert_eq!(nonblocking(), gate, "reads wait again");
            drop(handlers);
        });
    }
}

#[test]
fn a_handler_that_panics_goes_on_at_the_same_fault() {
    watched(|| {
        let Some(mut desk) = patterns(64, Features::empty(), false) else { return };
        desk.panics = AtomicU32::new(7);
        let (desk, handlers) = start(desk, ThreadOptions::new(1));
        touch_all(&desk);
        assert_eq!(handlers.panics(), 7);
        drop(handlers);
    });
}

#[test]
fn a_handler_that_cannot_answer_its_bell_now_does_not_end() {
    for _ in 0..40 {
        watched(|| {
            let Some(desk) = patterns(1, Features::EVENT_REMOVE, false) else { return };
            let (desk, handlers) = start(desk, ThreadOptions::new(1));
            let (at, stop) = (desk.memory.start, Arc::new(AtomicU32::new(0)));
            let theirs = Arc::clone(&stop);
            let thread = std::thread::spawn(move || {
                while theirs.load(Ordering::Relaxed) == 0 {
                    // SAFETY: the memory is this test's. Once the descriptor is closed nobody is told.
                    unsafe { libc::madvise(ptr::with_exposed_provenance_mut(at), PAGE_SIZE, libc::MADV_DONTNEED) };
                }
            });
            std::thread::sleep(Duration::from_millis(1));
            drop(handlers); // while the mapping is changing more often than not: EAGAIN
            stop.store(1, Ordering::Relaxed);
            drop(desk);
            thread.join().unwrap();
        });
    }
}

/// `mremap` raises two changes one after the other. Where the second is followed first, what was out of the range is dropped before it could
/// be moved, and reads as zeroes at its new address.
#[test]
fn changes_are_followed_in_the_order_of_their_reads_whoever_read_them() {
    watched(|| {
        let Some(desk) = patterns(8, Features::EVENT_UNMAP | Features::EVENT_REMAP, true) else { return };
        let (desk, memory, half) = (&desk, desk.memory.clone(), desk.memory.len() / 2);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping.
        let place = unsafe { libc::mmap(ptr::null_mut(), half, libc::PROT_NONE, flags, -1, 0) }.expose_provenance();
        let read = |reader: &mut Reader| while reader.take(desk, Idle::Poll).unwrap() == 0 {};
        let mut readers = [(); 2].map(|()| Reader::new(2, Arc::new(Watch::default())));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                let [from, to] = [memory.start, place].map(ptr::with_exposed_provenance_mut::<libc::c_void>);
                // SAFETY: the memory is this test's, and so is the place.
                assert_eq!(unsafe { libc::mremap(from, half, half, flags, to) }, to);
            });
            readers.iter_mut().for_each(read);
            let [first, second] = &mut readers;
            let second = scope.spawn(|| second.follow(desk));
            std::thread::sleep(Duration::from_millis(50));
            assert!(desk.told.lock().unwrap().is_empty() && !second.is_finished(), "it waits for what was read before");
            first.follow(desk);
            second.join().unwrap();
        });
        let moved = Change::Moved { from: memory.start, to: place, bytes: half };
        let unmapped = Change::Unmapped(memory.start..memory.start + half);
        assert_eq!(*desk.told.lock().unwrap(), [format!("{moved:?}"), format!("{unmapped:?}")]);
    });
}

#[test]
fn changes_are_followed_before_faults_and_their_threads_wait_until_then() {
    for (count, gate) in [(1, false), (2, true)] {
        watched(move || {
            let features = Features::EVENT_REMOVE | Features::EVENT_UNMAP | Features::EVENT_REMAP;
            let Some(desk) = patterns(64, features, gate) else { return };
            let (desk, handlers) = start(desk, ThreadOptions::new(count));
            touch_all(&desk);
            let memory = desk.memory.clone();
            std::thread::scope(|scope| {
                // A flood: each madvise waits until it was read.
                for thread in 0..4 {
                    let memory = &memory;
                    scope.spawn(move || {
                        for round in 0..50 {
                            let page = memory.start + (thread * 16 + round % 16) * PAGE_SIZE;
                            let at = ptr::with_exposed_provenance_mut(page);
                            // SAFETY: the memory is this test's.
                            assert_eq!(unsafe { libc::madvise(at, PAGE_SIZE, libc::MADV_DONTNEED) }, 0);
                            assert_eq!(touch(memory, thread * 16 + round % 16), page, "filled anew");
                        }
                    });
                }
            });
            assert_eq!(desk.told.lock().unwrap().iter().filter(|told| told.starts_with("Removed(")).count(), 200);
            let (start, half) = (memory.start, memory.len() / 2);
            let at = ptr::with_exposed_provenance_mut(start);
            // A place of its own: what is mapped in the way of a fixed address goes, and may be another test's, whose readers are told then.
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new mapping.
            let place = unsafe { libc::mmap(ptr::null_mut(), half, libc::PROT_NONE, flags, -1, 0) };
            assert_ne!(place, libc::MAP_FAILED);
            // SAFETY: the memory is this test's, and so is the place.
            let moved = unsafe { libc::mremap(at, half, half, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, place) };
            assert_eq!(moved, place);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start + half), half) }, 0);
            let wait = Instant::now();
            while desk.told.lock().unwrap().len() < 203 && wait.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
            let told = desk.told.lock().unwrap();
            assert_eq!(told[200], format!("{:?}", Change::Moved { from: start, to: moved.addr(), bytes: half }));
            assert_eq!(
                told[201],
                format!("{:?}", Change::Unmapped(start..start + half)),
                "what is moved is unmapped as well"
            );
            assert_eq!(told[202], format!("{:?}", Change::Unmapped(start + half..start + 2 * half)));
            drop(told);
            drop(handlers);
        });
    }
}

#[test]
fn system_calls_are_served_by_handlers_with_permission() {
    watched(|| {
        let Some(desk) = patterns(4, Features::EVENT_REMOVE, false) else { return };
        let (desk, handlers) = start(desk, ThreadOptions::new(1));
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        let second = ptr::with_exposed_provenance(desk.memory.start + PAGE_SIZE);
        // SAFETY: a page of this test's memory.
        assert_eq!(unsafe { libc::write(ends[1], second, 4096) }, 4096);
        let mut got = [0usize; 512];
        // SAFETY: as many bytes.
        assert_eq!(unsafe { libc::read(ends[0], got.as_mut_ptr().cast(), 4096) }, 4096);
        assert_eq!(got, [desk.memory.start + PAGE_SIZE; 512]);
        drop(handlers);
    });
}

#[test]
fn a_handler_that_is_stuck_is_told_with_its_page_and_why() {
    watched(|| {
        let Some(mut desk) = patterns(4, Features::empty(), false) else { return };
        desk.sleep = Duration::from_millis(300);
        let (tell, told) = mpsc::channel();
        let options = ThreadOptions::new(2)
            .watchdog(Duration::from_millis(50))
            .on_stuck(move |stuck| tell.send(stuck.clone()).unwrap());
        let (desk, handlers) = start(desk, options);
        touch(&desk.memory, 2);
        let stuck = told.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(stuck.address, desk.memory.start + 2 * PAGE_SIZE);
        assert!(stuck.time >= Duration::from_millis(50));
        let expected = format!("page {:#x}, which is being filled; it ", stuck.address);
        assert!(stuck.why.contains(&expected) && stuck.why.contains("sleep"), "{}", stuck.why);
        drop(handlers);
        assert!(told.try_recv().is_err(), "once");
    });
}
