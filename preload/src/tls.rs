//! Where this library's thread-locals lie: found without the table that the C library keeps in memory of the program's.
//!
//! ```text
//!   static TLS of a thread            dtv: an array that pthread_create took from malloc
//!   +---------+---------+-----+       +---+-----+-----+
//!   |  ours   | libc's  | TCB | ----> |gen| ... | ours|--> to the left
//!   +---------+---------+-----+       +---+-----+-----+
//!   ^ TCB + OFFSET      ^ thread pointer       ^ may be paged out: a thread that serves faults must not look here
//! ```
//!
//! A shared library asks `__tls_get_addr` for each access to a thread-local, and that reads the dtv. The dtv of every thread,
//! ours too, comes from the program's malloc, so it may lie in memory that is paged out by us: a handler thread that looked
//! there would wait for itself. A library that is there from the start has its block at the same distance from the thread
//! pointer in every thread; so ours answers the question itself, and nothing outside sees it.
//!
//! On machines whose compilers use descriptors (aarch64) the dynamic linker does the same thing by itself.

use std::sync::atomic::{AtomicIsize, AtomicU8, Ordering::Relaxed};

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    // Hidden: calls from inside this library come here, those of others go to the C library as ever. The argument is a pair:
    // the module, which is always ours, and the offset in its block.
    ".pushsection .text.zspool_tls,\"ax\",@progbits",
    ".globl __tls_get_addr",
    ".hidden __tls_get_addr",
    ".type __tls_get_addr,@function",
    "__tls_get_addr:",
    "mov rax, qword ptr [rip + {distance}]",
    "test rax, rax",
    "jz 2f",
    "add rax, qword ptr fs:[0]",
    "add rax, qword ptr [rdi + 8]",
    "ret",
    "2: lea rax, [rip + {nobody}]",
    "add rax, qword ptr [rdi + 8]",
    "ret",
    ".size __tls_get_addr, . - __tls_get_addr",
    ".popsection",
    distance = sym DISTANCE,
    nobody = sym NOBODYS,
);

/// From the thread pointer to our block, in every thread; 0: not known yet.
static DISTANCE: AtomicIsize = AtomicIsize::new(0);

/// What lies at our thread-locals before [`prepare`], and in programs that are none of ours: compilers ask for an address ahead of the test
/// that says whether it is wanted, and nobody uses it then.
#[repr(align(64))]
struct Nobodys([AtomicU8; MOST]);
static NOBODYS: Nobodys = Nobodys([const { AtomicU8::new(0) }; MOST]);

/// Bytes of thread-locals at most. There are some hundreds.
const MOST: usize = 4096;

/// Find our block. First of all, before anything uses a thread-local.
///
/// # Errors
/// Where the dynamic linker has given us none at a fixed distance: we were not there from the start.
pub(crate) fn prepare() -> Result<(), &'static str> {
    extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, found: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the dynamic linker gives a description that is good for the call.
        let info = unsafe { &*info };
        // SAFETY: it has that many program headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let Some(here) = ((&raw const DISTANCE).addr() as u64).checked_sub(info.dlpi_addr) else { return 0 };
        if !headers.iter().any(|h| h.p_type == libc::PT_LOAD && (h.p_vaddr..h.p_vaddr + h.p_memsz).contains(&here)) {
            return 0; // another one's
        }
        let bytes = headers.iter().find(|h| h.p_type == libc::PT_TLS).map_or(0, |h| h.p_memsz as usize);
        assert!(bytes <= NOBODYS.0.len(), "{bytes} bytes of thread-locals: MOST is for fewer");
        // SAFETY: `found` is the caller's variable.
        unsafe { *found.cast::<usize>() = info.dlpi_tls_data.addr() };
        1
    }
    let mut block = 0usize;
    // SAFETY: `look` keeps to what it is given, and `block` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut block).cast()) };
    if block == 0 {
        return Err("zspool's library has no thread-locals of its own: it can only be preloaded, not loaded later.");
    }
    DISTANCE.store(block.wrapping_sub(thread_pointer()) as isize, Relaxed);
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the first word behind fs is the thread pointer itself: the ABI of x86-64 says so.
    unsafe {
        std::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(nostack, readonly, preserves_flags))
    };
    pointer
}

/// Not needed where descriptors are used.
#[cfg(not(target_arch = "x86_64"))]
fn thread_pointer() -> usize {
    0
}

// Destructors of our thread-locals are not run: the C library would note them in memory of the program's malloc, which may be out, or
// an allocator that takes locks. What our threads leave is small. Hidden, as above: the program's destructors are its own business.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.zspool_tls,\"ax\",@progbits",
    ".globl __cxa_thread_atexit_impl",
    ".hidden __cxa_thread_atexit_impl",
    ".type __cxa_thread_atexit_impl,@function",
    "__cxa_thread_atexit_impl:",
    "xor eax, eax",
    "ret",
    ".size __cxa_thread_atexit_impl, . - __cxa_thread_atexit_impl",
    ".popsection",
);
