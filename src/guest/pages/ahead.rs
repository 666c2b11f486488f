//! Pages come in by call, in ranges: ahead of need as far as there is room, or whatever has to leave for them.

use super::bits::State;
use super::owned::{Owned, TOGETHER};
use super::pages::{Access, Pages, Served, Waiting};
use super::ports::Why;
use super::together::How;
use crate::guest::memory::backing::Obstacle;
use crate::guest::{Error, Prefetched};
use crate::sync::thread::Backoff;
use std::ops::Range;

impl Pages {
    /// Bring pages in as far as there is room for them without anything having to leave.
    pub(crate) fn prefetch(&self, range: Range<u32>) -> Prefetched {
        let mut done = Prefetched::default();
        let mut at = range.start;
        while at < range.end {
            let seen = self.word(at).load().state();
            let run = match seen {
                State::Staged | State::Stored => self.own_alike(at, range.end, seen),
                _ => Owned::none(self, at),
            };
            let len = run.len();
            if len == 0 {
                done.left += u64::from(!matches!(seen, State::Resident | State::Absent));
                at += 1;
                continue;
            }
            // What is staged is paid for.
            let came = if seen == State::Staged { self.put_run_back(run, true) } else { self.come_if_room(run) };
            done.pages += u64::from(came);
            done.left += u64::from(len - came);
            at += len;
        }
        done
    }

    fn come_if_room(&self, mut run: Owned<'_>) -> u32 {
        let mut came = 0;
        while run.len() > 0 {
            // All, or as many as there is room for.
            let mut len = run.len();
            while !self.shared().purse.try_charge(len) {
                if len == 1 {
                    return came;
                }
                len /= 2;
            }
            let rest = run.split_off(run.first() + len);
            run.set_paid();
            let step = self.come_together(run, &How { wait: true, may_keep: true });
            came += step.pages;
            if step.pages < len {
                break;
            }
            run = rest;
        }
        came
    }

    /// Own up to 64 consecutive pages in this state, as far as they can be had without waiting.
    fn own_alike(&self, at: u32, end: u32, state: State) -> Owned<'_> {
        let mut run = Owned::none(self, at);
        for page in at..end.min(at.saturating_add(TOGETHER)) {
            let seen = self.word(page).load();
            if seen.state() != state || self.word(page).fill(seen).is_err() {
                break;
            }
            run.push(seen);
        }
        run
    }

    /// Bring pages in, whatever has to leave for them.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for the first that cannot be read; what comes after it is brought in all the same.
    pub(crate) fn make_resident(&self, range: Range<u32>) -> Result<(), Error> {
        let (mut at, mut result) = (range.start, Ok(()));
        while at < range.end {
            let seen = self.word(at).load().state();
            let came = match seen {
                State::Resident => 1,
                State::Absent | State::Staged | State::Stored => self.run_in(self.own_alike(at, range.end, seen), seen),
                _ => 0,
            };
            if came > 0 {
                at += came;
                continue;
            }
            if let Err(error) = self.make_one_resident(at) {
                if !matches!(error, Error::Unreadable { .. }) {
                    return Err(error);
                }
                result = result.and(Err(error));
            }
            at += 1;
        }
        result
    }

    /// Bring in what is out, whatever has to leave for it; what is nowhere stays so.
    ///
    /// # Errors
    /// As [`make_resident`](Self::make_resident).
    pub(crate) fn bring_back(&self, range: Range<u32>) -> Result<(), Error> {
        let (mut at, mut result) = (range.start, Ok(()));
        while at < range.end {
            let end = self.out_until(at, range.end);
            if end == at {
                at += 1;
                continue;
            }
            result = result.and(self.make_resident(at..end));
            if matches!(result, Err(ref error) if !matches!(error, Error::Unreadable { .. })) {
                break;
            }
            at = end;
        }
        result
    }

    /// The end of the pages from `at` on that are out, or that somebody is at.
    fn out_until(&self, at: u32, end: u32) -> u32 {
        let is_in = |page: &u32| matches!(self.word(*page).load().state(), State::Absent | State::Resident);
        (at..end).find(is_in).unwrap_or(end)
    }

    /// Bring in pages that are owned and were in this state. How many came, from the first on.
    fn run_in(&self, mut run: Owned<'_>, was: State) -> u32 {
        if run.len() < 2 {
            return 0; // as any single page
        }
        if was == State::Staged {
            return self.put_run_back(run, true);
        }
        if !self.pay(&mut run, Why::Call) {
            return 0;
        }
        match was {
            State::Absent => self.zero_run(run),
            _ => self.come_together(run, &How { wait: true, may_keep: true }).pages,
        }
    }

    /// Bring one page in. When this returns it was there at some moment of the call.
    pub(super) fn make_one_resident(&self, page: u32) -> Result<(), Error> {
        let mut again = Backoff::new();
        while self.word(page).load().state() != State::Resident {
            let mut error = None;
            match self.serve(page, Access::Read, Waiting::Wait, Why::Call, &mut error) {
                Served::Installed(_) => return Ok(()),
                // Whoever reads events makes this end.
                Served::Again => again.wait_for_io(),
                Served::Poisoned => {
                    if let Some(source) = error {
                        return Err(Error::Unreadable { page, address: self.address(page), source });
                    }
                }
                Served::Gone => return Err(Error::Gone { address: self.address(page) }),
                Served::Failed(errno) => return Err(self.refused("bring in", page, Obstacle::Failed(errno))),
                Served::Left => unreachable!("who waits leaves nothing"),
            }
        }
        Ok(())
    }
}
