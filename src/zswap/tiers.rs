//! Devices of an instance, and which of them the pages of a memcg may go to.
//!
//! ```text
//!   swapon ---> swap::Devices: a number, a tier      names ---> memcg::Tree: memory.swap.tiers
//!                     ^                                               |
//!                     | begin(Allowed)                                | mask of each group, the AND up to the root
//!                     +------- a batch of entries of groups with one mask <-------+
//! ```
//!
//! - **T1** A batch goes to a tier that every memcg with an entry in it may use at the moment it is begun.

use super::Error;
use super::core::{Core, Zswap};
use super::writeback::Landed;
use crate::memcg::{GroupRef, Memcg, TierName};
use crate::swap::{Allowed, DeviceOptions, DeviceRef, DeviceStats, TierInfo};
use crate::units::{Owner, TierMask};

impl Zswap {
    /// Add a device while pages are stored and loaded; it is written to from now on. Its number.
    ///
    /// # Errors
    /// [`Error::Swap`], as [`Devices::add`](crate::swap::Devices::add): nothing is changed then.
    ///
    /// # Locks
    /// Devices, then the tree; none while the device is opened.
    ///
    /// # Examples
    /// ```
    /// # use zspool::swap::{DeviceOptions, MemoryDevice};
    /// # use zspool::zswap::Zswap;
    /// let zswap = Zswap::builder().build()?;
    /// let number = zswap.swapon(DeviceOptions::device(MemoryDevice::new(1 << 20, 4096)).tier("fast", 10))?;
    /// zswap.root().write_file("memory.swap.tiers.max", "fast 0")?; // nobody's pages go there
    /// assert_eq!(zswap.devices()[0].tier, "fast");
    /// # let _ = number;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn swapon(&self, options: DeviceOptions) -> Result<u8, Error> {
        let number = self.core.devices.add(options)?;
        self.core.tell_tiers();
        Ok(number)
    }

    /// Write to a device again that was [retired](crate::swap::State::Retired) after failed writes.
    ///
    /// # Errors
    /// [`Error::Swap`], when there is no device of this number.
    pub fn reinstate(&self, number: u8) -> Result<(), Error> {
        Ok(self.core.devices.reinstate(number)?)
    }

    /// Bytes in use on all devices together at most (`u64::MAX`: as many as they have). What is above a lower one stays; of the
    /// limit a segment is for cleaning only.
    pub fn set_swap_limit(&self, bytes: u64) {
        self.core.devices.set_limit(bytes);
    }

    /// A device, if there is one of this number. While the caller holds it, it cannot be removed.
    pub fn device(&self, number: u8) -> Option<DeviceRef<'_>> {
        self.core.devices.get(number)
    }

    /// The devices, highest priority first.
    pub fn devices(&self) -> Vec<DeviceStats> {
        self.core.devices.rows()
    }
}

impl Core {
    /// Tell the tree which tiers there are.
    pub(super) fn tell_tiers(&self) {
        let (version, tiers) = self.devices.tiers();
        let name = |tier: TierInfo| TierName { name: tier.name, priority: tier.priority };
        self.tree.set_tiers(version, tiers.into_iter().map(name).collect());
    }

    /// Whether pages of this memcg may be written to any device there is.
    pub(super) fn may_write_back(&self, memcg: &Memcg) -> bool {
        memcg.writeback() && self.has_tier(memcg)
    }

    /// Whether there is a device of a tier that this memcg may use.
    pub(super) fn has_tier(&self, memcg: &Memcg) -> bool {
        !(memcg.tiers() & self.devices.occupied_tiers()).is_empty()
    }

    /// Whether one of these devices wants pages as they are.
    pub(super) fn wants_whole_pages(&self, allowed: &Allowed) -> bool {
        self.devices.iter().any(|device| device.whole_pages() && allowed.admits(&device))
    }

    /// The devices that pages of this group may go to.
    pub(super) fn allowed(&self, group: GroupRef) -> Allowed {
        Allowed::tiers(self.tree.group_tiers(group))
    }

    /// Have `write` write these entries, in as many batches as their groups have masks; `each` names entries by their place in
    /// `entries` (T1).
    pub(super) fn by_tiers(
        &self,
        entries: &[(GroupRef, Owner)],
        mut each: impl FnMut(usize, u64),
        mut write: impl FnMut(&Allowed, &[(GroupRef, Owner)], &mut dyn FnMut(usize, u64)) -> Landed,
    ) -> Landed {
        let masks: Vec<_> = entries.iter().map(|&(group, _)| self.tree.group_tiers(group)).collect();
        let Some(&first) = masks.first() else { return Landed::default() };
        if masks.iter().all(|&mask| mask == first) {
            return write(&Allowed::tiers(first), entries, &mut each);
        }
        let mut different: Vec<TierMask> = Vec::new();
        masks.iter().for_each(|mask| {
            if !different.contains(mask) {
                different.push(*mask)
            }
        });
        different.into_iter().fold(Landed::default(), |sum, mask| {
            let alike: Vec<_> = (0..entries.len()).filter(|&at| masks[at] == mask).collect();
            let some: Vec<_> = alike.iter().map(|&at| entries[at]).collect();
            let landed = write(&Allowed::tiers(mask), &some, &mut |at, bytes| each(alike[at], bytes));
            Landed {
                entries: sum.entries + landed.entries,
                bytes: sum.bytes + landed.bytes,
                device_refused: sum.device_refused || landed.device_refused,
                at_limit: sum.at_limit.or(landed.at_limit),
            }
        })
    }
}
