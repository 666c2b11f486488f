//! A region without a kernel, for the crate's own models, simulations and unit tests; of no use to embedders.
//!
//! The real `Pages` over a `Simulated` backing and a store of tokens, the real `Zswap`, or (`limited`) a whole engine with its limits. A guest access
//! that faults is served as the SIGBUS service would: in the thread, waiting for owners. `changing`: mappings change behind its back, and the
//! service's reader follows; `family`: it has children of fork.

mod changing;
mod family;
unmodelled! {
    mod limited;
}

pub use super::memory::simulated::Paint;
pub use changing::ReadChanges;
pub use family::ModelChild;

use super::memory::backing::{Backing, Staging};
use super::memory::simulated::{Simulated, Trap};
use super::pages::ports::{Effort, Purse, Store, Why};
use super::pages::{Access, Inherited, Pages, Served, Shared, Waiting};
use super::service::family::Family;
use super::service::gate::Gate;
use super::service::gated::Gated;
use super::{Error, FaultAround};
use crate::memcg::{Counter, Memcg, Resident};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, Mutex, Planted, Rank, unmodelled};
use crate::units::{PAGE_SIZE, Slot, SlotRange};
use crate::zswap::{self, LoadedFrom, Stored, Unwritable, Zswap};
use std::collections::BTreeMap;

/// How a model is made.
#[derive(Clone, Copy, Debug)]
pub struct ModelOptions {
    /// Pages of the region.
    pub pages: u32,
    /// Whether staged pages lie in place.
    pub in_place: bool,
    /// Bytes of copies that are kept.
    pub kept_bytes: u64,
    /// Neighbours that come along: 0 is none.
    pub around: u32,
    /// Tokens from this one on do not shrink, and are refused; 0: none.
    pub stiff_from: u64,
    /// The bug planted.
    pub planted: Planted,
}

/// A region without a kernel.
pub struct Model {
    pages: Arc<Pages>,
    backing: Simulated,
    charged: Charged,
    tokens: Option<Arc<Tokens>>,
    gate: Arc<Gate>,
    /// Its children, where it may have any.
    family: Option<Arc<Family>>,
    /// Dropped with the model.
    _kept: Option<Box<dyn Send + Sync>>,
}

enum Charged {
    Alone(Arc<Coins>),
    Memcg(Memcg),
    #[allow(dead_code, reason = "loom's models have no engine")]
    /// To a memcg that others are charged to as well: who knows them all compares.
    Shared,
}

/// Pages charged, and no limit.
#[derive(Default)]
struct Coins(AtomicU32);

impl Purse for Arc<Coins> {
    fn charge(&self, pages: u32, _why: Why) -> bool {
        self.0.fetch_add(pages, Ordering::Relaxed);
        true
    }
    fn try_charge(&self, pages: u32) -> bool {
        self.charge(pages, Why::Call)
    }
    fn uncharge(&self, pages: u32) {
        let before = self.0.fetch_sub(pages, Ordering::Relaxed);
        assert!(before >= pages, "{pages} pages are uncharged of {before}");
    }
    fn page_charge(&self) -> Resident {
        unreachable!("the store of tokens takes the charge as it is")
    }
}

/// A memcg without limits.
struct Wallet(Memcg);

impl Purse for Wallet {
    fn charge(&self, pages: u32, _why: Why) -> bool {
        self.0.charge_resident(u64::from(pages) * PAGE_SIZE as u64).expect("there is no limit").forget();
        true
    }
    fn try_charge(&self, pages: u32) -> bool {
        self.charge(pages, Why::Call)
    }
    fn uncharge(&self, pages: u32) {
        let objcg = self.0.objcg().expect("the memcg is online");
        drop(Resident::from_prepaid(objcg, u64::from(pages) * PAGE_SIZE as u64));
    }
    fn page_charge(&self) -> Resident {
        Resident::from_prepaid(self.0.objcg().expect("the memcg is online"), PAGE_SIZE as u64)
    }
}

/// A store that keeps a token for each slot.
struct Tokens {
    slots: Mutex<BTreeMap<u64, u64>>,
    /// Slots that cannot be read.
    lost: Mutex<Vec<u64>>,
    /// So many stores more, and the next one panics.
    panics_after: AtomicU32,
    /// Tokens from this one on do not shrink; 0: all do.
    stiff_from: u64,
}

