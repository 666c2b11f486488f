//! `zspool squeeze` and `zspool swap` over several swapfiles: used by priority, shown, taken off, and nothing lost whatever ends.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;
mod support;

use program::*;
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::{Kind, compressible, page_of};
use tempfile::TempDir;
use zspool::units::Page;

/// A folder with an image of pages that all take a place of about 1.3 KiB.
fn folder_with_image(pages: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "x", (0..pages).map(|k| compressible(k, 1200)));
    (folder, image)
}

/// The command line for an image and these swapfiles, with a pool of so much.
fn arguments<'a>(image: &'a Path, pool_limit: &'a str, swapfiles: &'a [String]) -> Vec<&'a str> {
    let mut arguments = vec!["--json", "-", "--image", image.to_str().unwrap(), "--pool-limit", pool_limit];
    swapfiles.iter().for_each(|swapfile| arguments.extend(["--swapfile", swapfile]));
    arguments
}

/// The devices of a report, by name.
#[track_caller]
fn device<'a>(swap: &'a Value, path: &Path) -> &'a Value {
    let devices = swap["devices"].as_array().unwrap();
    let device = devices.iter().find(|row| row["name"] == path.to_str().unwrap());
    device.unwrap_or_else(|| panic!("{} is not among {devices:?}", path.display()))
}

#[test]
fn tiers_fill_by_priority_and_those_of_one_share() {
    let (folder, image) = folder_with_image(4000);
    let path = |name: &str| folder.path().join(name);
    let name = |name: &str, rest: &str| format!("{}{rest}", path(name).display());
    let swapfiles = [
        name("slow1", ",size=64M,tier=slow"),
        name("slow2", ",size=64M,tier=slow"),
        name("fast", ",size=1M,tier=fast,priority=7"),
    ];
    let ended = squeeze(&arguments(&image, "256K", &swapfiles));
    let report = ended.assert_code(0).report();
    let swap = &report["swap"];
    let [fast, slow1, slow2] = ["fast", "slow1", "slow2"].map(|name| device(swap, &path(name)));
    assert_eq!(swap["devices"][0]["tier"], "fast", "highest priority first");
    assert_eq!((&fast["priority"], &slow1["priority"], &slow2["priority"]), (&7.into(), &0.into(), &0.into()));
    assert!(of(fast, "used_bytes") * 100 > of(fast, "size_bytes") * 60, "the first is used first: {fast}");
    let [one, two] = [slow1, slow2].map(|row| of(row, "objects"));
    assert!(one > 500 && two > 500 && one.abs_diff(two) < (one + two) / 4, "they share the load: {one}, {two}");
    // Slots are names: those that hold a page are told, and nothing is told that could pass for room.
    assert_eq!((of(swap, "slots"), of(swap, "virtual_bytes")), (4000, 4000 * 4096));
    assert_eq!(of(swap, "physical_slots"), of(fast, "objects") + one + two);
    assert_eq!(of(swap, "physical_slots") + of(swap, "memory_slots"), 4000);
    ended.assert_said(&["NAME", "TIER", "PRIO", "STATE", "SIZE", "USED", "LIVE", "WRITTEN", "BAD"]);
    ended.assert_said(&["fast     7", "virtual", "memory", "physical", "metadata", "bytes a slot"]);
    for name in ["fast", "slow1", "slow2"] {
        assert!(!path(name).exists(), "what was made is removed");
    }
}

