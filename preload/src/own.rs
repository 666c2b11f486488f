//! What is mapped by this library, and where its threads and the program's have their stacks: never registered.
//!
//! ```text
//!   a mapping as the kernel shows it (neighbours of one kind are shown as one)
//!   [ the program's | ours: arena | the program's | a stack ]
//!                     ^^^^^^^^^^^                   ^^^^^^^  left out
//! ```

use crate::allocator;
use crate::lock::Lock;
use crate::ranges::Ranges;
use std::ops::Range;

static OWN: Lock<Ranges> = Lock::new(Ranges::new());

/// Map or unmap something of ours: `call` does it, and notes it. Under the lock: who has seen the mapping finds it noted.
pub(crate) fn change<R>(call: impl FnOnce(&mut Ranges) -> R) -> R {
    call(&mut OWN.lock())
}

/// Stacks of threads that have ended. The C library keeps some of them for the next threads, which may be ours: they stay
/// what they are until they are mapped differently.
static ENDED: Lock<Vec<Range<usize>>> = Lock::new(Vec::new());

/// A thread has ended that had its stack here.
pub(crate) fn ended(stack: Range<usize>) {
    ENDED.lock().push(stack);
}

/// A thread has its stack here.
pub(crate) fn begun(stack: Range<usize>) {
    ENDED.lock().retain(|ended| *ended != stack);
    OWN.lock().add(stack);
}

/// Forget the stacks of threads that have ended but for those that are mapped as they were.
pub(crate) fn forget_stacks(is_mapped: impl Fn(&Range<usize>) -> bool) {
    let mut ended = ENDED.lock();
    // Under the lock: one that has begun meanwhile is not forgotten.
    ended.retain(|stack| {
        let keep = is_mapped(stack);
        if !keep {
            OWN.lock().remove(stack.clone());
        }
        keep
    });
}

/// What is ours. One who looks at mappings takes it before and after: what is in neither is the program's.
pub(crate) fn snapshot() -> Ranges {
    let mut all = OWN.lock().clone();
    all.add(allocator::reserve());
    all
}

/// Note this library's own segments, once: what follows its data without a file is anonymous memory to the kernel, and may be shown as one with
/// a mapping of the program's behind it. (Not at each look: the loader's lock would be held by a thread while another forks.)
pub(crate) fn note_image() {
    let mut all = Ranges::new();
    add_image(&mut all);
    let mut own = OWN.lock();
    all.iter().for_each(|range| own.add(range.clone()));
}

fn add_image(all: &mut Ranges) {
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, all: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the loader passes an object that is loaded.
        let info = unsafe { &*info };
        // SAFETY: its headers, as many as it says.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let here = (&raw const OWN).addr();
        let segments = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(|header| {
            let start = info.dlpi_addr as usize + header.p_vaddr as usize;
            start & !4095..(start + header.p_memsz as usize).next_multiple_of(4096)
        });
        if segments.clone().any(|segment| segment.contains(&here)) {
            // SAFETY: the caller's ranges, which nobody else has.
            let all = unsafe { &mut *all.cast::<Ranges>() };
            segments.for_each(|segment| all.add(segment));
            return 1;
        }
        0
    }
    // SAFETY: the function keeps to what the loader asks of it, and is called before this returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut *all).cast()) };
}
