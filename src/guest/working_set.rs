//! [`WorkingSet`]: the pages that a guest touched between two moments, to be brought in before it touches them again.
//!
//! ```text
//!   record_working_set   everything is taken out
//!        |               what the guest touches comes back, and may leave again at a limit
//!   finish               what is in memory now, and what left since  -->  WorkingSet  <-->  text
//!        |
//!   (it sleeps: evict_all)
//!        |
//!   replay               brought in, in runs, as far as limits have room
//! ```
//!
//! Neighbours that came along with a page ([`FaultAround`](super::FaultAround)) are in the set: who wants pages alone turns that off. Pages
//! that cannot leave are in it as well.

use super::pages::bits::State;
use super::pages::{Pages, left};
use super::{Prefetched, Vm};
use crate::units::PAGE_SIZE;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Pages of a guest, by address: that which the guest sees where a region was registered with one
/// ([`Memory::guest_address`](super::memory::Memory::guest_address)), else the host's. With guest addresses a set is good for
/// another run of the same guest.
///
/// As text: a line for each run, `0x1000-0x5000`, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Ascending, without overlap, whole pages.
    runs: Vec<Range<u64>>,
}

/// A recording that goes on: see [`Vm::record_working_set`].
#[must_use = "a recording says nothing until it is finished"]
#[derive(Debug)]
pub struct Recording {
    vm: Vm,
}

/// A text that is no [`WorkingSet`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} of the working set, `{text}`, is not a run of pages after the one before: write `0x1000-0x5000`, in hexadecimal \
     multiples of 4096, in ascending order"
)]
pub struct BadWorkingSet {
    /// From 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

// === impl Vm ===

impl Vm {
    /// Take everything out that can leave, and have what is touched from here on recorded. One recording at a time: a second one begins
    /// anew for both.
    pub fn record_working_set(&self) -> Recording {
        self.evict_all();
        for pages in self.shared().regions.all() {
            if let Some(visited) = pages.visited() {
                visited.take(&mut bits_of(&pages)); // what left until now
            }
        }
        Recording { vm: self.clone() }
    }

    /// The pages that are in memory now.
    pub fn in_memory(&self) -> WorkingSet {
        self.gather(in_memory)
    }

    /// Bring the pages of a set in that are out, as far as limits have room. Addresses that this VM has not are passed over.
    pub fn replay(&self, set: &WorkingSet) -> Prefetched {
        let mut brought = Prefetched::default();
        for pages in self.shared().regions.all() {
            let here = seen_at(&pages);
            let first = set.runs.partition_point(|run| run.end <= here.start);
            for run in set.runs[first..].iter().take_while(|run| run.start < here.end) {
                let page = |address: u64| ((address - here.start) / PAGE_SIZE as u64) as u32;
                let run = page(run.start.max(here.start))..page(run.end.min(here.end));
                let one = pages.prefetch(run);
                brought.pages += one.pages;
                brought.left += one.left;
            }
        }
        brought
    }

    fn gather(&self, each: impl Fn(&Pages, &mut [u64])) -> WorkingSet {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for pages in self.shared().regions.all() {
            let mut bits = bits_of(&pages);
            each(&pages, &mut bits);
            let here = seen_at(&pages);
            let at = |page: u32| here.start + u64::from(page) * PAGE_SIZE as u64;
            left::runs(&bits, |run| runs.push(at(run.start)..at(run.end)));
        }
        WorkingSet::of(runs)
    }
}

/// A bit for each page.
fn bits_of(pages: &Pages) -> Vec<u64> {
    vec![0; pages.count().div_ceil(u64::BITS) as usize]
}

/// The addresses that a set has for the pages of a region.
fn seen_at(pages: &Pages) -> Range<u64> {
    let start = pages.guest_address().unwrap_or(pages.addresses().start as u64);
    start..start + pages.addresses().len() as u64
}

fn in_memory(pages: &Pages, bits: &mut [u64]) {
    for page in 0..pages.count() {
        if matches!(pages.word(page).load().state(), State::Resident | State::Filling | State::Leaving) {
            left::set(bits, page..page + 1);
        }
    }
}

// === impl Recording ===

impl Recording {
    /// The pages that came back since it began.
    pub fn finish(self) -> WorkingSet {
        // What leaves between the two is in the second.
        self.vm.gather(|pages, bits| {
            in_memory(pages, bits);
            if let Some(visited) = pages.visited() {
                visited.take(bits);
            }
        })
    }
}

// === impl WorkingSet ===

impl WorkingSet {
    fn of(mut runs: Vec<Range<u64>>) -> WorkingSet {
        runs.sort_by_key(|run| run.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(runs.len());
        for run in runs {
            match joined.last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => joined.push(run),
            }
        }
        WorkingSet { runs: joined }
    }

    /// Its runs of addresses, ascending.
    pub fn runs(&self) -> &[Range<u64>] {
        &self.runs
    }

    /// How many pages.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| (run.end - run.start) / PAGE_SIZE as u64).sum()
    }

    /// The pages of this and another.
    #[must_use]
    pub fn with(mut self, other: &WorkingSet) -> WorkingSet {
        self.runs.extend_from_slice(&other.runs);
        WorkingSet::of(self.runs)
    }
}

impl fmt::Display for WorkingSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.runs.iter().try_for_each(|run| writeln!(f, "{:#x}-{:#x}", run.start, run.end))
    }
}

impl FromStr for WorkingSet {
    type Err = BadWorkingSet;

    fn from_str(text: &str) -> Result<WorkingSet, BadWorkingSet> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let number = |text: &str| {
            let number = u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()?;
            (number % PAGE_SIZE as u64 == 0).then_some(number)
        };
        for (k, line) in text.lines().enumerate() {
            let run = line.split_once('-').and_then(|(start, end)| Some(number(start)?..number(end)?));
            match run {
                Some(run) if run.start < run.end && runs.last().is_none_or(|last| last.end <= run.start) => {
                    runs.push(run)
                }
                _ => return Err(BadWorkingSet { line: k + 1, text: line.into() }),
            }
        }
        Ok(WorkingSet::of(runs))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let set = WorkingSet::of(vec![0x5000..0x6000, 0..0x1000, 0x1000..0x3000, 0x5000..0x9000]);
        assert_eq!(set.runs(), [0..0x3000, 0x5000..0x9000]);
        assert_eq!(set.pages(), 7);
        assert_eq!(set.to_string(), "0x0-0x3000\n0x5000-0x9000\n");
        assert_eq!(set.to_string().parse(), Ok(set.clone()));
        assert_eq!("".parse(), Ok(WorkingSet::default()));
        assert_eq!(set.clone().with(&"0x3000-0x5000".parse().unwrap()).runs(), std::slice::from_ref(&(0..0x9000)));
    }

    #[test]
    fn a_bad_text_is_refused_by_its_line() {
        for (line, text) in [
            (1, "0x1000"),
            (1, "1000-2000"),
            (2, "0x1000-0x2000\n0x1000-0x3000"),
            (1, "0x1001-0x2000"),
            (1, "0x2000-0x2000"),
            (2, "0x0-0x1000\n\n0x1000-0x2000"),
            (1, "0x1000-0x10000000000000000"),
        ] {
            let bad = WorkingSet::from_str(text).unwrap_err();
            assert_eq!(bad.line, line, "{text:?}");
            assert!(bad.to_string().contains(text.lines().nth(line - 1).unwrap_or("")), "{bad}");
        }
    }
}
