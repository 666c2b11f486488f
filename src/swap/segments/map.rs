//! [`Map`]: the descriptors of a device with their lists and sums, under one lock.
//!
//! Every change of a descriptor goes through [`Map::change`], which keeps lists and sums as the descriptor says.

use super::super::place::Place;
use super::super::rmap::Rmap;
use super::super::segments::bitmap::Bitmap;
use super::descriptor::{Descriptors, Flags, Segment, Share, Sizes, State};
use super::lists::{Home, Lists, NIL};
use super::{Extent, Purpose};

/// Segments of one bucket that [`Map::sparsest`] compares.
const LOOKED_AT: usize = 32;

/// Where a batch may go.
pub(super) enum Choice {
    /// To this segment.
    Segment(u32),
    /// To the next fresh one, once there are descriptors for it.
    Grow,
    /// Perhaps to one that another batch or a hole has at the moment.
    Wait,
    Nowhere,
}

#[derive(Debug)]
pub(super) struct Map {
    pub(super) sizes: Sizes,
    /// Segments of the device.
    pub(super) count: u32,
    /// The first segment never handed out; those from there on have no state.
    pub(super) fresh: u32,
    pub(super) segments: Descriptors,
    /// Segments with live objects.
    pub(super) occupied: Bitmap,
    pub(super) lists: Lists,
    /// The segment whose tail is kept for cleaning.
    pub(super) reserve: u32,
    /// Who waits for a segment.
    pub(super) waiters: u32,
    pub(super) objects: u64,
    /// Of the descriptors below `fresh`.
    pub(super) sums: Share,
    /// What generations are counted from.
    pub(super) base: u16,
    /// The most that any was counted up to.
    pub(super) newest: u16,
}

/// Where an object lies, as words of a segment.
pub(super) struct Found {
    pub(super) segment: u32,
    pub(super) index: usize,
}

impl Map {
    pub(super) fn new(count: u32, sizes: Sizes) -> Self {
        Map {
            sizes,
            count,
            fresh: 0,
            segments: Descriptors::default(),
            occupied: Bitmap::new(count as usize),
            lists: Lists::new(),
            reserve: NIL,
            waiters: 0,
            objects: 0,
            sums: Share::default(),
            base: 0,
            newest: 0,
        }
    }

    /// Change a descriptor, and what follows from it.
    pub(super) fn change<R>(&mut self, id: u32, change: impl FnOnce(&mut Segment) -> R) -> R {
        let segment = &mut self.segments[id];
        let (before, share) = (segment.homes(&self.sizes), segment.share(&self.sizes));
        let result = change(segment);
        let after = segment.homes(&self.sizes);
        self.sums.replace(&share, &segment.share(&self.sizes));
        for (from, to) in before.into_iter().zip(after) {
            self.rehome(id, from, to);
        }
        if before[Home::AGES.chain()] != after[Home::AGES.chain()] {
            self.occupied.set(id as usize, after[Home::AGES.chain()].is_some());
        }
        result
    }

