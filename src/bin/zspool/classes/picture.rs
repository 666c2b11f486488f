//! The picture: a bar of the whole, a line for each part, and what each step did.
//!
//! ```text
//! |============================================================rrfftm|     to scale: all memory of the pool
//! payload          12,345,678  100.00%
//! class rounding      123,456    1.00%  ##########                         to the scale of the largest of these parts
//! ```

use super::report::{Bytes, Report, Step};
use super::table::show_classes;
use super::terminal::Terminal;
use std::fmt::{self, Write};

/// What stands for each part in the bar of the whole, frames before metadata.
const LETTERS: [char; 8] = ['=', 'r', 'f', 't', 'w', 'e', 'd', 's'];

/// Columns before the bars: name, bytes, percent, and what is between.
const BEFORE_BARS: usize = 21 + 18 + 10 + 2;

/// Fewer columns than this are no bar.
const SHORTEST_BAR: usize = 8;

/// The class table, the picture, and a sentence for everything out of the ordinary.
pub(crate) fn show(report: &Report, terminal: Terminal, f: &mut impl Write) -> fmt::Result {
    show_classes(&report.classes, if terminal.unfolded { usize::MAX } else { terminal.columns }, f)?;
    let Some(last) = report.steps.last() else { return Ok(()) };
    if report.steps.len() > 1 {
        steps(&report.steps, f)?;
    }
    picture(&last.bytes, terminal, f)?;
    remarks(report, f)
}

/// `number` with commas.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn percent(part: u64, payload: u64) -> String {
    if payload == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 / payload as f64 * 100.0) }
}

/// What was done, and the memory after it.
fn steps(steps: &[Step], f: &mut impl Write) -> fmt::Result {
    writeln!(f, "{:<10} {:>10} {:>16} {:>16} {:>9}", "step", "count", "payload", "all", "")?;
    for Step { step, count, bytes } in steps {
        let (payload, all) = (grouped(bytes.payload), grouped(bytes.total()));
        let over = percent(bytes.total(), bytes.payload);
        writeln!(f, "{step:<10} {:>10} {payload:>16} {all:>16} {over:>9}", grouped(*count))?;
    }
    writeln!(f)
}

fn picture(bytes: &Bytes, terminal: Terminal, f: &mut impl Write) -> fmt::Result {
    let parts: Vec<(&str, u64)> = bytes.frames().into_iter().chain(bytes.metadata()).collect();
    let narrow = terminal.columns < BEFORE_BARS + SHORTEST_BAR;
    let bar = if narrow { 0 } else { (terminal.columns - BEFORE_BARS).min(60) };
    let largest = parts[1..].iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    if terminal.columns >= 20 {
        writeln!(f, "|{}|", whole(&parts, bytes.total(), (terminal.columns - 2).min(98)))?;
    }
    let line = |f: &mut dyn Write, letter: char, name: &str, part: u64, bar: &str| {
        let (number, share) = (grouped(part), percent(part, bytes.payload));
        let text = match terminal.columns {
            // Name and number are all there is room for.
            ..50 => format!("{letter} {name:<18} {number:>17}"),
            _ => format!("{letter} {name:<18} {number:>18} {share:>9}  {bar}"),
        };
        writeln!(f, "{}", text.trim_end())
    };
    let frames = bytes.frames().len();
    for (at, &(name, part)) in parts.iter().enumerate() {
        if at == frames {
            line(f, ' ', "frames", bytes.backed, "as the pool limit counts them".get(..bar.min(29)).unwrap_or(""))?;
        }
        let bar = if at == 0 { String::new() } else { terminal.bar(part, largest, bar) };
        line(f, LETTERS[at], name, part, &bar)?;
    }
    line(f, ' ', "all", bytes.total(), "")
}

/// All parts in one bar of `columns` columns, each as long as its share; what is left over by rounding down goes to those that
/// lost most.
fn whole(parts: &[(&str, u64)], total: u64, columns: usize) -> String {
    if total == 0 {
        return " ".repeat(columns);
    }
    let scaled = |part: u64| u128::from(part) * columns as u128;
    let mut lengths: Vec<usize> = parts.iter().map(|(_, part)| (scaled(*part) / u128::from(total)) as usize).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(scaled(parts[at].1) % u128::from(total)));
    let missing = columns - lengths.iter().sum::<usize>();
    order[..missing].iter().for_each(|&at| lengths[at] += 1);
    lengths.iter().zip(LETTERS).flat_map(|(&length, letter)| std::iter::repeat_n(letter, length)).collect()
}

