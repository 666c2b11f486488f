//! A guest under `memory.max`: its pages in memory are charged, and leave for the pool when the limit, or somebody, asks.
//!
//! ```text
//!   touch page k:   resident? ---no---> charge_resident --- above memory.max: our Reclaimer is asked ---+
//!                      | yes                 | charged                                                  v
//!                      v                     v                                      swap_out(slot, charge, page)
//!                    page <------ take_with(slot), the charge is kept with the page        pool --> swapfile
//! ```
//!
//! `memory.current` is both: pages in memory, and what pages take compressed. The charge of a page that leaves pays for what it
//! becomes, so a guest at its limit can still put pages away.
//!
//! Run it: `cargo run --release --example guest_limits`

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Arc, Mutex};
use zspool::memcg::{
    self, Ask, Cancel, Counter, End, Event, Memcg, MemcgEvent, ReclaimRequest, Reclaimed, Reclaimer, Resident, Source,
};
use zspool::units::{NodeId, PAGE_SIZE, Page, SlotRange};
use zspool::zswap::{Installed, Taken, Zswap};

const PAGES: usize = (32 << 20) / PAGE_SIZE;
const MEMORY_MAX: u64 = 16 << 20;

/// One lock for all pages, which nobody holds while charging: the charge may call our reclaimer.
struct Guest {
    zswap: Arc<Zswap>,
    memcg: Memcg,
    slots: SlotRange,
    resident: Mutex<VecDeque<InMemory>>, // longest in memory first
}

/// A page in memory, with what is charged for it.
struct InMemory {
    k: usize,
    page: Box<Page>,
    charge: Resident,
}

impl Guest {
    /// Do something with page `k`, which is brought in first if it is not in memory.
    fn with<R>(&self, k: usize, f: impl FnOnce(&mut Page) -> R) -> Result<R, Box<dyn Error>> {
        if let Some(found) = self.resident.lock().unwrap().iter_mut().rev().find(|found| found.k == k) {
            return Ok(f(&mut found.page));
        }
        let charge = self.memcg.charge_resident(PAGE_SIZE as u64)?;
        let (mut page, slot) = (Box::new(Page::zeroed()), self.slots.base() + k as u64);
        if self.zswap.is_stored(slot) {
            let taken = self.zswap.take_with(slot, |stored| {
                page.copy_from_slice(stored);
                Installed::Yes
            })?;
            // It went to the swapfile while it was read. Nobody else stores to this slot: it is the same page.
            if taken == Taken::Changed {
                self.zswap.free(slot);
            }
        }
        let result = f(&mut page);
        self.resident.lock().unwrap().push_back(InMemory { k, page, charge });
        Ok(result)
    }
}

/// Serves `source=anon`, and whatever else reclaims pages in memory: limits, `memory.high`, a plain `memory.reclaim`.
struct PageOut(Arc<Guest>);

impl Reclaimer for PageOut {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        let guest = &*self.0;
        // Asked for another guest's memcg, or by age, which is not known here: there is nothing of that kind.
        if ask.age.is_some() || !memcg.subtree().contains(&guest.memcg) {
            return Reclaimed { bytes: 0, end: End::NothingToScan };
        }
        let mut bytes = 0;
        while bytes < ask.bytes {
            if ask.cancel.is_cancelled() {
                return Reclaimed { bytes, end: End::Cancelled };
            }
            let mut resident = guest.resident.lock().unwrap();
            let Some(InMemory { k, page, charge }) = resident.pop_front() else {
                return Reclaimed { bytes, end: End::NothingToScan };
            };
            match guest.zswap.swap_out(guest.slots.base() + k as u64, charge, NodeId(0), &page) {
                // What memory.current falls by: the page, less what it takes from now on.
                Ok(stored) => bytes += (PAGE_SIZE - stored.slot_bytes()) as u64,
                Err(refused) => {
                    resident.push_front(InMemory { k, page, charge: refused.resident }); // with the charge in hand, as before
                    return Reclaimed { bytes, end: End::Exhausted };
                }
            }
        }
        Reclaimed { bytes, end: End::Met }
    }
}

/// A page of text: lines that no two pages share.
fn write(page: &mut Page, k: usize) {
    for (n, line) in page.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        line.copy_from_slice(format!("{:015x}\n", ((k << 8) | (n / 4)).wrapping_mul(0x9e37_79b9)).as_bytes());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let swapfile = std::env::temp_dir().join(format!("zspool-guest-limits-{}.swap", std::process::id()));
    let zswap = Arc::new(Zswap::builder().pool_limit(64 << 20).swapfile(&swapfile, 64 << 20).build()?);
    let memcg = zswap.root().mkdir("vm0")?;
    memcg.write_file("memory.max", "16M")?;
    let slots = zswap.reserve(PAGES as u64)?;
    let guest = Arc::new(Guest { zswap: zswap.clone(), memcg: memcg.clone(), slots, resident: Mutex::default() });
    // Dropped before the guest goes, it ends the calls. The tree owns the reclaimer, and with it the guest, until then.
    let registration = zswap.tree().register(Box::new(PageOut(guest.clone())));

    // The guest is twice as large as its limit, which never refuses it and never is exceeded.
    for k in 0..PAGES {
        guest.with(k, |page| write(page, k))?;
        assert!(memcg.current(Counter::Memory) <= MEMORY_MAX);
    }
    let show = |when: &str| {
        let [all, pool, swap] = [Counter::Memory, Counter::Zswap, Counter::Swap].map(|counter| memcg.current(counter));
        println!("{when:33} {all:>8} charged, {pool:>7} of them compressed; {swap:>7} in the swapfile");
    };
    show("32 MiB under memory.max of 16 MiB");
    assert!(memcg.events(MemcgEvent::Max) > 0 && memcg.events(MemcgEvent::Oom) == 0);

    // What an agent does with `echo`, with a way to call it off: another thread, or a signal handler, calls cancel.cancel().
    let cancel = Cancel::new();
    memcg.reclaim(&"2M".parse()?, &cancel)?;
    assert!(memcg.current(Counter::Memory) <= MEMORY_MAX - (2 << 20));
    show("2M: pages in memory first");
    let done = memcg.reclaim(&ReclaimRequest::new(1 << 20).from_sources(Source::ZSWAP), &cancel)?;
    assert!(done.bytes >= 1 << 20 && memcg.stat()?.events(Event::ZswpWbProactiveBytes) == done.bytes);
    show("1M source=zswap: to the swapfile");
    cancel.cancel();
    let error = memcg.reclaim(&"1M".parse()?, &cancel).expect_err("it was cancelled before it began");
    assert!(matches!(error, memcg::Error::Interrupted { reclaimed: 0, .. }));
    println!("{error}");
    // The host wants memory back: the coldest 1024 pages of the pool, whosever they are. PressureWatch does it by itself.
    assert!(zswap.relieve(1024) > 0);
    show("relieve(1024)");
    for k in 0..PAGES {
        let mut expected = Page::zeroed();
        write(&mut expected, k);
        guest.with(k, |page| assert!(page[..] == expected[..], "page {k} is not what the guest wrote"))?;
    }
    println!("all {PAGES} pages are what the guest wrote");
    drop(registration);
    Ok(())
}
