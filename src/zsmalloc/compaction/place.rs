//! Where objects are moved to: free slots in frames that are there, or a frame more of a zspage that has others.

use super::work::{Goal, LOOK_AT};
use crate::memcg::ObjcgId;
use crate::units::NodeMask;
use crate::zsmalloc::fullness::Group;
use crate::zsmalloc::geometry::SizeClass;
use crate::zsmalloc::heap::{Class, Spot};
use crate::zsmalloc::zspage::ZspageIndex;
use crate::zsmalloc::{Cells, Pool};

/// Zspages that are looked at for a frame to open.
const OPEN_AT_MOST: usize = 16;

/// Frames of a zspage, a bit each.
type Frames = u32;

impl<C: Cells> Pool<C> {
    /// The frames that objects touch.
    pub(super) fn touched(&self, z: ZspageIndex) -> Frames {
        self.heap.zspage(z).touched().into()
    }

    /// Those of them that are backed. Others somebody is just having backed: not ours to fill.
    fn owned(&self, z: ZspageIndex, shape: &SizeClass) -> Frames {
        let touched = self.touched(z);
        let owned = |f: &usize| touched >> f & 1 == 1 && self.heap.arena.is_owned(self.heap.frame(z, *f));
        (0..shape.chain()).filter(owned).fold(0, |bits, f| bits | 1 << f)
    }

    /// Those of the owned ones that lie where the owner's objects may.
    fn allowed(&self, z: ZspageIndex, shape: &SizeClass, within: Option<NodeMask>) -> Frames {
        self.owned(z, shape) & !Frames::from(self.heap.frames_outside(z, shape, within))
    }

    /// Whether a slot that needs a frame backed may be the owner's: what it touches already lies where it may, and so will what
    /// is backed, as far as is known.
    pub(super) fn may_be_backed(
        &self,
        (z, slot): (ZspageIndex, usize),
        shape: &SizeClass,
        within: Option<NodeMask>,
    ) -> bool {
        let Some(mask) = within else { return true };
        let zspage = self.heap.zspage(z);
        let spot = self.heap.spot(z, zspage.class(), slot);
        let touches = 1u32 << spot.frame | u32::from(spot.straddles) << (spot.frame + 1);
        let outside = Frames::from(self.heap.frames_outside(z, shape, within)) & self.touched(z);
        mask.contains(zspage.node()) && touches & outside == 0
    }

    /// The first free slot all of whose frames are among `frames`.
    fn free_slot(&self, z: ZspageIndex, shape: &SizeClass, frames: Frames) -> Option<usize> {
        let zspage = self.heap.zspage(z);
        (0..shape.chain()).filter(|&f| frames >> f & 1 == 1).find_map(|f| {
            if zspage.free_inner(shape, f) > 0 {
                return Some(self.heap.free_inner(z, shape, f));
            }
            let straddler = zspage.free_straddler(shape, f) && frames >> (f + 1) & 1 == 1;
            straddler.then(|| shape.first(f + 1) - 1)
        })
    }

    /// A slot for what the goal moves, in frames that are there and where its owner's objects may lie: of the fullest zspage
    /// that has one.
    pub(super) fn place(
        &self,
        class: &Class,
        shape: &SizeClass,
        goal: Goal,
        within: Option<NodeMask>,
    ) -> Option<(ZspageIndex, usize)> {
        let (from, f) = goal.victim();
        if let Goal::Pack { keep, .. } = goal {
            let frames = self.allowed(from, shape, within) & ((1 << keep) - 1);
            return Some((from, self.free_slot(from, shape, frames)?));
        }
        Group::with_room().find_map(|group| {
            class.lists.iter(&self.heap.zspages, group).take(LOOK_AT).find_map(|to| {
                let frames = match goal {
                    Goal::Frame(_) if to == from => self.allowed(to, shape, within) & !(1 << f),
                    _ if to == from => return None,
                    _ => self.allowed(to, shape, within),
                };
                Some((to, self.free_slot(to, shape, frames)?))
            })
        })
    }

    /// The zspages that may be opened further to empty `from`, the fullest first.
    pub(super) fn openable(
        &self,
        class: &Class,
        from: ZspageIndex,
        shape: &SizeClass,
    ) -> impl Iterator<Item = ZspageIndex> {
        let chain = shape.chain();
        Group::partly_filled()
            .flat_map(|group| class.lists.iter(&self.heap.zspages, group).take(LOOK_AT))
            .filter(move |&z| z != from && self.heap.zspage(z).frames() < chain)
            .take(OPEN_AT_MOST)
    }

    /// With `frames` of the zspage touched, the untouched one that makes the most slots usable, and how many.
    pub(super) fn widen(&self, z: ZspageIndex, shape: &SizeClass, frames: Frames) -> Option<(usize, usize)> {
        let zspage = self.heap.zspage(z);
        let touched = |f: usize| frames >> f & 1 == 1;
        let straddler = |f: usize| usize::from(zspage.free_straddler(shape, f));
        (0..shape.chain())
            .filter(|&f| !touched(f))
            .map(|f| {
                let before = if f > 0 && touched(f - 1) { straddler(f - 1) } else { 0 };
                let after = if touched(f + 1) { straddler(f) } else { 0 };
                (f, before + shape.inner(f) + after)
            })
            .filter(|&(_, slots)| slots > 0)
            .max_by_key(|&(f, slots)| (slots, std::cmp::Reverse(f)))
    }

    /// A slot for what the goal moves that touches frames not backed yet.
    pub(super) fn place_to_back(&self, class: &Class, shape: &SizeClass, goal: Goal) -> Option<(ZspageIndex, usize)> {
        let (from, _) = goal.victim();
        if let Goal::Pack { keep, .. } = goal {
            let slot = self.free_slot(from, shape, (1 << keep) - 1)?;
            return Some((from, slot));
        }
        if matches!(goal, Goal::Frame(_)) {
            return None;
        }
        self.openable(class, from, shape).find_map(|to| {
            let touched = self.touched(to);
            let (f, _) = self.widen(to, shape, touched)?;
            let zspage = self.heap.zspage(to);
            let touched = |f: usize| touched >> f & 1 == 1;
            // The one that also uses what its neighbour has left, else one of its own.
            let slot = if f > 0 && touched(f - 1) && zspage.free_straddler(shape, f - 1) {
                shape.first(f) - 1
            } else if shape.inner(f) > 0 {
                shape.first(f)
            } else {
                shape.first(f + 1) - 1
            };
            Some((to, slot))
        })
    }

    /// Reserve the slot.
    pub(super) fn reserve(&self, class: &mut Class, (z, slot): (ZspageIndex, usize)) -> Option<Spot> {
        let spot = self.heap.spot(z, self.heap.zspage(z).class(), slot);
        // A zspage that has a place to give has its entries: nothing is refused.
        self.heap.occupy(class, &spot, 0, ObjcgId::NONE).ok()?;
        Some(spot)
    }
}