impl Store for Arc<Tokens> {
    fn put_away(
        &self,
        slot: Slot,
        purse: &dyn Purse,
        page: &[u8; PAGE_SIZE],
        _effort: Effort,
    ) -> Result<Stored, zswap::Error> {
        let token = u64::from_ne_bytes(*page.first_chunk().expect("a page has eight bytes"));
        if self.panics_after.load(Ordering::Relaxed) != u32::MAX
            && self.panics_after.fetch_sub(1, Ordering::Relaxed) == 0
        {
            self.panics_after.store(u32::MAX, Ordering::Relaxed);
            purse.uncharge(1); // as a charge that is dropped
            panic!("a test has the codec panic");
        }
        if self.stiff_from > 0 && token >= self.stiff_from {
            return Err(zswap::Error::Incompressible { slot, reason: Unwritable::NoDevice });
        }
        let before = self.slots.lock().insert(slot.0, token);
        assert_eq!(before, None, "slot {} was stored to while it held a page", slot.0);
        purse.uncharge(1);
        Ok(Stored::Compressed { payload_bytes: 1000, slot_bytes: 1024 })
    }
    fn read(&self, slot: Slot, page: &mut [u8; PAGE_SIZE], _wait: bool) -> Result<LoadedFrom, zswap::Error> {
        let token = self.slots.lock().get(&slot.0).copied();
        let token = token.unwrap_or_else(|| panic!("slot {} is read and holds nothing", slot.0));
        if self.lost.lock().contains(&slot.0) {
            return Err(zswap::Error::Corrupt { slot });
        }
        page[..8].copy_from_slice(&token.to_ne_bytes());
        Ok(LoadedFrom::Pool { bytes: 1000 })
    }
    fn give_back(&self, slot: Slot) {
        self.slots.lock().remove(&slot.0);
    }
    fn holds(&self, slot: Slot) -> bool {
        self.slots.lock().contains_key(&slot.0)
    }
}

impl ModelOptions {
    fn staging(&self) -> Staging {
        if self.in_place { Staging::InPlace } else { Staging::Apart }
    }

    fn fault_around(&self) -> FaultAround {
        if self.around == 0 { FaultAround::Off } else { FaultAround::Pages(self.around) }
    }
}

impl Model {
    /// A region over a store of tokens.
    pub fn new(options: ModelOptions) -> Model {
        Self::of_tokens(options, false)
    }

    /// The same behind a gate, and traced: mappings may change behind its back.
    pub fn gated(options: ModelOptions) -> Model {
        Self::of_tokens(options, true)
    }

    fn of_tokens(options: ModelOptions, gated: bool) -> Model {
        let coins = Arc::new(Coins::default());
        let tokens = Arc::new(Tokens {
            slots: Mutex::new(Rank::Leaf, BTreeMap::new()),
            lost: Mutex::new(Rank::Leaf, Vec::new()),
            panics_after: AtomicU32::new(u32::MAX),
            stiff_from: options.stiff_from,
        });
        let slots = SlotRange::new(Slot(0), options.pages.into());
        let (pages, backing, gate) = Self::make(options, tokens.clone(), coins.clone(), slots, gated);
        Model { pages, backing, charged: Charged::Alone(coins), tokens: Some(tokens), gate, family: None, _kept: None }
    }

    /// A region over a real store, charged to `memcg`.
    pub fn over(options: ModelOptions, zswap: Arc<Zswap>, memcg: &Memcg) -> Model {
        let slots = zswap.reserve(options.pages.into()).expect("there are slots");
        let (pages, backing, gate) = Self::make(options, zswap, Wallet(memcg.clone()), slots, false);
        Model { pages, backing, charged: Charged::Memcg(memcg.clone()), tokens: None, gate, family: None, _kept: None }
    }

    fn make(
        options: ModelOptions,
        store: impl Store + 'static,
        purse: impl Purse + 'static,
        slots: SlotRange,
        gated: bool,
    ) -> (Arc<Pages>, Simulated, Arc<Gate>) {
        let around = options.fault_around();
        let shared =
            Shared::new(Box::new(store), Box::new(purse), Box::new(()), options.kept_bytes, around, options.planted)
                .expect("there are addresses");
        let backing = Simulated::new(options.pages, options.staging());
        let (pages, gate) = Self::assemble(options, Arc::new(shared), &backing, slots, gated);
        (pages, backing, gate)
    }

