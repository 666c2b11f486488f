//! Faults: a page that was touched is brought in, whatever state it is in.
//!
//! | the word says | then |
//! |---|---|
//! | Absent | zeroes, and a charge; neighbours that are absent too come along where zeroes take no memory |
//! | Staged | put back as it is |
//! | Compressing | a copy of the staged page, and a charge; the compressor drops its result (where the page is staged in place: put back) |
//! | Stored | loaded, and a charge; neighbours that went out with it come along |
//! | Resident | written for the first time: unprotected. Missed: it vanished (zeroes), or somebody was faster |
//! | Poisoned | poisoned again |
//! | owned | wait for the owner, or leave it to him |

use super::bits::{Bits, State};
use super::owned::{End, Owned};
use super::pages::{Access, Pages, Served, Waiting};
use super::ports::{Count, Gauge, Why};
use crate::guest::FaultKind;
use crate::guest::memory::backing::{Installed, Obstacle, Staging};
use crate::sync::Bug;
use crate::sync::thread::Backoff;
use crate::units::{PAGE_SIZE, Page};
use crate::zswap::{self, LoadedFrom};

/// Where zeroes are copied from.
static ZEROES: Page = Page::zeroed();

/// Short waits for an owner, before sleeping: most are through within one request to the kernel.
const SHORT_WAITS: u32 = if cfg!(loom) { 0 } else { 16 };

/// Attempts to read a page that may be read another time.
const READS: u32 = 3;

impl Pages {
    /// Serve a fault of a page.
    ///
    /// Takes no lock but those of the store and of who pays, and does not allocate: it may run in a signal handler. Uses about 12 KiB of
    /// stack, and what the store needs.
    pub(crate) fn fault(&self, page: u32, access: Access, waiting: Waiting) -> Served {
        self.serve(page, access, waiting, Why::Fault, &mut None)
    }

    /// As [`fault`](Self::fault); where the page cannot be read, `error` says why.
    pub(super) fn serve(
        &self,
        page: u32,
        access: Access,
        waiting: Waiting,
        why: Why,
        error: &mut Option<zswap::Error>,
    ) -> Served {
        let started = self.shared().now();
        let (word, mut was_gone) = (self.word(page), self.shared().planted.is(Bug::FaultBelievesGone));
        let served = loop {
            let seen = word.load();
            if seen.state().is_owned() {
                match waiting {
                    Waiting::Leave if word.leave_to_owner() => return Served::Left,
                    Waiting::Leave => {}
                    Waiting::Wait => self.wait(page),
                }
            } else if word.fill(seen).is_ok() {
                match self.bring_in(Owned::one(self, page, seen), access, why, error) {
                    // Before the kernel knows the region, and between its release and its end: the fault is older than that.
                    // A call is told: it would try for ever, if the memory itself is gone.
                    Served::Gone if why == Why::Fault && self.enter().is_none() => return Served::Again,
                    // Perhaps the kernel knows it since it said so.
                    Served::Gone if why == Why::Fault && !was_gone => was_gone = true,
                    served => break served,
                }
            }
        };
        match served {
            Served::Installed(kind) => self.shared().served(kind, started),
            Served::Again => self.shared().observer.count(Count::Again, 1),
            _ => {}
        }
        served
    }

    /// Wait until nobody owns the word. The caller owns none.
    pub(super) fn wait(&self, page: u32) {
        let (word, mut backoff) = (self.word(page), Backoff::new());
        for _ in 0..SHORT_WAITS {
            if !word.load().state().is_owned() {
                return;
            }
            backoff.wait();
        }
        let seen = word.load();
        if seen.state().is_owned()
            && let Some(seen) = word.will_wait(seen)
        {
            word.sleep(seen);
        }
    }

