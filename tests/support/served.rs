//! What tests of guest memory share: mappings with known bytes, a watchdog, tests in processes of their own, a codec that fails on cue, VMs that use it.
#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this one

use std::io;
use std::ops::Range;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use zspool::compress::{Codec, CodecId, Codecs, Compressed, Context, Corrupt, Lz4};
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, Error, FaultAround, Region, Service, ThreadOptions, Vm, VmOptions};
use zspool::units::PAGE_SIZE;
use zspool::zswap::{Builder, Zswap};

pub const PAGE: usize = 4096;

/// Anonymous memory of a test's, unmapped in the end.
#[derive(Debug)]
pub struct Mapping {
    pub start: usize,
    pub bytes: usize,
}

impl Mapping {
    pub fn new(pages: usize) -> Mapping {
        let bytes = pages * PAGE;
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping, wherever there is room.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Mapping { start: start.expose_provenance(), bytes }
    }

    pub fn pages(&self) -> usize {
        self.bytes / PAGE
    }

    pub fn at(&self, page: usize) -> *mut u64 {
        assert!(page < self.pages());
        std::ptr::with_exposed_provenance_mut(self.start + page * PAGE)
    }

    pub fn memory(&self) -> Memory {
        Memory::anonymous(self.at(0).cast(), self.bytes)
    }

    pub fn register(&self, vm: &Vm) -> Region {
        // SAFETY: the mapping outlives the region; what tests change about it they say.
        unsafe { vm.register(self.memory()) }.unwrap()
    }

    /// Write something that differs from page to page and compresses to about a quarter.
    pub fn write(&self, pages: Range<usize>, version: u64) {
        for page in pages {
            for (k, word) in bytes_of(page, version).enumerate() {
                // SAFETY: inside the mapping; the test says who else uses it.
                unsafe { self.at(page).wrapping_add(k).write_volatile(word) };
            }
        }
    }

    /// Whether pages are what was written.
    pub fn is(&self, pages: Range<usize>, version: u64) -> bool {
        pages.into_iter().all(|page| {
            // SAFETY: inside the mapping; the test says who else uses it.
            bytes_of(page, version)
                .enumerate()
                .all(|(k, word)| word == unsafe { self.at(page).wrapping_add(k).read_volatile() })
        })
    }

    #[track_caller]
    pub fn check(&self, pages: Range<usize>, version: u64) {
        for page in pages {
            assert!(self.is(page..page + 1, version), "page {page} is not what was written as version {version}");
        }
    }

    #[track_caller]
    pub fn check_zero(&self, pages: Range<usize>) {
        for page in pages {
            // SAFETY: inside the mapping; the test says who else uses it.
            let zero = (0..512).all(|k| unsafe { self.at(page).wrapping_add(k).read_volatile() } == 0);
            assert!(zero, "page {page} does not read as zeroes");
        }
    }

    /// Whether the kernel can read a page: it says no where a thread would be given SIGBUS.
    pub fn can_be_read(&self, page: usize) -> bool {
        use std::os::fd::AsRawFd;
        let (_reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the kernel looks at a byte of the mapping, or says that it cannot.
        unsafe { libc::write(writer.as_raw_fd(), self.at(page).cast(), 1) == 1 }
    }

    /// Zeroes everywhere.
    pub fn clear(&self) {
        // SAFETY: inside the mapping; the test says who else uses it.
        unsafe { self.at(0).cast::<u8>().write_bytes(0, self.bytes) };
    }

    /// Pages in memory, from outside.
    pub fn present(&self) -> usize {
        let mut map = vec![0u8; self.pages()];
        // SAFETY: the vector has a byte for each page.
        assert_eq!(unsafe { libc::mincore(self.at(0).cast(), self.bytes, map.as_mut_ptr()) }, 0);
        map.iter().filter(|&&byte| byte & 1 != 0).count()
    }

    /// Whether a page is in memory.
    pub fn is_present(&self, page: usize) -> bool {
        let mut byte = 0u8;
        // SAFETY: asks about one page and writes one byte.
        assert_eq!(unsafe { libc::mincore(self.at(page).cast(), PAGE, &raw mut byte) }, 0);
        byte & 1 != 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours; what was registered is not any more.
        unsafe { libc::munmap(self.at(0).cast(), self.bytes) };
    }
}

/// A memfd, and a mapping of all of it.
pub fn memfd(pages: usize) -> (Mapping, std::os::fd::OwnedFd) {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: makes a new descriptor.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: new, and nobody else has it.
    let file = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    let bytes = pages * PAGE;
    // SAFETY: makes the file larger.
    assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), bytes as i64) }, 0);
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping, wherever there is room.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED);
    (Mapping { start: start.expose_provenance(), bytes }, file)
}

/// The words of a page that compresses to about a quarter.
pub fn bytes_of(page: usize, version: u64) -> impl Iterator<Item = u64> {
    words(page, version, 4)
}

