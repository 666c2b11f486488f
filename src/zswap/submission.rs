//! Group commit: what stores at their limits pick, one entry each, goes to the device in common batches.
//!
//! ```text
//!   stores     a: entry 7    b: entry 9    c: entry 12       look at one entry each
//!                  |             |             |
//!   convoy        [7]           [9            12]            filled while the batch before is at the device
//!                  |             |
//!   device    [ page ]      [ page     ]                     who finds nobody writing leads (`sync::Convoy`)
//! ```
//!
//! A device page holds several entries, and a request costs the same for one as for many: written one by one, they took 2.8
//! times their payload on the device, and the stores 3.4 times as long.

use super::core::Core;
use super::writeback::{Landed, Terms};
use crate::memcg::GroupRef;
use crate::units::Owner;

/// An entry that a store wants written, and what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    group: GroupRef,
    owner: Owner,
    /// Payload bytes that left the pool with it.
    landed: u64,
    /// What its batch came to in all.
    batch: Landed,
}

impl Core {
    /// Write these entries of `group` back, together with what others join meanwhile. Calls `each_landed` as
    /// [`write_entries`](Self::write_entries) does.
    ///
    /// # Locks
    /// None on entry. Waits for the batch under way, and for its own.
    pub(super) fn write_back_joined(
        &self,
        group: GroupRef,
        owners: &[Owner],
        mut each_landed: impl FnMut(usize, u64),
    ) -> Landed {
        let member = |&owner| Member { group, owner, landed: 0, batch: Landed::default() };
        let members: Vec<_> = owners.iter().map(member).collect();
        let told = self.submission.join(
            &members,
            |members| {
                let entries: Vec<_> = members.iter().map(|member| (member.group, member.owner)).collect();
                let batch = self.write_entries(&entries, Terms::ALL, |k, bytes| members[k].landed = bytes);
                members.iter_mut().for_each(|member| member.batch = batch);
            },
            |mine| {
                let batch = mine.first().map_or(Landed::default(), |member| member.batch);
                let landed = mine.iter().enumerate().filter(|(_, member)| member.landed > 0);
                landed.for_each(|(at, member)| each_landed(at, member.landed));
                Landed {
                    entries: mine.iter().filter(|member| member.landed > 0).count(),
                    bytes: mine.iter().map(|member| member.landed).sum(),
                    device_refused: batch.device_refused,
                    // Another member's, perhaps.
                    at_limit: batch.at_limit.filter(|_| mine.iter().any(|member| member.landed == 0)),
                }
            },
        );
        told.unwrap_or_else(|| self.write_back(group, owners, Terms::ALL, each_landed))
    }
}
