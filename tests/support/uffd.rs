//! What tests of userfaultfd need: memory, a watchdog, a thread that serves faults.
#![allow(dead_code, unreachable_pub)] // each test uses some of it

use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use zspool::guest::uffd::{Ask, Descriptor, Done, Errno, Error, Event, Fault, Features, Ioctls, Mode, Modes};

pub const PAGE: usize = 4096;
/// Milliseconds for which an event is waited that must come: long, as the machine may be busy, and shorter than the watchdog.
pub const WAIT: i32 = 15_000;

/// Run `body` on a thread of its own, and panic when it takes longer than `seconds`: a lost wake-up is a failure, not a hang.
pub fn within<R: Send + 'static>(seconds: u64, body: impl FnOnce() -> R + Send + 'static) -> R {
    let (tell, told) = mpsc::channel();
    let name = std::thread::current().name().unwrap_or("a test").to_owned(); // what a skip says
    let body = move || {
        let result = body();
        let _ = tell.send(());
        result
    };
    let thread = std::thread::Builder::new().name(name).spawn(body).expect("a thread");
    match told.recv_timeout(Duration::from_secs(seconds)) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not done after {seconds} s: somebody waits for ever"),
    }
}

/// Whether this is the process that a test has to itself; if not, run the test again in one, and see it pass. For what changes the whole
/// process: limits, forks (whose children have the memory of all tests).
pub fn alone(test: &str) -> bool {
    if std::env::var("ZSPOOL_TEST_ALONE").as_deref() == Ok(test) {
        return true;
    }
    let me = std::env::current_exe().expect("a path");
    let output = std::process::Command::new(me)
        .args(["--exact", test, "--nocapture"])
        .env("ZSPOOL_TEST_ALONE", test)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    print!("{text}"); // for who asks for what tests print
    false
}

/// A mapping, unmapped when dropped.
pub struct Mapped {
    pub address: usize,
    pub bytes: usize,
    pub file: Option<OwnedFd>,
}

