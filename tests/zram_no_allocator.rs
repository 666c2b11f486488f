//! `Zram::load` and `discard` run where nobody may allocate: an allocator that aborts stands under them.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use support::*;
use zspool::units::Page;
use zspool::zram::Zram;

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

#[test]
fn loading_and_discarding_never_call_the_allocator() {
    let zram = Zram::builder().disksize(8 << 20).warm_frames(3).build().unwrap();
    (0..1500).for_each(|block| {
        zram.store(block, &any_page(block)).unwrap();
    });
    let mut page = Page::zeroed();
    for block in 0..2000 {
        let expected = if block < 1500 { any_page(block) } else { Page::zeroed() };
        FORBIDDEN.set(true);
        zram.load(block, &mut page).unwrap();
        let same = page[..] == expected[..];
        zram.discard(block).unwrap();
        FORBIDDEN.set(false);
        assert!(same, "block {block}");
    }
    assert_eq!(zram.mm_stat().orig_data_size, 0);
}
