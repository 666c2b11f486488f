//! How fast pages go to the device, against the same writes and nothing else.
//!
//! ```text
//!   store all | floor | write back all | floor | free all       a round; the floors write the same spans in the same order
//! ```

use crate::Scale;
use crate::file::Span;
use crate::measure::{Cell, Others, Table, cpu_of_process, median};
use crate::subject::Subject;
use std::time::Instant;
use zspool::units::{PAGE_SIZE, Page};

/// Single pages that a floor writes one by one.
const SINGLE: usize = 4096;

/// Seconds, and those that all threads ran.
fn timed(work: impl FnOnce()) -> (f64, f64) {
    let (start, cpu) = (Instant::now(), cpu_of_process());
    work();
    (start.elapsed().as_secs_f64(), cpu_of_process() - cpu)
}

struct Round {
    /// Time of the floor over ours.
    ratio: f64,
    /// Pages a second over those of single-page writes.
    over_single: f64,
    mb_per_second: f64,
    pages_per_second: f64,
    /// Share of our time in calls of the device.
    in_device: f64,
    /// CPU seconds of a page beyond those of the floor.
    cpu: f64,
    /// Cores that others kept busy.
    others: f64,
}

/// What is on trial.
struct Shape {
    encryption: bool,
    /// Threads that ask for all of it at once, whose batches overlap.
    callers: usize,
}

pub(crate) fn table(pages: &[Page], scale: &Scale) -> Table {
    let heads = [
        "encryption",
        "callers",
        "over the same writes",
        "pages/s over one page a pwrite",
        "bytes written of a page / 4096",
        "objects per write",
        "KiB per write",
        "MB/s",
        "1000 pages/s",
        "in calls of the device, % of the time",
        "CPU of a page over the floor's, us",
        "cores busy for others",
    ];
    let mut table =
        Table::new("Writeback: the pool to the file by request; the floor has one write under way.", &heads);
    for encryption in [false, true] {
        for callers in [1, 2] {
            table.row(row(&Shape { encryption, callers }, pages, scale));
        }
    }
    table.end()
}

fn row(shape: &Shape, pages: &[Page], scale: &Scale) -> Vec<Cell> {
    let subject = Subject::new(pages, scale, shape.encryption);
    let (plain, mut rounds) = (subject.plain(), vec![]);
    let mut spans: Vec<Span> = vec![];
    for round in 0..=2 * scale.rounds {
        subject.store(0..pages.len());
        let floor = || timed(|| spans.iter().for_each(|&span| plain.write(span)));
        let others = Others::watch();
        let before = floor();
        subject.device.take();
        let (seconds, cpu) = timed(|| {
            std::thread::scope(|scope| (0..shape.callers).for_each(|_| _ = scope.spawn(|| subject.ask_to_write())));
        });
        let seen = subject.device.take();
        if round == 0 {
            subject.check(0..pages.len());
        }
        let (single, _) = timed(|| (0..SINGLE).for_each(|k| plain.write((k as u64 * 4096, 4096))));
        let after = floor();
        if round > 0 {
            let (floor, floor_cpu) = ((before.0 + after.0) / 2.0, (before.1 + after.1) / 2.0);
            // The spans are those of the round before, which may have been a few bytes more or less.
            let alike = seen.written() as f64 / spans.iter().map(|&(_, len)| len as f64).sum::<f64>();
            let per_second = pages.len() as f64 / seconds;
            rounds.push(Round {
                ratio: floor * alike / seconds,
                over_single: per_second * single / SINGLE as f64,
                mb_per_second: seen.written() as f64 / seconds / 1e6,
                pages_per_second: per_second,
                in_device: seen.writing.as_secs_f64() / seconds,
                cpu: (cpu - floor_cpu * alike) / pages.len() as f64,
                others: others.cores(),
            });
        }
        spans = seen.writes;
        subject.free_all();
        assert_eq!(subject.zswap.stats().physical_pages, 0);
    }
    // The calmer half.
    rounds.sort_by(|a, b| a.others.total_cmp(&b.others));
    rounds.truncate(scale.rounds.div_ceil(2));
    let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    let written: usize = spans.iter().map(|&(_, len)| len).sum();
    let per_write = |n: usize| n as f64 / spans.len() as f64;
    let least = if shape.encryption { 0.5 } else { 0.9 };
    vec![
        Cell::text(if shape.encryption { "on" } else { "off" }),
        Cell::count(shape.callers as u64),
        Cell::number(middle(|round| round.ratio), 2).at_least(least),
        Cell::number(middle(|round| round.over_single), 1).at_least(5.0),
        Cell::number(written as f64 / (pages.len() * PAGE_SIZE) as f64, 3).at_most(0.5),
        Cell::number(per_write(pages.len()), 1).at_least(63.0),
        Cell::number(per_write(written) / 1024.0, 1),
        Cell::number(middle(|round| round.mb_per_second), 0),
        Cell::number(middle(|round| round.pages_per_second) / 1e3, 0),
        Cell::number(middle(|round| round.in_device) * 100.0, 0),
        Cell::number(middle(|round| round.cpu) * 1e6, 2),
        Cell::number(middle(|round| round.others), 2),
    ]
}
