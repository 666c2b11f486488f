//! Density and cost, as tables of ratios: zswap and the allocator under it beside boxed slices on the system's malloc, and
//! beside the kernel's zram where this runs as root.
//!
//! ```text
//! memory   a fresh process per row:  pages in memory | subject: fill, churn, half freed, all freed
//!                                    baseline ----------- growth of anonymous memory / payload
//! time     one process: the subjects take turns, a chunk of pages each, and chunks come round several times;
//!          time of a subject = sum over chunks of the shortest turn of all rounds
//! threads  one and two at a time; a reader beside compaction
//! ```
//!
//! Usage: `cargo bench --bench density [-- --quick] [-- --memory | --time | --threads] [--json FILE] [--svg FILE]`. Pages are made here; with
//! `ZSPOOL_PAGES=FOLDER` those of its `*.pages` files (flat 4096-byte pages) are taken instead, without the pages that repeat
//! one word. `--json` writes every number of the memory table, `--svg` draws its medians.
//!
//! Growth is what the kernel says (`Anonymous` of `/proc/self/smaps_rollup`), and covers everything a subject needs: index,
//! metadata, scratch memory, the background worker. Payload is what the subject stores: compressed bytes, or 4096. A kernel
//! zram, in a device of its own making that is removed at the end, is counted by its `mem_used_total`, 16 bytes of table for each
//! block and 8 for each object's handle.

mod inputs;
#[path = "../tests/support/kernel_zram.rs"]
mod kernel_zram;
mod measure;
#[path = "density/memory.rs"]
mod memory;
#[path = "density/picture.rs"]
mod picture;
#[path = "density/subject.rs"]
mod subject;
#[path = "density/threads.rs"]
mod threads;
#[path = "density/time.rs"]
mod time;

use inputs::Input;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Pages of an input at most.
    pages: usize,
    /// Copies of an input in the larger of the memory rows; 1: there is no such row.
    copies: usize,
    /// Rounds of the time table.
    rounds: usize,
}

const FULL: Scale = Scale { pages: 16_384, copies: 16, rounds: 9 };
const QUICK: Scale = Scale { pages: 4096, copies: 1, rounds: 3 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == memory::CHILD) {
        return memory::child(&arguments[1..]);
    }
    let file = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} wants the name of a file after it")))
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // `cargo bench` says `--bench`; whoever runs this otherwise (a test of all targets) wants to see that it works.
    let scale = if has("--quick") || !has("--bench") { QUICK } else { FULL };
    let mut inputs = inputs::files();
    if inputs.is_empty() {
        inputs = vec![Input::Heap, Input::Mixed];
    }
    if !has("--time") && !has("--threads") {
        let rows = memory::table(&inputs, scale);
        if let Some(path) = file("--json") {
            write(path, &memory::json(&rows));
        }
        if let Some(path) = file("--svg") {
            write(path, &picture::draw(&rows));
        }
    }
    if !has("--memory") && !has("--threads") {
        time::tables(&inputs, scale);
        time::accounting(&inputs, scale);
    }
    if !has("--memory") && !has("--time") {
        threads::scaling(&inputs, scale);
        threads::readers(&inputs, scale);
    }
}

fn write(path: &str, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
    println!("wrote {path}\n");
}
