//! Limits at three levels of the tree at once, with threads at them all the time.
//!
//! - No limit is passed at any instant: neither a sampler nor the peaks, which every charge raises, show more.
//! - No page is refused that fits. With a device nothing is refused at all; without one, threads whose shares fill every limit to
//!   the byte never are, and one page more is.
//! - What was stored is what comes back, and at the end every counter is exactly 0.
//!
//! `ZSPOOL_LIMITS_SECONDS` is how long each part runs: 2 unless set, 60 in `.ci/deep limits`.

#[path = "support/cgroup.rs"]
#[allow(dead_code, unreachable_pub)]
mod cgroup;
#[path = "support/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod client;

use cgroup::*;
use client::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zspool::memcg::{Counter, Memcg, MemcgEvent};
use zspool::units::{NodeId, Page};
use zspool::zswap::{self, Stored};

const N0: NodeId = NodeId(0);
const THREADS: usize = 8;
/// How much longer a part may take until it has seen what it waits for.
const PATIENCE: Duration = Duration::from_secs(30);

fn duration() -> Duration {
    let seconds = std::env::var("ZSPOOL_LIMITS_SECONDS").map_or(2, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// Three levels below the case's memcg, which is the first: two below it, two below each of those.
struct Levels([Vec<Memcg>; 3]);

impl Levels {
    fn new(top: &Memcg) -> Levels {
        let below = |memcgs: &[Memcg]| {
            let make = |memcg: &Memcg| ["a", "b"].map(|name| memcg.mkdir(name).unwrap());
            memcgs.iter().flat_map(make).collect::<Vec<_>>()
        };
        let middle = below(std::slice::from_ref(top));
        let leaves = below(&middle);
        Levels([vec![top.clone()], middle, leaves])
    }

    fn set_max(&self, counter: Counter, limits: [&[u64]; 3]) {
        for (memcgs, limits) in self.0.iter().zip(limits) {
            memcgs.iter().zip(limits).for_each(|(memcg, &limit)| set(memcg, counter.max_file(), limit));
        }
    }

    fn all(&self) -> impl Iterator<Item = &Memcg> {
        self.0.iter().flatten()
    }

    /// Two threads share a leaf.
    fn leaf(&self, thread: usize) -> &Memcg {
        &self.0[2][thread / 2]
    }

    fn assert_within(&self, counter: Counter) {
        for memcg in self.all() {
            let (usage, limit) = (memcg.current(counter), memcg.max(counter));
            assert!(usage <= limit, "{usage} of {limit} in {}", memcg.path());
        }
    }

    /// Whether a limit of each level has refused something.
    fn were_reached(&self) -> bool {
        self.0.iter().all(|memcgs| memcgs.iter().any(|memcg| memcg.local_events(MemcgEvent::Max) > 0))
    }

    /// That every level mattered, and that none was ever passed.
    fn assert_were_reached(&self, counter: Counter) {
        assert!(self.were_reached(), "no limit of some level was ever reached");
        for memcg in self.all() {
            let (peak, limit) = (memcg.peak(counter), memcg.max(counter));
            assert!(peak <= limit, "{peak} of {limit} at some time in {}", memcg.path());
        }
    }
}

/// Run `work` in every thread for as long as was asked for, and longer on a slow machine: until `is_enough`. Look at the
/// limits all the while.
fn run(levels: &Levels, counter: Counter, is_enough: impl Fn() -> bool, work: impl Fn(usize, &AtomicBool) + Sync) {
    let (stop, mut samples) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (work, stop) = (&work, &stop);
            scope.spawn(move || {
                let _others = StopOnPanic(stop);
                work(thread, stop);
            });
        }
        let _threads = StopOnPanic(&stop);
        let end = Instant::now() + duration();
        let is_over =
            |samples| Instant::now() > end && (samples > 100 && is_enough() || Instant::now() > end + PATIENCE);
        while !stop.load(Ordering::Relaxed) && !is_over(samples) {
            levels.assert_within(counter);
            samples += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(samples > 100, "the sampler ran");
}

/// Whoever panics ends the others, who would else run for ever.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Pages of many sizes, and how far a slot of a thread was written: what it holds can be made again.
struct Pages(Vec<Pattern>);

impl Pages {
    fn new() -> Pages {
        Pages((0..24).map(|k| Pattern::new(150 + k * 130)).collect())
    }

    fn page(&self, number: usize) -> Page {
        self.0[number * 7 % self.0.len()].page(number)
    }
}

#[test]
fn stores_at_three_limits_pass_none_and_none_is_refused() {
    const SLOTS: usize = 512;
    let case = Case::new("stores_at_three_limits");
    let levels = Levels::new(&case.memcg);
    // Less at every level than those below it may have: each is what keeps somebody back.
    let leaves = [256 << 10, 512 << 10, 384 << 10, 1024 << 10];
    levels.set_max(Counter::Zswap, [&[1400 << 10], &[600 << 10, 1000 << 10], &leaves]);
    let slots = case.zswap.reserve((THREADS * SLOTS) as u64).unwrap();
    let pages = Pages::new();
    run(
        &levels,
        Counter::Zswap,
        || levels.were_reached(),
        |thread, stop| {
            let slot = |k: usize| slots.get((thread * SLOTS + k) as u64).unwrap();
            let mut held = vec![None; SLOTS];
            let mut back = Page::zeroed();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let k = (number * 31 + number / SLOTS) % SLOTS;
                match number % 8 {
                    5 => {
                        assert_eq!(case.zswap.free(slot(k)), held[k].take().is_some());
                    }
                    6 => {
                        if let Some(number) = held[k] {
                            case.zswap.load(slot(k), &mut back).unwrap();
                            assert!(back[..] == pages.page(number)[..], "page {number} of thread {thread}");
                        }
                    }
                    _ => {
                        let number = number * THREADS + thread;
                        case.zswap.store(slot(k), levels.leaf(thread), N0, &pages.page(number)).unwrap();
                        held[k] = Some(number);
                    }
                }
            }
            for (k, number) in held.into_iter().enumerate().filter_map(|(k, number)| Some((k, number?))) {
                case.zswap.load(slot(k), &mut back).unwrap();
                assert!(back[..] == pages.page(number)[..], "page {number} of thread {thread}");
                case.zswap.free(slot(k));
            }
        },
    );
    levels.assert_were_reached(Counter::Zswap);
    assert_eq!(case.zswap.stats().refused, 0);
    assert!(stat(&case.memcg, "zswpwb") > 0);
    drop(levels);
    case.end();
}

#[test]
fn clients_at_three_limits_pass_none_and_none_is_refused() {
    let case = Case::new("clients_at_three_limits");
    let levels = Levels::new(&case.memcg);
    let leaves = [512 << 10, 1024 << 10, 768 << 10, 2048 << 10];
    levels.set_max(Counter::Memory, [&[2800 << 10], &[1200 << 10, 2000 << 10], &leaves]);
    // Two clients in a leaf, and each is reclaimed from for all that hit a limit above it.
    let clients: Vec<Client> =
        (0..THREADS).map(|thread| Client::new(&case.zswap, levels.leaf(thread), 400).unwrap()).collect();
    let pages = Pages::new();
    run(
        &levels,
        Counter::Memory,
        || levels.were_reached(),
        |thread, stop| {
            let client = &clients[thread];
            let mut held = vec![None; client.len()];
            for step in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let k = (step * 31 + step / client.len()) % client.len();
                if let Some(number) = held[k] {
                    assert!(client.read(k).unwrap()[..] == pages.page(number)[..], "page {number} of thread {thread}");
                }
                if step % 2 == 0 {
                    let number = step * THREADS + thread;
                    client.write(k, &pages.page(number)).unwrap();
                    held[k] = Some(number);
                }
            }
        },
    );
    levels.assert_were_reached(Counter::Memory);
    assert_eq!(levels.all().map(|memcg| memcg.local_events(MemcgEvent::Oom)).sum::<u64>(), 0);
    drop((clients, levels));
    case.end();
}

