//! Torture: threads write versions all over registered memory while everything that can be done to it is done at random.
//!
//! ```text
//!   page   | its number and version (8) | a word of noise that the two make, 511 times |     version 0: zeroes
//!
//!   writers     lock a page in the model, compare all of it with the version that the model knows, write the next one
//!   discarders  lock some pages in the model, throw them away (by a call, or by `madvise`), say zeroes
//!   movers      take out, bring in, prefetch, pin and unpin, take everything out, set limits
//!   remover     unregisters the memory and registers it again, while it is being written
//!   watchdog    ends the process with a sentence when a writer is at one page for too long
//! ```
//!
//! Nothing may be lost, stale, or waited for in vain, whatever the way out of memory and whoever serves the faults. With devices that fail,
//! writers pin what they touch: a page that cannot be read back is an error that names it, and then only a discard helps.
//!
//! `ZSPOOL_TORTURE_SECONDS` is how long it takes (5), over all kinds; `ZSPOOL_TORTURE_SEED` makes one run again, as far as threads let it.
#![cfg(all(feature = "guest", target_os = "linux"))]

mod support;
#[path = "support/uffd.rs"]
mod uffd;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};
use uffd::{Mapped, PAGE, alone};
use zspool::guest::memory::{Memory, Method};
use zspool::guest::{Engine, Error, FaultAround, Follow, Region, Service, ThreadOptions, Vm, VmOptions};
use zspool::memcg::Counter;
use zspool::swap::{Fault, FaultyDevice, MemoryDevice, Plan};
use zspool::zswap::Zswap;

const PAGES: usize = 768;
const WORDS: usize = PAGE / 8;
const WRITERS: usize = 4;
/// A touch that takes so long is never going to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Touches, and pages taken out, of a round.
const ENOUGH: u64 = 100;

/// What the memory is, and who serves its faults.
#[derive(Clone, Copy, Debug)]
struct Setting {
    anonymous: bool,
    method: Method,
    threads: bool,
    kept_bytes: u64,
    failing: bool,
    /// Pages are also thrown away by `madvise`, which handlers are told of.
    follow: bool,
}

const SETTINGS: [Setting; 9] = {
    let plain =
        Setting { anonymous: true, method: Method::Move, threads: false, kept_bytes: 0, failing: false, follow: false };
    [
        plain,
        Setting { threads: true, ..plain },
        Setting { kept_bytes: 1 << 20, ..plain },
        Setting { method: Method::Protect, ..plain },
        Setting { anonymous: false, method: Method::Zap, ..plain },
        Setting { failing: true, ..plain },
        Setting { anonymous: false, method: Method::Zap, threads: true, ..plain },
        Setting { failing: true, threads: true, kept_bytes: 1 << 20, ..plain },
        Setting { threads: true, follow: true, ..plain },
    ]
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// What a page holds at a version, word by word. Every fourth page is hard to compress, every fifth one repeats a word.
fn word(page: usize, version: u64, n: usize) -> u64 {
    let name = (page as u64) << 40 | version;
    match (version, n, page % 20) {
        (0, ..) => 0,
        (_, 0, _) => name,
        (_, _, 5 | 10 | 15) => name,
        (_, n, 4 | 8 | 12 | 16) => (name ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n as u32 % 64),
        (_, n, _) => name.wrapping_mul(1 + n as u64 / 64),
    }
}

/// A writer is at a page for as long as this lives: who panics there is not there any more.
struct At<'a>(&'a AtomicU64);

impl<'a> At<'a> {
    fn page(at: &'a AtomicU64, page: usize) -> Self {
        at.store(page as u64 + 1, Ordering::Relaxed);
        At(at)
    }
}

impl Drop for At<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The memory, and what is known of each page: its version.
struct Arena {
    map: Mapped,
    versions: Vec<Mutex<u64>>,
    region: RwLock<Option<Region>>,
    /// By writer: the page it is at and 1, or 0.
    at: [AtomicU64; WRITERS],
    /// By writer: touches begun.
    touches: [AtomicU64; WRITERS],
    stop: AtomicBool,
    lost: AtomicU64,
}

impl Arena {
    fn new(setting: Setting) -> Arena {
        Arena {
            map: if setting.anonymous { Mapped::anonymous(PAGES) } else { Mapped::memfd(PAGES) },
            versions: (0..PAGES).map(|_| Mutex::new(0)).collect(),
            region: RwLock::new(None),
            at: Default::default(),
            touches: Default::default(),
            stop: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        }
    }

