//! Faults served in the thread that has them: the process's handler of SIGBUS.
//!
//! ```text
//!   load, store --> page is out --> kernel: SIGBUS --> on_sigbus
//!                                                        |  whose address? (registry)
//!                                ours, can be had:       |  bring it in, return: the access is made again
//!                                ours, poisoned; or not ours:  what was there before us, else the process ends
//! ```
//!
//! 1. There is one handler in a process, installed for the first VM that wants it and never removed. It acts on addresses of
//!    regions that are served this way, and hands everything else on.
//! 2. It is async-signal-safe: it allocates nothing, takes no lock that a thread may hold while it touches guest memory, and leaves
//!    `errno` as it was.
//! 3. All signals are blocked while a page's word is owned: a handler of the program's that touched the same page on the same thread
//!    would wait for itself.
//! 4. It runs on the thread's alternate stack if there is one with room, on one in reserve (`stacks.rs`) if it is small, and on the thread's own
//!    stack if there is none.
//!
//! The kernel itself gets no signal: a system call that is handed memory that is out fails with EFAULT. Bring it in before
//! ([`Region::pin`](crate::guest::Region::pin)). A thread that blocks SIGBUS ends the process with its first fault, as with any such signal.

use super::access::access;
use super::actions::{self, Previous};
use super::stacks::Reserve;
use super::{Answer, Panics, answers, fork_mark, last_words};
use crate::guest::Error;
use crate::guest::pages::bits::State;
use crate::guest::pages::{Access, Pages, Waiting};
use crate::guest::registry::{self, Found};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::yield_now;
use crate::sync::{Rank, process_mutex, process_static};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{io, mem, ptr};

process_static! {
    /// What was there before us.
    PREVIOUS: Previous = Previous::new()
}
process_static! {
    /// For threads whose own stacks are small.
    RESERVE: Reserve = Reserve::new()
}
process_static! {
    /// The process calls [`handle`] from a handler of its own.
    ADOPTED: AtomicBool = AtomicBool::new(false)
}
process_static! {
    /// Faults in a row that panicked.
    PANICS: Panics = Panics::new()
}
process_mutex! {
    /// Whether our handler was installed.
    INSTALLED: bool = Rank::Guest, false
}

/// Have the process's SIGBUS come to us, as somebody wants faults served in the threads that have them.
///
/// # Errors
/// When another handler was installed since: ours might never be called.
///
/// # Locks
/// [`Rank::Guest`].
pub(crate) fn install() -> Result<(), Error> {
    let refused = |source: io::Error| Error::Service { doing: "install its handler of SIGBUS", source };
    RESERVE.fill().map_err(refused)?;
    if ADOPTED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut installed = INSTALLED.lock();
    let now = actions::current().map_err(refused)?;
    let ours = entry as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) as usize;
    if now.sa_sigaction == ours {
        return Ok(());
    }
    if *installed {
        return Err(Error::SigbusTaken);
    }
    PREVIOUS.keep(&now);
    // SAFETY: all zeroes are good values.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = ours;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the set is ours. All of them: invariant 3.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    // SAFETY: `entry` is a handler with three arguments, as its flags say, and async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) } != 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    *installed = true;
    Ok(())
}

/// Say that the process has a handler of SIGBUS of its own, installed by now, that calls [`handle`] first: none is installed from
/// here on, and one that was is taken as reached.
///
/// # Safety
/// It does so, with its own arguments, was installed with `SA_SIGINFO` and a mask of all signals, and is never replaced while a VM with
/// [`Service::InThread`](crate::guest::Service::InThread) lives.
pub unsafe fn adopt() {
    ADOPTED.store(true, Ordering::Relaxed);
}

/// Serve a fault of registered memory, for a process with a handler of SIGBUS of its own. Whether it was one, and served: the handler
/// must return then. `false` for all other memory, for memory that is poisoned, and for signals that were sent.
///
/// # Safety
/// In a handler of SIGBUS, with its own second and third argument.
pub unsafe fn handle(info: *mut libc::siginfo_t, context: *mut libc::c_void) -> bool {
    let errno = errno();
    // SAFETY: the caller's promise.
    let outcome = unsafe { serve(info, context.cast()) };
    set_errno(errno);
    matches!(outcome, Outcome::Served)
}

