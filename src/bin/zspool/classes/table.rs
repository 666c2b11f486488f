//! The size classes as a table.

use crate::table::Table;
use crate::target::ClassRow;
use std::fmt::{self, Write};

/// The size classes, with the columns of the kernel's file; where they do not fit into `columns`, without those of fullness.
pub(crate) fn show_classes(classes: &[ClassRow], columns: usize, f: &mut impl Write) -> fmt::Result {
    let mut text = class_table(classes, true).to_string();
    if text.lines().next().is_some_and(|line| line.chars().count() > columns) {
        text = class_table(classes, false).to_string();
    }
    writeln!(f, "{text}")
}

fn class_table(classes: &[ClassRow], fullness: bool) -> Table {
    let mut table = Table::default();
    let groups = if fullness { 11 } else { 0 };
    let heads = (1..=9).map(|tens| format!("{tens}0%")).chain(["99%".into(), "100%".into()]).take(groups);
    let counts = ["allocated", "used", "frames", "/zspage", "freeable"].map(str::to_owned);
    table.row(["class".to_owned(), "size".into()].into_iter().chain(heads).chain(counts));
    let mut sum = [0; 4];
    for row in classes {
        let counts = [row.obj_allocated, row.obj_used, row.pages_used, row.pages_per_zspage, row.freeable];
        let numbers = row.zspages[..groups].iter().chain(&counts).map(u64::to_string);
        table.row([row.class.to_string(), row.size.to_string()].into_iter().chain(numbers));
        for (sum, n) in sum.iter_mut().zip([row.obj_allocated, row.obj_used, row.pages_used, row.freeable]) {
            *sum += n;
        }
    }
    let [allocated, used, frames, freeable] = sum.map(|n: u64| n.to_string());
    let blank = std::iter::repeat_n(String::new(), groups + 1);
    table.row(["total".to_owned()].into_iter().chain(blank).chain([allocated, used, frames, String::new(), freeable]));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_a_row_and_they_are_added_up() {
        let class = ClassRow {
            class: 3,
            size: 96,
            zspages: [0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 44],
            obj_allocated: 2000,
            obj_used: 1980,
            pages_used: 47,
            pages_per_zspage: 1,
            freeable: 0,
        };
        for (columns, cells) in [(usize::MAX, 18), (80, 7)] {
            let mut text = String::new();
            show_classes(std::slice::from_ref(&class), columns, &mut text).unwrap();
            let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
            assert_eq!((lines[0].len(), lines[1].len()), (cells, cells), "{text}");
            assert_eq!(lines[2], ["total", "2000", "1980", "47", "0"]);
            assert!(text.lines().all(|line| line.len() <= 120.min(columns)), "{text}");
        }
    }
}
