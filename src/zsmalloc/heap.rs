//! [`Heap`]: slots in zspages: taking one, giving it back, and finding it by location.
//!
//! ```text
//! location -> run -> Zspage -> class ------> slot = offset / size
//!                      |                        |
//!                      +---- array ------------+--> entry       (all without a lock)
//! ```
//!
//! Slots are taken and given back under the lock of their class and home node ([`Class`] is what it guards). Frames are
//! backed outside it, after the slot is taken; they go warm under it, in constant time.
//!
//! Which slot is taken, cheapest first:
//! 1. one in touched frames only, of the fullest zspage that has one, in its first such frame: costs nothing;
//! 2. of an open zspage the one that needs the fewest frames backed; a straddling one before others, for it uses what
//!    its first frame has left;
//! 3. of a new run, the same.
//!
//! For an owner whose objects may not lie on every node, only slots are looked at whose touched frames lie where they may:
//! a zspage may have frames on several nodes. Where frames that are not backed yet come to lie, is seen afterwards.

use super::entries::Entries;
use super::entry::Entry;
use super::error::Error;
use super::fullness::{Group, Lists};
use super::geometry::{ClassIndex, Geometry, SizeClass};
use super::waste::Waste;
use super::zspage::{Zspage, ZspageIndex};
use crate::arena::{Arena, Run};
use crate::memcg::ObjcgId;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, Rank, Table};
use crate::units::{FRAME_SIZE, Frame, Location, NodeId, NodeMask};

/// Zspages of a group that are looked at for a slot that an owner may have: the lock is held meanwhile.
const LOOK_AT: usize = 16;

/// For whom a slot is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taker {
    /// Who will be charged.
    pub(super) objcg: ObjcgId,
    /// The nodes its objects may lie on; `None`: all.
    pub(super) within: Option<NodeMask>,
}

impl Taker {
    /// Nobody in particular.
    pub(super) const ANYBODY: Taker = Taker { objcg: ObjcgId::NONE, within: None };

    fn may_use(&self, node: NodeId) -> bool {
        self.within.is_none_or(|within| within.contains(node))
    }
}

/// Classes, zspages and entries of a pool.
#[derive(Debug)]
pub(super) struct Heap {
    pub(super) arena: Arc<Arena>,
    pub(super) geometry: Geometry,
    pub(super) zspages: Table<Zspage>,
    pub(super) entries: Entries,
    /// Frames that compaction could win.
    pub(super) waste: Waste,
    /// By class and home node.
    classes: Box<[Mutex<Class>]>,
    nodes: usize,
}

/// Zspages of one class and home node: what its lock guards, beside the descriptors and entries of those zspages.
///
/// `inuse` + `reusable` + free slots in untouched frames = `zspages` x slots.
#[derive(Debug, Default)]
pub(super) struct Class {
    pub(super) lists: Lists,
    /// Zspages in the lists.
    pub(super) zspages: u64,
    /// Slots in use.
    pub(super) inuse: u64,
    /// Free slots in touched frames.
    pub(super) reusable: u64,
    /// Frames touched.
    pub(super) frames: u64,
    /// Payload bytes of the slots in use.
    pub(super) payload: u64,
    /// Its part of the heap's sum of waste, in frames.
    pub(super) wasted: u64,
}

impl Class {
    /// Frames touched beyond what the slots in use would fill, side by side.
    #[inline]
    pub(super) fn waste(&self, shape: &SizeClass) -> u64 {
        self.frames.saturating_sub(shape.frames_for(self.inuse))
    }
}

/// A slot, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) zspage: ZspageIndex,
    pub(super) class: ClassIndex,
    pub(super) slot: usize,
    /// Frame of the zspage the slot starts in.
    pub(super) frame: usize,
    /// Whether it ends in the next frame.
    pub(super) straddles: bool,
    pub(super) location: Location,
}