    /// Bring in the page that is owned, from wherever it is.
    pub(super) fn bring_in(
        &self,
        mut owned: Owned<'_>,
        access: Access,
        why: Why,
        error: &mut Option<zswap::Error>,
    ) -> Served {
        let page = owned.first();
        let was = owned.was(page);
        match was.state() {
            State::Resident => self.look_again(owned, was, access),
            State::Staged => self.put_back(owned, was),
            // It is in memory, and so is not denied.
            State::Compressing if !self.pay(&mut owned, Why::Call) => Served::Again,
            State::Compressing if self.backing().staging() == Staging::InPlace => self.put_back(owned, was),
            State::Compressing => {
                let kept = was.kept().filter(|_| access == Access::Read);
                let copied = self.backing().install(page, self.backing().staged(page), 1, kept.is_some());
                let kept = kept.filter(|_| copied.pages == 1);
                let served = installed(copied, FaultKind::Staged);
                if let Served::Installed(_) = served {
                    self.forget_copy(page, was, kept.is_some());
                    self.word(page).set_referenced(true);
                    self.arrived(State::Staged, 1);
                    owned.end_front(1, End { kept, ..End::at(State::Resident) });
                }
                served
            }
            State::Absent => {
                if !self.pay(&mut owned, why) {
                    return self.denied(owned);
                }
                if why == Why::Fault
                    && let Some(served) = self.zero_around(&mut owned)
                {
                    return served;
                }
                let done = match access {
                    Access::Write => self.backing().install(page, &raw const ZEROES.0, 1, false),
                    _ => self.backing().install_zero(page, 1),
                };
                let served = installed(done, FaultKind::Absent);
                if let Served::Installed(_) = served {
                    self.arrived(State::Absent, 1);
                    owned.end_front(1, End::at(State::Resident));
                }
                served
            }
            State::Stored => self.load_in(owned, access, why, error),
            State::Poisoned if why == Why::Fault => {
                let done = self.backing().poison(page, 1);
                if let Err(Obstacle::Again) = done {
                    return Served::Again; // nobody was woken
                }
                owned.end_front(1, End { moved: false, kept: was.own_slot(), ..End::at(State::Poisoned) });
                if let Err(Obstacle::There) = done {
                    self.backing().wake(page, 1);
                }
                Served::Poisoned
            }
            State::Poisoned => self.cure(owned, why, error),
            State::Leaving | State::Filling | State::Dropping => unreachable!("an owned word is not owned twice"),
        }
    }

    /// Charge what is owned and needs it.
    #[must_use = "what is not paid for must not come in"]
    pub(super) fn pay(&self, owned: &mut Owned<'_>, why: Why) -> bool {
        let paid = self.shared().purse.charge(owned.unpaid(), why);
        if paid {
            owned.set_paid();
        }
        paid
    }

    /// There is no room for the page, and whoever was asked wants it poisoned. Its slot stays: a call may bring it in later.
    pub(super) fn denied(&self, mut owned: Owned<'_>) -> Served {
        let page = owned.first();
        let was = owned.was(page);
        let done = self.backing().poison(page, 1);
        if let Err(Obstacle::Again) = done {
            return Served::Again;
        }
        self.shared().observer.change(Gauge::Poisoned, 1);
        if was.state() == State::Stored {
            self.shared().observer.change(Gauge::Stored, -1);
        }
        if done.is_err() {
            self.backing().wake(page, 1); // as in `poisoned`
        }
        owned.end_front(1, End { kept: was.own_slot(), ..End::at(State::Poisoned) });
        Served::Poisoned
    }

    /// A page that is there by its word.
    fn look_again(&self, mut owned: Owned<'_>, was: Bits, access: Access) -> Served {
        let page = owned.first();
        // A write to a protected page; where the fault does not say that it is one, it most likely is.
        if access == Access::Protect || (was.is_kept() && matches!(access, Access::Write | Access::Unknown)) {
            // The copy is thrown away when nobody can have written yet and forgotten it: both before the word is given back.
            let served = match self.backing().unprotect(page, 1) {
                Ok(()) => Served::Installed(if was.is_kept() { FaultKind::Protected } else { FaultKind::Stale }),
                Err(obstacle) => stopped(obstacle),
            };
            if let Served::Installed(_) = served {
                let kept = was.kept().filter(|_| self.shared().planted.is(Bug::WriteKeepsCopy));
                self.forget_copy(page, was, kept.is_some());
                owned.end_front(1, End { moved: false, kept, ..End::at(State::Resident) });
            }
            return served;
        }
        // Its mark is gone with its mapping: whoever asks what was written may have looked for it here before it was owned.
        if !self.shared().planted.is(Bug::LostMarkNotNoted) {
            self.note_changed(page..page + 1);
        }
        let (done, kind) = match access {
            Access::Minor => match self.backing().put_back(page, 1).all() {
                Ok(()) => (Installed { pages: 1, obstacle: None }, FaultKind::Stale),
                // In the page cache when it was touched, and thrown away since then by whoever has the file.
                Err(Obstacle::Hole) => (self.backing().install_zero(page, 1), FaultKind::Vanished),
                Err(obstacle) => (Installed { pages: 0, obstacle: Some(obstacle) }, FaultKind::Stale),
            },
            _ => (self.backing().install_zero(page, 1), FaultKind::Vanished),
        };
        match done.obstacle {
            None => {
                if kind == FaultKind::Vanished {
                    self.forget_copy(page, was, false);
                    self.shared().observer.count(Count::Vanished, 1);
                }
                let kept = was.kept().filter(|_| kind != FaultKind::Vanished);
                owned.end_front(1, End { moved: false, kept, ..End::at(State::Resident) });
                Served::Installed(kind)
            }
            Some(Obstacle::There) => {
                // Somebody was faster. Or it is protected though its word does not say so, since it was to be taken out, was not, and could not
                // be unprotected then: a thread that is not told why it faulted would fault for ever.
                let may_be_protected = access != Access::Read && self.backing().staging() == Staging::InPlace;
                if !may_be_protected || self.backing().unprotect(page, 1).is_err() {
                    self.backing().wake(page, 1);
                }
                owned.end_front(1, End { moved: false, kept: was.kept(), ..End::at(State::Resident) });
                Served::Installed(FaultKind::Stale)
            }
            Some(obstacle) => stopped(obstacle),
        }
    }

