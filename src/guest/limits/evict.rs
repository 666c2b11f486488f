//! Bringing a memcg down, on a thread that may allocate and wait for devices: the evictor's, or that of who asks for it.
//!
//! ```text
//!   pick whose turn it is --> fewer staged than are kept? stage a run --> compress the oldest beyond those kept, 16 at a time
//!        ^                                |  nothing to stage                        |
//!        |                                +--> compress those kept as well           |
//!        +------------- not enough won yet <-----------------------------------------+
//! ```
//!
//! So what is staged has a run's time to come back before it is compressed: that is its second chance.

use super::account::Account;
use super::evictable::{Counts, Evictable};
use super::limits::{ALL_WORDS, Limits, RUN};
use super::roster::{NO_PLACE, Wanted};
use crate::guest::pages::outcomes::{Compressed, Staged};
use crate::memcg::{
    Ask, Cancel, Counter, End, Error, Memcg, MemcgEvent, ReclaimRequest, Reclaimed, Reclaimer, Source, Swappiness,
};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;

/// Pages that are compressed between looks at whether to stop, and before those who wait are told.
const BATCH: u32 = 16;

/// Turns in a row that may bring nothing although there is something: its pages come back as fast as they go.
const MOST_VAIN: u32 = 32;

/// Of an excess, so much at a time: the next memcg's turn.
const SLICE: u64 = 1 << 20;

/// Compressed bytes that are written to a device for a store that was refused.
const WRITE_BACK: u64 = 256 << 10;

/// Of what a memcg at its limit uses, so much may be compressed while a device has room: a third stays to work in, and no more goes to
/// the device than that takes, for it is several times as slow.
const COMPRESSED_PERCENT: u64 = 66;

/// Where pages were busy: those that a child shared, which has ended, can leave at the next pass. Nothing is owned here.
fn unshare(vm: &dyn Evictable, staged: Staged) {
    if staged.busy > 0 {
        vm.regions(0, &mut |_, region| {
            region.unshare();
            true
        });
    }
}

impl Limits {
    /// Win `bytes` from VMs charged to `scope` or below it, as far as that goes.
    pub(crate) fn evict(&self, scope: &Memcg, bytes: u64, stop: &dyn Fn() -> bool) -> Reclaimed {
        let ahead = u64::from(self.staged_ahead());
        let (mut won, mut vain, mut some, mut busy) = (0, 0, false, false);
        let mut empty: Vec<u32> = Vec::new();
        while won < bytes {
            if stop() {
                return Reclaimed { bytes: won, end: End::Cancelled };
            }
            let gives = |place: u32, _: &dyn Evictable, counts: &Counts| {
                counts.resident > counts.pinned && !empty.contains(&place)
            };
            let Some(pick) = self.roster().pick(&Wanted { scope, looks: u32::MAX, own: NO_PLACE, gives: &gives })
            else {
                break;
            };
            let mut fresh = 0;
            if pick.counts.staged <= ahead {
                let want = pick.spare.min(u64::from(RUN)) as u32;
                let staged = self.stage(pick.vm(), want, ALL_WORDS);
                unshare(pick.vm(), staged);
                fresh = staged.pages;
                pick.finish(fresh);
            }
            let kept = if fresh > 0 || pick.counts.staged > ahead { ahead } else { 0 };
            let mut over = pick.vm().counts().staged.saturating_sub(kept).min(pick.spare).min(u64::from(RUN)) as u32;
            let (mut gone, mut stayed, mut refused, mut helped) = (0, 0, fresh == 0 && over == 0, false);
            let is_kept_ahead = fresh > 0 && over == 0;
            while over > 0 && won + gone < bytes && !stop() {
                // No more than may be needed: a page brings at most what it was charged.
                let missing = (bytes - won - gone).div_ceil(PAGE_SIZE as u64);
                let batch = over.min(BATCH).min(missing.try_into().unwrap_or(BATCH));
                let compressed = pick.vm().compress_staged(batch, true);
                some |= compressed != Compressed::default();
                gone += compressed.won;
                over = over.saturating_sub(compressed.pages + compressed.back + compressed.stayed);
                stayed += compressed.stayed;
                if compressed.refused > 0 && !helped {
                    helped = true;
                    self.help(pick.vm().account());
                    continue;
                }
                // Nothing at all: another thread is at what was staged.
                busy |= compressed == Compressed::default();
                if compressed.refused > 0 || compressed.pages + compressed.back + compressed.stayed == 0 {
                    refused = true;
                    break;
                }
                self.note_won(compressed.progress());
                self.room().turn();
            }
            some |= fresh > 0;
            if refused {
                let place = pick.place;
                drop(pick);
                empty.push(place);
            }
            won += gone;
            // What does not shrink is not met again soon: its search ends. And of each VM no more is staged ahead than so much.
            vain = if gone > 0 || stayed > 0 || is_kept_ahead { 0 } else { vain + 1 };
            if vain > MOST_VAIN {
                break;
            }
        }
        let end = match () {
            () if won >= bytes => End::Met,
            () if busy => End::Busy,
            () if some => End::Exhausted,
            () => End::NothingToScan,
        };
        Reclaimed { bytes: won, end }
    }