    fn register(&self, vm: &Vm, setting: Setting) -> Result<Region, Error> {
        let memory = match &self.map.file {
            None => Memory::anonymous(self.map.pointer(), self.map.bytes),
            Some(file) => Memory::memfd(self.map.pointer(), self.map.bytes, file, 0),
        };
        // SAFETY: mapped until the end of the test, and nobody maps anything else there.
        unsafe { vm.register(memory.method(setting.method)) }
    }

    fn going_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn word(&self, page: usize, n: usize) -> *mut u64 {
        // SAFETY: inside of the mapping.
        unsafe { (self.map.pointer() as *mut u64).add(page * WORDS + n) }
    }

    fn compare(&self, page: usize, version: u64, when: &str) {
        for n in 0..WORDS {
            // SAFETY: mapped memory; the page is locked in the model, so nobody writes it.
            let found = unsafe { self.word(page, n).read_volatile() };
            if found != word(page, version, n) {
                let at_once = self.looks_like(page, version);
                std::thread::sleep(Duration::from_millis(10));
                panic!(
                    "{when}: page {page} is not version {version} from word {n} ({found:#x}) on; it has {at_once}; 10 ms later {}",
                    self.looks_like(page, version)
                );
            }
        }
    }

    /// Of which versions the words of a page are, for who has to find out what happened: runs of words.
    fn looks_like(&self, page: usize, version: u64) -> String {
        // SAFETY: as above.
        let found = |n: usize| unsafe { self.word(page, n).read_volatile() };
        // What it should have, the one before and the one after, what its first word says, and nothing.
        let versions = [version, version + 1, version.saturating_sub(1), found(0) & 0xff_ffff_ffff, 0];
        let like = |n: usize| versions.into_iter().find(|&v| found(n) == word(page, v, n));
        let (mut runs, mut last) = (String::new(), None);
        for n in 0..WORDS {
            let now = like(n);
            if last != Some(now) {
                match now {
                    Some(0) => runs += &format!(" {n}: zeroes"),
                    Some(v) => runs += &format!(" {n}: version {v}"),
                    None => runs += &format!(" {n}: no version"),
                }
                last = Some(now);
            }
        }
        runs
    }

    fn write(&self, page: usize, version: u64) {
        for n in 0..WORDS {
            // SAFETY: as above.
            unsafe { self.word(page, n).write_volatile(word(page, version, n)) };
        }
    }