    fn assemble(
        options: ModelOptions,
        shared: Arc<Shared>,
        backing: &Simulated,
        slots: SlotRange,
        gated: bool,
    ) -> (Arc<Pages>, Arc<Gate>) {
        let gate = Arc::new(Gate::with_planted(options.planted));
        let behind: Box<dyn Backing> = match gated {
            true => Box::new(Gated::new(Box::new(backing.clone()), gate.clone(), 0)),
            false => Box::new(backing.clone()),
        };
        let mut pages = Pages::new(shared, behind, slots, 0).expect("there are addresses");
        if gated {
            pages = pages.traced(true, None).expect("there are addresses");
        }
        let pages = Arc::new(pages);
        pages.register().expect("nobody refuses");
        pages.shared().regions.add(pages.clone());
        (pages, gate)
    }

    /// The guest reads a page: what it holds, or `None` where it is poisoned.
    pub fn read(&self, page: u32) -> Option<u64> {
        loop {
            match self.backing.read(page) {
                Ok(token) => return Some(token),
                Err(trap) => self.serve(page, trap, Access::Read)?,
            }
        }
    }

    /// The guest writes a page. `None` where it is poisoned.
    pub fn write(&self, page: u32, token: u64) -> Option<()> {
        loop {
            match self.backing.write(page, token) {
                Ok(()) => return Some(()),
                Err(trap) => self.serve(page, trap, Access::Write)?,
            }
        }
    }

    fn serve(&self, page: u32, trap: Trap, access: Access) -> Option<()> {
        let access = if trap == Trap::Protected { Access::Protect } else { access };
        if trap == Trap::Poisoned {
            return None;
        }
        match self.pages.fault(page, access, Waiting::Wait) {
            Served::Installed(_) => Some(()),
            Served::Again => {
                crate::sync::thread::yield_now();
                Some(())
            }
            Served::Poisoned => None,
            other => panic!("a fault of page {page} came to {other:?}"),
        }
    }

    /// The guest writes a page; its faults are served by another thread, which leaves them to the page's owner where there is one. `None`
    /// where it is poisoned.
    pub fn write_and_be_served(&self, page: u32, token: u64) -> Option<()> {
        loop {
            let access = match self.backing.write(page, token) {
                Ok(()) => return Some(()),
                Err(Trap::Poisoned) => return None,
                Err(Trap::Protected) => Access::Protect,
                Err(Trap::Missing) => Access::Write,
            };
            if self.backing.enqueue(page, true) {
                // The thread sleeps from here on; this is the one that serves it.
                loop {
                    match self.pages.fault(page, access, Waiting::Leave) {
                        Served::Installed(_) | Served::Left | Served::Poisoned => break,
                        Served::Again => crate::sync::thread::yield_now(),
                        other => panic!("a fault of page {page} came to {other:?}"),
                    }
                }
                while self.backing.is_waited_for(page) {
                    crate::sync::thread::yield_now();
                }
            }
        }
    }

    /// Take pages out. How many are staged, and how many had vanished.
    pub fn stage(&self, first: u32, pages: u32) -> (u32, u32) {
        let staged = self.pages.stage(first, pages);
        (staged.pages, staged.vanished)
    }

    /// Compress up to so many staged pages. How many are stored.
    pub fn compress(&self, pages: u32) -> u32 {
        self.pages.shared().compress_staged_with(pages, Effort::Full).pages
    }

    /// Throw pages away.
    ///
    /// # Errors
    /// When one is pinned.
    pub fn discard(&self, first: u32, pages: u32) -> Result<u64, Error> {
        self.pages.discard(first..first + pages)
    }

    /// The program has emptied a page of the guest range, and we are told.
    pub fn removed(&self, page: u32) {
        self.backing.vanish(page);
        while self.pages.removed(page..page + 1).is_some() {
            crate::sync::thread::yield_now();
        }
    }

    /// A child of fork takes what it has of a page: a copy, or what is in its slot.
    pub fn inherit(&self, page: u32) -> Option<u64> {
        let mut token = None;
        while !self.pages.inherit(page, &mut |what| {
            token = match what {
                Inherited::Bytes(bytes) => {
                    Some(u64::from_ne_bytes(*bytes.first_chunk().expect("a page has eight bytes")))
                }
                Inherited::Slot(slot) => {
                    self.tokens.as_ref().and_then(|tokens| tokens.slots.lock().get(&slot.0).copied())
                }
                Inherited::Poisoned => None,
            };
            true
        }) {
            crate::sync::thread::yield_now();
        }
        token
    }

