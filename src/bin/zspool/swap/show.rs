//! The report as a person reads it.

use super::report::{Cleaned, Report, Written};
use crate::size::{human, human_ns};
use crate::tiers::show as tiers;
use std::fmt::{self, Write};
use zspool::units::PAGE_SIZE;

fn bytes(n: u64) -> String {
    human(n.into())
}

fn took(seconds: f64) -> String {
    human_ns((seconds * 1e9) as u64)
}

/// What was done, step by step, with a table of the devices in between.
pub(crate) fn show(report: &Report, f: &mut impl Write) -> fmt::Result {
    let stored = report.stored_pages;
    let names: Vec<_> = report.sources.iter().map(|source| source.name.as_str()).collect();
    writeln!(f, "Stored {stored} pages of {}: {}.", bytes(stored * PAGE_SIZE as u64), names.join(", "))?;
    if report.refused_pages > 0 {
        let why = report.refusal.as_deref().unwrap_or("no reason was given").trim_end_matches('.');
        writeln!(f, "{} pages were not stored; the first because: {why}.", report.refused_pages)?;
    }
    let Written { pages, bytes: written, seconds } = report.written;
    write!(f, "Wrote {pages} of them as {} in {}", bytes(written), took(seconds))?;
    if let Some(each) = written.checked_div(pages) {
        write!(f, ": {each} bytes a page, {}/s", bytes((written as f64 / seconds) as u64))?;
    }
    let secrecy = if report.encryption { "encrypted" } else { "not encrypted" };
    writeln!(f, ", {}, {secrecy}.\n", report.codec)?;
    tiers::show(&report.filled, f)?;
    writeln!(f)?;
    let (p50, p99) = (human_ns(report.load_ns.p50), human_ns(report.load_ns.p99));
    writeln!(f, "Read back in random order: p50 {p50}, p99 {p99}.")?;
    if let Some(cleaned) = &report.cleaned {
        show_cleaned(cleaned, f)?;
    }
    report.swapoffs.iter().try_for_each(|swapoff| tiers::show_swapoff(swapoff, f))?;
    report.sources.iter().try_for_each(|source| source.remarks(f))?;
    match (report.mismatched_pages, stored) {
        (0, 0) => writeln!(f, "No page was stored, so there was nothing to compare."),
        (0, _) => writeln!(f, "Every stored page came back identical, before and after."),
        (bad, _) => writeln!(f, "FAILED: {bad} pages did not come back as they were."),
    }
}

fn show_cleaned(cleaned: &Cleaned, f: &mut impl Write) -> fmt::Result {
    let &Cleaned { freed_pages, freed_used_bytes, freed_live_bytes, used_bytes, live_bytes, rewritten_bytes, seconds } =
        cleaned;
    let times = |used: u64, live: u64| format!("{:.2}", used as f64 / live.max(1) as f64);
    write!(f, "Freed {freed_pages} at random: {} used for {} live", bytes(freed_used_bytes), bytes(freed_live_bytes))?;
    write!(
        f,
        " ({} times); cleaned in {}: {}",
        times(freed_used_bytes, freed_live_bytes),
        took(seconds),
        bytes(used_bytes)
    )?;
    writeln!(f, " ({}), by writing {}.", times(used_bytes, live_bytes), bytes(rewritten_bytes))
}
