//! What comes before it is asked for: neighbours of a page that is touched, and ranges by call.
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
//! They are loaded into one of a few buffers, all in one installation; without a free buffer, one after the other.

use super::owned::{End, Owned, TOGETHER};
use super::pages::{Access, Kind, Pages, Served, Waiting};
use super::ports::{Count, Why};
use super::word::{KeptSize, State};
use crate::guest::memory::backing::{Installed, Obstacle};
use crate::guest::{Error, FaultAround, Prefetched};
use crate::sync::Region;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::units::PAGE_SIZE;
use crate::zswap::{self, LoadedFrom};
use std::ops::Range;

/// Neighbours by copy: measured, more of them do not pay.
const BY_COPY: u32 = 16;

/// Fewest pages that are moved in rather than copied: below, each page of a move is a flush of its own.
const BY_MOVE: u32 = 34;

/// Windows in order, one touching the next, after which the next one is larger.
const IN_ORDER: u32 = 2;

/// Buffers: as many threads bring runs in together without going page by page.
const BUFFERS: usize = 4;

/// Room to load pages that are installed together.
pub(crate) struct Bounces {
    region: Option<Region>,
    /// A bit for each that is used. Not a lock: who has a buffer reads devices.
    taken: AtomicU32,
}

/// A buffer in use.
struct Claimed<'a> {
    taken: &'a AtomicU32,
    at: usize,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.taken.fetch_and(!(1 << self.at), Ordering::Release);
    }
}

/// Whether pages of a region are touched in order. Hints: read and written without order.
#[derive(Default)]
pub(crate) struct Streak {
    /// The page after the last window.
    next: AtomicU32,
    /// Windows that began where the one before ended.
    windows: AtomicU32,
}

impl Bounces {
    /// Buffers, if neighbours are wanted. Memory is behind those that are used.
    pub(crate) fn new(around: FaultAround) -> Result<Self, Error> {
        let bytes = BUFFERS * BY_COPY as usize * PAGE_SIZE;
        let region = match around {
            FaultAround::Off => None,
            _ => Some(Region::reserve(bytes).map_err(|source| Error::AddressSpace {
                bytes: bytes as u64,
                what: "buffers of pages that come in together",
                source,
            })?),
        };
        Ok(Bounces { region, taken: AtomicU32::new(0) })
    }

    /// Have `f` use a buffer of [`BY_COPY`] pages, if one is free.
    fn with<R>(&self, f: impl FnOnce(*mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        let region = self.region.as_ref()?;
        let first_free = |taken: u32| taken.trailing_ones() as usize;
        let claim = |taken: u32| (first_free(taken) < BUFFERS).then(|| taken | 1 << first_free(taken));
        // Acquire and Release: the next user writes after the one before has read.
        let at = first_free(self.taken.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim).ok()?);
        let _claimed = Claimed { taken: &self.taken, at };
        let bytes = BY_COPY as usize * PAGE_SIZE;
        Some(region.with_mut(at * bytes..(at + 1) * bytes, |buffer| f(buffer.cast())))
    }
}

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

/// How pages that are owned come in together.
struct Together {
    /// Whether to read from devices.
    wait: bool,
    /// Whether copies may be kept.
    may_keep: bool,
}

/// What came of pages that came in together.
struct Came {
    pages: u32,
    /// What kept the first from coming in, if that is so.
    first: Option<WhyNot>,
}

/// Whoever wants to know more asks for the page alone.
#[derive(Clone, Copy)]
enum WhyNot {
    Unreadable,
    Obstacle,
}

