//! A scenario with a bug planted fails: what it looks for, it finds.

#![cfg(shuttle)]

use sim_tests::twins::{MOST_SEEDS, TWINS, first_to_fail};

#[test]
fn every_planted_bug_is_found_within_so_many_seeds() {
    let passed: Vec<_> = TWINS.into_iter().filter(|&twin| first_to_fail(twin, MOST_SEEDS).is_none()).collect();
    assert!(passed.is_empty(), "these twins pass {MOST_SEEDS} seeds: {passed:?}");
}
