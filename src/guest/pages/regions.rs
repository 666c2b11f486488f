//! [`Regions`]: the regions of a VM, and the runs of their pages that are staged, in the order in which they were.
//!
//! ```text
//!   regions   by address  [ 3: 0x7f00.. | 1: 0x7f40.. | 4: ... ]
//!   runs      oldest  ->  [ 3: 128..192 | 3: 192..256 | 1: 7..9 ]  <- newest
//!                          compressed next
//! ```
//!
//! A run says what was staged once: pages that came back are passed over when it is their turn. Its lock is held for a few loads
//! and stores: never while the kernel is asked, a page is compressed, or guest memory is touched; the queue never grows.

use super::owned::TOGETHER;
use super::pages::Pages;
use crate::sync::{Arc, Mutex, Rank};
use std::collections::VecDeque;

/// Runs there is room for: of full ones 1 GiB of pages, and an evictor that is at most so far behind.
const RUNS: usize = if cfg!(loom) { 8 } else { 4096 };

/// Runs that a single call to take pages out can make: every other page.
const RUNS_OF_A_CALL: usize = if cfg!(loom) { 2 } else { TOGETHER as usize };

/// The regions of a VM, and what is staged of them.
pub(crate) struct Regions {
    inner: Mutex<Inner>,
}

struct Inner {
    regions: Vec<Arc<Pages>>,
    next_id: u32,
    runs: VecDeque<Run>,
    reserved: usize,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    region: u32,
    first: u32,
    len: u32,
}

/// Room in the queue for what one call stages.
pub(crate) struct Room<'a> {
    of: &'a Regions,
}

impl Regions {
    /// No regions.
    pub(crate) fn new() -> Self {
        let inner = Inner { regions: Vec::new(), next_id: 0, runs: VecDeque::with_capacity(RUNS), reserved: 0 };
        Regions { inner: Mutex::new(Rank::Guest, inner) }
    }

    /// A number for a region: no other has it, or will.
    pub(crate) fn next_id(&self) -> u32 {
        let mut inner = self.inner.lock();
        inner.next_id += 1;
        inner.next_id
    }

    /// A region joins.
    pub(crate) fn add(&self, pages: Arc<Pages>) {
        let mut inner = self.inner.lock();
        let at = inner.regions.partition_point(|other| other.addresses().start < pages.addresses().start);
        inner.regions.insert(at, pages);
    }

    /// A region leaves, with what is staged of it.
    pub(crate) fn remove(&self, id: u32) {
        let mut inner = self.inner.lock();
        inner.regions.retain(|pages| pages.id() != id);
        inner.runs.retain(|run| run.region != id);
    }

    /// The region with at least this place in the order of addresses. No allocation.
    pub(crate) fn nth(&self, n: usize) -> Option<Arc<Pages>> {
        self.inner.lock().regions.get(n).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Pages>> {
        self.inner.lock().regions.clone()
    }

    /// Room for what a call stages; `None` where the evictor is too far behind.
    pub(crate) fn room(&self) -> Option<Room<'_>> {
        let mut inner = self.inner.lock();
        (inner.runs.len() + inner.reserved + RUNS_OF_A_CALL <= RUNS).then(|| {
            inner.reserved += RUNS_OF_A_CALL;
            Room { of: self }
        })
    }

    /// A page is staged again because nothing came of bringing it in, or of compressing it. Where there is no room it waits for a call
    /// about its region, or for its next touch.
    pub(crate) fn push_again(&self, region: u32, first: u32, len: u32) {
        let mut inner = self.inner.lock();
        if inner.runs.len() + inner.reserved < RUNS {
            inner.runs.push_back(Run { region, first, len });
        }
    }

    /// The oldest staged pages, at most `most`: first and number.
    pub(crate) fn pop(&self, most: u32) -> Option<(Arc<Pages>, u32, u32)> {
        let mut inner = self.inner.lock();
        loop {
            let run = inner.runs.pop_front()?;
            let Some(pages) = inner.regions.iter().find(|pages| pages.id() == run.region).cloned() else { continue };
            let taken = run.len.min(most);
            if taken < run.len {
                inner.runs.push_front(Run { first: run.first + taken, len: run.len - taken, ..run });
            }
            return Some((pages, run.first, taken));
        }
    }
}

impl Room<'_> {
    /// These pages are staged.
    pub(crate) fn push(&mut self, region: u32, first: u32, len: u32) {
        self.of.inner.lock().runs.push_back(Run { region, first, len });
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.of.inner.lock().reserved -= RUNS_OF_A_CALL;
    }
}
