//! Guest memory's costs beside the kernel's own compressed swap (zram with LZ4, page-cluster 0), on the same pages, in turns.
//!
//! ```text
//!   round 1:  kernel | bare | ours, by SIGBUS | ours, by a handler thread | ...      out in runs of 64, touched at random
//!             kernel | bare | ours, fault-around 1 | 16 | 64                         out, touched in order
//!             ...
//!   round 2:  the same; medians over the samples of all rounds, and their ratio to the kernel's
//! ```
//!
//! Usage: `cargo bench --features guest --bench guest [-- --quick] [--rounds N] [--pages N] [--core N] [--no-kernel] [--no-limit | --only WHAT | --work] [--json FILE]`. The kernel's half takes
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
use ours::Ours;
use samples::Samples;
use swapper::{Kernel, RUN, Swapper};
use turns::Bench;
use zspool::guest::FaultAround;
use zspool::units::Page;

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
    scale.pages = number("--pages").unwrap_or(scale.pages);
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
    let room = input.len() * 2 + scale.limit_pages * 2;
    let swap = if has("--no-kernel") { Err("not wanted".to_owned()) } else { kernel::KernelSwap::new(room) };
    match &swap {
        Ok(swap) => println!("The kernel swaps to {}.\n", swap.name()),
        Err(error) => println!("Without the kernel's half: {error}.\n"),
    }
    tables.push(own_work(&clock, &input, scale, number("--copies").unwrap_or(1)));
    let mut rows = Rows::default();
    let swappers = Swappers::new(&input, swap.is_ok(), core);
    let mut bench = Bench { clock: &clock, input: &input, core, stamp: 0, noise: Noise(3) };
    match value("--only") {
        Some(what) => (0..scale.rounds).for_each(|_| swappers.one(what, &mut bench, &mut rows)),
        None => (0..scale.rounds).for_each(|_| swappers.round(&mut bench, &mut rows)),
    }
    drop(swappers);
    let mut limits = vec![];
    if !has("--no-limit") {
        let (table, medians) = at_a_limit(&source, swap.is_ok(), scale, core);
        tables.push(table);
        limits = medians;
    }
    tables.push(details(&mut rows));
    tables.push(costs(&mut rows, &limits));
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
fn floors(clock: &Clock, input: &[Page]) -> Table {
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
fn own_work(clock: &Clock, input: &[Page], scale: Scale, copies: usize) -> Table {
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
    match work::fault(clock, input, scale.rounds) {
        Ok((mut fault, mut log)) => {
            let mut row = |name: &str, samples: &mut Samples| {
                let cells = [samples.median(), samples.mean(), samples.quantile(0.99)].map(|ns| Cell::number(ns, 0));
                table.row([Cell::text(name)].into_iter().chain(cells).collect());
            };
            row("a fault without signal and kernel", &mut fault);
            row("its page decoded from a log", &mut log);
            let own = Cell::number(fault.median() - log.median(), 0).at_most(300.0);
            table.row(vec![
                Cell::text("**our own work per fault** (at most 300, goal 150)"),
                own,
                Cell::none(),
                Cell::none(),
            ]);
        }
        Err(error) => println!("No fault without the kernel: {error}"),
    }
    table.end()
}

/// Who takes turns.
struct Swappers {
    kernel: Option<Kernel>,
    bare: Option<floor::Bare>,
    in_thread: Option<Ours>,
    same_core: Option<Ours>,
    other_core: Option<Ours>,
    around_16: Option<Ours>,
    around_64: Option<Ours>,
    kept: Option<Ours>,
}

/// What was measured of one swapper in one way: all rounds together.
struct Row {
    what: &'static str,
    who: &'static str,
    samples: Samples,
}

/// The rows of all measurements.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, what: &'static str, who: &'static str, samples: Samples) {
        match self.0.iter_mut().find(|row| row.what == what && row.who == who) {
            Some(row) => row.samples.add(samples),
            None => self.0.push(Row { what, who, samples }),
        }
    }

    fn median(&mut self, what: &str, who: &str) -> Option<f64> {
        let row = self.0.iter_mut().find(|row| row.what == what && row.who == who)?;
        Some(row.samples.median())
    }
}

const OUT: &str = "out, a run of 64";
const EXCHANGED: &str = "out, a run of 64 for one that came";
const RANDOM: &str = "touched at random";
const IN_ORDER: &str = "touched in order";
const CALL: &str = "by call, one";
const CALLS: &str = "by call, 64";
const CLEAN: &str = "out, clean, a run of 64";

