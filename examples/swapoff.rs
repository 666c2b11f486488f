//! A swap device that is taken off while its pages are in use.
//!
//! ```text
//!   4 threads: load, store, free --> slots --+--> pool
//!                                            +--> tier "fast"  -- swapoff --> elsewhere, object by object
//!                                            +--> tier "slow"
//! ```
//!
//! Slots are names: what backs one can change behind its back. Both devices are filled; then `swapoff` reads the fast one from
//! its first segment to its last, in large reads, and moves what is alive into memory, or to the slow one where memory has no room.
//! Meanwhile threads go on, and every page they load is compared. At the end the device is off, its file is gone, and
//! the objects that were touched are those that it held: nobody looked at the slots.
//!
//! Run it: `cargo run --release --example swapoff`

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use zspool::memcg::{Cancel, Memcg};
use zspool::swap::DeviceOptions;
use zspool::units::{NodeId, Page, SlotRange};
use zspool::zswap::Zswap;

/// Pages of a thread.
const PAGES: u64 = 8192;

const THREADS: u64 = 4;

/// What thread `thread` writes to its page `k` in its `turn`.
fn write(page: &mut Page, thread: u64, k: u64, turn: u64) {
    let mut random = (thread << 32 | k).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ turn;
    for object in page.as_chunks_mut::<32>().0 {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(k | 1);
        object[..8].copy_from_slice(&(0x7f00_0000_0000 | random >> 40).to_le_bytes());
        object[8..16].copy_from_slice(&(random >> 24).to_le_bytes());
    }
}

/// A thread with its pages, and the turn in which each was written; 0 for a page that was freed.
struct Client<'a> {
    zswap: &'a Zswap,
    memcg: Memcg,
    number: u64,
    slots: SlotRange,
    turns: Vec<u64>,
}

impl Client<'_> {
    fn store(&mut self, k: u64, turn: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut page = Page::zeroed();
        write(&mut page, self.number, k, turn);
        self.zswap.store(self.slots.base() + k, &self.memcg, NodeId(0), &page)?;
        self.turns[k as usize] = turn;
        Ok(())
    }

    /// Load a page and compare it, if it is stored.
    fn check(&self, k: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let turn = self.turns[k as usize];
        if turn > 0 {
            let (mut page, mut expected) = (Page::zeroed(), Page::zeroed());
            self.zswap.load(self.slots.base() + k, &mut page)?;
            write(&mut expected, self.number, k, turn);
            assert!(page[..] == expected[..], "page {k} of thread {} is not what was stored", self.number);
        }
        Ok(())
    }

    /// Load, store and free until told to stop; how often.
    fn work(&mut self, stop: &AtomicBool) -> Result<u64, Box<dyn Error + Send + Sync>> {
        let mut random = self.number + 1;
        let mut done = 0;
        while !stop.load(Relaxed) {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let k = (random >> 33) % PAGES;
            match random >> 60 {
                0..8 => self.check(k)?,
                8..14 => self.store(k, done + 2)?,
                _ => {
                    self.zswap.free(self.slots.base() + k);
                    self.turns[k as usize] = 0;
                }
            }
            done += 1;
        }
        Ok(done)
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let path = |tier: &str| std::env::temp_dir().join(format!("zspool-{tier}-{}.swap", std::process::id()));
    let zswap = Zswap::builder().pool_limit(8 << 20).build()?;
    let fast = zswap.swapon(DeviceOptions::path(path("fast"), 16 << 20).tier("fast", 1))?;
    zswap.swapon(DeviceOptions::path(path("slow"), 256 << 20).tier("slow", 0))?;

    let mut clients = vec![];
    for number in 0..THREADS {
        let memcg = zswap.root().mkdir(&format!("client{number}"))?;
        let mut client =
            Client { zswap: &zswap, memcg, number, slots: zswap.reserve(PAGES)?, turns: vec![0; PAGES as usize] };
        (0..PAGES).try_for_each(|k| client.store(k, 1))?;
        clients.push(client);
    }
    for device in zswap.devices() {
        let (live, size) = (device.area.live_bytes >> 20, device.area.size_bytes >> 20);
        println!(
            "{:6} {:2}  {live:3} of {size:3} MiB live, {} objects",
            device.tier, device.priority, device.area.objects
        );
    }
    let held = zswap.devices().iter().find(|device| device.number == fast).expect("it is on").area.objects;

    let (stop, operations) = (AtomicBool::new(false), AtomicU64::new(0));
    let report = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let (stop, operations) = (&stop, &operations);
                scope.spawn(move || client.work(stop).map(|done| operations.fetch_add(done, Relaxed)))
            })
            .collect();
        let start = Instant::now();
        // A handler of Ctrl-C would keep a clone of this, and cancel it.
        let report = zswap.swapoff(fast, &Cancel::new(), |_| {});
        println!("swapoff of {held} objects beside {THREADS} threads: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        stop.store(true, Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().expect("they do not panic").map(drop))?;
        Ok::<_, Box<dyn Error + Send + Sync>>(report?)
    })?;
    println!("{report:?}");
    println!("the threads did {} operations meanwhile", operations.load(Relaxed));

    assert!(zswap.devices().iter().all(|device| device.tier != "fast"), "it is off");
    assert!(!path("fast").exists(), "and its file is gone");
    for client in &clients {
        (0..PAGES).try_for_each(|k| client.check(k))?;
    }
    zswap.assert_valid();
    println!("all pages are what was stored");
    Ok(())
}
