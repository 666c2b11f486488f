//! Discard: pages are thrown away, and read as zeroes from then on; by a call, or behind our back.
//!
//! | the word said | what goes | who was charged |
//! |---|---|---|
//! | Resident | the page, runs of them together; a kept copy | we uncharge |
//! | Staged | the staged page; a kept copy | we uncharge |
//! | Compressing | nothing of ours: the compressor finds that it lost the page | it does |
//! | Stored, Poisoned | the slot; the mark | the slot's content was |
//!
//! Where staging is in place, the compressor reads the guest's own page: a call waits until it is through. Read while it is thrown away, the
//! page would fault in whoever compresses, who may be serving a fault with all signals blocked.

use super::bits::{Bits, State};
use super::owned::{End, Owned, TOGETHER};
use super::pages::{Pages, Served};
use super::ports::Gauge;
use crate::guest::Error;
use crate::guest::memory::backing::{Obstacle, Staging};
use crate::sync::Bug;
use crate::sync::thread::Backoff;
use std::ops::Range;

/// Who throws pages away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A call: the guest range is ours to empty.
    Us,
    /// Somebody else: the guest range is empty already, or will be before anything can be installed.
    Them,
}

/// Whether pages are thrown away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// They are.
    Yes,
    /// The address space is changing: they are as they were.
    Again,
}

impl Pages {
    /// Throw pages away. How many were somewhere.
    ///
    /// # Errors
    /// [`Error::Pinned`], [`Error::Gone`], [`Error::Kernel`]: pages before the one that is named are gone.
    pub(crate) fn discard(&self, range: Range<u32>) -> Result<u64, Error> {
        self.note_changed(range.clone());
        let thrown = self.throw_away(range.clone());
        self.note_changed(range);
        thrown
    }

    fn throw_away(&self, range: Range<u32>) -> Result<u64, Error> {
        let (mut at, mut thrown) = (range.start, 0);
        let mut again = Backoff::new(); // whoever reads events makes this end
        while at < range.end {
            // Resident pages together: as many as can be had without waiting.
            let mut run = Owned::none(self, at);
            while at < range.end && run.len() < TOGETHER {
                let seen = self.word(at).load();
                let free = seen.state() == State::Resident && seen.pins() == 0 && !self.is_read_in_place(seen);
                if !free || self.word(at).discard(seen).is_err() {
                    break;
                }
                run.push(seen);
                at += 1;
            }
            thrown += u64::from(run.len());
            if run.len() > 0 {
                let (first, len) = (run.first(), run.len());
                if self.discard_resident(run)? == Done::Again {
                    (at, thrown) = (first, thrown - u64::from(len));
                    again.wait_for_io();
                }
                continue;
            }
            let seen = self.word(at).load();
            match seen.state() {
                state if state.is_owned() => {
                    self.wait(at);
                    continue;
                }
                State::Resident if seen.pins() > 0 => return Err(Error::Pinned { page: at }),
                _ if self.is_read_in_place(seen) => {
                    again.wait();
                    continue;
                }
                State::Resident => continue, // by now
                State::Absent => {}
                State::Stored if self.shared().planted.is(Bug::DiscardOwnsLate) => {
                    self.shared().store.give_back(self.slot(at));
                    if self.word(at).discard(seen).is_ok() {
                        Owned::one(self, at, seen).end_front(1, End::at(State::Absent));
                    }
                }
                // Out: who throws away after a fork finds it closed, until the child has the page. Asked owning nothing: the fork waits for owners.
                _ if !self.shared().planted.is(Bug::DiscardIgnoresGate)
                    && self.backing().steady(at, 1) == Err(Obstacle::Again) =>
                {
                    again.wait_for_io();
                    continue;
                }
                _ if self.word(at).discard(seen).is_err() => continue,
                _ => {
                    if self.discard_out(Owned::one(self, at, seen), By::Us)? == Done::Again {
                        again.wait_for_io();
                        continue;
                    }
                    thrown += 1;
                }
            }
            at += 1;
        }
        Ok(thrown)
    }

    /// Whether a compressor is reading the guest's own page.
    fn is_read_in_place(&self, seen: Bits) -> bool {
        seen.has_shadow()
            && self.backing().staging() == Staging::InPlace
            && !self.shared().planted.is(Bug::DiscardPassesReader)
    }

