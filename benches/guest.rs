//! Guest memory's costs beside the kernel's own compressed swap (zram with LZ4, page-cluster 0), on the same pages, in turns.
//!
//! ```text
//!   round 1:  kernel | bare | ours, by SIGBUS | ours, by a handler thread | ...      out in runs of 64, touched at random
//!             kernel | bare | ours, fault-around 1 | 16 | 64                         out, touched in order
//!             ...
//!   round 2:  the same; medians over the samples of all rounds, and their ratio to the kernel's
//! ```
//!
//! Usage: `cargo bench --features guest --bench guest [-- --quick] [--rounds N] [--core N] [--no-limit | --work] [--json FILE]`. The kernel's half takes
//! root: a zram device of the bench's own making is swap meanwhile, a memory cgroup is made for the rows at a limit, and both
//! are gone afterwards, however this ends. Without root there are ours and the floors. Pages are made here; with
//! `ZSPOOL_PAGES=FILE`, or a folder of `*.pages` files of which the first is taken, those are, without the pages that
//! repeat one word.
//!
//! *Bare* is what a fault and a run cost if nothing is kept in order around them (`guest/floor.rs`).

mod inputs;
#[path = "../tests/support/kernel_zram.rs"]
mod kernel_zram;
mod measure;

#[path = "guest/clock.rs"]
mod clock;
#[path = "guest/floor.rs"]
mod floor;
#[path = "guest/kernel.rs"]
mod kernel;
#[path = "guest/limit.rs"]
mod limit;
#[path = "guest/mapping.rs"]
mod mapping;
#[path = "guest/ours.rs"]
mod ours;
#[path = "guest/raw.rs"]
mod raw;
#[path = "guest/samples.rs"]
mod samples;
#[path = "guest/swapper.rs"]
mod swapper;
#[path = "guest/turns.rs"]
mod turns;
#[path = "guest/work.rs"]
mod work;

use clock::Clock;
use inputs::{Input, Noise};
use limit::{Outcome, Subject};
use measure::{Cell, Others, Table};
use samples::Samples;
use swapper::{Kernel, RUN, Swapper};
use turns::Bench;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    pages: usize,
    rounds: usize,
    /// Pages and runs of the rows at a limit.
    limit_pages: usize,
    limit_rounds: usize,
}

const FULL: Scale = Scale { pages: 8192, rounds: 7, limit_pages: 16_384, limit_rounds: 5 };
const QUICK: Scale = Scale { pages: 2048, rounds: 3, limit_pages: 4096, limit_rounds: 2 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(limit::CHILD) => return limit::child(&arguments[1..]),
        Some(kernel::JANITOR) => return kernel::clean_up(&arguments[1..]),
        _ => {}
    }
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} wants something after it")))
    };
    let number =
        |name: &str| value(name).map(|n| n.parse().unwrap_or_else(|_| panic!("{name} wants a number, not {n:?}")));
    // `cargo bench` says `--bench`; whoever runs this otherwise (a test of all targets) wants to see that it works.
    let mut scale = if has("--quick") || !has("--bench") { QUICK } else { FULL };
    scale.rounds = number("--rounds").unwrap_or(scale.rounds);
    scale.limit_rounds = number("--rounds").unwrap_or(scale.limit_rounds);
    let core = number("--core").unwrap_or(0);

    let source = source();
    let mut input = source.pages(scale.pages);
    input.truncate(input.len() / RUN * RUN);
    assert!(!input.is_empty(), "fewer than {RUN} pages to measure on");
    let clock = Clock::new();
    println!("{} pages of {}, none of them same-filled; times by {}.\n", input.len(), source.name(), clock.name());
    let others = Others::watch();
    if has("--work") {
        own_work(&clock, &input, scale, number("--copies").unwrap_or(1));
        return;
    }
    let mut tables = vec![floors(&clock, &input)];
    // Room for both halves of a turn, and for the cgroup's.
    let swap = kernel::KernelSwap::new(input.len() * 2 + scale.limit_pages * 2);
    match &swap {
        Ok(swap) => println!("The kernel swaps to {}.\n", swap.name()),
        Err(error) => println!("Without the kernel's half: {error}.\n"),
    }
    tables.push(own_work(&clock, &input, scale, number("--copies").unwrap_or(1)));
    let bench = Bench { clock: &clock, input: &input, core, stamp: 0, noise: Noise(3) };
    tables.push(costs(bench, swap.is_ok(), scale));
    if !has("--no-limit") {
        tables.push(at_a_limit(&source, swap.is_ok(), scale, core));
    }
    if let Ok(swap) = &swap {
        let (orig, compr, memory) = swap.stored();
        println!("Left in {}: {orig} bytes of pages, {compr} compressed, in {memory}.", swap.name());
    }
    println!("Others kept {:.2} cores busy.\n", others.cores());
    if let Some(path) = value("--json") {
        std::fs::write(path, measure::json(&tables))
            .unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
        println!("wrote {path}\n");
    }
}

fn source() -> Input {
    let path = std::env::var_os("ZSPOOL_PAGES").map(std::path::PathBuf::from);
    match path {
        Some(file) if file.is_file() => Input::File(file),
        Some(_) => inputs::files().into_iter().next().expect("ZSPOOL_PAGES names a folder without *.pages files"),
        None => Input::Mixed,
    }
}

