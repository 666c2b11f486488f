//! The memory table: what a fresh process really grows by.

use crate::Scale;
use crate::inputs::{Input, Noise};
use crate::measure::{anonymous, cpu_here_and_elsewhere};
use crate::subject::{KernelSubject, MapSubject, PoolSubject, Subject, ZswapSubject};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// First argument of a child process.
pub(crate) const CHILD: &str = "--child";

/// Subjects, as arguments and as heads of columns.
pub(crate) const SUBJECTS: [(&str, &str); 4] =
    [("zswap", "zswap"), ("pool", "`Pool`"), ("map", "`HashMap`, glibc"), ("kernel", "kernel zram")];

/// A row of the table.
pub(crate) struct Point {
    pub(crate) name: &'static str,
    /// What the number is to be at most, and the goal, for the smaller and the larger amount of pages.
    bounds: [Option<(f64, f64)>; 2],
    /// The only subject that the row is about; empty: all.
    only: &'static str,
    decimals: usize,
}

const fn point(name: &'static str, small: Option<(f64, f64)>, large: Option<(f64, f64)>) -> Point {
    Point { name, bounds: [small, large], only: "", decimals: 3 }
}

/// Where a child looks, in order. The first five are over the payload.
pub(crate) const POINTS: [Point; 9] = [
    point("after the fill", Some((1.045, 1.04)), Some((1.03, 1.025))),
    point("after churn (4N random replacements)", Some((1.08, 1.05)), None),
    point("then compaction asked for", Some((1.05, 1.04)), None),
    point("a random half freed, a second later", Some((1.15, 1.10)), None),
    point("then compaction asked for", Some((1.08, 1.06)), None),
    Point { decimals: 2, ..point("everything freed, a second later, MiB", Some((2.0, 1.0)), None) },
    Point { decimals: 1, ..point("CPU of other threads during churn, percent of the caller's", None, None) },
    Point {
        decimals: 1,
        only: "zswap",
        ..point("metadata after the fill, bytes per page in zswap", Some((28.0, 24.0)), Some((28.0, 24.0)))
    },
    Point {
        decimals: 1,
        only: "pool",
        ..point(
            "metadata after the fill, bytes per object in a pool with cells of its own",
            Some((40.0, 32.0)),
            Some((40.0, 32.0)),
        )
    },
];

/// Points that are growth over payload.
const RATIOS: usize = 5;

/// How long memory that was freed may wait for background work before it is looked at.
const LATER: Duration = Duration::from_secs(1);

/// What a child found: a number for each point, if the subject has one.
pub(crate) struct Row {
    pub(crate) input: String,
    pub(crate) copies: usize,
    pub(crate) pages: usize,
    pub(crate) subject: &'static str,
    pub(crate) values: Vec<Option<f64>>,
}

fn make(subject: &str, numbers: usize) -> Box<dyn Subject> {
    match subject {
        "zswap" => Box::new(ZswapSubject::new(numbers)),
        "pool" => Box::new(PoolSubject::new(true, false, numbers).compacting()),
        "map" => Box::new(MapSubject::new(true)),
        "kernel" => Box::new(KernelSubject::new(numbers).expect("the parent has tried")),
        other => panic!("no subject is called {other}"),
    }
}

/// A child process: arguments subject, input, pages at most, copies. Prints its row.
pub(crate) fn child(arguments: &[String]) {
    let [subject, input, pages, copies] = arguments else { panic!("a child takes four arguments") };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let pages = Input::parse(input).pages(number(pages));
    let numbers = pages.len() * number(copies);
    let mut noise = Noise(3);
    let order = noise.shuffled(numbers);
    let page = |k: usize| &pages[k % pages.len()][..];

    let before = anonymous();
    let mut store = make(subject, numbers);
    let growth = |store: &dyn Subject| store.elsewhere().unwrap_or_else(|| anonymous().saturating_sub(before)) as f64;
    let ratio = |store: &dyn Subject| Some(growth(store) / store.payload() as f64);
    (0..numbers).for_each(|k| store.put(k, page(k)));
    let mut values = vec![ratio(&*store)];
    let metadata = store.frames().map(|frames| (growth(&*store) - (frames + store.index()) as f64) / numbers as f64);

    let (here, elsewhere) = cpu_here_and_elsewhere();
    for _ in 0..4 * numbers {
        let (k, other) = (noise.below(numbers), noise.below(numbers));
        store.put(k, page(other));
    }
    let (here_after, elsewhere_after) = cpu_here_and_elsewhere();
    let background = ((elsewhere_after - elsewhere) / (here_after - here) * 100.0).max(0.0);
    values.push(ratio(&*store));
    store.compact();
    values.push(ratio(&*store));
    order[..numbers / 2].iter().for_each(|&k| store.free(k));
    std::thread::sleep(LATER);
    values.push(ratio(&*store));
    store.compact();
    values.push(ratio(&*store));
    order[numbers / 2..].iter().for_each(|&k| store.free(k));
    std::thread::sleep(LATER);
    values.push(Some(growth(&*store) / f64::from(1 << 20)));
    values.push(store.elsewhere().is_none().then_some(background));
    for point in &POINTS[values.len()..] {
        values.push(metadata.filter(|_| point.only == subject));
    }
    println!("{}", json!({ "pages": numbers, "values": values }));
}

