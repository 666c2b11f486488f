//! Neighbours of a page that is touched come with it, before they are asked for.
//!
//! ```text
//!   a fault of p, stored     ... s s s [ s s P s s s r s ... ]   16 aligned pages: those around p without a gap that are
//!                                      +---------+               stored and went out with it
//!   in order, for the third time       P s s s s s ...           up to 64 from p on, straight into frames that are moved in
//!   a fault of p, nowhere, beside      the same windows: neighbours that are nowhere become zeroes in the same request, where that
//!   one that is in use                 takes no memory before they are written
//! ```
//!
//! Neighbours are charged only as far as nothing has to leave for them, and are not read from a device unless the page itself is.

use super::bits::{Bits, State};
use super::bounces::BY_COPY;
use super::owned::{End, Owned, TOGETHER};
use super::pages::{Access, Pages, Served};
use super::ports::{Count, Why};
use super::together::How;
use crate::guest::{FaultAround, FaultKind};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::units::PAGE_SIZE;
use crate::zswap;
use std::ops::Range;

/// Windows in order, one touching the next, after which the next one is larger.
const IN_ORDER: u32 = 2;

/// Whether pages of a region are touched in order. Hints: read and written without order.
#[derive(Default)]
pub(crate) struct Streak {
    /// The page after the last window.
    next: AtomicU32,
    /// Windows that began where the one before ended.
    windows: AtomicU32,
}

/// Where a neighbour lies.
#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

/// Go from a page to both ends of its window, each time as far as `take` says yes.
fn around(page: u32, window: &Range<u32>, mut take: impl FnMut(u32, Side) -> bool) {
    let _ = (page + 1..window.end).all(|next| take(next, Side::After));
    let _ = (window.start..page).rev().all(|earlier| take(earlier, Side::Before));
}

// === impl Streak ===

impl Streak {
    /// A page was missed. Whether pages are touched in order by now.
    fn missed(&self, page: u32) -> bool {
        if self.next.load(Ordering::Relaxed) != page {
            self.windows.store(0, Ordering::Relaxed);
            return false;
        }
        let windows = self.windows.load(Ordering::Relaxed).saturating_add(1);
        self.windows.store(windows, Ordering::Relaxed);
        windows >= IN_ORDER
    }

    fn window(&self, end: u32) {
        self.next.store(end, Ordering::Relaxed);
    }
}

// === impl Pages ===

impl Pages {
    /// Own the neighbours that are to come with a stored page that is owned.
    pub(super) fn gather<'a>(&'a self, mut owned: Owned<'a>) -> Owned<'a> {
        let page = owned.first();
        let stamp = owned.was(page).stamp();
        let Some(window) = self.window(page) else { return owned };
        let went_together = |seen: Bits| {
            seen.state() == State::Stored && !seen.has_shadow() && seen.stamp().wrapping_sub(stamp).wrapping_add(1) < 3
        };
        self.own_around(page, &window, TOGETHER, went_together, |side, seen| match side {
            Side::After => owned.push(seen),
            Side::Before => owned.push_front(seen),
        });
        owned
    }

    /// Own up to `most` neighbours of a page in its window, without a gap, that `may` come by what they say. `put` has each, with what it said. How
    /// many.
    fn own_around(
        &self,
        page: u32,
        window: &Range<u32>,
        most: u32,
        may: impl Fn(Bits) -> bool,
        mut put: impl FnMut(Side, Bits),
    ) -> u32 {
        let mut own = 0;
        around(page, window, |page, side| {
            let seen = self.word(page).load();
            let owns = own < most && may(seen) && self.word(page).fill(seen).is_ok();
            if owns {
                own += 1;
                put(side, seen);
            }
            owns
        });
        own
    }

