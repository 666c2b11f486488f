//! [`Run`]s, and lists of them without an allocator: the links lie in a table beside the runs.
//!
//! ```text
//! links of run r    | warm: prev | warm: next | free: prev | free: next |     one lane per list it can be in
//! link              0 in no list    1 end of the list    run + 2
//! ```
//!
//! Everything here changes under the arena lock, which orders it: the atomics are Relaxed.

use crate::sync::Table;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::units::Frame;
use std::io;

/// Number of a run: frames `run * run_frames ..` of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u32);

const ABSENT: u32 = 0;
const END: u32 = 1;

fn link_to(run: Option<Run>) -> u32 {
    run.map_or(END, |run| run.0 + 2)
}

fn linked(link: u32) -> Option<Run> {
    debug_assert_ne!(link, ABSENT, "a link of a run that is in no list");
    (link > END).then(|| Run(link - 2))
}

/// Which pair of links a list uses; a run can be in one list of each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Runs with warm frames, oldest first.
    Warm = 0,
    /// Free runs.
    Free = 2,
}

/// Ends of a list of runs; the links are in [`Runs`].
#[derive(Debug)]
pub(super) struct List {
    lane: Lane,
    head: Option<Run>,
    tail: Option<Run>,
    len: usize,
}

impl List {
    /// No runs.
    pub(super) fn new(lane: Lane) -> Self {
        List { lane, head: None, tail: None, len: 0 }
    }

    /// The first run.
    pub(super) fn head(&self) -> Option<Run> {
        self.head
    }

    /// Number of runs.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Links and warm frames of every run.
#[derive(Debug)]
pub(super) struct Runs {
    links: Table<[AtomicU32; 4]>,
    /// Bit k: frame k of the run is Warm.
    warm: Table<AtomicU64>,
}

impl Runs {
    /// All in no list and without warm frames.
    pub(super) fn reserve(count: usize) -> io::Result<Self> {
        Ok(Runs { links: Table::reserve(count)?, warm: Table::reserve(count)? })
    }

    /// Runs there are.
    pub(super) fn count(&self) -> usize {
        self.warm.capacity()
    }

    /// The run's warm frames, a bit each.
    pub(super) fn warm(&self, run: Run) -> u64 {
        self.warm.get(run.0 as usize).load(Ordering::Relaxed)
    }

    /// Note the run's warm frames.
    pub(super) fn set_warm(&self, run: Run, mask: u64) {
        self.warm.get(run.0 as usize).store(mask, Ordering::Relaxed);
    }

    fn prev(&self, run: Run, lane: Lane) -> &AtomicU32 {
        &self.links.get(run.0 as usize)[lane as usize]
    }

    fn next(&self, run: Run, lane: Lane) -> &AtomicU32 {
        &self.links.get(run.0 as usize)[lane as usize + 1]
    }

    /// Whether the run is in a list of this lane.
    pub(super) fn is_listed(&self, run: Run, lane: Lane) -> bool {
        self.next(run, lane).load(Ordering::Relaxed) != ABSENT
    }

    /// The run after this one of a list.
    pub(super) fn after(&self, run: Run, lane: Lane) -> Option<Run> {
        linked(self.next(run, lane).load(Ordering::Relaxed))
    }

    /// Put a run in front.
    pub(super) fn push_front(&self, list: &mut List, run: Run) {
        self.insert(list, None, list.head, run);
    }

    /// Put a run at the end.
    pub(super) fn push_back(&self, list: &mut List, run: Run) {
        self.insert(list, list.tail, None, run);
    }

    fn insert(&self, list: &mut List, before: Option<Run>, after: Option<Run>, run: Run) {
        debug_assert!(!self.is_listed(run, list.lane), "{run:?} is in a list already");
        self.prev(run, list.lane).store(link_to(before), Ordering::Relaxed);
        self.next(run, list.lane).store(link_to(after), Ordering::Relaxed);
        self.join(list, before, Some(run));
        self.join(list, Some(run), after);
        list.len += 1;
    }