    /// Lock a page in the model, look at all of it, write the next version.
    fn touch(&self, writer: usize, page: usize, pinned: bool) {
        // Whose page was not what it should be has said so: one panic is enough.
        let Ok(mut version) = self.versions[page].lock() else { return };
        let _at = At::page(&self.at[writer], page);
        self.touches[writer].fetch_add(1, Ordering::Relaxed);
        let region = pinned.then(|| self.region.read().unwrap());
        let region = region.as_ref().map(|region| region.as_ref().expect("it is registered where devices fail"));
        let bytes = page * PAGE..(page + 1) * PAGE;
        let pin = region.map(|region| region.pin(bytes.clone()));
        match pin {
            Some(Err(Error::Unreadable { .. })) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                region.expect("it was pinned").discard(bytes).expect("a lost page can be thrown away");
                *version = 0;
            }
            Some(Err(other)) => panic!("page {page} cannot be pinned: {other}"),
            Some(Ok(_)) | None => {
                self.compare(page, *version, "a writer");
                *version += 1;
                self.write(page, *version);
            }
        }
    }

    fn writes(&self, writer: usize, seed: u64, pinned: bool) {
        let (mut random, mut page) = (Random(seed | 1), 0);
        while self.going_on() {
            // In order for a while, then somewhere else; a tenth of the pages is hot.
            page = match random.below(8) {
                0 => random.below(PAGES),
                1..=3 => random.below(PAGES / 10),
                _ => (page + 1) % PAGES,
            };
            self.touch(writer, page, pinned);
        }
    }

    /// Throw away pages that nobody writes this moment.
    fn discards(&self, seed: u64, behind: bool) {
        let mut random = Random(seed | 1);
        while self.going_on() {
            let first = random.below(PAGES);
            let mut locked = Vec::new();
            for page in first..PAGES.min(first + [1, 3, 40][random.below(3)]) {
                let Ok(version) = self.versions[page].try_lock() else { break };
                locked.push(version);
            }
            // Not while the memory is being registered or unregistered: see `Follow`.
            let place = self.region.try_read();
            if behind && place.is_ok() && random.below(2) == 0 {
                let pages = self.map.span(first, locked.len());
                if !locked.is_empty() {
                    uffd::advise(pages, libc::MADV_DONTNEED).expect("memory can be dropped");
                }
                locked.iter_mut().for_each(|version| **version = 0);
            } else if let Ok(region) = &place
                && let Some(region) = &**region
                && region.discard(first * PAGE..(first + locked.len()) * PAGE).is_ok()
            {
                locked.iter_mut().for_each(|version| **version = 0);
            } else {
                // Some of it may have been thrown away before the page that is pinned.
                for (page, version) in locked.iter_mut().enumerate() {
                    // SAFETY: mapped memory, locked in the model; where faults may end in a SIGBUS nobody discards pinned pages.
                    if unsafe { self.word(first + page, 0).read_volatile() } == 0 {
                        **version = 0;
                    }
                }
            }
            drop((locked, place));
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Everything else that can be done to pages without changing them.
    fn moves(&self, seed: u64, vm: &Vm, engine: &Engine) {
        let mut random = Random(seed | 1);
        while self.going_on() {
            let first = random.below(PAGES);
            let pages = [1, 5, 16, 64, 300][random.below(5)].min(PAGES - first);
            let bytes = first * PAGE..(first + pages) * PAGE;
            let what = random.below(16);
            let region = self.region.read().unwrap();
            let Some(region) = &*region else { continue };
            match what {
                0..=6 => drop(region.evict(bytes)),
                7 | 8 => drop(region.prefetch(bytes)),
                9 => drop(region.make_resident(bytes)),
                10 | 11 => {
                    if let Ok(pin) = region.pin(first * PAGE..(first + 1) * PAGE) {
                        std::thread::sleep(Duration::from_micros(200));
                        drop(pin);
                    }
                }
                12 => drop(vm.evict_all()),
                13 => {
                    let limit = PAGES * PAGE / [1, 2, 4, 8][random.below(4)];
                    vm.memcg().write_file("memory.max", &limit.to_string()).expect("a limit is taken");
                }
                14 => drop(vm.memcg().write_file("memory.reclaim", &format!("{}", pages * PAGE))),
                _ => drop(engine.evict(vm.memcg(), 64 << 10)),
            }
        }
    }

    /// End the process when a writer is at one page for too long: joining it would be for ever.
    fn watch(&self, setting: Setting) {
        let mut seen = [(0, Instant::now()); WRITERS];
        while self.going_on() || self.at.iter().any(|at| at.load(Ordering::Relaxed) != 0) {
            for (writer, (touches, since)) in seen.iter_mut().enumerate() {
                let now = self.touches[writer].load(Ordering::Relaxed);
                let page = self.at[writer].load(Ordering::Relaxed);
                if *touches != now || page == 0 {
                    (*touches, *since) = (now, Instant::now());
                } else if since.elapsed() > PATIENCE {
                    eprintln!(
                        "writer {writer} has been at page {} for {PATIENCE:?} with {setting:?}: a deadlock",
                        page - 1
                    );
                    std::process::abort();
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a round came upon.
#[derive(Default, Debug)]
struct Seen {
    touches: u64,
    taken_out: u64,
    lost: u64,
}

fn torture(setting: Setting, how_long: Duration, seed: u64) -> Result<Seen, Error> {
    let device = std::sync::Arc::new(FaultyDevice::new(MemoryDevice::new(8 << 20, 4096), Plan::none()));
    let builder = Zswap::builder().pool_limit(if setting.failing { 512 << 10 } else { 8 << 20 });
    let zswap = builder.device(std::sync::Arc::clone(&device)).build().expect("an instance");
    let engine = Engine::new(zswap)?;
    let memcg = engine.root().mkdir("vm").expect("a memcg");
    // One thread that follows discards has others beside it that make calls.
    let threads = if setting.follow { 1 } else { 2 };
    let service = if setting.threads { Service::Threads(ThreadOptions::new(threads)) } else { Service::InThread };
    let follow = if setting.follow { Follow::Discards } else { Follow::Nothing };
    let options = VmOptions::new()
        .service(service)
        .kept_bytes(setting.kept_bytes)
        .fault_around(FaultAround::Adaptive)
        .follow(follow);
    let vm = engine.vm(&memcg, options)?;
    let arena = Arena::new(setting);
    *arena.region.write().unwrap() = Some(arena.register(&vm, setting)?);
    memcg.write_file("memory.max", &(PAGES * PAGE / 2).to_string()).expect("a limit");
    let mut random = Random(seed | 1);
    let mut last = Ok(());
    std::thread::scope(|scope| {
        let arena = &arena;
        // A writer that fails must not leave the others at it for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        for writer in 0..WRITERS {
            let seed = random.next();
            scope.spawn(move || {
                let _stop = Stop(&arena.stop);
                arena.writes(writer, seed, setting.failing);
            });
        }
        let seeds = [random.next(), random.next(), random.next()];
        let (vm, engine) = (&vm, &engine);
        scope.spawn(move || arena.moves(seeds[0], vm, engine));
        scope.spawn(move || arena.moves(seeds[1], vm, engine));
        if !setting.failing {
            scope.spawn(move || arena.discards(seeds[2], setting.follow));
        }
        scope.spawn(move || arena.watch(setting));
        let _stop = Stop(&arena.stop);
        let end = Instant::now() + how_long;
        // A busy machine may keep some of the threads from running at all for a while.
        let idle = || {
            let touches: u64 = arena.touches.iter().map(|touches| touches.load(Ordering::Relaxed)).sum();
            touches < ENOUGH || vm.stats().taken_out < ENOUGH
        };
        while arena.going_on() && (Instant::now() < end || (idle() && Instant::now() < end + PATIENCE)) {
            std::thread::sleep(Duration::from_millis(50));
            if setting.failing {
                let k = device.operations() + random.below(40) as u64;
                let plan = [
                    Plan::none().at(k, Fault::Errno(libc::EIO)),
                    Plan::none().down_from(k, libc::EIO),
                    Plan::none().full_from(k),
                    Plan::none(),
                ];
                device.replan(plan.into_iter().nth(random.below(4)).expect("one of four"));
                continue;
            }
            // Away, and there again, under the hands of those who write.
            let mut place = arena.region.write().unwrap();
            if let Some(region) = place.take() {
                match region.unregister() {
                    Ok(()) => match arena.register(vm, setting) {
                        Ok(again) => *place = Some(again),
                        Err(error) => last = Err(error),
                    },
                    Err((_, error)) => panic!("nothing was in the way of unregistering: {error}"),
                }
            }
        }
    });
    last?;
    device.replan(Plan::none());
    let mut seen = Seen { lost: arena.lost.load(Ordering::Relaxed), ..Seen::default() };
    seen.touches = arena.touches.iter().map(|touches| touches.load(Ordering::Relaxed)).sum();
    seen.taken_out = vm.stats().taken_out;
    engine.quiesce();
    engine.assert_valid();
    engine.zswap().assert_valid();
    let region = arena.region.write().unwrap().take().expect("it is registered");
    if setting.failing {
        for page in 0..PAGES {
            let bytes = page * PAGE..(page + 1) * PAGE;
            if region.make_resident(bytes.clone()).is_err() {
                seen.lost += 1;
                region.discard(bytes).expect("a lost page can be thrown away");
                *arena.versions[page].lock().unwrap() = 0;
            }
        }
    }
    if let Err((_, error)) = region.unregister() {
        panic!("what was readable a moment ago is not: {error}");
    }
    for page in 0..PAGES {
        arena.compare(page, *arena.versions[page].lock().unwrap(), "in the end");
    }
    drop(vm);
    engine.quiesce();
    assert_eq!(memcg.current(Counter::Memory), 0, "nothing is left that could be charged");
    engine.zswap().assert_valid();
    Ok(seen)
}

#[test]
fn nothing_is_lost_whatever_is_done_at_once() {
    if !alone("nothing_is_lost_whatever_is_done_at_once") {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("ZSPOOL_TORTURE_SECONDS").unwrap_or(5);
    let each = Duration::from_millis(seconds * 1000 / SETTINGS.len() as u64).min(Duration::from_secs(20));
    let now = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let mut seed = number("ZSPOOL_TORTURE_SEED").unwrap_or_else(now);
    let (end, mut rounds) = (Instant::now() + Duration::from_secs(seconds), 0);
    while rounds < SETTINGS.len() || Instant::now() < end {
        let setting = SETTINGS[rounds % SETTINGS.len()];
        println!("round {rounds}: ZSPOOL_TORTURE_SEED={seed} {setting:?}");
        match torture(setting, each, seed) {
            Ok(seen) => {
                println!("  {seen:?}");
                assert!(seen.touches >= ENOUGH && seen.taken_out >= ENOUGH, "the round did nothing: {seen:?}");
                assert!(setting.failing || seen.lost == 0, "a page cannot be lost where nothing fails");
            }
            Err(error) => support::skip("nothing_is_lost_whatever_is_done_at_once", &error.to_string()),
        }
        rounds += 1;
        seed = Random(seed | 1).next();
    }
}
