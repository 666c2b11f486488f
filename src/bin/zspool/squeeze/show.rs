//! The report as a person reads it.

use super::report::{Failure, Report, SourceReport};
use crate::size::{human, human_ns};
use crate::source;
use crate::table::Table;
use crate::tiers;
use std::fmt::{self, Write};
use zspool::units::PAGE_SIZE;

/// Sums over sources, and a source's part of the pool's metadata.
#[derive(Default)]
struct Line {
    pages: u64,
    same_filled: u64,
    incompressible: u64,
    original: u64,
    payload: u64,
    slots: u64,
    metadata: u64,
    stored: u64,
    written_back: u64,
}

impl Line {
    fn of(source: &SourceReport, metadata: u64) -> Self {
        Line {
            pages: source.pages,
            same_filled: source.same_filled_pages,
            incompressible: source.incompressible_pages,
            original: source.original_bytes,
            payload: source.payload_bytes,
            slots: source.slot_bytes,
            metadata,
            stored: source.stored_pages,
            written_back: source.written_back_pages,
        }
    }

    fn add(&mut self, other: &Line) {
        let Line { pages, same_filled, incompressible, original, payload, slots, metadata, stored, written_back } =
            other;
        self.pages += pages;
        self.same_filled += same_filled;
        self.incompressible += incompressible;
        self.original += original;
        self.payload += payload;
        self.slots += slots;
        self.metadata += metadata;
        self.stored += stored;
        self.written_back += written_back;
    }

    /// Memory that the stored pages no longer take, less what they still do.
    fn saved(&self) -> i128 {
        i128::from(self.stored) * PAGE_SIZE as i128 - i128::from(self.slots) - i128::from(self.metadata)
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let bytes = |n: u64| human(n.into());
        vec![
            name.to_owned(),
            self.pages.to_string(),
            self.same_filled.to_string(),
            self.incompressible.to_string(),
            bytes(self.original),
            bytes(self.payload),
            bytes(self.slots),
            bytes(self.metadata),
            human(self.saved()),
            self.written_back.to_string(),
        ]
    }
}

/// The table, the totals, and a sentence for everything out of the ordinary.
pub(crate) fn show(report: &Report, f: &mut impl Write) -> fmt::Result {
    let stored: u64 = report.sources.iter().map(|source| source.stored_pages).sum();
    let share = |pages: u64| {
        (u128::from(report.pool.metadata_bytes) * u128::from(pages)).checked_div(stored.into()).unwrap_or(0) as u64
    };
    let mut table = Table::default();
    table.row(["", "", "same-", "incom-", "", "", "", "meta-", "", "written"]);
    table.row(["source", "pages", "filled", "press.", "original", "payload", "pool", "data", "saved", "back"]);
    let mut total = Line::default();
    for source in &report.sources {
        let line = Line::of(source, share(source.stored_pages));
        table.row(line.cells(&source.name));
        total.add(&line);
    }
    table.row(total.cells("total"));
    writeln!(f, "{table}")?;

    let pool = &report.pool;
    // Short lines: they must fit 80 columns.
    write!(f, "{} of pages are kept in ", human(i128::from(total.stored) * PAGE_SIZE as i128))?;
    write!(f, "{} of frames, {} of metadata", human(pool.frame_bytes.into()), human(pool.metadata_bytes.into()))?;
    if total.written_back > 0 {
        write!(f, ", {} of swapfile", human(pool.swapfile_bytes.into()))?;
    }
    writeln!(f, ".")?;
    writeln!(f, "This process grew by {} of anonymous memory.", human(report.process.rss_growth_bytes.into()))?;
    let times = [("Store", report.store_ns), ("load", report.load_ns)]
        .map(|(what, ns)| format!("{what}: p50 {}, p99 {}", human_ns(ns.p50), human_ns(ns.p99)));
    let threads = if report.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", report.threads) };
    writeln!(f, "{} ({threads}, {}).", times.join("; "), report.codec)?;
    if !report.swap.devices.is_empty() {
        writeln!(f)?;
        tiers::show::show(&report.swap, f)?;
        writeln!(f)?;
    }
    report.swapoffs.iter().try_for_each(|swapoff| tiers::show::show_swapoff(swapoff, f))?;
    remarks(report, f)?;
    verdict(report, stored, f)
}

fn remarks(report: &Report, f: &mut impl Write) -> fmt::Result {
    for source in &report.sources {
        let name = &source.name;
        if source.refused_pages > 0 {
            let why = source.refusal.as_deref().unwrap_or("no reason was given");
            // What the store quotes may be a whole sentence.
            let why = why.trim_end_matches('.');
            writeln!(f, "{name}: {} pages were not stored; the first because: {why}.", source.refused_pages)?;
        }
        source::remarks(name, source.vanished_pages, source.note.as_deref(), f)?;
    }
    Ok(())
}

fn verdict(report: &Report, stored: u64, f: &mut impl Write) -> fmt::Result {
    for Failure { source, page, what } in &report.failures {
        match (source, page) {
            (Some(source), Some(page)) => writeln!(f, "FAILED: page {page} of {source} {what}")?,
            _ => writeln!(f, "FAILED: {what}")?,
        }
    }
    let mismatched: u64 = report.sources.iter().map(|source| source.mismatched_pages).sum();
    if mismatched > 0 {
        writeln!(f, "{mismatched} of {stored} stored pages did not come back as they were.")
    } else {
        let took = human_ns((report.seconds * 1e9) as u64);
        match stored {
            0 => writeln!(f, "No page was stored, so there was nothing to compare."),
            1 => writeln!(f, "The one stored page came back identical; all that took {took}."),
            _ => writeln!(f, "All {stored} stored pages came back identical; all that took {took}."),
        }
    }
}

