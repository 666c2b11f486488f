//! The main job under limits, from end to end: three sources, a memcg each, a third and more of all pages on the swapfile, and
//! a report whose numbers add up.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;
mod support;

use program::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::{Kind, any_page, page_of};
use zspool::units::{PAGE_SIZE, Page};

const PAGES: [u64; 3] = [1500, 1200, 900];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Page `k` of an image.
fn page(source: usize, k: u64) -> Page {
    any_page((source as u64) << 32 | k)
}

fn images(folder: &Path) -> Vec<PathBuf> {
    let pages = |source: usize| (0..PAGES[source]).map(move |k| page(source, k));
    (0..3).map(|source| image(folder, NAMES[source], pages(source))).collect()
}

/// What the generator made of a source, by what becomes of it: pages kept in the slot, and pages of one word in all.
fn kinds(source: usize) -> (u64, u64) {
    let mut in_slot = 0;
    let mut same_filled = 0;
    for k in 0..PAGES[source] {
        let page = page(source, k);
        let words = page.as_chunks::<8>().0;
        if words.iter().all(|word| *word == words[0]) {
            same_filled += 1;
            in_slot += u64::from(u64::from_ne_bytes(words[0]) < 1 << 56);
        }
    }
    (in_slot, same_filled)
}

/// Everything in the report that must add up does.
fn check_sums(report: &Value) {
    let pool = &report["pool"];
    let classes = pool["classes"].as_array().unwrap();
    let over = |count: fn(&Value) -> u64| classes.iter().map(count).sum::<u64>();
    assert_eq!(sum(report, "mismatched_pages"), 0);
    assert_eq!(sum(report, "payload_bytes"), of(pool, "payload_bytes"));
    assert_eq!(sum(report, "original_bytes"), of(pool, "objects") * PAGE_SIZE as u64);
    assert_eq!(over(|class| of(class, "obj_used")), of(pool, "objects"));
    assert_eq!(over(|class| of(class, "obj_used") * of(class, "size")), sum(report, "slot_bytes"));
    assert!(over(|class| of(class, "pages_used")) * PAGE_SIZE as u64 <= of(pool, "frame_bytes"));
    for (index, source) in report["sources"].as_array().unwrap().iter().enumerate() {
        assert_eq!(source["name"], NAMES[index]);
        assert_eq!((of(source, "pages"), of(source, "stored_pages")), (PAGES[index], PAGES[index]));
        let (in_slot, same_filled) = kinds(index);
        assert_eq!(of(source, "same_filled_pages"), same_filled);
        // Every page is in its slot, in the pool, or on the swapfile.
        let in_pool = of(source, "original_bytes") / PAGE_SIZE as u64;
        assert_eq!(in_slot + in_pool + of(source, "written_back_pages"), PAGES[index], "{source}");
        assert!(of(source, "payload_bytes") <= of(source, "slot_bytes"));
        assert!(of(source, "written_back_bytes") <= of(source, "written_back_pages") * PAGE_SIZE as u64);
    }
}

#[test]
fn a_third_goes_to_the_swapfile_and_every_page_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let images = images(folder.path());
    let mut arguments = vec!["--json", "-"];
    arguments.extend(images.iter().flat_map(|image| ["--image", image.to_str().unwrap()]));

    // Without limits, to learn what there is to limit.
    let free = squeeze(&arguments).assert_code(0).report();
    check_sums(&free);
    assert_eq!(sum(&free, "written_back_pages"), 0);
    assert!(of(&free["sources"][0], "incompressible_pages") > 20);
    let (frames, metadata) = (of(&free["pool"], "frame_bytes"), of(&free["pool"], "metadata_bytes"));
    let growth = of(&free["process"], "rss_growth_bytes");
    // Codec contexts, thread stacks and tables of a fixed size come on top.
    let expected = frames + metadata;
    assert!((expected / 100 * 98..expected / 100 * 103 + (1 << 20)).contains(&growth), "{growth} for {expected}");

    let pool_limit = frames * 6 / 10;
    let quarter = of(&free["sources"][1], "slot_bytes") / 4;
    let swapfile = folder.path().join("swap");
    let [pool_limit_text, limit_text] = [pool_limit.to_string(), format!("b={quarter}")];
    arguments.extend(["--pool-limit", &pool_limit_text, "--memcg-limit", &limit_text]);
    arguments.extend(["--swapfile", swapfile.to_str().unwrap(), "--swap-size", "64M"]);
    for threads in ["1", "2", "7"] {
        let seeded = [&arguments[..], &["--threads", threads, "--seed", threads]].concat();
        let ended = squeeze(&seeded);
        let report = ended.assert_code(0).report();
        ended.assert_said(&["All 3600 stored pages came back identical"]);
        check_sums(&report);
        assert!(sum(&report, "written_back_pages") >= PAGES.iter().sum::<u64>() / 3, "{report}");
        assert!(of(&report["pool"], "frame_bytes") <= pool_limit);
        assert!(of(&report["sources"][1], "slot_bytes") <= quarter);
        assert!(of(&report["pool"], "swapfile_bytes") >= sum(&report, "written_back_bytes"));
        // At worst each went alone, and touches two pages of the swapfile.
        assert!(of(&report["pool"], "swapfile_bytes") <= sum(&report, "written_back_pages") * 2 * PAGE_SIZE as u64);
        for times in ["store_ns", "load_ns"] {
            let [p50, p99] = ["p50", "p99"].map(|p| of(&report[times], p));
            assert!(0 < p50 && p50 <= p99 && p99 < 10_000_000_000, "{}", report[times]);
        }
        assert!(!swapfile.exists(), "what was made is removed");
    }
}

#[test]
fn limits_of_nothing_and_one_byte_send_everything_to_the_swapfile() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "x", (0..300).map(any_page));
    let swapfile = folder.path().join("swap");
    for option in ["--pool-limit", "--memcg-limit"] {
        for limit in ["0", "1"] {
            let mut arguments = vec!["--json", "-", "--image", image.to_str().unwrap(), option, limit];
            arguments.extend(["--swapfile", swapfile.to_str().unwrap(), "--swap-size", "16M"]);
            let report = squeeze(&arguments).assert_code(0).report();
            assert_eq!((sum(&report, "stored_pages"), sum(&report, "mismatched_pages")), (300, 0), "{option} {limit}");
            assert!(sum(&report, "written_back_pages") > 200, "{option} {limit}");
            assert_eq!(of(&report["pool"], "objects"), 0, "{option} {limit}");
        }
    }
}

#[test]
fn one_page_and_pages_of_zeroes_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (count, kind) in [(1, Kind::Mixed(700)), (1, Kind::Random), (1, Kind::Zero), (500, Kind::Zero)] {
        let image = image(folder.path(), "x", (0..count).map(|k| page_of(kind, k)));
        let arguments = ["--json", "-", "--classes", "--stat", "--image", image.to_str().unwrap()];
        let ended = squeeze(&arguments);
        let report = ended.assert_code(0).report();
        assert_eq!(sum(&report, "stored_pages"), count);
        assert_eq!(of(&report["pool"], "objects"), u64::from(kind != Kind::Zero));
        let plural = if count == 1 { "The one stored page" } else { "All 500 stored pages" };
        ended.assert_said(&[plural, "came back identical"]);
    }
}
