//! Calls whose answers the model knows in full: evictions, pins, discards, questions for dirty pages.

use super::super::place::Place;
use super::{MOST_PINS, Model};
use zspool::guest::Error;
use zspool::memcg::Counter;
use zspool::units::PAGE_SIZE;

impl Model {
    pub(super) fn evict(&mut self, place: u8, first: u8, n: u8) {
        let Some(k) = self.at(place) else { return };
        let pages = self.pages(k, first, n);
        let place = self.places[k].as_ref().expect("it was looked at");
        let Some(region) = place.region() else { return };
        let memcg = region.vm().memcg().clone();
        let before = memcg.current(Counter::Memory);
        let evicted = region.evict(Place::span(pages.clone()));
        let won = before.saturating_sub(memcg.current(Counter::Memory));
        // More than that: what had vanished, and older pages that went to a device to make room.
        assert!(won >= evicted.won_bytes, "5: {won} were won, said were {evicted:?}");
        if evicted.refused == 0 {
            let may_stay = |page| place.is_pinned(page) || place.wins_little(page);
            let stayed = pages.filter(|&page| place.map.is_mapped(page) && !may_stay(page)).count();
            assert_eq!(stayed, 0, "3: pages that nobody holds stayed: {evicted:?} ({:?})", place.method);
        }
        self.reached.add("pages evicted by calls", evicted.pages);
        self.reached.add("pages that stayed", evicted.stayed);
        self.reached.add("evictions refused", evicted.refused);
    }

    pub(super) fn pin_often(&mut self, place: u8, at: u8) {
        let Some(k) = self.at(place) else { return };
        let page = self.pages(k, at, 0).start;
        if self.place(k).region().is_none() {
            return;
        }
        let before = self.place(k).pins();
        let had = self.place(k).pins_of(page);
        for n in had..=MOST_PINS {
            match self.place(k).pin(page..page + 1) {
                Ok(()) => assert!(n < MOST_PINS, "3: page {page} is pinned more often than it can be"),
                Err(Error::TooManyPins { page: named, .. }) => {
                    assert_eq!((n, named as usize), (MOST_PINS, page), "3: the number of pins");
                    self.reached.add("pins refused", 1);
                }
                Err(error) => {
                    self.lost(k, page..page + 1, error);
                    return self.place(k).unpin_to(before);
                }
            }
        }
        self.place(k).unpin_to(before);
    }

    pub(super) fn discard(&mut self, place: u8, first: u8, n: u8) {
        let Some(k) = self.at(place) else { return };
        let pages = self.pages(k, first, n);
        let place = self.place(k);
        let Some(region) = place.region() else { return };
        let end = pages.clone().find(|&page| place.is_pinned(page));
        match (region.discard(Place::span(pages.clone())), end) {
            (Ok(bytes), None) => assert!(bytes <= (pages.len() * PAGE_SIZE) as u64, "5: {bytes} were somewhere"),
            (Err(Error::Pinned { page }), Some(pinned)) => {
                assert_eq!(page as usize, pinned, "3: a discard stops at the first pinned page");
            }
            (result, pinned) => panic!("3: discard of {pages:?}, of which {pinned:?} is pinned: {result:?}"),
        }
        let upto = end.unwrap_or(pages.end);
        (pages.start..upto).for_each(|page| place.zero(page));
        self.reached.add("discards", 1);
        self.reached.note("discards that a pin stopped", end.is_some());
    }

    pub(super) fn take_dirty(&mut self, vm: usize) {
        let one = &self.vms[vm];
        let mut told = Vec::new();
        let result = one.vm.take_dirty(|run| told.push(run));
        match result {
            Err(Error::Options { .. }) => return self.reached.note("questions for dirty pages refused", !one.dirty),
            Err(other) => panic!("6: {other}"),
            Ok(_) => assert!(one.dirty),
        }
        for place in self.places.iter_mut().flatten().filter(|place| place.vm == vm && place.region().is_some()) {
            for page in 0..place.pages {
                let address = place.map.page(page).addr();
                let is_told = told.iter().any(|run| run.contains(&address));
                assert!(
                    is_told || !place.written[page],
                    "6: page {page} was written, and is not told ({:?})",
                    place.method
                );
                place.written[page] = false;
                self.reached.note("dirty pages told", is_told);
            }
        }
    }
}