fn remarks(report: &Report, f: &mut impl Write) -> fmt::Result {
    writeln!(f)?;
    let Report { stored_pages, same_filled_pages, incompressible_pages, .. } = report;
    writeln!(
        f,
        "{stored_pages} pages: {same_filled_pages} same-filled, {incompressible_pages} incompressible ({}).",
        report.codec
    )?;
    if let Some(why) = &report.refusal {
        writeln!(f, "{} stores were refused; the first because: {}.", report.refused_pages, why.trim_end_matches('.'))?;
    }
    report.sources.iter().try_for_each(|source| source.remarks(f))?;
    for Step { step, bytes, .. } in report.steps.iter().filter(|step| !step.bytes.adds_up()) {
        writeln!(f, "FAILED: after {step}, the parts do not add up to the {} bytes that are backed.", bytes.backed)?;
    }
    match report.mismatched_pages {
        0 => Ok(()),
        n => writeln!(f, "FAILED: {n} pages did not come back as they were."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ClassRow;

    const BYTES: Bytes = Bytes {
        payload: 20_000_000,
        rounding: 200_000,
        free_slots: 100_000,
        tails: 50_000,
        warm: 262_144,
        backed: 20_612_144,
        entries: 150_000,
        descriptors: 40_000,
        slot_table: 160_000,
    };

    fn report() -> Report {
        let class = ClassRow {
            class: 3,
            size: 128,
            zspages: [1; 11],
            obj_allocated: 320,
            obj_used: 300,
            pages_used: 11,
            pages_per_zspage: 16,
            freeable: 0,
        };
        let step = |step, count| Step { step, count, bytes: BYTES };
        Report {
            codec: "lz4".into(),
            seed: 0,
            sources: vec![],
            stored_pages: 16_384,
            same_filled_pages: 5,
            incompressible_pages: 7,
            refused_pages: 0,
            refusal: None,
            mismatched_pages: 0,
            steps: vec![step("fill", 16_384), step("compact", 12)],
            classes: vec![class],
        }
    }

    fn drawn(report: &Report, columns: usize) -> String {
        let mut text = String::new();
        show(report, Terminal { columns, unfolded: false, blocks: false }, &mut text).unwrap();
        text
    }

    #[test]
    fn every_width_has_every_part_and_no_line_too_long() {
        for columns in 1..200 {
            let text = drawn(&report(), columns);
            for (name, part) in BYTES.frames().into_iter().chain(BYTES.metadata()) {
                let line = text.lines().find(|line| line.get(2..).is_some_and(|rest| rest.starts_with(name)));
                assert!(line.unwrap_or_else(|| panic!("{name}: {text}")).contains(&grouped(part)), "{text}");
            }
            // Narrower than name and number is nobody's terminal; sentences are folded by it.
            let longest =
                text.lines().filter(|line| !line.ends_with('.')).map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= columns.max(66), "{columns}: {longest}\n{text}");
        }
        assert!(
            drawn(&report(), 80).contains("frames                     20,612,144   103.06%"),
            "{}",
            drawn(&report(), 80)
        );
    }

    #[test]
    fn the_bar_of_the_whole_is_as_wide_as_told_and_in_proportion() {
        let parts: Vec<_> = BYTES.frames().into_iter().chain(BYTES.metadata()).collect();
        for columns in [1, 10, 78, 98] {
            let bar = whole(&parts, BYTES.total(), columns);
            assert_eq!(bar.chars().count(), columns);
            let payload = bar.chars().filter(|&c| c == '=').count() as f64;
            assert!((payload - columns as f64 * BYTES.payload as f64 / BYTES.total() as f64).abs() <= 1.0, "{bar}");
        }
        assert_eq!(whole(&[("payload", 0)], 0, 5), "     ");
        assert_eq!(grouped(1), "1");
        assert_eq!(grouped(999_999_999), "999,999,999");
    }

    #[test]
    fn what_does_not_add_up_is_said_and_makes_the_run_bad() {
        let mut report = report();
        assert!(report.is_good() && !drawn(&report, 80).contains("FAILED"));
        report.steps[1].bytes.warm += 1;
        assert!(!report.is_good() && drawn(&report, 80).contains("FAILED: after compact"));
        report.steps[1].bytes.warm -= 1;
        report.mismatched_pages = 1;
        assert!(!report.is_good() && drawn(&report, 80).contains("FAILED: 1 pages did not come back"));
    }

    #[test]
    fn an_empty_pool_is_drawn() {
        let mut report = report();
        report.steps.iter_mut().for_each(|step| step.bytes = Bytes::default());
        report.classes.clear();
        assert!(drawn(&report, 80).contains("payload                             0         -"));
    }
}
