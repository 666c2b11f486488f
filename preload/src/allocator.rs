//! [`Ours`]: the allocator of this library, on mappings of its own, which are never registered.
//!
//! ```text
//!   reserve (addresses only)
//!   +----------+----------+----------------+------------------------------------------+
//!   | 48 48 48 | 64 64 64 |  96 KiB block  |  not handed out yet: not backed           |
//!   +----------+----------+----------------+------------------------------------------+
//!    chunks of 64 KiB cut into blocks      ^ top                                  end ^
//!        \          \            \
//!         free blocks of each class are linked through their first word
//! ```
//!
//! The program's malloc cannot serve us: what it hands out is paged out by us, and whoever serves a fault must not fault.
//!
//! 1. A class has blocks of one size; sizes go up in quarters of a power of two, so a block is at most a quarter too large.
//! 2. A block lies at a multiple of the largest power of two that divides its size; an alignment beyond 16 takes a class whose
//!    size is a power of two.
//! 3. Memory goes back to the kernel from free blocks of [`RETURNED`] bytes and more, but for their first page; addresses never
//!    go back.

use crate::lock::Lock;
use crate::system;
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;

/// Smallest block; every class is a multiple of it.
const SMALLEST: usize = 16;

/// What small blocks are cut from.
const CHUNK: usize = 64 << 10;

/// From here on what lies in a free block goes back to the kernel.
const RETURNED: usize = 128 << 10;

/// Made writable at once.
const STEP: usize = 1 << 20;

/// Addresses asked for first; halved while the kernel refuses.
const RESERVE: usize = 64 << 30;

/// With less than this nothing can be done.
const RESERVE_LEAST: usize = 32 << 20;

/// 16, 32, 48, 64, then four to a doubling up to 2^36.
const CLASSES: usize = 4 + 4 * 30;

/// The allocator.
pub(crate) struct Ours;

struct State {
    /// Start, first byte not handed out, first byte not writable, end: addresses.
    start: usize,
    top: usize,
    writable: usize,
    end: usize,
    /// Of each class the first free block.
    free: [*mut u8; CLASSES],
}

// SAFETY: the pointers are to free blocks, which nobody else uses.
unsafe impl Send for State {}

static STATE: Lock<State> = Lock::new(State { start: 0, top: 0, writable: 0, end: 0, free: [null_mut(); CLASSES] });

/// Everything the allocator ever hands out lies in here; empty before the first allocation.
pub(crate) fn reserve() -> std::ops::Range<usize> {
    let state = STATE.lock();
    state.start..state.end
}

/// The class of blocks that hold `size` bytes, and their size. `None`: larger than anything.
fn class_of(size: usize) -> Option<(usize, usize)> {
    if size <= 64 {
        let class = size.max(1).div_ceil(SMALLEST) - 1;
        return Some((class, (class + 1) * SMALLEST));
    }
    // Of the doubling that ends at or above `size`: which quarter.
    let doubling = (size - 1).ilog2() as usize; // 2^doubling < size <= 2^(doubling + 1)
    let step = 1 << (doubling - 2);
    let quarter = (size - (1 << doubling)).div_ceil(step); // 1..=4
    let class = 4 + (doubling - 6) * 4 + quarter - 1;
    (class < CLASSES).then_some((class, (1 << doubling) + quarter * step))
}

fn class_for(layout: Layout) -> Option<(usize, usize)> {
    match layout.align() {
        0..=SMALLEST => class_of(layout.size()),
        align => class_of(layout.size().max(align).checked_next_power_of_two()?),
    }
}

// === impl State ===

