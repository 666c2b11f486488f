//! What is registered, and what becomes of it when the program changes its mappings.
//!
//! ```text
//!   found by looking --adopt, in parts of 16 MiB--> Region --+-- unmapped, moved: gone; something else mapped there: registered anew
//!                                                            +-- protection changed, locked: brought in first, and held until it
//!                                                                is changed back
//! ```
//!
//! 1. A page that is out lies where MOVE can bring it back from: between mappings of one protection and lock. So before these
//!    change, the pages come in, and are pinned.
//! 2. A region of which a part is gone stays until something is mapped there: then what is left of it comes in, and all is
//!    registered anew. Regions are small, so that this is little.
//! 3. What is moved is given up before, and registered anew where it is then. The kernel could have moved it, registered; but it tells of that in
//!    two events, with the pages that are out in between.
//! 4. Small regions of one part that touch become one, when the new one is no smaller: all of them are gone through at each look and each change.
//! 5. No lock of ours is held while pages are brought in: that may need memory, devices and other threads.

use crate::finder;
use crate::gone;
use crate::inside::Inside;
use crate::lock::Lock;
use crate::own;
use crate::ranges::Ranges;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;
use zspool::guest::memory::Memory;
use zspool::guest::{Error, MappingChange, Pin, Region, Vm};

/// A region is at most this large, and ends at a multiple of it.
pub(crate) const PART: usize = 16 << 20;

/// From this on regions are few enough as they are.
const LARGE: usize = 4 << 20;

/// The program's memory, once there is an engine; never freed.
static VM: AtomicPtr<Vm> = AtomicPtr::new(std::ptr::null_mut());

/// What we hold, by its first address.
static REGIONS: Lock<BTreeMap<usize, Arc<Region>>> = Lock::new(BTreeMap::new());

/// Of it what is held in memory, as its protection is another than usual.
static HELD: Lock<Vec<Held>> = Lock::new(Vec::new());

/// What the program is moving, and what the finder is registering: never the same.
static UNDER_WAY: Lock<UnderWay> = Lock::new(UnderWay { moving: Vec::new(), adopting: None });

struct UnderWay {
    moving: Vec<Range<usize>>,
    /// There is one finder.
    adopting: Option<Range<usize>>,
}

/// Attempts to give up what is to be moved.
const TRIES: u32 = 20;

/// Mappings smaller than this are not worth a look when they are made.
static LEAST: AtomicUsize = AtomicUsize::new(256 << 10);

/// Pages that must not leave.
struct Held {
    range: Range<usize>,
    /// Also what was nowhere when it was held.
    all: bool,
    /// Borrows from `region`, which lives at the same place for as long; dropped before it.
    pin: ManuallyDrop<Pin<'static>>,
    region: Arc<Region>,
}

// === impl Held ===

