//! [`Segments`]: a device cut into segments that are filled in order, and who has the objects in them.
//!
//! ```text
//!                 take                    commit                          its last object is released
//!    free ----------------------> held -----------------> used: open | full -------------+
//!     ^ ^                         |  ^                        |   |                      |
//!     | |  give_back, and nothing |  |          take (open)   |   | condemned            |
//!     | +-- lives there ----------+  +------------------------+   v                      |
//!     | punched                                                  bad, once it is empty   |
//!   punching <---------- free, with storage behind it <----------------------------------+
//!
//!    one segment   | batch     | batch         | batch  |  tail: from `append` on        |
//!                  | objects   | obj  X  obj   | obj    |                               |   X: dead, blocks not used again
//!                  page 0                                                        page 63    until the segment was free
//! ```
//!
//! 1. Every segment is in one state: `free + punching + held + late + open + full + bad == all`.
//! 2. A batch has the pages of one segment from its append point on, and no other batch has any of that segment.
//! 3. An object is live from the commit of its batch, which installs its reverse word, to its release.
//! 4. A segment's live blocks are the sum over its live reverse words; with the last one it is free, or bad if it was
//!    condemned, unless a batch holds it.
//! 5. Pages that may have been written are not handed out again before the segment was free, and its generation goes up when
//!    it is handed out then: no two live places are ever equal, nor a live one and one that a failed batch promised.
//! 6. The last free segment is handed out to cleaning only, and what that leaves of it is kept for cleaning until another
//!    segment is free: so there is always somewhere to clean to.
//! 7. `release` neither allocates nor gives memory back; `punch_next` gives the reverse words of free segments back.
//!
//! Areas and batches call this. It knows pages, blocks and labels, not bytes: it does no I/O.

pub(super) mod bitmap;
mod descriptor;
mod lists;
mod map;
#[cfg(all(test, not(loom)))]
mod tests;
mod valid;

use self::descriptor::{Descriptors, Flags, Share, Sizes, State};
use self::lists::{Home, NIL};
use self::map::{Choice, Map};
use super::place::Place;
use super::rmap::{Object, Tenant};
use crate::sync::{Bug, Condvar, Mutex, Planted, Rank};
use crate::units::Owner;
use std::ops::Range;

/// Pages punched in one call: 4 MiB, for while they are punched they cannot be used.
const PUNCH_PAGES: usize = 1024;

/// A segment of an area: its number in device order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

/// Who asks for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Objects that come to this device.
    Filling,
    /// Objects of this device, that leave a segment to be free.
    Cleaning,
}

/// Pages of one segment, handed out for a batch. They go back to their [`Segments`].
#[derive(Debug)]
#[must_use]
pub(super) struct Extent {
    pub(super) segment: u32,
    /// The first page, in the segment.
    pub(super) first: usize,
    /// How many: 1 to 64.
    pub(super) pages: usize,
    /// The generation of places here.
    pub(super) generation: u16,
    /// Reverse words that the segment has already.
    pub(super) objects: usize,
}

/// Segments by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentCounts {
    /// All of them.
    pub all: u64,
    /// Nothing lives there.
    pub free: u64,
    /// There is room for another batch, or a batch has it.
    pub open: u64,
    /// No room for another batch, or no batch may have it.
    pub full: u64,
    /// Not used again.
    pub bad: u64,
    /// The write of a batch there is late, and nobody else may write there until it is through.
    pub late: u64,
}

impl std::ops::AddAssign for SegmentCounts {
    fn add_assign(&mut self, more: Self) {
        let SegmentCounts { all, free, open, full, bad, late } = more;
        self.all += all;
        self.free += free;
        self.open += open;
        self.full += full;
        self.bad += bad;
        self.late += late;
    }
}

/// The counters, of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentsStats {
    pub(super) counts: SegmentCounts,
    /// Pages before the append points of segments in use.
    pub(super) used_pages: u64,
    pub(super) live_blocks: u64,
    pub(super) objects: u64,
    pub(super) reclaimable_pages: u64,
    pub(super) punchable_pages: u64,
    pub(super) reverse_bytes: u64,
    pub(super) descriptor_bytes: u64,
}

/// Free segments next to each other that are being punched.
#[derive(Debug)]
#[must_use]
pub(super) struct Hole {
    pub(super) segments: Range<u32>,
    /// Pages of them that may have storage behind them.
    pub(super) dirty_pages: u64,
}

