//! [`Account`]: what one VM is charged for the pages it has in memory.
//!
//! ```text
//!   try_charge  (read-ahead)   below every mark? ---- yes: charge          no: not this time, nothing is reclaimed for it
//!
//!   charge      (a fault)      charge ---- fits: Within
//!                                |  refused by a memcg on the way up
//!                                +--> make room below that memcg, and again          (limits: a page or two, here and now)
//!                                +--> nothing to take: let the evictor try          (a device may have to be written)
//!                                +--> ask what to do: Over(bytes), or Poison
//! ```
//!
//! Every charge is a climb of its own, exact at each level; near a limit a stock would be emptied all the time, and far from it a climb
//! costs some twenty nanoseconds a level.
//!
//! Callers: `pages`, with a page's word owned and no lock held; also in the handler of SIGBUS, which is of a fault of the thread's own and so
//! never comes while it is at a stock.

use super::epochs::Epochs;
use super::limits::{Limits, Made, RUN};
use super::overshoot::{Overshoot, Verdict};
use super::pace::Pace;
use super::policy::{Back, Treatment};
use super::roster::NO_PLACE;
use crate::guest::pages::ports::Why;
use crate::memcg::{Counter, Error, LimitHit, Memcg, MemcgEvent, Objcg, ObjcgId, Protection, Resident};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Deadline, Tally};
use crate::units::PAGE_SIZE;
use std::time::Duration;

/// A page, in bytes.
const PAGE: u64 = PAGE_SIZE as u64;

/// Rounds of making room that others may use up before it is no use any more.
const MOST_ROUNDS: u32 = 256;

/// Waits for the evictor in a row that brought nothing.
const MOST_VAIN: u32 = 2;

/// How long a fault waits for the evictor, each time.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long it waits in all, while others have luck.
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// Milliseconds after a wait in vain in which nobody waits again; twice as many each time in a row, up to the most. What does not
/// compress, without a device, is served past the limit at once then, and not after a wait for each page.
const FUTILE: u64 = 100;
const MOST_FUTILE: u64 = 6400;

/// How long a paused thread waits before it asks again.
const PAUSE: Duration = Duration::from_millis(10);

/// How often the callback may say that there is room now, without there being any.
const MOST_AGAIN: u32 = 64;

/// One VM's.
pub(crate) struct Account {
    memcg: Memcg,
    objcg: Objcg,
    limits: Arc<Limits>,
    epochs: Epochs,
    pace: Pace,
    /// Where it is on the roster.
    place: AtomicU32,
    /// Where the clock hand is: region 63..32, page 31..0.
    pub(super) hand: AtomicU64,
    /// Bytes charged past a limit, added up.
    overshoot: Tally,
    /// Until then nobody of this VM waits for the evictor: it was in vain just now.
    futile_until: Tally,
    /// For so many milliseconds; 0 after a wait that brought room.
    futile_for: Tally,
    /// Charges that were refused at first.
    hits: Tally,
    /// Those there had been when all pages were looked at and none could be taken, 63..8, and the stamp of then, 7..0; 0: never.
    barren: Tally,
}

/// How a charge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a page that is to be poisoned was not charged"]
pub(crate) enum Charged {
    /// No limit is passed.
    Within,
    /// So many bytes lie above a limit.
    Over(u64),
    /// Not charged: the callback wants the page poisoned. Never but for [`Why::Fault`].
    Poison,
}

/// Where a page was when it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameFrom {
    /// Out of the guest's range, but in memory.
    Staged,
    /// In the pool, or on a device.
    Stored,
}

impl Account {
    /// Of a VM of this memcg.
    ///
    /// # Errors
    /// When the memcg was removed.
    pub(crate) fn new(memcg: &Memcg, limits: Arc<Limits>) -> Result<Self, Error> {
        Ok(Account {
            memcg: memcg.clone(),
            objcg: memcg.objcg()?,
            epochs: Epochs::new(limits.now()),
            limits,
            pace: Pace::default(),
            place: AtomicU32::new(NO_PLACE),
            hand: AtomicU64::new(0),
            overshoot: Tally::new(),
            futile_until: Tally::new(),
            futile_for: Tally::new(),
            hits: Tally::new(),
            barren: Tally::new(),
        })
    }

    /// The memcg that is charged: the one it was made for, or once that is removed what is left of its parents. Takes no lock.
    pub(crate) fn charged(&self) -> Option<Memcg> {
        let tree = self.objcg.tree();
        tree.get(tree.group_of(self.objcg()))
    }

