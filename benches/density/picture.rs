//! The picture of the memory table's medians: bars of memory over payload.
//!
//! Plain SVG: a generic font, no style sheet, and colours of middle lightness, so that it can be read on light and on dark.

use crate::memory::{Row, median_of};
use std::fmt::Write;

/// Subjects: argument, legend, colour.
const SERIES: [(&str, &str, &str); 3] = [
    ("zswap", "zspool", "#1a9c8c"),
    ("kernel", "kernel zram", "#8b7bd8"),
    ("map", "HashMap of boxed slices, glibc", "#d08332"),
];

/// Points of the table, and what stands below them.
const GROUPS: [[&str; 2]; 5] = [
    ["after the fill", ""],
    ["after churn", "4N replaced"],
    ["then compacted", ""],
    ["half freed", "a second later"],
    ["then compacted", ""],
];

const INK: &str = "#7d8590";
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 48.0;

/// Bars start at 1: the payload alone, which nothing can be below.
const BASE: f64 = 1.0;
const GRID: f64 = 0.25;

/// The picture of the smaller amount of pages.
pub(crate) fn draw(rows: &[Row]) -> String {
    let series: Vec<_> = SERIES.iter().filter(|(subject, ..)| rows.iter().any(|row| row.subject == *subject)).collect();
    let value = |subject: &str, point: usize| median_of(rows, 1, subject, point).unwrap_or(BASE);
    let most = (0..GROUPS.len()).flat_map(|p| series.iter().map(move |s| (p, s.0))).map(|(p, s)| value(s, p));
    let top = (most.fold(BASE, f64::max) / GRID).ceil() * GRID;
    let plot = HEIGHT - TOP - BOTTOM;
    let y = |value: f64| TOP + plot * (top - value) / (top - BASE);

    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        svg.write_fmt(text).expect("a string takes everything");
        svg.push('\n');
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="{INK}" role="img">"#
    ));
    line(format_args!("<title>Memory over payload: {}</title>", summary(&series, &value)));
    line(format_args!(
        r#"<text x="{LEFT}" y="20" font-size="15" font-weight="bold">Memory taken, over the compressed bytes alone (1.00)</text>"#
    ));
    let mut x = LEFT;
    for (_, legend, colour) in &series {
        line(format_args!(r#"<rect x="{x}" y="33" width="12" height="12" rx="2" fill="{colour}"/>"#));
        line(format_args!(r#"<text x="{}" y="43">{legend}</text>"#, x + 18.0));
        x += 44.0 + 6.6 * legend.len() as f64;
    }
    for step in 0..=((top - BASE) / GRID).round() as u32 {
        let at = BASE + f64::from(step) * GRID;
        let width = if step == 0 { 1.5 } else { 0.5 };
        line(format_args!(
            r#"<path d="M{LEFT} {0:.1}H{WIDTH}" stroke="{INK}" stroke-width="{width}" stroke-opacity="0.6"/>"#,
            y(at)
        ));
        line(format_args!(r#"<text x="{}" y="{:.1}" text-anchor="end">{at:.2}</text>"#, LEFT - 6.0, y(at) + 4.0));
    }
    let group = (WIDTH - LEFT) / GROUPS.len() as f64;
    let bar = (group - 18.0) / series.len() as f64;
    for (p, [head, below]) in GROUPS.iter().enumerate() {
        let left = LEFT + group * p as f64 + 9.0;
        for (s, (subject, _, colour)) in series.iter().enumerate() {
            let (value, x) = (value(subject, p), left + bar * s as f64);
            let (above, height) = (y(value), y(BASE) - y(value));
            line(format_args!(
                r#"<rect x="{:.1}" y="{above:.1}" width="{:.1}" height="{height:.1}" rx="2" fill="{colour}"/>"#,
                x + 2.0,
                bar - 4.0
            ));
            line(format_args!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="11">{value:.2}</text>"#,
                x + bar / 2.0,
                above - 4.0
            ));
        }
        let middle = LEFT + group * (p as f64 + 0.5);
        line(format_args!(r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{head}</text>"#, y(BASE) + 18.0));
        line(format_args!(
            r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle" font-size="11">{below}</text>"#,
            y(BASE) + 33.0
        ));
    }
    line(format_args!("</svg>"));
    svg
}

/// The numbers in words, for those who cannot see them.
fn summary(series: &[&(&str, &str, &str)], value: &impl Fn(&str, usize) -> f64) -> String {
    let one = |(subject, legend, _): &&(&str, &str, &str)| {
        let numbers = (0..GROUPS.len()).map(|p| format!("{} {:.2}", GROUPS[p][0], value(subject, p)));
        format!("{legend}: {}", numbers.collect::<Vec<_>>().join(", "))
    };
    series.iter().map(one).collect::<Vec<_>>().join("; ")
}