/// What nothing can be cheaper than, on this machine and these pages.
fn floors(clock: &Clock, input: &[zspool::units::Page]) -> Table {
    let mut table = Table::new("**Floors**, ns", &["", "median", "p99"]);
    let order = Noise(2).shuffled(input.len());
    let (compress, decompress) = floor::lz4(clock, input, &order);
    let mut row = |name: &str, samples: Option<Samples>| match samples {
        Some(mut samples) => {
            let cell = |samples: &mut Samples, share| Cell::number(samples.quantile(share), 0);
            table.row(vec![Cell::text(name), cell(&mut samples, 0.5), cell(&mut samples, 0.99)]);
        }
        None => table.row(vec![Cell::text(name), Cell::none(), Cell::none()]),
    };
    row("a system call", Some(floor::syscall(clock, input.len())));
    row("an exception, its handler and the way back", floor::exception(clock, input.len()));
    row("LZ4 of a cold page", Some(compress));
    row("LZ4 of a cold object back into a page in L1", Some(decompress));
    match (floor::copy(clock, input.len()), floor::mov(clock, input)) {
        (Ok(copy), Ok(mov)) => {
            row("COPY of a page", Some(copy));
            row("MOVE of 64 pages, per page", Some(mov));
        }
        (Err(error), _) | (_, Err(error)) => println!("\nNo floors of userfaultfd: {error}"),
    }
    table.end()
}

/// What the store adds to the codec.
fn own_work(clock: &Clock, input: &[zspool::units::Page], scale: Scale, copies: usize) -> Table {
    let mut work = work::measure(clock, input, scale.rounds, copies);
    let mut table = Table::new("**The store's own work**, ns", &["", "median", "mean", "p99"]);
    let mut row = |name: &str, samples: &mut Samples| {
        let cells = [samples.median(), samples.mean(), samples.quantile(0.99)].map(|ns| Cell::number(ns, 0));
        table.row([Cell::text(name)].into_iter().chain(cells).collect());
    };
    row("decoded from a log", &mut work.log);
    row("try_load", &mut work.load);
    row("put", &mut work.put);
    row("compressed into a log", &mut work.append);
    row("swap_out", &mut work.swap_out);
    let own = work.load.median() + work.put.median() - work.log.median();
    let mut row =
        |name: &str, ns: f64| table.row(vec![Cell::text(name), Cell::number(ns, 0), Cell::none(), Cell::none()]);
    row("try_load and put less the log", own);
    row("swap_out less the log", work.swap_out.median() - work.append.median());
    table.end()
}

/// A measurement of several swappers, in turns.
struct Row {
    samples: Vec<Samples>,
}

fn costs(mut bench: Bench<'_>, kernel: bool, scale: Scale) -> Table {
    let bare = floor::Bare::new(bench.input).map_err(|error| println!("No bare faults: {error}.")).ok();
    let kernel = kernel.then(|| Kernel::new(bench.input));
    let mut table =
        Table::new("**Costs on the same pages**, ns a page, medians", &["", "", "median", "p99", "over the kernel's"]);
    let swappers: Vec<&dyn Swapper> =
        [kernel.as_ref().map(|s| s as &dyn Swapper), bare.as_ref().map(|s| s as &dyn Swapper)]
            .into_iter()
            .flatten()
            .collect();
    let mut rows: Vec<Row> = (0..6).map(|_| Row { samples: vec![Samples::default(); swappers.len()] }).collect();
    for _ in 0..scale.rounds {
        for (k, swapper) in swappers.iter().enumerate() {
            let (out, back) = bench.random(*swapper);
            rows[0].samples[k].add(out);
            rows[1].samples[k].add(back);
            rows[2].samples[k].add(bench.in_order(*swapper));
            rows[3].samples[k].add(bench.by_call(*swapper, 1));
            rows[4].samples[k].add(bench.by_call(*swapper, RUN));
            rows[5].samples[k].add(bench.clean(*swapper));
        }
    }
    for (name, row) in ["out", "random", "in order", "call 1", "call 64", "clean"].iter().zip(&mut rows) {
        let kernel = row.samples[0].median();
        for (k, swapper) in swappers.iter().enumerate() {
            let samples = &mut row.samples[k];
            table.row(vec![
                Cell::text(*name),
                Cell::text(swapper.name()),
                Cell::number(samples.median(), 0),
                Cell::number(samples.quantile(0.99), 0),
                Cell::number(samples.median() / kernel, 2),
            ]);
        }
    }
    table.end()
}

fn at_a_limit(input: &Input, kernel: bool, scale: Scale, core: usize) -> Table {
    let mut table = Table::new(
        "**At a limit of half**, random writes, ns",
        &["", "faults", "mean", "median", "p99", "CPU a fault"],
    );
    let subjects = if kernel { &Subject::ALL[..1] } else { &[] };
    let mut runs = vec![vec![]; subjects.len()];
    for _ in 0..scale.limit_rounds {
        for (&subject, runs) in subjects.iter().zip(&mut runs) {
            match limit::run(subject, input, scale.limit_pages, core) {
                Ok(outcome) => runs.push(outcome),
                Err(error) => println!("{}: {error}", subject.name()),
            }
        }
    }
    for (subject, runs) in subjects.iter().zip(&runs) {
        let all = Outcome::median_of(runs);
        table.row(vec![
            Cell::text(subject.name()),
            Cell::number(all.faults, 0),
            Cell::number(all.mean, 0),
            Cell::number(all.median, 0),
            Cell::number(all.p99, 0),
            Cell::number(all.cpu, 0),
        ]);
    }
    table.end()
}
