//! `zspool squeeze` when something happens in the middle: it is interrupted or killed, an image shrinks, a process vanishes.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;
mod support;

use program::*;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::compressible;
use tempfile::TempDir;

fn folder_with_image(pages: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "x", (0..pages).map(|k| compressible(k, 1200)));
    (folder, image)
}

/// A pool so small that writing to the swapfile begins at once.
fn small_pool(swapfile: &Path) -> Vec<&str> {
    vec!["--json", "-", "--pool-limit", "256K", "--swapfile", swapfile.to_str().unwrap(), "--swap-size", "64M"]
}

#[test]
fn an_interrupted_run_says_so_and_leaves_nothing_behind() {
    let (folder, image) = folder_with_image(4000);
    let swapfile = folder.path().join("swap");
    let json = folder.path().join("report");
    for (signal, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM"), (libc::SIGHUP, "SIGHUP")] {
        let mut arguments = small_pool(&swapfile);
        arguments[1] = json.to_str().unwrap();
        arguments.extend(["--image", image.to_str().unwrap()]);
        let mut running = Running::start(&arguments);
        running.at_first_write(&swapfile, |running| running.signal(signal));
        let ended = running.finish();
        ended.assert_code(128 + signal).assert_said(&[&format!("Stopped by {name} before the end"), "nothing is left"]);
        assert_eq!(ended.out, "");
        assert!(!swapfile.exists() && !json.exists(), "{name}");
    }
}

#[test]
fn a_run_interrupted_while_its_command_runs_ends_the_command() {
    // An argument that no other process has.
    let naps = format!("{}.5", 4_000_000 + std::process::id());
    let mut running = Running::start(&["--after", "1000", "--", "sleep", &naps]);
    let is_there = || {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|pid| fs::read_to_string(pid.path().join("cmdline")).ok())
            .any(|line| line.starts_with("sleep\0") && line.contains(&naps))
    };
    running.wait_until(is_there);
    let started = Instant::now();
    running.signal(libc::SIGINT);
    running.finish().assert_code(130).assert_said(&["Stopped by SIGINT"]);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!is_there(), "the command runs on");
}

#[test]
fn a_killed_run_leaves_a_file_that_the_next_one_takes_over() {
    let (folder, image) = folder_with_image(4000);
    let swapfile = folder.path().join("swap");
    let mut arguments = small_pool(&swapfile);
    arguments.extend(["--image", image.to_str().unwrap()]);
    let mut running = Running::start(&arguments);
    running.at_first_write(&swapfile, |running| running.signal(libc::SIGKILL));
    assert_eq!(running.finish().status.code(), None, "a signal ended it");
    assert!(swapfile.exists());
    // The next run leaves the file too, for it did not make it, and nothing in it.
    let report = squeeze(&arguments).assert_code(0).report();
    assert_eq!(sum(&report, "stored_pages"), 4000);
    assert_eq!(fs::metadata(&swapfile).unwrap().len(), 4096);
}

#[test]
fn an_image_truncated_in_mid_run_is_said() {
    let (folder, image) = folder_with_image(4000);
    let swapfile = folder.path().join("swap");
    let mut arguments = small_pool(&swapfile);
    arguments.extend(["--image", image.to_str().unwrap(), "--threads", "1"]);
    let ended = until_in_time(|| {
        File::options().write(true).open(&image).unwrap().set_len(4000 * 4096).unwrap();
        let mut running = Running::start(&arguments);
        running.at_first_write(&swapfile, |_| {
            File::options().write(true).open(&image).unwrap().set_len(4096 + 100).unwrap();
        });
        let ended = running.finish();
        (!ended.status.success()).then_some(ended)
    });
    ended.assert_refused(&["x.pages was truncated while it was read", "of 4000 is gone", "do not change images"]);
    assert!(!swapfile.exists());
}

/// In the child that holds memory: so many pages.
const HOLD: &str = "ZSPOOL_TEST_HOLD";

/// Not a test of its own: what [`holder`] starts.
#[test]
fn hold_memory() {
    let Ok(pages) = std::env::var(HOLD) else { return };
    let pages: Vec<_> = (0..pages.parse().unwrap()).map(|k| compressible(k, 1200)).collect();
    println!("holding {} pages", std::hint::black_box(&pages).len());
    std::thread::sleep(Duration::from_secs(600));
}

/// A process that has so many pages of memory.
fn holder(pages: u64) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_memory", "--nocapture"])
        .env(HOLD, pages.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    while !said.contains("holding") {
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        said.push(byte[0].into());
    }
    child
}

#[test]
fn a_process_that_vanishes_while_captured_keeps_what_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let swapfile = folder.path().join("swap");
    let ended = until_in_time(|| {
        let mut child = holder(4000);
        let pid = child.id().to_string();
        let mut arguments = small_pool(&swapfile);
        arguments.extend(["--pid", &pid, "--threads", "1"]);
        let mut running = Running::start(&arguments);
        running.at_first_write(&swapfile, |_| {
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let ended = running.finish();
        ended.err.contains("ended while it was read").then_some(ended)
    });
    let report = ended.assert_code(0).report();
    let source = &report["sources"][0];
    let (stored, pages) = (of(source, "stored_pages"), of(source, "pages"));
    assert!(stored == pages && (50..4000).contains(&pages) && sum(&report, "mismatched_pages") == 0, "{source}");
    let note = source["note"].as_str().unwrap();
    assert!(note.contains(&format!("ended while it was read: {pages} of ")), "{note}");
    ended.assert_said(&[note, "stored pages came back identical"]);
}
