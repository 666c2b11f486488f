//! A region begins with memory that may be in use, and ends with everything where the caller left it.
//!
//! ```text
//!   begin   registered with the kernel -> exit opened -> what is present is found and charged     faults are served all the while
//!                                                                                                 a page that is owned meanwhile is waited for
//!   end     exit closed: nobody takes pages out -> everything brought in -> released -> nobody is at it any more -> uncharged
//!                                                       |
//!                                                       +-- a page cannot be read: the exit is opened again, or the page poisoned
//! ```

use super::bits::State;
use super::owned::{Owned, TOGETHER};
use super::pages::Pages;
use super::ports::{Gauge, Why};
use crate::guest::Error;
use crate::guest::memory::Refusal;
use crate::guest::memory::backing::Obstacle;
use crate::sync::Bug;
use crate::sync::thread::Backoff;
use std::io;
use std::ops::Range;

/// How often a page is tried to be poisoned while its mapping changes: a second or so.
const POISONINGS: u32 = 1000;

impl Pages {
    /// Have the kernel know the region, which who serves faults knows by now. Once, before all else.
    ///
    /// # Errors
    /// When it refuses.
    pub(crate) fn register(&self) -> Result<(), Refusal> {
        self.backing().register()?;
        self.reopen();
        Ok(())
    }

    /// Charge what is in the guest range already; for a region whose faults are served. How many pages.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn find_present(&self) -> io::Result<u64> {
        let mut pages = 0;
        self.backing().present(0, self.count(), &mut |present| {
            let mut at = present.start;
            while at < present.end {
                let end = present.end.min(at + TOGETHER);
                pages += u64::from(self.find(at..end));
                at = end;
            }
        })?;
        self.departed.forget();
        Ok(pages)
    }

    /// Pages are not the region's any more: they were unmapped, or moved away. Before their words follow.
    pub(crate) fn depart(&self, pages: Range<u32>) {
        self.departed.note(pages);
    }

    /// Few enough that those found before can make room for them.
    fn find(&self, present: Range<u32>) -> u32 {
        let shared = self.shared();
        let stamp = shared.observer.epoch();
        present.clone().for_each(|page| self.used.note(page));
        // One that is owned may be Absent again: who brings zeroes in beside a page has it until the kernel says that there is one.
        let (passes, believes) = (shared.planted.is(Bug::FindPassesOwned), shared.planted.is(Bug::FindBelievesLook));
        let may_be_found = |page: u32| match self.word(page).load().state() {
            State::Absent => true,
            state => state.is_owned() && !passes,
        };
        let (mut candidates, mut charged) = ([false; TOGETHER as usize], 0);
        for (page, candidate) in present.clone().zip(&mut candidates) {
            *candidate = may_be_found(page);
            charged += u32::from(*candidate);
        }
        // Paid for before the words say that they are there: an evictor may have them at once.
        shared.purse.must_charge(charged, Why::Found);
        let mut found = 0;
        for page in present.zip(candidates).filter_map(|(page, candidate)| candidate.then_some(page)) {
            found += u32::from(loop {
                let found = || self.word(page).found(stamp);
                match if believes { Some(found()) } else { self.departed.unless(page, found) } {
                    Some(true) => break true,
                    Some(false) => {}
                    None => break false,
                }
                // A page that was missed meanwhile is not Absent any more, and paid for.
                match self.word(page).load().state() {
                    State::Absent => {} // again
                    state if state.is_owned() && !passes => self.wait(page),
                    _ => break false,
                }
            });
        }
        shared.observer.change(Gauge::Resident, found.into());
        if found < charged {
            shared.purse.uncharge(charged - found);
        }
        found
    }

    /// Have nobody take pages out, and bring in what is out. Faults are served before, during and after it. Whoever keeps the region after all
    /// [opens](Self::reopen) the exit again.
    ///
    /// # Errors
    /// The first of a page that cannot be brought in.
    pub(crate) fn bring_everything(&self) -> Result<(), Error> {
        if !self.shared().planted.is(Bug::UnregisterLeavesExitOpen) {
            self.close();
        }
        self.bring_back(0..self.count())
    }

    /// What could not be brought in will raise SIGBUS when it is touched; for a region that goes all the same, and whose exit is closed. How many
    /// pages.
    pub(crate) fn poison_the_rest(&self) -> u64 {
        let mut pages = 0;
        for page in 0..self.count() {
            loop {
                let seen = self.word(page).load();
                match seen.state() {
                    State::Absent | State::Resident => break,
                    // Whoever serves a fault of it may have it in memory in a moment.
                    state if state.is_owned() => self.wait(page),
                    _ if self.word(page).fill(seen).is_err() => {}
                    _ => {
                        let _as_it_was = Owned::one(self, page, seen);
                        self.poison_for_good(page);
                        pages += 1;
                        break;
                    }
                }
            }
        }
        pages
    }

    /// As far as the kernel can. While it says that the mapping changes, again: what is not poisoned would read as zeroes.
    fn poison_for_good(&self, page: u32) {
        let mut backoff = Backoff::new();
        for _ in 0..POISONINGS {
            match self.backing().poison(page, 1) {
                Err(Obstacle::Again) => backoff.wait_for_io(),
                _ => break,
            }
        }
    }

    /// The region was released, and nobody is at its pages any more: nothing is charged for it from here on.
    pub(crate) fn settle(&self) {
        let shared = self.shared();
        let mut backoff = Backoff::new();
        for page in 0..self.count() {
            let seen = loop {
                let seen = self.word(page).load();
                // A compressor that lost the page may not have given its frame back.
                if !seen.has_shadow() && !seen.state().is_owned() {
                    break seen;
                }
                backoff.wait();
            };
            if seen.stiff() > 0 {
                shared.observer.change(Gauge::Stiff, -1);
            }
            match seen.state() {
                State::Absent => continue,
                State::Resident => {
                    shared.purse.uncharge(1);
                    shared.observer.change(Gauge::Resident, -1);
                    self.forget_copy(page, seen, false);
                }
                State::Staged => {
                    shared.purse.uncharge(1);
                    shared.observer.change(Gauge::Staged, -1);
                    self.forget_copy(page, seen, false);
                }
                state => {
                    if seen.own_slot().is_some() {
                        shared.store.give_back(self.slot(page));
                    }
                    let gauge = if state == State::Poisoned { Gauge::Poisoned } else { Gauge::Stored };
                    shared.observer.change(gauge, -1);
                }
            }
        }
    }
}
