//! From an address to the region it lies in, without a lock: for handlers of signals.
//!
//! ```text
//!   root --> [ 0x10000..0x50000 pages | 0x70000..0x71000 announced | 0x90000..0xa0000 gone ]      sorted, never changed
//!    |
//!    +-- who changes it makes another one, shows that, waits for who may be reading the old one, and throws it away
//!
//!   readers   epoch even: [ n ]  odd: [ m ]      counted while they look, which is a search and a reference taken
//! ```
//!
//! 1. Who finds a region holds a reference to it; it is let go again when the fault is served. A region that is unregistered is taken off
//!    the list first, and then waits until it has the last reference: no handler of signals frees anything.
//! 2. A range that is *announced*, or *gone* since a moment, says neither: the fault is as old as that, so the access is to be made again.
//!
//! Locks: whoever changes the list takes one, of the rank of guests; it is never held while guest memory is touched.

use super::Error;
use super::pages::Pages;
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::sync::thread::Backoff;
use crate::sync::{Arc, Clock, Mutex, Rank, process_static};
use crate::units::PAGE_SIZE;
use std::ops::Range;

/// How long a range that was unregistered is remembered: for threads that faulted before that, and whose handler has not asked yet.
const REMEMBERED_MILLIS: u64 = 10_000;

/// What is at an address.
pub(crate) enum Found {
    /// A page of a region. The region lives as long as this does.
    Page(Arc<Pages>, u32),
    /// It is being registered: touch it again.
    Transit,
    /// It was registered until a moment ago: touch it again, unless the kernel has it registered still, or anew: a mapping that `mremap`
    /// has moved there.
    Gone,
    /// Nothing of ours.
    Nothing,
}

#[derive(Clone)]
struct Entry {
    range: Range<usize>,
    what: What,
}

#[derive(Clone)]
enum What {
    Announced,
    Pages(Arc<Pages>),
    /// Since then.
    Gone(u64),
}

/// The ranges of the process.
struct Registry {
    /// A boxed list, as an address; 0 is an empty one.
    root: AtomicUsize,
    epoch: AtomicU32,
    readers: [AtomicU32; 2],
    /// Who changes the list.
    writer: Mutex<()>,
}

process_static! {
    REGISTRY: Registry = Registry {
        root: AtomicUsize::new(0),
        epoch: AtomicU32::new(0),
        readers: [AtomicU32::new(0), AtomicU32::new(0)],
        writer: Mutex::new(Rank::Guest, ()),
    }
}

/// What is at an address, in the whole process. No lock, no allocation.
pub(crate) fn find(address: usize) -> Found {
    REGISTRY.find(address)
}

/// Do something about an address of no region: nobody announces one there before it is done. `None`, and nothing is done, where there is one.
pub(crate) fn while_nobodys<R>(address: usize, f: impl FnOnce() -> R) -> Option<R> {
    let _reading = REGISTRY.read();
    matches!(REGISTRY.find(address), Found::Gone | Found::Nothing).then(f)
}

/// The first region that ends behind `after` and has addresses below `end`. No lock, no allocation.
pub(crate) fn next(after: usize, end: usize) -> Option<Arc<Pages>> {
    let reading = REGISTRY.read();
    let entries = reading.entries();
    let at = entries.partition_point(|entry| entry.range.end <= after);
    let there = entries[at..].iter().take_while(|entry| entry.range.start < end);
    there.filter_map(|entry| if let What::Pages(pages) = &entry.what { Some(pages.clone()) } else { None }).next()
}

/// All regions that have addresses in a range, in their order: one by one, without a lock or an allocation.
pub(crate) fn overlapping(range: &Range<usize>) -> impl Iterator<Item = Arc<Pages>> + use<> {
    let (mut after, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let pages = next(after, end)?;
        after = pages.addresses().end;
        Some(pages)
    })
}

/// The region is not there any more.
pub(crate) fn remove(range: &Range<usize>) {
    let now = Clock::coarse().millis();
    REGISTRY.change(|entries| {
        entries.iter_mut().filter(|entry| entry.range == *range).for_each(|entry| entry.what = What::Gone(now));
    });
}

/// A range that is about to be registered. Dropped, it is not.
#[must_use = "dropped, the range is not announced any more"]
pub(crate) struct Announced {
    range: Option<Range<usize>>,
}