#[test]
fn places_at_three_swap_limits_pass_none() {
    const SLOTS: usize = 256;
    let case = Case::new("places_at_three_swap_limits");
    let levels = Levels::new(&case.memcg);
    let leaves = [128 << 10, 256 << 10, 192 << 10, 512 << 10];
    levels.set_max(Counter::Swap, [&[700 << 10], &[300 << 10, 500 << 10], &leaves]);
    let slots = case.zswap.reserve((THREADS * SLOTS) as u64).unwrap();
    let pages = Pages::new();
    // Who may not write is told; whose limit it was shows in what it came to: less than a page is left of one of each level.
    let were_reached = || {
        let is_full = |memcg: &Memcg| memcg.peak(Counter::Swap) + 4096 > memcg.max(Counter::Swap);
        levels.0.iter().all(|memcgs| memcgs.iter().any(is_full))
    };
    run(&levels, Counter::Swap, were_reached, |thread, stop| {
        let slot = |k: usize| slots.get((thread * SLOTS + k) as u64).unwrap();
        let mut back = Page::zeroed();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let k = (number * 31 + number / SLOTS) % SLOTS;
            let page = pages.page(number * THREADS + thread);
            case.zswap.store(slot(k), levels.leaf(thread), N0, &page).unwrap();
            if number % 8 == 7 {
                let _ = case.zswap.shrink_memcg(levels.leaf(thread), 16);
            }
            case.zswap.load(slot(k), &mut back).unwrap();
            assert!(back[..] == page[..], "page {number} of thread {thread}");
        }
        (0..SLOTS).for_each(|k| _ = case.zswap.free(slot(k)));
    });
    assert!(were_reached(), "no limit of some level was ever reached");
    assert!(levels.0[2].iter().all(|leaf| leaf.local_events(MemcgEvent::SwapMax) > 0));
    for memcg in levels.all() {
        let (peak, limit) = (memcg.peak(Counter::Swap), memcg.max(Counter::Swap));
        assert!(peak > 0 && peak <= limit, "{peak} of {limit} at some time in {}", memcg.path());
    }
    drop(levels);
    case.end();
}

