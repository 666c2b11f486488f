//! Stacks that signal handlers run on: one for a thread that asks for it, and a few in reserve for threads whose own is too small.
//!
//! ```text
//!   thread's alternate stack, 8 KiB:  [ frame of the kernel | on_sigbus ]--+   too small to decompress a page on
//!   reserve:   [guard|  256 KiB  ] [guard|  256 KiB  ] ...                 +-> borrowed for one fault
//!   taken:      bit 0               bit 1
//! ```
//!
//! A thread of Rust's library has an alternate stack of 8 KiB, which is for overflows of its own; other languages' runtimes have
//! similar ones. A handler that is delivered there and needs more borrows a stack.
//!
//! 1. Borrowing takes no lock and allocates nothing. Who finds all in use waits for one: nobody who has one waits for who has none.
//! 2. A stack has an inaccessible page below it: what overflows it ends the process, and nothing else is overwritten.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::yield_now;
use std::io;
use std::mem;
use std::ptr;

/// What serving a fault may take of a stack: a page twice, the codec's state, the registers that the kernel saves (11 KiB where
/// there are tiles), and unoptimised frames. Backed where touched, and so mostly address space.
pub(super) const STACK_BYTES: usize = 256 << 10;

/// So much must be left of an alternate stack for a fault to be served on it.
const ENOUGH_BYTES: usize = 96 << 10;

/// Below each stack.
const GUARD_BYTES: usize = 4096;

/// Zeroes above where a borrowed stack begins. Who walks up the stack (a panic that prints a backtrace) takes the frame that
/// switched for one of this stack, and looks for its caller there: a zero ends the walk, and the next stack's guard would end the process.
const ABOVE_BYTES: usize = 4096;

/// How many threads can be served at once whose own stacks are too small; others wait for them.
const RESERVE: usize = 64;

/// An alternate stack for the signals of one thread, roomy enough to serve faults on it without borrowing. Dropped, on the thread
/// that made it, it gives back what was there before.
///
/// Threads need none of this to be served: it saves a thread with a small alternate stack a few nanoseconds a fault, and is
/// needed where more than 64 such threads fault at once and must not wait for each other, or where a thread runs on a stack with less than
/// 96 KiB left and has no alternate one.
#[derive(Debug)]
pub struct AlternateStack {
    mapping: *mut libc::c_void,
    before: libc::stack_t,
    /// It is of this thread.
    _here: std::marker::PhantomData<*const ()>,
}

// === impl AlternateStack ===

impl AlternateStack {
    /// Have signals of this thread delivered on a stack of 256 KiB.
    ///
    /// # Errors
    /// What the system says when it has no memory, or the thread runs on its alternate stack now.
    pub fn for_this_thread() -> io::Result<Self> {
        let mapping = map(1)?;
        // SAFETY: all zeroes are good values.
        let mut before: libc::stack_t = unsafe { mem::zeroed() };
        let stack = libc::stack_t { ss_sp: mapping.wrapping_byte_add(GUARD_BYTES), ss_flags: 0, ss_size: STACK_BYTES };
        // SAFETY: the stack is ours, mapped, and stays until this is dropped.
        if unsafe { libc::sigaltstack(&stack, &mut before) } != 0 {
            let error = io::Error::last_os_error();
            // SAFETY: mapped above, and nobody has it.
            unsafe { libc::munmap(mapping, GUARD_BYTES + STACK_BYTES) };
            return Err(error);
        }
        Ok(AlternateStack { mapping, before, _here: std::marker::PhantomData })
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: what was there before is the thread's own, and good for as long as it was.
        if unsafe { libc::sigaltstack(&self.before, ptr::null_mut()) } == 0 {
            // SAFETY: ours, and no signal is delivered there any more; this code does not run there, or the call had failed.
            unsafe { libc::munmap(self.mapping, GUARD_BYTES + STACK_BYTES) };
        }
    }
}

