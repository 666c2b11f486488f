//! Runs the simulation from seeds: see `.ci/simulate`.
//!
//! Without arguments, each scenario for `SIM_SECONDS` (or `SIM_SEEDS`) from `SIM_SEED` on, or from the clock's seed; with a scenario, a
//! seed and a number, those seeds of that one; with `twins` and a number, what so many seeds make of each planted bug.

#[cfg(not(shuttle))]
fn main() {
    eprintln!("simulate has to be built with --cfg shuttle: run .ci/simulate SECONDS");
    std::process::exit(2);
}

#[cfg(shuttle)]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ok = match &args[..] {
        [] => simulation::campaign(),
        [twins, seeds] if twins == "twins" => simulation::twins(number(seeds)),
        [scenario, seed, seeds] => simulation::some(scenario, number(seed), number(seeds)),
        _ => panic!("usage: simulate [SCENARIO SEED SEEDS | twins SEEDS]; see .ci/simulate"),
    };
    std::process::exit(i32::from(!ok));
}

#[cfg(shuttle)]
fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

#[cfg(shuttle)]
mod simulation {
    use sim_tests::campaign::{self, Summary, run_many};
    use sim_tests::plan::{SCENARIOS, Scenario};
    use sim_tests::twins::{TWINS, first_to_fail};
    use std::time::{Duration, Instant, SystemTime};

    fn asked(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|text| super::number(&text))
    }

    fn known(name: &str) -> Scenario {
        Scenario::by_name(name).unwrap_or_else(|| panic!("there is no scenario {name:?}, but {SCENARIOS:?}"))
    }

    /// Some seeds of one scenario.
    pub fn some(scenario: &str, seed: u64, seeds: u64) -> bool {
        let summary = run_many(known(scenario), seed, seeds, Duration::MAX);
        print!("{}", summary.reached);
        println!("{} seeds, {} failed", summary.seeds, summary.failed.len());
        summary.failed.is_empty()
    }

    /// All scenarios.
    pub fn campaign() -> bool {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
        let first = asked("SIM_SEED").unwrap_or(clock.as_secs());
        let (most, time) = match (asked("SIM_SEEDS"), asked("SIM_SECONDS")) {
            (Some(seeds), _) => (seeds, Duration::MAX),
            (None, seconds) => (u64::MAX, Duration::from_secs(seconds.unwrap_or(10))),
        };
        println!("from seed {first}");
        let (mut all, mut rows) = (Summary::default(), Vec::new());
        let only = std::env::var("SIM_SCENARIO").ok().map(|name| known(&name));
        for scenario in SCENARIOS.into_iter().filter(|scenario| only.is_none_or(|only| only == *scenario)) {
            let began = Instant::now();
            let same = campaign::comes_to_the_same_twice(scenario, first);
            let summary = run_many(scenario, first, most, time);
            let failed = summary.failed.iter().map(|(seed, _)| seed.to_string()).collect::<Vec<_>>().join(", ");
            let findings = if failed.is_empty() { "none".to_owned() } else { format!("seeds {failed}") };
            let (seconds, steps) = (began.elapsed().as_secs(), summary.reached.get("steps"));
            rows.push(format!("| {scenario:?} | {first} | {} | {seconds} | {steps} | {findings} |", summary.seeds));
            if let Err(message) = same {
                all.failed.push((first, message.clone()));
                eprintln!("{message}");
            }
            all.seeds += summary.seeds;
            all.failed.extend(summary.failed);
            all.reached.merge(&summary.reached);
        }
        print!("{}", all.reached);
        println!("\n| scenario | first seed | seeds | seconds | steps | findings |\n|---|--:|--:|--:|--:|---|");
        rows.iter().for_each(|row| println!("{row}"));
        let missed = if only.is_none() { campaign::never_reached(&all) } else { Vec::new() };
        missed.iter().for_each(|what| eprintln!("{} seeds never came upon: {what}", all.seeds));
        all.failed.is_empty() && missed.is_empty()
    }

    /// After how many seeds each twin fails, and how.
    pub fn twins(seeds: u64) -> bool {
        let mut all = true;
        for (bug, scenario) in TWINS {
            match first_to_fail((bug, scenario), seeds) {
                Some((seed, message)) => {
                    let line = message.lines().next().unwrap_or_default();
                    println!("{bug:?} | {scenario:?} | {seed} | {}", line.chars().take(160).collect::<String>());
                }
                None => {
                    println!("{bug:?} | {scenario:?} | not in {seeds}");
                    all = false;
                }
            }
        }
        all
    }
}