impl State {
    /// A block that is not in use.
    fn take(&mut self, class: usize, size: usize) -> *mut u8 {
        if self.free[class].is_null() && size < CHUNK {
            let chunk = self.grow(CHUNK, CHUNK);
            if chunk.is_null() {
                return chunk;
            }
            // The last first, so that they go out in order.
            for number in (0..CHUNK / size).rev() {
                // SAFETY: the block lies in the chunk, which nobody else has.
                unsafe { self.give(class, chunk.wrapping_add(number * size)) };
            }
        }
        let block = self.free[class];
        if block.is_null() {
            return self.grow(size, (size & size.wrapping_neg()).max(1 << 12));
        }
        // SAFETY: a free block's first word is the next free block.
        self.free[class] = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    /// # Safety
    /// Nobody else uses the block, which is one of the class.
    unsafe fn give(&mut self, class: usize, block: *mut u8) {
        // SAFETY: every block has room for a pointer, and is aligned for it.
        unsafe { block.cast::<*mut u8>().write(self.free[class]) };
        self.free[class] = block;
    }

    /// Memory that never was handed out; null: there is none.
    fn grow(&mut self, size: usize, align: usize) -> *mut u8 {
        if self.start == 0 && !self.reserve() {
            return null_mut();
        }
        let block = self.top.next_multiple_of(align);
        let Some(top) = block.checked_add(size).filter(|top| *top <= self.end) else { return null_mut() };
        if top > self.writable {
            let writable = top.next_multiple_of(STEP).min(self.end);
            if !system::make_writable(self.writable..writable) {
                return null_mut();
            }
            self.writable = writable;
        }
        self.top = top;
        block as *mut u8
    }

    fn reserve(&mut self) -> bool {
        let mut len = RESERVE;
        while len >= RESERVE_LEAST {
            if let Some(start) = system::reserve(len) {
                (self.start, self.top, self.writable, self.end) = (start, start, start, start + len);
                return true;
            }
            len /= 2;
        }
        false
    }
}

// === impl Ours ===

// SAFETY: a block is handed out once until it is given back, is as large and as aligned as its class says (invariants 1, 2),
// and nothing here unwinds.
unsafe impl GlobalAlloc for Ours {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_for(layout) {
            Some((class, size)) => STATE.lock().take(class, size),
            None => null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((class, size)) = class_for(layout) else { return };
        if size >= RETURNED {
            let block = block.addr();
            // The first page stays: the link is in it.
            system::discard(block + 4096..(block + size) & !4095);
        }
        // SAFETY: the caller gives up a block of that class.
        unsafe { STATE.lock().give(class, block) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
        if class_for(new) == class_for(layout) {
            return block;
        }
        // SAFETY: as the caller promises.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: both blocks are that large, and one is not the other.
            unsafe { std::ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size)) };
            // SAFETY: the caller gives it up.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_a_class_that_holds_it_and_wastes_at_most_a_quarter() {
        let mut last = (0, SMALLEST);
        for size in (1..70_000).chain((17..36).flat_map(|shift| [(1 << shift) - 1, 1 << shift, (1 << shift) + 1])) {
            let (class, block) = class_of(size).unwrap();
            assert!(block >= size && block % SMALLEST == 0, "{size} in {block}");
            assert!(block <= 64 || (block - size) * 4 <= block, "{size} in {block}");
            assert!((class, block) == last || (class > last.0 && block > last.1), "{size}: {class} after {last:?}");
            last = (class, block);
        }
        assert_eq!(class_of(1 << 36), Some((CLASSES - 1, 1 << 36)));
        assert_eq!(class_of((1 << 36) + 1), None);
    }

    const LAYOUTS: [(usize, usize); 7] =
        [(1, 1), (24, 8), (100, 64), (5000, 16), (70_000, 8), (300_000, 4096), (3 << 20, 1 << 20)];

    fn blocks(layout: Layout) -> [*mut u8; 3] {
        // SAFETY: the layout is not empty.
        [(); 3].map(|()| unsafe { Ours.alloc(layout) })
    }

    fn give_up(blocks: [*mut u8; 3], layout: Layout) {
        // SAFETY: they are ours, of this layout.
        blocks.into_iter().for_each(|block| unsafe { Ours.dealloc(block, layout) });
    }

    #[test]
    fn blocks_are_aligned_and_keep_what_is_in_them() {
        let all = LAYOUTS.map(|(size, align)| {
            let layout = Layout::from_size_align(size, align).unwrap();
            let blocks = blocks(layout);
            for (byte, block) in (size as u8..).zip(blocks) {
                assert!(!block.is_null() && block.addr() % align == 0, "{layout:?}");
                // SAFETY: it is that large.
                unsafe { block.write_bytes(byte, size) };
            }
            (layout, blocks)
        });
        for (layout, blocks) in all {
            for (byte, block) in (layout.size() as u8..).zip(blocks) {
                // SAFETY: it was written.
                let content = unsafe { std::slice::from_raw_parts(block, layout.size()) };
                assert!(content.iter().all(|&b| b == byte), "{layout:?}");
            }
            give_up(blocks, layout);
        }
    }

    #[test]
    fn blocks_are_used_again() {
        for (size, align) in LAYOUTS {
            let layout = Layout::from_size_align(size, align).unwrap();
            // Other tests take and free such blocks as well: but not all the time.
            let again = (0..100).any(|_| {
                let before = blocks(layout);
                give_up(before, layout);
                let after = blocks(layout);
                give_up(after, layout);
                after.iter().all(|block| before.contains(block))
            });
            assert!(again, "free blocks of {layout:?} were left alone");
        }
    }

    #[test]
    fn what_grows_keeps_its_bytes() {
        let layout = Layout::from_size_align(10, 8).unwrap();
        // SAFETY: the layout is not empty.
        let mut block = unsafe { Ours.alloc(layout) };
        // SAFETY: it is that large.
        unsafe { block.write_bytes(7, 10) };
        let mut size = 10;
        for new in [16, 17, 1000, 200_000, 12] {
            // SAFETY: that is its layout.
            block = unsafe { Ours.realloc(block, Layout::from_size_align(size, 8).unwrap(), new) };
            size = new;
            // SAFETY: ten bytes were written and never fewer kept.
            assert_eq!(unsafe { std::slice::from_raw_parts(block, 10) }, [7; 10]);
        }
    }
}
