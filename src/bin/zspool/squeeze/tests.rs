//! The run against a model of the store, one that can refuse, lose and spoil pages on cue.

use super::report::Report;
use super::squeeze;
use crate::cli::{Cli, Verb};
use crate::error::RunError;
use crate::target::{ClassRow, GroupStats, Live, Moved, PoolStats, Settings, Target, Trouble};
use crate::tiers::report::Swap;
use clap::Parser;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use zspool::sync::{Mutex, Rank};
use zspool::units::{PAGE_SIZE, Slot, SlotRange};

/// Pages as they are in a map.
struct Model {
    state: Mutex<State>,
    faults: Faults,
}

#[derive(Default)]
struct State {
    pages: HashMap<Slot, (usize, Box<[u8; PAGE_SIZE]>)>,
    groups: Vec<(String, Option<u64>)>,
    reserved: u64,
    most: usize,
    /// Slots in the order they were loaded.
    loaded: Vec<Slot>,
}

/// What goes wrong.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Pages the store takes, then it is full.
    room: Option<usize>,
    /// Flip a bit of this slot's page when it is loaded.
    spoil: Option<Slot>,
    /// Fail to load this slot's page.
    lose: Option<Slot>,
    /// Keep this slot's page when it is freed.
    leak: Option<Slot>,
}

fn stats(pages: usize) -> GroupStats {
    let bytes = (pages * PAGE_SIZE) as u64;
    GroupStats { original_bytes: bytes, payload_bytes: bytes, slot_bytes: bytes, ..GroupStats::default() }
}

impl Target for &Model {
    type Group = usize;

    fn mkdir(&self, name: &str) -> Result<usize, Trouble> {
        let groups = &mut self.state.lock().groups;
        groups.push((name.to_owned(), None));
        Ok(groups.len() - 1)
    }
    fn set_limit(&self, group: &usize, bytes: u64) -> Result<(), Trouble> {
        self.state.lock().groups[*group].1 = Some(bytes);
        Ok(())
    }
    fn reserve(&self, pages: u64) -> Result<SlotRange, Trouble> {
        let mut state = self.state.lock();
        let range = SlotRange::new(Slot(state.reserved), pages);
        state.reserved += pages;
        Ok(range)
    }
    fn store(&self, slot: Slot, group: &usize, page: &[u8; PAGE_SIZE]) -> Result<(), Trouble> {
        let mut state = self.state.lock();
        if self.faults.room.is_some_and(|room| state.pages.len() >= room) {
            return Err("The model is full.".into());
        }
        assert!(state.pages.insert(slot, (*group, Box::new(*page))).is_none(), "{slot:?} was stored twice");
        state.most = state.most.max(state.pages.len());
        Ok(())
    }
    fn load(&self, slot: Slot, page: &mut [u8; PAGE_SIZE]) -> Result<(), Trouble> {
        let mut state = self.state.lock();
        state.loaded.push(slot);
        if self.faults.lose == Some(slot) {
            return Err("The block is corrupt.".into());
        }
        *page = *state.pages[&slot].1;
        if self.faults.spoil == Some(slot) {
            page[4095] ^= 1;
        }
        Ok(())
    }
    fn free(&self, slot: Slot) -> Result<(), Trouble> {
        if self.faults.leak != Some(slot) {
            self.state.lock().pages.remove(&slot).expect("only stored pages are freed, once");
        }
        Ok(())
    }
    fn settle(&self) {}
    fn group(&self, group: &usize) -> Option<GroupStats> {
        Some(stats(self.state.lock().pages.values().filter(|(owner, _)| owner == group).count()))
    }
    fn all_groups(&self) -> GroupStats {
        stats(self.state.lock().pages.len())
    }
    fn stat(&self, group: &usize) -> String {
        self.state.lock().groups[*group].0.clone()
    }
    fn pool(&self) -> PoolStats {
        let objects = self.state.lock().pages.len() as u64;
        PoolStats { objects, payload_bytes: objects * PAGE_SIZE as u64, ..PoolStats::default() }
    }
    fn classes(&self) -> Vec<ClassRow> {
        vec![]
    }
    fn swap(&self) -> Swap {
        Swap::default()
    }
    fn swapoff(&self, _: u8, _: &(dyn Fn(u64) -> bool + Sync)) -> Moved {
        unreachable!("a model has no devices")
    }
    fn mount(&self, _: &Path) -> Result<Box<dyn Live>, Trouble> {
        Err("A model has no files".into())
    }
}

/// An image of `pages` pages, of which every third is zero, and the others differ.
fn image(pages: u32) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::with_prefix("image").unwrap();
    for n in 0..pages {
        let word = if n % 3 == 0 { 0 } else { n };
        let mut page: Vec<u8> = word.to_le_bytes().repeat(PAGE_SIZE / 4);
        // A page with one odd byte is no longer same-filled.
        page[17] ^= (n % 3 == 1) as u8;
        file.write_all(&page).unwrap();
    }
    file
}