    #[inline]
    fn rehome(&mut self, id: u32, from: Option<Home>, to: Option<Home>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.lists.remove(&mut self.segments, from, id);
        }
        if let Some(to) = to {
            self.lists.push(&mut self.segments, to, id);
        }
    }

    /// Free segments, fresh ones included.
    pub(super) fn free(&self) -> usize {
        self.sums.free + (self.count - self.fresh) as usize
    }

    /// Where a batch of `least` to `most` pages may go.
    pub(super) fn choose(&self, least: usize, most: usize, purpose: Purpose) -> Choice {
        let mut kept = 1;
        if purpose == Purpose::Cleaning {
            kept = 0;
            if self.reserve != NIL
                && let reserve = &self.segments[self.reserve]
                && reserve.state == State::Used
                // Who moves its objects to its own tail wins nothing, and nothing is kept for cleaning any more.
                && !reserve.flags.contains(Flags::MOVING)
                && reserve.tail(&self.sizes) >= least
            {
                return Choice::Segment(self.reserve);
            }
        }
        if let Some(id) = self.lists.shortest_tail(most) {
            return Choice::Segment(id);
        }
        if self.free() > kept {
            // One that has storage already, before the file grows.
            let used_before = self.lists.newest(Home::DIRTY).or_else(|| self.lists.newest(Home::CLEAN));
            return match used_before {
                Some(id) => Choice::Segment(id),
                None if (self.fresh as usize) < self.segments.len() => Choice::Segment(self.fresh),
                None => Choice::Grow,
            };
        }
        if let Some(id) = self.lists.longest_tail(least) {
            return Choice::Segment(id);
        }
        // Whatever these do ends with a segment that is free, or open, or full.
        if self.sums.held + self.sums.punching > 0 { Choice::Wait } else { Choice::Nowhere }
    }

    /// Hand out pages of a segment that [`choose`](Self::choose) named. Returns reverse words that are not needed any more, to
    /// be dropped outside the lock.
    pub(super) fn take(&mut self, id: u32, most: usize, purpose: Purpose, keep_generation: bool) -> (Extent, Rmap) {
        if id == self.fresh {
            self.fresh += 1;
            self.sums.free += 1;
            self.lists.push(&mut self.segments, Home::CLEAN, id);
        }
        let last_free = self.free() == 1 && self.segments[id].state == State::Free;
        let pages = self.sizes.pages;
        let (first, generation, objects, spent) = self.change(id, |segment| {
            let mut spent = Rmap::default();
            if segment.state == State::Free {
                spent = std::mem::take(&mut segment.rmap);
                (segment.append, segment.flags) = (0, Flags::empty());
                segment.generation = segment.generation.wrapping_add(u16::from(!keep_generation));
            }
            segment.state = State::Held;
            (usize::from(segment.append), segment.generation, segment.rmap.len(), spent)
        });
        self.newest = self.newest.max(generation);
        if last_free && purpose == Purpose::Cleaning {
            self.reserve = id;
            self.segments[id].flags.insert(Flags::RESERVE); // it is held: on no list that minds
        }
        let extent = Extent {
            segment: id,
            first,
            pages: most.min(pages - first),
            generation: self.place_generation(generation),
            objects,
        };
        (extent, spent)
    }

    pub(super) fn place_generation(&self, generation: u16) -> u16 {
        self.base.wrapping_add(generation) % Place::GENERATIONS
    }

    /// A segment that no batch holds any more, and where nothing lives, is free or bad; one where something lives, used.
    pub(super) fn settle(&mut self, id: u32) {
        let segment = &self.segments[id];
        let empty = segment.live_blocks == 0;
        let to = match (empty, segment.is_condemned()) {
            (false, _) => State::Used,
            (true, false) => State::Free,
            (true, true) => State::Bad,
        };
        self.change(id, |segment| {
            segment.state = to;
            if empty {
                segment.flags &= Flags::CONDEMNED;
                segment.append = 0;
            }
        });
        if empty || self.segments[id].is_condemned() {
            self.drop_reserve(id);
        }
        self.release_reserve();
    }

    /// The segment is of no use to cleaning.
    pub(super) fn drop_reserve(&mut self, id: u32) {
        if self.reserve == id {
            self.reserve = NIL;
            self.change(id, |segment| segment.flags.remove(Flags::RESERVE));
        }
    }

    /// Once a segment is free, none needs to be kept.
    fn release_reserve(&mut self) {
        if self.reserve != NIL && self.free() > 0 {
            let id = std::mem::replace(&mut self.reserve, NIL);
            self.change(id, |segment| segment.flags.remove(Flags::RESERVE));
        }
    }

    /// Whether there are live objects in a segment.
    pub(super) fn lives_in(&self, id: u32) -> bool {
        id < self.fresh && self.segments[id].live_blocks > 0
    }

    /// The live object at a place.
    ///
    /// # Errors
    /// A sentence, when there is none.
    #[inline]
    pub(super) fn find(&self, place: &Place) -> Result<Found, &'static str> {
        let (segment, first) = (place.block / self.sizes.blocks() as u64, place.block % self.sizes.blocks() as u64);
        if segment >= u64::from(self.fresh) {
            return Err("was never handed out");
        }
        let id = segment as u32;
        let segment = &self.segments[id];
        if self.place_generation(segment.generation) != place.generation {
            return Err("was freed before: its segment has been handed out again");
        }
        let at = segment.rmap.find(first as usize, place.blocks.into(), self.sizes.page_shift);
        match at.filter(|&index| segment.rmap.tenant(index).is_some()) {
            Some(index) => Ok(Found { segment: id, index }),
            None => Err("was freed before: nothing lives there"),
        }
    }

    /// The object is gone. Neither allocates nor gives memory back. Returns who paid for it.
    pub(super) fn release(&mut self, at: &Found, blocks: u8) -> u32 {
        let segment = &mut self.segments[at.segment];
        let tenant = segment.rmap.kill(at.index).expect("it was just found alive");
        let live = segment.live_blocks - u16::from(blocks);
        self.objects -= 1;
        if live > 0 {
            // What `change` would do, without looking at what stays as it is.
            let (from, gain) = (segment.live_home(&self.sizes), segment.gain(&self.sizes));
            segment.live_blocks = live;
            let (to, more) = (segment.live_home(&self.sizes), segment.gain(&self.sizes));
            self.sums.live_blocks -= u64::from(blocks);
            self.sums.reclaimable_pages += more - gain;
            self.rehome(at.segment, from, to);
        } else {
            self.change(at.segment, |segment| segment.live_blocks = 0);
            if self.segments[at.segment].state == State::Used {
                self.settle(at.segment);
            }
        }
        tenant.payer
    }

    /// Where cleaning wins most for what it costs: nearly the fewest live blocks.
    pub(super) fn sparsest(&self) -> Option<u32> {
        let least = |home| self.iter(home).take(LOOKED_AT).min_by_key(|&id| self.segments[id].live_blocks);
        Home::by_live_blocks().find_map(least)
    }

    /// The segments on a list, first come first.
    pub(super) fn iter(&self, home: Home) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.lists.oldest(home), move |&id| {
            Some(self.segments[id].links[home.chain()].next).filter(|&next| next != NIL)
        })
    }
}
