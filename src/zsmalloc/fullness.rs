//! [`Group`]s of zspages by fullness, and the lists of a class.
//!
//! ```text
//! list     1 .. 10  11    12 .. 15              taken from by    1 ........ 10   12 .. 15   new run
//!          |     |  |     |     |               malloc           <----- first    <-- then   then
//!         10%  99% 100%  25%   99% open         compaction       empties ->       fills <-
//! ```
//!
//! Fullness is the share of a zspage's slots in use, as the kernel's. Frames are backed only where objects lie,
//! so room is of two kinds: zspages of groups 1 to 10 have free slots in touched frames, which cost nothing to take;
//! the others that are not full are *open*: they have room only in frames nobody touches, to be used when there is no
//! other room. Group 0, empty, has no list: a zspage goes with its last object.

use super::geometry::SizeClass;
use super::zspage::{Zspage, ZspageIndex};
use crate::sync::Table;

/// A fullness group, the number of its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(pub(super) u8);

/// Groups of open zspages.
const OPEN_GROUPS: u8 = 4;

/// Lists there are, with one for the empty group that is never used.
const LISTS: usize = Group::FIRST_OPEN as usize + OPEN_GROUPS as usize;

impl Group {
    /// Columns of the table of classes: empty, the ten of zspages with room, full, and open.
    pub const COUNT: usize = 13;
    /// In no list.
    pub(super) const NONE: Group = Group(0);
    /// Every slot in use.
    pub(super) const FULL: Group = Group(11);
    /// Free slots only where no frame is touched: the emptiest such group.
    const FIRST_OPEN: u8 = 12;

    /// The group of a zspage with `inuse` (not 0) slots in use and `reusable` free ones in touched frames.
    pub(super) fn of(inuse: usize, reusable: usize, shape: &SizeClass) -> Self {
        match reusable {
            _ if inuse == shape.slots() => Group::FULL,
            0 => Group(Self::FIRST_OPEN + (usize::from(OPEN_GROUPS) * inuse / shape.slots()) as u8),
            _ => Group((10 * inuse / shape.slots() + 1) as u8),
        }
    }

    /// Groups with reusable slots, fullest first: where objects are put.
    pub(super) fn with_room() -> impl DoubleEndedIterator<Item = Group> {
        (1..=10).rev().map(Group)
    }

    /// Groups of open zspages, fullest first.
    pub(super) fn open() -> impl DoubleEndedIterator<Item = Group> {
        (Self::FIRST_OPEN..Self::FIRST_OPEN + OPEN_GROUPS).rev().map(Group)
    }

    /// All groups that are neither empty nor full, fullest first.
    pub(super) fn partly_filled() -> impl DoubleEndedIterator<Item = Group> {
        [15, 10, 9, 8, 14, 7, 6, 13, 5, 4, 3, 12, 2, 1].into_iter().map(Group)
    }

    /// All groups that have a list.
    pub(super) fn all() -> impl Iterator<Item = Group> {
        (1..LISTS as u8).map(Group)
    }

    /// The column of the table of classes it counts in.
    pub(super) fn column(self) -> usize {
        self.index().min(Self::COUNT - 1)
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Zspages of one class and home node by group. Guarded by the class lock, like the links.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// First zspage plus 1, or 0.
    heads: [u32; LISTS],
    lens: [u32; LISTS],
}

impl Lists {
    /// The first zspage of the group: the last one put there.
    pub(super) fn head(&self, group: Group) -> Option<ZspageIndex> {
        self.heads[group.index()].checked_sub(1).map(ZspageIndex)
    }

    fn set_head(&mut self, group: Group, to: Option<ZspageIndex>) {
        self.heads[group.index()] = to.map_or(0, |z| z.0 + 1);
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
                None => self.set_head(old, next),
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
            let head = self.head(group);
            self.set_head(group, Some(z));
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
    fn groups_are_the_kernels_and_open_ones() {
        let geometry = Geometry::new(1024, 1024, 16).unwrap();
        let shape = geometry.class(geometry.class_of(1024).unwrap());
        assert_eq!(Group::of(64, 0, shape), Group::FULL);
        for (inuse, group) in [(1, 1), (6, 1), (7, 2), (32, 6), (57, 9), (58, 10), (63, 10)] {
            assert_eq!(Group::of(inuse, 1, shape), Group(group), "{inuse} of 64 slots");
        }
        for (inuse, group) in [(1, 12), (15, 12), (16, 13), (32, 14), (48, 15), (63, 15)] {
            assert_eq!(Group::of(inuse, 0, shape), Group(group), "{inuse} of 64 slots, open");
        }
        let mut all: Vec<_> = Group::partly_filled().chain([Group::FULL]).collect();
        all.sort();
        assert_eq!(all, Group::all().collect::<Vec<_>>());
        assert_eq!(Group::with_room().chain(Group::open()).count() + 1, all.len());
        assert_eq!(Group(12).column(), Group(15).column());
    }

    #[test]
    fn zspages_leave_a_list_from_any_place() {
        let table = Table::reserve(4).unwrap();
        for gone in 0..3 {
            let mut lists = Lists::default();
            let list = |lists: &Lists| lists.iter(&table, Group(12)).map(|z| z.0).collect::<Vec<_>>();
            for z in 0..3 {
                lists.put(&table, ZspageIndex(z), Group(12));
            }
            lists.put(&table, ZspageIndex(gone), Group::FULL);
            let rest: Vec<u32> = (0..3).rev().filter(|&z| z != gone).collect();
            assert_eq!((list(&lists), lists.len(Group(12)), lists.len(Group::FULL)), (rest, 2, 1));
            for z in 0..3 {
                lists.put(&table, ZspageIndex(z), Group::NONE);
            }
            assert!(Group::all().all(|group| lists.head(group).is_none() && lists.len(group) == 0));
        }
    }
}
