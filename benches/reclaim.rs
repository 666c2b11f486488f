//! What reclaim is worth and what it costs: stores that never stop at a limit, who is written back, and nothing at all.
//!
//! ```text
//! overload    stores --> pool at its limit --> device      the same writes by plain pwrite; codec and pwrite overlapped
//! inversion   a trace of hot and cold pages                a perfect LRU of as many bytes
//! fairness    1 to 10,000 memcgs                           one memcg; equal shares
//! cursors     many reclaimers, few proactive callers       a claim alone, a batch alone
//! idle        everything on, no limit near                 everything off
//! ```
//!
//! Usage: `cargo bench --bench reclaim [-- --quick] [-- --overload | --inversion | --fairness | --cursors | --idle] [--dir FOLDER]
//! [--json FILE]`. Sections can be named together. Pages are made here; with `ZSPOOL_PAGES=FOLDER` those of its `*.pages` files are
//! taken instead. Swapfiles are made in `--dir` (default: cargo's target folder) and removed.
//!
//! Counts, bytes and shares are exact whatever else the machine does. Times are of the moment: each is a ratio to something
//! measured in turns with it, and the overload table says how many cores others kept busy meanwhile.

mod inputs;
mod measure;

#[path = "reclaim/cursors.rs"]
mod cursors;
#[path = "reclaim/device.rs"]
mod device;
#[path = "reclaim/fairness.rs"]
mod fairness;
#[path = "reclaim/floor.rs"]
mod floor;
#[path = "reclaim/idle.rs"]
mod idle;
#[path = "reclaim/inversion.rs"]
mod inversion;
#[path = "reclaim/overload.rs"]
mod overload;
#[path = "reclaim/tenants.rs"]
mod tenants;

use inputs::{Input, Noise};
use measure::Table;
use std::path::PathBuf;
use std::time::Duration;
use zspool::units::Page;

/// How much is measured.
#[derive(Clone, Debug)]
struct Scale {
    /// Pages of an input at most.
    pages: usize,
    /// Rounds of what is compared in turns.
    rounds: usize,
    /// How long an overload round lasts.
    round: Duration,
    /// Accesses of the inversion trace.
    accesses: usize,
    /// The most memcgs.
    memcgs: usize,
    /// Where swapfiles are made.
    dir: PathBuf,
}

const SECTIONS: [&str; 5] = ["--overload", "--inversion", "--fairness", "--cursors", "--idle"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} wants a path after it")))
    };
    let dir = value("--dir").map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str);
    // `cargo bench` says `--bench`; whoever runs this otherwise (a test of all targets) wants to see that it works.
    let quick = has("--quick") || !has("--bench");
    let dir = PathBuf::from(dir);
    let round = Duration::from_millis(if quick { 100 } else { 1000 });
    let scale = if quick {
        Scale { pages: 2048, rounds: 2, round, accesses: 20_000, memcgs: 1000, dir }
    } else {
        Scale { pages: 16_384, rounds: 5, round, accesses: 400_000, memcgs: 10_000, dir }
    };
    let wanted = |section: &str| has(section) || !SECTIONS.iter().any(|section| has(section));
    let pages = pages(&scale);
    let mut tables: Vec<Table> = vec![];
    if wanted("--overload") {
        tables.extend(overload::tables(&pages, &scale));
    }
    if wanted("--inversion") {
        tables.push(inversion::table(&pages, &scale));
    }
    if wanted("--fairness") {
        tables.extend(fairness::tables(&scale));
    }
    if wanted("--cursors") {
        tables.extend(cursors::tables(&scale));
    }
    if wanted("--idle") {
        tables.push(idle::table(&pages, &scale));
    }
    if let Some(path) = value("--json") {
        std::fs::write(path, measure::json(&tables))
            .unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
        println!("wrote {path}\n");
    }
}

/// Pages of all inputs, mixed.
fn pages(scale: &Scale) -> Vec<Page> {
    let mut inputs = inputs::files();
    if inputs.is_empty() {
        inputs = vec![Input::Mixed];
    }
    let names: Vec<_> = inputs.iter().map(Input::name).collect();
    let pages: Vec<Page> = inputs.iter().flat_map(|input| input.pages(scale.pages)).collect();
    println!("{} pages of {}, none of them same-filled.\n", pages.len(), names.join(", "));
    let order = Noise(5).shuffled(pages.len());
    order.into_iter().map(|k| pages[k].clone()).collect()
}
