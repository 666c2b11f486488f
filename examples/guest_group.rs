//! Four guests under one limit, one of them idle: the idle one shrinks, the busy ones keep their speed, and the sums are exact.
//!
//! ```text
//!   guests            memory.max: three quarters of their memory
//!    +-- idle         64 MiB, filled once, then left alone             --> compressed
//!    +-- busy0..2     64 MiB, a thread each: most visits to 40 MiB,    --> the 40 MiB stay, the rest is compressed
//!                     one in 50,000 anywhere
//! ```
//!
//! The busy ones run alone first, with no limit; then the idle one is beside them, and the limit is there. Their speed in the second part, as
//! a share of that in the first, is the last column.
//!
//! A visit checks what the visit before left in the page and writes it anew, so a page that came back stale, or as another's, ends
//! the program. At the end every page is checked, and per-VM bytes must add up to the group and to the allocator.
//!
//! Run it: `cargo run --release --features guest --example guest_group` (with `-- SECONDS` for longer phases; 2 without)

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use zspool::{
    guest::memory::Memory,
    guest::{Engine, FaultKind, Region, Vm, VmOptions},
    memcg::{Counter, Memcg},
    zswap::Zswap,
};

const PAGE_BYTES: usize = 4096;
const WORDS: usize = PAGE_BYTES / 8;
const MEMORY_BYTES: usize = 64 << 20;
const PAGES: usize = MEMORY_BYTES / PAGE_BYTES;
const HOT_PAGES: usize = (40 << 20) / PAGE_BYTES;
const COLD_VISITS: u64 = 50_000;
/// Of a page's 512 words, how many are random: LZ4 packs it about 2.5 to 1.
const RANDOM_WORDS: usize = 190;

/// Of a page's number and version, the word that lies at `index`.
fn word(guest: u64, page: usize, version: u64, index: usize) -> u64 {
    let seed = guest << 56 | (page as u64) << 32 | version;
    if index < RANDOM_WORDS { mix(seed.wrapping_add((index as u64) << 40)) } else { seed }
}

/// SplitMix64's finish (Steele, Lea and Flood, 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A guest's memory, as its own thread sees it. The addresses are the embedder's; pages come and go behind them.
struct Ram {
    guest: u64,
    start: *mut u64,
    /// What was written last to each page; not in the memory that is paged.
    versions: Vec<u64>,
}

// SAFETY: only the thread that holds it touches the memory, which outlives the threads.
unsafe impl Send for Ram {}

impl Ram {
    fn at(&self, page: usize, index: usize) -> *mut u64 {
        assert!(page < PAGES && index < WORDS);
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.start.add(page * WORDS + index) }
    }

    fn read(&self, page: usize, index: usize) -> u64 {
        // SAFETY: mapped, aligned; only this thread is at it. Volatile: the page may come in here.
        unsafe { self.at(page, index).read_volatile() }
    }

    fn write(&mut self, page: usize) {
        self.versions[page] += 1;
        for index in 0..WORDS {
            let value = word(self.guest, page, self.versions[page], index);
            // SAFETY: as for reading.
            unsafe { self.at(page, index).write_volatile(value) };
        }
    }

    fn check(&self, page: usize, index: usize) {
        let expected = word(self.guest, page, self.versions[page], index);
        assert_eq!(
            self.read(page, index),
            expected,
            "word {index} of page {page} of guest {} is not what was written",
            self.guest
        );
    }

    /// One unit of a busy guest's work.
    fn visit(&mut self, random: u64) {
        let pages = if random.is_multiple_of(COLD_VISITS) { PAGES } else { HOT_PAGES };
        let page = (random >> 16) as usize % pages;
        for index in [0, (random >> 40) as usize % WORDS, WORDS - 1] {
            self.check(page, index);
        }
        self.write(page);
    }
}