    /// Somebody emptied, or is emptying, the guest range behind our back, and we were told. Pages that somebody owns are left: the
    /// first of them, to be told again later. What this process discards by a call is not news; what a compressor is about to have stored is:
    /// it would come back.
    pub(crate) fn removed(&self, range: Range<u32>) -> Option<u32> {
        self.note_changed(range.clone());
        let planted = self.shared().planted.is(Bug::RemovalPassesOver);
        let mut left = None;
        for page in range {
            loop {
                let seen = self.word(page).load();
                match seen.state() {
                    State::Absent => {}
                    State::Dropping if !seen.is_through() || planted => {}
                    state if state.is_owned() => left = left.or(Some(page)),
                    _ if self.word(page).discard(seen).is_err() => continue,
                    State::Resident => {
                        let mut one = Owned::one(self, page, seen);
                        self.no_more_resident(&one);
                        one.end_front(1, End::at(State::Absent));
                    }
                    _ => {
                        let _ = self.discard_out(Owned::one(self, page, seen), By::Them);
                    }
                }
                break;
            }
        }
        left
    }

    /// The first run of these pages that is in the guest range, whatever their words say; a long one may be cut off. Where the kernel does not
    /// tell: none.
    ///
    /// It is asked about more and more of the range: not much more than what lies before the run is looked at, in few requests.
    pub(crate) fn first_present(&self, range: Range<u32>) -> Option<Range<u32>> {
        let (mut at, mut len, mut first) = (range.start, TOGETHER, None);
        while first.is_none() && at < range.end {
            let end = range.end.min(at.saturating_add(len));
            self.backing().present(at, end - at, &mut |run| _ = first.get_or_insert(run)).ok()?;
            (at, len) = (end, len.saturating_mul(2));
        }
        first
    }

    fn discard_resident(&self, mut run: Owned<'_>) -> Result<Done, Error> {
        let (first, len) = (run.first(), run.len());
        match self.backing().discard(first, len) {
            Ok(()) => {
                self.no_more_resident(&run);
                run.end_front(len, End::at(State::Absent));
                Ok(Done::Yes)
            }
            Err(Obstacle::Again) => Ok(Done::Again),
            Err(obstacle) => Err(self.refused("discard", first, obstacle)),
        }
    }

    /// Pages are not in the guest range any more, and nowhere else: their charges and kept copies go. The caller ends their words.
    fn no_more_resident(&self, run: &Owned<'_>) {
        for page in run.first()..run.first() + run.len() {
            self.forget_copy(page, run.was(page), false);
        }
        self.shared().purse.uncharge(run.len());
        self.shared().observer.change(Gauge::Resident, -i64::from(run.len()));
    }

    /// One page that is not in the guest range.
    fn discard_out(&self, mut owned: Owned<'_>, by: By) -> Result<Done, Error> {
        let page = owned.first();
        let was = owned.was(page);
        match self.empty(page, was, by) {
            Ok(()) => {
                owned.end_front(1, End::at(State::Absent));
                Ok(Done::Yes)
            }
            Err(Obstacle::Again) => Ok(Done::Again),
            Err(obstacle) => Err(self.refused("discard", page, obstacle)),
        }
    }

    fn empty(&self, page: u32, was: Bits, by: By) -> Result<(), Obstacle> {
        let shared = self.shared();
        let in_place = self.backing().staging() == Staging::InPlace;
        match was.state() {
            State::Staged => {
                self.backing().drop_staged(page, 1)?;
                self.forget_copy(page, was, false);
                shared.purse.uncharge(1);
                shared.observer.change(Gauge::Staged, -1);
            }
            State::Compressing => {
                if in_place {
                    self.backing().drop_staged(page, 1)?;
                }
                self.forget_copy(page, was, false);
                shared.observer.change(Gauge::Staged, -1);
                if shared.planted.is(Bug::DiscardEndsShadow) {
                    self.word(page).shadow_gone();
                }
            }
            State::Stored => {
                shared.store.give_back(self.slot(page));
                shared.observer.change(Gauge::Stored, -1);
            }
            State::Poisoned => {
                if by == By::Us {
                    self.backing().unpoison(page)?;
                }
                if was.own_slot().is_some() {
                    shared.store.give_back(self.slot(page));
                }
                shared.observer.change(Gauge::Poisoned, -1);
            }
            state => unreachable!("{state:?} is not out"),
        }
        Ok(())
    }

    /// What to say about a request that the kernel refused.
    pub(super) fn refused(&self, doing: &'static str, page: u32, obstacle: Obstacle) -> Error {
        let address = self.address(page);
        match super::fault::stopped(obstacle) {
            Served::Gone => Error::Gone { address },
            Served::Failed(errno) => {
                Error::Kernel { doing, page, address, source: std::io::Error::from_raw_os_error(errno) }
            }
            _ => Error::Kernel { doing, page, address, source: std::io::Error::from_raw_os_error(libc::EAGAIN) },
        }
    }
}
