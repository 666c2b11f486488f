//! The checks of [`Segments`]: everything is counted again.

use super::descriptor::Share;
use super::lists::{Home, Lists, NIL};
use super::{SegmentId, Segments, State, Tenant};

impl Segments {
    /// Check the numbered invariants. Segments held or being punched at the moment are allowed for.
    ///
    /// # Panics
    /// With a sentence, when one is broken.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub(in super::super) fn check(&self) {
        let map = self.map.lock();
        let sizes = &map.sizes;
        let (mut sums, mut objects, mut listed) = (Share::default(), 0, [0usize; 3]);
        for id in 0..map.fresh {
            let segment = &map.segments[id];
            let live: Vec<_> = segment.rmap.objects(sizes.page_shift).collect();
            let blocks: usize = live.iter().map(|object| object.blocks).sum();
            assert_eq!(
                usize::from(segment.live_blocks),
                blocks,
                "(4) live blocks of segment {id} are those of its words"
            );
            let end = live.last().map_or(0, |last| last.first + last.blocks);
            assert!(
                end <= usize::from(segment.append) << sizes.page_shift,
                "(2) objects of segment {id} lie before its tail"
            );
            assert!(
                segment.append <= segment.dirty || segment.append == 0,
                "segment {id} was written, so it has storage"
            );
            assert!(usize::from(segment.dirty) <= sizes.pages, "segment {id} has no more pages than it has");
            let may_be_empty = matches!(segment.state, State::Held | State::Free | State::Punching | State::Bad);
            assert!(blocks > 0 || may_be_empty, "(4) nothing lives in segment {id}, which is used");
            assert!(blocks == 0 || matches!(segment.state, State::Held | State::Used), "(4) segment {id} is used");
            assert_eq!(
                map.occupied.get(id as usize),
                blocks > 0,
                "(4) segment {id} is marked while something lives there"
            );
            assert!(segment.state != State::Free || !segment.is_condemned(), "a condemned segment is not free");
            objects += live.len() as u64;
            sums.replace(&Share::default(), &segment.share(sizes));
            for (chain, home) in segment.homes(sizes).into_iter().enumerate() {
                listed[chain] += usize::from(home.is_some());
            }
        }
        assert_eq!(map.sums, sums, "(1) the sums are those of all segments");
        let states = sums.punching + sums.held + sums.late + sums.open + sums.full + sums.bad;
        assert_eq!(map.free() + states, map.count as usize, "(1) every segment is in one state");
        assert_eq!(map.objects, objects, "(3) objects are counted");
        assert_eq!(map.occupied.ones(), listed[Home::AGES.chain()], "(4) no other segment is marked");
        let mut on_lists = [0; 3];
        for home in Lists::all() {
            let mut last = NIL;
            for id in map.iter(home) {
                let segment = &map.segments[id];
                assert_eq!(segment.homes(sizes)[home.chain()], Some(home), "segment {id} is on the list it belongs on");
                assert_eq!(segment.links[home.chain()].prev, last, "the list of segment {id} goes both ways");
                (on_lists[home.chain()], last) = (on_lists[home.chain()] + 1, id);
            }
            assert_eq!(map.lists.newest(home), Some(last).filter(|&id| id != NIL), "a list ends with its last segment");
        }
        assert_eq!(on_lists, listed, "every segment is on the lists it belongs on");
        for pages in 1..=sizes.pages {
            let (tail, any) =
                (Home::tail(pages), (pages..=sizes.pages).any(|n| map.lists.oldest(Home::tail(n)).is_some()));
            assert_eq!(
                map.lists.shortest_tail(pages).is_some(),
                any,
                "tails of {pages} pages and more are found, {tail:?}"
            );
        }
        assert!(map.reserve == NIL || map.free() == 0, "(6) nothing is kept for cleaning beside a free segment");
    }

    /// Call `f` with every live object: its place's first block, its blocks, the generation of its segment, and who has it. For
    /// quiet points.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device), not across `f`.
    pub(in super::super) fn for_each(&self, mut f: impl FnMut(u64, usize, u16, Tenant)) {
        let (mut at, blocks) = (SegmentId(0), self.map.lock().sizes.blocks() as u64);
        while let Some(id) = self.live_from(at) {
            let (generation, objects) = self.live_objects(id);
            for object in objects {
                f(u64::from(id.0) * blocks + object.first as u64, object.blocks, generation, object.tenant);
            }
            at = SegmentId(id.0 + 1);
        }
    }
}