    /// A page that is staged, or that is staged in place and being compressed.
    fn put_back(&self, mut owned: Owned<'_>, was: Bits) -> Served {
        let page = owned.first();
        match self.backing().put_back(page, 1).all() {
            Ok(()) => {
                // It can be written from here on.
                self.forget_copy(page, was, false);
                self.word(page).set_referenced(true);
                self.arrived(State::Staged, 1);
                owned.end_front(1, End::at(State::Resident));
                Served::Installed(FaultKind::Staged)
            }
            // In the page cache, where whoever has the file can throw it away.
            Err(Obstacle::Hole) if self.backing().staging() == Staging::InPlace => {
                let served = installed(self.backing().install_zero(page, 1), FaultKind::Vanished);
                if let Served::Installed(_) = served {
                    self.forget_copy(page, was, false);
                    self.shared().observer.count(Count::Vanished, 1);
                    self.arrived(State::Staged, 1);
                    owned.end_front(1, End::at(State::Resident));
                }
                served
            }
            Err(obstacle) => stopped(obstacle),
        }
    }

    /// A page in its slot.
    fn load_in(&self, owned: Owned<'_>, access: Access, why: Why, error: &mut Option<zswap::Error>) -> Served {
        let page = owned.first();
        let mut owned = if why == Why::Fault { self.gather(owned) } else { owned };
        if owned.len() > 1 {
            return self.fill_around(owned, page, access, error);
        }
        if !self.pay(&mut owned, why) {
            return self.denied(owned);
        }
        let mut bounce = [0; PAGE_SIZE];
        match self.read(page, &mut bounce, true) {
            Ok(_) if self.shared().planted.is(Bug::InstallOwnsNothing) => {
                drop(owned); // as it was, and everybody's
                let _ = self.backing().install(page, &bounce, 1, false);
                Served::Installed(FaultKind::Compressed)
            }
            Ok(from) => self.install_loaded(owned, &bounce, from, access != Access::Write),
            Err(unreadable) => self.poisoned(owned, unreadable, error),
        }
    }

    /// Install the page that was loaded, and end its word.
    pub(super) fn install_loaded(
        &self,
        mut owned: Owned<'_>,
        bytes: &[u8; PAGE_SIZE],
        from: LoadedFrom,
        may_keep: bool,
    ) -> Served {
        let page = owned.first();
        let was = owned.was(page);
        let kept = if may_keep { self.keep(from) } else { None };
        let done = match from {
            // In place of its mark, which was not taken off: that is an event, and whoever follows it takes the page for thrown away.
            LoadedFrom::SameFilled(0) if was.state() != State::Poisoned => self.backing().install_zero(page, 1),
            _ => self.backing().install(page, bytes, 1, kept.is_some()),
        };
        if done.pages == 0 {
            self.unkeep(kept);
        }
        let kept = kept.filter(|_| done.pages == 1);
        let served = installed(done, kind(from));
        if let Served::Installed(_) = served {
            self.loaded(page, was.stamp(), kept.is_some() || was.own_slot().is_none());
            self.arrived(was.state(), 1);
            owned.end_front(1, End { kept, ..End::at(State::Resident) });
        }
        served
    }

    /// A page is in the guest range that was in its slot: without the slot, unless its copy is kept.
    pub(super) fn loaded(&self, page: u32, stamp: u8, kept: bool) {
        if !kept {
            self.shared().store.give_back(self.slot(page));
        }
        let ban = self.shared().observer.came_back(stamp);
        if ban > 0 {
            self.word(page).set_ban(ban);
        }
    }