#[test]
fn no_page_is_refused_that_fits() {
    /// What each thread has room for. So much that threads charge ahead when there is room: what they have in stock then is
    /// needed by the others of the leaf when there is none.
    const SHARE: usize = 1500;
    let case = Case::new("no_page_is_refused_that_fits");
    let levels = Levels::new(&case.memcg);
    // Nothing may leave: a limit that is reached is a refusal.
    set(&case.memcg, "memory.zswap.writeback", 0);
    let slots = case.zswap.reserve((THREADS * (SHARE + 1)) as u64).unwrap();
    let pattern = Pattern::new(700);
    let probe = case.zswap.store(slots.base(), &case.memcg, N0, &pattern.page(0)).unwrap();
    let Stored::Compressed { slot_bytes, .. } = probe else { panic!("{probe:?}") };
    case.zswap.free(slots.base());
    let share = (SHARE * slot_bytes) as u64;
    levels.set_max(Counter::Zswap, [&[8 * share], &[4 * share; 2], &[2 * share; 4]]);
    let slot = |thread: usize, k: usize| slots.get((thread * (SHARE + 1) + k) as u64).unwrap();
    let store = |thread: usize, k: usize| {
        case.zswap.store(slot(thread, k), levels.leaf(thread), N0, &pattern.page(k)).map(drop)
    };
    run(
        &levels,
        Counter::Zswap,
        || true,
        |thread, stop| {
            let mut random = thread as u64 + 1;
            let mut held = 0;
            while !stop.load(Ordering::Relaxed) {
                // Up to the share, most of the time close to it; nearly all of it given back now and then.
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let least = if random >> 62 == 0 { 1 } else { SHARE - (random >> 32) as usize % 20 };
                (held..SHARE).for_each(|k| store(thread, k).unwrap());
                (least..SHARE).for_each(|k| assert!(case.zswap.free(slot(thread, k))));
                held = least;
            }
            (held..SHARE).for_each(|k| store(thread, k).unwrap());
        },
    );
    // Every limit is filled to the byte, and one page more is refused by the lowest, whoever asks.
    for memcg in levels.all() {
        assert_eq!(memcg.current(Counter::Zswap), memcg.max(Counter::Zswap), "{}", memcg.path());
    }
    for thread in 0..THREADS {
        let refused = store(thread, SHARE).unwrap_err();
        let zswap::Error::Limit { source: hit, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((hit.memcg(), hit.usage(), hit.limit()), (levels.leaf(thread), 2 * share, 2 * share));
        // Room for one lets one in.
        assert!(case.zswap.free(slot(thread, 0)));
        store(thread, 0).unwrap();
    }
    (0..THREADS).for_each(|thread| (0..SHARE).for_each(|k| assert!(case.zswap.free(slot(thread, k)))));
    drop(levels);
    case.end();
}