fn measure(subject: &'static str, input: &Input, pages: usize, copies: usize) -> Row {
    let child = Command::new(std::env::current_exe().expect("a path of our own"))
        .args([CHILD, subject, &input.argument(), &pages.to_string(), &copies.to_string()])
        .output()
        .expect("a child can be started");
    assert!(child.status.success(), "the child failed: {}", String::from_utf8_lossy(&child.stderr));
    let answer: Value = serde_json::from_slice(&child.stdout).expect("a child answers in JSON");
    let values: Vec<_> = answer["values"].as_array().expect("an array").iter().map(Value::as_f64).collect();
    assert_eq!(values.len(), POINTS.len());
    let pages = answer["pages"].as_u64().expect("a number") as usize;
    Row { input: input.name(), copies, pages, subject, values }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The median over the inputs of a subject's number at a point.
pub(crate) fn median_of(rows: &[Row], copies: usize, subject: &str, point: usize) -> Option<f64> {
    let rows = rows.iter().filter(|row| row.copies == copies && row.subject == subject);
    median(rows.filter_map(|row| row.values[point]).collect())
}

/// A line for each point: what it is to be, and the median over the inputs. Bold: more than it is to be.
fn print(rows: &[Row], copies: usize, amount: &str, bounds: impl Fn(&Point) -> Option<(f64, f64)>) {
    let subjects: Vec<_> =
        SUBJECTS.iter().filter(|(subject, _)| rows.iter().any(|row| row.subject == *subject)).collect();
    let heads: Vec<_> = subjects.iter().map(|(_, head)| *head).collect();
    println!("| {amount} | at most | goal | {} |", heads.join(" | "));
    println!("|---|{}", "---:|".repeat(heads.len() + 2));
    for (p, point) in POINTS.iter().enumerate() {
        let (most, goal) = match bounds(point) {
            Some((most, goal)) => (most.to_string(), goal.to_string()),
            None => Default::default(),
        };
        print!("| {} | {most} | {goal} |", point.name);
        for (subject, _) in &subjects {
            let Some(value) = median_of(rows, copies, subject, p) else {
                print!(" |");
                continue;
            };
            let ours = ["zswap", "pool"].contains(subject);
            let text = format!("{value:.*}", point.decimals);
            let over = ours && bounds(point).is_some_and(|(most, _)| value > most);
            if over { print!(" **{text}** |") } else { print!(" {text} |") }
        }
        println!();
    }
    println!();
}

/// Measure, print growth over payload for each subject as medians over the inputs, and return what was found.
pub(crate) fn table(inputs: &[Input], scale: Scale) -> Vec<Row> {
    let kernel = KernelSubject::new(1);
    println!("Growth of anonymous memory over payload, a process for each number of a subject; medians over");
    println!("{}.", inputs.iter().map(Input::name).collect::<Vec<_>>().join(", "));
    println!("Bold: more than it is to be.");
    if let Err(why) = &kernel {
        println!("No kernel zram: {why}.");
    }
    println!();
    let skip_kernel = kernel.is_err();
    drop(kernel);
    let mut rows = vec![];
    let mut sizes = vec![1];
    if scale.copies > 1 {
        sizes.push(scale.copies);
    }
    for (size, &copies) in sizes.iter().enumerate() {
        for (subject, _) in SUBJECTS {
            if skip_kernel && subject == "kernel" {
                continue;
            }
            rows.extend(inputs.iter().map(|input| measure(subject, input, scale.pages, copies)));
        }
        let pages = rows.iter().filter(|row| row.copies == copies).map(|row| row.pages).max().unwrap_or(0);
        let times = if copies > 1 { format!(" (each page {copies} times)") } else { String::new() };
        // The bounds are for 64 MiB and 1 GiB of originals; a quick run has less, for which fixed costs weigh more.
        let bounds = |point: &Point| point.bounds[size].filter(|_| scale.copies > 1);
        print(&rows, copies, &format!("up to {} MiB of originals{times}", pages >> 8), bounds);
    }
    rows
}

/// Everything that was found, for machines.
pub(crate) fn json(rows: &[Row]) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let values: serde_json::Map<_, _> = POINTS
                .iter()
                .enumerate()
                .filter_map(|(p, point)| Some((format!("{p} {}", point.name), json!(row.values[p]?))))
                .collect();
            json!({
                "input": row.input, "copies": row.copies, "pages": row.pages, "subject": row.subject, "values": values,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "over_payload": RATIOS, "rows": rows }))
}
