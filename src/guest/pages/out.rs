//! Pages leave: runs of up to 64 are taken out of the guest range together, and staged.
//!
//! ```text
//!   Resident  R R p R R R b R R     p pinned, b busy
//!   Leaving   L L   L L L L L L     two runs: what may not leave splits them
//!   one MOVE  S S   S S S ^         stops at b: that is Resident again, and the rest goes on
//!   Staged    S S p S S S b S S     three runs in the queue
//! ```

use super::bits::State;
use super::outcomes::Staged;
use super::owned::{End, Owned, TOGETHER};
use super::pages::Pages;
use super::ports::{Count, Effort, Gauge};
use super::regions::Room;
use crate::guest::Evicted;
use crate::guest::memory::backing::Obstacle;
use crate::sync::Bug;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::thread::Backoff;
use std::ops::Range;

/// Attempts of a call while the address space is changing: some tenths of a second.
const TRIES: u32 = 256;

/// Busy pages at most before they are looked at again: their looks cost as much as so many attempts to move one.
const MOST_PATIENCE: u32 = 1 << 14;

/// How many pages were busy since they were looked at, and how many more it takes. While a child lives that shares them there is nothing
/// to be done about them, and a look at a large region takes milliseconds: so looks that were vain become rare.
#[derive(Debug, Default)]
pub(super) struct Busy {
    met: AtomicU32,
    patience: AtomicU32,
}

impl Busy {
    fn met(&self) {
        self.met.fetch_add(1, Ordering::Relaxed);
    }

    fn is_worth_a_look(&self) -> bool {
        let met = self.met.load(Ordering::Relaxed);
        met > 0 && met >= self.patience.load(Ordering::Relaxed)
    }

    /// There is something new to hope for.
    fn hope(&self) {
        self.patience.store(0, Ordering::Relaxed);
    }

    /// So many pages could be helped.
    fn looked(&self, helped: u32) {
        self.met.store(0, Ordering::Relaxed);
        let patience = if helped > 0 { 0 } else { (4 * self.patience.load(Ordering::Relaxed)).clamp(1, MOST_PATIENCE) };
        self.patience.store(patience, Ordering::Relaxed);
    }
}

impl Pages {
    /// Take up to 64 consecutive pages out, those that may leave; whether they are to be left alone for a while is asked by the policy, before.
    ///
    /// Waits for nobody, allocates nothing: faults call it to make room.
    pub(crate) fn stage(&self, first: u32, pages: u32) -> Staged {
        match self.shared().regions.room() {
            Some(mut room) => self.stage_with(first, pages, Some(&mut room)),
            None => Staged { stopped: true, ..Staged::default() },
        }
    }

    /// The same; where there is no queue, the caller compresses what is staged.
    fn stage_with(&self, first: u32, pages: u32, mut room: Option<&mut Room<'_>>) -> Staged {
        let mut staged = Staged::default();
        let Some(_entered) = self.enter() else { return Staged { stopped: true, ..staged } };
        let end = first.saturating_add(pages.min(TOGETHER)).min(self.count());
        let mut at = first;
        while at < end && !staged.stopped {
            if self.shared().planted.is(Bug::TakeOutOwnsLate) && self.word(at).load().can_leave() {
                let _ = self.backing().take_out(at, 1);
                let was = self.word(at).leave().expect("nobody else takes it out");
                Owned::one(self, at, was).end_front(1, End::at(State::Staged));
                at += 1;
                continue;
            }
            let mut run = Owned::none(self, at);
            while at < end
                && let Some(was) = self.word(at).leave()
            {
                run.push(was);
                at += 1;
            }
            if run.len() == 0 {
                at += 1; // stays
            } else {
                self.take_out(run, room.as_deref_mut(), &mut staged);
            }
        }
        staged
    }

