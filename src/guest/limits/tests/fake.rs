//! VMs in small for unit tests: regions of words that move without a kernel, charged through real accounts.

use crate::guest::limits::account::{Account, CameFrom, Charged};
use crate::guest::limits::evictable::{Clocked, Counts, Evictable};
use crate::guest::limits::limits::{Limits, LimitsConfig, Membership};
use crate::guest::limits::policy::{Look, Policy};
use crate::guest::pages::outcomes::{Compressed, Staged};
use crate::guest::pages::ports::Why;
use crate::memcg::{Bytes4, Memcg, ObjcgId, Tree};
use crate::sync::{Arc, Clock};
use crate::units::NodeId;
use std::collections::VecDeque;
use std::sync::Mutex;

/// What a page takes compressed.
pub(super) const SLOT: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Nowhere,
    Place,
    Staged,
    Stored(ObjcgId),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) at: At,
    pub(super) look: Look,
    pinned: bool,
}

struct State {
    pages: Vec<Page>,
    queue: VecDeque<usize>,
}

/// A VM of regions with so many pages each.
pub(super) struct FakeVm {
    pub(super) account: Account,
    regions: Vec<u32>,
    state: Mutex<State>,
    /// The store is full.
    pub(super) full: std::sync::atomic::AtomicBool,
}

struct FakeRegion<'a> {
    vm: &'a FakeVm,
    first: usize,
    pages: u32,
}

pub(super) fn limits(tree: &Tree, policy: impl Policy + 'static, staged_ahead: u32) -> Arc<Limits> {
    let policy = Box::new(policy);
    let config =
        LimitsConfig { policy, on_overshoot: None, staged_ahead, clock: Clock::settable(), prepare: Box::new(|_| ()) };
    Arc::new(Limits::new(tree.clone(), config))
}

impl FakeVm {
    pub(super) fn join(limits: &Arc<Limits>, memcg: &Memcg, regions: &[u32]) -> (Arc<Self>, Membership) {
        let pages = regions.iter().sum::<u32>() as usize;
        let page = Page { at: At::Nowhere, look: Look::default(), pinned: false };
        let vm = Arc::new(FakeVm {
            account: Account::new(memcg, Arc::clone(limits)).unwrap(),
            regions: regions.to_vec(),
            state: Mutex::new(State { pages: vec![page; pages], queue: VecDeque::new() }),
            full: false.into(),
        });
        let membership = limits.join(Arc::clone(&vm) as Arc<dyn Evictable>);
        (vm, membership)
    }

    pub(super) fn page(&self, page: usize) -> Page {
        self.state.lock().unwrap().pages[page]
    }

    pub(super) fn pin(&self, page: usize, pinned: bool) {
        self.state.lock().unwrap().pages[page].pinned = pinned;
    }

    /// A guest's access. What it was: a fault or not; `None` where it was poisoned.
    pub(super) fn touch(&self, page: usize) -> Option<bool> {
        let at = self.page(page).at;
        let resident = self.counts().resident;
        let mut treatment = None;
        match at {
            At::Place => return Some(false),
            At::Staged => {
                treatment = Some(self.account.came_back(CameFrom::Staged, self.page(page).look.stamp, resident))
            }
            At::Nowhere | At::Stored(_) => {
                if self.account.charge(1, Why::Fault) == Charged::Poison {
                    return None;
                }
                if let At::Stored(objcg) = at {
                    let stamp = self.page(page).look.stamp;
                    treatment = Some(self.account.came_back(CameFrom::Stored, stamp, resident));
                    self.account.charged().expect("it is online").tree().leave(objcg, NodeId(0), bytes(), SLOT);
                }
            }
        }
        let mut state = self.state.lock().unwrap();
        let treatment = treatment.unwrap_or_default();
        let look =
            Look { takeable: true, referenced: treatment.referenced, ban: treatment.ban, stamp: self.account.stamp() };
        state.queue.retain(|&staged| staged != page);
        state.pages[page] = Page { at: At::Place, look, ..state.pages[page] };
        Some(true)
    }
}

fn bytes() -> Bytes4 {
    Bytes4 { compressed: SLOT, original: 4096, payload: SLOT - 24, incompressible: 0 }
}

impl Evictable for FakeVm {
    fn account(&self) -> &Account {
        &self.account
    }

    fn counts(&self) -> Counts {
        let state = self.state.lock().unwrap();
        let count = |at: fn(&Page) -> bool| state.pages.iter().filter(|page| at(page)).count() as u64;
        Counts {
            resident: count(|page| matches!(page.at, At::Place | At::Staged)),
            staged: count(|page| page.at == At::Staged),
            pinned: count(|page| page.at == At::Place && page.pinned),
        }
    }

    fn regions(&self, from: u32, each: &mut dyn FnMut(u32, &dyn Clocked) -> bool) {
        let mut first = 0;
        for (number, &pages) in self.regions.iter().enumerate() {
            if number >= from as usize && !each(number as u32, &FakeRegion { vm: self, first, pages }) {
                return;
            }
            first += pages as usize;
        }
    }

    fn compress_staged(&self, pages: u32, _ahead: bool) -> Compressed {
        let mut state = self.state.lock().unwrap();
        let mut compressed = Compressed::default();
        for _ in 0..pages {
            let Some(&page) = state.queue.front() else { break };
            if self.full.load(std::sync::atomic::Ordering::Relaxed) {
                compressed.refused += 1;
                break;
            }
            state.queue.pop_front();
            let memcg = &self.account.charged().expect("it is online");
            let objcg = memcg.tree().enter_prepaid(memcg, NodeId(0), bytes(), None, 4096).unwrap();
            state.pages[page].at = At::Stored(objcg);
            compressed.pages += 1;
            compressed.won += 4096 - SLOT;
        }
        compressed
    }
}

impl FakeRegion<'_> {
    fn with<R>(&self, page: u32, f: impl FnOnce(&mut Page) -> R) -> R {
        assert!(page < self.pages);
        f(&mut self.vm.state.lock().unwrap().pages[self.first + page as usize])
    }
}

impl Clocked for FakeRegion<'_> {
    fn pages(&self) -> u32 {
        self.pages
    }

    fn look(&self, page: u32) -> Look {
        self.with(page, |page| Look { takeable: page.at == At::Place && !page.pinned, ..page.look })
    }

    fn spend_chance(&self, page: u32) {
        self.with(page, |page| page.look.referenced = false);
    }

    fn give_chance(&self, page: u32) {
        self.with(page, |page| page.look.referenced |= page.at == At::Place);
    }

    fn spend_ban(&self, page: u32) {
        self.with(page, |page| page.look.ban = page.look.ban.saturating_sub(1));
    }

    fn restamp(&self, page: u32, from: u8, to: u8) {
        self.with(page, |page| {
            if page.look.stamp == from {
                page.look.stamp = to;
            }
        });
    }

    fn stage(&self, first: u32, pages: u32) -> Staged {
        let resident = self.vm.counts().resident;
        let mut staged = Staged::default();
        for page in first..first + pages {
            let stamp = self.vm.account.stamp();
            let taken = self.with(page, |page| {
                let goes = page.at == At::Place && !page.pinned;
                if goes {
                    page.at = At::Staged;
                    page.look.stamp = stamp;
                }
                goes
            });
            if taken {
                self.vm.state.lock().unwrap().queue.push_back(self.first + page as usize);
                staged.pages += 1;
            }
        }
        self.vm.account.went(staged.pages, resident);
        staged
    }
}
