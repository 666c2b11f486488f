//! The memory table: what a fresh process really grows by.

use crate::Scale;
use crate::inputs::{Input, Noise};
use crate::subject::{MapSubject, PoolSubject, Subject, ZswapSubject};
use std::process::Command;

/// First argument of a child process.
pub(crate) const CHILD: &str = "--child";

const SUBJECTS: [&str; 3] = ["zswap", "pool", "map"];

/// Where a child looks at its memory, in order. The first five are over the payload, the last in MiB.
const POINTS: [&str; 6] = ["fill", "churn", "compacted", "half freed", "compacted", "all freed, MiB"];

fn make(subject: &str, numbers: usize) -> Box<dyn Subject> {
    match subject {
        "zswap" => Box::new(ZswapSubject::new(numbers)),
        "pool" => Box::new(PoolSubject::new(true, false, numbers)),
        "map" => Box::new(MapSubject::new(true)),
        other => panic!("no subject is called {other}"),
    }
}

/// Bytes of anonymous memory of this process, exactly.
fn anonymous() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a kernel from 4.14 on");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("it has the line");
    line.trim().trim_end_matches(" kB").parse::<i64>().expect("a number") * 1024
}

/// A child process: arguments subject, input, pages at most, copies. Prints one number for each point.
pub(crate) fn child(arguments: &[String]) {
    let [subject, input, pages, copies] = arguments else { panic!("a child takes four arguments") };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let pages = Input::parse(input).pages(number(pages));
    let numbers = pages.len() * number(copies);
    let mut noise = Noise(3);
    let order = noise.shuffled(numbers);
    let page = |k: usize| &pages[k % pages.len()][..];
    let mut results = Vec::with_capacity(POINTS.len());

    let before = anonymous();
    let mut store = make(subject, numbers);
    let mut note = |store: &dyn Subject| {
        let growth = (anonymous() - before) as f64;
        let over = if results.len() < 5 { store.payload() as f64 } else { (1 << 20) as f64 };
        results.push(growth / over);
    };
    (0..numbers).for_each(|k| store.put(k, page(k)));
    note(&*store);
    for _ in 0..4 * numbers {
        let (k, other) = (noise.below(numbers), noise.below(numbers));
        store.put(k, page(other));
    }
    note(&*store);
    store.compact();
    note(&*store);
    order[..numbers / 2].iter().for_each(|&k| store.free(k));
    note(&*store);
    store.compact();
    note(&*store);
    order[numbers / 2..].iter().for_each(|&k| store.free(k));
    store.compact();
    note(&*store);
    println!("{results:?}");
}

fn measure(subject: &str, input: &Input, pages: usize, copies: usize) -> Vec<f64> {
    let child = Command::new(std::env::current_exe().expect("a path of our own"))
        .args([CHILD, subject, &input.argument(), &pages.to_string(), &copies.to_string()])
        .output()
        .expect("a child can be started");
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "the child failed: {}", String::from_utf8_lossy(&child.stderr));
    text.trim().trim_matches(['[', ']']).split(", ").map(|value| value.parse().expect("a number")).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(head: &str, name: &str, results: &[f64]) {
    print!("| {head} | {name} |");
    for result in results {
        print!(" {result:.3} |");
    }
    println!();
}

/// Print growth over payload for each subject and input, and the medians over the inputs.
pub(crate) fn table(inputs: &[Input], scale: Scale) {
    println!("Growth of anonymous memory over payload, a process for each row:\n");
    println!("| pages | store | {} |", POINTS.join(" | "));
    println!("|---|---|{}", "---:|".repeat(POINTS.len()));
    let mut sizes = vec![1];
    if scale.copies > 1 {
        sizes.push(scale.copies);
    }
    for copies in sizes {
        for subject in SUBJECTS {
            let mut columns = vec![vec![]; POINTS.len()];
            for input in inputs {
                let results = measure(subject, input, scale.pages, copies);
                let head = format!("{} x {copies}", input.name());
                row(&head, subject, &results);
                columns.iter_mut().zip(&results).for_each(|(column, &result)| column.push(result));
            }
            row(&format!("median x {copies}"), subject, &columns.into_iter().map(median).collect::<Vec<_>>());
        }
    }
    println!();
}