impl Mapped {
    pub fn with(bytes: usize, protection: i32, flags: i32, file: Option<OwnedFd>, offset: usize) -> Mapped {
        let fd = file.as_ref().map_or(-1, |file| file.as_raw_fd());
        // SAFETY: a new mapping wherever the kernel likes.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset as libc::off_t) };
        assert_ne!(address, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Mapped { address: address as usize, bytes, file }
    }

    /// Private anonymous memory.
    pub fn anonymous(pages: usize) -> Mapped {
        Mapped::with(
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            None,
            0,
        )
    }

    /// A memfd of so many pages, mapped shared.
    pub fn memfd(pages: usize) -> Mapped {
        let file = memfd(pages, 0);
        Mapped::with(pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, Some(file), 0)
    }

    pub fn pointer(&self) -> *mut u8 {
        self.address as *mut u8
    }

    pub fn range(&self) -> Range<usize> {
        self.address..self.address + self.bytes
    }

    pub fn page(&self, page: usize) -> usize {
        assert!(page * PAGE < self.bytes);
        self.address + page * PAGE
    }

    pub fn span(&self, first: usize, pages: usize) -> Range<usize> {
        self.address + first * PAGE..self.address + (first + pages) * PAGE
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: our own mapping, or what is left of it.
        unsafe { libc::munmap(self.address as *mut _, self.bytes) };
    }
}

pub fn memfd(pages: usize, flags: u32) -> OwnedFd {
    // SAFETY: takes a name and flags.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC | flags) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: nobody else knows it.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: changes the size of our own file.
    assert_eq!(unsafe { libc::ftruncate(fd, (pages * PAGE) as libc::off_t) }, 0);
    file
}

/// Call `madvise`.
pub fn advise(range: Range<usize>, advice: i32) -> std::io::Result<()> {
    // SAFETY: tests advise about memory of theirs.
    if unsafe { libc::madvise(range.start as *mut _, range.len(), advice) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// The bytes that page `number` has in its version `version`: they shrink to an eighth or so, as pages do that are worth taking out.
pub fn pattern(number: usize, version: u64) -> [u8; PAGE] {
    let noise = noise(number, version);
    let mut page = [0; PAGE];
    for (at, chunk) in page.chunks_exact_mut(64).enumerate() {
        chunk.as_chunks_mut::<8>().0.fill(*noise[at * 8..].first_chunk().expect("eight bytes"));
    }
    page
}

/// Bytes that do not shrink.
pub fn noise(number: usize, version: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut word =
        (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version.wrapping_mul(0xD134_2543_DE82_EF95) | 1;
    for chunk in page.chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    page
}

/// Read a page as a program does.
pub fn read(address: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (at, byte) in page.iter_mut().enumerate() {
        // SAFETY: the test mapped the page.
        *byte = unsafe { ((address + at) as *const u8).read_volatile() };
    }
    page
}

/// Write a page as a program does.
pub fn write(address: usize, page: &[u8; PAGE]) {
    for (at, byte) in page.iter().enumerate() {
        // SAFETY: the test mapped the page.
        unsafe { ((address + at) as *mut u8).write_volatile(*byte) };
    }
}

/// A thread that reads a descriptor's events and hands them out, until it is dropped.
pub struct Handler {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handler {
    /// `serve` is called for each event. The descriptor must be nonblocking.
    pub fn new(descriptor: Arc<Descriptor>, mut serve: impl FnMut(&Descriptor, Event) + Send + 'static) -> Handler {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut events: [Event; 8] = std::array::from_fn(|_| Event::None);
            while !stopped.load(Ordering::Relaxed) {
                if !readable(&descriptor, 20) {
                    continue;
                }
                let count = descriptor.read_events(&mut events).expect("events are read");
                for event in &mut events[..count] {
                    serve(&descriptor, std::mem::take(event));
                }
            }
        });
        Handler { stop, thread: Some(thread) }
    }

    /// One that only serves faults.
    pub fn of_faults(descriptor: Arc<Descriptor>, serve: impl Fn(&Descriptor, Fault) + Send + 'static) -> Handler {
        Handler::new(descriptor, move |descriptor, event| match event {
            Event::Fault(fault) => serve(descriptor, fault),
            other => panic!("{other:?}"),
        })
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("once").join();
        if !std::thread::panicking() {
            ended.expect("the handler is well");
        }
    }
}

/// Whether an event is there within so many milliseconds.
pub fn readable(descriptor: &Descriptor, milliseconds: i32) -> bool {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, borrowed for the call.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
}

/// The next event, which must come.
pub fn next_event(descriptor: &Descriptor) -> Event {
    assert!(readable(descriptor, WAIT), "no event came");
    let mut event = [Event::None];
    assert_eq!(descriptor.read_events(&mut event), Ok(1));
    let [event] = event;
    event
}

/// A nonblocking descriptor with `features`, for faults in user mode alone: every user may have one.
pub fn descriptor(features: Features) -> Option<Arc<Descriptor>> {
    ask(Ask { features, nonblocking: true, ..Ask::default() })
}

/// A descriptor, or `None`, said aloud, where the kernel has none or not such a one.
pub fn ask(ask: Ask) -> Option<Arc<Descriptor>> {
    match Descriptor::open(ask) {
        Ok(descriptor) => Some(Arc::new(descriptor)),
        Err(error) => {
            let test = std::thread::current().name().unwrap_or("a test of userfaultfd").to_owned();
            crate::support::skip(&test, &error.to_string());
            None
        }
    }
}

/// Fork, by the bare system call; 0 in the child, which must call nothing but system calls.
///
/// libc's `fork` holds the allocator's locks while it runs. Where a fork waits for its event to be read, a reader that allocates anything
/// before it reads would wait for the fork.
pub fn fork() -> i32 {
    // SAFETY: no flags but the signal at the child's end: a plain fork.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } as i32;
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: the child ends with the thread that made it, whatever becomes of that one's test.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    child
}

/// A child that does nothing until it is ended.
pub fn sleeping_child() -> i32 {
    let child = fork();
    if child == 0 {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    child
}

/// End a child and wait for its end.
pub fn end(child: i32) {
    // SAFETY: our own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
}

/// The two kinds of memory that guests have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Anon,
    Shmem,
}

pub const KINDS: [Kind; 2] = [Kind::Anon, Kind::Shmem];

pub fn memory(kind: Kind, pages: usize) -> Mapped {
    match kind {
        Kind::Anon => Mapped::anonymous(pages),
        Kind::Shmem => Mapped::memfd(pages),
    }
}

/// A second view of a memfd's mapping.
pub fn alias(map: &Mapped) -> Mapped {
    use std::os::fd::AsFd;
    let file = map.file.as_ref().expect("its file").as_fd().try_clone_to_owned().expect("a descriptor");
    Mapped::with(map.bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, Some(file), 0)
}

pub fn register(descriptor: &Descriptor, range: std::ops::Range<usize>, modes: Modes) -> Result<Ioctls, Error> {
    // SAFETY: memory of the test's, which it serves itself.
    unsafe { descriptor.register(range, modes) }
}

/// Move pages of the test's own.
pub fn mov(descriptor: &Descriptor, to: usize, from: usize, pages: usize, mode: Mode) -> Done {
    // SAFETY: memory of the test's.
    unsafe { descriptor.mov(to, from, pages * PAGE, mode) }
}

pub fn page_of(fault: &Fault) -> usize {
    fault.address & !(PAGE - 1)
}

pub fn stopped(errno: Errno) -> Done {
    Done { bytes: 0, stopped: Some(errno) }
}