impl Announced {
    /// Say that a range is about to be registered.
    ///
    /// # Errors
    /// [`Error::Overlap`].
    pub(crate) fn new(range: Range<usize>) -> Result<Self, Error> {
        let now = Clock::coarse().millis();
        let other = REGISTRY.change(|entries| {
            let overlaps = |entry: &Entry| entry.range.start < range.end && range.start < entry.range.end;
            let taken = |entry: &&Entry| overlaps(entry) && !matches!(entry.what, What::Gone(_));
            if let Some(other) = entries.iter().find(taken) {
                return Some(other.range.clone());
            }
            // Their place is taken again, or nobody asks for them any more.
            let remembered = |since: u64| now.saturating_sub(since) < REMEMBERED_MILLIS;
            entries.retain(|entry| match entry.what {
                What::Gone(since) => remembered(since) && !overlaps(entry),
                _ => true,
            });
            let at = entries.partition_point(|entry| entry.range.start < range.start);
            entries.insert(at, Entry { range: range.clone(), what: What::Announced });
            None
        });
        match other {
            Some(other) => Err(Error::Overlap { range, other }),
            None => Ok(Announced { range: Some(range) }),
        }
    }

    /// Its faults can be served: by these pages.
    pub(crate) fn publish(self, pages: Arc<Pages>) -> Self {
        REGISTRY.change(|entries| {
            let ours = entries.iter_mut().find(|entry| Some(&entry.range) == self.range.as_ref());
            ours.expect("announced, and nobody else removes it").what = What::Pages(pages);
        });
        self
    }

    /// It is registered; [`remove`] ends that.
    pub(crate) fn keep(mut self) {
        self.range = None;
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if let Some(range) = self.range.take() {
            remove(&range);
        }
    }
}

// === impl Registry ===

impl Registry {
    fn find(&self, address: usize) -> Found {
        let reading = self.read();
        let entries = reading.entries();
        let at = entries.partition_point(|entry| entry.range.end <= address);
        match entries.get(at).filter(|entry| entry.range.contains(&address)) {
            Some(Entry { range, what: What::Pages(pages) }) => {
                Found::Page(pages.clone(), ((address - range.start) / PAGE_SIZE) as u32)
            }
            Some(Entry { what: What::Announced, .. }) => Found::Transit,
            Some(Entry { what: What::Gone(since), .. })
                if Clock::coarse().millis().saturating_sub(*since) < REMEMBERED_MILLIS =>
            {
                Found::Gone
            }
            _ => Found::Nothing,
        }
    }

    fn read(&self) -> Reading<'_> {
        let side = (self.epoch.load(Ordering::SeqCst) % 2) as usize;
        // SeqCst: counted before the root is read, and who has changed that looks at the count afterwards.
        self.readers[side].fetch_add(1, Ordering::SeqCst);
        Reading { registry: self, side }
    }

    /// Change the list, and wait until nobody reads what it was.
    fn change<R>(&self, change: impl FnOnce(&mut Vec<Entry>) -> R) -> R {
        let _alone = self.writer.lock();
        let old = self.root.load(Ordering::SeqCst) as *mut Vec<Entry>;
        // SAFETY: made below; only who has the lock throws it away.
        let mut entries = if old.is_null() { Vec::new() } else { unsafe { (*old).clone() } };
        let result = change(&mut entries);
        self.root.store(Box::into_raw(Box::new(entries)).expose_provenance(), Ordering::SeqCst);
        // Who has the old list was counted before that, on one side or the other: a reader can be late with a side.
        for _ in 0..2 {
            let side = (self.epoch.fetch_add(1, Ordering::SeqCst) % 2) as usize;
            let mut backoff = Backoff::new();
            while self.readers[side].load(Ordering::SeqCst) > 0 {
                backoff.wait_for_io();
            }
        }
        if !old.is_null() {
            // SAFETY: made by `Box::into_raw` of an earlier change, not the root any more, and nobody reads it.
            drop(unsafe { Box::from_raw(old) });
        }
        result
    }
}

/// A look at the list.
struct Reading<'a> {
    registry: &'a Registry,
    side: usize,
}

impl Reading<'_> {
    fn entries(&self) -> &[Entry] {
        let root = std::ptr::with_exposed_provenance::<Vec<Entry>>(self.registry.root.load(Ordering::SeqCst));
        if root.is_null() {
            return &[];
        }
        // SAFETY: a list that was the root after we were counted is not thrown away before we are not.
        unsafe { &*root }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.registry.readers[self.side].fetch_sub(1, Ordering::Release);
    }
}
