//! [`Growing`]: a table of which each row is a size, and each column a cost beside that of the first row.

use crate::measure::{Cell, Table};
use std::time::{Duration, Instant};

/// A table whose rows are compared with their first.
pub(crate) struct Growing {
    table: Table,
    first: Vec<f64>,
}

impl Growing {
    /// `heads`: of the size, and then of each cost; a column of growth stands beside each.
    pub(crate) fn new(title: &str, size: &'static str, costs: &[&'static str]) -> Self {
        let heads: Vec<&'static str> =
            std::iter::once(size).chain(costs.iter().flat_map(|&cost| [cost, "x"])).collect();
        Growing { table: Table::new(title, &heads), first: vec![] }
    }

    pub(crate) fn row(&mut self, size: usize, costs: &[f64]) {
        if self.first.is_empty() {
            self.first = costs.to_vec();
        }
        let cells = costs.iter().zip(&self.first).flat_map(|(&cost, &first)| {
            let decimals = if cost < 10.0 { 2 } else { 0 };
            let times = if first > 0.0 { Cell::number(cost / first, 2) } else { Cell::none() };
            [Cell::number(cost, decimals), times]
        });
        self.table.row(std::iter::once(Cell::count(size as u64)).chain(cells).collect());
    }

    pub(crate) fn end(self) -> Table {
        self.table.end()
    }
}

/// Time of a call.
pub(crate) fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let made = work();
    (start.elapsed(), made)
}

/// Nanoseconds of each of `n` calls: the median of several shares of them, so that what else the machine does counts little.
pub(crate) fn each(n: usize, mut work: impl FnMut(usize)) -> f64 {
    let share = n.div_ceil(16).max(1);
    let mut shares = vec![];
    let mut at = 0;
    while at < n {
        let end = n.min(at + share);
        let (took, ()) = time(|| (at..end).for_each(&mut work));
        shares.push(took.as_nanos() as f64 / (end - at) as f64);
        at = end;
    }
    crate::measure::median(shares)
}

/// 10, 100, ... as far as `most`, from `least` on.
pub(crate) fn decades(least: usize, most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(least), |n| Some(n * 10)).take_while(move |&n| n <= most)
}

/// 1, 2, 4, ... as far as `most`.
pub(crate) fn doublings(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |n| Some(n * 2)).take_while(move |&n| n <= most)
}