/// What became of a signal.
enum Outcome {
    /// The access is to be made again.
    Served,
    /// Ours, and its bytes cannot be had.
    Poisoned,
    /// Of no memory of ours.
    NotOurs,
}

/// The handler.
extern "C" fn entry(_signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let errno = errno();
    // SAFETY: the kernel's own arguments.
    match unsafe { serve(info, context) } {
        Outcome::Served => {}
        Outcome::Poisoned | Outcome::NotOurs => {
            // SAFETY: the kernel's own arguments.
            unsafe { PREVIOUS.call(info, context) };
        }
    }
    set_errno(errno);
}

/// # Safety
/// In a handler of SIGBUS, with its own arguments.
unsafe fn serve(info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> Outcome {
    // SAFETY: the caller's promise.
    if unsafe { (*info).si_code } <= 0 || fork_mark::in_child() {
        return Outcome::NotOurs; // somebody sent it: there is no address. Or what is known here is about the parent's memory
    }
    // SAFETY: as above; the kernel's SIGBUS for an access has an address.
    let told = unsafe { &*info };
    // SAFETY: of that kind.
    let address = unsafe { told.si_addr() }.addr();
    // SAFETY: as above.
    let access = unsafe { access(context) };
    // SAFETY: as above.
    let alternate = unsafe { (*context).uc_stack };
    // A panic must not pass the frames below: it is caught on the stack where it happens.
    match RESERVE.run(&alternate, || catch_unwind(AssertUnwindSafe(|| fault(address, access)))) {
        Ok(outcome) => outcome,
        Err(_payload) => {
            // The word's guard has given the page back: the access is made again, and the fault served again.
            if let Some(times) = PANICS.too_many() {
                last_words::end(format_args!(
                    "serving the fault at {address:#x} panicked {times} times in a row, and nobody else can: the process ends, for the \
                     page must not read as anything else"
                ));
            }
            Outcome::Served
        }
    }
}

/// Serve one fault.
fn fault(address: usize, access: Access) -> Outcome {
    let answer = match registry::find(address) {
        Found::Page(pages, page) => {
            let was_here = is_here(&pages, page);
            match answers::answer(&pages, page, access, Waiting::Wait) {
                // Here by its word, there by the kernel's, and not to be had: it was poisoned, or damaged, when it was registered. It would be
                // served for ever.
                Answer::Served if was_here && is_denied(&pages, page, address) => {
                    match answers::answer(&pages, page, access, Waiting::Wait) {
                        Answer::Served if is_denied(&pages, page, address) => Answer::Stranger,
                        answer => answer, // it had left, or was dropped, since
                    }
                }
                answer => answer,
            }
        }
        Found::Transit | Found::Gone => Answer::Again,
        Found::Nothing => Answer::Stranger,
    };
    match answer {
        Answer::Served => PANICS.none(),
        // The kernel is at the mapping this moment: the access is made again, and with it the fault.
        Answer::Again => yield_now(),
        Answer::Poisoned => return Outcome::Poisoned,
        Answer::Stranger => return Outcome::NotOurs,
    }
    Outcome::Served
}

fn is_here(pages: &Pages, page: u32) -> bool {
    pages.word(page).load().state() == State::Resident
}

/// Whether the page is here by its word, where it stays meanwhile, and the kernel cannot read it.
fn is_denied(pages: &Pages, page: u32, address: usize) -> bool {
    pages.while_here(page, || is_readable(address)) == Some(false)
}

/// Whether the kernel can read there: it looks at a signal mask before it finds that it was told to do nothing with it. No filter of system
/// calls forbids that, as any thread that starts makes this one.
fn is_readable(address: usize) -> bool {
    const NOTHING: libc::c_int = -1;
    let (mask, none) = (address & !7, ptr::null_mut::<u64>());
    // SAFETY: eight bytes are read, wherever they are, or cannot be; nothing is written.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, NOTHING, mask, none, 8usize) };
    io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
}

fn errno() -> i32 {
    // SAFETY: takes nothing.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the thread's own.
    unsafe { *place }
}

fn set_errno(value: i32) {
    // SAFETY: takes nothing.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the thread's own.
    unsafe { *place = value };
}