    /// Take a run out.
    pub(super) fn remove(&self, list: &mut List, run: Run) {
        let before = linked(self.prev(run, list.lane).swap(ABSENT, Ordering::Relaxed));
        let after = linked(self.next(run, list.lane).swap(ABSENT, Ordering::Relaxed));
        self.join(list, before, after);
        list.len -= 1;
    }

    /// Make two runs, or an end and a run, neighbours.
    fn join(&self, list: &mut List, before: Option<Run>, after: Option<Run>) {
        match before {
            Some(run) => self.next(run, list.lane).store(link_to(after), Ordering::Relaxed),
            None => list.head = after,
        }
        match after {
            Some(run) => self.prev(run, list.lane).store(link_to(before), Ordering::Relaxed),
            None => list.tail = before,
        }
    }

    /// Check that the list's links agree in both directions, calling `visit` for each run.
    pub(super) fn assert_list(&self, list: &List, mut visit: impl FnMut(Run)) {
        let (mut before, mut at, mut seen) = (None, list.head, 0);
        while let Some(run) = at {
            assert!(self.is_listed(run, list.lane), "{run:?} of a list knows of none");
            let prev = linked(self.prev(run, list.lane).load(Ordering::Relaxed));
            assert_eq!(prev, before, "{run:?} of a list names its neighbour wrongly");
            visit(run);
            (before, at, seen) = (at, self.after(run, list.lane), seen + 1);
            assert!(seen <= list.len, "a list of {} runs does not end", list.len);
        }
        assert_eq!(list.tail, before, "a list's tail is not its last run");
        assert_eq!(list.len, seen, "a list does not know its length");
    }
}

/// The frames of a run that `mask` has bits for, in order.
pub(super) fn frames_in(mask: u64, first: Frame) -> impl Iterator<Item = Frame> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let bit = (left != 0).then(|| left.trailing_zeros())?;
        left &= left - 1;
        Some(Frame(first.0 + bit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn contents(runs: &Runs, list: &List) -> Vec<u32> {
        let mut seen = Vec::new();
        runs.assert_list(list, |run| seen.push(run.0));
        seen
    }

    #[test]
    fn a_run_can_be_in_one_list_of_each_lane() {
        let runs = Runs::reserve(4).unwrap();
        let (mut warm, mut free) = (List::new(Lane::Warm), List::new(Lane::Free));
        runs.push_back(&mut warm, Run(0));
        runs.push_back(&mut warm, Run(3));
        runs.push_front(&mut free, Run(3));
        runs.push_front(&mut free, Run(1));
        runs.remove(&mut warm, Run(3));
        assert_eq!((contents(&runs, &warm), contents(&runs, &free)), (vec![0], vec![1, 3]));
        assert!(runs.is_listed(Run(3), Lane::Free) && !runs.is_listed(Run(3), Lane::Warm));
    }

    #[test]
    fn frames_of_a_mask_come_in_order() {
        let frames: Vec<u32> = frames_in(1 | 1 << 5 | 1 << 63, Frame(64)).map(|f| f.0).collect();
        assert_eq!(frames, [64, 69, 127]);
        assert_eq!(frames_in(0, Frame(0)).count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_list_does_what_a_deque_does(ops in prop::collection::vec((0u8..3, 0u32..8), 0..60)) {
            let runs = Runs::reserve(8).unwrap();
            let mut list = List::new(Lane::Warm);
            let mut model = VecDeque::new();
            for (op, run) in ops {
                match (op, model.iter().position(|&r| r == run)) {
                    (0, None) => { runs.push_front(&mut list, Run(run)); model.push_front(run); }
                    (1, None) => { runs.push_back(&mut list, Run(run)); model.push_back(run); }
                    (2, Some(at)) => { runs.remove(&mut list, Run(run)); model.remove(at); }
                    _ => {}
                }
                prop_assert_eq!(contents(&runs, &list), model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