impl Pages {
    /// Own the neighbours that are to come with a stored page that is owned.
    pub(super) fn gather<'a>(&'a self, mut owned: Owned<'a>) -> Owned<'a> {
        let page = owned.first();
        let stamp = owned.was(page).stamp();
        let Some(window) = self.window(page) else { return owned };
        let alike = |page: u32| {
            let seen = self.word(page).load();
            let alike = seen.state() == State::Stored
                && !seen.has_shadow()
                && seen.stamp().wrapping_sub(stamp).wrapping_add(1) < 3;
            (alike && self.word(page).fill(seen).is_ok()).then_some(seen)
        };
        for next in page + 1..window.end {
            let Some(was) = alike(next) else { break };
            owned.push(was);
        }
        for before in (window.start..page).rev() {
            let Some(was) = alike(before) else { break };
            owned.push_front(was);
        }
        owned
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
        let absent = |page: u32| {
            let seen = self.word(page).load();
            (seen.state() == State::Absent && self.word(page).fill(seen).is_ok()).then_some(seen)
        };
        let mut after = Owned::none(self, page + 1);
        for next in page + 1..window.end {
            let Some(was) = absent(next) else { break };
            after.push(was);
        }
        let mut before = Owned::none(self, page);
        for earlier in (window.start..page).rev() {
            let Some(was) = absent(earlier) else { break };
            before.push_front(was);
        }
        let neighbours = before.len() + after.len();
        if neighbours == 0 || !self.shared().purse.try_charge(neighbours) {
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
        came.then_some(Served::Installed(Kind::Absent))
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
            let how = Together { wait: kind == Kind::Device, may_keep: true };
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

    /// Bring stored pages in that are owned and paid for, as many from the first on as can be.
    fn come_together(&self, mut run: Owned<'_>, how: &Together) -> Came {
        let mut came = Came { pages: 0, first: None };
        while run.len() > 0 && came.first.is_none() {
            let step = if run.len() >= BY_MOVE && !self.shared().kept.is_on() && self.backing().can_move_in(run.len()) {
                self.move_in(&mut run, how)
            } else {
                let copied = self.shared().bounces.with(|buffer| self.copy_in(&mut run, buffer, BY_COPY, how));
                copied.unwrap_or_else(|| {
                    let mut one = [0; PAGE_SIZE];
                    self.copy_in(&mut run, &raw mut one, 1, how)
                })
            };
            came.pages += step.pages;
            came.first = step.first;
        }
        came
    }

    /// Load up to `most` pages into a buffer and install them together.
    fn copy_in(&self, run: &mut Owned<'_>, buffer: *mut [u8; PAGE_SIZE], most: u32, how: &Together) -> Came {
        let first = run.first();
        let mut from = [LoadedFrom::Device; BY_COPY as usize];
        let mut kept: [Option<KeptSize>; BY_COPY as usize] = [None; BY_COPY as usize];
        let (mut len, mut why_not) = (0, None);
        for page in first..first + run.len().min(most) {
            // SAFETY: the buffer has room for `most` pages, and is ours for the call.
            let to = unsafe { &mut *buffer.wrapping_add(len) };
            match self.read(page, to, how.wait) {
                Ok(found) => (from[len], len) = (found, len + 1),
                Err(_) => {
                    why_not = Some(WhyNot::Unreadable);
                    break;
                }
            }
        }
        if len == 0 {
            return Came { pages: 0, first: why_not };
        }
        // All protected, or none.
        for (kept, &from) in kept.iter_mut().zip(&from[..len]) {
            *kept = if how.may_keep { self.keep(from) } else { None };
        }
        let protected = kept[..len].iter().all(Option::is_some);
        if !protected {
            kept.iter_mut().for_each(|kept| self.unkeep(kept.take()));
        }
        let done = self.backing().install(first, buffer, len as u32, protected);
        for k in 0..done.pages {
            self.came_in(run, kept[k as usize]);
        }
        kept[done.pages as usize..].iter_mut().for_each(|kept| self.unkeep(kept.take()));
        Came { pages: done.pages, first: self.obstacle(run, &done) }
    }

    /// Load pages straight into frames that are moved in.
    fn move_in(&self, run: &mut Owned<'_>, how: &Together) -> Came {
        let first = run.first();
        let mut why_not = None;
        let done = self.backing().move_in(first, run.len(), &mut |page, frame| {
            // SAFETY: a frame of 4096 bytes, ours to fill; every byte pattern is a page.
            match self.read(page, unsafe { &mut *frame }, how.wait) {
                Ok(_) => true,
                Err(_) => {
                    why_not = Some(WhyNot::Unreadable);
                    false
                }
            }
        });
        for _ in 0..done.pages {
            self.came_in(run, None);
        }
        let obstacle = self.obstacle(run, &done);
        let first = if done.pages == 0 { obstacle.or(why_not) } else { obstacle };
        Came { pages: done.pages, first }
    }

    /// The first page that is owned is in the guest range.
    fn came_in(&self, run: &mut Owned<'_>, kept: Option<KeptSize>) {
        let (page, was) = (run.first(), run.was(run.first()));
        self.loaded(page, was.stamp(), kept.is_some());
        self.arrived(was.state(), 1);
        run.end_front(1, End { kept, ..End::at(State::Resident) });
    }

    /// What is in the way of the next page. One that is there already is no obstacle.
    fn obstacle(&self, run: &mut Owned<'_>, done: &Installed) -> Option<WhyNot> {
        match done.obstacle? {
            Obstacle::There => {
                self.came_in(run, None);
                None
            }
            _ => Some(WhyNot::Obstacle),
        }
    }

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

    /// Put staged pages back that are owned, because they are `wanted` or not. How many, from the first on.
    pub(super) fn put_run_back(&self, mut run: Owned<'_>, wanted: bool) -> u32 {
        let (first, len) = (run.first(), run.len());
        let back = match self.backing().put_back(first, len) {
            Ok(()) => len,
            // Some may be back: one by one, what is says that there is nothing staged, or that it is there.
            Err(_) => {
                let is_back = |page: &u32| {
                    matches!(self.backing().put_back(*page, 1), Ok(()) | Err(Obstacle::Hole | Obstacle::There))
                };
                (first..first + len).take_while(is_back).count() as u32
            }
        };
        for page in first..first + back {
            self.forget_copy(page, run.was(page), false); // it can be written from here on
            if wanted {
                self.word(page).set_referenced(true);
            }
        }
        self.arrived(State::Staged, back);
        run.end_front(back, End::at(State::Resident));
        back
    }

    /// Have zeroes where there is nothing. How many pages, from the first on.
    fn zero_run(&self, mut run: Owned<'_>) -> u32 {
        let done = self.backing().install_zero(run.first(), run.len());
        self.arrived(State::Absent, done.pages);
        run.end_front(done.pages, End::at(State::Resident));
        done.pages
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
            let step = self.come_together(run, &Together { wait: true, may_keep: true });
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
            _ => self.come_together(run, &Together { wait: true, may_keep: true }).pages,
        }
    }

    /// Bring one page in. When this returns it was there at some moment of the call.
    pub(super) fn make_one_resident(&self, page: u32) -> Result<(), Error> {
        let mut again = crate::sync::thread::Backoff::new();
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
