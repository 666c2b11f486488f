//! [`DeviceStats`]: a row for each device; [`State`]; and the sum over all of them.

use super::Devices;
use crate::swap::AreaStats;
use std::fmt;

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It is read and written.
    On,
    /// Nothing is written to it any more; what is on it is being moved away.
    Draining,
    /// Nothing is written to it any more, for too many writes failed; what is on it is read.
    Retired,
    /// A request has not come back in time: nothing is written until it does.
    Hung,
    /// It is not there.
    Off,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::On => "on",
            State::Draining => "draining",
            State::Retired => "retired",
            State::Hung => "hung",
            State::Off => "off",
        })
    }
}

/// A device as a row of a table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceStats {
    /// Its number in places.
    pub number: u8,
    /// What it is called.
    pub name: String,
    /// Name of its tier.
    pub tier: String,
    /// Its priority.
    pub priority: i16,
    /// How it is.
    pub state: State,
    /// How it is used, for people.
    pub describe: String,
    /// Batches begun, ever.
    pub batches: u64,
    /// What it holds and did.
    pub area: AreaStats,
}

impl Devices {
    /// A row for each device, highest priority first.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn rows(&self) -> Vec<DeviceStats> {
        let mut rows: Vec<_> = self
            .iter()
            .map(|device| DeviceStats {
                number: device.number(),
                name: device.name().to_owned(),
                tier: device.0.tier_name.clone(),
                priority: device.priority(),
                state: device.state(),
                describe: device.describe(),
                batches: device.0.batches.get(),
                area: device.stats(),
            })
            .collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.priority), row.number));
        rows
    }

    /// How a device is.
    pub fn state(&self, number: u8) -> State {
        self.get(number).map_or(State::Off, |device| device.state())
    }

    /// The sum over all devices; `None` where there are none.
    ///
    /// # Locks
    /// [`Rank::Device`](crate::sync::Rank::Device).
    pub fn sum(&self) -> Option<AreaStats> {
        self.iter().map(|device| device.stats()).reduce(|mut sum, more| {
            sum += more;
            sum
        })
    }
}
