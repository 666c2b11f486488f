//! [`Seeded`]: who goes on, from a seed.
//!
//! | kind | who goes on | finds |
//! |---|---|---|
//! | uniform | anybody who can | what needs many switches |
//! | bursts | who ran last, but once in so many steps | what needs few, anywhere |
//! | priorities | who is first of those who can; at a few steps the one who runs becomes the last (PCT: Burckhardt et al., ASPLOS 2010) | what needs one thread held up for long |
//!
//! Each decision goes into a hash: the trace. `SIM_SHOW_FROM=n` prints where each thread is from step n on.

use crate::Random;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What a schedule came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Hash of all decisions, and of what was noted between them.
    pub hash: u64,
    /// Decisions.
    pub steps: u64,
}

impl Trace {
    /// One thing more.
    pub fn note(&mut self, what: u64) {
        self.hash = (self.hash.rotate_left(5) ^ what).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// A scheduler for one execution.
#[derive(Debug)]
pub struct Seeded {
    random: Random,
    kind: Kind,
    trace: Arc<Mutex<Trace>>,
    begun: bool,
    /// Where each thread is, is printed from this step on.
    shown_from: Option<u64>,
}

#[derive(Debug)]
enum Kind {
    Uniform,
    /// One switch in so many steps.
    Bursts(u64),
    Priorities {
        of: BTreeMap<usize, u64>,
        /// Steps at which the one who runs becomes the last.
        changes: Vec<u64>,
        last: u64,
    },
}

/// Steps within which priorities change: a little more than most executions have.
const CHANGES_WITHIN: u32 = 18;

/// Once in so many steps anybody goes on: two who wake each other again and again would let nobody else.
const STRAY: u64 = 500;

impl Seeded {
    /// The schedule of this seed.
    pub fn new(seed: u64, trace: Arc<Mutex<Trace>>) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let kind = match random.below(4) {
            0 => Kind::Uniform,
            1 | 2 => Kind::Bursts(2 << random.below(6)),
            _ => {
                let changes = 1 + random.below(6);
                // As many among the first steps as among all.
                let mut step = || {
                    let within = 1 << random.from(6..u64::from(CHANGES_WITHIN));
                    random.below(within)
                };
                let changes = (0..changes).map(|_| step()).collect();
                Kind::Priorities { of: BTreeMap::new(), changes, last: u64::MAX / 2 }
            }
        };
        let shown_from = std::env::var("SIM_SHOW_FROM").ok().and_then(|step| step.parse().ok());
        Seeded { random, kind, trace, begun: false, shown_from }
    }

    fn choose(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool, step: u64) -> TaskId {
        let random = &mut self.random;
        match &mut self.kind {
            Kind::Uniform => runnable[random.index(runnable.len())].id(),
            Kind::Bursts(length) => {
                let goes_on = !yields && !random.one_in(*length);
                let same = current.filter(|&current| goes_on && runnable.iter().any(|task| task.id() == current));
                same.unwrap_or_else(|| runnable[random.index(runnable.len())].id())
            }
            Kind::Priorities { of, changes, last } => {
                for task in runnable {
                    of.entry(task.id().into()).or_insert_with(|| u64::MAX / 2 + 1 + random.word() / 2);
                }
                if let Some(current) = current
                    && (yields || changes.contains(&step))
                {
                    *last -= 1;
                    of.insert(current.into(), *last);
                }
                if random.one_in(STRAY) {
                    return runnable[random.index(runnable.len())].id();
                }
                let first = runnable.iter().max_by_key(|task| of[&task.id().into()]);
                first.expect("somebody can go on").id()
            }
        }
    }
}

/// Print where the current thread is: the scheduler runs on its stack.
fn show(current: Option<TaskId>, runnable: &[&Task]) {
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    let ours = trace.lines().filter(|line| line.contains("at ./src/") || line.contains("at ./sim-tests/src/"));
    let places: Vec<_> = ours.map(|line| line.trim().trim_start_matches("at ./")).skip(1).take(10).collect();
    eprintln!("{current:?} of {} that can go on: {}", runnable.len(), places.join(" < "));
}

impl Scheduler for Seeded {
    fn new_execution(&mut self) -> Option<Schedule> {
        let first = !std::mem::replace(&mut self.begun, true);
        first.then(|| Schedule::new(0))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let trace = Arc::clone(&self.trace);
        let mut trace = trace.lock().expect("nobody panics under it");
        if self.shown_from.is_some_and(|from| trace.steps >= from) {
            show(current, runnable);
        }
        let next = self.choose(runnable, current, yields, trace.steps);
        trace.steps += 1;
        let id: usize = next.into();
        trace.note(id as u64);
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        self.random.word()
    }
}
