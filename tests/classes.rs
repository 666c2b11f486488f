//! `zspool classes`: the numbers add up, the picture fits where it is shown, bad input is a sentence.
#![cfg(feature = "cli")]

mod support;

use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::*;

const ZSPOOL: &str = env!("CARGO_BIN_EXE_zspool");

fn classes(arguments: &[&str], columns: Option<&str>) -> Output {
    let mut command = Command::new(ZSPOOL);
    command.arg("classes").args(arguments).stdin(Stdio::null()).env_remove("COLUMNS");
    if let Some(columns) = columns {
        command.env("COLUMNS", columns);
    }
    command.output().unwrap()
}

/// Its standard output, of a run that went well.
#[track_caller]
fn shown(arguments: &[&str], columns: Option<&str>) -> String {
    let output = classes(arguments, columns);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn report(arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["--json", "-"].into_iter().chain(arguments.iter().copied()).collect();
    serde_json::from_str(&shown(&arguments, None)).unwrap()
}

/// An image of so many pages of all kinds.
fn image(folder: &Path, pages: u64) -> PathBuf {
    let path = folder.join("mixed.pages");
    let mut file = File::create(&path).unwrap();
    (0..pages).for_each(|k| file.write_all(&any_page(k)[..]).unwrap());
    path
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Every byte of a step is in one part.
#[track_caller]
fn assert_adds_up(bytes: &Value) {
    let sum: u64 =
        ["payload", "rounding", "free_slots", "tails", "warm"].iter().map(|&part| number(&bytes[part])).sum();
    assert_eq!(sum, number(&bytes["backed"]), "{bytes}");
    assert!(["entries", "descriptors", "slot_table"].iter().all(|&part| number(&bytes[part]) > 0), "{bytes}");
}

#[test]
fn parts_add_up_after_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 3000);
    let path = path.to_str().unwrap();
    let all = report(&["--image", path, "--churn=2", "--free-half", "--compact", "--seed", "7"]);
    let steps: Vec<&Value> = all["steps"].as_array().unwrap().iter().collect();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["fill", "churn", "free half", "compact"]);
    steps.iter().for_each(|step| assert_adds_up(&step["bytes"]));
    let count = |step: usize| number(&steps[step]["count"]);
    assert_eq!((count(0), count(1), count(2)), (3000, 6000, 1500));
    assert_eq!((number(&all["stored_pages"]), number(&all["refused_pages"])), (1500, 0));
    let part = |step: usize, part: &str| number(&steps[step]["bytes"][part]);
    assert!(part(2, "free_slots") > 3 * part(0, "free_slots"), "holes are free slots: {all}");
    assert!(part(3, "free_slots") < part(2, "free_slots") / 2, "and compaction fills them");
    assert_eq!(part(2, "payload"), part(3, "payload"));
    assert!(count(3) * 4096 >= part(2, "free_slots") + part(2, "tails") - part(3, "free_slots") - part(3, "tails"));

    // The classes are of the last step.
    let rows = all["classes"].as_array().unwrap();
    let sum = |of: &dyn Fn(&Value) -> u64| rows.iter().map(of).sum::<u64>();
    let slots = sum(&|row| number(&row["obj_used"]) * number(&row["size"]));
    let free = sum(&|row| (number(&row["obj_allocated"]) - number(&row["obj_used"])) * number(&row["size"]));
    let frames = sum(&|row| number(&row["pages_used"]) * 4096);
    assert_eq!(slots, part(3, "payload") + part(3, "rounding"));
    assert_eq!(free, part(3, "free_slots"));
    assert_eq!(frames, part(3, "backed") - part(3, "warm"));

    assert_eq!(report(&["--image", path, "--churn=2", "--free-half", "--compact", "--seed", "7"]), all, "it repeats");
    let other = report(&["--image", path, "--free-half", "--seed", "8"]);
    assert_ne!(other["steps"][1]["bytes"], steps[2]["bytes"], "another seed frees other pages");
}

#[test]
fn the_picture_has_every_part_and_fits_its_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 500);
    let arguments = ["--image", path.to_str().unwrap(), "--free-half"];
    let numbers = report(&arguments);
    let last = &numbers["steps"][1]["bytes"];
    for columns in [None, Some("200"), Some("80"), Some("66"), Some("40"), Some("7")] {
        let text = shown(&arguments, columns);
        for (name, field) in [
            ("= payload", "payload"),
            ("r class rounding", "rounding"),
            ("f free slots", "free_slots"),
            ("t tails", "tails"),
            ("w warm frames", "warm"),
            ("  frames", "backed"),
            ("e entries", "entries"),
            ("d descriptors", "descriptors"),
            ("s slot words, links", "slot_table"),
        ] {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            let shown = line.split_whitespace().next().unwrap().replace(',', "");
            assert_eq!(shown, last[field].to_string(), "{name} at {columns:?}");
        }
        assert!(!text.contains('\u{2588}'), "no block characters where there is no terminal");
        // A pipe folds nothing, so that it gets the whole table.
        let fullness = text.lines().next().unwrap().contains(" 50% ");
        assert_eq!(fullness, columns.is_none_or(|columns| columns == "200"), "{text}");
        if let Some(columns) = columns {
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= columns.parse::<usize>().unwrap().max(66), "{columns}: {widest}");
        }
    }
}

