//! [`Client`]: the memory of one memcg, whose cold pages leave for zswap. A VM monitor in small.
//!
//! ```text
//!   with(page) --- resident? -------------------------------------------------------> f(page), under the page's lock
//!                     | no                                                              ^
//!                     +--> charge_resident (may reclaim) --> take_with(slot), or zeroes +
//!
//!   memory.max, memory.high, memory.reclaim --> reclaim --> clock hand: touched since it came by? then later
//!                                                             else swap_out(slot, charge, page)
//! ```
//!
//! Invariants:
//! - **C1** A page is in one place: zeroes that were never written, resident with its charge in hand, or in its slot.
//! - **C2** Nobody charges with a page's lock in hand: the charge may reclaim, on this very thread and from this very client.
//! - **C3** Reclaim never waits for a page: one that is locked is in use, and so no candidate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use zspool::memcg::{Ask, End, Memcg, Reclaimed, Reclaimer, Registration, Resident, ResidentError, Source};
use zspool::units::{NodeId, PAGE_SIZE, Page, Slot, SlotRange};
use zspool::zswap::{self, Installed, Stored, Taken, Zswap};

/// Evictions in a row that may bring nothing (refused, or as large as before) until reclaim says so: the kernel's number.
const MAX_FAILURES: usize = 16;

/// Pages `0..len` of a memcg, zero until written. Dropped, all of them are given back.
pub struct Client {
    // Dropped first: from then on nobody reclaims from the memory.
    _registration: Registration,
    memory: Arc<Memory>,
}

