//! [`Group`]s of zspages by fullness, and the lists of a class.
//!
//! ```text
//! list     1 .. 10  11    12                  taken from by    1 ........ 10   12   new run
//!          |     |  |     |                   malloc           <----- first     then then
//!         10%  99% 100%  open                 compaction       source ->    <- destination
//! ```
//!
//! Frames are backed only where objects lie, so what a zspage wastes are the free slots in the frames it touches: fullness is
//! `inuse / (inuse + reusable)`, and groups 1 to 11 are the kernel's (ZS-8) in this measure. A zspage that has room only in
//! frames nobody touches wastes nothing; it is *open*, to be used when there is no other room. Group 0, empty, has no list: a
//! zspage goes with its last object.

use super::zspage::{Zspage, ZspageIndex};
use crate::sync::Table;

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

    /// The group of a zspage with `inuse` (not 0) of `slots` slots in use and `reusable` free ones in touched frames.
    pub(super) fn of(inuse: usize, reusable: usize, slots: usize) -> Self {
        match reusable {
            _ if inuse == slots => Group::FULL,
            0 => Group::OPEN,
            // At most 99: there is a free slot.
            _ => Group((100 * inuse / (inuse + reusable) / 10 + 1) as u8),
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
    use super::*;

    #[test]
    fn groups_are_the_kernels_over_touched_frames() {
        assert_eq!(Group::of(128, 0, 128), Group::FULL);
        assert_eq!(Group::of(64, 0, 128), Group::OPEN);
        for (inuse, reusable, group) in [(1, 127, 1), (12, 116, 1), (13, 115, 2), (64, 64, 6), (127, 1, 10), (1, 1, 6)]
        {
            assert_eq!(Group::of(inuse, reusable, 2048), Group(group), "{inuse} and {reusable} free");
        }
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
