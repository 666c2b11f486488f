//! The table of [`Row`]s.

use super::rows::Row;
use crate::size::{human, human_ns};

const HEADS: [&str; 12] =
    ["PID", "PROGRAM", "VM", "LIMIT", "USED", "RESIDENT", "INCOMPR", "POOLED", "OUT", "DEVICE", "FAULTS/S", "P99"];

/// Names are cut here.
const NAME: usize = 20;

/// Lines of text; what numbers say is in line.
pub(crate) fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "Nothing runs under a limit of yours: start something by `zspool run --memory-max SIZE -- PROGRAM`.\n"
            .to_owned();
    }
    let size = |bytes: u64| human(bytes.into());
    // A program says its name itself: what would be a command to the terminal is not.
    let cut = |name: &str| {
        name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).take(NAME).collect::<String>()
    };
    let mut lines = vec![HEADS.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.pid.to_string(),
            cut(&row.program),
            cut(&row.vm),
            row.memory_max.map_or("-".to_owned(), size),
            size(row.memory_current),
            size(row.resident + row.staged),
            size(row.incompressible),
            size(row.compressed),
            size(row.out),
            size(row.on_device),
            row.faults_per_second.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
            row.p99_ns.map_or("-".to_owned(), human_ns),
        ]
    }));
    let widths: [usize; 12] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            1 | 2 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_line_and_what_is_unknown_is_a_dash() {
        let row = |pid, rate, limit| Row {
            pid,
            program: "qemu-system-x86_64-with-a-long-name".to_owned(),
            vm: "vm".to_owned(),
            memory_max: limit,
            memory_current: 255 << 20,
            resident: 200 << 20,
            staged: 1 << 20,
            compressed: 54 << 20,
            out: 150 << 20,
            on_device: 0,
            incompressible: 3 << 20,
            faults: 9,
            faults_per_second: rate,
            p99_ns: limit.map(|_| 54_321),
        };
        let text = table(&[row(4711, Some(1234.4), Some(256 << 20)), row(5, None, None)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[1],
            "4711  qemu-system-x86_64-w  vm   256M  255M      201M     3.0M   54.0M  150M       0      1234  54.3 us"
        );
        assert_eq!(
            lines[2],
            "   5  qemu-system-x86_64-w  vm      -  255M      201M     3.0M   54.0M  150M       0         -        -"
        );
        assert!(table(&[]).contains("zspool run"));
        let text = table(&[Row { program: "\u{1b}[31mX\nroot".to_owned(), ..row(1, None, None) }]);
        assert!(text.lines().nth(1).is_some_and(|line| line.contains("?[31mX?root")), "{text}");
    }
}
