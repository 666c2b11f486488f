//! A tiny virtual machine with 64 MiB of memory that keeps what is cold in a pool of 16 MiB and a swapfile.
//!
//! ```text
//!   guest page k   resident: in `memory`                    <- fault: take_with --+
//!                  cold: slot base + k   -- store -->  zswap: pool --> swapfile --+
//! ```
//!
//! The guest writes to its pages, first to all, then to a window that moves on. No more than a quarter of its memory is
//! resident: the page that came in longest ago is stored when another comes in. A touch of a stored page is a "fault": the page
//! is taken back, installed, and only then freed. At the end every page is compared with what the guest wrote.
//!
//! A real monitor finds cold pages by access bits and faults by userfaultfd; the calls to this crate are the same.
//!
//! Run it: `cargo run --release --example embed`

use std::collections::VecDeque;
use std::error::Error;
use zspool::memcg::Memcg;
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Installed, Taken, Zswap};

/// Pages of guest memory: 64 MiB.
const GUEST_PAGES: usize = (64 << 20) / PAGE_SIZE;

/// Pages that may be resident: 16 MiB.
const RESIDENT_PAGES: usize = GUEST_PAGES / 4;

/// The pool limit: every backed frame counts.
const POOL_BYTES: u64 = 16 << 20;

/// A guest, and what its monitor knows of its pages.
struct Vm<'a> {
    zswap: &'a Zswap,
    memcg: Memcg,
    /// Guest page k is slot base + k.
    slots: SlotRange,
    /// Resident pages; `None` where a page is stored, or was never touched.
    memory: Vec<Option<Box<Page>>>,
    /// Resident pages, the one that came in longest ago first.
    resident: VecDeque<usize>,
    faults: u64,
}

impl<'a> Vm<'a> {
    fn new(zswap: &'a Zswap, name: &str) -> Result<Self, Box<dyn Error>> {
        Ok(Vm {
            zswap,
            memcg: zswap.root().mkdir(name)?,
            slots: zswap.reserve(GUEST_PAGES as u64)?,
            memory: (0..GUEST_PAGES).map(|_| None).collect(),
            resident: VecDeque::new(),
            faults: 0,
        })
    }

    /// The guest touches page `k`.
    fn page(&mut self, k: usize) -> Result<&mut Page, Box<dyn Error>> {
        if self.memory[k].is_none() {
            self.fault(k)?;
        }
        Ok(self.memory[k].as_mut().expect("the fault made it resident"))
    }

    /// Bring a page in, and another out if there are too many.
    fn fault(&mut self, k: usize) -> Result<(), Box<dyn Error>> {
        let mut page = Box::new(Page::zeroed());
        let slot = self.slots.base() + k as u64;
        if self.zswap.is_stored(slot) {
            let taken = self.zswap.take_with(slot, |stored| {
                page.copy_from_slice(stored);
                Installed::Yes
            })?;
            // `Changed`: the page went to the device while it was read. Nobody else stores to this slot, so it is the same page.
            if taken == Taken::Changed {
                self.zswap.free(slot);
            }
            self.faults += 1;
        }
        self.memory[k] = Some(page);
        self.resident.push_back(k);
        if self.resident.len() > RESIDENT_PAGES {
            self.page_out()?;
        }
        Ok(())
    }

    /// Store the page that came in longest ago. It stays in guest memory until that has worked.
    fn page_out(&mut self) -> Result<(), Box<dyn Error>> {
        let k = self.resident.pop_front().expect("there are too many");
        let page = self.memory[k].as_ref().expect("it is resident");
        self.zswap.store(self.slots.base() + k as u64, &self.memcg, NodeId(0), page)?;
        self.memory[k] = None;
        Ok(())
    }
}

/// What the guest writes to page `k` in its `turn`: objects of a pointer, a number and a counter.
fn write(page: &mut Page, k: usize, turn: u64) {
    let mut random = (k as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ turn;
    for object in page.as_chunks_mut::<32>().0 {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(k as u64 | 1);
        object[..8].copy_from_slice(&(0x7f00_0000_0000 | random >> 40).to_le_bytes());
        object[8..16].copy_from_slice(&(random >> 24).to_le_bytes());
        object[16..24].copy_from_slice(&turn.to_le_bytes());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let swapfile = std::env::temp_dir().join(format!("zspool-embed-{}.swap", std::process::id()));
    // The file is made here, readable by its owner only, and removed when the instance is dropped.
    let zswap = Zswap::builder().pool_limit(POOL_BYTES).swapfile(&swapfile, 128 << 20).build()?;
    let mut vm = Vm::new(&zswap, "vm0")?;
    let mut turn_of = vec![0u64; GUEST_PAGES];

    for turn in 1..=6u64 {
        // The first turn touches everything, later ones half of it.
        let window = if turn == 1 { GUEST_PAGES } else { GUEST_PAGES / 2 };
        for n in 0..window {
            let k = (n + turn as usize * GUEST_PAGES / 5) % GUEST_PAGES;
            write(vm.page(k)?, k, turn);
            turn_of[k] = turn;
        }
        assert!(zswap.arena().backed_bytes() <= POOL_BYTES, "the pool limit holds");
    }

    println!("/vm0/memory.stat:\n{}", vm.memcg.read_file("memory.stat")?);
    let stats = zswap.stats();
    println!(
        "guest memory     {} MiB, {} MiB of it resident",
        (GUEST_PAGES * PAGE_SIZE) >> 20,
        (vm.resident.len() * PAGE_SIZE) >> 20
    );
    println!("in the pool      {} pages in {} MiB of frames", stats.compressed_pages, stats.backed_bytes >> 20);
    println!("in the swapfile  {} pages", stats.physical_pages);
    println!("faults           {}", vm.faults);

    for (k, &turn) in turn_of.iter().enumerate() {
        let mut expected = Page::zeroed();
        write(&mut expected, k, turn);
        assert!(vm.page(k)?[..] == expected[..], "page {k} is not what the guest wrote");
    }
    println!("all {GUEST_PAGES} pages are what the guest wrote");
    Ok(())
}
