//! Demotion: what lies on one tier goes to the next, oldest segments first.
//!
//! ```text
//!   to=disk        nvme [oldest] [..] [newest]  --->  disk        from the tier above the one that is named
//!   high water     nvme over 80%: down to 60%   --->  disk, tape  whatever of those below its payer may use
//! ```
//!
//! - **M1** By request, bytes come from the devices of the tier whose priority is next above the one asked for; where that is the
//!   fastest, from the pool. They are payload bytes that have arrived.
//! - **M2** Only objects that a memcg of the subtree pays for are moved, and only to tiers that it may use.
//! - **M3** A device with water marks is brought from above its high mark to its low one by the worker. What counts is what lives
//!   there: what does not is for cleaning.

use super::core::{Core, Zswap};
use super::relocate::{Moved, Mover, Route, To};
use crate::memcg::{Cancel, End, GroupRef, Memcg, ObjcgId, Reclaimed};
use crate::swap::{Allowed, DeviceRef, TierInfo};
use crate::sync::{self, Step};
use crate::units::TierMask;
use std::collections::HashSet;

/// What a demotion came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Demoted {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// Objects that did.
    pub objects: u64,
    /// Why it ended before there were enough, if a device refused them.
    pub refused: Option<String>,
    /// There were enough.
    pub is_met: bool,
    /// It was called off.
    pub cancelled: bool,
}

impl Zswap {
    /// Move up to `bytes` payload bytes (the last object may bring more) of `memcg` and its descendants to a tier: from the tier
    /// above it, oldest first, or from the pool if it is the fastest. The same as `<bytes> to=<tier>` in `memory.reclaim`, but for
    /// what it says.
    ///
    /// # Errors
    /// [`Error::Memcg`](super::Error::Memcg) for a tier that there never was; it names those there are.
    ///
    /// # Locks
    /// None while reading and writing; then as writeback.
    pub fn demote(&self, memcg: &Memcg, tier: &str, bytes: u64, cancel: &Cancel) -> Result<Demoted, super::Error> {
        let tier = self.core.tree.tier(tier)?;
        Ok(self.core.demote(memcg, tier, bytes, &|| cancel.is_cancelled()))
    }
}

impl From<Demoted> for Reclaimed {
    fn from(demoted: Demoted) -> Self {
        let end = match demoted {
            Demoted { cancelled: true, .. } => End::Cancelled,
            Demoted { is_met: true, .. } => End::Met,
            Demoted { refused: Some(_), .. } => End::Exhausted,
            _ => End::NothingToScan,
        };
        Reclaimed { bytes: demoted.bytes, end }
    }
}

impl Core {
    /// As [`Zswap::demote`], to the tier of this index.
    pub(super) fn demote(&self, memcg: &Memcg, tier: u8, bytes: u64, stop: &dyn Fn() -> bool) -> Demoted {
        sync::assert_no_lock_held("moving pages to another tier");
        let (_, tiers) = self.devices.tiers();
        let priority = |index: u8| tiers.iter().find(|tier| tier.index == index).and_then(|tier| tier.priority);
        let Some(priority) = priority(tier) else { return Demoted::default() }; // it has no device
        let above = tiers.iter().filter_map(|tier| tier.priority).filter(|&other| other > priority).min();
        let Some(above) = above else {
            let Reclaimed { bytes, end } = self.write_to(memcg, bytes, None, true, TierMask::only(tier), stop);
            return Demoted {
                bytes,
                is_met: end == End::Met,
                cancelled: end == End::Cancelled,
                refused: (end == End::Exhausted).then(|| "nothing more could be written from the pool".to_owned()),
                ..Demoted::default()
            };
        };
        let groups: HashSet<GroupRef> = memcg.subtree().iter().map(Memcg::group).collect();
        let whose = |payer: ObjcgId| groups.contains(&self.tree.group_of(payer));
        let mut demoted = Demoted::default();
        for device in self.devices.iter().filter(|device| device.priority() == above) {
            let route = Route { pool: false, to: To::Others(Allowed::tiers(TierMask::only(tier))), whose: &whose };
            let left = bytes.saturating_sub(demoted.bytes);
            self.demote_from(&device, route, left, Moved::payload_sent, stop, &mut demoted);
        }
        demoted.is_met = demoted.bytes >= bytes;
        demoted
    }

    /// Move what was written first off a device, until so many bytes have gone by this measure.
    fn demote_from(
        &self,
        device: &DeviceRef<'_>,
        route: Route<'_>,
        bytes: u64,
        sent: fn(&Moved) -> u64,
        stop: &dyn Fn() -> bool,
        demoted: &mut Demoted,
    ) {
        let mut mover = Mover::new(self, route);
        let mut next = device.oldest(None);
        // Segments that are filled meanwhile come last: it ends.
        let mut segments = device.stats().segments.all;
        while sent(&mover.moved) < bytes
            && segments > 0
            && !mover.is_nowhere()
            && !mover.moved.hung
            && let Some(id) = next
        {
            segments -= 1;
            if stop() {
                demoted.cancelled = true;
                break;
            }
            if self.steps.reach(Step::DemotionChose).is_err() {
                break;
            }
            // While there is something in this one: after an empty one the first of all would be next.
            next = device.oldest(Some(id)).filter(|&next| next != id);
            mover.segment(device, id, &|moved: &Moved| sent(moved) >= bytes);
        }
        demoted.bytes += mover.moved.payload_bytes;
        demoted.objects += mover.moved.objects();
        demoted.refused = demoted.refused.take().or(mover.moved.device_refused);
    }

    /// Bring devices that are above their high mark down to their low one. Whether anything was moved.
    pub(super) fn level(&self, stop: &dyn Fn() -> bool) -> bool {
        let mut moved = false;
        for device in self.devices.iter() {
            let Some((low, high)) = device.water_marks() else { continue };
            let stats = device.stats();
            let percent = |percent: u8| stats.size_bytes / 100 * u64::from(percent);
            if stats.live_bytes <= percent(high) {
                continue;
            }
            let below = |tier: &TierInfo| tier.priority.is_some_and(|priority| priority < device.priority());
            let (_, tiers) = self.devices.tiers();
            let below = tiers.iter().filter(|&tier| below(tier));
            let tiers = below.fold(TierMask::NONE, |mask, tier| mask.with(tier.index, true));
            if tiers.is_empty() {
                continue;
            }
            let bytes = stats.live_bytes - percent(low);
            let route = Route { pool: false, to: To::Others(Allowed::tiers(tiers)), whose: &|_| true };
            let mut demoted = Demoted::default();
            self.demote_from(&device, route, bytes, Moved::blocks_sent, stop, &mut demoted);
            moved |= demoted.objects > 0;
        }
        moved
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_demotion_says_why_it_ended() {
        let end = |demoted: Demoted| {
            let reclaimed = Reclaimed::from(Demoted { bytes: 77, ..demoted });
            assert_eq!(reclaimed.bytes, 77);
            reclaimed.end
        };
        let refused = Some("no".to_owned());
        assert_eq!(end(Demoted::default()), End::NothingToScan);
        assert_eq!(end(Demoted { refused: refused.clone(), ..Demoted::default() }), End::Exhausted);
        assert_eq!(end(Demoted { refused: refused.clone(), is_met: true, ..Demoted::default() }), End::Met);
        assert_eq!(end(Demoted { refused, is_met: true, cancelled: true, ..Demoted::default() }), End::Cancelled);
    }
}