/// Why a page cannot be had. What it held is kept.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is no room for it: what the kernel would kill a process for.
    #[error(transparent)]
    Charge(#[from] ResidentError),
    /// It cannot be read back.
    #[error(transparent)]
    Load(#[from] zswap::Error),
}

struct Memory {
    zswap: Arc<Zswap>,
    memcg: Memcg,
    node: NodeId,
    slots: SlotRange,
    pages: Box<[Mutex<State>]>,
    /// Of the clock, modulo the number of pages.
    hand: AtomicUsize,
}

enum State {
    Zero,
    Resident(Held),
    Stored,
}

struct Held {
    page: Box<Page>,
    charge: Resident,
    touched: bool,
}

// === impl Client ===

impl Client {
    /// Memory of `pages` pages for `memcg`, and none of them resident.
    ///
    /// # Errors
    /// When there are no slots for so many.
    pub fn new(zswap: &Arc<Zswap>, memcg: &Memcg, pages: usize) -> Result<Client, zswap::Error> {
        let memory = Arc::new(Memory {
            zswap: Arc::clone(zswap),
            memcg: memcg.clone(),
            node: NodeId(0),
            slots: zswap.reserve(pages as u64)?,
            pages: (0..pages).map(|_| Mutex::new(State::Zero)).collect(),
            hand: AtomicUsize::new(0),
        });
        let registration = zswap.tree().register(Box::new(Evict(Arc::clone(&memory))));
        Ok(Client { _registration: registration, memory })
    }

    /// How many pages it has.
    pub fn len(&self) -> usize {
        self.memory.pages.len()
    }

    /// How many are resident.
    pub fn resident(&self) -> usize {
        (0..self.len()).filter(|&k| matches!(*self.memory.lock(k), State::Resident(_))).count()
    }

    /// Do something with page `k`, which is brought in if it is not resident.
    ///
    /// # Errors
    /// [`Fault`]; the page is where it was.
    pub fn with<R>(&self, k: usize, f: impl FnOnce(&mut Page) -> R) -> Result<R, Fault> {
        let mut charge = None;
        loop {
            let mut state = self.memory.lock(k);
            if let State::Resident(held) = &mut *state {
                held.touched = true;
                return Ok(f(&mut held.page));
            }
            match charge.take() {
                Some(charge) => self.memory.bring_in(k, &mut state, charge)?,
                None => {
                    drop(state); // C2
                    charge = Some(self.memory.memcg.charge_resident(PAGE_SIZE as u64)?);
                }
            }
        }
    }

    /// Have page `k` resident.
    pub fn touch(&self, k: usize) -> Result<(), Fault> {
        self.with(k, |_| ())
    }

    /// Write the page.
    pub fn write(&self, k: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Fault> {
        self.with(k, |page| page.copy_from_slice(bytes))
    }

    /// A copy of the page.
    pub fn read(&self, k: usize) -> Result<Page, Fault> {
        self.with(k, |page| page.clone())
    }

    /// Evict page `k` now, touched or not. Returns by how many bytes `memory.current` fell.
    pub fn page_out(&self, k: usize) -> Result<u64, zswap::Error> {
        self.memory.evict(k, &mut self.memory.lock(k))
    }
}

// === impl Memory ===

impl Memory {
    fn lock(&self, k: usize) -> MutexGuard<'_, State> {
        self.pages[k].lock().expect("no panic while a page is locked")
    }

    fn slot(&self, k: usize) -> Slot {
        self.slots.get(k as u64).expect("a slot for each page")
    }

    fn bring_in(&self, k: usize, state: &mut State, charge: Resident) -> Result<(), zswap::Error> {
        let mut page = Box::new(Page::zeroed());
        if let State::Stored = state {
            let taken = self.zswap.take_with(self.slot(k), |stored| {
                page.copy_from_slice(stored);
                Installed::Yes
            })?;
            if taken == Taken::Changed {
                // It was written to a device meanwhile, or moved. Nobody else stores to our slots: it is the same page.
                self.zswap.free(self.slot(k));
            }
        }
        *state = State::Resident(Held { page, charge, touched: true });
        Ok(())
    }

    /// Put a page in its slot, if it is resident.
    fn evict(&self, k: usize, state: &mut State) -> Result<u64, zswap::Error> {
        match std::mem::replace(state, State::Stored) {
            State::Resident(Held { page, charge, touched }) => {
                self.zswap.swap_out(self.slot(k), charge, self.node, &page).map(freed).map_err(|refused| {
                    *state = State::Resident(Held { page, charge: refused.resident, touched });
                    refused.error
                })
            }
            absent => {
                *state = absent;
                Ok(0)
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for k in 0..self.pages.len() {
            if let State::Stored = *self.lock(k) {
                self.zswap.free(self.slot(k));
            }
        }
    }
}

/// By how much `memory.current` falls when a resident page becomes this.
fn freed(stored: Stored) -> u64 {
    (PAGE_SIZE - stored.slot_bytes()) as u64
}

/// Whether `memcg` is `top` or below it.
fn is_within(memcg: &Memcg, top: &Memcg) -> bool {
    std::iter::successors(Some(memcg.clone()), Memcg::parent).any(|at| at == *top)
}

struct Evict(Arc<Memory>);

impl Reclaimer for Evict {
    fn source(&self) -> Source {
        Source::ANON
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        let memory = &*self.0;
        let mut reclaimed = Reclaimed { bytes: 0, end: End::NothingToScan };
        if ask.age.is_some() || memory.memcg.is_online() && !is_within(&memory.memcg, memcg) {
            return reclaimed; // how long ago a page was touched is not known here
        }
        let mut failures = 0;
        // Twice round: the first time may do no more than take the marks away.
        for _ in 0..2 * memory.pages.len() {
            if reclaimed.bytes >= ask.bytes || ask.cancel.is_cancelled() || failures == MAX_FAILURES {
                break;
            }
            let k = memory.hand.fetch_add(1, Ordering::Relaxed) % memory.pages.len();
            let Ok(mut state) = memory.pages[k].try_lock() else {
                if reclaimed.end == End::NothingToScan {
                    reclaimed.end = End::Busy;
                }
                continue;
            };
            let State::Resident(held) = &mut *state else { continue };
            // Of a memcg that was removed the pages are its parent's.
            if !is_within(&held.charge.memcg(), memcg) {
                continue;
            }
            reclaimed.end = End::Exhausted;
            if !std::mem::take(&mut held.touched) {
                let bytes = memory.evict(k, &mut state).unwrap_or(0);
                reclaimed.bytes += bytes;
                failures = if bytes > 0 { 0 } else { failures + 1 };
            }
        }
        if reclaimed.bytes >= ask.bytes {
            reclaimed.end = End::Met;
        } else if ask.cancel.is_cancelled() {
            reclaimed.end = End::Cancelled;
        }
        reclaimed
    }
}
