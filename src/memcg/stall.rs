//! Time that threads lost because memory was short, in the format of the kernel's pressure stall information.
//!
//! ```text
//! thread 1   ......[=== waits for room ===]..................
//! thread 2   ..............[=== reads a device ===]..........
//! some       ......|------------------------------|..........    at least one is stalled
//! full       ..............|--------------|..................    as many as there are tasks (2 were set)
//!
//! some avg10=1.20 avg60=0.30 avg300=0.06 total=36000             percent of the last 10, 60 and 300 seconds; microseconds
//! full avg10=0.40 avg60=0.10 avg300=0.02 total=12000
//! ```
//!
//! A stall is counted in the memcg and in every ancestor there is. Who stalls: a store that waits for room, a load that reads a
//! device, a charge that reclaims. Nobody can tell how many threads a memcg has, so `full` stays 0 until the embedder says it
//! ([`Memcg::set_tasks`]).
//!
//! An average is what the share of time spent stalled decays to with a time constant of 10, 60 or 300 s. Between two changes
//! the share is 0 or 1, so it is brought up to date exactly, when something changes or somebody reads; the kernel does it every
//! two seconds, which differs by what happened since.

use super::handle::Memcg;
use super::id::{GroupRef, ObjcgId};
use super::tree::Tree;
use crate::sync::{Bug, Record, now};
use std::fmt;
use std::time::{Duration, Instant};

/// Time constants of the averages, in seconds.
const WINDOWS: [u16; 3] = [10, 60, 300];

/// One line of `memory.pressure`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StallLine {
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
    /// All stalled time.
    pub total: Duration,
}

/// What `memory.pressure` says. Its text is the file's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StallTimes {
    /// While at least one thread was stalled.
    pub some: StallLine,
    /// While as many were as there are tasks.
    pub full: StallLine,
}

/// A thread is stalled until this is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it is no stall"]
pub struct Stalled {
    memcg: Memcg,
}

/// What one group knows.
#[derive(Debug, Default)]
pub(super) struct Stalls(Record<State>);

#[derive(Debug, Default)]
struct State {
    /// Threads that are stalled.
    stalled: u32,
    /// Threads that there are, 0 if nobody said.
    tasks: u32,
    /// When `times` were brought up to date; none if they are all 0.
    until: Option<Instant>,
    times: StallTimes,
}

// === impl State ===

impl State {
    /// Bring the times up to date, before anything changes.
    fn fold(&mut self, now: Instant) {
        let time = self.until.map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let some = self.stalled > 0;
        let full = self.tasks > 0 && self.stalled >= self.tasks;
        // With the first stall it begins to matter.
        self.until = (self.until.is_some() || some).then_some(now);
        if time.is_zero() {
            return;
        }
        let decay = WINDOWS.map(|seconds| (-time.as_secs_f64() / f64::from(seconds)).exp());
        for (line, stalled) in [(&mut self.times.some, some), (&mut self.times.full, full)] {
            for (average, decay) in line.averages.iter_mut().zip(decay) {
                *average = *average * decay + if stalled { 100.0 * (1.0 - decay) } else { 0.0 };
            }
            line.total += if stalled { time } else { Duration::ZERO };
        }
    }

    fn begin(&mut self, now: Instant) {
        self.fold(now);
        self.stalled += 1;
        self.until = Some(now);
    }

    fn end(&mut self, now: Instant) {
        assert!(self.stalled > 0, "a stall ends where none has begun");
        self.fold(now);
        self.stalled -= 1;
    }
}

impl Stalls {
    /// Another memcg's life begins.
    pub(super) fn reset(&self) {
        self.0.with(|state| *state = State::default());
    }
}

impl Tree {
    /// [`Memcg::stall`] of the memcg that an objcg points to, whose reference the caller holds.
    ///
    /// # Locks
    /// Leaves.
    pub fn stall(&self, id: ObjcgId) -> Stalled {
        loop {
            // A group that cannot be held was removed, and the objcg points elsewhere.
            if let Some(memcg) = self.get(self.group_of(id)) {
                return Stalled::begin(memcg);
            }
        }
    }
}

