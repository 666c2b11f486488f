//! What is registered, and what becomes of it when the program changes its mappings.
//!
//! ```text
//!   found by looking --adopt--> Region --+-- unmapped, moved, thrown away: the kernel's events, or we are told before
//!                                        +-- protection changed, locked: brought in first, and held until it is changed back
//! ```
//!
//! 1. A page that is out lies where MOVE can bring it back from: between mappings of one protection and lock. So before these
//!    change, the pages come in, and are pinned.
//! 2. A mapping that goes is given up before it goes where we see it in time: afterwards its addresses may be another's.
//! 3. No lock of ours is held while pages are brought in: that may need memory, devices and other threads.

use crate::finder;
use crate::inside::Inside;
use crate::lock::Lock;
use crate::ranges::Ranges;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use zspool::guest::memory::Memory;
use zspool::guest::{Pin, Region, Vm};

/// The program's memory, once there is an engine; never freed.
static VM: AtomicPtr<Vm> = AtomicPtr::new(std::ptr::null_mut());

/// What we hold, by the first address it was registered with.
static REGIONS: Lock<BTreeMap<usize, Arc<Region>>> = Lock::new(BTreeMap::new());

/// Of it what is held in memory, as its protection is another than usual.
static HELD: Lock<Vec<Held>> = Lock::new(Vec::new());

/// Mappings smaller than this are not worth a look when they are made.
static LEAST: AtomicUsize = AtomicUsize::new(1 << 20);

/// Pages that must not leave.
struct Held {
    range: Range<usize>,
    /// Borrows from `region`, which lives at the same place for as long; dropped before it.
    pin: ManuallyDrop<Pin<'static>>,
    _region: Arc<Region>,
}

// === impl Held ===

impl Held {
    fn new(region: Arc<Region>, range: Range<usize>) -> Option<Held> {
        let start = region.addresses().start;
        let offsets = range.start - start..range.end - start;
        let pin = region.pin(offsets).ok()?;
        // SAFETY: the region does not move out of its Arc, which is kept beside the pin and dropped after it.
        let pin = unsafe { std::mem::transmute::<Pin<'_>, Pin<'static>>(pin) };
        Some(Held { range, pin: ManuallyDrop::new(pin), _region: region })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: it is not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.pin) };
    }
}

/// From here on memory is registered with it.
pub(crate) fn start(vm: Vm, least: usize) {
    LEAST.store(least, Relaxed);
    // Release: who sees it sees all of it.
    VM.store(Box::into_raw(Box::new(vm)), Release);
}

/// The program's memory.
pub(crate) fn vm() -> Option<&'static Vm> {
    // SAFETY: it is null or a box that nobody frees.
    unsafe { VM.load(Acquire).as_ref() }
}

/// Register `range`, which the program has mapped. `false`: it is not to be had.
pub(crate) fn adopt(vm: &Vm, range: Range<usize>) -> Result<(), zspool::guest::Error> {
    let memory = Memory::anonymous(range.start as *mut u8, range.len()).keep_on_fork();
    // SAFETY: the mapping is private and anonymous, and what becomes of it is followed.
    let region = unsafe { vm.register(memory) }?;
    let before = REGIONS.lock().insert(range.start, Arc::new(region));
    // One that is gone from here, and that the kernel's events have told of.
    drop(before);
    Ok(())
}

/// Drop what is left of regions that the program has unmapped.
pub(crate) fn sweep(registered: &Ranges) {
    let gone: Vec<_> = {
        let mut regions = REGIONS.lock();
        let gone: Vec<_> = regions.keys().copied().filter(|at| !registered.overlaps(&(*at..*at + 1))).collect();
        gone.into_iter().filter_map(|at| regions.remove(&at)).collect()
    };
    HELD.lock().retain(|held| registered.overlaps(&held.range));
    drop(gone);
}

/// The regions that have an address of `range`.
fn regions(range: &Range<usize>) -> Vec<Arc<Region>> {
    let regions = REGIONS.lock();
    let near = regions.range(..range.end).map(|(_, region)| region);
    near.filter(|region| region.addresses().end > range.start).cloned().collect()
}

/// Whether an address of `range` is registered.
pub(crate) fn is_followed(range: Range<usize>) -> bool {
    let _inside = Inside::enter();
    !regions(&range).is_empty()
}

/// The program has mapped so much.
pub(crate) fn mapped(len: usize) {
    if len >= LEAST.load(Relaxed) {
        finder::nudge();
    }
}

/// Before protection or lock of `range` change.
pub(crate) fn before_change(range: Range<usize>) {
    for region in regions(&range) {
        let whole = region.addresses();
        let part = range.start.max(whole.start)..range.end.min(whole.end);
        if let Some(held) = Held::new(region, part) {
            HELD.lock().push(held);
        }
    }
}

/// After `range` has become as it was.
pub(crate) fn after_change_back(range: Range<usize>) {
    let mut back = Vec::new();
    {
        let mut held = HELD.lock();
        let mut at = 0;
        while at < held.len() {
            match range.start <= held[at].range.start && held[at].range.end <= range.end {
                true => back.push(held.swap_remove(at)),
                false => at += 1,
            }
        }
    }
    drop(back);
}
