//! [`Finder`]: a thread that looks for memory of the program's that is not registered yet.
//!
//! ```text
//!   every 10 ms: /proc/self/statm           has so much been mapped or unmapped that a look is worth it?
//!     yes, or nudged, or 200 ms: /proc/self/maps
//!         mappings - ours and stacks - registered - refused lately  =  new: of at least 256 KiB each: register
//!         registered, partly gone, and mapped again: give up and register anew
//! ```
//!
//! The C library maps memory for malloc without calling an interposed function, and nothing else tells of it.

use crate::following;
use crate::gone;
use crate::lock::futex;
use crate::maps::Maps;
use crate::own;
use crate::ranges::Ranges;
use crate::system::PAGE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};
use std::time::{Duration, Instant};
use zspool::guest::Vm;

/// Between two looks at how much is mapped.
const TICK: Duration = Duration::from_millis(10);

/// A look at all mappings, whatever that says.
const ANYWAY: Duration = Duration::from_millis(200);

/// So much more or less mapped is worth a look.
const CHANGE_PAGES: u64 = 256;

/// What could not be registered is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// 1: somebody has mapped something large.
static NUDGE: AtomicU32 = AtomicU32::new(0);

/// Have it look soon.
pub(crate) fn nudge() {
    // Release: pairs with the finder's acquire, though what it looks at is the kernel's.
    if NUDGE.swap(1, Release) == 0 {
        futex(&NUDGE, libc::FUTEX_WAKE, 1, None);
    }
}

/// The thread's state.
pub(crate) struct Finder {
    vm: &'static Vm,
    /// The smallest range that is registered, in bytes.
    least: usize,
    statm: File,
    maps: Maps,
    /// Pages of data that were mapped at the last look.
    data_pages: u64,
    looked: Instant,
    /// Unmapped or moved, of regions that are there still.
    gone: Ranges,
    /// What could not be registered once: something may just have been changing.
    failed: Ranges,
    /// What could not be registered twice, and since when.
    refused: (Ranges, Instant),
}

// === impl Finder ===

impl Finder {
    /// # Errors
    /// Where there is no `/proc`.
    pub(crate) fn new(vm: &'static Vm, least: usize) -> io::Result<Finder> {
        let now = Instant::now();
        let (statm, refused) = (File::open("/proc/self/statm")?, (Ranges::new(), now));
        Ok(Finder {
            vm,
            least: least.max(PAGE),
            statm,
            maps: Maps::default(),
            data_pages: 0,
            looked: now,
            gone: Ranges::new(),
            failed: Ranges::new(),
            refused,
        })
    }

    /// For ever.
    pub(crate) fn run(mut self, mut each_tick: impl FnMut()) {
        loop {
            self.tick();
            each_tick();
            let tick = libc::timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
            futex(&NUDGE, libc::FUTEX_WAIT, 0, Some(&tick));
        }
    }

    fn tick(&mut self) {
        let nudged = NUDGE.swap(0, Acquire) == 1;
        let data_pages = self.data_pages().unwrap_or(self.data_pages);
        let changed = data_pages.abs_diff(self.data_pages) >= CHANGE_PAGES;
        if nudged || changed || self.looked.elapsed() >= ANYWAY {
            self.data_pages = data_pages;
            self.look();
            self.looked = Instant::now();
        }
    }

    /// Private pages that can be written, as the kernel counts them.
    fn data_pages(&self) -> Option<u64> {
        let mut text = [0; 256];
        let len = self.statm.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().nth(5)?.parse().ok()
    }

    /// Register what is new.
    pub(crate) fn look(&mut self) {
        if !gone::take(&mut self.gone) {
            // So much has gone that nobody knows what: all is given up, and found again.
            following::addresses().into_iter().for_each(|range| self.gone.add(range));
        }
        let mut own = own::snapshot();
        if self.maps.read().is_err() {
            return; // it could not be opened: no descriptor is left
        }
        // What was ours when we looked, and what is now: one may have come and the other gone meanwhile.
        own::snapshot().iter().for_each(|range| own.add(range.clone()));
        own::forget_stacks(|stack| self.maps.has(stack));
        if self.refused.1.elapsed() >= AGAIN {
            self.refused = (Ranges::new(), Instant::now());
        }
        let mut found = Ranges::new();
        for mapping in self.maps.candidates() {
            own.missing(mapping.range).into_iter().for_each(|part| found.add(part));
        }
        self.give_up(&found);
        let mut registered = Ranges::new();
        following::addresses().into_iter().for_each(|range| registered.add(range));
        let (refused, before, gone) = (&mut self.refused.0, std::mem::take(&mut self.failed), &self.gone);
        for new in found.iter().flat_map(|range| registered.missing(range.clone())) {
            if new.len() >= self.least && !refused.overlaps(&new) {
                following::adopt(self.vm, new, gone, |part, _why| match before.overlaps(&part) {
                    true => refused.add(part),
                    false => self.failed.add(part),
                });
            }
        }
    }

    /// Give up regions of which parts have gone: where nothing is left, and where the program has memory again.
    fn give_up(&mut self, found: &Ranges) {
        let mut settled = Ranges::new();
        for region in following::addresses().into_iter().filter(|region| self.gone.overlaps(region)) {
            let part: Vec<_> = self.gone.within(region.clone()).collect();
            let gone: usize = part.iter().map(|part| part.len()).sum();
            let there: usize = part.iter().flat_map(|part| found.within(part.clone())).map(|part| part.len()).sum();
            // A little is not worth it: it stays outside of the limit.
            if gone == region.len() || there >= self.least.min(region.len() / 2) {
                part.iter().for_each(following::let_go);
                if following::give_up_unmoved(&region) {
                    settled.add(region);
                }
            }
        }
        settled.iter().for_each(|range| self.gone.remove(range.clone()));
        // What was of no region is of no interest.
        let mut registered = Ranges::new();
        following::addresses().into_iter().for_each(|range| registered.add(range));
        let strange: Vec<_> = self.gone.iter().flat_map(|range| registered.missing(range.clone())).collect();
        strange.into_iter().for_each(|range| self.gone.remove(range));
    }
}