impl Memcg {
    /// This thread is stalled for want of this memcg's memory, until the guard is dropped. Neither allocates nor waits, but for
    /// a leaf lock a level.
    ///
    /// # Locks
    /// Leaves.
    pub fn stall(&self) -> Stalled {
        Stalled::begin(self.clone())
    }

    /// The parent of a group that is held, with a reference to it. When it was removed as well, so that what is charged there
    /// is others' by now, the root.
    fn above(&self, at: GroupRef) -> GroupRef {
        let parent = self.shared().group(at.index()).parent();
        if self.shared().config.planted.is(Bug::StallHoldsNothing) {
            return parent;
        }
        if self.shared().group(parent.index()).hold(parent.generation()) {
            return parent;
        }
        self.shared().group(GroupRef::ROOT.index()).hold_more();
        GroupRef::ROOT
    }

    /// How many threads it has, so that a stall of all is known; 0 (nobody knows) at first.
    ///
    /// # Locks
    /// A leaf.
    pub fn set_tasks(&self, tasks: u32) {
        let now = now();
        self.shared().stalls(self.index()).0.with(|state| {
            state.fold(now);
            state.tasks = tasks;
        });
    }

    /// What its `memory.pressure` says.
    ///
    /// # Locks
    /// A leaf.
    pub fn stall_times(&self) -> StallTimes {
        let now = now();
        self.shared().stalls(self.index()).0.with(|state| {
            state.fold(now);
            state.times
        })
    }
}

impl Stalled {
    fn begin(memcg: Memcg) -> Self {
        let now = now();
        let mut at = memcg.group();
        loop {
            memcg.shared().stalls(at.index()).0.with(|state| state.begin(now));
            if at.depth() == 0 {
                return Stalled { memcg };
            }
            at = memcg.above(at);
        }
    }

    /// Drop a reference that [`Memcg::above`] took.
    fn release(&self, at: GroupRef) {
        let shared = self.memcg.shared();
        if !shared.config.planted.is(Bug::StallHoldsNothing) {
            shared.release_group(at.index());
        }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let (memcg, now) = (&self.memcg, now());
        let mut at = memcg.group();
        loop {
            memcg.shared().stalls(at.index()).0.with(|state| state.end(now));
            // The same way up: whom `begin` has held is there still, and whom it could not hold nobody can.
            let above = (at.depth() > 0).then(|| memcg.above(at));
            if at != memcg.group() {
                self.release(at); // what `begin` has held
            }
            let Some(above) = above else { return };
            self.release(above); // what `above` has held just now
            at = above;
        }
    }
}