/// Stacks one beside the other, each with its guard below it.
fn map(stacks: usize) -> io::Result<*mut libc::c_void> {
    let bytes = stacks * (GUARD_BYTES + STACK_BYTES);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: a new mapping, wherever the kernel likes.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    for stack in 0..stacks {
        let guard = mapping.wrapping_byte_add(stack * (GUARD_BYTES + STACK_BYTES));
        // SAFETY: within the new mapping.
        if unsafe { libc::mprotect(guard, GUARD_BYTES, libc::PROT_NONE) } != 0 {
            let error = io::Error::last_os_error();
            // SAFETY: mapped above, and nobody has it.
            unsafe { libc::munmap(mapping, bytes) };
            return Err(error);
        }
    }
    Ok(mapping)
}

/// Stacks in reserve, for the whole process.
#[derive(Debug)]
pub(super) struct Reserve {
    /// Where the first guard is; 0 while there are none.
    base: AtomicUsize,
    /// A bit for each that is in use.
    taken: AtomicU64,
}

/// A stack that is borrowed.
struct Borrowed<'a> {
    reserve: &'a Reserve,
    number: u32,
}

// === impl Reserve ===

impl Reserve {
    /// Without any.
    pub(super) const fn new() -> Self {
        Reserve { base: AtomicUsize::new(0), taken: AtomicU64::new(0) }
    }

    /// Have some. They stay for as long as the process lives.
    ///
    /// # Errors
    /// What the system says when it has no address space.
    pub(super) fn fill(&self) -> io::Result<()> {
        if self.base.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        let mapping = map(RESERVE)?;
        // Release pairs with the acquire of who borrows. Whoever is second keeps the first's.
        if self.base.compare_exchange(0, mapping.addr(), Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: mapped above, and nobody has it.
            unsafe { libc::munmap(mapping, RESERVE * (GUARD_BYTES + STACK_BYTES)) };
        }
        Ok(())
    }

    /// Take one, waiting until there is one.
    fn borrow(&self) -> Borrowed<'_> {
        loop {
            let taken = self.taken.load(Ordering::Relaxed);
            let number = (!taken).trailing_zeros();
            if number as usize >= RESERVE {
                yield_now();
                continue;
            }
            // Acquire and release pair with each other: who has a stack next comes after who had it.
            let bit = 1 << number;
            if self.taken.compare_exchange_weak(taken, taken | bit, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Borrowed { reserve: self, number };
            }
        }
    }

    /// Run `f` here, if there is room enough on this stack, else on one that is borrowed.
    ///
    /// `alternate` is the thread's alternate stack, as the kernel tells the handler.
    pub(super) fn run<R>(&self, alternate: &libc::stack_t, f: impl FnOnce() -> R) -> R {
        let here = 0u8;
        let below = (&raw const here).addr().wrapping_sub(alternate.ss_sp.addr());
        // On no alternate stack it is the thread's own: nobody can tell its end here, and it is large.
        let enough = below >= alternate.ss_size || below >= ENOUGH_BYTES;
        if enough || self.base.load(Ordering::Acquire) == 0 || !SWITCHES {
            return f();
        }
        let borrowed = self.borrow();
        let mut call = Call { f: Some(f), result: None };
        let enter = first_frame(&call);
        // SAFETY: the stack is ours alone until `borrowed` is dropped, and `call` outlives the call. `enter` does not unwind:
        // what it runs is expected not to, and `extern "C"` ends the process otherwise.
        unsafe { on_stack(borrowed.top(), enter, (&raw mut call).cast()) };
        drop(borrowed);
        call.result.expect("the call on the other stack has returned")
    }
}

impl Borrowed<'_> {
    /// Where it begins: stacks grow down from there.
    fn top(&self) -> usize {
        let base = self.reserve.base.load(Ordering::Relaxed);
        base + (self.number as usize + 1) * (GUARD_BYTES + STACK_BYTES) - ABOVE_BYTES
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.reserve.taken.fetch_and(!(1 << self.number), Ordering::Release);
    }
}

/// What runs on the other stack, and what came of it.
struct Call<F, R> {
    f: Option<F>,
    result: Option<R>,
}

/// [`enter`] for a call whose type has no name.
fn first_frame<F: FnOnce() -> R, R>(_call: &Call<F, R>) -> extern "C" fn(*mut libc::c_void) {
    enter::<F, R>
}

/// The first frame on the other stack.
extern "C" fn enter<F: FnOnce() -> R, R>(call: *mut libc::c_void) {
    // SAFETY: `run` gave us its call, which nobody else touches now.
    let call = unsafe { &mut *call.cast::<Call<F, R>>() };
    call.result = call.f.take().map(|f| f());
}