    /// The pages that are to come with one that was missed, and that one.
    fn window(&self, page: u32) -> Option<Range<u32>> {
        let in_order = self.streak.missed(page);
        let window = match self.shared().around {
            FaultAround::Off | FaultAround::Pages(0 | 1) => return None,
            FaultAround::Adaptive if in_order => page..page.saturating_add(TOGETHER),
            FaultAround::Adaptive => page / BY_COPY * BY_COPY..page / BY_COPY * BY_COPY + BY_COPY,
            FaultAround::Pages(most) => {
                let most = most.min(TOGETHER);
                page / most * most..(page / most).saturating_add(1).saturating_mul(most)
            }
        };
        let window = window.start..window.end.min(self.count());
        self.streak.window(window.end);
        Some(window)
    }

    /// A fault of a page that is nowhere, which is owned and paid for: its neighbours that are nowhere come with it, as far as nothing has to leave
    /// for them. `None` where none comes; the page is as it was then.
    pub(super) fn zero_around(&self, owned: &mut Owned<'_>) -> Option<Served> {
        if !self.backing().shares_zeroes() {
            return None;
        }
        let page = owned.first();
        // Next to one that is in use: of memory that is touched here and there, neighbours would be charged for nothing.
        let is_used = |page: u32| page < self.count() && self.word(page).load().state() != State::Absent;
        if !is_used(page + 1) && !page.checked_sub(1).is_some_and(is_used) {
            return None;
        }
        let window = self.window(page)?;
        // Room first: at a limit no word is owned for nothing.
        let mut room = 0;
        around(page, &window, |page, _| {
            let absent = self.word(page).load().state() == State::Absent;
            room += u32::from(absent);
            absent
        });
        if room == 0 || !self.shared().purse.try_charge(room) {
            return None;
        }
        let (mut before, mut after) = (Owned::none(self, page), Owned::none(self, page + 1));
        let is_absent = |seen: Bits| seen.state() == State::Absent;
        let neighbours = self.own_around(page, &window, room, is_absent, |side, seen| match side {
            Side::After => after.push(seen),
            Side::Before => before.push_front(seen),
        });
        // Others were faster with some.
        if neighbours < room {
            self.shared().purse.uncharge(room - neighbours);
        }
        if neighbours == 0 {
            return None;
        }
        before.set_paid();
        after.set_paid();
        let done = self.backing().install_zero(before.first(), neighbours + 1).pages;
        // From the front: as many as came. What did not is restored, and what was paid for it given back.
        let (ahead, came) = (before.len(), done > before.len());
        self.arrived(State::Absent, done);
        before.end_front(done.min(ahead), End::at(State::Resident));
        owned.end_front(u32::from(came), End::at(State::Resident));
        after.end_front(done.saturating_sub(ahead + 1), End::at(State::Resident));
        self.shared().observer.count(Count::Around, done - u32::from(came));
        came.then_some(Served::Installed(FaultKind::Absent))
    }

    /// A fault of `page`, which is owned with neighbours.
    pub(super) fn fill_around(
        &self,
        mut owned: Owned<'_>,
        page: u32,
        access: Access,
        error: &mut Option<zswap::Error>,
    ) -> Served {
        let shared = self.shared();
        // The page first: where it is, and whether it can be had, decides about the others.
        let mut bounce = [0; PAGE_SIZE];
        let may_keep = access != Access::Write;
        let mut before = owned;
        let mut after = before.split_off(page);
        let neighbours = after.split_off(page + 1);
        owned = after;
        if !self.pay(&mut owned, Why::Fault) {
            return self.denied(owned);
        }
        let served = match self.read(page, &mut bounce, true) {
            Ok(from) => self.install_loaded(owned, &bounce, from, may_keep),
            Err(unreadable) => self.poisoned(owned, unreadable, error),
        };
        if let Served::Installed(kind) = served {
            let how = How { wait: kind == FaultKind::Device, may_keep: true };
            for mut run in [neighbours, before] {
                if run.len() > 0 && shared.purse.try_charge(run.len()) {
                    run.set_paid();
                    let came = self.come_together(run, &how);
                    shared.observer.count(Count::Around, came.pages);
                }
            }
        }
        served
    }
}