/// Each memcg's text files.
pub(crate) fn show_stat(sources: &[SourceReport], f: &mut impl Write) -> fmt::Result {
    for source in sources {
        writeln!(f, "\n{}:", source.name)?;
        for line in source.stat.lines() {
            writeln!(f, "  {line}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Quantiles;
    use crate::source::Kind;
    use crate::squeeze::report::{PoolReport, ProcessReport};
    use crate::target::ClassRow;
    use crate::tiers::report::Swap;

    fn source(name: &str, scale: u64) -> SourceReport {
        SourceReport {
            name: name.into(),
            kind: Kind::Image,
            pages: 1000 * scale,
            stored_pages: 990 * scale,
            same_filled_pages: 100 * scale,
            incompressible_pages: 7,
            original_bytes: 700 * 4096 * scale,
            payload_bytes: 250 * 4096 * scale,
            slot_bytes: 256 * 4096 * scale,
            written_back_pages: 190 * scale,
            written_back_bytes: 190 * 1500 * scale,
            mismatched_pages: 0,
            unreadable_pages: 0,
            refused_pages: 10 * scale,
            refusal: Some("The pool is full.".into()),
            vanished_pages: 3,
            note: Some("It ended.".into()),
            stat: "zswap 5\nzswapped 6\n".into(),
        }
    }

    fn report() -> Report {
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
        Report {
            codec: "lz4".into(),
            threads: 2,
            seed: 0,
            seconds: 1.25,
            sources: vec![source("python3-1234567", 1), source("a-very-long-name-cut-at", 10_000)],
            pool: PoolReport {
                frame_bytes: 5 << 30,
                metadata_bytes: 28_000_000,
                payload_bytes: 4 << 30,
                objects: 1_000_000,
                swapfile_bytes: 3 << 30,
                classes: vec![class],
            },
            swap: Swap::default(),
            swapoffs: vec![],
            process: ProcessReport { rss_growth_bytes: 5 << 30 },
            store_ns: Quantiles { p50: 5900, p99: 12_000 },
            load_ns: Quantiles { p50: 2600, p99: 4100 },
            failures: vec![],
        }
    }

    #[test]
    fn the_table_is_aligned_and_fits_100_columns() {
        let mut text = String::new();
        show(&report(), &mut text).unwrap();
        println!("{text}");
        assert!(text.lines().skip(6).take(3).all(|line| line.chars().count() <= 80), "{text}");
        let table: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(table.len(), 5);
        assert!(table.iter().all(|line| line.chars().count() == table[1].chars().count()), "{text}");
        assert!(table[1].chars().count() <= 100, "{text}");
        let cells: Vec<_> = table[2].split_whitespace().collect();
        assert_eq!(cells[..8], ["python3-1234567", "1000", "100", "7", "2.7M", "1000K", "1.0M", "2.7K"]);
        assert!(text.contains("10 pages were not stored; the first because: The pool is full."), "{text}");
        assert!(text.contains("All 9900990 stored pages came back identical"), "{text}");
    }

    #[test]
    fn a_page_that_differs_is_said_and_makes_the_run_bad() {
        let mut report = report();
        assert!(report.is_good());
        report.sources[0].mismatched_pages = 1;
        let what = "came back different.".into();
        report.failures.push(Failure { source: Some("python3-1234567".into()), page: Some(17), what });
        assert!(!report.is_good());
        let mut text = String::new();
        show(&report, &mut text).unwrap();
        assert!(text.contains("FAILED: page 17 of python3-1234567 came back different."), "{text}");
        assert!(!text.contains("identical"), "{text}");
    }

    #[test]
    fn a_run_without_pages_divides_by_nothing() {
        let mut report = report();
        report.sources.iter_mut().for_each(|source| source.stored_pages = 0);
        show(&report, &mut String::new()).unwrap();
    }

    #[test]
    fn stat_is_shown_by_source() {
        let mut text = String::new();
        show_stat(&report().sources, &mut text).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[..3], ["python3-1234567:", "  zswap 5", "  zswapped 6"]);
    }

    #[test]
    fn json_has_the_promised_fields() {
        let json = serde_json::to_value(report()).unwrap();
        let source = &json["sources"][0];
        for field in [
            "name",
            "pages",
            "same_filled_pages",
            "incompressible_pages",
            "original_bytes",
            "payload_bytes",
            "slot_bytes",
            "written_back_pages",
            "written_back_bytes",
            "mismatched_pages",
        ] {
            assert!(!source[field].is_null(), "sources[].{field}");
        }
        for field in ["frame_bytes", "metadata_bytes", "payload_bytes", "objects", "classes"] {
            assert!(!json["pool"][field].is_null(), "pool.{field}");
        }
        assert!(json["process"]["rss_growth_bytes"].is_u64());
        for times in ["store_ns", "load_ns"] {
            assert!(json[times]["p50"].is_u64() && json[times]["p99"].is_u64());
        }
    }
}
