//! What benches measure with: clocks, the machine's other work, quantiles, and tables that machines can read too.

#![allow(dead_code, unused_imports, unreachable_pub)] // each bench uses a part of this one

mod table;

pub use table::{Cell, Table, json};

use std::time::{Duration, Instant};

/// Bytes of anonymous memory of this process, exactly.
pub fn anonymous() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a kernel from 4.14 on");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("it has the line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Seconds of CPU time by one of the system's clocks.
fn cpu(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, which `time` is.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "the clocks of process and thread are everywhere");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Seconds that the process has run, on all cores together.
pub fn cpu_of_process() -> f64 {
    cpu(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Seconds that this thread has run.
pub fn cpu_of_thread() -> f64 {
    cpu(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Seconds that this thread has run, and all others of the process together.
pub fn cpu_here_and_elsewhere() -> (f64, f64) {
    let here = cpu_of_thread();
    (here, cpu_of_process() - here)
}

/// How busy others keep the machine from here on: times are worth as much as they are not.
pub struct Others {
    start: Instant,
    /// Seconds that all cores were busy for anybody, or taken by the host.
    busy: f64,
    ours: f64,
}

impl Others {
    pub fn watch() -> Self {
        Others { start: Instant::now(), busy: Self::busy(), ours: cpu_of_process() }
    }

    /// Cores that others have kept busy on average.
    pub fn cores(&self) -> f64 {
        let others = (Self::busy() - self.busy) - (cpu_of_process() - self.ours);
        (others / self.start.elapsed().as_secs_f64()).max(0.0)
    }

    fn busy() -> f64 {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<f64> =
            stat.lines().next().unwrap_or("").split_whitespace().skip(1).map(|n| n.parse().unwrap_or(0.0)).collect();
        // user nice system [idle iowait] irq softirq steal
        [0, 1, 2, 5, 6, 7].into_iter().filter_map(|k| ticks.get(k)).sum::<f64>() / 100.0
    }
}

/// Counts of times in buckets of a 32nd of a power of two: quantiles within 3 percent.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    most: u64,
}

/// Buckets of a power of two, as a power of two.
const FINE: u32 = 5;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; 64 << FINE], count: 0, most: 0 }
    }
}

impl Histogram {
    fn bucket(ns: u64) -> usize {
        let above = (u64::BITS - ns.leading_zeros()).saturating_sub(FINE + 1);
        ((above as usize) << FINE) + (ns >> above) as usize
    }

    pub fn note(&mut self, time: Duration) {
        let ns = time.as_nanos() as u64;
        self.counts[Self::bucket(ns)] += 1;
        self.count += 1;
        self.most = self.most.max(ns);
    }

    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, n)| *sum += n);
        self.count += other.count;
        self.most = self.most.max(other.most);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn most(&self) -> f64 {
        self.most as f64
    }

    /// Nanoseconds that a share of the times does not exceed: the lower end of the bucket.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, &n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                let above = (bucket >> FINE).saturating_sub(1);
                return ((bucket - (above << FINE)) << above) as f64;
            }
        }
        self.most()
    }
}

/// The middle of the values; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Jain's index of fairness: 1 where all have the same, 1/n where one has everything (Jain, Chiu, Hawe, 1984).
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}