#[test]
fn a_tier_is_taken_off_and_every_page_is_read_from_elsewhere() {
    let (folder, image) = folder_with_image(4000);
    let [fast, slow] = ["fast", "slow"].map(|name| folder.path().join(name));
    let swapfiles = [format!("{},size=2M,tier=fast", fast.display()), format!("{},size=64M,tier=slow", slow.display())];
    for name in ["fast", fast.to_str().unwrap()] {
        let mut arguments = arguments(&image, "256K", &swapfiles);
        arguments.extend(["--swapoff", name]);
        let ended = squeeze(&arguments);
        let report = ended.assert_code(0).report();
        let swapoffs = report["swapoffs"].as_array().unwrap();
        assert_eq!(swapoffs.len(), 1);
        let (held, swapoff) = (of(device(&report["swap"], &fast), "objects"), &swapoffs[0]);
        assert_eq!((&swapoff["end"], of(swapoff, "left_objects")), (&"off".into(), 0));
        // Stores in the background are over, so nobody raced.
        assert!(held > 500 && of(swapoff, "moved_objects") == held, "{held} were there: {swapoff}");
        assert_eq!((sum(&report, "stored_pages"), sum(&report, "mismatched_pages")), (4000, 0));
        ended.assert_said(&["Swapoff of ", "it is off", "All 4000 stored pages came back identical"]);
    }
}

#[test]
fn without_room_elsewhere_a_swapfile_stays_and_its_pages_too() {
    let (folder, image) = folder_with_image(4000);
    let only = folder.path().join("only");
    let swapfiles = [format!("{},size=64M", only.display())];
    let mut arguments = arguments(&image, "256K", &swapfiles);
    arguments.extend(["--swapoff", "swap"]);
    let ended = squeeze(&arguments);
    let report = ended.assert_code(1).report();
    let why = report["swapoffs"][0]["end"]["failed"].as_str().unwrap();
    assert!(why.contains("no other device does (there is none)") && why.contains("raise the limit"), "{why}");
    assert!(of(&report["swapoffs"][0], "left_objects") > 3000);
    assert_eq!((sum(&report, "stored_pages"), sum(&report, "mismatched_pages")), (4000, 0));
    ended.assert_said(&["it is still on, with", "could not be taken off", "All 4000 stored pages came back identical"]);
}

#[test]
fn with_room_in_memory_the_last_swapfile_goes() {
    let (folder, image) = folder_with_image(1000);
    let only = folder.path().join("only");
    // The source may keep 64 KiB in the pool, so nearly all of it is written, and a swapoff would exceed the limit again.
    let swapfiles = [format!("{},size=64M", only.display())];
    let report = swap(&arguments(&image, "64M", &swapfiles)).assert_code(0).report();
    let swapoff = &report["swapoffs"][0];
    assert_eq!((of(swapoff, "moved_objects"), of(swapoff, "to_memory")), (1000, 1000));
    assert_eq!((of(&report["end"], "physical_slots"), of(&report["end"], "memory_slots")), (0, 1000));
    assert_eq!(report["end"]["devices"], Value::Array(vec![]));
}

#[test]
fn ctrl_c_cancels_the_swapoff_and_no_more() {
    let (folder, image) = folder_with_image(20_000);
    let [fast, slow] = ["fast", "slow"].map(|name| folder.path().join(name));
    let swapfiles =
        [format!("{},size=64M,tier=fast", fast.display()), format!("{},size=64M,tier=slow", slow.display())];
    let mut arguments = arguments(&image, "256K", &swapfiles);
    arguments.extend(["--swapoff", "fast"]);
    let (ended, report) = until_in_time(|| {
        let mut running = Running::start(&arguments);
        // All goes to the first, so that the second one is written to when the swapoff has begun.
        running.at_first_write(&slow, |running| running.signal(libc::SIGINT));
        let ended = running.finish();
        let report = ended.assert_code(0).report();
        (report["swapoffs"][0]["end"] == "cancelled").then_some((ended, report))
    });
    let swapoff = &report["swapoffs"][0];
    let (moved, left) = (of(swapoff, "moved_objects"), of(swapoff, "left_objects"));
    assert!(moved > 0 && left > 0, "{moved} moved, {left} left");
    assert_eq!((sum(&report, "stored_pages"), sum(&report, "mismatched_pages")), (20_000, 0));
    ended.assert_said(&["cancelled, with ", " left on it", "All 20000 stored pages came back identical"]);
    assert!(!fast.exists() && !slow.exists());
}