impl Swappers {
    fn new(input: &[Page], kernel: bool, core: usize) -> Self {
        let other = (core + 1) % std::thread::available_parallelism().map_or(1, usize::from);
        let said = |ours: Result<Ours, String>| ours.map_err(|error| println!("Left out: {error}.\n")).ok();
        let in_thread = |name, around| said(Ours::new(name, ours::in_thread(around), input));
        let by_thread = |name, core| said(Ours::new(name, ours::by_thread(core), input));
        let kept = ours::in_thread(FaultAround::Off).kept_bytes(ours::FAR);
        Swappers {
            kernel: kernel.then(|| Kernel::new(input)),
            bare: floor::Bare::new(input).map_err(|error| println!("No bare faults: {error}.\n")).ok(),
            in_thread: in_thread("SIGBUS", FaultAround::Off),
            same_core: by_thread("a thread on the same core", core),
            other_core: if other == core { None } else { by_thread("a thread on the other core", other) },
            around_16: in_thread("fault-around 16", FaultAround::Pages(16)),
            around_64: in_thread("fault-around 64", FaultAround::Pages(64)),
            kept: said(Ours::new("copies kept", kept, input)),
        }
    }

    /// One of our own measurements, for a profiler to look at.
    fn one(&self, what: &str, bench: &mut Bench<'_>, rows: &mut Rows) {
        let [in_thread, same_core, around, kept] = [&self.in_thread, &self.same_core, &self.around_64, &self.kept]
            .map(|ours| ours.as_ref().expect("not left out"));
        match what {
            "fault" => rows.add(RANDOM, "SIGBUS", bench.random(in_thread).1),
            "thread" => rows.add(RANDOM, "a thread on the same core", bench.random(same_core).1),
            "order" => rows.add(IN_ORDER, "fault-around 64", bench.in_order(around)),
            "call" => rows.add(CALL, "SIGBUS", bench.by_call(in_thread, 1)),
            "exchange" => rows.add(EXCHANGED, "SIGBUS", bench.exchange(in_thread)),
            "out" => rows.add(OUT, "SIGBUS", bench.out_and_in(in_thread)),
            "clean" => rows.add(CLEAN, "copies kept", bench.clean(kept)),
            _ => panic!("--only wants fault, thread, order, call, exchange, out or clean, not {what:?}"),
        }
    }

    /// All measurements once, those that are compared one after the other.
    fn round(&self, bench: &mut Bench<'_>, rows: &mut Rows) {
        fn both(ours: &Option<Ours>) -> Option<&dyn Swapper> {
            ours.as_ref().map(|one| one as &dyn Swapper)
        }
        let kernel = self.kernel.as_ref().map(|one| one as &dyn Swapper);
        let bare = self.bare.as_ref().map(|one| one as &dyn Swapper);
        let (in_thread, same, other) = (both(&self.in_thread), both(&self.same_core), both(&self.other_core));
        for who in [kernel, bare, in_thread, same, other].into_iter().flatten() {
            let (out, back) = bench.random(who);
            rows.add(OUT, who.name(), out);
            rows.add(RANDOM, who.name(), back);
        }
        for who in [kernel, bare, in_thread].into_iter().flatten() {
            rows.add(EXCHANGED, who.name(), bench.exchange(who));
        }
        for who in [kernel, in_thread, both(&self.around_16), both(&self.around_64)].into_iter().flatten() {
            rows.add(IN_ORDER, who.name(), bench.in_order(who));
        }
        for who in [kernel, bare, in_thread].into_iter().flatten() {
            rows.add(CALL, who.name(), bench.by_call(who, 1));
            rows.add(CALLS, who.name(), bench.by_call(who, RUN));
        }
        for who in [kernel, both(&self.kept)].into_iter().flatten() {
            rows.add(CLEAN, who.name(), bench.clean(who));
        }
    }
}

/// One row of the issue's table: ours, the kernel's, and what the ratio may be.
struct Bar {
    what: &'static str,
    ours: Option<f64>,
    kernel: Option<f64>,
    bare: Option<f64>,
    at_most: f64,
    goal: f64,
}

