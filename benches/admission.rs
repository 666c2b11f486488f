//! What is let in and what goes: sampling of memory that does not shrink, and who is cold enough to be written back.
//!
//! ```text
//! sampling   inputs of noise and of pages that shrink, stored and replaced: compressions in vain, pages passed by, bytes
//!            lost by that, time per page with sampling over without
//! policies   one trace of accesses, with a hot set and pages used once, under a limit of a quarter of what it touches:
//!            reads from the device and hot pages written back, beside a perfect LRU of the same size
//! ```
//!
//! Usage: `cargo bench --bench admission [-- --quick] [-- --sampling | --policies] [--json FILE]`. Pages are made here; with
//! `ZSPOOL_PAGES=FOLDER` those of its `*.pages` files (flat 4096-byte pages) are taken where pages shrink. All counts are the
//! same in every run; times are not.

mod inputs;
#[path = "admission/policies.rs"]
mod policies;
#[path = "admission/sampling.rs"]
mod sampling;

use serde_json::{Value, json};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Pages of an input at most.
    pages: usize,
    /// Rounds of times, of which the shortest counts.
    rounds: usize,
    /// Pages that a trace comes back to.
    universe: usize,
    /// Accesses of a trace.
    accesses: usize,
}

const FULL: Scale = Scale { pages: 16_384, rounds: 5, universe: 16_384, accesses: 1 << 20 };
const QUICK: Scale = Scale { pages: 4096, rounds: 1, universe: 2048, accesses: 1 << 16 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // `cargo bench` says `--bench`; whoever runs this otherwise (a test of all targets) wants to see that it works.
    let scale = if has("--quick") || !has("--bench") { QUICK } else { FULL };
    let mut numbers = json!({});
    if !has("--policies") {
        numbers["sampling"] = Value::Array(sampling::tables(scale));
    }
    if !has("--sampling") {
        numbers["policies"] = Value::Array(policies::tables(scale));
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--json") {
        let path = arguments.get(at + 1).expect("--json wants the name of a file after it");
        let text = serde_json::to_string_pretty(&numbers).expect("numbers and names");
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
        println!("wrote {path}");
    }
}

/// Pages that shrink, `n` of them: real ones where they are to be had.
fn pages_that_shrink(n: usize) -> (String, Vec<zspool::units::Page>) {
    let files = inputs::files();
    if files.is_empty() {
        return ("heap".to_owned(), inputs::Input::Heap.pages(n));
    }
    let each = n.div_ceil(files.len());
    let mut pages: Vec<_> = files.iter().flat_map(|file| file.pages(each)).collect();
    pages.truncate(n);
    ("real".to_owned(), pages)
}
