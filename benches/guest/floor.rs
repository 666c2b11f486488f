//! Floors: what a fault, a run and a page cost when nothing is kept in order around them.
//!
//! ```text
//!   exception      int3, handler, sigreturn: under any design that serves the fault in its thread
//!   COPY, MOVE 64  the system calls alone
//!   LZ4            these pages, from cold memory; back into a page in L1
//!   bare fault     SIGBUS, LZ4 of an object in a log, COPY: no index that changes, no allocator, no charge, nothing freed
//! ```
//!
//! What the crate adds to the bare fault is its own work per fault.

use super::clock::Clock;
use super::mapping::Mapping;
use super::raw::{Handler, Raw};
use super::samples::Samples;
use super::swapper::{RUN, Swapper};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicPtr, Ordering};
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::units::{PAGE_SIZE, Page};

/// Pages compressed one behind the other.
pub(crate) struct Log {
    bytes: Vec<u8>,
    /// Where page k begins and how long it is: raw pages are as long as a page.
    objects: Vec<(usize, usize)>,
}

impl Log {
    pub(crate) fn new(pages: usize) -> Self {
        let mut bytes = vec![1; pages * PAGE_SIZE]; // touched, so that no fault of ours is measured
        bytes.clear();
        Log { bytes, objects: vec![(0, 0); pages] }
    }

    /// Append a page, compressed if it shrinks.
    pub(crate) fn compress(&mut self, context: &mut Context, k: usize, page: &[u8; PAGE_SIZE]) {
        let bytes = match Lz4.compress(context, page) {
            Compressed::Bytes(bytes) => bytes,
            Compressed::Incompressible => page,
        };
        self.objects[k] = (self.bytes.len(), bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Copy a page out.
    pub(crate) fn take(&self, k: usize, to: &mut [u8; PAGE_SIZE]) {
        let (start, len) = self.objects[k];
        let bytes = &self.bytes[start..][..len];
        match <&[u8; PAGE_SIZE]>::try_from(bytes) {
            Ok(raw) => *to = *raw,
            Err(_) => Lz4.decompress(bytes, to).expect("what was compressed a moment ago"),
        }
    }
}

/// Faults served by the least there can be.
pub(crate) struct Bare {
    shared: Box<Shared>,
    context: UnsafeCell<Context>,
    handler: UnsafeCell<Option<Handler>>,
}

struct Shared {
    raw: Raw,
    mapping: Mapping,
    /// Where runs lie while they are compressed.
    shadow: Mapping,
    log: UnsafeCell<Log>,
    /// Stays in L1, as a good pager's would.
    bounce: UnsafeCell<[u8; PAGE_SIZE]>,
}

/// Whose faults the handler serves.
static SERVED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: set while the handler is installed, and lives as long.
    let shared = unsafe { &*SERVED.load(Ordering::Acquire) };
    // SAFETY: what the kernel hands to a handler lives as long as that runs.
    let info = unsafe { &*info };
    // SAFETY: the kernel fills in the address of a SIGBUS.
    let address = unsafe { info.si_addr() } as usize;
    let k = (address - shared.mapping.page(0) as usize) / PAGE_SIZE;
    shared.bring(k);
}

impl Shared {
    fn bring(&self, k: usize) {
        // SAFETY: one thread uses all of this.
        let log = unsafe { &*self.log.get() };
        // SAFETY: as above.
        let bounce = unsafe { &mut *self.bounce.get() };
        log.take(k, bounce);
        // SAFETY: a page of the mapping that is registered.
        unsafe { self.raw.copy(self.mapping.page(k), bounce.as_ptr(), 1) }.expect("the page is missing");
    }
}

impl Bare {
    pub(crate) fn new(input: &[Page]) -> Result<Self, String> {
        let raw = Raw::new()?;
        let mapping = Mapping::of(input);
        let shadow = Mapping::new(RUN);
        raw.register(&mapping);
        raw.register(&shadow);
        let log = UnsafeCell::new(Log::new(input.len()));
        let bounce = UnsafeCell::new([1; PAGE_SIZE]);
        let shared = Box::new(Shared { raw, mapping, shadow, log, bounce });
        Ok(Bare { shared, context: UnsafeCell::new(Context::new()), handler: UnsafeCell::new(None) })
    }
}

impl Swapper for Bare {
    fn name(&self) -> &'static str {
        "bare fault"
    }

