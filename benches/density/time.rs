//! The time tables: the subjects take turns over chunks of pages.

use crate::Scale;
use crate::inputs::{Input, Noise};
use crate::subject::{Log, MapSubject, PoolSubject, Subject, ZswapSubject};
use std::hint::black_box;
use std::time::Instant;
use zspool::arena::Topology;
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::units::Page;

/// Pages that a subject takes in its turn: about a millisecond.
const CHUNK: usize = 256;

/// What is timed. `fill` starts from nothing and `drain` ends there: frames come from the kernel and go back. In between the store is
/// full: `free` and `store` take turns over as many pages as one turn has, in random order.
const OPERATIONS: [&str; 6] = ["fill", "load", "replace", "free", "store", "drain"];
const FILL: usize = 0;
const LOAD: usize = 1;
const REPLACE: usize = 2;
const FREE: usize = 3;
const STORE: usize = 4;
const DRAIN: usize = 5;

/// Nanoseconds of each turn: by operation, subject and chunk, one for each round.
struct Clock {
    turns: Vec<Vec<Vec<Vec<f64>>>>,
    numbers: usize,
}

impl Clock {
    fn new(subjects: usize, numbers: usize) -> Self {
        let chunks = numbers.div_ceil(CHUNK);
        Clock { turns: vec![vec![vec![vec![]; chunks]; subjects]; OPERATIONS.len()], numbers }
    }

    /// One round of operations, each of them over the same chunk before the next chunk comes: each subject once over all chunks, at
    /// each moment a different one, so that none finds its pages in the cache that another has just read.
    fn round(
        &mut self,
        operations: &[usize],
        subjects: &mut [Box<dyn Subject>],
        mut step: impl FnMut(usize, &mut dyn Subject, usize),
    ) {
        let chunks = self.numbers.div_ceil(CHUNK);
        for turn in 0..chunks {
            for (s, subject) in subjects.iter_mut().enumerate() {
                let chunk = (turn + s * chunks / 5) % chunks;
                for &operation in operations {
                    let start = Instant::now();
                    for k in chunk * CHUNK..self.numbers.min((chunk + 1) * CHUNK) {
                        step(operation, &mut **subject, k);
                    }
                    self.turns[operation][s][chunk].push(start.elapsed().as_nanos() as f64);
                }
            }
        }
    }

    /// Nanoseconds per page.
    fn time(&self, operation: usize, subject: usize) -> f64 {
        // What others do on the machine only ever adds: the shortest turn is the least disturbed. A subject's own batches (frames given
        // back) are smaller than a chunk, so they are in.
        let shortest = |rounds: &Vec<f64>| rounds.iter().copied().fold(f64::INFINITY, f64::min);
        self.turns[operation][subject].iter().map(shortest).sum::<f64>() / self.numbers as f64
    }
}

/// Fill, then load, replace, free and store again, then drain: `rounds` times and once before that to warm up.
fn run(subjects: &mut [Box<dyn Subject>], data: &[&[u8]], rounds: usize) -> Clock {
    let mut clock = Clock::new(subjects.len(), data.len());
    let mut noise = Noise(4);
    let mut out = Page::zeroed();
    for round in 0..=rounds {
        let (order, other) = (noise.shuffled(data.len()), noise.shuffled(data.len()));
        clock.round(&[FILL], subjects, |_, subject, k| subject.put(k, data[k]));
        clock.round(&[LOAD], subjects, |_, subject, k| {
            subject.get(order[k], &mut out);
            black_box(&out);
        });
        clock.round(&[REPLACE], subjects, |_, subject, k| subject.put(order[k], data[other[k]]));
        clock.round(&[FREE, STORE], subjects, |operation, subject, k| match operation {
            FREE => subject.free(order[k]),
            _ => subject.put(order[k], data[order[k]]),
        });
        clock.round(&[DRAIN], subjects, |_, subject, k| subject.free(order[k]));
        if round == 0 {
            clock = Clock::new(subjects.len(), data.len());
        }
    }
    clock
}

/// What the subjects took on each input.
struct Times<'a> {
    names: Vec<&'static str>,
    /// By input: its name, and nanoseconds by subject and operation.
    inputs: Vec<(String, Vec<[f64; OPERATIONS.len()]>)>,
    /// The subject that each operation is compared with, and what it is to be at most and hopefully.
    floors: &'a [(usize, &'static str, &'static str); OPERATIONS.len()],
}

