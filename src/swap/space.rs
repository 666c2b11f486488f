//! [`Space`]: which pages of a device are free, and how many live objects touch each of the others.
//!
//! ```text
//!              take                commit: objects in it
//!   free ------------------> held ------------------------> occupied
//!    ^ ^                      |                                |
//!    | +----------------------+ commit: unused; give_back      | release of its last object
//!    +---------------------------------------------------------+
//!    |                        |                                |
//!    | punched                | the write failed there         | condemned
//!    v                        v                                v
//!   punching                 bad <-----------------------------+
//! ```
//!
//! 1. Every page is in one state: `free + held + occupied + punching + bad == pages`.
//! 2. `taken` is set for every page that is not free; only free pages are handed out, so a page that is being punched
//!    never is.
//! 3. `live[p]` is the number of live objects that touch page p; the page is occupied exactly while it is above 0.
//! 4. `dirty` is set for pages that may have storage behind them; `maintain` punches those that are free.
//! 5. `generation[p]` goes up by one each time page p is handed out.
//! 6. All arrays are made at once; nothing here allocates later.
//!
//! Areas and batches call this. It knows pages, not bytes: it does no I/O.

use super::bitmap::Bitmap;
use super::geometry::MAX_BATCH_PAGES;
use super::place::Place;
use crate::sync::{Condvar, Mutex, Rank};
use std::ops::Range;

/// Pages searched for a run that is long enough before the longest seen has to do: 64 KiB of bitmap.
const SEARCH_PAGES: usize = 1 << 19;

/// Pages punched in one call: 4 MiB, for while they are punched they cannot be used.
const PUNCH_PAGES: usize = 1024;

/// A run of pages handed out for a batch. It goes back to its [`Space`], or its pages stay held.
#[derive(Debug)]
#[must_use]
pub(super) struct Extent {
    /// The first page.
    pub(super) first: usize,
    /// How many: 1 to [`MAX_BATCH_PAGES`].
    pub(super) pages: usize,
    /// The generation of each, modulo 2^10.
    pub(super) generations: [u16; MAX_BATCH_PAGES],
}

/// What a batch put into an extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contents {
    /// Objects that touch each page of the extent.
    pub(super) touching: [u8; MAX_BATCH_PAGES],
    /// Objects.
    pub(super) objects: u64,
    /// Blocks of those objects.
    pub(super) blocks: u64,
}

/// The counters, in pages unless they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SpaceStats {
    pub(super) pages: usize,
    pub(super) free: usize,
    pub(super) held: usize,
    pub(super) occupied: usize,
    pub(super) punching: usize,
    pub(super) bad: usize,
    /// Free pages that may have storage behind them.
    pub(super) unpunched: usize,
    pub(super) objects: u64,
    pub(super) live_blocks: u64,
}

/// The map of a device.
#[derive(Debug)]
pub(super) struct Space {
    /// Blocks of a page.
    blocks_per_page: usize,
    /// Pages that were being punched can be used again.
    punched: Condvar,
    map: Mutex<Map>,
}

#[derive(Debug)]
struct Map {
    taken: Bitmap,
    dirty: Bitmap,
    /// Pages that lied or refused: not handed out again.
    bad: Bitmap,
    live: Vec<u8>,
    generation: Vec<u16>,
    /// Where the next search begins.
    cursor: usize,
    stats: SpaceStats,
}

// === impl Space ===

impl Space {
    /// `pages` free pages, clean, of `blocks_per_page` blocks each.
    pub(super) fn new(pages: usize, blocks_per_page: usize) -> Self {
        let map = Map {
            taken: Bitmap::new(pages),
            dirty: Bitmap::new(pages),
            bad: Bitmap::new(pages),
            live: vec![0; pages],
            generation: vec![0; pages],
            cursor: 0,
            stats: SpaceStats { pages, free: pages, ..SpaceStats::default() },
        };
        Space { blocks_per_page, punched: Condvar::new(), map: Mutex::new(Rank::Device, map) }
    }

