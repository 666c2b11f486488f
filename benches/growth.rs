//! How cost grows: with slots, memcgs, threads, devices and ranges of guest memory.
//!
//! ```text
//!   what grows          from .. to            what is to stay as it is
//!   slots in use        10^4 .. 10^7          store, load, free, a write-back, a swapoff of the same 10,000 objects, taking a memcg offline
//!   memcgs              1 .. 10^4             store, load, a request of the root, a look at the root's numbers
//!   threads             1 .. 64               what all of them do together (there are fewer cores)
//!   devices             1 .. 32, all there can be   writing back and reading
//!   ranges of guests    1 .. 64               a fault, a way out
//! ```
//!
//! Usage: `cargo bench --features guest --bench growth [-- --quick] [-- --slots | --memcgs | --threads | --devices | --ranges] [--json FILE]`.
//! Sections can be named together; 10^7 slots want 3 GiB.
//!
//! Each row says what an operation takes, and how often as much that is as with the smallest number of its table. What grows with the slots
//! beside the work is how far apart their words lie: the *floor* is a read of a random line of a table as large as the instance.

mod inputs;
mod measure;

#[path = "growth/devices.rs"]
mod devices;
#[path = "growth/growing.rs"]
mod growing;
#[path = "growth/memcgs.rs"]
mod memcgs;
#[path = "growth/ranges.rs"]
mod ranges;
#[path = "growth/slots.rs"]
mod slots;
#[path = "growth/subject.rs"]
mod subject;
#[path = "growth/threads.rs"]
mod threads;

use measure::{Others, Table};

const SECTIONS: [&str; 5] = ["--slots", "--memcgs", "--threads", "--devices", "--ranges"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // `cargo bench` says `--bench`; whoever runs this otherwise (a test of all targets) wants to see that it works.
    let quick = has("--quick") || !has("--bench");
    let wanted = |section: &str| has(section) || !SECTIONS.iter().any(|section| has(section));
    let sections: [fn(bool) -> Vec<Table>; 5] =
        [slots::tables, memcgs::tables, threads::tables, devices::tables, ranges::tables];
    let mut tables = vec![];
    for (section, make) in SECTIONS.iter().zip(sections) {
        if wanted(section) {
            let others = Others::watch();
            tables.extend(make(quick));
            println!("Others kept {:.2} cores busy meanwhile.\n", others.cores());
        }
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--json") {
        let path = arguments.get(at + 1).expect("--json wants a file after it");
        std::fs::write(path, measure::json(&tables))
            .unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
        println!("wrote {path}\n");
    }
}