#[test]
fn what_lies_in_the_file_is_secret_unless_that_is_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    // Pages that do not shrink are stored as they are.
    let pages: Vec<_> = (0..2000).map(|k| page_of(Kind::Random, k)).collect();
    let image = image(folder.path(), "x", pages.iter().cloned());
    let path = folder.path().join("swap");
    let swapfiles = [format!("{},size=64M", path.display())];
    for secret in [true, false] {
        let mut arguments = arguments(&image, "256K", &swapfiles);
        if !secret {
            arguments.push("--no-encryption");
        }
        let mut found = 0;
        let mut running = Running::start(&arguments);
        running.at_first_write(&path, |_| {
            // Objects begin at multiples of 64 bytes, so every word of a page lies at the same offset of some block.
            let mut head = vec![0; 1 << 20];
            let read = File::open(&path).unwrap().read_at(&mut head, 0).unwrap();
            let words: HashSet<_> = head[..read].as_chunks::<8>().0.iter().collect();
            let is_there = |page: &&Page| page.as_chunks::<8>().0[..64].iter().all(|word| words.contains(word));
            found = pages.iter().filter(is_there).count();
        });
        running.finish().assert_code(0);
        assert_eq!(found > 0, !secret, "{found} pages are to be read in the file");
    }
}

#[test]
fn a_swapfile_may_have_no_name() {
    let (folder, image) = folder_with_image(2000);
    let hidden = folder.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    let swapfiles = [format!("{},size=64M,unnamed", hidden.display())];
    let mut seen = vec![];
    let mut running = Running::start(&arguments(&image, "256K", &swapfiles));
    while !running.has_ended() {
        seen.extend(fs::read_dir(&hidden).unwrap().map(|entry| entry.unwrap().file_name()));
    }
    let report = running.finish().assert_code(0).report();
    assert!(sum(&report, "written_back_pages") > 1000);
    assert_eq!(seen, [""; 0], "nobody sees it");
}

#[test]
fn a_swapfiles_path_may_have_any_bytes() {
    let (folder, image) = folder_with_image(1000);
    let path = folder.path().join(OsStr::from_bytes(b"a\xff b"));
    let spec = [path.as_os_str(), OsStr::new(",size=16M")].join(OsStr::new(""));
    let mut running = Running::start_with(&arguments(&image, "256K", &[]), |command| {
        command.arg("--swapfile").arg(&spec);
    });
    running.at_first_write(&path, |_| {});
    assert!(sum(&running.finish().assert_code(0).report(), "written_back_pages") > 100);
    let ended = Running::start_with(&arguments(&image, "64M", &[]), |command| {
        command.arg("--swapfile").arg(&spec).arg("--swapoff").arg(&path);
    });
    assert_eq!(ended.finish().assert_code(0).report()["swapoffs"][0]["end"], "off");
}

#[test]
fn swap_shows_tiers_cleans_and_takes_them_off_in_turn() {
    let (folder, image) = folder_with_image(4000);
    let [fast, slow] = ["fast", "slow"].map(|name| folder.path().join(name));
    let swapfiles = [format!("{},size=2M,tier=fast", fast.display()), format!("{},size=64M,tier=slow", slow.display())];
    let mut arguments = arguments(&image, "64M", &swapfiles);
    arguments.push("--free-half");
    let ended = swap(&arguments);
    let report = ended.assert_code(0).report();
    assert_eq!((of(&report, "stored_pages"), of(&report, "mismatched_pages")), (4000, 0));
    assert_eq!((of(&report["written"], "pages"), of(&report["filled"], "physical_slots")), (4000, 4000));
    let metadata = &report["filled"]["metadata"];
    // A word for each object on a device, and little else.
    let reverse = of(metadata, "reverse_bytes");
    assert!((8 * 4000..8 * 4100).contains(&reverse), "{reverse}");
    // Nothing is in the pool, so whole clusters need no links.
    let words = 4000u64.next_multiple_of(512) * 8;
    assert_eq!((of(metadata, "word_bytes"), of(metadata, "link_bytes")), (words, 0), "{metadata}");
    let cleaned = &report["cleaned"];
    assert_eq!(of(cleaned, "freed_pages"), 2000);
    assert!(of(cleaned, "used_bytes") * 100 <= of(cleaned, "live_bytes") * 125, "{cleaned}");
    assert!(of(cleaned, "freed_used_bytes") > of(cleaned, "used_bytes"), "{cleaned}");
    let swapoffs = report["swapoffs"].as_array().unwrap();
    assert!(swapoffs.iter().all(|swapoff| swapoff["end"] == "off") && swapoffs.len() == 2, "{swapoffs:?}");
    assert_eq!(swapoffs[0]["tier"], "fast");
    assert!(of(&swapoffs[0], "moved_objects") <= 2000 && of(&swapoffs[1], "moved_objects") <= 2000);
    ended.assert_said(&["Stored 4000 pages of 15.6M: x.", "bytes a page", "encrypted", "Freed 2000 at random"]);
    ended.assert_said(&["Every stored page came back identical"]);
}