    /// A VM's page was refused by the store, which neither calls the allocator nor makes room: both are done here. Whether it was for that, is known
    /// at the next try.
    fn help(&self, account: &Account) {
        self.prepare(account);
        // Its own limit, or one above it; else the pool's.
        if account.charged().is_none_or(|memcg| self.write_back(&memcg, WRITE_BACK) == 0) {
            self.write_back(&self.tree().root(), WRITE_BACK);
        }
    }

    /// Have compressed bytes of `scope` written to a device. How many went.
    fn write_back(&self, scope: &Memcg, bytes: u64) -> u64 {
        // Ordinary reclaim that leaves pages in memory alone: those are ours.
        let request = ReclaimRequest { swappiness: Some(Swappiness::Weight(0)), ..ReclaimRequest::new(bytes) };
        match scope.reclaim(&request, &Cancel::new()) {
            Ok(Reclaimed { bytes, .. })
            | Err(Error::Again { reclaimed: bytes, .. } | Error::Interrupted { reclaimed: bytes, .. }) => {
                self.note_won(bytes);
                self.room().turn();
                bytes
            }
            Err(_) => 0,
        }
    }

    /// Write back what compressed bytes have above their share of a memcg, up to `bytes`, if there is a device. How many went.
    ///
    /// Every page that is compressed leaves something behind, so that compressed bytes, which a limit counts too, would in the
    /// end fill it, with hardly a page in memory and every touch a fault, while the device is empty.
    fn spill(&self, memcg: &Memcg, bytes: u64) -> u64 {
        let share = memcg.current(Counter::Memory) / 100 * COMPRESSED_PERCENT;
        match memcg.current(Counter::Zswap).saturating_sub(share).min(bytes) {
            0 => 0,
            over => self.write_back(memcg, over),
        }
    }

    /// Memcgs above their marks that VMs are charged to, the deepest first: what they give, those above them need not.
    fn above(&self) -> Vec<Memcg> {
        let mut above: Vec<Memcg> = Vec::new();
        self.roster().each(|_, vm| {
            let mut at = self.tree().get(self.tree().group_of(vm.account().objcg()));
            while let Some(memcg) = at {
                at = memcg.parent();
                if memcg.above_mark(Counter::Memory).0 > 0 && !above.contains(&memcg) {
                    above.push(memcg);
                }
            }
        });
        above.sort_by_key(|memcg| std::cmp::Reverse(memcg.group().depth()));
        above
    }