/// All segments of a device.
#[derive(Debug)]
pub(super) struct Segments {
    map: Mutex<Map>,
    /// A segment came back from a batch or from being punched.
    changed: Condvar,
    planted: Planted,
}

// === impl Segments ===

impl Segments {
    /// `count` free segments of `pages` pages of `1 << page_shift` blocks each. Nothing is made for a segment until it is
    /// handed out, but a bit.
    pub(super) fn new(count: u32, pages: usize, page_shift: u32, planted: Planted) -> Self {
        assert!(count < NIL, "{count} segments");
        let map = Map::new(count, Sizes::new(pages, page_shift));
        Segments { map: Mutex::new(Rank::Device, map), changed: Condvar::new(), planted }
    }

    /// Count generations from here on, before anything was handed out: places of an earlier device of this number do not come
    /// again.
    pub(super) fn count_from(&self, base: u16) {
        let mut map = self.map.lock();
        assert_eq!(map.fresh, 0, "generations are counted from a base before they are used");
        map.base = base;
    }

    /// A base for the device that has this number next.
    pub(super) fn next_base(&self) -> u16 {
        let map = self.map.lock();
        map.base.wrapping_add(map.newest)
    }

    /// Up to `most` pages of a segment: the shortest tail that has so many, else a free segment, else the longest tail, if it
    /// has `least`. `None` when there is none. Waits for segments that batches or holes have when nothing else is left.
    /// Allocates.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn take(&self, least: usize, most: usize, purpose: Purpose) -> Option<Extent> {
        assert!(0 < least && least <= most, "{least} to {most} pages");
        let mut map = self.map.lock();
        assert!(most <= map.sizes.pages, "{most} pages of a segment of {}", map.sizes.pages);
        loop {
            match map.choose(least, most, purpose) {
                Choice::Segment(id) => {
                    let (extent, spent) = map.take(id, most, purpose, self.planted.is(Bug::SegmentKeepsGeneration));
                    drop(map);
                    drop(spent);
                    return Some(extent);
                }
                Choice::Grow => {
                    let (known, all) = (map.segments.len(), map.count as usize);
                    drop(map);
                    let chunk = Descriptors::chunk(all - known);
                    map = self.map.lock();
                    if map.segments.len() == known {
                        map.segments.grow(chunk);
                    }
                }
                Choice::Wait => {
                    map.waiters += 1;
                    self.changed.wait(&mut map);
                    map.waiters -= 1;
                }
                Choice::Nowhere => return None,
            }
        }
    }

    /// A batch wrote the first `pages` pages of its extent: its objects are live. `room` is for their words and those the
    /// segment has.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn commit(&self, extent: Extent, pages: usize, words: &[u64], blocks: usize, room: Box<[u64]>) {
        let mut map = self.map.lock();
        if self.planted.is(Bug::CommitTrustsFirstLook) {
            let early = map.segments[extent.segment].rmap.clone();
            drop(map);
            map = self.map.lock();
            map.segments[extent.segment].rmap = early;
        }
        let append = (extent.first + pages) as u8;
        let spent = map.change(extent.segment, |segment| {
            segment.append = append;
            segment.dirty = segment.dirty.max(append);
            segment.live_blocks += blocks as u16;
            segment.rmap.append(room, extent.first, words)
        });
        map.objects += words.len() as u64;
        map.settle(extent.segment);
        self.wake(map);
        drop(spent);
    }

    /// Nothing was written.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn give_back(&self, extent: Extent) {
        self.give_back_failed(extent, 0, false);
    }

    /// The first `tried` pages may have been written, in vain; with `bad`, the segment is condemned.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn give_back_failed(&self, extent: Extent, tried: usize, bad: bool) {
        let mut map = self.map.lock();
        map.change(extent.segment, |segment| {
            // Nor are they tried again in this use: what a failed batch left there would look like what another one lost.
            segment.append = (extent.first + tried) as u8;
            segment.dirty = segment.dirty.max(segment.append);
            segment.flags.remove(Flags::LATE);
            segment.flags.set(Flags::BAD_WRITE, bad || segment.flags.contains(Flags::BAD_WRITE));
        });
        map.settle(extent.segment);
        self.wake(map);
    }

    /// The write of the batch that has this extent is late: whoever waits for the segment need not wait for it. It comes back
    /// by `commit` or `give_back_failed` all the same.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn mark_late(&self, extent: &Extent) {
        let mut map = self.map.lock();
        map.change(extent.segment, |segment| segment.flags.insert(Flags::LATE));
        self.wake(map);
    }

    fn wake(&self, map: crate::sync::MutexGuard<'_, Map>) {
        let anybody = map.waiters > 0;
        drop(map);
        if anybody {
            self.changed.notify_all();
        }
    }

    /// The object at `place` is gone. Returns who paid for it. No allocation, no system call but for a contended lock.
    ///
    /// # Panics
    /// When no live object is there: it was freed before.
    ///
    /// # Locks
    /// [`Rank::Device`].
    #[inline]
    pub(super) fn release(&self, place: &Place) -> u32 {
        let mut map = self.map.lock();
        match map.find(place) {
            Ok(at) => map.release(&at, place.blocks),
            Err(why) => panic!("{place:?} {why}"),
        }
    }

    /// Who has the live object at `place`; `None` when there is none.
    ///
    /// # Locks
    /// [`Rank::Device`].
    #[inline]
    pub(super) fn tenant(&self, place: &Place) -> Option<Tenant> {
        let map = self.map.lock();
        let at = map.find(place).ok()?;
        map.segments[at.segment].rmap.tenant(at.index)
    }

    /// Another slot is to have the live object at `place`.
    ///
    /// # Panics
    /// When there is none.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn set_owner(&self, place: &Place, owner: Owner) {
        let mut map = self.map.lock();
        match map.find(place) {
            Ok(at) => map.segments[at.segment].rmap.set_owner(at.index, owner),
            Err(why) => panic!("{place:?} {why}"),
        }
    }

    /// The segment of a live object is not to be trusted: it takes no more batches, and is not used again once its objects are
    /// gone. `false` when nothing lives at the place.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn condemn(&self, place: &Place) -> bool {
        let mut map = self.map.lock();
        let Ok(at) = map.find(place) else { return false };
        map.change(at.segment, |segment| segment.flags.insert(Flags::BAD_READ));
        map.drop_reserve(at.segment);
        true
    }

    /// Segments that were condemned for failed writes are as good as others again. Returns how many.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn reinstate(&self) -> usize {
        let mut map = self.map.lock();
        let failed: Vec<u32> = (0..map.fresh).filter(|&id| map.segments[id].flags.contains(Flags::BAD_WRITE)).collect();
        for &id in &failed {
            map.change(id, |segment| segment.flags.remove(Flags::BAD_WRITE));
            if map.segments[id].state == State::Bad {
                map.settle(id);
            }
        }
        self.wake(map);
        failed.len()
    }

    /// Free segments that may have storage behind them, to be punched; nobody gets them until [`punched`](Self::punched). Gives
    /// the memory of reverse words back that nobody needs.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn punch_next(&self) -> Option<Hole> {
        let mut spent = Vec::with_capacity(PUNCH_PAGES);
        let mut map = self.map.lock();
        while let Some(id) = map.lists.oldest(Home::SPENT).filter(|_| spent.len() < PUNCH_PAGES) {
            spent.push(map.change(id, |segment| std::mem::take(&mut segment.rmap)));
        }
        let id = map.lists.newest(Home::DIRTY)?;
        let most = (PUNCH_PAGES / map.sizes.pages).max(1) as u32;
        let dirty = |map: &Map, id: u32| map.segments[id].state == State::Free && map.segments[id].dirty > 0;
        let mut segments = id..id + 1;
        while segments.len() < most as usize && segments.start > 0 && dirty(&map, segments.start - 1) {
            segments.start -= 1;
        }
        while segments.len() < most as usize && segments.end < map.fresh && dirty(&map, segments.end) {
            segments.end += 1;
        }
        let mut dirty_pages = 0;
        for id in segments.clone() {
            dirty_pages += u64::from(map.segments[id].dirty);
            spent.push(map.change(id, |segment| {
                match self.planted.is(Bug::PunchLeavesFree) {
                    true => segment.dirty = 0,
                    false => segment.state = State::Punching,
                }
                std::mem::take(&mut segment.rmap)
            }));
        }
        drop(map);
        drop(spent);
        Some(Hole { segments, dirty_pages })
    }

    /// The hole has no storage behind it any more, or keeps it because the device cannot punch: its segments are free.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn punched(&self, hole: &Hole) {
        let mut map = self.map.lock();
        for id in hole.segments.clone() {
            if map.segments[id].state == State::Punching {
                map.change(id, |segment| segment.dirty = 0);
                map.settle(id);
            }
        }
        self.wake(map);
    }

    /// The counters, of one instant.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn stats(&self) -> SegmentsStats {
        let map = self.map.lock();
        let Share { punching, held, late, open, full, bad, .. } = map.sums;
        SegmentsStats {
            counts: SegmentCounts {
                all: map.count.into(),
                free: (map.free() + punching) as u64,
                open: (open + held) as u64,
                full: full as u64,
                bad: bad as u64,
                late: late as u64,
            },
            used_pages: map.sums.used_pages,
            live_blocks: map.sums.live_blocks,
            objects: map.objects,
            reclaimable_pages: map.sums.reclaimable_pages,
            punchable_pages: map.sums.punchable_pages,
            reverse_bytes: map.sums.reverse_bytes,
            descriptor_bytes: (map.segments.bytes() + map.occupied.bytes()) as u64,
        }
    }

    // --- for those who move objects

    /// The segment where cleaning wins most for what it costs: nearly the fewest live blocks; one with much room left only if
    /// there is no other. `None` when no segment is worth it.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn sparsest(&self) -> Option<SegmentId> {
        self.map.lock().sparsest().map(SegmentId)
    }

    /// The first segment from `from` on, in device order, with live objects.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn live_from(&self, from: SegmentId) -> Option<SegmentId> {
        let map = self.map.lock();
        map.occupied.first_one(from.0 as usize..map.fresh as usize).map(|id| SegmentId(id as u32))
    }

    /// The segment with live objects that was filled next after `after`, or first; the first too when nothing lives in `after`
    /// any more.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn oldest(&self, after: Option<SegmentId>) -> Option<SegmentId> {
        let map = self.map.lock();
        let next = match after.filter(|after| after.0 < map.fresh && map.occupied.get(after.0 as usize)) {
            None => return map.lists.oldest(Home::AGES).map(SegmentId),
            Some(after) => map.segments[after.0].links[Home::AGES.chain()].next,
        };
        (next != NIL).then_some(SegmentId(next))
    }

    /// Pages that batches have had of a segment; none when nothing lives there.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn used_pages_of(&self, id: SegmentId) -> usize {
        let map = self.map.lock();
        if map.lives_in(id.0) { map.segments[id.0].append.into() } else { 0 }
    }

    /// Begin to move the objects of a segment: no batch and no other mover gets it until [`moved`](Self::moved). Its pages
    /// written so far, the generation of its places, and its live objects. `None` when nothing lives there, or somebody moves
    /// them already. Allocates.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn move_out(&self, id: SegmentId) -> Option<(usize, u16, Vec<Object>)> {
        let mut objects = self.room_for_objects();
        let mut map = self.map.lock();
        if !map.lives_in(id.0) || map.segments[id.0].flags.contains(Flags::MOVING) {
            return None;
        }
        map.change(id.0, |segment| segment.flags.insert(Flags::MOVING));
        let segment = &map.segments[id.0];
        objects.extend(segment.rmap.objects(map.sizes.page_shift));
        Some((segment.append.into(), map.place_generation(segment.generation), objects))
    }

    /// Nobody moves the objects of this segment any more. `generation`: of its places as it was; what is left of an earlier use
    /// is over.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn moved(&self, id: SegmentId, generation: u16) {
        let mut map = self.map.lock();
        if map.place_generation(map.segments[id.0].generation) == generation {
            map.change(id.0, |segment| segment.flags.remove(Flags::MOVING));
        }
    }

    /// The generation of a segment's places, and its live objects in device order. Allocates.
    ///
    /// # Locks
    /// [`Rank::Device`].
    pub(super) fn live_objects(&self, id: SegmentId) -> (u16, Vec<Object>) {
        let mut objects = self.room_for_objects();
        let map = self.map.lock();
        if !map.lives_in(id.0) {
            return (0, objects);
        }
        let segment = &map.segments[id.0];
        objects.extend(segment.rmap.objects(map.sizes.page_shift));
        (map.place_generation(segment.generation), objects)
    }

    /// For the objects of any one segment: made outside the lock, and not for long.
    fn room_for_objects(&self) -> Vec<Object> {
        let blocks = self.map.lock().sizes.blocks();
        Vec::with_capacity(blocks)
    }
}
