//! [`Allowed`]: which devices a batch may go to, as who asks for it says.

use super::{DeviceRef, State};
use crate::units::TierMask;

/// Which devices a batch may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub(super) tiers: TierMask,
    /// A bit per device that was tried.
    pub(super) tried: u32,
}

impl Allowed {
    /// All of them.
    pub const ALL: Allowed = Allowed { tiers: TierMask::ALL, tried: 0 };

    /// Those of these tiers.
    #[must_use]
    pub const fn tiers(tiers: TierMask) -> Self {
        Allowed { tiers, tried: 0 }
    }

    /// The same in these tiers only.
    #[must_use]
    pub fn within(self, tiers: TierMask) -> Self {
        Allowed { tiers: self.tiers & tiers, ..self }
    }

    /// Whether there may be a tier that is left out.
    pub fn is_restricted(self) -> bool {
        self.tiers != TierMask::ALL
    }

    /// Whether no tier is left.
    pub fn is_nowhere(self) -> bool {
        self.tiers.is_empty()
    }

    /// Whether a batch may go to this device, as it is now.
    pub fn admits(&self, device: &DeviceRef<'_>) -> bool {
        let tried = self.tried >> device.number() & 1 == 1;
        self.tiers.contains(device.tier()) && !tried && device.state() == State::On
    }

    /// The same without this device.
    #[must_use]
    pub const fn without(self, number: u8) -> Self {
        Allowed { tried: self.tried | 1 << number, ..self }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::{DeviceOptions, Geometry, MemoryDevice, Protection};
    use super::super::Devices;
    use super::*;
    use crate::sync::Planted;

    #[test]
    fn a_device_is_admitted_by_its_tier_its_state_and_if_it_was_not_tried() {
        let devices = Devices::new(Geometry::default(), Protection::Checksum(1), Planted::NONE);
        let add = |tier: &str, priority| {
            let device = DeviceOptions::device(MemoryDevice::new(1 << 20, 4096)).tier(tier, priority);
            devices.add(device).unwrap()
        };
        let (fast, slow, more) = (add("fast", 2), add("slow", 1), add("slow", 1));
        let tier = |number: u8| TierMask::only(devices.get(number).unwrap().tier());
        let admitted =
            |allowed: Allowed| [fast, slow, more].map(|number| allowed.admits(&devices.get(number).unwrap()));
        assert_eq!(admitted(Allowed::ALL), [true, true, true]);
        assert_eq!(admitted(Allowed::tiers(tier(fast))), [true, false, false]);
        assert_eq!(admitted(Allowed::ALL.within(tier(slow))), [false, true, true]);
        assert_eq!(admitted(Allowed::ALL.without(slow)), [true, false, true]);
        assert_eq!(admitted(Allowed::ALL.without(slow).without(fast).without(fast)), [false, false, true]);
        assert_eq!(admitted(Allowed::ALL.within(tier(slow)).without(more)), [false, true, false]);
        devices.drain(slow).unwrap();
        assert_eq!(admitted(Allowed::ALL), [true, false, true]);
        devices.resume(slow).unwrap();
        assert_eq!(admitted(Allowed::ALL), [true, true, true]);
        assert!(!Allowed::ALL.is_restricted() && !Allowed::ALL.without(fast).is_restricted());
        assert!(Allowed::tiers(tier(fast)).is_restricted());
        assert!(!Allowed::tiers(tier(fast)).is_nowhere() && Allowed::tiers(tier(fast)).within(tier(slow)).is_nowhere());
    }
}