    fn mapping(&self) -> &Mapping {
        &self.shared.mapping
    }

    fn turn(&self, begins: bool) {
        let shared: *const Shared = &*self.shared;
        SERVED.store(shared.cast_mut(), Ordering::Release);
        // SAFETY: the handler uses what `SERVED` names, which lives until the turn ends.
        let handler = begins.then(|| unsafe { Handler::install(libc::SIGBUS, on_sigbus) });
        // SAFETY: one thread takes turns.
        unsafe { *self.handler.get() = handler };
    }

    fn begin_out(&self) {
        // SAFETY: one thread uses all of this.
        unsafe { (*self.shared.log.get()).bytes.clear() };
    }

    fn out(&self, first: usize, pages: usize) {
        let Shared { raw, mapping, shadow, log, .. } = &*self.shared;
        // SAFETY: one thread uses all of this.
        let log = unsafe { &mut *log.get() };
        // SAFETY: as above.
        let context = unsafe { &mut *self.context.get() };
        // SAFETY: the shadow is registered; one thread knows the pages, and looks for them there.
        unsafe { raw.mov(shadow.page(0), mapping.page(first), pages) }.expect("all are there, and the shadow is empty");
        for k in 0..pages {
            // SAFETY: a page that was just moved there.
            let page = unsafe { &*shadow.page(k).cast::<[u8; PAGE_SIZE]>() };
            log.compress(context, first + k, page);
        }
        shadow.advise(0, pages, libc::MADV_DONTNEED).expect("our own pages");
    }

    fn bring(&self, first: usize, pages: usize) {
        (first..first + pages).for_each(|k| self.shared.bring(k));
    }
}

// === alone ===

extern "C" fn on_trap(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// An exception, its handler and the way back, without a fault on memory. `None` where there is no way to write it.
pub(crate) fn exception(clock: &Clock, times: usize) -> Option<Samples> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the handler does nothing.
        let _handler = unsafe { Handler::install(libc::SIGTRAP, on_trap) };
        // SAFETY: raises SIGTRAP, whose handler returns behind the instruction.
        let trap = || unsafe { std::arch::asm!("int3") };
        Some((0..times).map(|_| clock.time(trap)).collect())
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (clock, times, on_trap);
        None
    }
}

/// The cheapest system call there is.
pub(crate) fn syscall(clock: &Clock, times: usize) -> Samples {
    // SAFETY: reads a number of this process.
    (0..times).map(|_| clock.time(|| _ = unsafe { libc::syscall(libc::SYS_getppid) })).collect()
}

/// COPY of one page from L1 into a hole, per page.
pub(crate) fn copy(clock: &Clock, pages: usize) -> Result<Samples, String> {
    let (raw, to, from) = (Raw::new()?, Mapping::new(pages), Page::zeroed());
    raw.register(&to);
    // SAFETY: pages of the mapping that is registered.
    let copy = |k| unsafe { raw.copy(to.page(k), from.as_ptr(), 1) }.expect("the page is missing");
    Ok((0..pages).map(|k| clock.time(|| copy(k))).collect())
}

/// MOVE of a run into an empty place, per page.
pub(crate) fn mov(clock: &Clock, input: &[Page]) -> Result<Samples, String> {
    let (raw, from) = (Raw::new()?, Mapping::of(input));
    let to = Mapping::new(input.len());
    raw.register(&to);
    let mut samples = Samples::default();
    for first in (0..input.len() - RUN + 1).step_by(RUN) {
        // SAFETY: pages of the mapping that is registered, and of one that nobody looks at again.
        let mov = || unsafe { raw.mov(to.page(first), from.page(first), RUN) }.expect("all are there");
        samples.push(clock.time(mov) / RUN as f64);
    }
    Ok(samples)
}

/// LZ4 of each page, there (from memory that is cold) and back (from an object that is cold to a page in L1).
pub(crate) fn lz4(clock: &Clock, input: &[Page], order: &[usize]) -> (Samples, Samples) {
    let mut context = Context::new();
    let mut log = Log::new(input.len());
    let there = order.iter().map(|&k| clock.time(|| log.compress(&mut context, k, &input[k]))).collect();
    let mut page = Page::zeroed();
    let back = order.iter().rev().map(|&k| clock.time(|| log.take(k, &mut page))).collect();
    (there, back)
}
