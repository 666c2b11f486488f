//! A global allocator that aborts where a test forbids it. For a test file alone, by `#[path]`: there is one in a program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Forbidding;

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

fn check(what: &str) {
    if FORBIDDEN.get() {
        FORBIDDEN.set(false);
        eprintln!("the global allocator was called ({what}) where it must not be");
        std::process::abort();
    }
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Forbidding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check("alloc");
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        check("dealloc");
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Forbidding = Forbidding;

/// Run `f` with the allocator forbidden to this thread.
pub(crate) fn without_allocator<R>(f: impl FnOnce() -> R) -> R {
    FORBIDDEN.set(true);
    let result = f();
    FORBIDDEN.set(false);
    result
}