    /// A run of free pages, next after the last one: `most` if there is such a run near, else the longest near, but
    /// `least` at least. `None` when there is none. Waits for pages that are being punched when nothing else is left.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn take(&self, least: usize, most: usize) -> Option<Extent> {
        assert!(0 < least && least <= most && most <= MAX_BATCH_PAGES, "{least} to {most} pages");
        let mut map = self.map.lock();
        loop {
            if let Some(run) = map.find(least, most) {
                return Some(map.take(run));
            }
            if map.stats.punching == 0 {
                return None;
            }
            self.punched.wait(&mut map);
        }
    }

    /// The objects of a batch are on the device: its pages are theirs, and those without any are free.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn commit(&self, extent: &Extent, contents: &Contents) {
        let mut map = self.map.lock();
        for (page, &touching) in (extent.first..extent.first + extent.pages).zip(&contents.touching) {
            map.leave_held(page);
            if touching == 0 {
                map.free(page);
            } else {
                map.dirty.set(page, true);
                map.live[page] = touching;
                map.stats.occupied += 1;
            }
        }
        map.stats.objects += contents.objects;
        map.stats.live_blocks += contents.blocks;
    }

    /// Nothing was written: the pages are free.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn give_back(&self, extent: &Extent) {
        let mut map = self.map.lock();
        for page in extent.first..extent.first + extent.pages {
            map.leave_held(page);
            map.free(page);
        }
    }

    /// The first `tried` pages may have been written, in vain. They are free but for `bad`, which is not used again.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn give_back_failed(&self, extent: &Extent, tried: usize, bad: Option<usize>) {
        let mut map = self.map.lock();
        for page in extent.first..extent.first + extent.pages {
            map.leave_held(page);
            if page < extent.first + tried {
                map.dirty.set(page, true);
            }
            if bad == Some(page) {
                map.bad.set(page, true);
            }
            map.free(page);
        }
    }

    /// The object at `place` is gone; pages it was the last to touch are free. No allocation, no system call but for a
    /// contended lock.
    ///
    /// # Panics
    /// When no live object can be there: it was freed before.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn release(&self, place: &Place) {
        let mut map = self.map.lock();
        let pages = self.pages_of(place);
        assert!(pages.end <= map.stats.pages, "{place:?} is outside the device");
        assert_eq!(
            map.generation[pages.start] % Place::GENERATIONS,
            place.generation,
            "{place:?} was freed before: its page has been handed out again"
        );
        for page in pages {
            assert!(map.live[page] > 0, "{place:?} was freed before: nothing lives on its page");
            map.live[page] -= 1;
            if map.live[page] == 0 {
                map.stats.occupied -= 1;
                map.free(page);
            }
        }
        map.stats.objects -= 1;
        map.stats.live_blocks -= u64::from(place.blocks);
    }

    /// The pages of a live object are not to be trusted: they are used no more once all their objects are gone. `false`
    /// when the place is not the page's present use.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn condemn(&self, place: &Place) -> bool {
        let mut map = self.map.lock();
        let pages = self.pages_of(place);
        let present = map.generation[pages.start] % Place::GENERATIONS == place.generation;
        if !present || pages.clone().any(|page| map.live[page] == 0) {
            return false;
        }
        for page in pages {
            map.bad.set(page, true);
        }
        true
    }

    /// The next run of free pages at or after `from` that may have storage behind them, to be punched; nobody gets them
    /// until [`punched`](Self::punched).
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn punch_next(&self, from: usize) -> Option<Range<usize>> {
        let mut map = self.map.lock();
        let pages = map.stats.pages;
        let mut at = from;
        while map.stats.unpunched > 0 {
            let start = map.dirty.first_one(at..pages)?;
            let clean = map.dirty.first_zero(start..start + PUNCH_PAGES).unwrap_or(pages.min(start + PUNCH_PAGES));
            let end = map.taken.first_one(start..clean).unwrap_or(clean);
            if start < end {
                for page in start..end {
                    map.taken.set(page, true);
                }
                map.stats.free -= end - start;
                map.stats.unpunched -= end - start;
                map.stats.punching += end - start;
                return Some(start..end);
            }
            at = map.taken.first_zero(start..pages)?;
        }
        None
    }

    /// The run has no storage behind it any more, or keeps it because the device cannot punch: it is free.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn punched(&self, run: Range<usize>) {
        let mut map = self.map.lock();
        map.stats.punching -= run.len();
        for page in run {
            map.dirty.set(page, false);
            map.free(page);
        }
        drop(map);
        self.punched.notify_all();
    }

    /// The counters, of one instant.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn stats(&self) -> SpaceStats {
        self.map.lock().stats
    }

    /// Check the numbered invariants. Pages held or being punched at the moment are allowed for.
    ///
    /// # Panics
    /// With a sentence, when one is broken.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn assert_valid(&self) {
        let map = self.map.lock();
        let stats = map.stats;
        let states = stats.free + stats.held + stats.occupied + stats.punching + stats.bad;
        assert_eq!(states, stats.pages, "(1) every page is in one state: {stats:?}");
        assert_eq!(map.taken.ones(), stats.pages - stats.free, "(2) taken are those that are not free");
        let (mut occupied, mut bad, mut unpunched, mut touches) = (0, 0, 0, 0u64);
        for page in 0..stats.pages {
            let (taken, live) = (map.taken.get(page), map.live[page]);
            assert!(taken || live == 0, "(2) free page {page} has {live} live objects");
            assert!(usize::from(live) <= self.blocks_per_page, "(3) page {page} has more objects than blocks");
            occupied += usize::from(live > 0);
            bad += usize::from(map.bad.get(page) && live == 0);
            assert!(taken || !map.bad.get(page), "(2) bad page {page} is free");
            unpunched += usize::from(map.dirty.get(page) && !taken);
            assert!(live == 0 || map.dirty.get(page), "(4) page {page} has objects but no storage");
            touches += u64::from(live);
        }
        assert_eq!(occupied, stats.occupied, "(3) occupied pages have live objects");
        assert_eq!(bad, stats.bad, "(1) bad pages have the bit and no objects");
        assert_eq!(unpunched, stats.unpunched, "(4) unpunched pages are dirty and free");
        assert!(touches >= stats.objects && stats.live_blocks >= stats.objects, "(3) each object touches a page");
        assert!(stats.live_blocks <= (stats.occupied * self.blocks_per_page) as u64, "(3) blocks lie in pages");
    }

    /// The pages a place touches.
    pub(super) fn pages_of(&self, place: &Place) -> Range<usize> {
        let first = place.block as usize;
        let last = first + usize::from(place.blocks) - 1;
        first / self.blocks_per_page..last / self.blocks_per_page + 1
    }
}