#[test]
fn swap_without_a_swapfile_makes_two_that_nobody_sees() {
    let (_folder, image) = folder_with_image(500);
    let report = swap(&["--json", "-", "--image", image.to_str().unwrap()]).assert_code(0).report();
    let tiers: Vec<_> =
        report["filled"]["devices"].as_array().unwrap().iter().map(|row| row["tier"].as_str().unwrap()).collect();
    assert_eq!(tiers, ["first", "second"]);
    assert_eq!((of(&report, "stored_pages"), of(&report, "mismatched_pages")), (500, 0));
}

#[test]
fn bad_swapfiles_are_refused_with_a_sentence() {
    let (folder, image) = folder_with_image(10);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (a, b) = (path("a"), path("b"));
    let refused = |rest: &[&str], parts: &[&str]| {
        let mut arguments = vec!["--image", image.to_str().unwrap()];
        arguments.extend(rest);
        squeeze(&arguments).assert_refused(parts);
        assert!(!Path::new(&a).exists() && !Path::new(&b).exists(), "{rest:?}");
    };
    let with = |path: &str, rest: &str| format!("{path},{rest}");
    refused(&["--swapfile", &a], &["has no size", ",size=SIZE"]);
    refused(&["--swap-size", "16M"], &["--swap-size needs --swapfile PATH"]);
    refused(&["--no-encryption"], &["--no-encryption needs --swapfile PATH"]);
    refused(&["--swapoff", "fast"], &["--swapoff needs --swapfile PATH"]);
    refused(&["--swapfile", &a, "--swapfile", &a, "--swap-size", "16M"], &["twice", "its own path"]);
    refused(&["--swapfile", &with(&a, "size=16M"), "--swapoff", "fast"], &["--swapoff names \"fast\"", "swap, ", &a]);
    refused(
        &["--swapfile", &with(&a, "size=100K")],
        &["is too small", "it needs 528384, for its header and two segments"],
    );
    refused(
        &["--swapfile", &with(&a, "size=16M,tier=x,priority=1"), "--swapfile", &with(&b, "size=16M,tier=x,priority=2")],
        &["tier x has priority 1", "a tier has one priority"],
    );
    refused(
        &["--swapfile", &with(&a, "size=16M,tier=x,priority=1"), "--swapfile", &with(&b, "size=16M,tier=y,priority=1")],
        &["priority 1 is that of the tier x"],
    );
    refused(&["--swapfile", &with(&a, "size=16M,tier=a b")], &["cannot be the name of a tier"]);
    refused(&["--swapfile", &with(&a, "size=16M,unnamed")], &["does not exist"]);
    // Those that the parser of the command line refuses have its advice behind the sentence.
    let parse = |spec: &str, part: &str| {
        squeeze(&["--swapfile", spec]).assert_code(2).assert_said(&[part]);
    };
    parse(&with(&a, "sise=16M"), "\"sise\" is nothing a swapfile has");
    parse(&with(&a, "size=16M,size=1M"), "says again");
    parse(&with(&a, "size=x"), "is no size");
    parse(&with(&a, "size=16M,overwrite"), "is for block devices");
    parse(&with(&a, "unnamed,block"), "leave one of them out");
    parse(&with(&a, "priority=high"), "is no priority");
    parse(",size=16M", "names no file");
}
