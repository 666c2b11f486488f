//! The report as a person reads it.

use super::report::{Failure, Report, SourceReport};
use crate::size::{human, human_ns};
use crate::source;
use crate::table::Table;
use crate::target::GroupStats;
use crate::tiers;
use std::fmt::{self, Write};
use zspool::units::PAGE_SIZE;

/// A source or all of them, with a part of the pool's metadata.
struct Line {
    pages: u64,
    same_filled: u64,
    stored: u64,
    metadata: u64,
    /// None: it was removed.
    memcg: Option<GroupStats>,
}

impl Line {
    /// Memory that the stored pages no longer take, less what they still do.
    fn saved(&self, memcg: &GroupStats) -> i128 {
        i128::from(self.stored) * PAGE_SIZE as i128 - i128::from(memcg.slot_bytes) - i128::from(self.metadata)
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let of_memcg = |cell: fn(&Self, &GroupStats) -> String| {
            self.memcg.as_ref().map_or_else(|| "-".to_owned(), |memcg| cell(self, memcg))
        };
        vec![
            name.to_owned(),
            self.pages.to_string(),
            self.same_filled.to_string(),
            of_memcg(|_, memcg| memcg.incompressible_pages.to_string()),
            of_memcg(|_, memcg| human(memcg.original_bytes.into())),
            of_memcg(|_, memcg| human(memcg.payload_bytes.into())),
            of_memcg(|_, memcg| human(memcg.slot_bytes.into())),
            human(self.metadata.into()),
            of_memcg(|line, memcg| human(line.saved(memcg))),
            of_memcg(|_, memcg| memcg.written_back_pages.to_string()),
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
    let mut total = Line { pages: 0, same_filled: 0, stored: 0, metadata: 0, memcg: Some(report.total) };
    for source in &report.sources {
        let &SourceReport { pages, same_filled_pages: same_filled, stored_pages: stored, memcg, .. } = source;
        let line = Line { pages, same_filled, stored, metadata: share(stored), memcg };
        table.row(line.cells(&source.name));
        total.pages += line.pages;
        total.same_filled += line.same_filled;
        total.stored += line.stored;
        total.metadata += line.metadata;
    }
    table.row(total.cells("total"));
    writeln!(f, "{table}")?;

    let pool = &report.pool;
    // Short lines: they must fit 80 columns.
    write!(f, "{} of pages are kept in ", human(i128::from(total.stored) * PAGE_SIZE as i128))?;
    write!(f, "{} of frames, {} of metadata", human(pool.frame_bytes.into()), human(pool.metadata_bytes.into()))?;
    if report.total.written_back_pages > 0 {
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
        if source.removed {
            writeln!(f, "{name}: its memcg was removed while it was held; what it had is in the total.")?;
        }
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

    fn memcg(scale: u64) -> GroupStats {
        GroupStats {
            incompressible_pages: 7,
            original_bytes: 700 * 4096 * scale,
            payload_bytes: 250 * 4096 * scale,
            slot_bytes: 256 * 4096 * scale,
            written_back_pages: 190 * scale,
            written_back_bytes: 190 * 1500 * scale,
        }
    }

    fn source(name: &str, scale: u64) -> SourceReport {
        SourceReport {
            name: name.into(),
            kind: Kind::Image,
            pages: 1000 * scale,
            stored_pages: 990 * scale,
            same_filled_pages: 100 * scale,
            memcg: Some(memcg(scale)),
            removed: false,
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
            total: memcg(10_001),
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
    fn what_a_removed_memcg_had_is_in_the_total_and_nowhere_else() {
        let mut report = report();
        (report.sources[0].memcg, report.sources[0].removed) = (None, true);
        let mut text = String::new();
        show(&report, &mut text).unwrap();
        let cells = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(cells(2), ["python3-1234567", "1000", "100", "-", "-", "-", "-", "2.7K", "-", "-"], "{text}");
        assert_eq!(cells(4).last(), Some(&"1900190"), "{text}");
        assert!(text.contains("of swapfile") && text.contains("python3-1234567: its memcg was removed"), "{text}");
        let json = serde_json::to_value(report).unwrap();
        let (of_source, total) = (&json["sources"][0], &json["total"]);
        assert!(of_source["removed"] == true && of_source["written_back_pages"].is_null(), "{json}");
        assert_eq!(
            (total["written_back_pages"].as_u64(), &json["sources"][1]["removed"]),
            (Some(1_900_190), &false.into())
        );
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