/// What a run shows on a terminal of that width.
fn on_a_terminal(columns: u16, locale: &str, arguments: &[&str]) -> String {
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: all pointers are good for the call or null, which it allows.
    let result = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that was just opened, and that nobody else has.
    let mut master = unsafe { File::from_raw_fd(master) };
    // SAFETY: as above.
    let slave = unsafe { File::from_raw_fd(slave) };
    let mut command = Command::new(ZSPOOL);
    command.arg("classes").args(arguments).env_remove("COLUMNS").env_remove("LC_ALL").env_remove("LC_CTYPE");
    let mut child =
        command.env("LANG", locale).stdin(Stdio::null()).stdout(slave).stderr(Stdio::null()).spawn().unwrap();
    drop(command); // and with it our copy of the slave: the end of the child is the end of the text
    let mut text = Vec::new();
    let _ = master.read_to_end(&mut text); // ends with EIO
    assert!(child.wait().unwrap().success());
    String::from_utf8(text).unwrap()
}

#[test]
fn on_a_terminal_it_is_as_wide_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 500);
    let arguments = ["--image", path.to_str().unwrap()];
    for columns in [70, 100, 150] {
        let text = on_a_terminal(columns, "en_US.UTF-8", &arguments);
        assert!(text.contains('\u{2588}'), "{text}");
        let whole = text.lines().find(|line| line.starts_with("|=")).unwrap().trim_end().chars().count();
        assert_eq!(whole, usize::from(columns).min(100));
        assert!(text.lines().all(|line| line.trim_end().chars().count() <= columns.into()), "{columns}: {text}");
    }
    let plain = on_a_terminal(100, "C", &arguments);
    assert!(plain.contains("##") && plain.is_ascii(), "{plain}");
}

#[test]
fn a_command_and_several_images_are_taken_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 100);
    let path = path.to_str().unwrap();
    let all = report(&["--image", path, "--image", path, "--after", "0.3", "--", "sleep", "30"]);
    let names: Vec<&str> = all["sources"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], ["mixed", "mixed-2"]);
    assert!(names[2].starts_with("sleep"), "{names:?}");
    assert!(number(&all["sources"][2]["pages"]) > 0 && number(&all["mismatched_pages"]) == 0, "{all}");
    let few = report(&["--image", path, "--image", path, "--max-pages", "150"]);
    let pages: Vec<u64> = few["sources"].as_array().unwrap().iter().map(|source| number(&source["pages"])).collect();
    assert_eq!(pages, [100, 50]);
}

#[test]
fn what_a_limit_refuses_is_counted_and_said_and_the_rest_adds_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 1000);
    let path = path.to_str().unwrap();
    let all = report(&["--image", path, "--pool-limit", "256K", "--churn"]);
    assert!(number(&all["refused_pages"]) > 500, "{all}");
    assert!(all["refusal"].as_str().unwrap().contains("raise the limit"), "{all}");
    for step in all["steps"].as_array().unwrap() {
        assert_adds_up(&step["bytes"]);
        assert!(number(&step["bytes"]["backed"]) <= 256 << 10);
    }
    assert_eq!(number(&all["mismatched_pages"]), 0);
    let none = report(&["--image", path, "--pool-limit", "0"]);
    let bytes = &none["steps"][0]["bytes"];
    assert_eq!((number(&bytes["payload"]), number(&bytes["backed"])), (0, 0));
    assert_eq!(number(&none["stored_pages"]), number(&none["same_filled_pages"]), "words need no frame: {none}");
    assert!(shown(&["--image", path, "--pool-limit", "0"], None).contains("stores were refused; the first because:"));
}

#[test]
fn bad_input_is_a_sentence_and_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 2);
    let path = path.to_str().unwrap();
    for (arguments, says) in [
        (&["--image", "/nonexistent/image"][..], "Cannot read /nonexistent/image"),
        (&["--image", path, "--churn=0"], "Zero times would replace nothing; leave --churn out"),
        (&["--image", path, "--churn=x"], "is a whole number, at least 1"),
        (&["--image", path, "--churn=1001"], "At most 1000 times are possible"),
        (&["--image", path, "--churn", "3"], "unexpected argument '3'"),
        (&["--image", path, "--free-half=1"], "unexpected value '1'"),
        (&["--image", path, "--pool-limit", "ten"], "is no size; write a whole number of bytes"),
        (&["--image", path, "--codec", "middle-out"], "middle-out"),
        (&["--image", path, "--seed", "-1"], "-1"),
        (&["--image", path, "--max-pages", "0"], "Zero pages would leave nothing to do"),
        (&["--image", path, "--swapfile", "x"], "unexpected argument '--swapfile'"),
        (&["--image", path, "--json", "/nonexistent/report"], "Cannot write the report to /nonexistent/report"),
        (&["--pid", "4194305"], "There is no process 4194305"),
    ] {
        let output = classes(arguments, None);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{says:?} is not in: {said}");
        assert!(output.stdout.is_empty() && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_report_is_written_when_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 10);
    let json = folder.path().join("report.json");
    let arguments = |image: &str| ["--image".to_owned(), image.to_owned(), "--json".into(), json.display().to_string()];
    let run = |image: &str| classes(&arguments(image).each_ref().map(String::as_str), None);
    assert!(!run("/nonexistent/image").status.success());
    assert!(!json.exists(), "no empty report is left");
    let output = run(path.to_str().unwrap());
    assert!(
        String::from_utf8(output.stdout).unwrap().contains("class rounding"),
        "the picture goes to standard output"
    );
    let written: Value = serde_json::from_reader(File::open(&json).unwrap()).unwrap();
    assert_eq!(number(&written["sources"][0]["pages"]), 10);
}