impl Heap {
    pub(super) fn new(arena: Arc<Arena>, geometry: Geometry) -> Result<Self, Error> {
        let (chain, run_frames) = (geometry.max_chain(), arena.run_frames());
        if chain > run_frames {
            return Err(Error::ShortRuns { chain, run_frames });
        }
        let runs = arena.run_count();
        let nodes = arena.topology().len();
        let classes =
            (0..geometry.classes().len() * nodes).map(|_| Mutex::new(Rank::Class, Class::default())).collect();
        Ok(Heap {
            zspages: Table::reserve(runs).map_err(Error::Metadata)?,
            entries: Entries::reserve(runs).map_err(Error::Metadata)?,
            waste: Waste::new(),
            arena,
            geometry,
            classes,
            nodes,
        })
    }

    // --- where things are ---

    /// Lock the class on the node.
    #[inline]
    #[track_caller]
    pub(super) fn lock(&self, class: ClassIndex, node: NodeId) -> MutexGuard<'_, Class> {
        self.classes[class.0 as usize * self.nodes + node.index()].lock()
    }

    /// Lock the class and node of a slot in use, which cannot change meanwhile.
    #[track_caller]
    pub(super) fn lock_of(&self, spot: &Spot) -> MutexGuard<'_, Class> {
        self.lock(spot.class, self.zspage(spot.zspage).node())
    }

    #[inline]
    pub(super) fn zspage(&self, z: ZspageIndex) -> &Zspage {
        self.zspages.get(z.0 as usize)
    }

    /// Frame `frame` of a zspage.
    #[inline]
    pub(super) fn frame(&self, z: ZspageIndex, frame: usize) -> Frame {
        Frame(self.arena.first_frame(Run(z.0)).0 + frame as u32)
    }

    /// The slot with this number.
    pub(super) fn spot(&self, z: ZspageIndex, class: ClassIndex, slot: usize) -> Spot {
        let shape = self.geometry.class(class);
        let (frame, straddles) = shape.place_of(slot);
        let location = Location::from_offset(self.frame(z, 0).offset() + slot * shape.size());
        Spot { zspage: z, class, slot, frame, straddles, location }
    }

    /// The slot that starts at a location, by what the descriptor says now, and the word of its entry if there is
    /// one. Without the lock the answer may be out of date: [`same`](Self::same) asks again.
    #[inline]
    pub(super) fn find(&self, location: Location) -> Option<(Spot, &AtomicU64)> {
        let z = ZspageIndex(self.arena.run_of(location.frame()).0);
        let zspage = self.zspage(z);
        let class = zspage.class();
        let shape = self.geometry.class(class);
        let slot = shape.slot_at(location.offset() - self.frame(z, 0).offset())?;
        let array = zspage.array()?;
        let (frame, straddles) = shape.place_of(slot);
        let spot = Spot { zspage: z, class, slot, frame, straddles, location };
        Some((spot, self.entries.word(array, slot)))
    }

    /// Whether `word` is the entry of the slot. Exact while the caller has pinned what `word` says: then the array is
    /// its zspage's, and the pin's acquire shows what was done to descriptors before the object was published.
    #[inline]
    pub(super) fn same(&self, spot: &Spot, word: &AtomicU64) -> bool {
        let zspage = self.zspage(spot.zspage);
        let array = zspage.array();
        zspage.class() == spot.class && array.is_some_and(|a| std::ptr::eq(self.entries.word(a, spot.slot), word))
    }

    /// The entry's word of a slot in use.
    #[inline]
    pub(super) fn word(&self, spot: &Spot) -> &AtomicU64 {
        let array = self.zspage(spot.zspage).array().expect("Z1: a zspage with a slot in use has entries");
        self.entries.word(array, spot.slot)
    }

    /// The slot that has this word for its entry. Looks at every zspage, class by class.
    pub(super) fn search(&self, word: &AtomicU64) -> Option<Spot> {
        for (index, shape) in self.geometry.classes() {
            for node in self.arena.topology().nodes() {
                let class = self.lock(index, node);
                for z in Group::all().flat_map(|group| class.lists.iter(&self.zspages, group)) {
                    let array = self.zspage(z).array().expect("Z1: a zspage in a list has entries");
                    let ours = |&slot: &usize| std::ptr::eq(self.entries.word(array, slot), word);
                    if let Some(slot) = (0..shape.slots()).find(ours) {
                        return Some(self.spot(z, index, slot));
                    }
                }
            }
        }
        None
    }

    /// The slot's frames, and the bytes of its first `len` that lie in each.
    #[inline]
    pub(super) fn parts(&self, spot: &Spot, len: usize) -> [(Frame, usize); 2] {
        let first = self.geometry.class(spot.class).first_part(spot.location.offset() % FRAME_SIZE).min(len);
        let frame = self.frame(spot.zspage, spot.frame);
        // A slot that does not straddle has no second part: zero bytes of whatever frame.
        [(frame, first), (Frame(frame.0 + u32::from(spot.straddles)), len - first)]
    }

    /// Nodes there are.
    #[inline]
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether the slot, whose frames are owned, has a byte on a node that is not in the mask.
    pub(super) fn is_outside(&self, spot: &Spot, mask: NodeMask) -> bool {
        let parts = self.parts(spot, self.geometry.class(spot.class).size());
        parts.into_iter().any(|(frame, bytes)| bytes > 0 && !mask.contains(self.arena.node_of(frame)))
    }

    // --- taking and giving back, under the lock ---

    /// Take a slot for `len` bytes of payload: reserved, its frames counted but not yet backed.
    pub(super) fn take(
        &self,
        class: &mut Class,
        index: ClassIndex,
        node: NodeId,
        len: usize,
        taker: Taker,
    ) -> Result<Spot, Error> {
        if let Some(spot) = taker.within.and_then(|_| self.find_for(class, index, taker)) {
            self.occupy(class, &spot, len, taker.objcg)?;
            return Ok(spot);
        }
        let shape = self.geometry.class(index);
        // Who may not use every node has just found nothing in the zspages there are.
        let list = |group| class.lists.head(group).filter(|_| taker.within.is_none());
        let roomy = Group::with_room().find_map(list);
        let (z, slot, fresh) = match roomy.or_else(|| Group::open().find_map(list)) {
            Some(z) if roomy.is_some() => {
                (z, self.reusable_slot(z, shape, 0).expect("Z5: a zspage of this group has a reusable slot"), false)
            }
            Some(z) => {
                (z, self.cheapest_slot(z, shape, Taker::ANYBODY).expect("an open zspage has a free slot"), false)
            }
            None => {
                let z = ZspageIndex(self.arena.alloc_run()?.0);
                self.zspage(z).set_class(index, node);
                class.zspages += 1;
                (z, self.cheapest_slot(z, shape, Taker::ANYBODY).expect("a new zspage has a free slot"), true)
            }
        };
        let spot = self.spot(z, index, slot);
        if let Err(error) = self.occupy(class, &spot, len, taker.objcg) {
            if fresh {
                class.zspages -= 1;
                self.arena.free_run(Run(z.0));
            }
            return Err(error);
        }
        Ok(spot)
    }

    /// A slot of the zspages there are that the taker may have: in touched frames before others.
    fn find_for(&self, class: &Class, index: ClassIndex, taker: Taker) -> Option<Spot> {
        let shape = self.geometry.class(index);
        let some = |group| class.lists.iter(&self.zspages, group).take(LOOK_AT);
        let reusable = |z| self.reusable_slot(z, shape, self.frames_outside(z, shape, taker.within));
        let mut roomy = Group::with_room().flat_map(some);
        roomy.find_map(|z| Some(self.spot(z, index, reusable(z)?))).or_else(|| {
            // A zspage with room only on other nodes may have untouched frames too.
            let mut open = Group::open().chain(Group::with_room()).flat_map(some);
            open.find_map(|z| Some(self.spot(z, index, self.cheapest_slot(z, shape, taker)?)))
        })
    }

    /// The touched frames of a zspage, a bit each, that lie on nodes outside of the mask.
    pub(super) fn frames_outside(&self, z: ZspageIndex, shape: &SizeClass, within: Option<NodeMask>) -> u16 {
        let Some(mask) = within else { return 0 };
        let outside = |f: &usize| !mask.contains(self.arena.node_of(self.frame(z, *f)));
        (0..shape.chain()).filter(outside).fold(0, |bits, f| bits | 1 << f)
    }

    /// A free slot of touched frames, in the first that has one, touching none of the frames in `avoided`, a bit each: objects
    /// gather at the front of a zspage. Straddling ones last: they keep two frames.
    pub(super) fn reusable_slot(&self, z: ZspageIndex, shape: &SizeClass, avoided: u16) -> Option<usize> {
        let zspage = self.zspage(z);
        let inner = zspage.room() & !avoided;
        if inner != 0 {
            let f = inner.trailing_zeros() as usize;
            return Some(self.free_inner(z, shape, f));
        }
        let straddling = zspage.straddling_room(shape) & !avoided & !(avoided >> 1);
        (straddling != 0).then(|| shape.first(straddling.trailing_zeros() as usize + 1) - 1)
    }

    /// The first free slot of those that lie wholly in a frame, which has one, of a zspage in use.
    pub(super) fn free_inner(&self, z: ZspageIndex, shape: &SizeClass, frame: usize) -> usize {
        let array = self.zspage(z).array().expect("Z1: a zspage in use has entries");
        let mut inner = shape.first(frame)..shape.first(frame) + shape.inner(frame);
        inner.find(|&slot| self.entries.entry(array, slot) == Entry::FREE).expect("Z1: the frame counts a free slot")
    }

    /// The free slot that costs the least in frames, of a zspage without reusable ones that the taker may use.
    fn cheapest_slot(&self, z: ZspageIndex, shape: &SizeClass, taker: Taker) -> Option<usize> {
        let zspage = self.zspage(z);
        let touched = zspage.touched();
        let is_touched = |f: usize| touched >> f & 1 == 1;
        // What is touched lies where it does; what is not, comes to lie at home.
        let usable = |f: usize| !is_touched(f) || taker.may_use(self.arena.node_of(self.frame(z, f)));
        let cost = |f: usize| match self.frame(z, f) {
            _ if is_touched(f) => 0,
            frame if !self.arena.is_backed(frame) => 1,
            frame if self.arena.node_of(frame) == zspage.node() => 0,
            // It has to be given back first.
            _ => 2,
        };
        // Of equal costs: one that fills the rest of a touched frame, one that lies in a single frame, any.
        let straddler = |&f: &usize| zspage.free_straddler(shape, f) && usable(f) && usable(f + 1);
        let straddlers = (0..shape.chain()).filter(straddler).map(|f| {
            let fills = is_touched(f) || is_touched(f + 1);
            ((cost(f) + cost(f + 1), if fills { 0 } else { 2 }), shape.first(f + 1) - 1)
        });
        let inner = (0..shape.chain())
            .filter(|&f| !is_touched(f) && shape.inner(f) > 0)
            .map(|f| ((cost(f), 1), shape.first(f)));
        straddlers.chain(inner).min().map(|(_, slot)| slot)
    }

    /// Count a free slot in and reserve it.
    pub(super) fn occupy(&self, class: &mut Class, spot: &Spot, len: usize, objcg: ObjcgId) -> Result<(), Error> {
        let (zspage, shape) = (self.zspage(spot.zspage), self.geometry.class(spot.class));
        let array = match zspage.array() {
            Some(array) => array,
            None => {
                let array = self.entries.alloc(shape.slots());
                let array = array.ok_or_else(|| Error::Entries { bytes: self.entries.bytes() })?;
                zspage.set_array(Some(array));
                array
            }
        };
        let word = self.entries.word(array, spot.slot);
        debug_assert_eq!(self.entries.entry(array, spot.slot), Entry::FREE);
        word.store(Entry::reserved(objcg).raw(), Ordering::Release); // as every store of an entry: see `zspage`
        let touched = zspage.count_in(shape, spot.frame, spot.straddles);
        class.inuse += 1;
        class.payload += len as u64;
        class.frames += touched as u64;
        self.recount(class, spot, touched > 0, true);
        Ok(())
    }

    /// Free the entry of a slot in use, to which nobody else has a claim, and give the slot back. Returns whether a frame became
    /// warm.
    pub(super) fn free(&self, class: &mut Class, spot: &Spot, len: usize) -> bool {
        self.word(spot).store(Entry::FREE.raw(), Ordering::Release); // as every store of an entry: see `zspage`
        self.vacate(class, spot, len)
    }

    /// Give a slot back whose entry is free already. Frames that nothing touches any more become warm, a zspage without
    /// objects goes. Returns whether any frame did.
    pub(super) fn vacate(&self, class: &mut Class, spot: &Spot, len: usize) -> bool {
        let zspage = self.zspage(spot.zspage);
        let shape = self.geometry.class(spot.class);
        self.arena.poison(spot.location, shape.size());
        let [first, second] = zspage.count_out(shape, spot.frame, spot.straddles);
        for (untouched, f) in [(first, spot.frame), (second, spot.frame + 1)] {
            if untouched {
                self.arena.release(self.frame(spot.zspage, f));
                class.frames -= 1;
            }
        }
        if zspage.inuse() == 0 {
            let array = zspage.array().expect("Z1: the zspage had an object");
            zspage.set_array(None);
            self.entries.free(array, shape.slots());
        }
        class.inuse -= 1;
        class.payload -= len as u64;
        self.recount(class, spot, first || second, false);
        if zspage.inuse() == 0 {
            class.zspages -= 1;
            self.arena.free_run(Run(spot.zspage.0));
        }
        first || second
    }

    /// Restore Z5 and the group after a slot came or went; with `retouched`, a frame's being touched changed too.
    fn recount(&self, class: &mut Class, spot: &Spot, retouched: bool, came: bool) {
        let (zspage, shape) = (self.zspage(spot.zspage), self.geometry.class(spot.class));
        let old = zspage.reusable();
        let new = match (retouched, came) {
            (true, _) => zspage.count_reusable(shape),
            (false, true) => old - 1,
            (false, false) => old + 1,
        };
        zspage.set_reusable(new);
        class.reusable = class.reusable + new as u64 - old as u64;
        let group = match zspage.inuse() {
            0 => Group::NONE,
            inuse => Group::of(inuse, new, shape),
        };
        class.lists.put(&self.zspages, spot.zspage, group);
        self.waste.follow(class, shape, &self.arena);
    }

    /// Write an object's bytes. The caller holds its slot reserved.
    pub(super) fn write(&self, at: Location, bytes: &[u8]) {
        self.arena.unpoison(at, bytes.len());
        self.arena.with_mut(at, bytes.len(), |to| {
            // SAFETY: `to` is good for as many bytes, which only the holder of the reserved slot touches; a slice that
            // somebody else has is not among them.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
        });
    }

    /// Copy `len` bytes between two slots in use.
    pub(super) fn copy(&self, from: &Spot, to: &Spot, len: usize) {
        self.arena.with(from.location, len, |from| {
            self.arena.with_mut(to.location, len, |to| {
                // SAFETY: both ranges are backed and of slots in use, which do not overlap. The source is a live
                // object, whose bytes nobody writes; the target is reserved by the caller, so nobody reads it.
                unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
            });
        });
    }
}
