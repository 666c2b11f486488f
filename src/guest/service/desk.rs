//! [`Desk`]: what a reader of events needs of those whose events they are: a VM, a child of fork, a model.

use super::answers::Answer;
use super::gate::{Closed, Gate};
use super::reader::Parking;
use super::source::Source;
use super::wards::Ward;
use crate::guest::uffd::Fault;
use std::ops::Range;

/// What the kernel says about mappings.
#[derive(Debug)]
pub(crate) enum Change {
    /// Pages are dropped by `madvise`: they are to read as zeroes.
    Removed(Range<usize>),
    /// A range was unmapped.
    Unmapped(Range<usize>),
    /// A range was moved by `mremap`, with its pages and its registration.
    Moved {
        /// From this address.
        from: usize,
        /// To this one.
        to: usize,
        /// So many bytes.
        bytes: usize,
    },
    /// The process forked: this serves the child's memory.
    Forked(Ward),
}

/// Whose events a reader reads: what it needs of a VM.
pub(crate) trait Desk {
    /// Where they come from.
    fn source(&self) -> &dyn Source;
    /// The gate, where mappings change behind our back or several threads read.
    fn gate(&self) -> Option<&Gate>;
    /// Serve a fault.
    fn answer(&self, fault: Fault) -> Answer;
    /// Have words follow a change, or hand it on to who does, with what it has closed. False: later. Must not allocate where another thread of this
    /// process may fork.
    fn follow(&self, change: &mut Option<Change>, closed: &mut [Option<Closed>; 2]) -> bool;
    /// A fault of an address that no region has. False: again later.
    fn stranger(&self, fault: Fault) -> bool;
    /// How many of its readers have something parked.
    fn parking(&self) -> &Parking;
    /// Where a page is, in words.
    fn state(&self, address: usize) -> &'static str;
}