    /// Take out what is owned.
    fn take_out(&self, mut run: Owned<'_>, mut room: Option<&mut Room<'_>>, staged: &mut Staged) {
        let observer = &self.shared().observer;
        while run.len() > 0 {
            let first = run.first();
            self.note_changed(first..first + run.len());
            let taken = self.backing().take_out(first, run.len());
            if taken.moved > 0 {
                if !self.shared().planted.is(Bug::LeavesNotedBefore) {
                    self.note_left(first..first + taken.moved);
                }
                for page in first..first + taken.moved {
                    let kept = run.was(page).kept();
                    run.end_front(1, End { kept, ..End::at(State::Staged) });
                }
                if let Some(room) = &mut room {
                    room.push(self.id(), first, taken.moved);
                }
                staged.pages += taken.moved;
                observer.count(Count::TakenOut, taken.moved);
                observer.change(Gauge::Resident, -i64::from(taken.moved));
                observer.change(Gauge::Staged, taken.moved.into());
            }
            match taken.obstacle {
                None => debug_assert_eq!(run.len(), 0),
                Some(Obstacle::Busy | Obstacle::There) => {
                    staged.busy += 1;
                    observer.count(Count::Busy, 1);
                    self.word(run.first()).set_ban(1); // not at the next pass again
                    self.busy.met();
                    run.restore_front();
                }
                Some(Obstacle::Hole) => {
                    staged.vanished += 1;
                    observer.count(Count::Vanished, 1);
                    observer.change(Gauge::Resident, -1);
                    self.forget_copy(run.first(), run.was(run.first()), false);
                    run.end_front(1, End::at(State::Absent));
                    if !self.shared().planted.is(Bug::VanishedStaysCharged) {
                        self.shared().purse.uncharge(1);
                    }
                }
                Some(obstacle) => {
                    if obstacle == Obstacle::Again {
                        observer.count(Count::Again, 1);
                    }
                    staged.stopped = true;
                    return; // what is owned still goes back
                }
            }
        }
    }

    /// Make busy pages the process's own, where they were shared with a child that has ended. For those who own no word, and serve no fault: it
    /// may fault as a write of the guest's does.
    pub(crate) fn unshare(&self) {
        if self.busy.is_worth_a_look() && self.enter().is_some() {
            self.busy.looked(self.backing().unshare(0, self.count()));
        }
    }

    /// A child has ended that shared pages: the next one that is busy is worth a look.
    pub(crate) fn may_be_unshared(&self) {
        self.busy.hope();
    }

    /// Have pages leave all the way, until so many bytes are won; those that are left alone for a while too.
    pub(crate) fn evict(&self, range: Range<u32>, most: Option<u64>) -> Evicted {
        let mut evicted = Evicted::default();
        let (mut at, mut tries, mut backoff) = (range.start, 0, Backoff::new());
        while at < range.end && most.is_none_or(|most| evicted.won_bytes < most) {
            at = self.next_used(at);
            if at >= range.end {
                break;
            }
            let len = TOGETHER.min(range.end - at);
            let mut staged = self.stage_with(at, len, None);
            // Pages that a child shared, which has ended: nothing is owned here, so that they may be written to.
            if staged.busy > 0 && self.backing().unshare(at, len) > 0 {
                staged = self.stage_with(at, len, None);
            }
            let compressed = self.compress_run(at, len, Effort::Full);
            evicted.pages += u64::from(compressed.pages);
            evicted.won_bytes += compressed.won;
            evicted.refused += u64::from(compressed.refused);
            if compressed.refused > 0 {
                break;
            }
            if staged.stopped {
                // The address space is changing, or the region is on its way out.
                tries += 1;
                if tries > TRIES || self.enter().is_none() {
                    break;
                }
                backoff.wait_for_io();
                continue;
            }
            let is_in = |page: &u32| self.word(*page).load().state() == State::Resident;
            evicted.stayed += (at..at + len).filter(is_in).count() as u64;
            at += len;
        }
        evicted
    }
}