    /// Milliseconds, on the clock of its epochs.
    pub(crate) fn now(&self) -> u64 {
        self.limits.now()
    }

    pub(crate) fn objcg(&self) -> ObjcgId {
        self.objcg.id()
    }

    pub(super) fn set_place(&self, place: u32) {
        self.place.store(place, Ordering::Relaxed);
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Bytes charged past a limit, added up.
    pub(crate) fn overshoot(&self) -> u64 {
        self.overshoot.get()
    }

    pub(super) fn note(&self, event: MemcgEvent) {
        self.memcg.note(event);
    }

    /// Bytes that the VM has above what is protected of it when `scope` is reclaimed from: above its effective `memory.low`, and above its
    /// effective `memory.min`.
    pub(super) fn spare(&self, scope: &Memcg) -> (u64, u64) {
        let protection = match self.memcg.is_online() {
            true => self.memcg.protection(scope),
            false => self.charged().map_or_else(Protection::default, |memcg| memcg.protection(scope)),
        };
        let above = |protected| protection.usage.saturating_sub(protected);
        (above(protection.low.max(protection.min)), above(protection.min))
    }
}

// === charging ===

impl Account {
    /// Charge pages that come into memory. A limit on the way is made room below first; where that cannot be, it is passed, counted, as
    /// the [callback](super::OnOvershoot) decides.
    ///
    /// No lock is held while pages are compressed; no allocator is called. It may wait for the evictor, which waits for nobody who
    /// owns a page.
    pub(crate) fn charge(&self, pages: u32, why: Why) -> Charged {
        let bytes = u64::from(pages) * PAGE;
        match self.climb(bytes) {
            Ok(()) => Charged::Within,
            Err(_) if why == Why::Fork => {
                self.limits.wake();
                self.overshoot_by(bytes)
            }
            Err(hit) => self.charge_at_limit(bytes, why, hit),
        }
    }

    /// Charge pages that nobody waits for: only where that leaves room for those that somebody does.
    pub(crate) fn try_charge(&self, pages: u32) -> bool {
        let bytes = u64::from(pages) * PAGE;
        if self.objcg.tree().would_pass_mark(self.objcg(), Counter::Memory, bytes) {
            return false;
        }
        self.climb(bytes).is_ok()
    }

    /// They are not in memory any more.
    pub(crate) fn uncharge(&self, pages: u32) {
        let bytes = u64::from(pages) * PAGE;
        self.objcg.tree().uncharge(self.objcg(), Counter::Memory, bytes);
    }

    /// The charge of one page as a value, to be handed on with the page ([`Zswap::swap_out`](crate::zswap::Zswap::swap_out)). Who
    /// drops it gives it back, who forgets it leaves the page charged.
    pub(crate) fn page_charge(&self) -> Resident {
        Resident::from_prepaid(self.objcg.clone(), PAGE)
    }

    #[inline]
    fn climb(&self, bytes: u64) -> Result<(), LimitHit> {
        let tree = self.objcg.tree();
        tree.charge(self.objcg(), Counter::Memory, bytes)?;
        if tree.would_pass_mark(self.objcg(), Counter::Memory, 0) {
            self.limits.wake();
        }
        Ok(())
    }

    #[cold]
    fn charge_at_limit(&self, bytes: u64, why: Why, hit: LimitHit) -> Charged {
        let _stalled = self.memcg.stall();
        let (mut hit, mut asked) = (hit, 0);
        self.hits.add(1);
        self.limits.wake();
        loop {
            match self.charge_with_room(bytes, why, hit) {
                Ok(()) => return Charged::Within,
                Err(full) => hit = full,
            }
            let verdict = self.limits.ask(&Overshoot {
                vm: self.memcg.clone(),
                memcg: hit.memcg().clone(),
                usage: hit.usage(),
                limit: hit.limit(),
                bytes,
                asked,
                can_poison: why == Why::Fault,
            });
            asked += 1;
            match verdict {
                Verdict::Again if asked < MOST_AGAIN => {}
                Verdict::Pause => self.limits.wait_for_room(PAUSE),
                Verdict::Poison if why == Why::Fault => return Charged::Poison,
                Verdict::Serve | Verdict::Again | Verdict::Poison => return self.overshoot_by(bytes),
            }
            match self.climb(bytes) {
                Ok(()) => return Charged::Within,
                Err(still) => hit = still,
            }
        }
    }