impl Times<'_> {
    fn note(&mut self, input: &Input, clock: &Clock, subjects: &[Box<dyn Subject>]) {
        self.names = subjects.iter().map(|subject| subject.name()).collect();
        let times = |s| std::array::from_fn(|operation| clock.time(operation, s));
        self.inputs.push((input.name(), (0..subjects.len()).map(times).collect()));
    }

    /// Print nanoseconds by input, and the medians of the ratios.
    fn print(&self) {
        println!("| pages | ns | {} |", OPERATIONS.join(" | "));
        println!("|---|---|{}", "---:|".repeat(OPERATIONS.len()));
        for (input, times) in &self.inputs {
            for (name, times) in self.names.iter().zip(times) {
                println!("| {input} | {name} |{}", times.map(|time| format!(" {time:.0} |")).concat());
            }
        }
        println!("\n| medians | over | at most | goal | {} |", self.names.join(" | "));
        println!("|---|---|---:|---:|{}", "---:|".repeat(self.names.len()));
        for (operation, &(floor, most, goal)) in self.floors.iter().enumerate() {
            // Nothing has a floor to free: it is compared with the copy of an object to its place.
            let of = if matches!(operation, FREE | DRAIN) { STORE } else { operation };
            let over = format!("{}, {}", self.names[floor], OPERATIONS[of]);
            print!("| {} | {over} | {most} | {goal} |", OPERATIONS[operation]);
            for s in 0..self.names.len() {
                let mut ratios: Vec<f64> =
                    self.inputs.iter().map(|(_, times)| times[s][operation] / times[floor][of]).collect();
                ratios.sort_by(f64::total_cmp);
                print!(" {:.3} |", ratios[ratios.len() / 2]);
            }
            println!();
        }
    }
}

pub(crate) fn tables(inputs: &[Input], scale: Scale) {
    println!("Pages through the codec, per page; zswap with memcgs three deep and a limit:\n");
    let floors = [(1, "", ""), (1, "1.05", "1.02"), (1, "", ""), (0, "", ""), (1, "1.06", "1.04"), (0, "", "")];
    let mut times = Times { names: vec![], inputs: vec![], floors: &floors };
    for input in inputs {
        let pages = input.pages(scale.pages);
        let data: Vec<&[u8]> = pages.iter().map(|page| &page[..]).collect();
        let n = pages.len();
        let mut subjects: Vec<Box<dyn Subject>> = vec![
            Box::new(Log::new(false, n)),
            Box::new(Log::new(true, n)),
            Box::new(ZswapSubject::new(n)),
            Box::new(PoolSubject::new(true, false, n)),
            Box::new(MapSubject::new(true)),
        ];
        let clock = run(&mut subjects, &data, scale.rounds);
        times.note(input, &clock, &subjects);
    }
    times.print();
    println!("\nCompressed objects as they are, per object; `store` is an insert, `load` a read:\n");
    let floors =
        [(0, "", ""), (0, "1.16", "1.07"), (0, "1.42", "1.18"), (0, "0.33", "0.20"), (0, "1.48", "1.32"), (0, "", "")];
    let mut times = Times { names: vec![], inputs: vec![], floors: &floors };
    for input in inputs {
        let mut context = Context::new();
        let objects: Vec<Vec<u8>> = input
            .pages(scale.pages)
            .iter()
            .map(|page| match Lz4.compress(&mut context, page) {
                Compressed::Bytes(bytes) => bytes.to_vec(),
                Compressed::Incompressible => page.to_vec(),
            })
            .collect();
        let data: Vec<&[u8]> = objects.iter().map(|object| &object[..]).collect();
        let n = objects.len();
        let mut subjects: Vec<Box<dyn Subject>> = vec![
            Box::new(Log::new(false, n)),
            Box::new(PoolSubject::new(false, true, n)),
            Box::new(PoolSubject::new(false, false, n)),
            Box::new(MapSubject::new(false)),
        ];
        let clock = run(&mut subjects, &data, scale.rounds);
        times.note(input, &clock, &subjects);
    }
    times.print();
}

/// What accounting costs: everything stored, loaded in order and freed, as `usemem` does it, through the codec; memcgs three deep with a
/// limit, over no accounting. On two nodes the pages go to them in turns.
pub(crate) fn accounting(inputs: &[Input], scale: Scale) {
    println!("\nAccounting on over off, at most 1.01 for store and load:\n");
    println!("| pages | nodes | store | load | replace | all of a run from nothing to nothing |");
    println!("|---|---:|---:|---:|---:|---:|");
    for input in inputs {
        let pages = input.pages(scale.pages);
        let data: Vec<&[u8]> = pages.iter().map(|page| &page[..]).collect();
        for nodes in [1, 2] {
            let subject = |accounting| PoolSubject::on(Topology::simulated(nodes), true, accounting, pages.len());
            let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(subject(false)), Box::new(subject(true))];
            let clock = run(&mut subjects, &data, scale.rounds);
            let ratio = |operations: &[usize]| {
                let sum = |s| operations.iter().map(|&operation| clock.time(operation, s)).sum::<f64>();
                sum(1) / sum(0)
            };
            print!("| {} | {nodes} |", input.name());
            for operations in [&[STORE][..], &[LOAD], &[REPLACE], &[FILL, LOAD, DRAIN]] {
                print!(" {:.3} |", ratio(operations));
            }
            println!();
        }
    }
    println!();
}