/// Squeeze images of so many pages into a model with these faults.
fn run(images: &[u32], options: &[&str], faults: Faults) -> (Result<Report, RunError>, State) {
    let files: Vec<_> = images.iter().map(|&pages| image(pages)).collect();
    let mut line = vec!["zspool".to_owned(), "squeeze".into()];
    line.extend(files.iter().flat_map(|file| ["--image".into(), file.path().to_str().unwrap().to_owned()]));
    line.extend(options.iter().map(|&option| option.to_owned()));
    let Verb::Squeeze(args) = Cli::parse_from(line).verb else { panic!("it is a squeeze") };
    let model = Model { state: Mutex::new(Rank::Leaf, State::default()), faults };
    let report = squeeze(&args, |_: &Settings| Ok(&model));
    let state = std::mem::take(&mut *model.state.lock());
    (report, state)
}

#[test]
fn every_page_goes_in_and_comes_out() {
    for threads in ["1", "2", "5"] {
        let (report, state) = run(&[300, 1, 77], &["--threads", threads], Faults::default());
        let report = report.unwrap();
        assert!(report.is_good());
        assert_eq!(report.sources.iter().map(|s| s.pages).collect::<Vec<_>>(), [300, 1, 77]);
        assert_eq!(report.sources.iter().map(|s| s.stored_pages).collect::<Vec<_>>(), [300, 1, 77]);
        assert_eq!(report.sources[0].same_filled_pages, 200);
        assert_eq!(report.sources[2].memcg.unwrap().original_bytes, 77 * 4096);
        assert_eq!((state.most, state.loaded.len(), state.pages.len()), (378, 378, 0));
        assert!(report.store_ns.p50 > 0 && report.load_ns.p99 >= report.load_ns.p50);
    }
}

#[test]
fn the_seed_decides_the_order_of_the_read_back() {
    let order = |seed| run(&[500], &["--threads", "1", "--seed", seed], Faults::default()).1.loaded;
    assert_eq!(order("1"), order("1"));
    assert_ne!(order("1"), order("2"));
    assert!(!order("1").is_sorted());
}

#[test]
fn a_page_that_differs_is_found_and_named() {
    let faults = Faults { spoil: Some(Slot(123)), ..Faults::default() };
    let report = run(&[100, 50], &[], faults).0.unwrap();
    assert!(!report.is_good());
    assert_eq!(report.sources.iter().map(|s| s.mismatched_pages).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(report.failures.len(), 1);
    assert_eq!(
        (report.failures[0].page, &report.failures[0].source),
        (Some(23), &Some(report.sources[1].name.clone()))
    );
}

#[test]
fn a_page_that_does_not_come_back_is_found_and_named() {
    let faults = Faults { lose: Some(Slot(7)), ..Faults::default() };
    let report = run(&[100], &[], faults).0.unwrap();
    assert!(!report.is_good());
    assert_eq!((report.sources[0].mismatched_pages, report.sources[0].unreadable_pages), (1, 1));
    assert_eq!(report.failures[0].what, "did not come back: The block is corrupt.");
}

#[test]
fn pages_that_find_no_room_are_counted_and_are_no_mismatch() {
    let faults = Faults { room: Some(40), ..Faults::default() };
    let (report, state) = run(&[100], &[], faults);
    let report = report.unwrap();
    assert!(report.is_good());
    let source = &report.sources[0];
    assert_eq!((source.pages, source.stored_pages, source.refused_pages), (100, 40, 60));
    assert_eq!(source.refusal.as_deref(), Some("The model is full."));
    assert_eq!(state.loaded.len(), 40);
}

#[test]
fn what_is_left_after_everything_was_freed_is_a_failure() {
    let faults = Faults { leak: Some(Slot(3)), ..Faults::default() };
    let report = run(&[10], &[], faults).0.unwrap();
    assert!(!report.is_good());
    let said: Vec<_> = report.failures.iter().map(|failure| failure.what.as_str()).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("1 objects with 4096 bytes, and 0 bytes of the swapfile, were left"), "{said:?}");
    assert!(said[1].starts_with("4096 bytes were left charged to image"), "{said:?}");
}

#[test]
fn max_pages_is_shared_in_the_order_of_the_sources() {
    let (report, state) = run(&[100, 50, 20], &["--max-pages", "120"], Faults::default());
    assert_eq!(report.unwrap().sources.iter().map(|s| s.pages).collect::<Vec<_>>(), [100, 20]);
    assert_eq!(state.groups.len(), 2);
}

#[test]
fn limits_reach_the_memcgs_they_name() {
    let (report, state) = run(&[5, 5], &["--memcg-limit", "1M"], Faults::default());
    report.unwrap();
    assert_eq!(state.groups.iter().map(|(_, limit)| *limit).collect::<Vec<_>>(), [Some(1 << 20); 2]);
    let (report, _) = run(&[5], &["--memcg-limit", "nobody=1M"], Faults::default());
    assert!(matches!(report, Err(RunError::UnknownSource { .. })));
}

#[test]
fn a_command_is_squeezed_with_the_others_and_ended() {
    let options = ["--after", "0.2", "--", "sleep", "1000"];
    let report = run(&[5], &options, Faults::default()).0.unwrap();
    assert!(report.is_good());
    assert_eq!(report.sources[1].name, "sleep");
    assert!(report.sources[1].pages > 10);
}