    /// Bring every memcg below its mark, and keep pages staged where they will be wanted. True: that was done, as far as there was
    /// something to do.
    pub(super) fn round(&self, stop: &dyn Fn() -> bool) -> bool {
        let mut met = true;
        loop {
            let (mut won, mut left) = (0, 0);
            for memcg in self.above() {
                let (bytes, margin) = memcg.above_mark(Counter::Memory);
                if bytes == 0 || stop() {
                    continue; // what was won below it was enough
                }
                if memcg.current(Counter::Memory) > memcg.high() {
                    memcg.note(MemcgEvent::High);
                }
                let goal = (bytes + margin).min(SLICE);
                let mut here = self.spill(&memcg, goal);
                here += self.evict(&memcg, goal.saturating_sub(here), stop).bytes;
                if here < goal.min(bytes) && !stop() {
                    here += self.write_back(&memcg, bytes.min(SLICE) - here.min(bytes));
                }
                won += here;
                left += memcg.above_mark(Counter::Memory).0;
            }
            met &= left == 0;
            if left == 0 || won == 0 || stop() {
                break;
            }
            met = true; // there is more to do, and it goes on
        }
        self.stage_ahead(stop);
        met
    }

    /// Have so many pages staged, of VMs near a limit, that a fault there finds some to compress.
    fn stage_ahead(&self, stop: &dyn Fn() -> bool) {
        let ahead = u64::from(self.staged_ahead());
        let mut all = 0;
        self.roster().each(|_, vm| all += vm.counts().resident);
        self.roster().each(|_, vm| {
            let (account, counts) = (vm.account(), vm.counts());
            let is_near = self.tree().would_pass_mark(account.objcg(), Counter::Memory, NEAR);
            let free = counts.resident.saturating_sub(counts.staged + counts.pinned);
            if is_near && counts.staged < ahead && free > 0 && !stop() && account.spare(&self.tree().root()).0 > 0 {
                // A small VM keeps most of its pages in place.
                let want = (ahead - counts.staged).min(counts.resident / 8 + 1).min(free) as u32;
                let staged = self.stage(vm, want, ALL_WORDS);
                unshare(vm, staged);
                account.pace().took(staged.pages.into(), counts.resident, all);
            }
        });
    }

    /// Once a second: stamps that are too old are forgotten, and the policy looks at what was written.
    pub(super) fn tick(&self) {
        let now = self.now();
        self.roster().each(|_, vm| {
            let epochs = vm.account().epochs();
            let began = epochs.is_behind(vm.counts().resident, now);
            let mut all = 0;
            vm.regions(0, &mut |_, region| {
                all += u64::from(region.pages());
                self.policy().on_scan(&mut super::policy::View::new(region, 0, 0, 0));
                true
            });
            if !began || all == 0 {
                return;
            }
            let (from, most) = epochs.sweep(all);
            let (mut base, to) = (0, from + most);
            vm.regions(0, &mut |_, region| {
                let pages = u64::from(region.pages());
                // The part that goes past the end is at the beginning.
                for (from, to) in [(from, to), (0, to.saturating_sub(all))] {
                    let inside = |at: u64| at.saturating_sub(base).min(pages) as u32;
                    let mut page = region.next_used(inside(from));
                    while page < inside(to) {
                        let stamp = region.look(page).stamp;
                        if epochs.is_stale(stamp) {
                            region.restamp(page, stamp, 0);
                        }
                        page = region.next_used(page + 1);
                    }
                }
                base += pages;
                true
            });
        });
    }
}

/// A VM is near a limit when so many bytes more would bring it above a mark.
const NEAR: u64 = 512 << 10;

/// What `memory.reclaim` and whoever is refused ask: pages in memory, `source=anon`.
pub(crate) struct Anon(pub(crate) Arc<Limits>);

impl Reclaimer for Anon {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        if ask.age.is_some() {
            // Nobody knows when a page was read last.
            return Reclaimed { bytes: 0, end: End::NothingToScan };
        }
        self.0.evict(memcg, ask.bytes, &|| ask.cancel.is_cancelled())
    }

    fn pinned(&self, memcg: &Memcg) -> u64 {
        let mut pages = 0;
        self.0.roster().each(|_, vm| {
            if memcg.is_charged_by(vm.account().objcg()) {
                pages += vm.counts().pinned;
            }
        });
        pages * PAGE_SIZE as u64
    }
}
