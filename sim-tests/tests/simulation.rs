//! A few seeds of every scenario, the same ones each time; many, and others, are `.ci/simulate`'s.

#![cfg(shuttle)]

use sim_tests::campaign::{comes_to_the_same_twice, run_many};
use sim_tests::plan::{SCENARIOS, Scenario};
use std::time::Duration;

fn holds(scenario: Scenario) {
    let summary = run_many(scenario, 0, 40, Duration::MAX);
    assert!(summary.failed.is_empty(), "{:?}", summary.failed);
    assert!(summary.reached.get("steps") > 10_000, "nothing happened: {}", summary.reached);
}

#[test]
fn everything_at_once_holds() {
    holds(Scenario::Everything);
}

#[test]
fn stores_on_few_slots_hold_beside_compaction() {
    holds(Scenario::StoresAndCompaction);
}

#[test]
fn pages_hold_while_they_are_written_back_and_come_again() {
    holds(Scenario::Writeback);
}

#[test]
fn groups_hold_while_their_limits_change_and_they_go() {
    holds(Scenario::Groups);
}

#[test]
fn pages_hold_while_devices_come_and_go() {
    holds(Scenario::Devices);
}

#[test]
fn pages_hold_or_are_lost_with_a_name_where_devices_fail() {
    holds(Scenario::Faults);
}

#[test]
fn guests_hold_under_limits() {
    holds(Scenario::Guests);
}

#[test]
fn a_guest_holds_whose_pages_are_thrown_away_and_pushed_out() {
    holds(Scenario::Discards);
}

#[test]
fn a_seed_comes_to_the_same_twice() {
    for scenario in SCENARIOS {
        (0..5).for_each(|seed| comes_to_the_same_twice(scenario, seed).unwrap());
    }
}
