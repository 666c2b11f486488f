//! Twins: scenarios with a bug planted, which must fail.

use crate::campaign::run_planted;
use crate::plan::Scenario;
use zspool::sync::Bug;

/// Seeds after which each twin must have failed.
pub const MOST_SEEDS: u64 = 600;

/// A bug, and the scenario that shows it.
pub type Twin = (Bug, Scenario);

/// The first of so many seeds that shows the bug, and what it says.
pub fn first_to_fail((bug, scenario): Twin, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| run_planted(scenario, seed, bug).err().map(|message| (seed, message)))
}

/// Those that fail within some dozens of seeds; which seed it is changes with the code, so ten times as many are allowed. Not here: what a scenario shows too seldom, and what ends the
/// process (`SeatTakenInUse` reads what is freed).
pub const TWINS: [Twin; 20] = [
    (Bug::CompactionIgnoresPins, Scenario::StoresAndCompaction),
    (Bug::FailedStoreKeepsOlder, Scenario::Groups),
    (Bug::WritebackIgnoresCancel, Scenario::Writeback),
    (Bug::WritebackSwitchesEarly, Scenario::Writeback),
    (Bug::LaunchTwice, Scenario::Writeback),
    (Bug::PromotionSkipsSecondLook, Scenario::Writeback),
    (Bug::PlaceKeepsCharge, Scenario::Writeback),
    (Bug::CancelKeepsCharge, Scenario::Writeback),
    (Bug::MoveTrustsReverseWord, Scenario::Devices),
    (Bug::SeatCountsLate, Scenario::Devices),
    (Bug::WritebackIgnoresFailure, Scenario::Faults),
    (Bug::TakeOutOwnsLate, Scenario::Discards),
    (Bug::InstallOwnsNothing, Scenario::Discards),
    (Bug::FrameDroppedUnderReader, Scenario::Discards),
    (Bug::LostKeepsSlot, Scenario::Discards),
    (Bug::StiffKeepsCharge, Scenario::Discards),
    (Bug::DiscardOwnsLate, Scenario::Discards),
    (Bug::DiscardPassesReader, Scenario::Discards),
    (Bug::WriteKeepsCopy, Scenario::Discards),
    (Bug::VanishedStaysCharged, Scenario::Discards),
];
