//! What an area costs in memory, counted by the allocator: 8 bytes for each stored object, and 48 for each segment used.

#![cfg(not(loom))]

#[path = "support/area.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{area_of, memory, push};
use zspool::swap::{Area, Device, Geometry, Request};

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// A device so long that writes to it are only counted.
#[derive(Debug)]
struct Endless(u64);

impl Device for Endless {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            if request.start(self) {
                request.finish(Ok(()));
            }
        }
    }
    fn complete(&self, requests: &mut [Request]) {
        self.submit(requests);
    }
    fn punch(&self, _range: Range<u64>) -> std::io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> u64 {
        self.0
    }
    fn block_bytes(&self) -> usize {
        4096
    }
    fn name(&self) -> &str {
        "endless"
    }
}

// One test: they would count each other's.
#[test]
fn an_object_costs_eight_bytes_and_a_segment_that_is_used_48() {
    let area = area_of(&memory(64 << 20));
    let before = allocated();
    let (mut places, mut slot) = (Vec::with_capacity(100_000), 0);
    // Two thirds of the device, in batches of 21 pages: three to a segment.
    for _ in 0..3 * 170 {
        let mut batch = area.begin_at_least(1, 21).unwrap();
        while let Some(place) = push(&mut batch, slot, 100 + slot as usize * 37 % 2000) {
            places.push(place);
            slot += 1;
        }
        batch.write().unwrap();
    }
    let small = area.stats();
    let own = places.capacity() * size_of_val(&places[0]);
    let stats = small;
    let grown = (allocated() - before - own) as u64;
    let segments = stats.segments.all - stats.segments.free;
    assert_eq!(stats.reverse_bytes, 8 * stats.objects + 8 * segments);
    // Descriptors are made for up to 1024 segments at once, and this device has 256.
    assert_eq!(grown, stats.reverse_bytes + 48 * 256 + 4 * 16);
    for place in places.drain(..) {
        area.free(place);
    }
    assert!(area.stats().reverse_bytes > 0, "free gives no memory back");
    area.maintain();
    assert_eq!(area.stats().reverse_bytes, 0);
    assert_eq!((allocated() - before - own) as u64, 48 * 256 + 4 * 16);
    drop(area);

    // A device of a tebibyte: a bit for each segment, until it is used.
    let before = allocated();
    let area = Area::new(Box::new(Endless(1 << 40)), 0, Geometry::default()).unwrap();
    let made = allocated() - before;
    assert!(made < (1 << 22) / 8 + (3 << 18) + 16 * (12 << 10) + 8192, "{made} bytes");
    assert_eq!(area.stats().segments.all, 1 << 22);
    for slot in 0..3000 {
        let mut batch = area.begin_at_least(64, 64).unwrap();
        push(&mut batch, slot, 3000).unwrap();
        batch.write().unwrap();
    }
    let stats = area.stats();
    assert_eq!(allocated() - before - made, (stats.reverse_bytes + 3 * 1024 * 48 + 4 * 16) as usize);
    assert_eq!(stats.descriptor_bytes, (1 << 22) / 8 + 3 * 1024 * 48 + 4 * 16);
    // In the end, for what is printed is kept by who runs the test.
    println!("{} objects in {segments} segments: {grown} bytes", small.objects);
    println!("an area over a tebibyte: {made} bytes, buffers included");
}
