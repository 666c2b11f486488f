//! Policies against each other, on traces of accesses: a VM without a kernel, and faults counted.
//!
//! ```text
//!   trace (zipf, scan + hot set, loop) --> touch --> in place: nothing | staged: back | stored: refault | nowhere: first touch
//!                                                                 memory for `room` pages; 64 go, oldest staged are stored
//! ```
//!
//! Everything is deterministic: the policies are the real code, epochs and stamps as well; the limit counts pages, and what is stored takes
//! no room, so that numbers are of the policies alone. MIN (Belady, 1966) is what an oracle would fault: no policy can do better, with or
//! without staging.

use super::super::epochs::Epochs;
use super::super::evictable::Clocked;
use super::*;
use crate::guest::pages::outcomes::Staged;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Pages of the VM.
const PAGES: u32 = 8192;
/// Accesses of a trace.
const ACCESSES: usize = 400_000;
/// What is staged ahead.
const AHEAD: usize = 64;

#[derive(Clone, Copy, Default)]
struct Word {
    /// 0 nowhere, 1 in place, 2 staged, 3 stored.
    at: u8,
    look: Look,
}

struct State {
    words: Vec<Word>,
    queue: VecDeque<u32>,
    memory: usize,
    written: Vec<bool>,
}

struct Vm {
    state: RefCell<State>,
    epochs: Epochs,
    hand: RefCell<u32>,
    room: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    staged: usize,
    stored: usize,
}

impl Clocked for Vm {
    fn pages(&self) -> u32 {
        PAGES
    }
    fn look(&self, page: u32) -> Look {
        let word = self.state.borrow().words[page as usize];
        Look { takeable: word.at == 1, ..word.look }
    }
    fn spend_chance(&self, page: u32) {
        self.state.borrow_mut().words[page as usize].look.referenced = false;
    }
    fn give_chance(&self, page: u32) {
        let word = &mut self.state.borrow_mut().words[page as usize];
        word.look.referenced |= word.at == 1;
    }
    fn spend_ban(&self, page: u32) {
        let look = &mut self.state.borrow_mut().words[page as usize].look;
        look.ban = look.ban.saturating_sub(1);
    }
    fn restamp(&self, page: u32, from: u8, to: u8) {
        let look = &mut self.state.borrow_mut().words[page as usize].look;
        if look.stamp == from {
            look.stamp = to;
        }
    }
    fn stage(&self, first: u32, pages: u32) -> Staged {
        let mut state = self.state.borrow_mut();
        let stamp = self.epochs.stamp();
        let mut staged = 0;
        for page in first..first + pages {
            let word = &mut state.words[page as usize];
            if word.at == 1 {
                (word.at, word.look.stamp) = (2, stamp);
                state.queue.push_back(page);
                staged += 1;
            }
        }
        self.epochs.evicted(staged.into(), state.memory as u64, 0);
        Staged { pages: staged, ..Staged::default() }
    }
    fn written(&self, each: &mut dyn FnMut(std::ops::Range<u32>)) -> bool {
        let written = std::mem::replace(&mut self.state.borrow_mut().written, vec![false; PAGES as usize]);
        (0..PAGES).filter(|&page| written[page as usize]).for_each(|page| each(page..page + 1));
        true
    }
}

impl Vm {
    /// As `Limits::stage` does, for one region.
    fn stage_run(&self, policy: &dyn Policy, want: u32) {
        let mut staged = 0;
        for _ in 0..12 {
            let mut view = View::new(self, *self.hand.borrow(), want - staged, u32::MAX);
            policy.victims(&mut view);
            staged += view.staged().pages;
            let at = view.at();
            *self.hand.borrow_mut() = if at == PAGES { 0 } else { at };
            if staged >= want {
                break;
            }
        }
    }

    fn make_room(&self, policy: &dyn Policy) {
        while self.state.borrow().memory >= self.room {
            if self.state.borrow().queue.len() <= AHEAD {
                self.stage_run(policy, 64);
            }
            let mut state = self.state.borrow_mut();
            let page = state.queue.pop_front().expect("something can be staged");
            state.words[page as usize].at = 3;
            state.memory -= 1;
        }
    }

    fn touch(&self, policy: &dyn Policy, page: u32, write: bool, faults: &mut Faults) {
        let word = self.state.borrow().words[page as usize];
        self.state.borrow_mut().written[page as usize] |= write;
        let resident = self.state.borrow().memory as u64;
        let back = |from| policy.on_back(&Back { from, distance: self.epochs.distance(word.look.stamp), resident });
        let treatment = match word.at {
            1 => return,
            2 => {
                faults.staged += 1;
                self.state.borrow_mut().queue.retain(|&staged| staged != page);
                back(CameFrom::Staged)
            }
            _ => {
                self.make_room(policy);
                self.state.borrow_mut().memory += 1;
                faults.stored += usize::from(word.at == 3);
                if word.at == 3 { back(CameFrom::Stored) } else { Treatment::default() }
            }
        };
        let look =
            Look { takeable: true, referenced: treatment.referenced, ban: treatment.ban, stamp: self.epochs.stamp() };
        self.state.borrow_mut().words[page as usize] = Word { at: 1, look };
    }
}