impl fmt::Display for StallTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, StallLine { averages: [ten, sixty, three_hundred], total }) in
            [("some", self.some), ("full", self.full)]
        {
            let total = total.as_micros();
            writeln!(f, "{name} avg10={ten:.2} avg60={sixty:.2} avg300={three_hundred:.2} total={total}")?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Tree, TreeConfig};
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn some_and_full_are_the_times_of_one_and_of_all() {
        let (mut state, start) = (State::default(), Instant::now());
        state.tasks = 2;
        state.begin(start);
        state.begin(start + ms(300));
        state.end(start + ms(400)); // the first
        state.end(start + ms(1000));
        state.fold(start + ms(5000));
        assert_eq!((state.times.some.total, state.times.full.total), (ms(1000), ms(100)));
        state.tasks = 0;
        state.begin(start + ms(6000));
        state.fold(start + ms(7000));
        assert_eq!(state.times.full.total, ms(100), "without tasks nobody knows whether all are stalled");
    }

    #[test]
    fn averages_approach_the_share_of_time_and_decay() {
        // Stalled a quarter of each 100 ms, for ten minutes.
        let (mut state, start) = (State::default(), Instant::now());
        for k in 0..6000 {
            state.begin(start + ms(100 * k));
            state.end(start + ms(100 * k + 25));
        }
        state.fold(start + ms(600_000));
        let StallLine { averages: [ten, sixty, most], total } = state.times.some;
        assert_eq!(total, ms(150_000));
        let share = 25.0 * (1.0 - (-600.0f64 / 300.0).exp());
        assert!((ten - 25.0).abs() < 0.2 && (sixty - 25.0).abs() < 0.05 && (most - share).abs() < 0.05, "{state:?}");
        // However often it is looked at, and when it was idle for long before the look.
        let before = state.times.some.averages;
        state.fold(start + ms(610_000));
        for (before, now) in before
            .into_iter()
            .zip(state.times.some.averages)
            .zip(WINDOWS)
            .map(|((a, b), w)| (a * (-10.0 / f64::from(w)).exp(), b))
        {
            assert!((before - now).abs() < 1e-9);
        }
    }

    #[test]
    fn the_file_is_in_the_kernels_format() {
        let times = StallTimes {
            some: StallLine { averages: [1.0, 99.999, 0.004], total: Duration::from_nanos(36_000_999) },
            full: StallLine::default(),
        };
        let text =
            "some avg10=1.00 avg60=100.00 avg300=0.00 total=36000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(times.to_string(), text);
    }

    #[test]
    fn a_stall_counts_in_every_ancestor_and_holds_none_afterwards() {
        let tree = Tree::new(TreeConfig::default());
        let root = tree.root();
        let tenant = root.mkdir("tenant").unwrap();
        let [vm, other] = ["vm", "other"].map(|name| tenant.mkdir(name).unwrap());
        tenant.set_tasks(1);
        drop(tree.stall(other.objcg().unwrap().id()));
        assert!(!other.stall_times().some.total.is_zero() && vm.stall_times().some.total.is_zero());
        let stalled = vm.stall();
        std::thread::sleep(ms(2));
        // Removed meanwhile, both of them, and their places taken.
        other.offline().unwrap();
        vm.offline().unwrap();
        let vm_times = vm.stall_times();
        drop(vm);
        tenant.offline().unwrap();
        let tenant_index = tenant.index();
        drop((tenant, other));
        let new = root.mkdir("new").unwrap();
        assert_ne!(new.index(), tenant_index, "the stall keeps its index");
        drop(stalled);
        assert!(vm_times.some.total >= ms(2) && vm_times.full.total.is_zero());
        assert!(root.stall_times().some.total >= ms(2));
        assert_eq!(new.stall_times(), StallTimes::default());
        drop(new);
        let census = tree.census();
        assert_eq!((census.online, census.groups), (2, 2), "a stall left a reference");
    }

    #[test]
    fn a_stall_of_one_removed_with_its_parent_counts_at_the_root() {
        let tree = Tree::new(TreeConfig::default());
        let root = tree.root();
        let tenant = root.mkdir("tenant").unwrap();
        let vm = tenant.mkdir("vm").unwrap();
        vm.offline().unwrap();
        tenant.offline().unwrap();
        drop(tenant);
        let new = root.mkdir("new").unwrap(); // at the tenant's index
        let stalled = vm.stall();
        std::thread::sleep(ms(1));
        drop(stalled);
        assert!(root.stall_times().some.total >= ms(1));
        assert!(root.stall_times().full.total.is_zero());
        assert_eq!(new.stall_times(), StallTimes::default());
        drop((vm, new));
        assert_eq!(tree.census().groups, 2, "a stall left a reference");
    }

    #[test]
    fn where_all_tasks_are_stalled_the_stall_is_full() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        vm.set_tasks(1);
        let stalled = vm.stall();
        std::thread::sleep(ms(2));
        drop(stalled);
        let times = vm.stall_times();
        assert!(times.full.total >= ms(2) && times.full == times.some);
        assert!(tree.root().stall_times().full.total.is_zero(), "how many the root has, nobody said");
    }
}
