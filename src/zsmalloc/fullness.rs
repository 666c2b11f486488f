//! [`Group`]s of zspages by fullness, and the lists of a class.
//!
//! ```text
//! list     1 .. 10  11    12                  taken from by    1 ........ 10   12   new run
//!          |     |  |     |                   malloc           <----- first     then then
//!         10%  99% 100%  open                 compaction       source ->    <- destination
//! ```
//!
//! Frames are backed only where objects lie, so fullness is the share of the touched frames' bytes that slots in use
//! take; groups 1 to 11 are the kernel's (ZS-8) in this measure. Isolated frames make it low even when every slot
//! inside them is in use, for the slots that straddle out of them are lost. A zspage that has room only in frames
//! nobody touches is *open*, to be used when there is no other room. Group 0, empty, has no list: a zspage goes with
//! its last object.

use super::geometry::SizeClass;
use super::zspage::{Zspage, ZspageIndex};
use crate::sync::Table;
use crate::units::FRAME_SIZE;

/// A fullness group, the number of its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub(super) u8);

impl Group {
    /// Groups there are, the empty one included.
    pub const COUNT: usize = 13;
    /// In no list.
    pub(super) const NONE: Group = Group(0);
    /// Every slot in use.
    pub(super) const FULL: Group = Group(11);
    /// Free slots only where no frame is touched.
    pub(super) const OPEN: Group = Group(12);

    /// The group of a zspage with `inuse` (not 0) slots in use, `reusable` free ones in touched frames, and `frames`
    /// of those.
    pub(super) fn of(inuse: usize, reusable: usize, frames: usize, shape: &SizeClass) -> Self {
        match reusable {
            _ if inuse == shape.slots() => Group::FULL,
            0 => Group::OPEN,
            // Below 100%: there is a free slot in the frames.
            _ => Group((10 * inuse * shape.size() / (frames * FRAME_SIZE) + 1) as u8),
        }
    }

    /// Groups with reusable slots, fullest first: where objects are put.
    pub(super) fn with_room() -> impl DoubleEndedIterator<Item = Group> {
        (1..=10).rev().map(Group)
    }

    /// All groups that have a list.
    pub(super) fn all() -> impl Iterator<Item = Group> {
        (1..Self::COUNT as u8).map(Group)
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Zspages of one class and home node by group. Guarded by the class lock, like the links.
#[derive(Debug, Default)]
pub(super) struct Lists {
    heads: [Option<ZspageIndex>; Group::COUNT],
    lens: [u32; Group::COUNT],
}

impl Lists {
    /// The first zspage of the group: the last one put there.
    pub(super) fn head(&self, group: Group) -> Option<ZspageIndex> {
        self.heads[group.index()]
    }

    /// Zspages in the group.
    pub(super) fn len(&self, group: Group) -> u32 {
        self.lens[group.index()]
    }

    /// The zspages of a group.
    pub(super) fn iter<'a>(
        &self,
        table: &'a Table<Zspage>,
        group: Group,
    ) -> impl Iterator<Item = ZspageIndex> + use<'a> {
        std::iter::successors(self.head(group), |z| table.get(z.0 as usize).next())
    }

    /// Move a zspage to a group, from the one it knows it is in; [`Group::NONE`] takes it off.
    pub(super) fn put(&mut self, table: &Table<Zspage>, z: ZspageIndex, group: Group) {
        let zspage = table.get(z.0 as usize);
        let old = Group(zspage.group());
        if old == group {
            return;
        }
        if old != Group::NONE {
            let (prev, next) = (zspage.prev(), zspage.next());
            match prev {
                Some(prev) => table.get(prev.0 as usize).set_next(next),
                None => self.heads[old.index()] = next,
            }
            if let Some(next) = next {
                table.get(next.0 as usize).set_prev(prev);
            }
            self.lens[old.index()] -= 1;
        }
        zspage.set_group(group.0);
        zspage.set_prev(None);
        zspage.set_next(None);
        if group != Group::NONE {
            let head = self.heads[group.index()].replace(z);
            zspage.set_next(head);
            if let Some(head) = head {
                table.get(head.0 as usize).set_prev(Some(z));
            }
            self.lens[group.index()] += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::geometry::Geometry;
    use super::*;

    #[test]
    fn groups_are_the_kernels_over_touched_frames() {
        let geometry = Geometry::new(1024, 1024, 16).unwrap();
        let shape = geometry.class(geometry.class_of(1024).unwrap());
        assert_eq!(Group::of(64, 0, 16, shape), Group::FULL);
        assert_eq!(Group::of(16, 0, 4, shape), Group::OPEN);
        for (inuse, frames, group) in
            [(1, 16, 1), (6, 16, 1), (7, 16, 2), (2, 1, 6), (32, 16, 6), (63, 16, 10), (3, 1, 8)]
        {
            let reusable = 4 * frames - inuse;
            assert_eq!(Group::of(inuse, reusable, frames, shape), Group(group), "{inuse} in {frames} frames");
        }
        let large = geometry.class(geometry.class_of(3072).unwrap());
        assert_eq!(Group::of(2, 1, 4, large), Group(4), "isolated frames are not full");
        assert_eq!(Group::with_room().chain([Group::FULL, Group::OPEN]).count() + 1, Group::COUNT);
    }

    #[test]
    fn zspages_leave_a_list_from_any_place() {
        let table = Table::reserve(4).unwrap();
        for gone in 0..3 {
            let mut lists = Lists::default();
            let list = |lists: &Lists| lists.iter(&table, Group::OPEN).map(|z| z.0).collect::<Vec<_>>();
            for z in 0..3 {
                lists.put(&table, ZspageIndex(z), Group::OPEN);
            }
            lists.put(&table, ZspageIndex(gone), Group::FULL);
            let rest: Vec<u32> = (0..3).rev().filter(|&z| z != gone).collect();
            assert_eq!((list(&lists), lists.len(Group::OPEN), lists.len(Group::FULL)), (rest, 2, 1));
            for z in 0..3 {
                lists.put(&table, ZspageIndex(z), Group::NONE);
            }
            assert!(Group::all().all(|group| lists.head(group).is_none() && lists.len(group) == 0));
        }
    }
}