/// Whether [`on_stack`] knows this machine. On others a fault is served where its signal is delivered: threads with small
/// alternate stacks need an [`AlternateStack`] there.
const SWITCHES: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Call `f(arg)` with the stack pointer at `top`.
///
/// # Safety
/// Below `top`, which is aligned to 16 bytes, lies a stack that nobody else uses, large enough for `f`, which must not unwind.
unsafe fn on_stack(top: usize, f: extern "C" fn(*mut libc::c_void), arg: *mut libc::c_void) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: r12 is kept by every function of the C ABI, so the stack pointer comes back; the rest is declared.
    unsafe {
        std::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {f}",
            "mov rsp, r12",
            top = in(reg) top,
            f = in(reg) f,
            in("rdi") arg,
            out("r12") _,
            clobber_abi("C"),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: x20 is kept by every function of the C ABI, so the stack pointer comes back; the rest is declared.
    unsafe {
        std::arch::asm!(
            "mov x20, sp",
            "mov sp, {top}",
            "blr {f}",
            "mov sp, x20",
            top = in(reg) top,
            f = in(reg) f,
            in("x0") arg,
            out("x20") _,
            clobber_abi("C"),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (top, f, arg);
        unreachable!("`run` asks SWITCHES first");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn small() -> libc::stack_t {
        let here = 0u8;
        // As if this were an alternate stack with 4 KiB left.
        let at = (&raw const here).addr() - 4096;
        libc::stack_t { ss_sp: ptr::without_provenance_mut(at), ss_flags: 0, ss_size: 64 << 10 }
    }

    #[test]
    fn what_needs_more_than_there_is_runs_on_a_borrowed_stack() {
        let reserve = Reserve::new();
        let alternate = small();
        let here = 0u8;
        let near = |other: usize| other.abs_diff((&raw const here).addr()) < 1 << 20;
        let mut big = [1u8; 64];
        let address = |big: &mut [u8; 64]| {
            let page = [big[3]; 8192];
            big[3] += page[4000];
            (&raw const page).addr()
        };
        assert!(near(reserve.run(&alternate, || address(&mut big))), "none in reserve: here");
        reserve.fill().unwrap();
        reserve.fill().unwrap();
        let there = reserve.run(&alternate, || address(&mut big));
        assert!(!near(there) && big[3] == 4);
        assert!(near(reserve.run(&libc::stack_t { ss_size: 0, ..alternate }, || address(&mut big))), "not on it");
        assert_eq!(reserve.taken.load(Ordering::Relaxed), 0, "given back");
        // Nested, as many as there are, each on its own.
        fn nest(reserve: &Reserve, alternate: &libc::stack_t, depth: usize) -> usize {
            // What `run` takes for the current stack is that of the first call: so tell it of a small one each time.
            let alternate_here = small();
            let _ = alternate;
            reserve.run(&alternate_here, || match depth {
                0 => reserve.taken.load(Ordering::Relaxed).count_ones() as usize,
                _ => nest(reserve, alternate, depth - 1),
            })
        }
        assert_eq!(nest(&reserve, &alternate, RESERVE - 1), RESERVE);
    }

    #[test]
    fn threads_wait_for_each_others_stacks() {
        static RESERVED: Reserve = Reserve::new();
        RESERVED.fill().unwrap();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        RESERVED.run(&small(), || inside.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
        assert_eq!(inside.into_inner(), 6000);
    }

    #[test]
    fn a_thread_gets_an_alternate_stack_and_its_old_one_back() {
        std::thread::spawn(|| {
            let now = || {
                // SAFETY: all zeroes are good values.
                let mut stack: libc::stack_t = unsafe { mem::zeroed() };
                // SAFETY: only asks.
                assert_eq!(unsafe { libc::sigaltstack(ptr::null(), &mut stack) }, 0);
                (stack.ss_sp.addr(), stack.ss_size)
            };
            let before = now();
            let roomy = AlternateStack::for_this_thread().unwrap();
            assert_eq!(now().1, STACK_BYTES);
            drop(roomy);
            assert_eq!(now(), before);
        })
        .join()
        .unwrap();
    }
}
