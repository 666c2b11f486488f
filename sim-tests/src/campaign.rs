//! Many seeds of a scenario: what they came upon, and which failed.

use crate::execution::{self, Outcome};
use crate::plan::Scenario;
use crate::reached::Reached;
use crate::system;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zspool::sync::Bug;

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, and what they said.
    pub failed: Vec<(u64, String)>,
    /// What they came upon.
    pub reached: Reached,
}

/// Run one seed.
pub fn run(scenario: Scenario, seed: u64, reached: &Arc<Mutex<Reached>>) -> Outcome {
    let reached = Arc::clone(reached);
    execution::execute(seed, move || system::run(scenario.plan(seed), seed, &reached))
}

/// The same with a bug planted, and in silence.
pub fn run_planted(scenario: Scenario, seed: u64, bug: Bug) -> Outcome {
    let reached = Arc::default();
    let plan = move || crate::plan::Plan { bug: Some(bug), ..scenario.plan(seed) };
    execution::execute_silently(seed, move || system::run(plan(), seed, &reached))
}

/// The command that runs a seed again.
pub fn command(scenario: Scenario, seed: u64) -> String {
    format!("SIM_SCENARIO={scenario:?} SIM_SEED={seed} .ci/simulate 1")
}

/// Run seeds from `first` on, for so long, or so many; each failure is told at once.
pub fn run_many(scenario: Scenario, first: u64, most: u64, time: Duration) -> Summary {
    let (mut summary, began) = (Summary::default(), Instant::now());
    let reached = Arc::new(Mutex::new(Reached::new()));
    while summary.seeds < most && began.elapsed() < time {
        let seed = first.wrapping_add(summary.seeds);
        summary.seeds += 1;
        if let Err(message) = run(scenario, seed, &reached) {
            eprintln!("\n{scenario:?}, seed {seed}: {message}\nagain: {}\n", command(scenario, seed));
            summary.failed.push((seed, message));
            if summary.failed.len() >= 5 {
                break;
            }
        }
    }
    summary.reached.merge(&reached.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    summary
}

/// Run a seed twice.
///
/// # Errors
/// A sentence, when it did not come to the same.
pub fn comes_to_the_same_twice(scenario: Scenario, seed: u64) -> Result<(), String> {
    let [first, second] = [(); 2].map(|()| run(scenario, seed, &Arc::default()));
    match first == second {
        true => Ok(()),
        false => Err(format!("{scenario:?}, seed {seed}, came to {first:?} and then to {second:?}")),
    }
}

/// Seeds of all scenarios after which each thing on the list has been come upon.
const MANY: u64 = 2000;

/// What many seeds must come upon.
const MUST: [&str; 30] = [
    "stores",
    "stores refused",
    "takes",
    "takes that found the slot changed",
    "pages in the pool at a quiet point",
    "pages on devices at a quiet point",
    "pages lost",
    "pages prefetched",
    "pages moved off devices",
    "objects moved to another tier",
    "bytes cleaned",
    "bytes passed limits",
    "bytes won from guests by hand",
    "devices removed",
    "faults of devices",
    "frames won by compaction",
    "groups removed",
    "guest pages poisoned",
    "guest pages pinned",
    "guest pages prefetched",
    "guest pages thrown away",
    "guest pages vanished",
    "guest pages in their slots at a quiet point",
    "guest writes",
    "limits compared",
    "limits set",
    "reads to be tried again",
    "requests for bytes that were met",
    "requests that hung",
    "swapoffs called off",
];

/// What was not come upon, by as many seeds as should.
pub fn never_reached(all: &Summary) -> Vec<&'static str> {
    if all.seeds < MANY {
        return Vec::new();
    }
    MUST.into_iter().filter(|what| all.reached.get(what) == 0).collect()
}