// === impl Map ===

impl Map {
    /// The run [`Space::take`] promises.
    fn find(&self, least: usize, most: usize) -> Option<Range<usize>> {
        let pages = self.stats.pages;
        if self.stats.free < least {
            return None;
        }
        let mut best = 0..0;
        let mut searched = 0;
        // The second lap goes a little past the cursor, for a run that the cursor cuts.
        for lap in [self.cursor..pages, 0..pages.min(self.cursor + most)] {
            let mut at = lap.start;
            while let Some(start) = self.taken.first_zero(at..lap.end) {
                let end = lap.end.min(start + most);
                let end = self.taken.first_one(start..end).unwrap_or(end);
                if end - start > best.len() {
                    best = start..end;
                }
                searched += end - at;
                if best.len() == most || (best.len() >= least && searched >= SEARCH_PAGES) {
                    return Some(best);
                }
                at = end;
            }
        }
        (best.len() >= least).then_some(best)
    }

    fn take(&mut self, run: Range<usize>) -> Extent {
        let mut extent = Extent { first: run.start, pages: run.len(), generations: [0; MAX_BATCH_PAGES] };
        for (page, generation) in run.clone().zip(&mut extent.generations) {
            self.taken.set(page, true);
            self.stats.unpunched -= usize::from(self.dirty.get(page));
            self.generation[page] = self.generation[page].wrapping_add(1);
            *generation = self.generation[page] % Place::GENERATIONS;
        }
        self.stats.free -= run.len();
        self.stats.held += run.len();
        self.cursor = if run.end == self.stats.pages { 0 } else { run.end };
        extent
    }

    fn leave_held(&mut self, page: usize) {
        debug_assert!(self.taken.get(page) && self.live[page] == 0, "page {page} is held");
        self.stats.held -= 1;
    }

    /// A page in no other state becomes free, or bad.
    fn free(&mut self, page: usize) {
        if self.bad.get(page) {
            self.stats.bad += 1;
            return;
        }
        self.taken.set(page, false);
        self.stats.free += 1;
        self.stats.unpunched += usize::from(self.dirty.get(page));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
