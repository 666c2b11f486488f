//! At a limit of half: random writes to twice as many pages as there may be in memory, in processes of their own, in turns.
//!
//! ```text
//!   kernel   a memory cgroup around the process, zram as swap          limit: half of the pages, and 1 MiB for the process
//!   ours     memory.max of the VM's memcg                              limit: half of the pages, compressed bytes included
//! ```
//!
//! What is timed is every access; the slowest are those that faulted, as many as were counted (by `getrusage`, by the VM). The
//! mean is over them, so an eviction is in it that happened inside a fault. What another thread evicted meanwhile is not, but
//! is in the CPU time of the process, which is given per fault too.

use super::clock::Clock;
use super::kernel::{self, Cgroup};
use super::mapping::{Mapping, Pinned};
use super::ours::Limited;
use super::samples::Samples;
use crate::inputs::{Input, Noise};
use crate::measure::cpu_of_process;
use serde_json::json;
use std::process::Command;
use zspool::units::PAGE_SIZE;

/// First argument of a process that runs at a limit.
pub(crate) const CHILD: &str = "--at-a-limit";

/// For what is in the cgroup beside the pages: tables, and what the process allocates while it runs.
const PROCESS_BYTES: u64 = 1 << 20;

/// Accesses per page.
const ACCESSES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Kernel,
    /// With an evictor's thread, which runs beside the faulting one.
    Ours,
    /// Without: everything happens inside faults.
    Alone,
}

impl Subject {
    pub(crate) const ALL: [Subject; 3] = [Subject::Kernel, Subject::Ours, Subject::Alone];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::Kernel => "kernel zram, memory cgroup",
            Subject::Ours => "with an evictor",
            Subject::Alone => "without an evictor",
        }
    }
}

/// Of one run, or the medians of several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) faults: f64,
    pub(crate) mean: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// CPU time of the whole process per fault.
    pub(crate) cpu: f64,
}

impl Outcome {
    pub(crate) fn median_of(runs: &[Outcome]) -> Self {
        let of = |value: fn(&Outcome) -> f64| crate::measure::median(runs.iter().map(value).collect());
        Outcome {
            faults: of(|run| run.faults),
            mean: of(|run| run.mean),
            median: of(|run| run.median),
            p99: of(|run| run.p99),
            cpu: of(|run| run.cpu),
        }
    }
}

/// One run in a process of its own, or why there is none.
pub(crate) fn run(subject: Subject, input: &Input, pages: usize, core: usize) -> Result<Outcome, String> {
    let limit = (pages * PAGE_SIZE / 2) as u64;
    let group = match subject {
        Subject::Kernel => Some(Cgroup::new(limit + PROCESS_BYTES)?),
        _ => None,
    };
    let group_path = group.as_ref().map_or("", |group| group.path().to_str().expect("a path of text"));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let subject = format!("{subject:?}");
    let (pages, core) = (pages.to_string(), core.to_string());
    let arguments = [CHILD, &subject, &input.argument(), &pages, &core, group_path];
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let of = |name: &str| value[name].as_f64().unwrap_or(f64::NAN);
    Ok(Outcome { faults: of("faults"), mean: of("mean"), median: of("median"), p99: of("p99"), cpu: of("cpu") })
}

/// What the process does.
pub(crate) fn child(arguments: &[String]) {
    let [subject, input, pages, core, group] = arguments else { panic!("{arguments:?}: not what the parent says") };
    let subject = *Subject::ALL.iter().find(|one| format!("{one:?}") == *subject).expect("a subject");
    let pages: usize = pages.parse().expect("a number of pages");
    let core: usize = core.parse().expect("a number of a core");
    let input = Input::parse(input).pages(pages);
    assert!(!input.is_empty(), "an input without pages");
    // A short input comes round more than once.
    let page = |k: usize| &input[k % input.len()];
    let clock = Clock::new();
    let mut times = Samples::with_capacity(pages * ACCESSES);
    let mut stamps: Vec<u64> = vec![1; pages];
    let memory = match subject {
        Subject::Kernel => {
            kernel::enter(std::path::Path::new(group));
            Memory::Kernel(Mapping::new(pages))
        }
        _ => Memory::Ours(Limited::new(Mapping::new(pages), (pages * PAGE_SIZE / 2) as u64, subject == Subject::Ours)),
    };
    let mapping = memory.mapping();
    let _pinned = Pinned::to(core);
    for k in 0..pages {
        // SAFETY: a page of our own mapping, which nobody else uses; whoever serves its fault keeps what is written.
        unsafe { mapping.page(k).cast::<[u8; PAGE_SIZE]>().write(page(k).0) };
        mapping.stamp(k, 1);
    }
    let mut noise = Noise(7);
    let (before, cpu) = (memory.faults(), cpu_of_process());
    for access in 0..pages * ACCESSES {
        let k = noise.below(pages);
        stamps[k] = access as u64 + 2;
        times.push(clock.time(|| mapping.stamp(k, stamps[k])));
    }
    let (faults, cpu) = (memory.faults() - before, cpu_of_process() - cpu);
    for (k, &stamp) in stamps.iter().enumerate() {
        mapping.verify_one(k, page(k), stamp, subject.name());
    }
    drop(memory);
    let mut slowest = times.slowest(faults as usize);
    println!(
        "{}",
        json!({
            "faults": faults, "mean": slowest.mean(), "median": slowest.median(), "p99": slowest.quantile(0.99),
            "cpu": cpu * 1e9 / faults.max(1) as f64,
        })
    );
}

/// Whose memory it is.
enum Memory {
    Kernel(Mapping),
    Ours(Limited),
}

impl Memory {
    fn mapping(&self) -> &Mapping {
        match self {
            Memory::Kernel(mapping) => mapping,
            Memory::Ours(limited) => limited.mapping(),
        }
    }

    /// Served so far.
    fn faults(&self) -> u64 {
        match self {
            Memory::Kernel(_) => faults_of_thread(),
            Memory::Ours(limited) => limited.faults(),
        }
    }
}

/// Faults that the kernel has served this thread.
fn faults_of_thread() -> u64 {
    // SAFETY: numbers, for which zero is good.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one of these.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    (usage.ru_minflt + usage.ru_majflt) as u64
}