fn run(policy: &dyn Policy, trace: &[(u32, bool)], room: usize) -> Faults {
    let words = vec![Word::default(); PAGES as usize];
    let written = vec![false; PAGES as usize];
    let state = State { words, queue: VecDeque::new(), memory: 0, written };
    let vm = Vm { state: RefCell::new(state), epochs: Epochs::new(0), hand: RefCell::new(0), room };
    let mut faults = Faults::default();
    for (k, &(page, write)) in trace.iter().enumerate() {
        vm.touch(policy, page, write, &mut faults);
        if k % 4096 == 0 {
            policy.on_scan(&mut View::new(&vm, 0, 0, 0));
        }
    }
    faults
}

/// What an oracle would fault on pages that had left: the one goes whose next use is farthest.
fn min(trace: &[(u32, bool)], room: usize) -> usize {
    let mut next = vec![usize::MAX; trace.len()];
    let mut last: HashMap<u32, usize> = HashMap::new();
    for (k, &(page, _)) in trace.iter().enumerate().rev() {
        next[k] = last.insert(page, k).unwrap_or(usize::MAX);
    }
    let (mut there, mut uses) = (HashMap::new(), BTreeSet::new());
    let (mut seen, mut faults) = (std::collections::HashSet::new(), 0);
    for (k, &(page, _)) in trace.iter().enumerate() {
        match there.insert(page, next[k]) {
            Some(old) => _ = uses.remove(&(old, page)),
            None => {
                faults += usize::from(!seen.insert(page));
                if uses.len() == room {
                    let (_, gone) = uses.pop_last().expect("room for one at least");
                    there.remove(&gone);
                }
            }
        }
        uses.insert((next[k], page));
    }
    faults
}

struct Source(u64);

impl Source {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }
    fn below(&mut self, n: u64) -> u32 {
        ((self.next() * n) >> 32) as u32
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Every page by 1/rank; ranks lie all over the memory in groups of 8 pages.
fn zipf() -> Vec<(u32, bool)> {
    let mut source = Source(1);
    let mut sums: Vec<f64> = (1..=PAGES).map(|rank| 1.0 / f64::from(rank)).collect();
    (1..sums.len()).for_each(|k| sums[k] += sums[k - 1]);
    let all = sums[sums.len() - 1];
    let place = |rank: u32| (rank / 8 * 797 % (PAGES / 8)) * 8 + rank % 8; // 797 has no factor in common with the groups
    let access = |_| {
        let at = source.next() as f64 / 4_294_967_296.0 * all;
        (place(sums.partition_point(|&sum| sum < at) as u32), source.one_in(3))
    };
    (0..ACCESSES).map(access).collect()
}

/// Nine of ten accesses to a hot eighth, the tenth goes on in a scan over everything.
fn scan() -> Vec<(u32, bool)> {
    let mut source = Source(2);
    let mut at = 0;
    let access = |_| {
        if source.one_in(10) {
            at = (at + 1) % PAGES;
            (at, false)
        } else {
            (source.below(u64::from(PAGES) / 8) * 8 % PAGES + source.below(2), source.one_in(2))
        }
    };
    (0..ACCESSES).map(access).collect()
}

/// Round and round, through more than there is room for.
fn round() -> Vec<(u32, bool)> {
    (0..ACCESSES).map(|k| (k as u32 % (PAGES * 5 / 8), k % 2 == 0)).collect()
}

/// A hot set that moves on.
fn phases() -> Vec<(u32, bool)> {
    let mut source = Source(3);
    let access = |k: usize| {
        let base = (k / 50_000) as u32 * PAGES / 8;
        let span = if source.one_in(8) { u64::from(PAGES) } else { 2000 };
        ((base + source.below(span)) % PAGES, source.one_in(3))
    };
    (0..ACCESSES).map(access).collect()
}

fn table() -> Vec<(&'static str, usize, Vec<Faults>)> {
    let policies: [&dyn Policy; 4] = [&StagedFifo, &PlainFifo, &Random::seeded(7), &WrittenAges];
    let room = PAGES as usize / 2;
    [("zipf", zipf()), ("scan + hot set", scan()), ("loop of 5/8", round()), ("hot set that moves", phases())]
        .map(|(name, trace)| (name, min(&trace, room), policies.map(|policy| run(policy, &trace, room)).to_vec()))
        .to_vec()
}

/// `cargo test --features guest --lib policies_side_by_side -- --nocapture` prints the table of docs/benchmarks.md.
#[test]
fn policies_side_by_side() {
    let table = table();
    println!("| trace | MIN | staged-fifo | plain-fifo | random | written-ages |\n|---|---|---|---|---|---|");
    for (name, min, faults) in &table {
        let cells = faults.iter().map(|faults| format!(" {} + {} |", faults.stored, faults.staged));
        println!("| {name} | {min} |{}", cells.collect::<String>());
    }
    for (name, min, faults) in &table {
        let [staged, plain, random, written] = [0, 1, 2, 3].map(|k| faults[k].stored);
        assert!(faults.iter().all(|faults| faults.stored >= *min), "{name}: better than an oracle");
        assert!(written <= staged + staged / 20, "{name}: {written} {staged}");
        // A loop is what no recency helps with.
        assert!(staged <= plain && (staged <= random || *name == "loop of 5/8"), "{name}: {staged} {plain} {random}");
    }
}