fn bars(rows: &mut Rows, limits: &[Outcome]) -> Vec<Bar> {
    let kernel = "kernel zram";
    let mut bar = |what, ours: (&str, &str), over: &str, bare: Option<&str>, at_most, goal| Bar {
        what,
        ours: rows.median(ours.0, ours.1),
        kernel: rows.median(over, kernel),
        bare: bare.and_then(|bare| rows.median(bare, "bare fault")),
        at_most,
        goal,
    };
    let mut bars = vec![
        bar("random swap-in fault, in the faulting thread", (RANDOM, "SIGBUS"), RANDOM, Some(RANDOM), 1.45, 1.25),
        bar("by a handler thread on the same core", (RANDOM, "a thread on the same core"), RANDOM, None, 1.70, 1.45),
        bar("on the other core", (RANDOM, "a thread on the other core"), RANDOM, None, f64::INFINITY, f64::INFINITY),
        bar("swap-in by call", (CALL, "SIGBUS"), RANDOM, Some(CALL), 0.85, 0.70),
        bar("touched in order, fault-around 16", (IN_ORDER, "fault-around 16"), IN_ORDER, None, 0.75, 0.60),
        bar("touched in order, fault-around 64", (IN_ORDER, "fault-around 64"), IN_ORDER, None, 0.50, 0.40),
        bar("page-out in runs of 64, others coming in", (EXCHANGED, "SIGBUS"), EXCHANGED, Some(EXCHANGED), 0.75, 0.60),
        bar("the same into a pool that grows", (OUT, "SIGBUS"), OUT, Some(OUT), 0.75, 0.60),
        bar("page-out of clean pages whose copies were kept", (CLEAN, "copies kept"), OUT, None, 0.15, 0.05),
    ];
    let of = |subject: Subject, value: fn(&Outcome) -> f64| {
        let at = Subject::ALL.iter().position(|&one| one == subject)?;
        limits.get(at).map(value).filter(|value| value.is_finite() && *value > 0.0)
    };
    let mut limit = |what, value: fn(&Outcome) -> f64, at_most, goal| {
        let (ours, kernel) = (of(Subject::Ours, value), of(Subject::Kernel, value));
        bars.push(Bar { what, ours, kernel, bare: None, at_most, goal });
    };
    limit("mean per fault with its eviction, random writes at a limit of half", |run| run.mean, 1.10, 0.80);
    limit("p99 of that fault", |run| run.p99, 0.20, 0.10);
    bars
}

/// The issue's table.
fn costs(rows: &mut Rows, limits: &[Outcome]) -> Table {
    let heads = ["", "zram's, ns", "ours, ns", "over zram's", "at most", "goal", "bare, over zram's"];
    let mut table = Table::new("**Costs on the same pages**, per page, medians", &heads);
    for Bar { what, ours, kernel, bare, at_most, goal } in bars(rows, limits) {
        let ns = |ns: Option<f64>| ns.map_or(Cell::none(), |ns| Cell::number(ns, 0));
        let over = |ns: Option<f64>| ns.zip(kernel).map_or(Cell::none(), |(ns, kernel)| Cell::number(ns / kernel, 2));
        let bound = |bound: f64| if bound.is_finite() { Cell::number(bound, 2) } else { Cell::none() };
        let cells = [ns(kernel), ns(ours), over(ours).at_most(at_most), bound(at_most), bound(goal), over(bare)];
        table.row([Cell::text(what)].into_iter().chain(cells).collect());
    }
    table.end()
}

/// Everything that was measured.
fn details(rows: &mut Rows) -> Table {
    let mut table = Table::new("**All of it**, ns a page", &["", "", "samples", "median", "mean", "p99"]);
    rows.0.sort_by_key(|row| row.what);
    for Row { what, who, samples } in &mut rows.0 {
        let numbers = [samples.median(), samples.mean(), samples.quantile(0.99)].map(|ns| Cell::number(ns, 0));
        let names = [Cell::text(*what), Cell::text(*who), Cell::count(samples.len() as u64)];
        table.row(names.into_iter().chain(numbers).collect());
    }
    table.end()
}

fn at_a_limit(input: &Input, kernel: bool, scale: Scale, core: usize) -> (Table, Vec<Outcome>) {
    let mut runs: [Vec<Outcome>; Subject::ALL.len()] = Default::default();
    for _ in 0..scale.limit_rounds {
        for (subject, runs) in Subject::ALL.into_iter().zip(&mut runs) {
            if subject == Subject::Kernel && !kernel {
                continue;
            }
            match limit::run(subject, input, scale.limit_pages, core) {
                Ok(outcome) => runs.push(outcome),
                Err(error) => println!("{}: {error}\n", subject.name()),
            }
        }
    }
    let heads = ["", "runs", "faults", "mean", "median", "p99", "CPU a fault"];
    let mut table = Table::new("**At a limit of half**, random writes, ns a fault", &heads);
    let medians: Vec<Outcome> = runs.iter().map(Vec::as_slice).map(Outcome::median_of).collect();
    for ((subject, runs), all) in Subject::ALL.iter().zip(&runs).zip(&medians) {
        let numbers = [all.faults, all.mean, all.median, all.p99, all.cpu].map(|ns| Cell::number(ns, 0));
        let names = [Cell::text(subject.name()), Cell::count(runs.len() as u64)];
        table.row(names.into_iter().chain(numbers).collect());
    }
    (table.end(), medians)
}
