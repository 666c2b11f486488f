//! What the device costs and gives: writeback, read-back, freeing.
//!
//! ```text
//! writeback   the pool --> file                the same writes alone; one page a pwrite
//! readback    file --> page, at random         a direct pread of the same span; runs against one by one
//! swapoff     a device --> pool, other device  by what it holds; beside threads that go on
//! cleaning    bytes written for a new byte     the best choice of segments there is
//! metadata    memory of a page on the device, time to free it
//! ```
//!
//! Usage: `cargo bench --bench swap [-- --quick] [-- --writeback | --readback | --swapoff | --cleaning | --metadata] [--dir FOLDER]
//! [--json FILE] [--rounds N]`.
//! Sections can be named together. Pages are made here; with `ZSPOOL_PAGES=FOLDER` those of its `*.pages` files are taken
//! instead. Files are made in `--dir` (default: cargo's target folder), read and written past the page cache, and removed.
//!
//! Counts and bytes are exact whatever else the machine does. Times are of the moment: each is a ratio to something measured
//! in turns with it on the same file.

mod inputs;
mod measure;

#[path = "swap/cleaning.rs"]
mod cleaning;
#[path = "swap/file.rs"]
mod file;
#[path = "swap/metadata.rs"]
mod metadata;
#[path = "swap/readback.rs"]
mod readback;
#[path = "swap/subject.rs"]
mod subject;
#[path = "swap/swapoff.rs"]
mod swapoff;
#[path = "swap/writeback.rs"]
mod writeback;

use inputs::{Input, Noise};
use measure::Table;
use std::path::PathBuf;
use zspool::units::Page;

/// How much is measured.
#[derive(Clone, Debug)]
struct Scale {
    /// Pages of an input at most.
    pages: usize,
    /// Rounds of what is compared in turns.
    rounds: usize,
    /// Where files are made.
    dir: PathBuf,
}

const SECTIONS: [&str; 5] = ["--writeback", "--readback", "--swapoff", "--cleaning", "--metadata"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} wants something after it")))
    };
    let dir = value("--dir").map_or(env!("CARGO_TARGET_TMPDIR"), String::as_str).into();
    // `cargo bench` says `--bench`; whoever runs this otherwise (a test of all targets) wants to see that it works.
    let quick = has("--quick") || !has("--bench");
    let mut scale =
        if quick { Scale { pages: 2048, rounds: 2, dir } } else { Scale { pages: 16_384, rounds: 15, dir } };
    if let Some(rounds) = value("--rounds") {
        scale.rounds = rounds.parse().unwrap_or_else(|_| panic!("--rounds wants a number, not {rounds:?}"));
    }
    let wanted = |section: &str| has(section) || !SECTIONS.iter().any(|section| has(section));
    let pages = pages(&scale);
    let mut tables: Vec<Table> = vec![];
    if wanted("--writeback") {
        tables.push(writeback::table(&pages, &scale));
    }
    if wanted("--readback") {
        tables.push(readback::single(&pages, &scale));
        tables.push(readback::run(&pages, &scale));
    }
    if wanted("--swapoff") {
        tables.push(swapoff::table(&pages, &scale));
    }
    if wanted("--cleaning") {
        tables.push(cleaning::table(&pages, &scale));
    }
    if wanted("--metadata") {
        tables.push(metadata::table(&pages, &scale));
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
