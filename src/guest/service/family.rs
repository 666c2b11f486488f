//! [`Family`]: the children of a VM that live, what `mremap` has moved, and the store that their claims are on.
//!
//! ```text
//!   living   [ child | child | child ]      each with copies, each with a claim for each page        stores go through all of them, in this order
//!   relics   [ one, of this process ]       the same                                                 (keeping.rs)
//!   lists    goes up when a list is changed so that one who goes through it may miss something
//! ```

use super::child::{Child, Whose};
use super::list::List;
use crate::guest::pages::Shared;
use crate::guest::pages::ports::Why;
use crate::memcg::Memcg;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Bug, Mutex, Rank};
use crate::units::{NodeId, PAGE_SIZE, Slot};
use crate::zswap::{self, Zswap};

/// What children share.
pub(crate) struct Family {
    pub(super) zswap: Arc<Zswap>,
    /// Who pays for the slots that become theirs.
    pub(super) memcg: Memcg,
    pub(super) living: List<Child>,
    /// What `mremap` moved out of regions: served like a child's copy, in this process.
    pub(super) relics: Mutex<Option<Arc<Child>>>,
    /// How many: mostly none, and that is one load for each store.
    count: AtomicUsize,
    /// Goes up before words come to be in another list, and with each list that becomes shorter: who went through them looks again.
    pub(super) lists: AtomicU64,
}

impl Family {
    /// Without children.
    pub(crate) fn new(zswap: Arc<Zswap>, memcg: Memcg) -> Self {
        Family {
            zswap,
            memcg,
            living: List::new(),
            relics: Mutex::new(Rank::Guest, None),
            count: AtomicUsize::new(0),
            lists: AtomicU64::new(0),
        }
    }

    /// A child, which is found by stores from here on, and not served before it is ready.
    pub(crate) fn adopt(&self, memory: Whose, unborn: &mut Arc<Child>) -> Arc<Child> {
        Arc::get_mut(unborn).expect("nobody else has one that is not born").of(memory);
        let child = Arc::clone(unborn);
        self.note_list();
        self.living.push(Arc::clone(&child));
        self.count.fetch_add(1, Ordering::Release);
        child
    }

    /// Something comes to a list, or goes.
    pub(crate) fn note_list(&self) {
        self.lists.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn zswap(&self) -> &Zswap {
        &self.zswap
    }

    /// A slot of its own for a page that cannot be where it belongs now. No room is waited for: what could leave may not before this is done. So it
    /// is charged as a page in memory, which may pass a limit, and then as what it is compressed.
    ///
    /// # Errors
    /// When the pool is full, or a `memory.zswap.max` is reached.
    pub(crate) fn store_for(&self, payer: &Shared, bytes: &[u8; PAGE_SIZE]) -> Result<Slot, zswap::Error> {
        payer.purse.must_charge(1, Why::Fork);
        // Refused, the charge is dropped.
        self.zswap.swap_out_new(payer.purse.page_charge(), NodeId(0), bytes).map_err(|refused| refused.error)
    }

    /// How many children live.
    pub(crate) fn living(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The child has ended: its references and charges go.
    pub(crate) fn bury(&self, child: &Arc<Child>) {
        for copy in child.copies.snapshot() {
            child.forget(&copy, 0..copy.pages(), &self.zswap);
        }
        // Only now: stores look for references to their slots among the living.
        child.misses.store(false, Ordering::Release);
        child.release_if_complete();
        let others = |other: &Arc<Child>| !Arc::ptr_eq(other, child);
        self.living.retain(others, || {
            if !child.payer.planted.is(Bug::BurialUnnoted) {
                self.note_list();
            }
        });
        self.count.fetch_sub(1, Ordering::Release);
        child.payer.purse.uncharge(child.charged.swap(0, Ordering::Relaxed) as u32);
    }
}