    /// Read a page from its slot, again where that may help.
    pub(super) fn read(&self, page: u32, to: &mut [u8; PAGE_SIZE], wait: bool) -> Result<LoadedFrom, zswap::Error> {
        let mut attempt = 1;
        loop {
            match self.shared().store.read(self.slot(page), to, wait) {
                Err(zswap::Error::Read { .. }) if attempt < READS => attempt += 1,
                other => return other,
            }
        }
    }

    /// The first page that is owned cannot be read: who touches it gets a SIGBUS from now on. Its slot stays, for another try.
    pub(super) fn poisoned(
        &self,
        mut owned: Owned<'_>,
        why_not: zswap::Error,
        error: &mut Option<zswap::Error>,
    ) -> Served {
        let page = owned.first();
        owned.restore_from(page + 1);
        if owned.was(page).state() != State::Poisoned {
            (self.shared().say_poisoned)(self.address(page));
            self.shared().observer.count(Count::Unreadable, 1);
        }
        let done = self.backing().poison(page, 1);
        if let Err(Obstacle::Again) = done {
            return Served::Again;
        }
        *error = Some(why_not);
        let was = owned.was(page);
        self.shared().purse.uncharge(owned.unpaid());
        if was.state() != State::Poisoned {
            self.shared().observer.change(Gauge::Poisoned, 1);
            self.shared().observer.change(Gauge::Stored, -1);
        }
        if done.is_err() {
            // A kernel that cannot poison wakes nobody: who waits touches it again, and is told by whoever serves him.
            self.backing().wake(page, 1);
        }
        owned.end_front(1, End { kept: was.own_slot(), ..End::at(State::Poisoned) });
        Served::Poisoned
    }

    /// A poisoned page that somebody asks for by a call: perhaps it can be read by now.
    fn cure(&self, mut owned: Owned<'_>, why: Why, error: &mut Option<zswap::Error>) -> Served {
        let page = owned.first();
        if !self.pay(&mut owned, why) {
            return self.denied(owned);
        }
        let mut bounce = [0; PAGE_SIZE];
        let read = match owned.was(page).own_slot() {
            Some(_) => self.read(page, &mut bounce, true),
            None => Ok(LoadedFrom::SameFilled(0)), // it was denied before it was anywhere
        };
        match read {
            Err(unreadable) => self.poisoned(owned, unreadable, error),
            Ok(from) => self.install_loaded(owned, &bounce, from, false),
        }
    }

    /// The slot's copy of a page is worth nothing any more, unless it is `kept`. The caller owns the word, and ends it.
    pub(super) fn forget_copy(&self, page: u32, was: Bits, kept: bool) {
        if was.is_kept() && !kept {
            self.shared().store.give_back(self.slot(page));
            self.unkeep(was.kept());
        }
    }

    /// Pages that are in the guest range now were this before.
    pub(super) fn arrived(&self, from: State, pages: u32) {
        let observer = &self.shared().observer;
        observer.change(Gauge::Resident, pages.into());
        match from {
            State::Staged => observer.change(Gauge::Staged, -i64::from(pages)),
            State::Stored => observer.change(Gauge::Stored, -i64::from(pages)),
            State::Poisoned => observer.change(Gauge::Poisoned, -i64::from(pages)),
            _ => {}
        }
    }
}

/// What kind of fault brought a page from there.
pub(super) fn kind(from: LoadedFrom) -> FaultKind {
    match from {
        LoadedFrom::Pool { .. } => FaultKind::Compressed,
        LoadedFrom::Device => FaultKind::Device,
        LoadedFrom::SameFilled(_) => FaultKind::SameFilled,
    }
}

/// What a request for one page came to.
fn installed(done: Installed, kind: FaultKind) -> Served {
    match done.obstacle {
        // There: nobody installs pages but who owns the word; so it is the kernel's doing, and what the guest sees.
        None | Some(Obstacle::There) => Served::Installed(kind),
        Some(obstacle) => stopped(obstacle),
    }
}

/// The page is where it was.
pub(super) fn stopped(obstacle: Obstacle) -> Served {
    match obstacle {
        Obstacle::Again => Served::Again,
        Obstacle::Gone => Served::Gone,
        Obstacle::Busy => Served::Failed(libc::EBUSY),
        Obstacle::Hole => Served::Failed(libc::ENOENT),
        Obstacle::There => Served::Failed(libc::EEXIST),
        Obstacle::Failed(errno) => Served::Failed(errno),
    }
}
