//! [`Troubled`]: the devices of a run, and what goes wrong with them.

use crate::Random;
pub use crate::trouble::{Split, TROUBLES, Trouble};
use std::sync::Arc;
use std::time::Duration;
use zspool::swap::{DeviceOptions, FaultyDevice, MemoryDevice, Plan};

/// What a device is.
#[derive(Clone, Copy, Debug)]
pub struct DevicePlan {
    /// Its bytes.
    pub bytes: usize,
    /// Its tier's priority: the number of its tier.
    pub tier: i16,
    /// How it goes wrong, and one operation in how many.
    pub trouble: Option<(Trouble, u64)>,
    /// It is retired after so many failed writes in a row; 0: never.
    pub retire_after: u32,
    /// Percent in use above which bytes go to the next tier, and down to which.
    pub water: Option<(u8, u8)>,
}

/// A device of a run.
#[derive(Clone, Debug)]
pub struct Troubled {
    plan: DevicePlan,
    split: Arc<Split>,
}

impl Troubled {
    /// One that is well.
    pub fn new(plan: DevicePlan) -> Self {
        let plain = Arc::new(MemoryDevice::new(plan.bytes, 4096));
        // What hangs is given up on in simulated time, before it is let go or after.
        let faulty = FaultyDevice::with_timeout(Arc::clone(&plain), Plan::none(), Duration::from_millis(2));
        let trouble = plan.trouble.map_or(Trouble::WritesFail, |(trouble, _)| trouble);
        Troubled { plan, split: Arc::new(Split { plain, faulty, trouble }) }
    }

    /// To be added to an instance.
    pub fn options(&self) -> DeviceOptions {
        let options = DeviceOptions::device(Arc::clone(&self.split))
            .tier(&format!("tier{}", self.plan.tier), self.plan.tier)
            .retire_after(self.plan.retire_after);
        match self.plan.water {
            Some((low, high)) => options.water_marks(low, high),
            None => options,
        }
    }

    /// The trouble begins.
    pub fn go_wrong(&self, random: &mut Random) {
        if let Some((trouble, times)) = self.plan.trouble {
            let plan = trouble.plan(times, self.plan.bytes as u64, &mut |end| random.below(end));
            self.split.faulty.replan(plan);
        }
    }

    /// It is over; what hangs hangs still. How often something went wrong.
    pub fn go_well(&self) -> u64 {
        let faults = self.split.faulty.faults();
        self.split.faulty.replan(Plan::none());
        faults
    }

    /// Let what hangs go. How many there were.
    pub fn release(&self) -> usize {
        self.split.faulty.release()
    }

    /// What it is.
    pub fn plan(&self) -> DevicePlan {
        self.plan
    }

    /// Nothing ever goes wrong with it.
    pub fn is_well(&self) -> bool {
        self.plan.trouble.is_none()
    }
}

/// What any device may cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// Pages that lie on a device alone may be lost.
    pub pages: bool,
    /// A read may have to be tried again.
    pub patience: bool,
}

impl Costs {
    /// Of all of these.
    pub fn of(devices: &[DevicePlan]) -> Self {
        let troubles = || devices.iter().filter_map(|device| device.trouble).map(|(trouble, _)| trouble);
        Costs { pages: troubles().any(Trouble::may_lose), patience: troubles().next().is_some() }
    }
}