    /// The guest has written a page before the region was registered, and nobody has [found](Self::find_present) it yet.
    pub fn occupy(&self, page: u32, token: u64) {
        self.backing.occupy(page, token);
    }

    /// The region is new: nobody knows it yet but who serves faults.
    pub fn anew(&self) {
        self.pages.close();
        self.backing.set_unknown();
    }

    /// It is registered.
    pub fn register(&self) {
        self.pages.register().expect("nobody refuses");
    }

    /// Serve the fault of a page that was missing when the region was another.
    pub fn late_fault(&self, page: u32) {
        self.serve(page, Trap::Missing, Access::Read).expect("it is not poisoned");
    }

    /// Find and charge what the guest had before the region was registered. How many pages.
    pub fn find_present(&self) -> u64 {
        self.pages.find_present().expect("it is told what is there")
    }

    /// Somebody throws a page away without telling.
    pub fn vanish(&self, page: u32) {
        self.backing.vanish(page);
    }

    /// The kernel pins a page, or lets it go.
    pub fn set_busy(&self, page: u32, busy: bool) {
        self.backing.set_pinned(page, busy);
    }

    /// From this page on, so many requests to put pages back, or to drop their frames, find the address space changing.
    pub fn set_refused(&self, page: u32, times: u32) {
        self.backing.set_refused(page, times);
    }

    /// So many installations find the address space changing.
    pub fn set_again(&self, times: u32) {
        self.backing.set_again(times);
    }

    /// Slots of pages that cannot be read, from now on.
    pub fn set_lost(&self, pages: Vec<u64>) {
        *self.tokens.as_ref().expect("only tokens get lost").lost.lock() = pages;
    }

    /// So many stores from now on succeed, and the next one panics.
    pub fn set_panic(&self, after: u32) {
        self.tokens.as_ref().expect("only tokens panic").panics_after.store(after, Ordering::Relaxed);
    }

    /// Bring pages in and pin them.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn pin(&self, first: u32, pages: u32) -> Result<(), Error> {
        self.pages.pin(first..first + pages)
    }

    /// The end of a pin.
    pub fn unpin(&self, first: u32, pages: u32) {
        self.pages.unpin(first..first + pages);
    }

    /// Bring pages in.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn make_resident(&self, first: u32, pages: u32) -> Result<(), Error> {
        self.pages.make_resident(first..first + pages)
    }

    /// Bring pages in as far as there is room.
    pub fn prefetch(&self, first: u32, pages: u32) -> u64 {
        self.pages.prefetch(first..first + pages).pages
    }

    /// Bring everything in and give the range back; the pages must be settled afterwards, when nobody is at them.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn unregister(&self) -> Result<(), Error> {
        self.pages.bring_everything().inspect_err(|_| self.pages.reopen())?;
        self.backing.release().expect("it cannot fail");
        Ok(())
    }

    /// Nobody is at the pages of a region that was unregistered: nothing is charged for it any more.
    pub fn settle(&self) {
        self.pages.settle();
        self.pages.shared().regions.remove(self.pages.id());
        assert_eq!(self.charged_bytes().unwrap_or(0), 0, "nothing is charged any more");
    }

    /// Pages in memory that were found not to shrink.
    pub fn stiff(&self) -> u64 {
        self.pages.assert_valid().stiff
    }

    /// Pages whose copies are kept.
    pub fn kept(&self) -> u64 {
        self.pages.assert_valid().kept
    }

    fn charged_bytes(&self) -> Option<u64> {
        match &self.charged {
            Charged::Alone(coins) => Some(u64::from(coins.0.load(Ordering::Relaxed)) * PAGE_SIZE as u64),
            Charged::Memcg(memcg) => Some(memcg.current(Counter::Memory) - memcg.current(Counter::Zswap)),
            Charged::Shared => None,
        }
    }

    /// Everything is where it says, and charged; while nobody is at it. Pages by where they are: resident, staged, stored.
    ///
    /// # Panics
    /// When something is not as it must be.
    pub fn check(&self) -> (u64, u64, u64) {
        let sums = self.pages.assert_valid();
        if let Some(charged) = self.charged_bytes() {
            assert_eq!(charged, (sums.resident + sums.staged) * PAGE_SIZE as u64, "what is charged: {sums:?}");
        }
        (sums.resident, sums.staged, sums.stored)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.pages.shared().regions.remove(self.pages.id()); // they have each other
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