/// A busy guest's thread.
fn work(mut ram: Ram, visits: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Ram {
    let mut random = ram.guest;
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ram.visit(mix(random));
        visits.fetch_add(1, Ordering::Relaxed);
    }
    ram
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("guest memory needs Linux's userfaultfd");
}

#[cfg(target_os = "linux")]
struct Guest {
    name: &'static str,
    vm: Vm,
    region: Region,
    /// Unmapped after the region is gone.
    _mapping: memmap2::MmapMut,
    visits: Arc<AtomicU64>,
    thread: Option<JoinHandle<Ram>>,
    alone_rate: f64,
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(2.0), |text| text.parse())?;
    let phase = Duration::from_secs_f64(seconds);
    let engine = Engine::new(Zswap::builder().build()?)?;
    let group = engine.root().mkdir("guests")?;
    let stop = Arc::new(AtomicBool::new(false));

    let mut guests = Vec::new();
    for (number, name) in ["busy0", "busy1", "busy2"].into_iter().enumerate() {
        let (mut guest, ram) = Guest::filled(&engine, &group, number as u64, name)?;
        let (visits, stop) = (guest.visits.clone(), stop.clone());
        guest.thread = Some(thread::spawn(move || work(ram, visits, stop)));
        guests.push(guest);
    }
    watch(&guests, &group, phase);
    let (rates, _) = watch(&guests, &group, phase);
    println!("The busy guests alone, without a limit: {} MiB in use.", group.current(Counter::Memory) >> 20);
    table(&guests, &rates);
    for (guest, rate) in guests.iter_mut().zip(&rates) {
        guest.alone_rate = *rate;
    }

    let (idle, idle_ram) = Guest::filled(&engine, &group, guests.len() as u64, "idle")?;
    guests.insert(0, idle);
    let limit = (guests.len() * MEMORY_BYTES * 3 / 4) as u64;
    group.set_max(Counter::Memory, limit)?;
    let began = Instant::now();
    while group.current(Counter::Memory) > limit {
        assert!(began.elapsed() < 30 * phase, "the group is still above its limit");
        sleep(Duration::from_millis(1));
    }
    let below = began.elapsed();
    watch(&guests, &group, phase);
    let before: Vec<u64> = guests.iter().map(Guest::refaults).collect();
    let (rates, peak) = watch(&guests, &group, phase);
    println!(
        "\nAn idle guest beside them, and {} MiB for all four, kept after {below:.1?}; {seconds} s after that:",
        limit >> 20
    );
    table(&guests, &rates);
    let (now, alone): (f64, f64) = (rates.iter().sum(), guests.iter().map(|guest| guest.alone_rate).sum());
    let refaults: u64 = guests.iter().zip(before).map(|(guest, before)| guest.refaults() - before).sum();
    println!(
        "The busy ones have {:.1}% of the speed they had alone; {refaults} of their {:.0} visits waited for a page that was out.",
        100.0 * now / alone,
        now * seconds
    );

    stop.store(true, Ordering::Relaxed);
    let mut rams = vec![idle_ram];
    for guest in &mut guests {
        rams.extend(guest.thread.take().map(|thread| thread.join().expect("a guest's thread found a wrong page")));
    }
    engine.quiesce();
    sums(&engine, &group, &guests);
    let shrunk = guests[0].vm.stats().resident;
    assert!(shrunk < MEMORY_BYTES as u64 / 4, "the idle guest still has {shrunk} bytes in memory");
    assert!(peak <= limit, "{peak} bytes were in use under a limit of {limit}");

    for ram in &rams {
        (0..PAGES).for_each(|page| (0..WORDS).for_each(|index| ram.check(page, index)));
    }
    println!("All {} pages hold what was written last.", rams.len() * PAGES);
    for guest in guests {
        guest.region.unregister().map_err(|(_, error)| error)?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
impl Guest {
    /// One whose memory is all in use, and nobody at it.
    fn filled(engine: &Engine, group: &Memcg, number: u64, name: &'static str) -> Result<(Guest, Ram), Box<dyn Error>> {
        let mut mapping = memmap2::MmapMut::map_anon(MEMORY_BYTES)?;
        let start = mapping.as_mut_ptr();
        let vm = engine.vm(&group.mkdir(name)?, VmOptions::default())?;
        // SAFETY: the mapping stays until its region has been unregistered, and nobody maps anything over it.
        let region = unsafe { vm.register(Memory::anonymous(start, MEMORY_BYTES))? };
        let mut ram = Ram { guest: number, start: start.cast(), versions: vec![0; PAGES] };
        (0..PAGES).for_each(|page| ram.write(page));
        let visits = Arc::new(AtomicU64::new(0));
        Ok((Guest { name, vm, region, _mapping: mapping, visits, thread: None, alone_rate: 0.0 }, ram))
    }

    /// Faults of pages that had been compressed.
    fn refaults(&self) -> u64 {
        self.vm.stats().faults_of(FaultKind::Compressed).count()
    }
}

/// Visits a second of each guest over a time, and the most that the group was seen to use in it.
#[cfg(target_os = "linux")]
fn watch(guests: &[Guest], group: &Memcg, time: Duration) -> (Vec<f64>, u64) {
    let before: Vec<u64> = guests.iter().map(|guest| guest.visits.load(Ordering::Relaxed)).collect();
    let (began, mut peak) = (Instant::now(), 0);
    while began.elapsed() < time {
        sleep(Duration::from_millis(5));
        peak = peak.max(group.current(Counter::Memory));
    }
    let elapsed = began.elapsed().as_secs_f64();
    let rates = guests.iter().zip(before).map(|(guest, n)| (guest.visits.load(Ordering::Relaxed) - n) as f64 / elapsed);
    (rates.collect(), peak)
}

#[cfg(target_os = "linux")]
fn table(guests: &[Guest], rates: &[f64]) {
    println!(
        "{:8}{:>12}{:>10}{:>12}{:>10}{:>12}{:>14}{:>8}",
        "MiB", "resident", "staged", "compressed", "faults", "p99 us", "visits/s", "speed"
    );
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    for (guest, rate) in guests.iter().zip(rates) {
        let stats = guest.vm.stats();
        let speed =
            if guest.alone_rate > 0.0 { format!("{:.0}%", 100.0 * rate / guest.alone_rate) } else { "-".into() };
        println!(
            "{:8}{:>12.1}{:>10.1}{:>12.1}{:>10}{:>12.1}{rate:>14.0}{speed:>8}",
            guest.name,
            mib(stats.resident),
            mib(stats.staged),
            mib(stats.compressed_into),
            stats.all_faults(),
            stats.fault_nanos().p99() as f64 / 1000.0,
        );
    }
}

/// Per-VM bytes add up to what is charged to the group, and what is compressed of them to what the allocator has given out.
#[cfg(target_os = "linux")]
fn sums(engine: &Engine, group: &Memcg, guests: &[Guest]) {
    engine.assert_valid();
    let (mut in_memory, mut compressed) = (0, 0);
    for guest in guests {
        let stats = guest.vm.stats();
        let charged = guest.vm.memcg().current(Counter::Memory);
        assert_eq!(stats.charged(), charged, "what {} has is not what it is charged", guest.name);
        in_memory += stats.resident + stats.staged;
        compressed += stats.compressed_into;
    }
    let allocator = engine.zswap().pool().usage();
    assert_eq!(in_memory + compressed, group.current(Counter::Memory), "the guests do not add up to their group");
    assert_eq!(
        compressed,
        allocator.payload_bytes + allocator.rounding_bytes,
        "the guests do not add up to the allocator"
    );
    println!(
        "\nSums, to the byte: {in_memory} in memory + {compressed} compressed = {} of the group;",
        in_memory + compressed
    );
    println!("the allocator has given out {compressed} for them, in {} of frames.", allocator.backed_bytes());
}
