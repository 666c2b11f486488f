//! [`Tenant`]: one VM's account and meter, as its pages see them; [`Evictee`]: the VM, as its limits see it.
//!
//! ```text
//!   pages --- Purse, Observer ---> Tenant { account, meter }
//!   limits --- Evictable --------> Evictee { tenant, what all regions share } --- Clocked ---> words of a region
//! ```

use super::account::{Account, CameFrom, Charged};
use super::evictable::{Clocked, Counts, Evictable};
use super::policy::Look;
use crate::guest::FaultKind;
use crate::guest::dirty::look_at_written;
use crate::guest::pages::outcomes::{Compressed, Staged};
use crate::guest::pages::ports::{Count, Effort, Gauge, Observer, Purse, Why};
use crate::guest::pages::{Pages, Shared};
use crate::guest::stats::Meter;
use crate::memcg::Resident;
use crate::sync::Arc;

/// Who pays for a VM's pages, and counts them.
#[derive(Debug)]
pub(crate) struct Tenant {
    account: Account,
    meter: Meter,
}

/// A VM that can be taken from.
pub(crate) struct Evictee {
    tenant: Arc<Tenant>,
    shared: Arc<Shared>,
}

impl Tenant {
    pub(crate) fn new(account: Account) -> Self {
        Tenant { account, meter: Meter::default() }
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Pages in memory.
    fn resident(&self) -> u64 {
        self.meter.pages(Gauge::Resident) + self.meter.pages(Gauge::Staged)
    }
}

impl Purse for Arc<Tenant> {
    fn charge(&self, pages: u32, why: Why) -> bool {
        match self.account.charge(pages, why) {
            Charged::Within | Charged::Over(_) => true,
            Charged::Poison => false,
        }
    }

    fn try_charge(&self, pages: u32) -> bool {
        self.account.try_charge(pages)
    }

    fn uncharge(&self, pages: u32) {
        self.account.uncharge(pages);
    }

    fn page_charge(&self) -> Resident {
        self.account.page_charge()
    }
}

impl Observer for Arc<Tenant> {
    fn epoch(&self) -> u8 {
        self.account.stamp()
    }

    fn served(&self, kind: FaultKind, nanoseconds: u64) {
        if kind == FaultKind::Staged {
            self.account.came_back(CameFrom::Staged, 0, self.resident());
        }
        self.meter.served(kind, nanoseconds);
    }

    fn rests(&self, stamp: u8, stiff: u32) -> bool {
        self.account.epochs().rests(stamp, stiff)
    }

    fn came_back(&self, stamp: u8) -> u32 {
        if let Some(distance) = self.account.epochs().distance(stamp) {
            self.meter.came_back(distance);
        }
        self.account.came_back(CameFrom::Stored, stamp, self.resident()).ban.into()
    }

    fn change(&self, gauge: Gauge, pages: i64) {
        self.meter.change(gauge, pages);
    }

    fn count(&self, what: Count, pages: u32) {
        match what {
            Count::TakenOut => self.account.went(pages, self.resident()),
            Count::Stayed => self.account.stayed(pages),
            _ => {}
        }
        self.meter.count(what, pages);
    }
}

// === impl Evictee ===

impl Evictee {
    pub(crate) fn new(tenant: Arc<Tenant>, shared: Arc<Shared>) -> Self {
        Evictee { tenant, shared }
    }
}

impl Evictable for Evictee {
    fn account(&self) -> &Account {
        &self.tenant.account
    }

    fn counts(&self) -> Counts {
        let meter = &self.tenant.meter;
        let staged = meter.pages(Gauge::Staged);
        Counts { resident: meter.pages(Gauge::Resident) + staged, staged, pinned: meter.pages(Gauge::Pinned) }
    }

    fn regions(&self, from: u32, each: &mut dyn FnMut(u32, &dyn Clocked) -> bool) {
        let mut number = from;
        // By the order of addresses: a region that comes or goes meanwhile shifts the others, so that one may be passed by or met
        // twice in this round of the hand.
        while let Some(pages) = self.shared.regions.nth(number as usize) {
            if !each(number, &*pages) {
                return;
            }
            number += 1;
        }
    }

    fn compress_staged(&self, pages: u32, ahead: bool) -> Compressed {
        let effort = if ahead { Effort::Ahead } else { Effort::Unaided };
        self.shared.compress_staged_with(pages, effort)
    }
}

impl Clocked for Pages {
    fn pages(&self) -> u32 {
        self.count()
    }

    fn next_used(&self, page: u32) -> u32 {
        Pages::next_used(self, page)
    }

    #[inline]
    fn look(&self, page: u32) -> Look {
        let bits = self.word(page).load();
        // What does not shrink is taken for nothing: not now.
        let rests = || bits.stiff() > 0 && self.shared().observer.rests(bits.stamp(), bits.stiff());
        Look {
            takeable: bits.can_leave() && !rests(),
            referenced: bits.is_referenced(),
            ban: bits.ban() as u8,
            stamp: bits.stamp(),
        }
    }

    fn spend_chance(&self, page: u32) {
        self.word(page).set_referenced(false);
    }

    fn give_chance(&self, page: u32) {
        self.word(page).set_referenced(true);
    }

    fn spend_ban(&self, page: u32) {
        let ban = self.word(page).load().ban();
        self.word(page).set_ban(ban.saturating_sub(1));
    }

    fn restamp(&self, page: u32, from: u8, to: u8) {
        self.word(page).restamp(from, to);
    }

    fn written(&self, each: &mut dyn FnMut(std::ops::Range<u32>)) -> bool {
        look_at_written(self, each)
    }

    fn stage(&self, first: u32, pages: u32) -> Staged {
        Pages::stage(self, first, pages)
    }

    fn unshare(&self) {
        Pages::unshare(self);
    }
}