impl Held {
    /// What is somewhere in `range`, or all of it.
    fn new(region: Arc<Region>, range: Range<usize>, all: bool) -> Option<Held> {
        let start = region.addresses().start;
        let offsets = range.start - start..range.end - start;
        // What cannot be brought in stays poisoned, and is told when it is touched.
        let pin = if all { region.pin(offsets) } else { region.pin_populated(offsets) }.ok()?;
        // SAFETY: the region does not move out of its Arc, which is kept beside the pin and dropped after it.
        let pin = unsafe { std::mem::transmute::<Pin<'_>, Pin<'static>>(pin) };
        Some(Held { range, all, pin: ManuallyDrop::new(pin), region })
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

/// On the handler: a mapping has changed behind our back. No lock, no memory.
pub(crate) fn changed(change: &MappingChange) {
    match change {
        MappingChange::Unmapped(range) => gone::note(range),
        MappingChange::Moved { from, .. } => {
            gone::note(from);
            finder::nudge(); // to be registered where it is now
        }
        _ => (),
    }
}

/// Register `range`, which the program has mapped, in parts. What could not be, and why. What has gone, of regions that are there, is in `gone`.
pub(crate) fn adopt(vm: &Vm, range: Range<usize>, gone: &Ranges, mut refused: impl FnMut(Range<usize>, Error)) {
    let mut start = range.start;
    while start < range.end {
        let part = start..(start / PART * PART + PART).min(range.end);
        start = part.end;
        match register(vm, &part) {
            Some(Ok(())) => join(vm, part, gone),
            Some(Err(error)) => refused(part, error),
            None => {}
        }
    }
}

/// `None`: it is changing, and will be looked at again.
fn register(vm: &Vm, part: &Range<usize>) -> Option<Result<(), Error>> {
    let _adopting = Adopting::new(part)?; // who moves it has it looked for afterwards
    register_now(vm, part)
}

/// The same, of what nobody moves meanwhile.
fn register_now(vm: &Vm, part: &Range<usize>) -> Option<Result<(), Error>> {
    let memory = Memory::anonymous(part.start as *mut u8, part.len()).keep_on_fork();
    // What the program has unmapped since it was found may be ours by now: who served faults would fault there, and wait for itself.
    let still = || own::still_theirs(part);
    // SAFETY: the mapping is private and anonymous, and what becomes of it is followed.
    match unsafe { vm.register_if(memory, still) } {
        Ok(region) => drop(REGIONS.lock().insert(part.start, Arc::new(region))),
        Err(Error::Changed { .. }) => {
            finder::nudge();
            return None;
        }
        Err(error) => return Some(Err(error)),
    }
    Some(Ok(()))
}

/// Make one region of a new one and of those beside it that are no larger, one after the other: of what grows a little at a time there is a region
/// of each size, up to the large ones, and each page is registered so many times.
fn join(vm: &Vm, mut all: Range<usize>, gone: &Ranges) {
    // What is large is left as it is: while it is registered anew, a child that is born has two mappings of one, and cannot move them as one.
    while all.len() < LARGE
        && let Some(beside) = beside(&all, |beside| beside.len() <= all.len() && !gone.overlaps(beside))
    {
        let both = all.start.min(beside.start)..all.end.max(beside.end);
        let Some(_adopting) = Adopting::new(&both) else { return };
        // The other one first: where it is to stay, nothing has changed.
        if !give_up(beside.start) {
            return;
        }
        if !give_up(all.start) || !matches!(register_now(vm, &both), Some(Ok(()))) {
            finder::nudge(); // what is not registered now is found again, and stays apart if it has to
            return;
        }
        all = both;
    }
}

/// A region that ends or begins where `range` does the other, in the same part, and is as it should be.
fn beside(range: &Range<usize>, is_good: impl Fn(&Range<usize>) -> bool) -> Option<Range<usize>> {
    let part = range.start / PART;
    let regions = REGIONS.lock();
    let before = regions.range(part * PART..range.start).next_back().map(|(_, region)| region.addresses());
    let behind = regions.get(&range.end).map(|region| region.addresses()).filter(|behind| behind.start / PART == part);
    before.filter(|before| before.end == range.start).into_iter().chain(behind).find(is_good)
}

/// A part is being registered: nobody moves it meanwhile.
struct Adopting;

impl Adopting {
    /// `None`: it is being moved.
    fn new(part: &Range<usize>) -> Option<Self> {
        let mut under_way = UNDER_WAY.lock();
        if under_way.moving.iter().any(|moving| overlap(moving, part)) {
            return None;
        }
        under_way.adopting = Some(part.clone());
        Some(Adopting)
    }
}

impl Drop for Adopting {
    fn drop(&mut self) {
        UNDER_WAY.lock().adopting = None;
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The program is about to move `range`, or to make it longer: its pages come in, and it is registered no more, so that the kernel has nothing to
/// tell. [`after_move`] must follow.
pub(crate) fn before_move(range: Range<usize>) {
    UNDER_WAY.lock().moving.push(range.clone());
    while UNDER_WAY.lock().adopting.as_ref().is_some_and(|part| overlap(part, &range)) {
        std::thread::sleep(Duration::from_micros(50)); // it is registered once, and nothing of it after that
    }
    for _ in 0..TRIES {
        let starts: Vec<_> = regions(&range).iter().map(|region| region.addresses().start).collect();
        if starts.is_empty() {
            return;
        }
        starts.into_iter().for_each(|start| _ = give_up(start));
        std::thread::yield_now(); // who else is at one is soon through
    }
    // What cannot be read stays registered; what can is in memory until it has moved.
    before_change(range);
}

/// It has moved, or not: it may be registered, wherever it is.
pub(crate) fn after_move(range: &Range<usize>) {
    moved(range);
    finder::nudge();
}

/// What lies there, and was found to be the program's memory, is not.
pub(crate) fn never(range: Range<usize>) {
    before_move(range.clone());
    moved(&range);
}

fn moved(range: &Range<usize>) {
    drop(take_held(range));
    let mut under_way = UNDER_WAY.lock();
    if let Some(at) = under_way.moving.iter().position(|moving| moving == range) {
        under_way.moving.swap_remove(at);
    }
}

/// Give up the region at an address, to register what is there anew: what is left of it comes in, and nothing of it has to be held any more. Not
/// while somebody is at it, or where a page cannot be read: then it stays, and this says no.
pub(crate) fn give_up(start: usize) -> bool {
    let Some(region) = REGIONS.lock().remove(&start) else { return true };
    let is_of = |held: &mut Held| Arc::ptr_eq(&held.region, &region);
    let held: Vec<Held> = HELD.lock().extract_if(.., is_of).collect();
    let ranges: Vec<(Range<usize>, bool)> = held.iter().map(|held| (held.range.clone(), held.all)).collect();
    drop(held);
    let kept = match Arc::try_unwrap(region) {
        Ok(region) => match region.unregister() {
            Ok(()) => return true,
            Err((region, _cannot_be_read)) => Arc::new(region),
        },
        Err(region) => region,
    };
    REGIONS.lock().insert(start, Arc::clone(&kept));
    let again = ranges.into_iter().filter_map(|(range, all)| Held::new(Arc::clone(&kept), range, all));
    again.for_each(|held| HELD.lock().push(held));
    false
}

/// The same, for who has found that a part of it has gone: who moves some of it now does so himself, and then it is left.
pub(crate) fn give_up_unmoved(region: &Range<usize>) -> bool {
    Adopting::new(region).is_some_and(|_adopting| give_up(region.start))
}

/// The ranges of all regions, in order.
pub(crate) fn addresses() -> Vec<Range<usize>> {
    REGIONS.lock().values().map(|region| region.addresses()).collect()
}

/// What is held of a range that is gone can leave: there is nothing.
pub(crate) fn let_go(range: &Range<usize>) {
    drop(take_held(range));
}

/// The regions that have an address of `range`.
fn regions(range: &Range<usize>) -> Vec<Arc<Region>> {
    let regions = REGIONS.lock();
    // They are at most so large.
    let near = regions.range(range.start.saturating_sub(PART)..range.end).map(|(_, region)| region);
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

/// Before the protection of `range` changes: nothing of it is out, and what is touched first afterwards the kernel will not let us take.
pub(crate) fn before_change(range: Range<usize>) {
    hold(range, false);
}

/// Before `range` is locked: all of it will be there.
pub(crate) fn before_lock(range: Range<usize>) {
    hold(range, true);
}

fn hold(range: Range<usize>, all: bool) {
    for region in regions(&range) {
        let whole = region.addresses();
        let part = range.start.max(whole.start)..range.end.min(whole.end);
        // Once is enough: who changes protections again and again would hold it as often.
        let holds = |held: &Held| {
            let covers = held.range.start <= part.start && part.end <= held.range.end;
            Arc::ptr_eq(&held.region, &region) && covers && (held.all || !all)
        };
        if HELD.lock().iter().any(holds) {
            continue;
        }
        if let Some(held) = Held::new(region, part, all) {
            HELD.lock().push(held);
        }
    }
}

/// Everything may leave that the kernel lets go.
pub(crate) fn let_all_go() {
    let all = std::mem::take(&mut *HELD.lock());
    drop(all); // with no lock of ours
}

/// After `range` has become as it was.
pub(crate) fn after_change_back(range: Range<usize>) {
    drop(take_held(&range));
}

/// What is held within a range; what is held beside it stays.
fn take_held(range: &Range<usize>) -> Vec<Held> {
    let taken: Vec<Held> = HELD.lock().extract_if(.., |held| overlap(&held.range, range)).collect();
    for held in &taken {
        let beside =
            [held.range.start..range.start.min(held.range.end), range.end.max(held.range.start)..held.range.end];
        // Pinned once more, so that it stays when `held` goes.
        let beside = beside.into_iter().filter(|part| !part.is_empty());
        beside
            .filter_map(|part| Held::new(Arc::clone(&held.region), part, false))
            .for_each(|held| HELD.lock().push(held));
    }
    taken
}