/// Words that differ from page to page, of which one in so many is noise.
pub fn words(page: usize, version: u64, one_in: u64) -> impl Iterator<Item = u64> {
    let mut x = (page as u64) << 20 | version << 1 | 1;
    (0..PAGE as u64 / 8).map(move |k| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if k % one_in == 0 { x } else { k / 16 }
    })
}

/// A hang is a failure.
pub fn within_a_minute<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = test();
        let _ = done.send(());
        result
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => {
            eprintln!("the test hangs: somebody was not woken");
            std::process::abort();
        }
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Wait for what others bring about.
#[track_caller]
pub fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let started = Instant::now();
    while !seen() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Run a test of this binary in a process of its own: what it does to signals, or how it ends, is of no other test. In that process, `inside` is
/// run and the process ends with 0 behind it. `name` is the test's.
pub fn in_a_process(name: &str, inside: impl FnOnce() + Send + 'static) -> Option<Output> {
    in_a_process_with(name, &[], inside)
}

/// The same, with variables of the environment.
pub fn in_a_process_with(
    name: &str,
    variables: &[(&str, &str)],
    inside: impl FnOnce() + Send + 'static,
) -> Option<Output> {
    const INSIDE: &str = "ZSPOOL_TEST_INSIDE";
    if std::env::var(INSIDE).is_ok_and(|test| test == name) {
        within_a_minute(inside);
        std::process::exit(0);
    }
    let output = Command::new(std::env::current_exe().unwrap())
        // One that is ignored was asked for.
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    Some(output)
}

/// It ended well.
#[track_caller]
pub fn well(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, said(output));
}

/// What it said on standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// LZ4 that fails to decompress on cue: for the whole process.
pub struct Tricky;

/// So many times it panics.
pub static PANICS: AtomicU32 = AtomicU32::new(0);
/// So many times it finds damage.
pub static DAMAGES: AtomicU32 = AtomicU32::new(0);
/// It takes so many milliseconds.
pub static MILLIS: AtomicU32 = AtomicU32::new(0);

impl Codec for Tricky {
    fn id(&self) -> CodecId {
        CodecId::new(9)
    }
    fn name(&self) -> &'static str {
        "tricky"
    }
    fn compress<'c>(&self, context: &'c mut Context, page: &[u8; PAGE_SIZE]) -> Compressed<'c> {
        Lz4.compress(context, page)
    }
    fn decompress(&self, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        let take =
            |count: &AtomicU32| count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        std::thread::sleep(Duration::from_millis(MILLIS.load(Ordering::SeqCst).into()));
        if take(&PANICS) {
            panic!("on cue");
        }
        if take(&DAMAGES) {
            return Err(Corrupt::Malformed { codec: "tricky", len: bytes.len() });
        }
        Lz4.decompress(bytes, out)
    }
}

// === VMs ===

/// An engine whose codec fails on cue, and that evicts when it is asked.
pub fn engine() -> Engine {
    engine_over(tricky())
}

/// A store whose codec fails on cue.
pub fn tricky() -> Builder {
    let codecs = Codecs::builtin().with(Tricky).unwrap();
    Zswap::builder().pool_limit(128 << 20).codecs(codecs).codec("tricky")
}

/// An engine over such a store, that evicts when it is asked.
pub fn engine_over(builder: Builder) -> Engine {
    Engine::builder(builder.build().unwrap()).evictor(false).build().unwrap()
}

/// One of its VMs.
///
/// # Errors
/// What the kernel refuses.
pub fn vm(engine: &Engine, name: &str, options: VmOptions) -> Result<Vm, Error> {
    engine.vm(&engine.root().mkdir(name).unwrap(), options)
}

/// Who was woken is through before the handler that woke it is: a moment later all words are at rest.
pub fn valid(region: &Region) {
    std::thread::sleep(Duration::from_millis(50));
    region.assert_valid();
}

/// Each page by a fault of its own.
pub fn alone(options: VmOptions) -> VmOptions {
    options.fault_around(FaultAround::Off)
}

/// Served by so many threads.
pub fn threads(count: usize) -> VmOptions {
    VmOptions::new().service(Service::Threads(ThreadOptions::new(count)))
}

/// Four threads check and rewrite their own quarters while everything is taken out again and again.
pub fn work(vm: &Vm, mapping: &Mapping, rounds: u64) {
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

/// Registered memory, all of it out.
pub fn out(options: VmOptions) -> (Engine, Vm, Mapping, Region) {
    let engine = engine();
    let vm = vm(&engine, "vm", options).unwrap();
    let mapping = Mapping::new(100);
    mapping.write(0..100, 1);
    let region = mapping.register(&vm);
    vm.evict_all();
    (engine, vm, mapping, region)
}

/// The byte at an address.
pub fn read(address: usize) -> u8 {
    // SAFETY: mapped; what the access comes to is what is tested.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}