    /// Charge, making room as long as there is something to take.
    fn charge_with_room(&self, bytes: u64, why: Why, hit: LimitHit) -> Result<(), LimitHit> {
        let (mut hit, mut vain, mut until) = (hit, 0, None);
        let (mut rounds, mut search) = (0, None);
        while rounds < MOST_ROUNDS {
            rounds += 1;
            if bytes > hit.limit() {
                // It can never fit; but what is there already is to go.
                let _ = self.limits.make_room(hit.memcg(), self.place.load(Ordering::Relaxed));
                break;
            }
            let made = self.limits.make_room(hit.memcg(), self.place.load(Ordering::Relaxed));
            // A search ends: each page is met once.
            if made == Made::Search && !search.get_or_insert_with(|| Deadline::after(MOST_PATIENCE)).passed() {
                rounds -= 1;
            }
            if made == Made::Nothing {
                // What cannot be had in a fault may be had by who can write to a device: unless that was in vain just now.
                if why == Why::Child || self.limits.now() < self.futile_until.get() {
                    break;
                }
                let until = until.get_or_insert_with(|| Deadline::after(MOST_PATIENCE));
                let won = self.limits.progress();
                self.limits.wait_for_room(PATIENCE.min(until.left()));
                vain = if self.limits.progress() == won { vain + 1 } else { 0 };
                if vain == MOST_VAIN || until.passed() {
                    // Once more, for what was won meanwhile; then it is futile from now on, however long the wait was.
                    if let Ok(()) = self.climb(bytes) {
                        return Ok(());
                    }
                    let time = (2 * self.futile_for.get()).clamp(FUTILE, MOST_FUTILE);
                    self.futile_for.set(time);
                    self.futile_until.set(self.limits.now() + time);
                    break;
                }
            }
            match self.climb(bytes) {
                Ok(()) => {
                    if until.is_some() {
                        self.futile_for.set(0);
                    }
                    return Ok(());
                }
                Err(again) => hit = again,
            }
        }
        Err(hit)
    }

    fn overshoot_by(&self, bytes: u64) -> Charged {
        let past = self.objcg.tree().charge_anyway(self.objcg(), Counter::Memory, bytes);
        let Some(past) = past else { return Charged::Within }; // somebody made room meanwhile
        self.overshoot.add(past.bytes);
        Charged::Over(past.bytes)
    }
}

// === what pages do ===

impl Account {
    /// The stamp of a page that moves now: never 0.
    #[inline]
    pub(crate) fn stamp(&self) -> u8 {
        self.epochs.stamp()
    }

    /// So many pages were taken out of the guest's range, of `resident`.
    pub(crate) fn went(&self, pages: u32, resident: u64) {
        self.epochs.evicted(pages.into(), resident, self.limits.now());
    }

    /// So many of those did not shrink, and are back.
    pub(crate) fn stayed(&self, pages: u32) {
        self.epochs.unevicted(pages.into());
    }

    /// All pages were looked at, and none could be taken.
    pub(super) fn note_barren(&self) {
        self.barren.set(self.hits.get() << 8 | u64::from(self.stamp()));
    }

    /// Whether that was just now: less than a run may have come in since, and nothing that rests is due.
    pub(super) fn is_barren(&self) -> bool {
        let barren = self.barren.get();
        barren as u8 == self.stamp() && self.hits.get() - (barren >> 8) < u64::from(RUN)
    }

    /// A page was touched that had been taken out, and has this stamp: how it is to be treated.
    pub(crate) fn came_back(&self, from: CameFrom, stamp: u8, resident: u64) -> Treatment {
        let back = Back { from, distance: self.epochs.distance(stamp), resident };
        self.pace.came_back(&back);
        self.limits.policy().on_back(&back)
    }

    /// Where the hand is.
    pub(super) fn hand(&self) -> (u32, u32) {
        let hand = self.hand.load(Ordering::Relaxed);
        ((hand >> 32) as u32, hand as u32)
    }

    /// Relaxed: several threads may go on from one place, and take different pages.
    pub(super) fn set_hand(&self, region: u32, page: u32) {
        self.hand.store(u64::from(region) << 32 | u64::from(page), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("memcg", &self.memcg.id())
            .field("overshoot", &self.overshoot.get())
            .finish_non_exhaustive()
    }
}
